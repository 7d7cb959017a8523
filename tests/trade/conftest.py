"""Settings, clocks and journals for the parts of a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.trade.orders.journal import Journal


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Return default settings of the embedded venue, with run folders below the test's folder."""
    return Settings(env={}, env_file=None, out=str(tmp_path / "runs"), categories=("all",))


@pytest.fixture
def clock() -> SimClock:
    """Return a simulated clock that starts at one second."""
    return SimClock(1_000_000)


@pytest.fixture
def journal(tmp_path: Path, clock: SimClock) -> Iterator[Journal]:
    """Open a new journal."""
    with Journal.create(tmp_path / "journal.sqlite", clock, SimClock(5)) as opened:
        yield opened
