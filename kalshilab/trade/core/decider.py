"""Decisions about fires: from a fire to an order, or to the reason against it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

from kalshilab.market.book import Book
from kalshilab.market.model import Market
from kalshilab.signals import Fire
from kalshilab.trade.core.account import FOREIGN, TradingAccount
from kalshilab.trade.core.books import Books
from kalshilab.trade.core.exposure import Exposure, TraderRules
from kalshilab.trade.core.markets import Followed, Markets
from kalshilab.trade.core.messages import Outbox
from kalshilab.trade.core.order_flow import OrderFlow
from kalshilab.trade.core.orders import OrderLife, Orders, order_key
from kalshilab.trade.core.states import PartHealth, States
from kalshilab.trade.core.strategy_runs import FRESH_US, FireQueue, PendingFire, StrategyRun, Wait
from kalshilab.trade.events import Action, Decision, Fired, Intent, Outcome
from kalshilab.trade.strategies.strategies import Quote

__all__ = ["Decider"]

BACK_OFF_US: Final = 1_000_000
"""Microseconds of exchange time before a fire is tried again whose order the exchange was too busy to take."""
FAILED: Final = "strategy failed"

T = TypeVar("T")


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
        decisions: the latest decisions.
        group: the id of the order group at the exchange, or "".
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
        self._keys: frozenset[str] = frozenset()
        self.decisions: deque[Decision] = deque(maxlen=100)
        self.group = ""

    def restore(self, unresolved: Iterable[Intent], keys: Iterable[str], group: str) -> None:
        """Continue with the orders of earlier lives of the run.

        Args:
            unresolved: the intents without an outcome; the outcome completes the decision about their fire.
            keys: every client order id of earlier lives: none is used again.
            group: the order group at the exchange, or "".
        """
        runs = {run.name: run for run in self._runs}
        for intent in unresolved:
            if intent.strategy in runs:
                pending = self._queue.adopt(runs[intent.strategy], intent.fire)
                pending.closes = intent.closes
                self._sent[intent.client_order_id] = pending
        self._keys, self.group = frozenset(keys), group

    def expire(self, fires: Iterable[Fire], reason: str) -> None:
        """Expire fires of earlier lives that nothing decides any more.

        Args:
            fires: the fires; a field `strategy` names their strategy, and "" means the only one.
            reason: the reason.
        """
        runs = {run.name: run for run in self._runs}
        runs.setdefault("", self._runs[0]) if len(self._runs) == 1 else None
        for fire in fires:
            run = runs.get(getattr(fire, "strategy", ""))
            if run is not None:
                self.end(self._queue.adopt(run, fire), "expired", reason)

    def _key(self, pending: PendingFire) -> str:
        """Return the client order id of the next attempt of a fire; earlier lives may have made attempts too."""
        while True:
            key = order_key(self._prefix, pending.run.name, pending.fire, pending.attempt)
            if key not in self._keys:
                return key
            pending.attempt += 1

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
        elif (own := self._against_itself(run, fire)) != "":
            self._defer(pending, "freed", own)
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

    def _position(self, run: StrategyRun, ticker: str) -> int:
        return self._account.owner(run.name).size(ticker)

    def _to_close(self, run: StrategyRun, ticker: str) -> int:
        """Return the signed position that the strategy's next order in a market closes, or 0: it opens one."""
        return 0 if run.exiting is None else self._position(run, ticker)

    def _side(self, run: StrategyRun, fire: Fire) -> str:
        """Return the side of the order that a fire leads to."""
        buys = -self._to_close(run, fire.ticker) or (1 if fire.side == "yes" else -1)
        return "bid" if buys > 0 else "ask"

    def _against_itself(self, run: StrategyRun, fire: Fire) -> str:
        """Return "open order" if the strategy's own resting order would trade with that of the fire, or ""."""
        side, closes = self._side(run, fire), self._to_close(run, fire.ticker)
        own = (life for life in self._orders.of(fire.ticker) if life.owner == run.name and life.uncounted)
        return "open order" if any(closes or life.intent.side != side for life in own) else ""

    def _against(self, run: StrategyRun, fire: Fire) -> str | None:
        """Return the final reason against a fire: another strategy's position, or a weaker signal than the entry's."""
        live = self._orders.of(fire.ticker)
        if not live and not self._exposure.holds(fire.ticker):
            return None
        side, closes = self._side(run, fire), self._to_close(run, fire.ticker)
        for other in self._runs:
            size = 0 if other is run or closes else self._position(other, fire.ticker)
            opposite = size < 0 if side == "bid" else size > 0
            if opposite or any(
                life.owner == other.name
                and life.owner != run.name
                and life.uncounted
                and life.intent.side != side
                for life in live
            ):
                return f"opposite of {other.name}"
        if closes or not self._is_held(run, fire.ticker, live):
            return None
        failed: str | None = FAILED
        return self._user(run, lambda: run.strategy.reentry(fire, run.entries.get(fire.ticker)), failed)

    def _is_held(self, run: StrategyRun, ticker: str, live: Sequence[OrderLife]) -> bool:
        """Return whether a strategy has a position or an order in a market, or a position there precedes the session."""
        sizes = self._account.owner(run.name).size(ticker), self._account.owner(FOREIGN).size(ticker)
        return any(sizes) or any(life.owner == run.name and life.uncounted for life in live)

    def _quote(
        self, pending: PendingFire, followed: Followed, market: Market, flow: OrderFlow, unanswered: str
    ) -> None:
        fire = pending.fire
        lack, book = self._books.lack(fire.ticker), self._books.get(fire.ticker)
        if book is None:
            if self._books.asked_for and fire.ticker != unanswered:
                self._books.ask(fire.ticker)
            else:
                self._defer(pending, "market", lack)
            return
        quote = self._quoted(pending, book, market)
        if isinstance(quote, str):
            if quote in ("hold", FAILED):
                self.end(pending, "skipped", quote)
            else:
                self._defer(pending, "market", quote)
            return
        refusal = self._refusal(pending, followed, market, quote)
        if refusal is None:
            self._place(pending, quote, flow)
        else:
            # A print does not free cash or a place; only a price may come back into the collar by one.
            self._defer(pending, "limit" if refusal == "collar" else "freed", refusal, quote=quote)

    def _quoted(self, pending: PendingFire, book: Book, market: Market) -> Quote | str:
        """Return the order of the strategy, which closes its position or opens one, or the reason for not sending one."""
        run, fire = pending.run, pending.fire
        exiting, held = run.exiting, self._to_close(run, fire.ticker)
        failed: Quote | str = FAILED
        pending.closes = bool(held)
        if exiting is None or not held:
            return self._user(run, lambda: run.strategy.quote(fire, book, market.grid), failed)
        quote = self._user(run, lambda: exiting.exit(fire, held, book, market.grid), failed)
        if isinstance(quote, Quote) and (quote.size > abs(held) or quote.side != self._side(run, fire)):
            self.fail(run, ValueError(f"exit must close at most {held} size units, got {quote}"))
            return FAILED
        return quote

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

    def _refusal(self, pending: PendingFire, followed: Followed, market: Market, quote: Quote) -> str | None:
        return self._exposure.refusal(
            self._rules.risk,
            pending.run.budget,
            owner=pending.run.name,
            ticker=market.ticker,
            event=market.event,
            category=market.category,
            side=quote.side,
            price=quote.price,
            size=quote.size,
            last_price=followed.last_price,
            closes=pending.closes,
        )

    def _place(self, pending: PendingFire, quote: Quote, flow: OrderFlow) -> None:
        run, fire, now = pending.run, pending.fire, self._outbox.now
        key = self._key(pending)
        intent = Intent(
            client_order_id=key,
            ts=now,
            ticker=fire.ticker,
            side=quote.side,
            price=quote.price,
            size=quote.size,
            fire=Fired.of(fire, run.name),
            reentry=not pending.closes and self._is_held(run, fire.ticker, self._orders.of(fire.ticker)),
            strategy=run.name,
            closes=pending.closes,
        )
        run.take_token(now)
        self._queue.take(pending)
        self._sent[key] = pending
        self._states.to("ACTING", f"order for {fire.ticker}")
        life_us = self._rules.order_life_us
        flow.place(intent, run.name, None if life_us is None else now + life_us, self.group)

    # Results

    def on_outcome(self, life: OrderLife, outcome: Outcome, status: int) -> None:
        """Record the decision that an order's outcome completes, or leave its fire pending if it had no effect."""
        pending = self._sent.pop(life.intent.client_order_id, None)
        if pending is None:
            return
        quote = Quote(life.intent.side, life.intent.price, life.intent.size)
        if outcome.kind == "accepted":
            self._count(pending.run, "orders")
            if life.intent.reentry:
                self._count(pending.run, "reentries")
            if not pending.closes:
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
        for pending in self._queue.all():
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
        fire = pending.fire
        decision = Decision(
            ts=self._outbox.now,
            ticker=fire.ticker,
            action=action,
            reason=reason,
            side="" if quote is None else quote.side,
            price=0 if quote is None else quote.price,
            size=0 if quote is None else quote.size,
            yes_ratio=getattr(fire, "yes_ratio", None),
            drop=getattr(fire, "drop", None),
            client_order_id="" if life is None else life.intent.client_order_id,
            order_id="" if life is None else life.order_id,
            strategy=pending.run.name,
        )
        self._outbox.record("decision", decision)
        self.decisions.append(decision)
