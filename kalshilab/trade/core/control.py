"""Control of a session: its start from earlier lives, the state that the facts allow, the limits of time, and the operator.

`Trader` is built on this class; the class itself holds no state.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

from kalshilab.errors import SessionError
from kalshilab.market.model import Settlement
from kalshilab.trade.core.account import TradingAccount
from kalshilab.trade.core.decider import Decider
from kalshilab.trade.core.exposure import DayLoss, Exposure, TraderRules
from kalshilab.trade.core.markets import Markets
from kalshilab.trade.core.messages import GroupOpened, OpenGroup, Operate, Outbox, Result
from kalshilab.trade.core.order_flow import OrderFlow
from kalshilab.trade.core.orders import Orders
from kalshilab.trade.core.reconcile import Closing, Reconciler
from kalshilab.trade.core.record.equity import EquityCurve
from kalshilab.trade.core.record.history import JournalEntry, RunHistory
from kalshilab.trade.core.states import PartHealth, Patience, States
from kalshilab.trade.core.strategy_runs import FireQueue, StrategyRun
from kalshilab.trade.events import Decision, Fired

__all__ = ["SessionControl"]

UNMATCHED_US: Final = 50_000_000
"""Monotonic microseconds in READY after which a session that follows no market reports the categories it has seen."""


class SessionControl(ABC):
    """The part of a trader that moves it between its states; the parts it reads are the trader's."""

    run_id: str
    account: TradingAccount
    orders: Orders
    exposure: Exposure
    counts: Counter[str]
    settlements: deque[Settlement]
    rules: TraderRules
    strategies: Sequence[StrategyRun]
    states: States
    health: PartHealth
    markets: Markets
    paused: str
    stopped: str
    _outbox: Outbox
    _queue: FireQueue
    _decider: Decider
    _flow: OrderFlow
    _reconciler: Reconciler
    _closing: Closing
    _patience: Patience
    _feed_up: bool
    _flattening: bool
    _grouping: bool
    _before: tuple[str, ...]
    _lost_fires: Sequence[Fired]
    _admitted: set[str]
    _curve: EquityCurve
    _day: DayLoss

    @property
    def opened(self) -> bool:
        """Whether the account was read, which starts the record."""
        return self._reconciler.opened

    @abstractmethod
    def _sample(self) -> None:
        """Add a sample of the equity."""

    @abstractmethod
    def _stop(self, reason: str) -> None:
        """Begin to close."""

    @abstractmethod
    def _close(self) -> None:
        """Go on closing."""

    @property
    def compared_at_end(self) -> bool:
        """Whether the account was read and compared after the stop."""
        return self._closing.compared

    @property
    def pending(self) -> int:
        """The number of fires that have neither led to an order nor expired."""
        return len(self._queue)

    @property
    def decisions(self) -> deque[Decision]:
        """The latest decisions."""
        return self._decider.decisions

    @property
    def differences(self) -> dict[str, tuple[int, int]]:
        """Name (a ticker or "cash") to (recorded, reported), as of the last reading of the account."""
        return self._reconciler.differences

    # Memory

    def _forget(self, ticker: str) -> bool:
        """Forget a market that was settled long ago; return False if something of it is still open."""
        if self.account.total.size(ticker) or self.orders.of(ticker):
            return False
        self.markets.forget(ticker)
        self.account.forget_market(ticker)
        self.orders.forget(ticker)
        self._admitted.discard(ticker)
        return True

    # Earlier lives

    def restore(self, entries: Iterable[JournalEntry]) -> None:
        """Continue a run: fold the journal of all its earlier lives into this trader, before its first event.

        Account, orders, exposure, counts, the entries of the strategies, the times of their orders, pauses and the equity
        at the start are those of the journal.  `opened` stays False until the first reading of the account, which adds
        what happened at the exchange since.  Orders that were open, and intents without an outcome, are looked up from the
        first tick on; with `TraderRules.cleanup`, those that rest are cancelled.  Signals start without prints, a strategy
        that failed is on again, and fires that were not decided expire.

        Args:
            entries: the entries of the journal in the order of writing: `Journal`, or the `JournalRecord` commands so far.
                An empty journal changes nothing.

        Raises:
            SessionError: the trader has handled an event.
            JournalError: the journal is damaged; this trader cannot be used then.
        """
        if self.states.state != "STARTUP":
            raise SessionError("a trader must be restored before its first event")
        past = RunHistory(self.account, self.orders, self._curve)
        past.fold(entries)
        self.counts.update(past.counts)
        self.settlements.extend(past.settlements)
        self.paused, self._flattening = past.paused, past.flattening
        self._admitted = past.admitted
        if not self.rules.discovery:
            self._before = tuple(sorted(past.admitted - past.ended))
        self._lost_fires = past.lost_fires()
        if past.day is not None:
            self._day.exceeded(*past.day)
        for run in self.strategies:
            run.restore(past, alone=len(self.strategies) == 1)
        self._decider.restore(past.unresolved.values(), past.keys, past.group)
        self._flow.restore(past.lives, past.gone, self.rules.order_life_us)
        self.exposure.restore(self.orders.live.values(), past.place_of)
        if past.opened:
            self._reconciler.restore(past.newest, past.oldest)

    # Limits of time

    def _check_limits(self) -> None:
        """Change to ERROR after a state's time limit, and end what has lasted too long."""
        if self.stopped:
            return
        overdue = self.states.overdue()
        if overdue is not None:
            self._on_overdue(overdue)
        if self.states.may_trade:
            self._patience.rest()
            if self.markets.seen and self.states.lasted_us() >= UNMATCHED_US:
                self.markets.report_unmatched(self.markets.seen)
        elif self.states.state == "ERROR":
            reason = self._patience.exhausted(outage=self._is_outage)
            if reason is not None:
                self._stop(reason)

    def _on_overdue(self, reason: str) -> None:
        if self.states.state == "ACTING":
            self._flow.overdue(reason)
        elif not self._feed_up:
            self.health.degrade("feed", reason)
        self.states.to("ERROR", reason)

    @property
    def _is_outage(self) -> bool:
        """Whether the venue is away, rather than something on this side at fault."""
        if not self._feed_up or self._reconciler.failures:
            return True
        return self._flow.failing and not self._flow.in_flight

    # States

    def _progress(self) -> None:
        """Move to the state that the facts allow."""
        if self.stopped:
            self._close()
            return
        states, failed = self.states, self.health.failed
        if states.may_trade:
            if failed:
                states.to("ERROR", ", ".join(f"{part}: {self.health.parts[part]}" for part in failed))
            elif states.state == "ACTING" and not self._flow.in_flight:
                states.to("READY", "order answered")
        elif states.state == "ERROR":
            self._recover(failed)
        else:
            self._start()

    def _recover(self, failed: list[str]) -> None:
        """Leave ERROR once every critical part is healthy and the account was read."""
        if failed or not self._feed_up:
            return
        if self._reconciler.current and self.markets.listed and not self._grouping:
            self._enter_ready("every part is healthy again")
        elif not self.opened or not self.markets.listed:
            self.states.to("ORDERBOOK_CONNECT", "start again")
            self._start()

    def _enter_ready(self, reason: str) -> None:
        self.states.to("READY", reason)
        self._sample()
        self._queue.state_changed()

    def _start(self) -> None:
        states = self.states
        if states.state == "STARTUP":
            names = [run.name for run in self.strategies]
            self._outbox.note("strategies", run=self.run_id, names=names)
            self._decider.expire(self._lost_fires, "session killed")
            self._lost_fires = ()
            states.to("INITIALIZING", "start")
            states.to("ORDERBOOK_CONNECT", "feed")
        if states.state == "ORDERBOOK_CONNECT" and self._feed_up:
            states.to("TRADING_CLIENT_CONNECT", "account")
            self._reconciler.want()
        if states.state == "TRADING_CLIENT_CONNECT" and self.opened:
            states.to("KALSHI_DATA_SYNC", "account read")
            self._open_group()
            if not self.markets.listed:
                self.markets.discover()
            for ticker in self._before:
                self.markets.created(ticker)
        if states.state != "KALSHI_DATA_SYNC" or self._grouping:
            return
        if self.markets.listed and self._reconciler.current:
            self._enter_ready("all parts started")

    def _open_group(self) -> None:
        out, contracts = self._outbox, self.rules.group_contracts
        if contracts and not self._decider.group and not self._grouping:
            self._grouping = True
            out.send(OpenGroup(number=out.number(), contracts=contracts), self._on_group)

    def _on_group(self, result: Result) -> None:
        self._grouping = False
        if isinstance(result, GroupOpened):
            self._decider.group = result.group_id
            self._outbox.note("group", id=result.group_id)
        else:
            self.health.degrade("order group", str(result))

    # The operator

    def _on_operate(self, event: Operate) -> None:
        if self.stopped:
            return
        self._outbox.note("operator", action=event.action, reason=event.reason, strategy=event.strategy)
        if event.action in ("stop", "kill"):
            self._stop(event.reason or event.action)
        elif event.strategy:
            self._switch(event.strategy, on=event.action == "resume")
        elif event.action == "resume":
            self.paused, self._flattening = "", False
            self._queue.state_changed()
        else:
            self._pause(event.reason or "paused")
            if event.action == "flatten":
                self._flattening = True
                self._flow.cancel_all()

    def _pause(self, reason: str) -> None:
        self.paused = reason
        self._outbox.note("paused", reason=reason)
        self._outbox.say(f"paused: {reason}")

    def _switch(self, name: str, *, on: bool) -> None:
        runs = [run for run in self.strategies if run.name == name]
        for run in runs:
            run.on = on
        if runs:
            self._queue.state_changed()
        else:
            self._outbox.say(f"no strategy is named {name!r}")
