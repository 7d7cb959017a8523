"""A recorder on a feed of a few lines: every print is on disk soon, in the lake once, and claims never say too much."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import polars as pl
import pytest

from kalshilab.clock import WallClock
from kalshilab.errors import ConfigError, FeedLost, LakeError
from kalshilab.market.model import Trade
from kalshilab.tape.ingest.record import Recorded, RecordProgress, record
from kalshilab.tape.ingest.recording import DAY, MARGIN
from kalshilab.tape.lake.lake import Lake

T0 = 20_000 * DAY
SECOND = 1_000_000
CLOCK = WallClock()


def prints(count: int, start: int = T0, step: int = SECOND, name: str = "t") -> list[Trade]:
    return [
        Trade(start + n * step, "AB"[n % 2], 100 * (n % 99 + 1), n + 1, ("yes", "no")[n % 2], f"{name}{n}")
        for n in range(count)
    ]


class Feed:
    """Brings `trades`, then waits for ever or raises; a None among them is a lost connection."""

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
        self.pause: dict[int, Callable[[], object]] = {}

    async def __aiter__(self) -> AsyncIterator[Trade]:
        for n, trade in enumerate(self._trades):
            if n in self.pause:
                # Let what came so far reach the disk first.
                await asyncio.sleep(0.08)
                self.pause[n]()
            yield trade
        self.served.set()
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()


async def run(
    feed: Feed, lake: Lake, *, flush: float = 0.02, on_progress: Callable[[RecordProgress], None] | None = None
) -> Recorded:  # fmt: skip
    stop = asyncio.Event()
    task = asyncio.create_task(record(feed, lake, clock=CLOCK, stop=stop, flush_seconds=flush, on_progress=on_progress))  # fmt: skip
    served = asyncio.create_task(feed.served.wait())
    await asyncio.wait([task, served], return_when=asyncio.FIRST_COMPLETED)
    served.cancel()
    await asyncio.sleep(flush * 2)
    stop.set()
    return await asyncio.wait_for(task, 20)


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


async def test_all_that_is_heard_is_in_the_lake(lake: Lake) -> None:
    heard = prints(100)
    seen: list[RecordProgress] = []
    done = await run(Feed(list(heard)), lake, on_progress=seen.append)
    assert rows(lake) == heard
    assert (done.prints, done.added, done.duplicates, done.torn, done.breaks) == (100, 100, 0, 0, 0)
    assert lake.covered == ((heard[0].ts + MARGIN, heard[-1].ts - MARGIN),)
    assert left(lake) == [] and seen[-1].last_ts == heard[-1].ts and seen[-1].prints == 100


async def test_a_break_is_a_hole_in_what_is_covered(lake: Lake) -> None:
    one, two = prints(50), prints(50, T0 + 200 * SECOND, name="u")
    done = await run(Feed([*one, None, *two]), lake)
    assert rows(lake) == one + two and done.breaks == 1
    assert lake.covered == (
        (one[0].ts + MARGIN, one[-1].ts - MARGIN),
        (two[0].ts + MARGIN, two[-1].ts - MARGIN),
    )


async def test_runs_too_short_to_claim_anything(lake: Lake) -> None:
    heard = prints(9, step=SECOND // 2)
    await run(Feed([*heard[:3], None, heard[3], None, None, *heard[4:]]), lake)
    assert rows(lake) == heard
    assert lake.covered == ()


async def test_prints_that_come_again_after_a_break_come_once(lake: Lake) -> None:
    heard = prints(60)
    done = await run(Feed([*heard[:40], None, *heard[30:]]), lake)
    assert rows(lake) == heard and done.added == 60 and done.prints == 70


async def test_some_markets_claim_nothing(lake: Lake) -> None:
    heard = prints(30)
    await run(Feed(list(heard), tickers=("A", "B")), lake)
    assert rows(lake) == heard and lake.covered == ()


async def test_a_day_is_committed_when_it_is_over_and_midnight_is_no_hole(lake: Lake) -> None:
    heard = prints(120, T0 + DAY - 60 * SECOND)
    feed = Feed(list(heard))
    rows_then: list[int] = []

    def look(_: RecordProgress) -> None:
        rows_then.append(Lake.open(lake.path).rows)

    feed.pause = {n: lambda: None for n in (30, 62, 90, 110)}
    await run(feed, lake, on_progress=look)
    assert rows(lake) == heard
    assert 60 in rows_then, "the first day was in the lake while the second was heard"
    assert lake.covered == ((heard[0].ts + MARGIN, heard[-1].ts - MARGIN),)


async def test_a_straggler_of_yesterday_is_kept(lake: Lake) -> None:
    heard = prints(120, T0 + DAY - 60 * SECOND)
    late = Trade(T0 + DAY - 1, "A", 5000, 100, "yes", "late")
    await run(Feed([*heard[:62], late, *heard[62:]]), lake)
    assert set(rows(lake)) == {*heard, late}
    assert sorted(p.ts for p in rows(lake)) == [p.ts for p in rows(lake)]


async def test_what_a_feed_ends_with_is_raised_after_all_is_committed(lake: Lake) -> None:
    heard = prints(40)
    with pytest.raises(FeedLost):
        await run(Feed(list(heard), error=FeedLost("ws://x", 3, "gone")), lake)
    assert rows(lake) == heard and left(lake) == []


async def test_a_cancelled_recorder_commits(lake: Lake) -> None:
    heard = prints(40)
    feed = Feed(list(heard))
    task = asyncio.create_task(record(feed, lake, clock=CLOCK, stop=asyncio.Event(), flush_seconds=5))
    await feed.served.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rows(lake) == heard and left(lake) == []


# What a kill leaves


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, list[Trade]]:
    """The recording as it is on disk while a recorder runs."""
    heard = prints(25)
    copy = tmp_path / "copy"

    async def half() -> None:
        lake = Lake.create(tmp_path / "first")
        feed = Feed([*heard[:15], None, *heard[15:]])

        def keep(progress: RecordProgress) -> None:
            if progress.prints == 25 and not copy.exists():
                shutil.copy(left(lake)[0], copy)

        await run(feed, lake, on_progress=keep)

    asyncio.run(half())
    return copy, heard


def test_a_recording_cut_anywhere_gives_what_was_written(tmp_path: Path, killed: tuple[Path, list[Trade]]) -> None:  # fmt: skip
    whole, heard = killed
    data = whole.read_bytes()
    cuts = {0, 1, len(data), len(data) - 1, *range(0, len(data), 211)}
    for n, cut in enumerate(sorted(cuts)):
        lake = Lake.create(tmp_path / f"lake{n}")
        (lake.path / "incoming").mkdir(exist_ok=True)
        (lake.path / "incoming" / "recording-5.jsonl").write_bytes(data[:cut])
        done = asyncio.run(run(Feed([]), lake))
        lines = data[:cut].count(b"\n")
        count = max(lines - 1 - (lines > 16), 0)
        assert rows(lake) == heard[:count], cut
        assert done.torn == (not data[:cut].endswith(b"\n") and cut > 0)
        assert all(b <= heard[count - 1].ts - MARGIN for _, b in lake.covered)
        assert left(lake) == []


def test_the_next_recorder_commits_what_a_killed_one_left(lake: Lake, killed: tuple[Path, list[Trade]]) -> None:  # fmt: skip
    whole, heard = killed
    (lake.path / "incoming").mkdir(exist_ok=True)
    shutil.copy(whole, lake.path / "incoming" / "recording-5.jsonl")
    more = prints(20, T0 + 100 * SECOND, name="u")
    done = asyncio.run(run(Feed([*heard[-3:], *more]), lake))
    assert rows(lake) == heard + more
    assert (done.prints, done.added) == (23, 45)


def test_a_line_amid_a_recording_that_cannot_be_read(lake: Lake, killed: tuple[Path, list[Trade]]) -> None:
    lines = killed[0].read_bytes().splitlines(keepends=True)
    (lake.path / "incoming").mkdir(exist_ok=True)
    path = lake.path / "incoming" / "recording-5.jsonl"
    path.write_bytes(b"".join([*lines[:4], b'{"ts": nonsense}\n', *lines[4:]]))
    with pytest.raises(LakeError, match="line 5"):
        asyncio.run(run(Feed([]), lake))
    assert path.exists() and lake.rows == 0


def test_a_recording_somebody_writes_to_is_left_alone(lake: Lake, killed: tuple[Path, list[Trade]]) -> None:
    (lake.path / "incoming").mkdir(exist_ok=True)
    path = lake.path / "incoming" / "recording-5.jsonl"
    shutil.copy(killed[0], path)
    with path.open("rb") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)
        asyncio.run(run(Feed([]), lake))
    assert path.exists() and lake.rows == 0


# Trouble


async def test_a_full_disk_ends_it_with_what_could_be_written(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = prints(40)
    feed = Feed(list(heard))
    real = os.fsync

    def fill() -> None:
        def full(descriptor: int) -> None:
            monkeypatch.setattr(os, "fsync", real)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)

    feed.pause = {30: fill}
    with pytest.raises(LakeError, match="No space left"):
        await run(feed, lake)
    assert rows(lake) == heard[:30], "whole up to what was synced"
    assert lake.covered == ((heard[0].ts + MARGIN, heard[29].ts - MARGIN),)


async def test_a_commit_that_fails_at_midnight_does_not_stop_the_hearing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = prints(120, T0 + DAY - 60 * SECOND)
    feed = Feed(list(heard))
    real, seen = Lake.commit, list[str]()

    def locked(self: Lake, *args: object, **kwargs: object) -> None:
        raise LakeError(self.path, None, "somebody else writes to it")

    def fail() -> None:
        monkeypatch.setattr(Lake, "commit", locked)

    def heal() -> None:
        monkeypatch.setattr(Lake, "commit", real)

    feed.pause = {50: fail, 80: lambda: None, 100: heal}
    await run(feed, lake, on_progress=lambda p: seen.append(p.postponed))
    assert any("somebody else" in s for s in seen)
    assert rows(lake) == heard and left(lake) == []
    assert lake.covered == ((heard[0].ts + MARGIN, heard[-1].ts - MARGIN),)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
async def test_flushes_must_be_apart(lake: Lake, seconds: float) -> None:
    with pytest.raises(ConfigError, match="flush_seconds"):
        await record(Feed([]), lake, clock=CLOCK, stop=asyncio.Event(), flush_seconds=seconds)
