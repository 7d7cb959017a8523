"""The order desk: decides about each fire.

Fires are decided one at a time, so two prints that arrive together cannot place two orders past one limit.  The journal
stores every decision with its reason.  A temporary obstacle (the rate limit, or a book that has not arrived) defers a
fire; the desk retries it with the current book until it is no longer fresh.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque

from kalshilab.clock import Clock
from kalshilab.config.settings import Settings
from kalshilab.kalshi.rest.rate_limits import TokenBucket
from kalshilab.market.model import Market
from kalshilab.signals import Fire
from kalshilab.trade.events import Action, Decision, Fired, Intent, client_order_id
from kalshilab.trade.health import Health
from kalshilab.trade.markets.market_follower import Follower
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio
from kalshilab.trade.state_machine import Machine
from kalshilab.trade.strategies.risk import RiskLimits, refusal
from kalshilab.trade.strategies.strategies import Quote
from kalshilab.units import show_cents, show_contracts

__all__ = ["Desk"]

FRESH_US = 60_000_000
"""Microseconds of exchange time for which a deferred fire is retried."""


class Desk:
    """The desk of a session: it decides about fires, places orders, and keeps the rate limit and the entries."""

    def __init__(
        self,
        settings: Settings,
        *,
        run_id: str,
        follower: Follower,
        execution: Execution,
        portfolio: Portfolio,
        machine: Machine,
        journal: Journal,
        clock: Clock,
        health: Health,
        counts: Counter[str],
    ) -> None:
        self._run_id, self._follower, self._execution = run_id, follower, execution
        self._portfolio, self._machine, self._journal = portfolio, machine, journal
        self._clock, self._health, self._counts = clock, health, counts
        self._limits = RiskLimits.of(settings)
        per_minute = settings.attempts_per_minute
        self._bucket = TokenBucket(per_minute / 60, max(per_minute, 1.0), clock)
        self._book_timeout_s = settings.orderbook_timeout_s
        self._turn = asyncio.Lock()
        self._entries: dict[str, Fire] = {}
        self._deferred: deque[Fire] = deque()
        self._retrying = False
        self.decisions: deque[Decision] = deque(maxlen=100)
        self.closed = False
        """Kill switch, checked before each order: once set, no order is placed."""

    async def act(self, fire: Fire) -> Decision:
        """Decide about one fire and execute the decision."""
        async with self._turn:
            return await self._decide(fire)

    def due(self) -> bool:
        """Return whether a deferred fire can be retried now, or is no longer fresh.

        The answer depends on exchange time and the available books, never on the machine's clock, so a run over a tape
        is the same at any speed.
        """
        if not self._deferred or self._retrying:
            return False
        now = self._clock.now()
        if any(now - fire.ts > FRESH_US for fire in self._deferred):
            return True
        return self._bucket.tokens >= 1 and any(f.ticker in self._follower.books for f in self._deferred)

    async def retry(self) -> None:
        """Retry deferred fires, and expire those that are no longer fresh."""
        self._retrying = True
        try:
            await self._retry()
        finally:
            self._retrying = False

    def expire_deferred(self) -> None:
        """Expire all deferred fires at the end of the session."""
        while self._deferred:
            self._write(self._deferred.popleft(), "expired", "session ended")

    async def _retry(self) -> None:
        async with self._turn:
            for _ in range(len(self._deferred)):
                fire = self._deferred.popleft()
                if self._clock.now() - fire.ts > FRESH_US:
                    self._write(fire, "expired", "deferred too long")
                else:
                    await self._decide(fire, again=True)

    async def _decide(self, fire: Fire, *, again: bool = False) -> Decision:
        ticker, strategy = fire.ticker, self._follower.strategy
        tracked = self._follower.tracker.get(ticker)
        if self.closed or not self._machine.may_trade or tracked is None or tracked.market is None:
            return self._write(fire, "refused", "stopping" if self.closed else "not ready")
        if tracked.status not in ("active", "looking"):
            return self._write(fire, "refused", f"market {tracked.status}")
        held = ticker in self._portfolio.open or any(
            o.ticker == ticker for o in self._execution.open.values()
        )
        if held:
            weaker = strategy.reentry(fire, self._entries.get(ticker))
            if weaker is not None:
                return self._write(fire, "skipped", weaker)
        if not self._bucket.try_acquire():
            self._counts["rate_limited"] += not again
            return self._defer(fire, "rate limit", again)
        book = await self._follower.book(ticker, 0 if again else self._book_timeout_s)
        if book is None:
            return self._defer(fire, "no book", again)
        quote = strategy.quote(fire, book, tracked.market.grid)
        if isinstance(quote, str):
            return self._write(fire, "skipped", quote)
        return await self._place(fire, quote, tracked.market, held)

    async def _place(self, fire: Fire, quote: Quote, market: Market, held: bool) -> Decision:
        execution, portfolio = self._execution, self._portfolio
        orders = list(execution.open.values())
        holding = portfolio.holdings.get(fire.ticker)
        reason = refusal(
            self._limits,
            ticker=fire.ticker,
            side=quote.side,
            price=quote.price,
            size=quote.size,
            may_trade=self._machine.may_trade and not self.closed,
            cash=portfolio.cash,
            position=0 if holding is None else holding.size,
            markets_held={*portfolio.open, *(o.ticker for o in orders)},
            orders=orders,
        )
        if reason is not None:
            self._counts["low_cash"] += reason == "low cash"
            return self._write(fire, "refused", reason, quote)
        intent = Intent(
            client_order_id=client_order_id(self._run_id, fire),
            ts=self._clock.now(),
            ticker=fire.ticker,
            side=quote.side,
            price=quote.price,
            size=quote.size,
            fire=Fired.of(fire),
            reentry=held,
        )
        self._machine.to("ACTING", f"order for {fire.ticker}")
        try:
            outcome = await execution.submit(intent)
        finally:
            if self._machine.state == "ACTING":
                self._machine.to("READY", "order answered")
        if outcome.kind != "accepted":
            self._counts["rejected"] += 1
            action: Action = "rejected" if outcome.kind in ("rejected", "absent") else "unknown"
            return self._write(fire, action, outcome.code, quote, intent.client_order_id)
        self._counts["orders"] += 1
        self._counts["reentries"] += held
        self._entries[fire.ticker] = fire
        self._health.log(
            f"{fire.ticker}: {'bid' if quote.side == 'bid' else 'NO at'} "
            f"{show_cents(quote.price if quote.side == 'bid' else 10_000 - quote.price)}, "
            f"{show_contracts(quote.size)} contracts"
        )
        return self._write(fire, "placed", "", quote, intent.client_order_id, outcome.order_id)

    def _defer(self, fire: Fire, reason: str, again: bool) -> Decision:
        self._deferred.append(fire)
        if again:
            # The deferral is journalled already; a retry that defers again is not a new decision.
            return Decision(ts=self._clock.now(), ticker=fire.ticker, action="deferred", reason=reason)
        return self._write(fire, "deferred", reason)

    def _write(
        self,
        fire: Fire,
        action: Action,
        reason: str,
        quote: Quote | None = None,
        client_id: str = "",
        order_id: str = "",
    ) -> Decision:
        decision = Decision(
            ts=self._clock.now(),
            ticker=fire.ticker,
            action=action,
            reason=reason,
            side="" if quote is None else quote.side,
            price=0 if quote is None else quote.price,
            size=0 if quote is None else quote.size,
            yes_ratio=getattr(fire, "yes_ratio", None),
            drop=getattr(fire, "drop", None),
            client_order_id=client_id,
            order_id=order_id,
        )
        self._journal.write("decision", decision)
        self.decisions.append(decision)
        if action in ("skipped", "refused", "expired"):
            self._counts["skipped"] += 1
        return decision
