"""Settings, a fake order client and journals for the session's parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.trade.orders.journal import Journal


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Embedded, everything at its default, runs below the test's own folder."""
    return Settings(env={}, env_file=None, out=str(tmp_path / "runs"), categories=("all",))


@pytest.fixture
def clock() -> SimClock:
    return SimClock(1_000_000)


@pytest.fixture
def journal(tmp_path: Path, clock: SimClock):
    with Journal.create(tmp_path / "journal.sqlite", clock, SimClock(5)) as opened:
        yield opened
