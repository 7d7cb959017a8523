"""Following the markets: from feed events to tracked markets, live books and fires.

The one handler of the stream's public events.  It keeps the tracker, the books and the strategy's signal in
step with what arrives, and hands each fire on; it places nothing.  A market's prints reach the signal from
the first one seen: those that came while its category was being looked up are fed in on admission.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from heapq import nsmallest

import msgspec

from kalshilab.clock import Clock, isoformat
from kalshilab.errors import (
    BookError,
    KalshilabError,
    SessionError,
    SignalError,
)
from kalshilab.kalshi.rest.client import MarketData
from kalshilab.kalshi.stream.client import Stream
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot, EventLifecycle, FeedGap, Lifecycle
from kalshilab.market.book import Book
from kalshilab.market.model import Market, Trade
from kalshilab.signals import Fire, MarketState
from kalshilab.trade.health import NO_WORD, Health
from kalshilab.trade.markets.tracker import Tracked, Tracker
from kalshilab.trade.status import MarketRow
from kalshilab.trade.strategies.strategies import Strategy
from kalshilab.trade.tasks import Tasks

__all__ = ["CHANNELS", "Follower"]

CHANNELS = ("trade", "market_lifecycle_v2", "fill", "user_orders", "market_positions")
"""What every session listens to; books join market by market."""


class Follower:
    """Owner of the tracker, the books and the signal's live state.

    Args:
        on_fire: called with each fire, in order.
        on_settled: called with the ticker of each tracked market that the exchange has settled.
        book_timeout: wall seconds to wait for the first book of a market newly tracked.
    """

    def __init__(
        self,
        *,
        data: MarketData,
        stream: Stream,
        tracker: Tracker,
        strategy: Strategy,
        clock: Clock,
        tasks: Tasks,
        health: Health,
        counts: Counter[str],
        on_fire: Callable[[Fire], None],
        on_settled: Callable[[str], None],
        book_timeout: float,
    ) -> None:
        self._data, self._stream, self._tasks = data, stream, tasks
        self._clock, self._health, self._counts = clock, health, counts
        self._on_fire, self._on_settled = on_fire, on_settled
        self._book_timeout = book_timeout
        self.tracker, self.strategy = tracker, strategy
        self.books: dict[str, Book] = {}
        self.recent: deque[Trade] = deque(maxlen=20)
        self.marks: dict[str, int] = {}
        """YES prices at which what is held is valued: the last print, or what YES paid."""
        self._awaited: dict[str, asyncio.Event] = {}
        self._categories: dict[str, asyncio.Task[tuple[str, str]]] = {}
        self.handlers: dict[type, Callable[..., None]] = {
            Trade: self.on_trade,
            BookDelta: self.on_delta,
            BookSnapshot: self.on_snapshot,
            Lifecycle: self.on_lifecycle,
            EventLifecycle: lambda event: None,
            FeedGap: self.on_gap,
        }

    # Prints

    def on_trade(self, trade: Trade) -> None:
        """One public print."""
        self._counts["trades"] += 1
        tracked = self.tracker.get(trade.ticker)
        if tracked is None or tracked.status == "rejected":
            self._counts["filtered"] += 1
        elif tracked.status == "looking":
            self.tracker.hold(tracked, trade)
        else:
            self._feed(tracked, trade)

    def _feed(self, tracked: Tracked, trade: Trade) -> None:
        tracked.last_price = trade.price
        tracked.prints += 1
        self.recent.append(trade)
        self.marks[trade.ticker] = trade.price
        signal = self.strategy.signal
        if signal is None:
            return
        try:
            fire = signal.update(trade.ticker, trade.ts, trade.price, trade.size, trade.taker)
        except KalshilabError:
            raise
        except Exception as error:
            raise SessionError(
                f"strategy {self.strategy.name}: its signal failed at a print of {trade.ticker}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if fire is None:
            return
        if not isinstance(fire, Fire) or fire.side not in ("yes", "no"):
            raise SignalError(
                self.strategy.name, "fire", fire, 'None, or a signals.Fire that says "yes" or "no"'
            )
        self._on_fire(fire)

    # Books

    def on_snapshot(self, event: BookSnapshot) -> None:
        """A whole book; ends the distrust that a gap began."""
        book = self.books.get(event.ticker)
        if book is None:
            book = self.books[event.ticker] = Book()
        try:
            book.load(event.yes, event.no)
        except BookError as error:
            self._distrust(event.ticker, str(error))
            return
        waiter = self._awaited.pop(event.ticker, None)
        if waiter is not None:
            waiter.set()

    def on_delta(self, event: BookDelta) -> None:
        """One level of a book changed."""
        book = self.books.get(event.ticker)
        if book is None:
            return
        try:
            book.apply(event.side, event.price, event.delta)
        except BookError as error:
            self._distrust(event.ticker, str(error))

    def _distrust(self, ticker: str, why: str) -> None:
        """Drop a book that cannot be right and ask for it anew."""
        self.books.pop(ticker, None)
        self._health.say(f"{ticker}: book dropped, {why}")
        self._stream.get_snapshot([ticker])

    def on_gap(self, gap: FeedGap) -> None:
        """Frames were lost: books of that subscription are wrong until their snapshots come."""
        self._counts["gaps"] += 1
        self._health.say(f"{gap.channel}: frames lost")
        if gap.channel == "orderbook_delta":
            for ticker in gap.tickers:
                self.books.pop(ticker, None)

    def on_disconnect(self) -> None:
        """No book is to be trusted across a lost connection."""
        self.books.clear()

    async def book(self, ticker: str, timeout: float) -> Book | None:
        """The live book of a market, waiting up to `timeout` wall seconds for its first snapshot."""
        if ticker not in self.books and timeout > 0:
            waiter = self._awaited.setdefault(ticker, asyncio.Event())
            try:
                async with asyncio.timeout(timeout):
                    await waiter.wait()
            except TimeoutError:
                return None
        return self.books.get(ticker)

    # Lifecycle

    def on_lifecycle(self, event: Lifecycle) -> None:
        """A market was created, moved, paused, determined or settled."""
        kind, ticker = event.kind, event.ticker
        if kind == "created":
            if self.tracker.begin(ticker):
                self._tasks.work(f"look up {ticker}", self._look_up_created(event))
            return
        tracked = self.tracker.get(ticker)
        if tracked is None or tracked.market is None:
            return
        if kind == "close_date_updated" and event.close_ts:
            self.tracker.update(msgspec.structs.replace(tracked.market, close_ts=event.close_ts))
        elif kind in ("activated", "deactivated"):
            status = "active" if kind == "activated" else "inactive"
            self.tracker.update(msgspec.structs.replace(tracked.market, status=status))
        elif kind == "determined":
            self._on_determined(tracked, event)
        elif kind == "settled" and self.tracker.advance(ticker, "settled"):
            settled_ts = event.ts or self._clock.now()
            self.tracker.update(
                msgspec.structs.replace(tracked.market, status="finalized", settled_ts=settled_ts)
            )
            self._on_settled(ticker)

    def _on_determined(self, tracked: Tracked, event: Lifecycle) -> None:
        assert tracked.market is not None
        ticker = tracked.ticker
        self.tracker.update(
            msgspec.structs.replace(
                tracked.market, status="determined", result=event.result, settlement=event.settlement
            )
        )
        if event.settlement is not None:
            self.marks[ticker] = event.settlement
        if self.tracker.advance(ticker, "determined"):
            if self.strategy.signal is not None:
                self.strategy.signal.reset(ticker)
            if self.books.pop(ticker, None) is not None:
                self._stream.delete_markets("orderbook_delta", [ticker])

    async def _look_up_created(self, event: Lifecycle) -> None:
        try:
            market = await self._data.market(event.ticker)
            series, category = await self._category(market.event)
        except NO_WORD as error:
            self._counts["lookup_errors"] += 1
            self._health.degraded("discovery", f"{event.ticker}: {error}")
            self.tracker.forget(event.ticker)
            return
        self._health.healthy("discovery")
        await self.follow(msgspec.structs.replace(market, series=series, category=category))

    async def _category(self, event: str) -> tuple[str, str]:
        """Series and category of an event; looked up once, however many of its markets ask at the same time."""
        task = self._categories.get(event)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._categories[event] = asyncio.ensure_future(self._data.category(event))
        return await asyncio.shield(task)

    async def follow(self, market: Market) -> bool:
        """Admit a market that was looked up: subscribe its book, feed the prints that waited."""
        if not self.tracker.accept(market, self._clock.now()):
            return False
        self._counts["tracked"] += 1
        if self.strategy.signal is not None:
            waiter = self._awaited.setdefault(market.ticker, asyncio.Event())
            self._stream.add_markets("orderbook_delta", [market.ticker])
            try:
                async with asyncio.timeout(self._book_timeout):
                    await waiter.wait()
            except TimeoutError:
                self._health.say(f"{market.ticker}: no book within {self._book_timeout:g} s")
        tracked = self.tracker.get(market.ticker)
        assert tracked is not None
        for trade in self.tracker.join(market.ticker):
            self._feed(tracked, trade)
        return True

    async def discover(self) -> None:
        """Find open markets over REST and follow those that are wanted; a failure degrades, it ends nothing."""
        try:
            wanted = []
            now = self._clock.now()
            # No market is left out by the clock where closing times are told not to matter: it may not be the
            # exchange's, and then it would leave out all of them.
            for market in await self._data.open_markets(min_close_ts=now if self.tracker.close_min else 0):
                if self.tracker.begin(market.ticker):
                    series, category = market.series, market.category
                    if not category:
                        series, category = await self._category(market.event)
                    wanted.append(msgspec.structs.replace(market, series=series, category=category))
            # Together: each waits for its first book, and there may be a thousand of them.
            found = sum(await asyncio.gather(*(self.follow(market) for market in wanted)))
        except NO_WORD as error:
            self._health.degraded("discovery", str(error))
            return
        self._health.healthy("discovery")
        if found:
            self._health.say(f"discovery: {found} markets followed")
        elif not len(self.tracker):
            late = f" that closes after {isoformat(now)}, our clock; close_min_minutes=0 takes any"
            self._health.say(
                f"discovery: the exchange lists no open market{late if self.tracker.close_min else ''}"
            )
        elif not self.tracker.active:
            why = ", ".join(f"{n} {reason}" for reason, n in self.tracker.rejected.most_common())
            self._health.say(f"discovery: no open market followed ({why})")

    async def keep_discovering(self, wall: Clock, interval: float) -> None:
        """Discover again every `interval` wall seconds, until cancelled."""
        while True:
            await wall.sleep(interval)
            await self.discover()

    def rows(self, most: int = 30) -> list[MarketRow]:
        """The tracked markets with the most prints, for display."""
        rows = []
        signal = self.strategy.signal
        known = [t for t in self.tracker.all() if t.market is not None]
        # A signal's state is read of those that are shown: several times a second, of a thousand markets, it tells.
        for tracked in nsmallest(most, known, key=lambda t: (t.status != "active", -t.prints)):
            assert tracked.market is not None
            n_trades, ratio, drop = tracked.prints, None, None
            state = None if signal is None else signal.state(tracked.ticker)
            if isinstance(state, MarketState):
                n_trades, ratio = state.n_trades, state.yes_share
                drop = state.first_price - state.last_price
            rows.append(
                MarketRow(
                    tracked.ticker,
                    tracked.market.category,
                    tracked.status,
                    tracked.last_price,
                    n_trades,
                    ratio,
                    drop,
                )
            )
        return rows
