"""Record public prints from a live feed into a lake.

While recording, prints are appended to a recording in the lake's `incoming` folder, which is synced at each flush.  So
a kill costs at most the prints of the last `flush_s` seconds.  Recordings are committed to the lake when a UTC day of
exchange time ends, when the recorder stops, and when the next recorder starts.  Prints missed while disconnected are
not covered: they appear among the lake's gaps, and a download fills them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from kalshilab.clock import Clock
from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ConfigError, LakeError
from kalshilab.market.model import Trade
from kalshilab.tape.ingest.recording import BREAK, CommitCounts, Item, Recording, commit_recordings
from kalshilab.tape.ingest.segments import in_thread

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["PrintFeed", "RecordProgress", "Recorded", "record"]

MIN_FLUSH_S: Final = 0.01


class PrintFeed(Protocol):
    """A live feed of prints, such as `kalshilab.kalshi.stream.feeds.TradeFeed`."""

    @property
    def tickers(self) -> tuple[str, ...]:
        """Markets of the feed; empty for all markets."""
        ...

    @property
    def breaks(self) -> tuple[int, ...]:
        """Positions in the sequence of prints, from 0, before which prints may be missing; 0 for the connection."""
        ...

    def __aiter__(self) -> AsyncIterator[Trade]: ...


class RecordProgress(msgspec.Struct, frozen=True):
    """Progress of a recorder.

    Attributes:
        prints: prints on disk.
        breaks: interruptions at which prints may have been missed.
        last_ts: exchange time of the newest print, microseconds; 0 before the first.
        postponed: the reason why the last commit failed and is postponed; "" if it succeeded.
    """

    prints: int
    breaks: int
    last_ts: int
    postponed: str = ""


class Recorded(msgspec.Struct, frozen=True):
    """Result of a recorder.

    Attributes:
        prints: prints received.
        added: prints that are new in the lake, including those of recordings that a killed recorder left.
        duplicates: prints that the lake had already, likewise.
        torn: incomplete last lines of recordings that a killed recorder left.
        breaks: interruptions at which prints may have been missed.
        seconds: duration of the recording.
    """

    prints: int
    added: int
    duplicates: int
    torn: int
    breaks: int
    seconds: float


@renamed_keywords(flush_seconds="flush_s")
async def record(
    feed: PrintFeed,
    lake: Lake,
    *,
    clock: Clock,
    stop: asyncio.Event,
    flush_s: float = 1.0,
    on_progress: Callable[[RecordProgress], None] | None = None,
) -> Recorded:
    """Record a feed until `stop` is set, the feed ends or the call is cancelled; then commit the prints.

    Args:
        feed: an open feed without other readers.
        lake: the lake.
        clock: the clock for the time between flushes.
        stop: ends the recording.
        flush_s: seconds between two flushes; a kill loses at most the prints of this time.
        on_progress: called after each flush.

    Raises:
        ConfigError: `flush_s` is below 0.01.
        FeedLost, ProtocolError: the feed's final error; prints received before it are committed first.
        LakeError: the lake cannot be written at the end, or the disk is full.  The recordings stay on disk, and the
            next recorder commits them.
    """
    if not flush_s >= MIN_FLUSH_S:
        raise ConfigError("flush_s", flush_s, f"at least {MIN_FLUSH_S}", "argument")
    recorder = _Recorder(feed, lake, clock, on_progress)
    await recorder.commit_or_postpone()
    reader = asyncio.create_task(recorder.read(), name="recorder")
    try:
        while not stop.is_set() and not reader.done():
            await _until_flush(stop, reader, clock, flush_s)
            await recorder.flush()
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
        await recorder.finish()
    if not reader.cancelled():
        # The feed ended; raise its error, if there is one.
        reader.result()
    return recorder.summary()


async def _until_flush(stop: asyncio.Event, reader: asyncio.Task[None], clock: Clock, flush_s: float) -> None:
    """Return when `stop` is set, the feed ends or `flush_s` seconds have passed."""
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(clock.sleep(flush_s))]
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
        self._prints = self._breaks = self._last_ts = 0
        self._committed = CommitCounts()
        self._postponed = ""
        self._committing: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Move prints from the feed to the buffer."""
        received = passed = 0
        async for trade in self._feed:
            breaks = self._feed.breaks
            is_after_break = False
            while passed < len(breaks) and breaks[passed] <= received:
                is_after_break = is_after_break or breaks[passed] > 0
                passed += 1
            if is_after_break:
                self._breaks += 1
                self._buffer.append(BREAK)
            received += 1
            self._buffer.append(trade)

    async def flush(self) -> None:
        """Write the buffer to disk; commit in the background if a day has ended."""
        items, self._buffer = self._buffer, []
        try:
            finished = bool(items) and await in_thread(self._recording.write, items)
        except OSError as error:
            reason = f"a recording cannot be written: {error}"
            raise LakeError(self._lake.path, self._lake.path / "incoming", reason) from error
        if finished:
            self._committing = asyncio.create_task(self._commit_after(self._committing))
        prints = [i for i in items if not isinstance(i, str)]
        self._prints += len(prints)
        self._last_ts = max([self._last_ts, *(t.ts for t in prints)])
        if self._on_progress is not None:
            self._on_progress(RecordProgress(self._prints, self._breaks, self._last_ts, self._postponed))

    async def _commit_after(self, previous: asyncio.Task[None] | None) -> None:
        if previous is not None:
            await previous
        await self.commit_or_postpone()

    async def commit_or_postpone(self) -> None:
        """Commit, or record the reason why that failed: recording must go on while a download writes to the lake.

        The recordings stay on disk.  If the error persists, the final commit raises it.
        """
        try:
            await self.commit()
            self._postponed = ""
        except LakeError as error:
            self._postponed = str(error)

    async def commit(self) -> None:
        """Commit all finished recordings."""
        new, total = await in_thread(commit_recordings, self._lake), self._committed
        self._committed = CommitCounts(
            total.added + new.added, total.duplicates + new.duplicates, total.torn + new.torn
        )

    async def finish(self) -> None:
        """Write everything to disk and commit it."""
        await self.flush()
        if self._committing is not None:
            await self._committing
        self._recording.close()
        await self.commit()

    def summary(self) -> Recorded:
        return Recorded(
            prints=self._prints,
            added=self._committed.added,
            duplicates=self._committed.duplicates,
            torn=self._committed.torn,
            breaks=self._breaks,
            seconds=self._clock.monotonic() - self._began,
        )
