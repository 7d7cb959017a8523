"""Execution: from an intent to its one known outcome.  No other module sends orders.

The sequence is fixed: the intent goes to the journal, then the order to the exchange, then the outcome to the journal.
An order without an answer is never sent again: execution looks it up by its client order id until it is found or shown
to be absent.  A duplicate-id error means that the first copy arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from kalshilab.clock import Clock
from kalshilab.errors import ApiError, ConnectionFailed, HostRefused, OutcomeUnknown
from kalshilab.kalshi.rest.orders import CancelAck, OrderAck, OrderRequest
from kalshilab.market.model import Fill, Order
from kalshilab.trade.events import CLIENT_PREFIX, Intent, Outcome
from kalshilab.trade.health import INCONCLUSIVE_ERRORS
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio

__all__ = ["Execution", "OrderClient"]

LOOKUP_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Wall seconds before each look-up of an order without an answer; the exchange's reads lag behind its writes."""


class OrderClient(Protocol):
    """The part of `kalshilab.kalshi.rest.orders.DemoOrders` that execution uses."""

    async def create(self, request: OrderRequest, /) -> OrderAck: ...

    async def cancel(self, order_id: str, /, *, ticker: str | None = None) -> CancelAck: ...

    async def find(self, client_order_id: str, ticker: str, /) -> Order | None: ...

    async def list(self, *, ticker: str | None = None, status: str | None = None) -> list[Order]: ...


class Execution:
    """Sender of orders that tracks the resting ones.

    Args:
        client: the order client.
        journal: receives intents, outcomes, orders and fills.
        portfolio: receives fills.
        clock: exchange time.
        wall: machine time, for waiting.
        delays: wall seconds before each look-up of an order without an answer.

    Attributes:
        open: the resting orders by order id.
        in_flight: requests without an answer yet.
    """

    def __init__(
        self,
        client: OrderClient,
        journal: Journal,
        portfolio: Portfolio,
        clock: Clock,
        wall: Clock,
        delays: Sequence[float] = LOOKUP_DELAYS,
    ) -> None:
        self._client, self._journal, self._portfolio = client, journal, portfolio
        self._clock, self._wall, self._delays = clock, wall, tuple(delays)
        self.open: dict[str, Order] = {}
        self._ended: set[str] = set()
        self._reported: set[str] = set()
        self.in_flight = 0
        self.api_errors = 0
        """Consecutive errors of the order client; a success resets it to 0."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, intent: Intent) -> Outcome:
        """Send one order and return its outcome; an error of the exchange is an outcome, not an exception.

        The caller must not cancel this call; wait for `idle` instead.
        """
        request = OrderRequest(
            ticker=intent.ticker,
            side=intent.side,
            price=intent.price,
            size=intent.size,
            client_order_id=intent.client_order_id,
        )
        known = not self._journal.write("intent", intent, intent.client_order_id)
        self._begin()
        try:
            outcome = await (self._resolve(intent) if known else self._send(intent, request))
        finally:
            self._end()
        self._journal.write("outcome", outcome)
        if outcome.kind == "accepted" and outcome.order_id not in self._reported:
            # If the stream reported this order before the answer came, its report is newer.
            self.on_order(self._acknowledged(intent, outcome))
        return outcome

    async def _send(self, intent: Intent, request: OrderRequest) -> Outcome:
        try:
            ack = await self._client.create(request)
        except (OutcomeUnknown, HostRefused):
            self.api_errors += 1
            return await self._resolve(intent)
        except ApiError as error:
            if error.code == "order_already_exists":
                return await self._resolve(intent)
            self.api_errors += 1 if error.status not in (400, 404, 409) else 0
            return self._outcome(intent, "rejected", code=error.code or str(error.status))
        except ConnectionFailed:
            self.api_errors += 1
            return self._outcome(intent, "rejected", code="connection_failed")
        self.api_errors = 0
        return self._outcome(
            intent, "accepted", order_id=ack.order_id, filled=ack.filled, remaining=ack.remaining
        )

    async def _resolve(self, intent: Intent) -> Outcome:
        """Look up whether an order arrived; "absent" only if the last look-up was answered and did not find it."""
        answered = False
        for delay in self._delays:
            await self._wall.sleep(delay)
            try:
                order = await self._client.find(intent.client_order_id, intent.ticker)
            except INCONCLUSIVE_ERRORS:
                # The answer of an earlier look-up may be outdated.
                self.api_errors += 1
                answered = False
                continue
            answered = True
            self.api_errors = 0
            if order is not None:
                self.on_order(order)
                return self._outcome(
                    intent,
                    "accepted",
                    order_id=order.order_id,
                    filled=order.filled,
                    remaining=order.remaining,
                )
        return self._outcome(intent, "absent" if answered else "unknown", code="no_answer")

    async def recover(self) -> list[Outcome]:
        """Resolve the intents that an earlier process of this run left without an outcome; return the outcomes."""
        outcomes = []
        for intent in self._journal.unresolved():
            self._begin()
            try:
                outcome = await self._resolve(intent)
            finally:
                self._end()
            self._journal.write("outcome", outcome)
            outcomes.append(outcome)
        return outcomes

    def on_order(self, order: Order) -> None:
        """Record the state of an order as the exchange reports it."""
        self._journal.write("order", order)
        self._reported.add(order.order_id)
        if order.status == "resting" and order.remaining > 0:
            if order.order_id not in self._ended:
                self.open[order.order_id] = order
        else:
            self._ended.add(order.order_id)
            self.open.pop(order.order_id, None)

    def on_fill(self, fill: Fill) -> bool:
        """Record one fill; return False if it was known.  The order stays open until the exchange reports its end."""
        if self._portfolio.knows(fill):
            return False
        if not self._journal.write("fill", fill, f"{fill.trade_id}|{fill.order_id}"):
            return False
        return self._portfolio.fill(fill)

    async def cancel_stale(self) -> int:
        """Cancel the resting orders of earlier sessions; return their number."""
        stale = [o for o in await self._own_resting_orders() if o.order_id not in self.open]
        for order in stale:
            await self._cancel(order.order_id, order.ticker)
        return len(stale)

    async def cancel_all(self, rounds: int = 5) -> list[Order]:
        """Cancel every resting order of this program and check with the exchange that none is left.

        Args:
            rounds: maximum number of attempts.

        Returns:
            The orders that still rest after the last attempt; empty on success.
        """
        left: list[Order] = []
        for turn in range(rounds):
            if turn:
                await self._wall.sleep(0.2 * turn)
            for order in list(self.open.values()):
                await self._cancel(order.order_id, order.ticker)
            unsure = bool(self.open)
            try:
                left = await self._own_resting_orders()
            except INCONCLUSIVE_ERRORS:
                self.api_errors += 1
                left = list(self.open.values())
                continue
            # The listing also covers orders cancelled without an answer or ended by the exchange.
            self.open = {o.order_id: o for o in left}
            # A listing lags behind writes: if a cancel had no answer, check a later listing too.
            if not left and not unsure:
                break
        return left

    async def _own_resting_orders(self) -> list[Order]:
        orders = await self._client.list(status="resting")
        return [o for o in orders if o.client_order_id.startswith(CLIENT_PREFIX)]

    async def _cancel(self, order_id: str, ticker: str) -> None:
        self._begin()
        try:
            await self._client.cancel(order_id, ticker=ticker)
        except ApiError as error:
            # 404: the order is filled or cancelled already. Any other error shows in the next listing.
            if error.status != 404:
                self.api_errors += 1
                return
        except (ConnectionFailed, HostRefused):
            self.api_errors += 1
            return
        finally:
            self._end()
        self._ended.add(order_id)
        self.open.pop(order_id, None)

    async def idle(self) -> None:
        """Wait until no request is in flight."""
        await self._idle.wait()

    def _begin(self) -> None:
        self.in_flight += 1
        self._idle.clear()

    def _end(self) -> None:
        self.in_flight -= 1
        if not self.in_flight:
            self._idle.set()

    def _outcome(self, intent: Intent, kind: str, **facts: object) -> Outcome:
        return Outcome(client_order_id=intent.client_order_id, ts=self._clock.now(), kind=kind, **facts)  # type: ignore[arg-type]

    def _acknowledged(self, intent: Intent, outcome: Outcome) -> Order:
        return Order(
            order_id=outcome.order_id,
            ticker=intent.ticker,
            side=intent.side,
            price=intent.price,
            status="resting" if outcome.remaining else "executed",
            initial=intent.size,
            filled=outcome.filled,
            remaining=outcome.remaining,
            client_order_id=intent.client_order_id,
            created_ts=outcome.ts,
            updated_ts=outcome.ts,
        )
