"""Strategies side by side: each with its signal, pending fires, rate, budget, switch and counts.

A fire is consumed by an order or by its expiry only.  A temporary obstacle (a wide spread, no book, the rate limit, a
limit, a pause) leaves it pending with its latest reason.  It is decided again once something relevant has changed, never
by polling.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Final, Literal, TypeVar

from kalshilab.market.model import Market
from kalshilab.signals import Fire
from kalshilab.trade.core.account import FOREIGN, TradingAccount
from kalshilab.trade.core.books import Books
from kalshilab.trade.core.commands import Outbox
from kalshilab.trade.core.exposure import Budget, Exposure
from kalshilab.trade.core.markets import Followed, Markets
from kalshilab.trade.core.order_flow import OrderFlow
from kalshilab.trade.core.orders import OrderLife, Orders
from kalshilab.trade.core.rules import TraderRules, order_key
from kalshilab.trade.core.states import PartHealth, States
from kalshilab.trade.events import Action, Decision, Fired, Intent, Outcome
from kalshilab.trade.strategies.strategies import Quote, Strategy

__all__ = ["FRESH_US", "Decider", "FireQueue", "PendingFire", "StrategyRun"]

FRESH_US: Final = 60_000_000
"""Microseconds of exchange time after its print for which a fire may lead to an order."""

BACK_OFF_US: Final = 1_000_000
"""Microseconds of exchange time before a fire is tried again whose order the exchange was too busy to take."""

FAILED: Final = "strategy failed"

T = TypeVar("T")
Wait = Literal["market", "limit", "freed", "time", "state"]


class StrategyRun:
    """One strategy of a session.

    Args:
        name: its name, unique in the session.
        strategy: quotes and re-entry.
        budget: its limits.
        per_minute: orders per minute of exchange time, refilled evenly.

    Attributes:
        on: whether it may place orders; False while it is paused.
        failed: the error that stopped it, or "".
        entries: the fire of its last order in each market.
        counts: its counters.
    """

    def __init__(self, name: str, strategy: Strategy, budget: Budget, per_minute: float) -> None:
        self.name, self.strategy, self.budget = name, strategy, budget
        self._update = None if strategy.signal is None else strategy.signal.update
        self.on, self.failed = True, ""
        self.entries: dict[str, Fire] = {}
        self.counts: Counter[str] = Counter()
        self._rate, self._capacity = per_minute / 60e6, max(per_minute, 1.0)
        self._tokens, self._at = self._capacity, 0

    def fire(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Pass one print to the signal and return its fire.

        Raises:
            TypeError: the signal returned something that is not a fire.
            Exception: any error of the signal.
        """
        fire = None if self._update is None else self._update(ticker, ts, price, size, taker)
        if fire is None:
            return None
        if not isinstance(fire, Fire) or fire.side not in ("yes", "no"):
            raise TypeError(f'a fire must be a signals.Fire with side "yes" or "no", got {fire!r}')
        return fire

    def reset(self, ticker: str) -> None:
        """Clear the signal's state of a market."""
        if self.strategy.signal is not None and not self.failed:
            self.strategy.signal.reset(ticker)

    def token_at(self, now: int) -> int:
        """Return the exchange time at which the next order may be sent: `now`, or later."""
        if now > self._at:
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._rate)
            self._at = now
        # A tolerance of a millionth: ten refills of 0.1 must add up to one token.
        missing = 1.0 - 1e-6 - self._tokens
        return now if missing <= 0 else max(now, self._at) + int(missing / self._rate) + 1

    def take_token(self) -> None:
        """Take the token of one order."""
        self._tokens -= 1.0


class PendingFire:
    """One fire that has not led to an order; `attempt` counts orders that certainly had no effect."""

    __slots__ = ("attempt", "fire", "number", "reason", "recorded", "run", "wait")

    def __init__(self, number: int, run: StrategyRun, fire: Fire) -> None:
        self.number, self.run, self.fire = number, run, fire
        self.attempt = 0
        self.reason = ""
        self.recorded = False
        self.wait: Wait | None = None


class FireQueue:
    """The pending fires of all strategies, decided in the order in which they fired."""

    def __init__(self) -> None:
        self._number = 0
        self._pending: dict[int, PendingFire] = {}
        self._ready: list[int] = []
        self._is_ready: set[int] = set()
        self.by_market: dict[str, set[int]] = {}
        """Fires that wait for a change of their market, or of a limit, by ticker."""
        self._limited: set[int] = set()
        self._stopped: set[int] = set()
        self._times: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, run: StrategyRun, fire: Fire) -> None:
        """Add a new fire."""
        self._number += 1
        pending = PendingFire(self._number, run, fire)
        self._pending[pending.number] = pending
        heappush(self._times, (fire.ts + FRESH_US + 1, pending.number))
        self._make_ready(pending.number)

    def is_due(self, now: int) -> bool:
        """Return whether a fire is to be decided at this exchange time."""
        return bool(self._ready) or (bool(self._times) and self._times[0][0] <= now)

    @property
    def has_ready(self) -> bool:
        """Whether a fire is to be decided at any time."""
        return bool(self._ready)

    def first(self, now: int) -> PendingFire | None:
        """Return the first fire that is to be decided at this exchange time; it stays in the queue."""
        while self._times and self._times[0][0] <= now:
            number = heappop(self._times)[1]
            if number in self._pending:
                self._make_ready(number)
        while self._ready:
            pending = self._pending.get(self._ready[0])
            if pending is not None:
                return pending
            self._is_ready.discard(heappop(self._ready))
        return None

    def defer(self, pending: PendingFire, wait: Wait, reason: str, at: int = 0) -> None:
        """Leave a fire pending until something that matters to the reason changes.

        Args:
            pending: the fire.
            wait: "market": a print or a book of its market, "freed": a freed limit, "limit": either of them, "time": `at`,
                "state": a change of the session's state or of a switch.
            reason: the reason.
            at: exchange time, for "time".
        """
        self._unready(pending.number)
        pending.wait, pending.reason = wait, reason
        number = pending.number
        if wait == "time":
            heappush(self._times, (at, number))
        elif wait == "state":
            self._stopped.add(number)
        else:
            if wait != "freed":
                self.by_market.setdefault(pending.fire.ticker, set()).add(number)
            if wait != "market":
                self._limited.add(number)

    def take(self, pending: PendingFire) -> None:
        """Remove a fire from the queue."""
        self._unready(pending.number)
        self._forget_wait(pending)
        self._pending.pop(pending.number, None)

    def put_back(self, pending: PendingFire) -> None:
        """Add a fire again whose order had no effect."""
        self._pending[pending.number] = pending
        heappush(self._times, (pending.fire.ts + FRESH_US + 1, pending.number))

    def __iter__(self) -> Iterator[PendingFire]:
        return iter([pending for _, pending in sorted(self._pending.items())])

    # Changes

    def market_changed(self, ticker: str) -> None:
        """Decide again about the fires that wait for a change of a market."""
        for number in sorted(self.by_market.get(ticker, ())):
            self._make_ready(number)

    def limits_changed(self) -> None:
        """Decide again about the fires that wait for a freed limit."""
        for number in sorted(self._limited):
            self._make_ready(number)

    def state_changed(self) -> None:
        """Decide again about the fires that wait for a state or a switch."""
        for number in sorted(self._stopped):
            self._make_ready(number)

    def _make_ready(self, number: int) -> None:
        pending = self._pending[number]
        self._forget_wait(pending)
        if number not in self._is_ready:
            self._is_ready.add(number)
            heappush(self._ready, number)

    def _unready(self, number: int) -> None:
        if number in self._is_ready:
            self._is_ready.discard(number)
            if self._ready[0] == number:
                heappop(self._ready)
            else:
                self._ready = sorted(self._is_ready)

    def _forget_wait(self, pending: PendingFire) -> None:
        wait, pending.wait = pending.wait, None
        if wait == "state":
            self._stopped.discard(pending.number)
        elif wait in ("market", "limit", "freed"):
            ticker = pending.fire.ticker
            waiting = self.by_market.get(ticker)
            if waiting is not None:
                waiting.discard(pending.number)
                if not waiting:
                    del self.by_market[ticker]
            self._limited.discard(pending.number)


class Decider:
    """Decisions about fires: one at a time, the next only after the answer to the order of the last.

    Args:
        prefix: prefix of the run's client order ids.
        rules: the rules of the session.
        outbox: receives the decisions.
        queue: the pending fires.
        runs: the strategies.
        markets, books, orders, account, exposure: the state on which a decision depends.
        states: changes to ACTING with each order.
        health: receives a part for each strategy that fails.
        obstacle: returns the reason for which the session places no orders now, or "".
        blocked: returns the reason for which it places none in a market, or "".
        counts: the session's counters.

    Attributes:
        decisions: the latest decisions; `group` is the id of the order group at the exchange, or "".
    """

    def __init__(
        self,
        prefix: str,
        rules: TraderRules,
        outbox: Outbox,
        queue: FireQueue,
        runs: Sequence[StrategyRun],
        *,
        markets: Markets,
        books: Books,
        orders: Orders,
        account: TradingAccount,
        exposure: Exposure,
        states: States,
        health: PartHealth,
        obstacle: Callable[[], str],
        blocked: Callable[[str], str],
        counts: Counter[str],
    ) -> None:
        self._prefix, self._rules, self._outbox, self._queue, self._runs = prefix, rules, outbox, queue, runs
        self._markets, self._books, self._orders, self._account = markets, books, orders, account
        self._exposure, self._states, self._health, self._counts = exposure, states, health, counts
        self._obstacle, self._blocked = obstacle, blocked
        self._sent: dict[str, PendingFire] = {}
        self.decisions: deque[Decision] = deque(maxlen=100)
        self.group = ""

    def decide(self, flow: OrderFlow) -> None:
        """Decide about the fires that are due, up to the first that leads to an order or needs a book."""
        unanswered = self._books.take_unanswered()
        while not flow.in_flight and not self._books.awaited:
            pending = self._queue.first(self._outbox.now)
            if pending is None:
                break
            self._decide(pending, flow, unanswered)
        self._books.drop_answers()

    def _decide(self, pending: PendingFire, flow: OrderFlow, unanswered: str) -> None:
        run, fire, now = pending.run, pending.fire, self._outbox.now
        followed = self._markets.get(fire.ticker)
        if now - fire.ts > FRESH_US:
            self.end(pending, "expired", pending.reason or "late")
        elif followed is None or followed.market is None or followed.status != "active":
            self.end(pending, "refused", f"market {'unknown' if followed is None else followed.status}")
        elif followed.market.status == "inactive":
            self.end(pending, "refused", "market inactive")
        elif self._is_stopped(pending):
            return
        elif (blocked := self._blocked(fire.ticker)) != "":
            self._defer(pending, "limit", blocked)
        elif (against := self._against(run, fire)) is not None:
            self.end(pending, "skipped", against)
        elif (at := run.token_at(now)) > now:
            self._defer(pending, "time", "rate limit", at)
        else:
            self._quote(pending, followed, followed.market, flow, unanswered)

    def _is_stopped(self, pending: PendingFire) -> bool:
        run = pending.run
        if run.failed:
            self.end(pending, "refused", FAILED)
            return True
        reason = self._obstacle() or ("" if run.on else "strategy paused")
        if reason:
            self._defer(pending, "state", reason)
        return bool(reason)

    def _against(self, run: StrategyRun, fire: Fire) -> str | None:
        """Return the final reason against a fire: another strategy's position, or a weaker signal than the entry's."""
        side = "bid" if fire.side == "yes" else "ask"
        live = self._orders.of(fire.ticker)
        for other in self._runs:
            size = 0 if other is run else self._account.owner(other.name).size(fire.ticker)
            opposite = size < 0 if side == "bid" else size > 0
            if opposite or any(
                life.owner == other.name
                and life.owner != run.name
                and life.remaining
                and life.intent.side != side
                for life in live
            ):
                return f"opposite of {other.name}"
        if not self._is_held(run, fire.ticker, live):
            return None
        failed: str | None = FAILED
        return self._user(run, lambda: run.strategy.reentry(fire, run.entries.get(fire.ticker)), failed)

    def _is_held(self, run: StrategyRun, ticker: str, live: Sequence[OrderLife]) -> bool:
        """Return whether a strategy has a position or an order in a market, or a position there precedes the session."""
        sizes = self._account.owner(run.name).size(ticker), self._account.owner(FOREIGN).size(ticker)
        return any(sizes) or any(life.owner == run.name and life.remaining for life in live)

    def _quote(
        self, pending: PendingFire, followed: Followed, market: Market, flow: OrderFlow, unanswered: str
    ) -> None:
        run, fire = pending.run, pending.fire
        book = self._books.get(fire.ticker)
        if book is None:
            if self._books.asked_for and fire.ticker != unanswered:
                self._books.ask(fire.ticker)
            else:
                self._defer(pending, "market", "no book")
            return
        shown = book
        failed: Quote | str = FAILED
        quote = self._user(run, lambda: run.strategy.quote(fire, shown, market.grid), failed)
        if isinstance(quote, str):
            if quote in ("hold", FAILED):
                self.end(pending, "skipped", quote)
            else:
                self._defer(pending, "market", quote)
            return
        refusal = self._refusal(run, followed, market, quote)
        if refusal is None:
            self._place(pending, quote, flow)
        else:
            # A print does not free cash or a place; only a price may come back into the collar by one.
            self._defer(pending, "limit" if refusal == "collar" else "freed", refusal, quote=quote)

    def _user(self, run: StrategyRun, call: Callable[[], T], otherwise: T) -> T:
        """Return the result of a strategy's code; an error stops the strategy alone."""
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - any error of user code stops this strategy, and nothing else
            self.fail(run, error)
            return otherwise

    def fail(self, run: StrategyRun, error: Exception, at: str = "") -> None:
        """Stop a strategy whose code raised an error."""
        run.failed = f"{type(error).__name__}: {error}"
        self._outbox.note("strategy failed", strategy=run.name, error=run.failed, at=at)
        self._health.degrade(f"strategy {run.name}", run.failed)

    def _refusal(self, run: StrategyRun, followed: Followed, market: Market, quote: Quote) -> str | None:
        return self._exposure.refusal(
            self._rules.risk,
            run.budget,
            owner=run.name,
            ticker=market.ticker,
            event=market.event,
            category=market.category,
            side=quote.side,
            price=quote.price,
            size=quote.size,
            last_price=followed.last_price,
        )

    def _place(self, pending: PendingFire, quote: Quote, flow: OrderFlow) -> None:
        run, fire, now = pending.run, pending.fire, self._outbox.now
        key = order_key(self._prefix, run.name, fire, pending.attempt)
        intent = Intent(
            client_order_id=key,
            ts=now,
            ticker=fire.ticker,
            side=quote.side,
            price=quote.price,
            size=quote.size,
            fire=Fired.of(fire, run.name),
            reentry=self._is_held(run, fire.ticker, self._orders.of(fire.ticker)),
            strategy=run.name,
        )
        run.take_token()
        self._queue.take(pending)
        self._sent[key] = pending
        self._states.to("ACTING", f"order for {fire.ticker}")
        life_us = self._rules.order_life_us
        flow.place(intent, run.name, None if life_us is None else now + life_us, self.group)

    # Results

    def on_outcome(self, life: OrderLife, outcome: Outcome, status: int) -> None:
        """JournalRecord the decision that an order's outcome completes, or leave its fire pending if it had no effect."""
        pending = self._sent.pop(life.intent.client_order_id, None)
        if pending is None:
            return
        quote = Quote(life.intent.side, life.intent.price, life.intent.size)
        if outcome.kind == "accepted":
            self._count(pending.run, "orders")
            if life.intent.reentry:
                self._count(pending.run, "reentries")
            pending.run.entries[life.intent.ticker] = pending.fire
            self._write(pending, "placed", "", quote, life)
            return
        self._count(pending.run, "rejected")
        if outcome.kind == "absent" or status in (0, 429):
            pending.attempt += 1
            self._queue.put_back(pending)
            self._defer(pending, "time", outcome.code, self._outbox.now + BACK_OFF_US, quote=quote)
        else:
            self._write(pending, "rejected", outcome.code, quote, life)

    def _defer(
        self, pending: PendingFire, wait: Wait, reason: str, at: int = 0, *, quote: Quote | None = None
    ) -> None:
        self._queue.defer(pending, wait, reason, at)
        if not pending.recorded:
            pending.recorded = True
            if reason in ("rate limit", "low cash"):
                self._count(pending.run, "rate_limited" if reason == "rate limit" else "low_cash")
            self._write(pending, "deferred", reason, quote)

    def end(self, pending: PendingFire, action: Action, reason: str) -> None:
        """End a fire without an order."""
        self._queue.take(pending)
        self._count(pending.run, "skipped")
        self._write(pending, action, reason)

    def end_all(self, reason: str) -> None:
        """Expire every pending fire."""
        for pending in self._queue:
            self.end(pending, "expired", reason)

    def _count(self, run: StrategyRun, name: str) -> None:
        self._counts[name] += 1
        run.counts[name] += 1

    def _write(
        self,
        pending: PendingFire,
        action: Action,
        reason: str,
        quote: Quote | None = None,
        life: OrderLife | None = None,
    ) -> None:
        facts: dict[str, object] = {
            "ts": self._outbox.now,
            "action": action,
            "reason": reason,
            "strategy": pending.run.name,
        }
        if quote is not None:
            facts |= {"side": quote.side, "price": quote.price, "size": quote.size}
        if life is not None:
            facts |= {"client_order_id": life.intent.client_order_id, "order_id": life.order_id}
        decision = Decision.about(pending.fire, **facts)
        self._outbox.record("decision", decision)
        self.decisions.append(decision)
