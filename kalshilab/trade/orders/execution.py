"""From intent to one known outcome: the only place that sends orders.

The order of things never varies: the intent goes to the journal, then the order to the exchange, then the
outcome to the journal.  When no answer comes, nothing is sent again: the order is looked up under its client
order id until it is found or shown to be absent.  A duplicate id is the exchange's word that the first
sending arrived.
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
from kalshilab.trade.health import NO_WORD
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio

__all__ = ["Execution", "OrderClient"]

LOOKUP_DELAYS = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Wall seconds before each look-up of an order whose answer was lost: reads lag behind writes."""


class OrderClient(Protocol):
    """What execution needs of `kalshilab.kalshi.rest.orders.DemoOrders`."""

    async def create(self, request: OrderRequest, /) -> OrderAck: ...

    async def cancel(self, order_id: str, /, *, ticker: str | None = None) -> CancelAck: ...

    async def find(self, client_order_id: str, ticker: str, /) -> Order | None: ...

    async def list(self, *, ticker: str | None = None, status: str | None = None) -> list[Order]: ...


class Execution:
    """Sends orders and keeps the set of those that rest.

    Args:
        client: the order client.
        journal, portfolio: where intents, outcomes, orders and fills go.
        clock: exchange time.
        wall: the machine's clock, for waiting.
        delays: wall seconds before each look-up after a lost answer.
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
        self._told: set[str] = set()
        self.in_flight = 0
        self.api_errors = 0
        """Errors of the order client in a row; a success ends the row."""
        self._idle = asyncio.Event()
        self._idle.set()

    async def submit(self, intent: Intent) -> Outcome:
        """Send one order and return what became of it.  Never raises for what the exchange says.

        The caller must not cancel this while it runs: wait for `idle` instead.
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
        if outcome.kind == "accepted" and outcome.order_id not in self._told:
            # The stream may have told of this order before the answer came; then it knows better.
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
        """Find out whether an order arrived.  "absent" only if that is what the exchange says in the end."""
        answered = False
        for delay in self._delays:
            await self._wall.sleep(delay)
            try:
                order = await self._client.find(intent.client_order_id, intent.ticker)
            except NO_WORD:
                # What an earlier look-up said may not hold any more.
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
        """Settle the intents that an earlier process of this run left open."""
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
        """Take the exchange's word on one of our orders."""
        self._journal.write("order", order)
        self._told.add(order.order_id)
        if order.status == "resting" and order.remaining > 0:
            if order.order_id not in self._ended:
                self.open[order.order_id] = order
        else:
            self._ended.add(order.order_id)
            self.open.pop(order.order_id, None)

    def on_fill(self, fill: Fill) -> bool:
        """Take one fill; False if it was known.  The order stays open until the exchange says it is done."""
        if self._portfolio.knows(fill):
            return False
        if not self._journal.write("fill", fill, f"{fill.trade_id}|{fill.order_id}"):
            return False
        return self._portfolio.fill(fill)

    async def cancel_stale(self) -> int:
        """Cancel resting orders that an earlier run of ours left behind; how many there were."""
        stale = [o for o in await self._resting_of_ours() if o.order_id not in self.open]
        for order in stale:
            await self._cancel(order.order_id, order.ticker)
        return len(stale)

    async def cancel_all(self, rounds: int = 5) -> list[Order]:
        """Cancel every resting order of ours and ask the exchange whether any is left.

        Returns:
            What still rests after `rounds` tries; empty when all is well.
        """
        left: list[Order] = []
        for turn in range(rounds):
            if turn:
                await self._wall.sleep(0.2 * turn)
            for order in list(self.open.values()):
                await self._cancel(order.order_id, order.ticker)
            unsure = bool(self.open)
            try:
                left = await self._resting_of_ours()
            except NO_WORD:
                self.api_errors += 1
                left = list(self.open.values())
                continue
            # Also what was cancelled without an answer, or ended by the exchange itself, is open no more.
            self.open = {o.order_id: o for o in left}
            # A listing lags behind writes: of what no answer said that it is cancelled, a later one is asked.
            if not left and not unsure:
                break
        return left

    async def _resting_of_ours(self) -> list[Order]:
        orders = await self._client.list(status="resting")
        return [o for o in orders if o.client_order_id.startswith(CLIENT_PREFIX)]

    async def _cancel(self, order_id: str, ticker: str) -> None:
        self._begin()
        try:
            await self._client.cancel(order_id, ticker=ticker)
        except ApiError as error:
            # 404: filled or cancelled already, which is what was wanted. Anything else shows in the next listing.
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
        """Return once nothing is in flight."""
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
