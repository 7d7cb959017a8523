"""Feed of the shadow venue: a real exchange, read only, mirrored into the local exchange.

The feed of one host is pushed into a `Mirror`: each selected market with its fees, its prints, its book level by level
and its lifecycle.  The session trades on the local exchange that plays the mirror.  Its orders therefore meet the real
book but never reach the real exchange: this module cannot write.

Unknown data is never invented.  After a gap in the feed's sequence numbers or a lost connection, the affected books are
blind until their snapshots arrive: no size is displayed, no order can take, and resting orders keep their place and fill
if the new book has moved through them.  Prints lost with the connection stay lost, and the signal does not count them;
the console reports the gap.

Exchange time is that of the feed's messages.  While the feed is silent, time passes as on this machine, so that orders
expire.  Markets also open and close by that time, because the feed sends no message for either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import msgspec

from kalshilab.clock import Clock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import (
    BookError,
    ExchangeError,
    KalshilabError,
    SessionError,
)
from kalshilab.exchange import Mirror
from kalshilab.kalshi import hosts
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.stream.client import Connected, Disconnected, Stream
from kalshilab.kalshi.stream.events import (
    BookDelta,
    BookSnapshot,
    EventLifecycle,
    FeedGap,
    Lifecycle,
    Rejected,
    Subscribed,
)
from kalshilab.market.book import Book
from kalshilab.market.model import Market, Trade
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.markets.tracker import Tracked, Tracker
from kalshilab.trade.tasks import Tasks, first_of

__all__ = ["ShadowFeed"]

CHANNELS: Final = ("trade", "market_lifecycle_v2")
"""Channels for all markets; order books are subscribed market by market."""
PART: Final = "shadow feed"
TICK_S: Final = 1.0
"""Wall seconds between two time updates."""
CONFIRMED_WITHIN_S: Final = 30.0
"""Wall seconds within which the subscription must be confirmed."""
FIRST_MESSAGE_WITHIN_S: Final = 5.0
"""Wall seconds to wait for a message with the feed's time before machine time is used."""
BACKLOG: Final = 1_000_000
"""Maximum number of steps that wait for the session."""


class ShadowFeed:
    """A mirror of a real feed.

        async with ShadowFeed(settings, health) as feed:
            exchange = Exchange(flow=feed.mirror)
            async with serve(exchange, more=feed.more):
                ...

    Entering returns once the open markets are in the mirror.

    Args:
        settings: the host (default: production) and a key for its feed; `categories`, `tickers` and `max_markets`
            select the markets.
        health: receives gaps and lost connections, as part "shadow feed".
        wall: machine time.

    Raises:
        HostRefused, CredentialsMissing, KeyUnusable: the feed cannot be used with these settings.
        ApiError, ConnectionFailed, FeedLost, SessionError: the host did not answer (on entering).
    """

    def __init__(self, settings: Settings, health: Health, *, wall: Clock | None = None) -> None:
        rest, ws = hosts.defaults("shadow")
        source = settings.replace(rest_url=settings.rest_url or rest, ws_url=settings.ws_url or ws)
        assert source.ws_url is not None
        self._wall, self._health = wall or WallClock(), health
        self._data = MarketData(source)
        self._stream = Stream.of(source, clock=self._wall)
        self._stream.subscribe(*CHANNELS)
        # The session rejects markets that close soon; the mirror keeps them, because a position may be open.
        self._tracker = Tracker(settings.categories, settings.tickers, settings.max_markets)
        self._interval = settings.discovery_interval_s
        self.mirror: Final = Mirror()
        """The flow that an exchange plays."""
        self._books: dict[str, Book] = {}
        self._fees: dict[str, tuple[str, str, float]] = {}
        self._subscribed: set[str] = set()
        self._last, self._received_at = 0, 0.0
        self._first = asyncio.Event()
        self._confirmed = asyncio.Event()
        self._ready = asyncio.Event()
        self._stop = asyncio.Event()
        self._arrived = asyncio.Event()
        self._error: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._handlers: dict[type, Callable[..., None]] = {
            Trade: self._on_trade,
            BookDelta: self._on_delta,
            BookSnapshot: self._on_snapshot,
            Lifecycle: self._on_lifecycle,
            EventLifecycle: lambda e: self.mirror.push_event(e.event, e.series, e.title),
            FeedGap: self._on_gap,
            Connected: lambda e: None,
            Disconnected: self._on_disconnected,
            Subscribed: self._on_subscribed,
            Rejected: lambda e: health.log(f"{PART}: command refused, {e.message} (code {e.code})"),
        }

    # Life

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=PART)
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._ready.is_set():
            await self._end()
            raise self._error or SessionError(f"{PART}: ended before it was ready")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._end()

    async def _end(self) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._data.aclose()

    async def trouble(self) -> None:
        """Wait until the feed fails, and raise its error.

        Raises:
            FeedLost, ProtocolError, SessionError: the error that ended the feed.
        """
        await self._stop.wait()
        if self._error is not None:
            raise self._error

    async def more(self) -> bool:
        """Wait until the mirror has an event to play; an argument of `serve`."""
        if self.mirror.next_ts is None:
            self._arrived.clear()
            await self._arrived.wait()
        return True

    @property
    def busy(self) -> bool:
        """Whether a market is being looked up, so that its prints wait."""
        return bool(self._tasks.working)

    @property
    def frames_received(self) -> int:
        """Number of the feed's frames that are in the mirror."""
        return self._stream.frames_received

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._tasks = Tasks(group, self._on_error)
            self._tasks.background("feed", self._stream.run(self._on_event))
            self._tasks.work("start", self._begin())
            await self._stop.wait()
            await self._tasks.stop_background()

    async def _begin(self) -> None:
        await first_of(self._confirmed.wait(), self._stop.wait(), timeout_s=CONFIRMED_WITHIN_S)
        if self._error is not None:
            return
        if not self._confirmed.is_set():
            raise SessionError(f"{PART}: no subscription was confirmed within {CONFIRMED_WITHIN_S:g} s")
        if not await first_of(self._first.wait(), self._stop.wait(), timeout_s=FIRST_MESSAGE_WITHIN_S):
            self._at(self._wall.now())
        self.mirror.push_time(self.now)
        for series in await self._data.all_series():
            self._fees[series.ticker] = series.category, series.fee_type, series.fee_multiplier
        await self._discover()
        if self._error is None:
            self._ready.set()
            self._tasks.background("time", self._keep_time())
            self._tasks.background("discovery", self._keep_discovering())

    def _on_error(self, name: str, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._health.degraded(PART, f"{name}: {error}")
        self._stop.set()

    # Time

    @property
    def now(self) -> int:
        """The feed's time in microseconds: that of its last message, plus the machine time since then."""
        return self._last + round((self._wall.monotonic() - self._received_at) * 1e6)

    def _at(self, ts: int) -> int:
        """Record and return the time of a message; 0 means unknown."""
        if ts and ts >= self._last:
            self._last, self._received_at = ts, self._wall.monotonic()
            self._first.set()
        return ts

    async def _keep_time(self) -> None:
        while True:
            await self._wall.sleep(TICK_S)
            now = self.now
            for tracked in self._tracker.all("active"):
                market = tracked.market
                assert market is not None
                if 0 < market.open_ts <= now:
                    self._open(market, now)
                if 0 < market.close_ts <= now:
                    self.mirror.push_close(market.ticker, now)
                    self._leave(market.ticker, "closed")
            self.mirror.push_time(now)
            self._arrived.set()

    # The feed

    def _on_event(self, event: object) -> None:
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)
        if self.mirror.next_ts is not None:
            self._arrived.set()
            if self.mirror.waiting > BACKLOG:
                raise SessionError(f"{PART}: the session is {self.mirror.waiting:,} steps behind the feed")

    def _on_subscribed(self, event: Subscribed) -> None:
        self._health.healthy(PART)
        self._subscribed.add(event.channel)
        if self._subscribed.issuperset(CHANNELS):
            self._confirmed.set()

    def _on_trade(self, trade: Trade) -> None:
        self._at(trade.ts)
        tracked = self._tracker.get(trade.ticker)
        if tracked is None:
            return
        if tracked.status == "looking":
            self._tracker.hold(tracked, trade)
        elif tracked.status == "active":
            self._print(tracked, trade)

    def _print(self, tracked: Tracked, trade: Trade) -> None:
        # A market that trades is open, even before its announced time.
        assert tracked.market is not None
        self._open(tracked.market, trade.ts)
        self.mirror.push_trade(trade)

    def _on_snapshot(self, event: BookSnapshot) -> None:
        book = self._books.setdefault(event.ticker, Book())
        try:
            book.load(event.yes, event.no)
        except BookError as error:
            self._drop_book(event.ticker, str(error))
            return
        if self._follows(event.ticker):
            self.mirror.push_snapshot(event.ticker, event.yes, event.no, self.now)

    def _on_delta(self, event: BookDelta) -> None:
        # A second book here ensures that the exchange never receives a negative level.
        book = self._books.get(event.ticker)
        if book is None or not self._follows(event.ticker):
            return
        try:
            book.apply(event.side, event.price, event.delta)
        except BookError as error:
            self._drop_book(event.ticker, str(error))
            return
        self.mirror.push_delta(event.ticker, event.side, event.price, event.delta, self._at(event.ts))

    def _drop_book(self, ticker: str, reason: str) -> None:
        """Drop an inconsistent book and request a snapshot."""
        self._health.log(f"{PART}: {ticker}: book dropped, {reason}")
        self._blind([ticker])
        self._stream.get_snapshot([ticker])

    def _blind(self, tickers: list[str]) -> None:
        for ticker in tickers:
            if self._books.pop(ticker, None) is not None:
                self.mirror.push_blind(ticker, self.now)

    def _on_gap(self, gap: FeedGap) -> None:
        self._health.log(f"{PART}: frames of {gap.channel} lost")
        if gap.channel == "orderbook_delta":
            self._blind(list(gap.tickers))

    def _on_disconnected(self, event: Disconnected) -> None:
        self._health.degraded(PART, event.reason)
        self._subscribed.clear()
        self._blind(list(self._books))

    # Markets

    def _follows(self, ticker: str) -> bool:
        tracked = self._tracker.get(ticker)
        return tracked is not None and tracked.status == "active"

    def _open(self, market: Market, ts: int) -> None:
        """Open a market whose opening time has come; repeated calls have no effect."""
        if market.status == "initialized":
            self._tracker.update(msgspec.structs.replace(market, status="active"))
            self.mirror.push_lifecycle(market.ticker, "activated", ts)

    def _leave(self, ticker: str, status: str) -> None:
        """Unsubscribe the book of a market that has closed."""
        if self._tracker.advance(ticker, status) and self._books.pop(ticker, None) is not None:
            self._stream.delete_markets("orderbook_delta", [ticker])

    def _on_lifecycle(self, event: Lifecycle) -> None:
        kind, ticker = event.kind, event.ticker
        self._at(event.ts)
        if kind == "created":
            if self._tracker.begin(ticker):
                self._tasks.work(f"look up {ticker}", self._look_up(ticker))
            return
        tracked = self._tracker.get(ticker)
        if tracked is None or tracked.market is None or tracked.status == "rejected":
            return
        if kind == "close_date_updated" and event.close_ts:
            self._tracker.update(msgspec.structs.replace(tracked.market, close_ts=event.close_ts))
        elif kind == "activated" and tracked.market.status == "initialized":
            self._tracker.update(msgspec.structs.replace(tracked.market, status="active"))
        self.mirror.push_lifecycle(
            ticker,
            kind,
            event.ts or self.now,
            event=event.event,
            open_ts=event.open_ts,
            close_ts=event.close_ts,
            result=event.result,
            settlement=event.settlement,
        )
        if kind in ("determined", "settled"):
            self._leave(ticker, kind)

    async def _look_up(self, ticker: str) -> None:
        try:
            market = await self._data.market(ticker)
            series, category = await self._data.category(market.event)
        except INCONCLUSIVE_ERRORS as error:
            self._postpone(ticker, error)
            return
        await self._admit(msgspec.structs.replace(market, series=series, category=category))

    def _postpone(self, ticker: str, error: KalshilabError) -> None:
        """Forget a market whose look-up failed, so that the next discovery finds it again."""
        self._health.log(f"{PART}: {ticker} could not be looked up: {error}")
        self._tracker.forget(ticker)

    async def _admit(self, market: Market) -> None:
        """Mirror a market if it is admitted: its facts, the prints that waited, and its book from now on."""
        home = market.series or market.event.partition("-")[0]
        if home not in self._fees:
            try:
                series = await self._data.series(home)
            except INCONCLUSIVE_ERRORS as error:
                self._postpone(market.ticker, error)
                return
            self._fees[home] = series.category, series.fee_type, series.fee_multiplier
        category, fee_type, multiplier = self._fees[home]
        market = msgspec.structs.replace(
            market,
            series=home,
            category=market.category or category,
            fee_type=fee_type,
            fee_multiplier=multiplier,
        )
        if not self._tracker.accept(market, self.now):
            return
        try:
            self.mirror.push_market(market, self.now)
        except ExchangeError as error:
            self._health.log(f"{PART}: {error}")
            self._tracker.reject(market.ticker, "fees without a formula")
            return
        tracked = self._tracker.get(market.ticker)
        assert tracked is not None
        for trade in self._tracker.join(market.ticker):
            self._print(tracked, trade)
        self._stream.add_markets("orderbook_delta", [market.ticker])
        self._arrived.set()

    async def _discover(self) -> None:
        for market in await self._data.open_markets(min_close_ts=self.now):
            if self._tracker.begin(market.ticker):
                await self._admit(market)

    async def _keep_discovering(self) -> None:
        while True:
            await self._wall.sleep(self._interval)
            try:
                await self._discover()
            except INCONCLUSIVE_ERRORS as error:
                self._health.log(f"{PART}: open markets could not be listed: {error}")

    def __repr__(self) -> str:
        return f"ShadowFeed({self._tracker.active} markets, {self.mirror!r})"
