"""Market data of a session: from feed events to tracked markets, live books and fires.

The follower handles all public events of the stream.  It updates the tracker, the books and the strategy's signal, and
passes each fire on; it places no orders.  A market's prints reach the signal from the first one received: prints that
arrive while its category is being looked up are replayed on admission.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from heapq import nsmallest

import msgspec

from kalshilab.clock import Clock, isoformat
from kalshilab.deprecation import renamed_keywords
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
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.markets.tracker import Tracked, Tracker
from kalshilab.trade.status import MarketRow
from kalshilab.trade.strategies.strategies import Strategy
from kalshilab.trade.tasks import Tasks

__all__ = ["CHANNELS", "Follower"]

CHANNELS = ("trade", "market_lifecycle_v2", "fill", "user_orders", "market_positions")
"""The channels of every session; order books are subscribed market by market."""


class Follower:
    """The tracker, the books and the live state of the signal.

    Args:
        data: the REST client for look-ups.
        stream: the stream on which books are subscribed.
        tracker: the markets.
        strategy: the strategy whose signal sees the prints.
        clock: exchange time.
        tasks: starts look-ups.
        health: receives failures and console lines.
        counts: the session's counters.
        on_fire: called with each fire, in order.
        on_settled: called with the ticker of each tracked market that the exchange has settled.
        book_timeout_s: wall seconds to wait for the first book of a new market.
    """

    @renamed_keywords(book_timeout="book_timeout_s")
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
        book_timeout_s: float,
    ) -> None:
        self._data, self._stream, self._tasks = data, stream, tasks
        self._clock, self._health, self._counts = clock, health, counts
        self._on_fire, self._on_settled = on_fire, on_settled
        self._book_timeout_s = book_timeout_s
        self.tracker, self.strategy = tracker, strategy
        self.books: dict[str, Book] = {}
        self.recent: deque[Trade] = deque(maxlen=20)
        self.marks: dict[str, int] = {}
        """YES prices at which positions are valued: the last print, or the settlement."""
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
        """Handle a public print."""
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
                f"strategy {self.strategy.name}: its signal raised an error at a print of {trade.ticker}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if fire is None:
            return
        if not isinstance(fire, Fire) or fire.side not in ("yes", "no"):
            raise SignalError(
                self.strategy.name, "fire", fire, 'None, or a signals.Fire with side "yes" or "no"'
            )
        self._on_fire(fire)

    # Books

    def on_snapshot(self, event: BookSnapshot) -> None:
        """Replace a book by its snapshot, which ends the uncertainty after a gap."""
        book = self.books.get(event.ticker)
        if book is None:
            book = self.books[event.ticker] = Book()
        try:
            book.load(event.yes, event.no)
        except BookError as error:
            self._drop_book(event.ticker, str(error))
            return
        waiter = self._awaited.pop(event.ticker, None)
        if waiter is not None:
            waiter.set()

    def on_delta(self, event: BookDelta) -> None:
        """Apply a change of one level of a book."""
        book = self.books.get(event.ticker)
        if book is None:
            return
        try:
            book.apply(event.side, event.price, event.delta)
        except BookError as error:
            self._drop_book(event.ticker, str(error))

    def _drop_book(self, ticker: str, reason: str) -> None:
        """Drop an inconsistent book and request a snapshot."""
        self.books.pop(ticker, None)
        self._health.log(f"{ticker}: book dropped, {reason}")
        self._stream.get_snapshot([ticker])

    def on_gap(self, gap: FeedGap) -> None:
        """Drop the books of a subscription that lost frames, until their snapshots arrive."""
        self._counts["gaps"] += 1
        self._health.log(f"{gap.channel}: frames lost")
        if gap.channel == "orderbook_delta":
            for ticker in gap.tickers:
                self.books.pop(ticker, None)

    def on_disconnect(self) -> None:
        """Drop all books: none is valid across a lost connection."""
        self.books.clear()

    @renamed_keywords(timeout="timeout_s")
    async def book(self, ticker: str, timeout_s: float) -> Book | None:
        """Return the live book of a market, or `None` before its first snapshot.

        Args:
            ticker: the market.
            timeout_s: wall seconds to wait for the first snapshot.
        """
        if ticker not in self.books and timeout_s > 0:
            waiter = self._awaited.setdefault(ticker, asyncio.Event())
            try:
                async with asyncio.timeout(timeout_s):
                    await waiter.wait()
            except TimeoutError:
                return None
        return self.books.get(ticker)

    # Lifecycle

    def on_lifecycle(self, event: Lifecycle) -> None:
        """Handle a market that was created, rescheduled, paused, determined or settled."""
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
        except INCONCLUSIVE_ERRORS as error:
            self._counts["lookup_errors"] += 1
            self._health.degraded("discovery", f"{event.ticker}: {error}")
            self.tracker.forget(event.ticker)
            return
        self._health.healthy("discovery")
        await self.follow(msgspec.structs.replace(market, series=series, category=category))

    async def _category(self, event: str) -> tuple[str, str]:
        """Return series and category of an event; concurrent callers share one look-up."""
        task = self._categories.get(event)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._categories[event] = asyncio.ensure_future(self._data.category(event))
        return await asyncio.shield(task)

    async def follow(self, market: Market) -> bool:
        """Admit a market after its look-up: subscribe its book and replay the prints that waited.

        Returns:
            False if the tracker rejects the market.
        """
        if not self.tracker.accept(market, self._clock.now()):
            return False
        self._counts["tracked"] += 1
        if self.strategy.signal is not None:
            waiter = self._awaited.setdefault(market.ticker, asyncio.Event())
            self._stream.add_markets("orderbook_delta", [market.ticker])
            try:
                async with asyncio.timeout(self._book_timeout_s):
                    await waiter.wait()
            except TimeoutError:
                self._health.log(f"{market.ticker}: no book within {self._book_timeout_s:g} s")
        tracked = self.tracker.get(market.ticker)
        assert tracked is not None
        for trade in self.tracker.join(market.ticker):
            self._feed(tracked, trade)
        return True

    async def discover(self) -> None:
        """List open markets over REST and follow those that are admitted; a failure only degrades the health."""
        try:
            wanted = []
            now = self._clock.now()
            # With close_min_minutes=0, closing times do not matter, and the filter must not use the clock: if it is not
            # the exchange's clock, it would exclude every market.
            for market in await self._data.open_markets(min_close_ts=now if self.tracker.close_min_us else 0):
                if self.tracker.begin(market.ticker):
                    series, category = market.series, market.category
                    if not category:
                        series, category = await self._category(market.event)
                    wanted.append(msgspec.structs.replace(market, series=series, category=category))
            # Concurrently: each waits for its first book, and there may be a thousand of them.
            followed = sum(await asyncio.gather(*(self.follow(market) for market in wanted)))
        except INCONCLUSIVE_ERRORS as error:
            self._health.degraded("discovery", str(error))
            return
        self._health.healthy("discovery")
        if followed:
            self._health.log(f"discovery: {followed} markets followed")
        elif not len(self.tracker):
            condition = f" that closes after {isoformat(now)} (session clock); close_min_minutes=0 admits any"
            self._health.log(
                f"discovery: the exchange lists no open market{condition if self.tracker.close_min_us else ''}"
            )
        elif not self.tracker.active:
            reasons = ", ".join(f"{n} {reason}" for reason, n in self.tracker.rejected.most_common())
            self._health.log(f"discovery: no open market followed ({reasons})")

    @renamed_keywords(interval="interval_s")
    async def keep_discovering(self, wall: Clock, interval_s: float) -> None:
        """Repeat the discovery every `interval_s` wall seconds, until cancelled."""
        while True:
            await wall.sleep(interval_s)
            await self.discover()

    @renamed_keywords(most="limit")
    def rows(self, limit: int = 30) -> list[MarketRow]:
        """Return the tracked markets with the most prints, for display."""
        rows = []
        signal = self.strategy.signal
        known = [t for t in self.tracker.all() if t.market is not None]
        # Read the signal's state of the displayed markets only: reading a thousand, several times a second, is slow.
        for tracked in nsmallest(limit, known, key=lambda t: (t.status != "active", -t.prints)):
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
