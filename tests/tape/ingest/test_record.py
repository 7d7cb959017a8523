"""A recorder writes every print to disk and commits it once, and covers no time in which prints may be missing.

The clock is simulated: a test advances it until the recorder has reached the state that the test needs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import polars as pl
import pytest

from kalshilab.clock import SimClock
from kalshilab.errors import ConfigError, FeedLost, LakeError
from kalshilab.fs import lock
from kalshilab.market.model import Trade
from kalshilab.tape.ingest.record import Recorded, RecordProgress, record
from kalshilab.tape.ingest.recording import MARGIN_US
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.schema import DAY_US, SECOND_US

T0 = 20_000 * DAY_US
FLUSH_S = 0.5
DEADLINE_S = 60.0


def prints(count: int, start: int = T0, step: int = SECOND_US, name: str = "t") -> list[Trade]:
    return [
        Trade(start + n * step, "AB"[n % 2], 100 * (n % 99 + 1), n + 1, ("yes", "no")[n % 2], f"{name}{n}")
        for n in range(count)
    ]


class Feed:
    """A feed that delivers `trades`, then waits for ever or raises; None stands for a lost connection.

    Before it delivers the print number `n`, it awaits `before[n]()`.
    """

    def __init__(self, trades: list[Trade | None], *, tickers: tuple[str, ...] = (), error: Exception | None = None) -> None:  # fmt: skip
        self.tickers, self._error = tickers, error
        self._trades: list[Trade] = []
        self.breaks: tuple[int, ...] = (0,)
        for trade in trades:
            if trade is None:
                self.breaks += (len(self._trades),)
            else:
                self._trades.append(trade)
        self.served = asyncio.Event()
        self.before: dict[int, Callable[[], Awaitable[None]]] = {}

    async def __aiter__(self) -> AsyncIterator[Trade]:
        for n, trade in enumerate(self._trades):
            if n in self.before:
                await self.before[n]()
            yield trade
        self.served.set()
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()


class Recorder:
    """A recorder of `feed`, its progress, and the clock that drives its flushes."""

    def __init__(self, feed: Feed, lake: Lake) -> None:
        self.feed, self.lake = feed, lake
        self.clock = SimClock(T0)
        self.progress: list[RecordProgress] = []
        self.on_progress: Callable[[RecordProgress], None] = lambda progress: None

    def _note(self, progress: RecordProgress) -> None:
        self.progress.append(progress)
        self.on_progress(progress)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Advance the clock from flush to flush until a condition holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self.clock.advance(self.clock.now() + round(FLUSH_S * SECOND_US))
                # The recorder writes in another thread: let it finish.
                await asyncio.sleep(0.001)

    async def flushed(self, count: int) -> None:
        """Wait until the first `count` prints are on disk."""
        await self.until(lambda: bool(self.progress) and self.progress[-1].prints == count)

    async def run(self) -> Recorded:
        """Record the whole feed, then stop."""
        stop = asyncio.Event()
        task = asyncio.create_task(
            record(self.feed, self.lake, clock=self.clock, stop=stop, flush_s=FLUSH_S, on_progress=self._note)
        )
        served = asyncio.create_task(self.feed.served.wait())
        await asyncio.wait([task, served], return_when=asyncio.FIRST_COMPLETED, timeout=DEADLINE_S)
        served.cancel()
        stop.set()
        return await asyncio.wait_for(task, DEADLINE_S)


async def run(feed: Feed, lake: Lake) -> Recorded:
    return await Recorder(feed, lake).run()


def rows(lake: Lake) -> list[Trade]:
    frame = lake.read().select(
        pl.col("ts").dt.epoch("us"),
        pl.col("ticker").cast(pl.String),
        "price",
        "size",
        pl.col("taker").cast(pl.String),
        "trade_id",
    )
    return [Trade(*row) for row in frame.rows()]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake")


def left(lake: Lake) -> list[Path]:
    return sorted(p for p in (lake.path / "incoming").iterdir() if not p.name.startswith("."))


async def test_every_print_received_is_in_the_lake(lake: Lake) -> None:
    received = prints(100)
    recorder = Recorder(Feed(list(received)), lake)
    done = await recorder.run()
    assert rows(lake) == received
    assert (done.prints, done.added, done.duplicates, done.torn, done.breaks) == (100, 100, 0, 0, 0)
    assert lake.covered == ((received[0].ts + MARGIN_US, received[-1].ts - MARGIN_US),)
    last = recorder.progress[-1]
    assert left(lake) == [] and last.last_ts == received[-1].ts and last.prints == 100


async def test_a_break_is_not_covered(lake: Lake) -> None:
    one, two = prints(50), prints(50, T0 + 200 * SECOND_US, name="u")
    done = await run(Feed([*one, None, *two]), lake)
    assert rows(lake) == one + two and done.breaks == 1
    assert lake.covered == (
        (one[0].ts + MARGIN_US, one[-1].ts - MARGIN_US),
        (two[0].ts + MARGIN_US, two[-1].ts - MARGIN_US),
    )


async def test_short_runs_cover_nothing(lake: Lake) -> None:
    received = prints(9, step=SECOND_US // 2)
    await run(Feed([*received[:3], None, received[3], None, None, *received[4:]]), lake)
    assert rows(lake) == received
    assert lake.covered == ()


async def test_prints_repeated_after_a_break_are_recorded_once(lake: Lake) -> None:
    received = prints(60)
    done = await run(Feed([*received[:40], None, *received[30:]]), lake)
    assert rows(lake) == received and done.added == 60 and done.prints == 70


async def test_a_feed_of_some_markets_covers_nothing(lake: Lake) -> None:
    received = prints(30)
    await run(Feed(list(received), tickers=("A", "B")), lake)
    assert rows(lake) == received and lake.covered == ()


async def test_a_day_is_committed_when_it_ends_and_midnight_is_covered(lake: Lake) -> None:
    received = prints(120, T0 + DAY_US - 60 * SECOND_US)
    feed = Feed(list(received))
    recorder = Recorder(feed, lake)

    async def first_day_committed() -> None:
        await recorder.until(lambda: Lake.open(lake.path).rows == 60)

    feed.before = {
        30: lambda: recorder.flushed(30),
        62: first_day_committed,
        90: lambda: recorder.flushed(90),
    }
    await recorder.run()
    assert rows(lake) == received
    assert lake.covered == ((received[0].ts + MARGIN_US, received[-1].ts - MARGIN_US),)


async def test_a_late_print_of_the_previous_day_is_kept(lake: Lake) -> None:
    received = prints(120, T0 + DAY_US - 60 * SECOND_US)
    late = Trade(T0 + DAY_US - 1, "A", 5000, 100, "yes", "late")
    await run(Feed([*received[:62], late, *received[62:]]), lake)
    assert set(rows(lake)) == {*received, late}
    assert sorted(p.ts for p in rows(lake)) == [p.ts for p in rows(lake)]


async def test_the_error_of_a_feed_is_raised_after_the_commit(lake: Lake) -> None:
    received = prints(40)
    with pytest.raises(FeedLost):
        await run(Feed(list(received), error=FeedLost("ws://x", 3, "gone")), lake)
    assert rows(lake) == received and left(lake) == []


async def test_a_cancelled_recorder_commits(lake: Lake) -> None:
    received = prints(40)
    feed = Feed(list(received))
    task = asyncio.create_task(record(feed, lake, clock=SimClock(T0), stop=asyncio.Event(), flush_s=5))
    await feed.served.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rows(lake) == received and left(lake) == []


# After a kill


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, list[Trade]]:
    """Return a copy of the recording as it is on disk while a recorder runs, and its prints."""
    received = prints(25)
    copy = tmp_path / "copy"

    lake = Lake.create(tmp_path / "first")
    recorder = Recorder(Feed([*received[:15], None, *received[15:]]), lake)

    def copy_recording(progress: RecordProgress) -> None:
        if progress.prints == 25 and not copy.exists():
            shutil.copy(left(lake)[0], copy)

    recorder.on_progress = copy_recording
    asyncio.run(recorder.run())
    return copy, received


def test_a_recording_truncated_anywhere_gives_its_complete_lines(tmp_path: Path, killed: tuple[Path, list[Trade]]) -> None:  # fmt: skip
    whole, received = killed
    data = whole.read_bytes()
    cuts = {0, 1, len(data), len(data) - 1, *range(0, len(data), 211)}
    for n, cut in enumerate(sorted(cuts)):
        lake = Lake.create(tmp_path / f"lake{n}")
        (lake.path / "incoming").mkdir(exist_ok=True)
        (lake.path / "incoming" / "recording-5.jsonl").write_bytes(data[:cut])
        done = asyncio.run(run(Feed([]), lake))
        lines = data[:cut].count(b"\n")
        count = max(lines - 1 - (lines > 16), 0)
        assert rows(lake) == received[:count], cut
        assert done.torn == (not data[:cut].endswith(b"\n") and cut > 0)
        assert all(b <= received[count - 1].ts - MARGIN_US for _, b in lake.covered)
        assert left(lake) == []


def test_the_next_recorder_commits_the_recording_of_a_killed_one(lake: Lake, killed: tuple[Path, list[Trade]]) -> None:  # fmt: skip
    whole, received = killed
    (lake.path / "incoming").mkdir(exist_ok=True)
    shutil.copy(whole, lake.path / "incoming" / "recording-5.jsonl")
    more = prints(20, T0 + 100 * SECOND_US, name="u")
    done = asyncio.run(run(Feed([*received[-3:], *more]), lake))
    assert rows(lake) == received + more
    assert (done.prints, done.added) == (23, 45)


def test_an_unreadable_line_inside_a_recording_raises(lake: Lake, killed: tuple[Path, list[Trade]]) -> None:
    lines = killed[0].read_bytes().splitlines(keepends=True)
    (lake.path / "incoming").mkdir(exist_ok=True)
    path = lake.path / "incoming" / "recording-5.jsonl"
    path.write_bytes(b"".join([*lines[:4], b'{"ts": nonsense}\n', *lines[4:]]))
    with pytest.raises(LakeError, match="line 5"):
        asyncio.run(run(Feed([]), lake))
    assert path.exists() and lake.rows == 0


def test_a_locked_recording_is_skipped(lake: Lake, killed: tuple[Path, list[Trade]]) -> None:
    (lake.path / "incoming").mkdir(exist_ok=True)
    path = lake.path / "incoming" / "recording-5.jsonl"
    shutil.copy(killed[0], path)
    with path.open("rb") as busy:
        lock(busy)
        asyncio.run(run(Feed([]), lake))
    assert path.exists() and lake.rows == 0


# Faults


async def test_a_full_disk_ends_the_recording_after_the_synced_prints(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = prints(40)
    feed = Feed(list(received))
    recorder = Recorder(feed, lake)
    real = os.fsync

    def full(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", real)
        raise OSError(28, "No space left on device")

    async def fill_disk() -> None:
        await recorder.flushed(30)
        monkeypatch.setattr(os, "fsync", full)

    feed.before = {30: fill_disk}
    with pytest.raises(LakeError, match="No space left"):
        await recorder.run()
    assert rows(lake) == received[:30]
    assert lake.covered == ((received[0].ts + MARGIN_US, received[29].ts - MARGIN_US),)


async def test_a_failed_commit_at_midnight_does_not_stop_the_recording(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = prints(120, T0 + DAY_US - 60 * SECOND_US)
    feed = Feed(list(received))
    recorder = Recorder(feed, lake)
    real = Lake.commit

    def locked(self: Lake, *args: object, **kwargs: object) -> None:
        raise LakeError(self.path, None, "another process writes to it")

    async def make_commits_fail() -> None:
        await recorder.flushed(50)
        monkeypatch.setattr(Lake, "commit", locked)

    async def commit_postponed() -> None:
        await recorder.until(lambda: "another process" in recorder.progress[-1].postponed)
        monkeypatch.setattr(Lake, "commit", real)

    feed.before = {50: make_commits_fail, 80: commit_postponed, 100: lambda: recorder.flushed(100)}
    await recorder.run()
    assert rows(lake) == received and left(lake) == []
    assert lake.covered == ((received[0].ts + MARGIN_US, received[-1].ts - MARGIN_US),)


@pytest.mark.parametrize("flush_s", [0.0, -1.0, float("nan")])
async def test_flushes_must_be_a_hundredth_of_a_second_apart(lake: Lake, flush_s: float) -> None:
    with pytest.raises(ConfigError, match="flush_s"):
        await record(Feed([]), lake, clock=SimClock(T0), stop=asyncio.Event(), flush_s=flush_s)


async def test_the_old_name_of_flush_s_warns(lake: Lake) -> None:
    with (
        pytest.warns(DeprecationWarning, match="'flush_seconds' is now 'flush_s'"),
        pytest.raises(ConfigError, match="flush_s must be at least"),
    ):
        await record(Feed([]), lake, clock=SimClock(T0), stop=asyncio.Event(), flush_seconds=0)
