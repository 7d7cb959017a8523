"""Feeds of one channel each: `async with TradeFeed(settings) as feed: async for trade in feed: …`.

A feed is a `Stream` with one subscription and a bounded queue.  A reader that falls behind by more than the queue
holds gets an error, never a tape with holes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import ClassVar, Generic, Self, TypeVar, cast

import msgspec

from kalshilab.clock import Clock
from kalshilab.errors import FeedLost, ProtocolError, StreamError
from kalshilab.kalshi.stream.client import Connected, Stream, StreamSettings
from kalshilab.kalshi.stream.events import (
    BookDelta,
    BookSnapshot,
    EventLifecycle,
    FeedGap,
    Lifecycle,
    PositionUpdate,
    Rejected,
    Subscribed,
    Ticker,
)
from kalshilab.market.model import Fill, Order, Trade

__all__ = [
    "BookFeed", "FeedStats", "FillFeed", "LifecycleFeed", "OrderFeed", "PositionFeed", "TickerFeed", "TradeFeed",
]  # fmt: skip

T = TypeVar("T")


class FeedStats(msgspec.Struct, frozen=True):
    """Counts of a feed.

    `last_frame` is machine time in microseconds, 0 before the first frame.  `undirected` counts trades without a taker,
    which a feed drops.
    """

    events: int
    frames: int
    reconnects: int
    gaps: int
    last_frame: int
    undirected: int = 0


class Feed(Generic[T]):
    """Base of the feeds.

    Args:
        settings: host and key.
        tickers: only these markets, where the channel can be filtered.
        clock: machine time; another clock for tests.
        capacity: events queued for a reader that is behind; one more is an error.
    """

    channel: ClassVar[str]
    events: ClassVar[tuple[type, ...]]

    def __init__(
        self,
        settings: StreamSettings,
        tickers: Iterable[str] = (),
        *,
        clock: Clock | None = None,
        capacity: int = 100_000,
    ) -> None:
        self._stream = Stream.of(settings, clock=clock)
        self.tickers: tuple[str, ...] = tuple(tickers)
        """The subscribed markets; empty for all."""
        if self.tickers:
            self._stream.add_markets(self.channel, self.tickers)
        else:
            self._stream.subscribe(self.channel)
        self._queue: asyncio.Queue[T | StreamError] = asyncio.Queue(capacity)
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: StreamError | None = None
        self._seen = self._gaps = self._connects = 0
        self._breaks: list[int] = []

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=f"{self.channel} feed")
        waiter = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._task, waiter}, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if self._error is not None:
            raise self._error
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            await self._stream.run(self._on_event)
        except StreamError as error:
            self._error = error
        finally:
            # Wake a waiting reader: no more events will be queued.
            if not self._queue.full():
                self._queue.put_nowait(self._error or FeedLost(repr(self._stream), 0, "feed closed"))

    def _on_event(self, event: object) -> None:
        if isinstance(event, self.events):
            if self._queue.full():
                raise ProtocolError(
                    f"the reader of {self.channel} is {self._queue.maxsize} events behind; read faster, or raise capacity"
                )
            self._seen += 1
            self._queue.put_nowait(cast(T, event))
        elif isinstance(event, FeedGap):
            self._gaps += 1
            self._breaks.append(self._seen)
        elif isinstance(event, Subscribed):
            self._ready.set()
        elif isinstance(event, Connected):
            self._connects += 1
            self._breaks.append(self._seen)
        elif isinstance(event, Rejected):
            raise ProtocolError(f"{self.channel}: {event.message} (code {event.code})")

    async def __aiter__(self) -> AsyncIterator[T]:
        """Yield events in order until the feed is closed.

        Raises:
            FeedLost: the feed gave up reconnecting.
            ProtocolError: the exchange's frames cannot be parsed, or the reader is too far behind.
        """
        while True:
            if self._error is not None and self._queue.empty():
                raise self._error
            item = await self._queue.get()
            if isinstance(item, StreamError):
                raise item
            yield item

    @property
    def breaks(self) -> tuple[int, ...]:
        """Positions in the sequence of events, from 0, before which events may be missing.

        There is one for each connection (0 for the first) and one for each gap in the exchange's sequence numbers.  With
        (0, 7), the first seven events are complete among themselves, and so are the events after them.
        """
        return tuple(self._breaks)

    @property
    def stats(self) -> FeedStats:
        """Counts so far."""
        return FeedStats(
            self._seen,
            self._stream.frames_received,
            max(self._connects - 1, 0),
            self._gaps,
            self._stream.last_frame,
            self._stream.undirected,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._stream!r})"


class TradeFeed(Feed[Trade]):
    """Public trades of all markets, or of `tickers`."""

    channel = "trade"
    events = (Trade,)


class LifecycleFeed(Feed[Lifecycle | EventLifecycle]):
    """Creation, changes, determination and settlement of markets, and new events."""

    channel = "market_lifecycle_v2"
    events = (Lifecycle, EventLifecycle)


class BookFeed(Feed[BookSnapshot | BookDelta]):
    """Order books of `tickers`: a snapshot of each, then its changes."""

    channel = "orderbook_delta"
    events = (BookSnapshot, BookDelta)


class TickerFeed(Feed[Ticker]):
    """Top of the book and totals."""

    channel = "ticker"
    events = (Ticker,)


class FillFeed(Feed[Fill]):
    """Fills of the account's orders."""

    channel = "fill"
    events = (Fill,)


class OrderFeed(Feed[Order]):
    """Changes of the account's orders."""

    channel = "user_orders"
    events = (Order,)


class PositionFeed(Feed[PositionUpdate]):
    """Changes of the account's positions."""

    channel = "market_positions"
    events = (PositionUpdate,)
