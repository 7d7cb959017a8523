"""A session leaves no task and no socket behind, whichever way it ends.

A stop that looks at a flag which the start sets only at its end leaves open all that a failed start has opened.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from made_tapes import leaning

from kalshilab.config.settings import Settings
from kalshilab.errors import JournalError
from kalshilab.trade.session.session import PaperSession

SOCKETS = Path("/proc/self/fd")
pytestmark = pytest.mark.skipif(not SOCKETS.is_dir(), reason="open files are not listed on this system")
PATIENCE_S = 60


@pytest.fixture
def quick(settings: Settings, tmp_path: Path) -> Settings:
    """Return settings that play a tape of a dozen markets."""
    tape, markets = leaning(12)
    tape.write_parquet(tmp_path / "tape.parquet")
    markets.write_parquet(tmp_path / "markets.parquet")
    return settings.replace(tape=str(tmp_path / "tape.parquet"), markets=str(tmp_path / "markets.parquet"))


def open_files() -> set[str]:
    """Return the sockets and the files below run folders that this process has open."""
    found = set()
    for entry in SOCKETS.iterdir():
        try:
            target = os.readlink(entry)  # noqa: PTH115 - a socket is not a path
        except OSError:
            continue  # the handle of this listing itself
        if target.startswith("socket:") or "/runs/" in target or "journal" in target:
            found.add(target)
    return found


async def assert_closed(before: set[str]) -> None:
    """Wait until no task but this one runs, and nothing is open that was not open before."""
    async with asyncio.timeout(PATIENCE_S):
        while len(asyncio.all_tasks()) > 1 or open_files() - before:
            await asyncio.sleep(0.01)


async def test_a_session_that_ends_leaves_nothing_open(quick: Settings) -> None:
    before = open_files()
    async with PaperSession(quick) as session:
        assert open_files() - before, "the test sees what a session opens"
        await session.run()
    await assert_closed(before)


async def test_a_session_that_is_not_run_leaves_nothing_open(quick: Settings) -> None:
    before = open_files()
    async with PaperSession(quick):
        pass
    await assert_closed(before)


async def test_a_start_that_fails_halfway_leaves_nothing_open(quick: Settings) -> None:
    """The exchange runs already when the journal cannot be created."""
    before = open_files()
    session = PaperSession(quick)
    (session.run_dir / "journal.sqlite").mkdir(parents=True)
    with pytest.raises(JournalError):
        async with session:
            pass
    await assert_closed(before)


async def test_a_run_that_is_cancelled_twice_leaves_nothing_open(quick: Settings) -> None:
    before = open_files()
    with pytest.raises(asyncio.CancelledError):
        async with PaperSession(quick.replace(speed=20_000.0)) as session:
            task = asyncio.ensure_future(session.run())
            while session.snapshot().counts["trades"] < 5:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait_for(task, PATIENCE_S)
    await assert_closed(before)
