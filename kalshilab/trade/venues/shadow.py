"""The shadow venue's ear: what the real exchange says, told to an exchange of our own.

The feed of one host, read only, is pushed into a `Mirror`: each market that is wanted with its fees, its prints,
its book level by level, its life.  The session trades on the exchange that plays the mirror, so its orders
meet the world's book and the world never hears of them: nothing here can write.

What is not known is not made up.  After a gap in the feed's numbers or a lost connection the books concerned are
blind until their snapshots come: nothing is displayed, nothing can be taken, and what rests keeps its place and
is filled if the new book has moved onto it.  Prints that the connection lost stay lost, and are not counted by
the signal; the console says so.

Exchange time is that of the feed's messages.  While it is silent, time passes as on this machine, so that orders
expire; markets open and close by it too, because the feed sends no message of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

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
from kalshilab.trade.health import NO_WORD, Health
from kalshilab.trade.markets.tracker import Tracked, Tracker
from kalshilab.trade.tasks import Tasks, first_of

__all__ = ["ShadowFeed"]

CHANNELS: Final = ("trade", "market_lifecycle_v2")
"""What is listened to for all markets; books join market by market."""
PART: Final = "shadow feed"
TICK: Final = 1.0
"""Wall seconds between two looks at the time."""
CONFIRMED_WITHIN: Final = 30.0
FIRST_WITHIN: Final = 5.0
"""Wall seconds to wait for a message that tells the feed's time, before the machine's is taken."""
BACKLOG: Final = 1_000_000
"""Steps that may wait for the session to play them."""


class ShadowFeed:
    """Keeps a mirror in step with a real feed.

        async with ShadowFeed(settings, health) as feed:
            exchange = Exchange(flow=feed.mirror)
            async with serve(exchange, more=feed.more):
                ...

    Entering returns once the open markets are in the mirror.

    Args:
        settings: the host (production's, where none is named) and a key to listen with; `categories`, `tickers`
            and `max_markets` say what is mirrored.
        health: told of gaps and lost connections, as part "shadow feed".
        wall: machine time.

    Raises:
        HostRefused, CredentialsMissing, KeyUnusable: the host cannot be listened to with these settings.
        ApiError, ConnectionFailed, FeedLost, SessionError: it did not answer (on entering).
    """

    def __init__(self, settings: Settings, health: Health, *, wall: Clock | None = None) -> None:
        rest, ws = hosts.defaults("shadow")
        source = settings.replace(rest_url=settings.rest_url or rest, ws_url=settings.ws_url or ws)
        assert source.ws_url is not None
        self._wall, self._health = wall or WallClock(), health
        self._data = MarketData(source)
        self._stream = Stream.of(source, clock=self._wall)
        self._stream.subscribe(*CHANNELS)
        # What closes soon is the session's to leave out: it may hold it already.
        self._tracker = Tracker(settings.categories, settings.tickers, settings.max_markets)
        self._interval = settings.discovery_interval_s
        self.mirror: Final = Mirror()
        """The flow that an exchange plays."""
        self._books: dict[str, Book] = {}
        self._fees: dict[str, tuple[str, str, float]] = {}
        self._subscribed: set[str] = set()
        self._last, self._heard = 0, 0.0
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
            Rejected: lambda e: health.say(f"{PART}: command refused, {e.message} (code {e.code})"),
        }

    # Life

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name=PART)
        ready = asyncio.create_task(self._ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if not self._ready.is_set():
            await self._end()
            raise self._error or SessionError(f"{PART}: ended before it began")
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
        """Wait until the feed cannot go on, and say why; cancelled otherwise.

        Raises:
            FeedLost, ProtocolError, SessionError: what ended it.
        """
        await self._stop.wait()
        if self._error is not None:
            raise self._error

    async def more(self) -> bool:
        """Wait until the mirror has something to play; for `serve`."""
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
        """Frames of the feed that are in the mirror."""
        return self._stream.frames_received

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            self._tasks = Tasks(group, self._on_error)
            self._tasks.background("feed", self._stream.run(self._on_event))
            self._tasks.work("start", self._begin())
            await self._stop.wait()
            await self._tasks.stop_background()

    async def _begin(self) -> None:
        await first_of(self._confirmed.wait(), self._stop.wait(), timeout=CONFIRMED_WITHIN)
        if self._error is not None:
            return
        if not self._confirmed.is_set():
            raise SessionError(f"{PART}: no subscription was confirmed within {CONFIRMED_WITHIN:g} s")
        if not await first_of(self._first.wait(), self._stop.wait(), timeout=FIRST_WITHIN):
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
        """The feed's time: that of its last message, and what has passed since on this machine."""
        return self._last + round((self._wall.monotonic() - self._heard) * 1e6)

    def _at(self, ts: int) -> int:
        """A message's time; 0 stands for now."""
        if ts and ts >= self._last:
            self._last, self._heard = ts, self._wall.monotonic()
            self._first.set()
        return ts

    async def _keep_time(self) -> None:
        while True:
            await self._wall.sleep(TICK)
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

    def _on_event(self, event: Any) -> None:
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
        # Whatever the announced time: where something trades, the market is open.
        assert tracked.market is not None
        self._open(tracked.market, trade.ts)
        self.mirror.push_trade(trade)

    def _on_snapshot(self, event: BookSnapshot) -> None:
        book = self._books.setdefault(event.ticker, Book())
        try:
            book.load(event.yes, event.no)
        except BookError as error:
            self._distrust(event.ticker, str(error))
            return
        if self._follows(event.ticker):
            self.mirror.push_snapshot(event.ticker, event.yes, event.no, self.now)

    def _on_delta(self, event: BookDelta) -> None:
        # The book is kept here as well, so that the exchange is never told of a level below zero.
        book = self._books.get(event.ticker)
        if book is None or not self._follows(event.ticker):
            return
        try:
            book.apply(event.side, event.price, event.delta)
        except BookError as error:
            self._distrust(event.ticker, str(error))
            return
        self.mirror.push_delta(event.ticker, event.side, event.price, event.delta, self._at(event.ts))

    def _distrust(self, ticker: str, why: str) -> None:
        """Drop a book that cannot be right and ask for it anew."""
        self._health.say(f"{PART}: {ticker}: book dropped, {why}")
        self._blind([ticker])
        self._stream.get_snapshot([ticker])

    def _blind(self, tickers: list[str]) -> None:
        for ticker in tickers:
            if self._books.pop(ticker, None) is not None:
                self.mirror.push_blind(ticker, self.now)

    def _on_gap(self, gap: FeedGap) -> None:
        self._health.say(f"{PART}: frames of {gap.channel} lost")
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
        """A market's opening time has come; it may have before."""
        if market.status == "initialized":
            self._tracker.update(msgspec.structs.replace(market, status="active"))
            self.mirror.push_lifecycle(market.ticker, "activated", ts)

    def _leave(self, ticker: str, status: str) -> None:
        """A market's book is of no use any more."""
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
        except NO_WORD as error:
            self._put_off(ticker, error)
            return
        await self._admit(msgspec.structs.replace(market, series=series, category=category))

    def _put_off(self, ticker: str, error: KalshilabError) -> None:
        """A market could not be looked up; the next discovery finds it again."""
        self._health.say(f"{PART}: {ticker} could not be looked up: {error}")
        self._tracker.forget(ticker)

    async def _admit(self, market: Market) -> None:
        """Mirror a market, if it is wanted: what it is, the prints that waited, its book from now on."""
        home = market.series or market.event.partition("-")[0]
        if home not in self._fees:
            try:
                series = await self._data.series(home)
            except NO_WORD as error:
                self._put_off(market.ticker, error)
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
            self._health.say(f"{PART}: {error}")
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
            except NO_WORD as error:
                self._health.say(f"{PART}: open markets could not be listed: {error}")

    def __repr__(self) -> str:
        return f"ShadowFeed({self._tracker.active} markets, {self.mirror!r})"
