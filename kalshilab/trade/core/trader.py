"""The trader: one synchronous fold from events to commands.

`Trader.handle` takes one event with its two times and returns the commands that follow from it, in order.  It reads no
clock, does no input or output and draws no random numbers, so the same events give the same commands, byte for byte.
Each piece of state has one owner in this package; this module passes events on to them and holds only what connects
them: the order of the start, the switches of the operator, and the end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot, FeedGap, Lifecycle
from kalshilab.market.model import Fill, Order, Settlement, Trade
from kalshilab.trade.core.account import TradingAccount
from kalshilab.trade.core.books import Books, FeedAge, MissedPrints
from kalshilab.trade.core.control import SessionControl
from kalshilab.trade.core.decider import Decider
from kalshilab.trade.core.exposure import Budget, DayLoss, Exposure, TraderRules
from kalshilab.trade.core.markets import Followed, Markets
from kalshilab.trade.core.messages import (
    Command,
    Ended,
    Event,
    FeedDown,
    FeedUp,
    Finish,
    Operate,
    Outbox,
    Quiet,
    RequestAnswer,
    Tick,
)
from kalshilab.trade.core.order_flow import OrderFlow
from kalshilab.trade.core.orders import Orders, run_prefix
from kalshilab.trade.core.reconcile import Closing, Reconciler
from kalshilab.trade.core.record.equity import EquityCurve, not_implied
from kalshilab.trade.core.record.retention import Retention
from kalshilab.trade.core.record.settlement_watch import SettlementWatch
from kalshilab.trade.core.states import PartHealth, Patience, States
from kalshilab.trade.core.strategy_runs import FireQueue, StrategyRun
from kalshilab.trade.events import Fired, Sampled
from kalshilab.trade.status import COUNTS
from kalshilab.trade.strategies.strategies import Strategy

__all__ = ["Trader"]


class Trader(SessionControl):
    """The core of a session.

    Args:
        rules: the rules, or the settings from which they are read.
        strategies: (name, strategy, budget) of each strategy; names are unique.
        run_id: the name of the run; only orders with its prefix are the run's.
        books: as in `TraderRules`, where `rules` are settings.

    Raises:
        SessionError: two strategies have one name.

    >>> from kalshilab.trade.strategies.strategies import make_strategy
    >>> settings = Settings(env={}, env_file=None, strategy="hold", discovery=False)
    >>> trader = Trader(settings, [("hold", make_strategy(settings), Budget())], "run-1")
    >>> [type(command).__name__ for command in trader.handle(Tick(), 0, 0)], trader.state
    (['JournalRecord', 'JournalRecord', 'JournalRecord'], 'ORDERBOOK_CONNECT')
    """

    def __init__(
        self,
        rules: TraderRules | Settings,
        strategies: Sequence[tuple[str, Strategy, Budget]],
        run_id: str,
        *,
        books: Literal["stream", "ask"] = "stream",
    ) -> None:
        self.rules = rules if isinstance(rules, TraderRules) else TraderRules.of(rules, books)
        self.run_id, self.prefix = run_id, run_prefix(run_id)
        if len({name for name, _, _ in strategies}) < len(strategies):
            raise SessionError(
                f"names of strategies must be unique, got {[name for name, _, _ in strategies]}"
            )
        self.strategies = [
            StrategyRun(name, strategy, budget, self.rules.attempts_per_minute)
            for name, strategy, budget in strategies
        ]
        self._outbox = out = Outbox()
        self.counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        self.states, self.health = States(out), PartHealth(out)
        self.account, self.orders = TradingAccount(), Orders()
        self.exposure = Exposure(self.account)
        self.books = Books(
            out, self.rules.books, stale_us=self.rules.stale_book_us, wait_us=self.rules.book_wait_us
        )
        self.markets = Markets(
            self.rules, out, self.health, self.counts,
            on_known=self._on_market_known, on_print=self._feed, on_ended=self._on_market_ended,
        )  # fmt: skip
        self._admitted: set[str] = set()
        self._before: tuple[str, ...] = ()
        self._lost_fires: Sequence[Fired] = ()
        self._queue = FireQueue()
        self._age = FeedAge(out, self.rules.stale_feed_us, self._queue.state_changed)
        self._decider = Decider(
            self.prefix, self.rules, out, self._queue, self.strategies,
            markets=self.markets, books=self.books, orders=self.orders, account=self.account,
            exposure=self.exposure, states=self.states, health=self.health,
            obstacle=self._obstacle, blocked=self._blocked, counts=self.counts,
        )  # fmt: skip
        self._flow = OrderFlow(
            self.prefix, out, self.orders, self.account, self.exposure, self.markets, self.health, self.counts,
            on_outcome=self._decider.on_outcome, on_change=self._on_change,
        )  # fmt: skip
        self._watch = SettlementWatch(out, self.markets, held=self._is_held, pay=self._pay)
        self._reconciler = Reconciler(
            out, sync_us=self.rules.sync_us, account=self.account, orders=self.orders, flow=self._flow,
            exposure=self.exposure, markets=self.markets, watch=self._watch, health=self.health,
            pay=self._pay, on_change=self._queue.limits_changed,
        )  # fmt: skip
        self._closing = Closing(out, self.orders, self._flow, self._reconciler, lambda: self._decider.group)
        self._retention = Retention(self._forget)
        self._missed = MissedPrints(out, self._take, self._on_prints_given_up)
        self._patience = Patience(out, self.rules.max_outage_us)
        self._day = DayLoss(self.rules.risk.daily_loss)
        self.settlements: deque[Settlement] = deque(maxlen=20)
        self._curve = EquityCurve()
        self.paused = ""
        """The reason for which no strategy places orders, or ""."""
        self.stopped = ""
        """The reason for the end, or ""."""
        self.finished: Finish | None = None
        self._feed_up = False
        self._was_up = self._flattening = self._grouping = False
        self._feeding = self.markets.feeding
        self._live = [run for run in self.strategies if run.strategy.signal is not None]
        frame = self._age.noting
        self._handlers: Mapping[type, Callable[[Any], None]] = {
            Trade: frame(self._on_print),
            BookSnapshot: frame(self._on_book),
            BookDelta: frame(self._on_delta),
            FeedGap: frame(self._on_gap),
            Lifecycle: frame(self._on_lifecycle),
            Fill: frame(self._on_fill),
            Order: frame(self._on_order),
            FeedUp: frame(self._on_feed_up),
            FeedDown: self._on_feed_down,
            Quiet: self._on_quiet,
            Tick: self._on_tick,
            Ended: self._on_ended,
            Operate: self._on_operate,
            RequestAnswer: self._on_answer,
        }

    def handle(self, event: Event, now: int, mono: int) -> list[Command]:
        """Handle one event and return the commands that follow from it, in order.

        Args:
            event: the event.
            now: exchange time in microseconds.
            mono: monotonic machine time in microseconds.
        """
        out = self._outbox
        out.now, out.mono = now, mono
        self._handlers[type(event)](event)
        commands = out.commands
        if not commands:
            return []
        out.commands = []
        return commands

    # Views

    @property
    def equity(self) -> list[tuple[int, int, int]]:
        """Samples (exchange time, cash, value of positions), in microseconds and money units."""
        return self._curve.samples

    @property
    def state(self) -> str:
        """The session's state."""
        return self.states.state

    @property
    def busy(self) -> bool:
        """Whether a fire is to be decided now, or an order has no answer: deliver the answers and another `Quiet`."""
        if self.finished is not None:
            return False
        return bool(self._flow.in_flight or self.books.awaited) or self._queue.has_ready

    @property
    def recent(self) -> Iterable[Trade]:
        """The latest prints of followed markets, oldest first."""
        return self._missed.recent

    def is_due(self, now: int) -> bool:
        """Return whether a `Quiet` at this exchange time would decide anything; any other may be left out."""
        return self._queue.is_due(now) or bool(self.books.awaited)

    # Market data

    def _on_print(self, trade: Trade) -> None:
        self.counts["trades"] += 1
        if self._missed.holding:
            self._missed.hold(trade)
        else:
            self._take(trade)

    def _take(self, trade: Trade) -> None:
        if trade.ts > self._missed.last_ts:
            self._missed.last_ts = trade.ts
        followed = self._feeding.get(trade.ticker)
        if followed is not None:
            self._feed(followed, trade)
        else:
            self._take_other(trade)

    def _take_other(self, trade: Trade) -> None:
        followed = self.markets.get(trade.ticker)
        if followed is not None and followed.status == "looking":
            self._missed.recent.append(trade)
            self.markets.keep(followed, trade)
            return
        self.counts["filtered"] += 1
        if followed is not None and followed.status in ("held", "active"):
            followed.last_price = trade.price
            self.account.mark(trade.ticker, trade.price)

    def _feed(self, followed: Followed, trade: Trade) -> None:
        ticker, price = trade.ticker, trade.price
        followed.last_price = price
        followed.prints += 1
        self._missed.recent.append(trade)
        self.account.mark(ticker, price)
        ts, size, taker = trade.ts, trade.size, trade.taker
        for run in self._live:
            try:
                fire = run.update(ticker, ts, price, size, taker)  # type: ignore[misc]
                if fire is None:
                    continue
                fire = run.checked(fire)
            except Exception as error:  # noqa: BLE001 - any error of a signal stops its strategy, and nothing else
                self._on_signal_error(run, error, trade)
                continue
            self.counts["signals"] += 1
            run.counts["signals"] += 1
            self._outbox.record("fire", Fired.of(fire, self._label(run)))
            self._queue.add(run, fire)
        if self._queue.by_market:
            self._queue.market_changed(ticker)

    def _label(self, run: StrategyRun) -> str:
        """Return the name of a strategy in its fires: one that is alone is not named, as in research."""
        return run.name if len(self.strategies) > 1 else ""

    def _on_signal_error(self, run: StrategyRun, error: Exception, trade: Trade) -> None:
        self._decider.fail(run, error, f"print of {trade.ticker} at {trade.ts}: {trade}")
        self._live = [live for live in self._live if live is not run]

    def _on_book(self, event: BookSnapshot) -> None:
        self.books.load(event)
        if self._queue.by_market and not self.books.asked_for:
            self._queue.market_changed(event.ticker)

    def _on_delta(self, event: BookDelta) -> None:
        self.books.apply(event)
        if self._queue.by_market:
            self._queue.market_changed(event.ticker)

    def _on_gap(self, event: FeedGap) -> None:
        self.counts["gaps"] += 1
        self._outbox.say(f"{event.channel}: frames lost")
        if event.channel == "orderbook_delta":
            self.books.refresh(event.tickers)
        elif event.channel == "trade":
            self._missed.lost()
            self._missed.read()
        elif event.channel == "market_lifecycle_v2":
            self._refresh_markets()
        else:
            self._reconciler.want()

    def _refresh_markets(self) -> None:
        if self.rules.discovery and self.opened:
            self.markets.discover()

    def _on_prints_given_up(self, reason: str) -> None:
        """Trade no more in the markets whose signals have missed prints: their fires are no longer those of the tape."""
        broken = self.markets.mark_broken(reason)
        for followed in broken:
            for run in self.strategies:
                run.reset(followed.ticker)
        self._outbox.note("prints missed", reason=reason, markets=[followed.ticker for followed in broken])
        self._outbox.say(f"{reason}: no signals in {len(broken)} markets")

    def _on_lifecycle(self, event: Lifecycle) -> None:
        self.markets.lifecycle(event)
        if event.kind == "close_date_updated":
            self._watch.rescheduled(event.ticker)
            followed = self.markets.get(event.ticker)
            if followed is not None and followed.market is not None:
                self._outbox.record("market", followed.market)

    def _on_market_known(self, followed: Followed) -> None:
        ticker, market = followed.ticker, followed.market
        new = followed.status == "active" and ticker not in self._admitted
        if new:
            self._admitted.add(ticker)
            self.counts["tracked"] += 1
        if followed.status == "active":
            self.books.watch(ticker)
        assert market is not None
        self._outbox.record("market", market, ticker if new else None)
        self.exposure.place(ticker, market.event, market.category)

    def _on_market_ended(self, followed: Followed) -> None:
        ticker, market = followed.ticker, followed.market
        if market is not None:
            self._outbox.record("market", market)
        if market is not None and market.settlement is not None:
            self.account.mark(ticker, market.settlement)
        for run in self.strategies:
            run.reset(ticker)
            run.entries.pop(ticker, None)
        self.books.unwatch(ticker)
        self._queue.market_changed(ticker)
        self._watch.expect(ticker, at_once=followed.status == "settled")
        if followed.status == "settled":
            self.account.forget(ticker)
            self._retention.settled(ticker, self._outbox.now)

    # The account

    def _is_held(self, ticker: str) -> bool:
        return bool(self.account.total.size(ticker))

    def _on_fill(self, fill: Fill) -> None:
        if self._reconciler.recording:
            self._flow.on_fill(fill)
        else:
            self._reconciler.early(fill)

    def _on_order(self, order: Order) -> None:
        if self._reconciler.recording:
            self._flow.on_order(order)

    def _on_change(self, ticker: str) -> None:
        """Handle a change of an order or a position: limits may be free, and the displayed book is another."""
        self._queue.limits_changed()
        self._queue.market_changed(ticker)
        if self._is_held(ticker):
            self._watch.follow(ticker)
        self._sample()

    def _pay(self, settlement: Settlement) -> None:
        if not self._reconciler.recording or not self.account.settle(settlement):
            return
        self._flow.activity += 1
        # A fill that is found late is paid out by the same settlement, again: that is another entry, but not another
        # settlement.
        times = self.account.payouts(settlement)
        key = f"{settlement.ticker}|{settlement.ts}" + (f"|{times}" if times > 1 else "")
        self._outbox.record("settlement", settlement, key)
        if times == 1:
            self.counts["settlements"] += 1
            self.settlements.append(settlement)
        place = self.markets.place_of(settlement.ticker)
        for owner, _ in self.account.owners():
            self.exposure.position(settlement.ticker, *place, owner)
        self._on_change(settlement.ticker)

    def _sample(self, *, record: bool = False) -> None:
        now, account = self._outbox.now, self.account
        if self._day.exceeded(now, account.equity) and not self.paused:
            self._pause("daily loss")
        cash, value = account.cash, account.total.value
        self._curve.add(now, cash, value)
        if self._curve.is_due(now) or record:
            marks, counts = account.take_marks(), not_implied(self.counts)
            self._outbox.record("sample", Sampled(ts=now, cash=cash, value=value, counts=counts, marks=marks))

    # Deciding

    def _obstacle(self) -> str:
        if not self.states.may_trade:
            return "not ready"
        return self.paused or ("stale feed" if self._age.is_stale else "")

    def _blocked(self, ticker: str) -> str:
        if self.orders.uncertain(ticker):
            return "order unknown"
        return "account differs" if self._reconciler.blocks(ticker) else ""

    def _on_quiet(self, event: Quiet) -> None:
        if self._queue.is_due(self._outbox.now) or self.books.awaited:
            self._decider.decide(self._flow)
            self._progress()

    # Time and answers

    def _on_answer(self, answer: RequestAnswer) -> None:
        if self.finished is not None:
            return
        if not self._outbox.answered(answer):
            self._outbox.note("answer to an unknown request", request=answer.request)
        self._progress()

    def _on_tick(self, event: Tick) -> None:
        if self.finished is not None:
            return
        self._flow.tick()
        self._watch.tick()
        self._reconciler.tick()
        self._retention.tick(self._outbox.now)
        if self.opened:
            self._sample()
            if not self.stopped:
                self._tick_open()
        self._check_limits()
        self._progress()

    def _tick_open(self) -> None:
        self._missed.tick()
        self.markets.tick()
        if self._flattening:
            self._flow.cancel_all()
        if self.rules.cleanup:
            self._flow.cancel_stale()
        if not self._flattening and self.rules.order_life_us is not None:
            self._flow.renew_all(self.rules.order_life_us)

    def _on_feed_up(self, event: FeedUp) -> None:
        if self._feed_up:
            return
        self._feed_up = True
        self.health.heal("feed")
        if self._was_up:
            self.counts["reconnects"] += 1
            self.books.rewatch()
            self._missed.read()
            self._refresh_markets()
            self._reconciler.want()
        self._was_up = True
        self._progress()

    def _on_feed_down(self, event: FeedDown) -> None:
        if self._feed_up:
            self._missed.lost()
        self._feed_up = False
        self.books.clear()
        self._reconciler.feed_lost()
        reason = event.reason or "lost"
        self.health.degrade("feed", reason)
        if self._was_up and not self.stopped and self.states.state not in ("STARTUP", "ERROR"):
            self.states.to("ERROR", f"feed: {reason}")
        self._progress()

    # The end

    def _on_ended(self, event: Ended) -> None:
        self._stop(event.reason)

    def _stop(self, reason: str) -> None:
        """Begin to close: no new orders, nothing left resting, and a last reading of the account."""
        if self.stopped:
            return
        self.stopped = reason or "stop"
        self._outbox.note("stop", reason=self.stopped)
        self._live = []
        self.states.to("SHUTDOWN", self.stopped)
        self._decider.end_all("session ended")
        self._closing.begin()
        self._close()

    def _close(self) -> None:
        if self.finished is not None or not self._closing.is_done():
            return
        left = self._closing.left
        self.counts["left_resting"] = len(left)
        self._sample(record=True)
        self._outbox.note("end", stopped=self.stopped, counts=dict(self.counts), left=list(left))
        self.finished = Finish(self.stopped, left)
        self._outbox.add(self.finished)
        # The feed may go on for a moment, but nobody waits for answers, and the record is closed.
        self._handlers = dict.fromkeys(self._handlers, _ignore)

    def __repr__(self) -> str:
        return f"Trader({self.run_id}, {self.state}, {len(self.strategies)} strategies)"


def _ignore(event: Event) -> None:
    """Ignore an event after the end."""
