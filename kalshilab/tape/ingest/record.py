"""Record public prints from a live feed into a lake.

While it runs, prints go to a recording under the lake's `incoming` folder, synced at each flush, so that a
kill costs at most the last `flush_seconds`.  Recordings are committed into the lake when a UTC day of exchange
time is over, when the recorder stops, and when the next one starts.  What was not heard, because nobody was
connected, is in no claim: it shows among the lake's gaps, and a download fills it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from kalshilab.clock import Clock
from kalshilab.errors import ConfigError, LakeError
from kalshilab.market.model import Trade
from kalshilab.tape.ingest.recording import BREAK, Harvest, Item, Recording, harvest
from kalshilab.tape.ingest.segments import in_thread

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["PrintFeed", "RecordProgress", "Recorded", "record"]

LEAST_FLUSH: Final = 0.01


class PrintFeed(Protocol):
    """What is heard; `kalshilab.kalshi.stream.feeds.TradeFeed` fits.

    `breaks` are places in the sequence of prints, counted from 0, before which some may be missing (0 for the
    first connection); `tickers` the markets listened to, empty for all.
    """

    @property
    def tickers(self) -> tuple[str, ...]: ...
    @property
    def breaks(self) -> tuple[int, ...]: ...
    def __aiter__(self) -> AsyncIterator[Trade]: ...


class RecordProgress(msgspec.Struct, frozen=True):
    """How a recording goes: prints on disk, how often prints may have been missed, the newest print's exchange
    time (microseconds, 0 before the first), and why a commit waits for the next one, or "".
    """

    prints: int
    breaks: int
    last_ts: int
    postponed: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """What a recorder did: `prints` heard; `added` new in the lake and `duplicates` it had, those of earlier
    recordings that were left by a kill included; `torn` lines such a kill cut off; `breaks` interruptions.
    """

    prints: int
    added: int
    duplicates: int
    torn: int
    breaks: int
    seconds: float


async def record(
    feed: PrintFeed,
    lake: Lake,
    *,
    clock: Clock,
    stop: asyncio.Event,
    flush_seconds: float = 1.0,
    on_progress: Callable[[RecordProgress], None] | None = None,
) -> Recorded:
    """Record what a feed brings until `stop` is set, the feed ends or this is cancelled; then commit it.

    Args:
        feed: open, and read by nobody else.
        clock: machine time between flushes.
        flush_seconds: between two flushes; what a kill may cost.
        on_progress: called after each flush.

    Raises:
        ConfigError: flushes less than a hundredth of a second apart.
        FeedLost, ProtocolError: what the feed ends with; all it brought is committed first.
        LakeError: the lake cannot be written at the end, or the disk is full; what was recorded stays and is
            committed by the next recorder.
    """
    if not flush_seconds >= LEAST_FLUSH:
        raise ConfigError("flush_seconds", flush_seconds, f"at least {LEAST_FLUSH}", "argument")
    recorder = _Recorder(feed, lake, clock, on_progress)
    await recorder.commit_or_postpone()
    reader = asyncio.create_task(recorder.read(), name="recorder")
    try:
        while not stop.is_set() and not reader.done():
            await _first(stop, reader, clock, flush_seconds)
            await recorder.flush()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await recorder.finish()
    if not reader.cancelled():
        # The feed has ended, by itself or with an error.
        reader.result()
    return recorder.summary()


async def _first(stop: asyncio.Event, reader: asyncio.Task[None], clock: Clock, seconds: float) -> None:
    """Return at a stop, at the end of the feed, or when `seconds` have passed."""
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(clock.sleep(seconds))]
    try:
        await asyncio.wait([reader, *waits], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


class _Recorder:
    def __init__(
        self,
        feed: PrintFeed,
        lake: Lake,
        clock: Clock,
        on_progress: Callable[[RecordProgress], None] | None,
    ) -> None:
        self._feed, self._lake, self._clock, self._on_progress = feed, lake, clock, on_progress
        self._began = clock.monotonic()
        self._recording = Recording(lake.path / "incoming", whole=not feed.tickers, number=clock.now())
        self._buffer: list[Item] = []
        self._prints = self._breaks = self._last = 0
        self._harvest = Harvest()
        self._postponed = ""
        self._committing: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Take prints from the feed into the buffer."""
        seen = passed = 0
        async for trade in self._feed:
            breaks = self._feed.breaks
            broken = False
            while passed < len(breaks) and breaks[passed] <= seen:
                broken = broken or breaks[passed] > 0
                passed += 1
            if broken:
                self._breaks += 1
                self._buffer.append(BREAK)
            seen += 1
            self._buffer.append(trade)

    async def flush(self) -> None:
        """Put the buffer on disk; a day that is over is committed beside."""
        items, self._buffer = self._buffer, []
        try:
            finished = bool(items) and await in_thread(self._recording.write, items)
        except OSError as error:
            reason = f"a recording cannot be written: {error}"
            raise LakeError(self._lake.path, self._lake.path / "incoming", reason) from error
        if finished:
            self._committing = asyncio.create_task(self._commit_beside(self._committing))
        prints = [i for i in items if not isinstance(i, str)]
        self._prints += len(prints)
        self._last = max([self._last, *(t.ts for t in prints)])
        if self._on_progress is not None:
            self._on_progress(RecordProgress(self._prints, self._breaks, self._last, self._postponed))

    async def _commit_beside(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        await self.commit_or_postpone()

    async def commit_or_postpone(self) -> None:
        """Commit, or say why not: a download may be writing, and hearing goes before filing.

        The recordings stay on disk, and the commit at the end meets the error if it is still there.
        """
        try:
            await self.commit()
            self._postponed = ""
        except LakeError as error:
            self._postponed = str(error)

    async def commit(self) -> None:
        """Commit all recordings that are finished."""
        done = await in_thread(harvest, self._lake)
        had = self._harvest
        self._harvest = Harvest(
            had.added + done.added, had.duplicates + done.duplicates, had.torn + done.torn
        )

    async def finish(self) -> None:
        """Put everything on disk and commit it."""
        await self.flush()
        if self._committing is not None:
            await self._committing
        self._recording.close()
        await self.commit()

    def summary(self) -> Recorded:
        done = self._harvest
        return Recorded(
            prints=self._prints,
            added=done.added,
            duplicates=done.duplicates,
            torn=done.torn,
            breaks=self._breaks,
            seconds=self._clock.monotonic() - self._began,
        )
