"""Requests about orders and their results: from an intent to its one recorded outcome, and to its last fill.

An intent is recorded before its order is sent.  Its outcome is recorded once, with the answer; if the answer is lost, once
a message or a look-up shows the order, or it is shown to be absent (`kalshilab.trade.core.orders`).

Fills of an unknown order id wait while an order of the run in that market has no known outcome: they may belong to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from heapq import heappop, heappush
from typing import Final

import msgspec

from kalshilab.market.model import Fill, Order
from kalshilab.trade.core.account import FOREIGN, TradingAccount
from kalshilab.trade.core.exposure import Exposure
from kalshilab.trade.core.markets import Markets
from kalshilab.trade.core.messages import (
    Amend,
    Cancel,
    Declined,
    FillsRead,
    LookUpOrder,
    Lost,
    OrderFound,
    Outbox,
    Place,
    Placed,
    ReadFills,
    Result,
    Succeeded,
)
from kalshilab.trade.core.orders import OrderLife, Orders
from kalshilab.trade.core.states import PartHealth
from kalshilab.trade.events import Intent, Outcome

__all__ = ["OrderFlow"]

MAX_ERRORS: Final = 5
"""Consecutive requests without a useful answer after which orders count as failed."""
MISSING_US: Final = 1_000_000
"""Monotonic microseconds to wait for the fills that an order reports, before they are read."""
EXPECTED: Final = frozenset({400, 404, 409, 422, 429})
"""Refusals that show a working exchange."""
MAX_GONE: Final = 10_000
"""Orders without effect whose strategy is remembered, in case one was filled after all."""


class OrderFlow:
    """The orders of a run on their way to the exchange and back.

    Args:
        prefix: prefix of the run's client order ids.
        outbox: receives requests and records.
        orders: the orders.
        account: receives the fills.
        exposure: the sums of the limits, kept up to date.
        markets: event and category of a market; follows those in which something is held.
        health: receives the part "orders".
        counts: the session's counters.
        on_outcome: called once for each intent with its outcome and the status of a refusal (0: never sent, else HTTP).
        on_change: called with the market of each change of an order, a fill or a position.

    Attributes:
        activity: number of changes so far; a reading of the account is of one moment if it did not move.
    """

    def __init__(
        self,
        prefix: str,
        outbox: Outbox,
        orders: Orders,
        account: TradingAccount,
        exposure: Exposure,
        markets: Markets,
        health: PartHealth,
        counts: Counter[str],
        *,
        on_outcome: Callable[[OrderLife, Outcome, int], None],
        on_change: Callable[[str], None],
    ) -> None:
        self._prefix, self._outbox, self._orders, self._account = prefix, outbox, orders, account
        self._exposure, self._markets, self._health, self._counts = exposure, markets, health, counts
        self._on_outcome, self._on_change = on_outcome, on_change
        self._open_intents: set[str] = set()
        self._waiting: dict[str, list[Fill]] = {}
        self._looks: list[tuple[int, str]] = []
        self._missing: list[tuple[int, str]] = []
        self._gone: dict[str, str] = {}
        self._strays: set[str] = set()
        self._renewing: set[str] = set()
        self._sending: set[str] = set()
        self._stale: set[str] = set()
        self._errors = 0
        self.activity = 0

    def restore(self, unresolved: Iterable[str], gone: Mapping[str, str], order_life_us: int | None) -> None:
        """Continue with the orders of earlier lives of the run: each is looked up at the first tick.

        Args:
            unresolved: the intents without an outcome, by client order id.
            gone: the strategies of orders that were rejected or never arrived, by client order id.
            order_life_us: exchange microseconds after which an order expires unless it is renewed; None: never.
        """
        self._open_intents.update(unresolved)
        self._gone.update(gone)
        for key, life in self._orders.live.items():
            life.expires = None if order_life_us is None else life.intent.ts + order_life_us
            self._stale.add(key)
            if life.missing:
                heappush(self._missing, (0, key))
            if life.state != "ended":
                self._orders.lose(life, 0)
                self._schedule(life)

    def cancel_stale(self) -> None:
        """Cancel the orders of earlier lives of the run, each once it is known to rest."""
        for key in sorted(self._stale):
            life = self._orders.get(key)
            if life is None or life.state == "ended":
                self._stale.discard(key)
            else:
                self.cancel(life)

    @property
    def in_flight(self) -> int:
        """The number of orders sent without an answer: 0 or 1."""
        return len(self._sending)

    @property
    def unresolved(self) -> int:
        """The number of intents whose outcome is not recorded yet."""
        return len(self._open_intents)

    # Placing

    def place(self, intent: Intent, owner: str, expires: int | None = None, group: str = "") -> OrderLife:
        """Record an intent and send its order."""
        out = self._outbox
        life = OrderLife(intent, owner, out.mono, expires)
        self._orders.add(life)
        self._open_intents.add(intent.client_order_id)
        self._touch(life)
        out.record("intent", intent, intent.client_order_id)
        self._sending.add(intent.client_order_id)
        out.send(
            Place(number=out.number(), intent=intent, expires=expires, group=group),
            partial(self._on_placed, life),
        )
        return life

    def _on_placed(self, life: OrderLife, result: Result) -> None:
        self._sending.discard(life.intent.client_order_id)
        self.activity += 1
        if isinstance(result, Placed) and self._orders.claims(life, result.order_id):
            self._worked()
            self._orders.accept(life, result.order_id)
            if life.state != "ended":
                self._report(life, _acknowledged(life.intent, result, self._outbox.now))
            self._conclude(life, "accepted", filled=result.filled, remaining=result.remaining)
        elif life.order_id:
            # A message showed the order before its answer was lost.
            self._conclude(life, "accepted")
        elif isinstance(result, Declined) and result.code != "order_already_exists":
            self._failed(result) if result.status not in EXPECTED else self._worked()
            self._orders.end(life, "rejected")
            self._conclude(life, "rejected", code=result.code or str(result.status), status=result.status)
        else:
            self._failed(result) if isinstance(result, Lost) else None
            self._orders.lose(life, self._outbox.mono)
            self._schedule(life)
        self._touch(life)

    def _conclude(
        self,
        life: OrderLife,
        kind: str,
        *,
        code: str = "",
        status: int = -1,
        filled: int | None = None,
        remaining: int | None = None,
    ) -> None:
        """Record the outcome of an intent, unless it is recorded."""
        key = life.intent.client_order_id
        if key not in self._open_intents:
            return
        self._open_intents.discard(key)
        outcome = self._orders.outcome(life, kind, self._outbox.now, code=code)
        if filled is not None and remaining is not None:
            outcome = msgspec.structs.replace(outcome, filled=filled, remaining=remaining)
        self._outbox.record("outcome", outcome, key)
        if kind != "accepted":
            self._gone[key] = life.owner
            if len(self._gone) > MAX_GONE:
                del self._gone[next(iter(self._gone))]
        self.activity += 1
        self._on_outcome(life, outcome, status)
        self._release(life.intent.ticker)
        self._on_change(life.intent.ticker)

    def _touch(self, life: OrderLife) -> None:
        self._exposure.order(life, *self._markets.place_of(life.intent.ticker))

    # Look-ups

    def _schedule(self, life: OrderLife) -> None:
        heappush(self._looks, (life.due, life.intent.client_order_id))

    def _look_up_later(self, life: OrderLife) -> None:
        life.look_up_at(self._outbox.mono)
        self._schedule(life)

    def look_up(self, life: OrderLife) -> None:
        """Ask the exchange for the state of an order."""
        out, intent = self._outbox, life.intent
        life.due = 0
        request = LookUpOrder(
            number=out.number(),
            client_order_id=intent.client_order_id,
            ticker=intent.ticker,
            order_id=life.order_id,
        )
        out.send(request, partial(self._on_found, life, out.mono))

    def _on_found(self, life: OrderLife, looked: int, result: Result) -> None:
        key = life.intent.client_order_id
        if self._orders.get(key) is not life:
            return
        if not isinstance(result, OrderFound):
            self._failed(result)
            self._look_up_later(life)
            return
        self._worked()
        found = result.order
        if found is not None and found.client_order_id in (key, "") and self._is_of(life, found):
            self.on_order(found, life)
            if self._orders.get(key) is life and life.cancelling:
                self._look_up_later(life)
        elif not self._orders.absent(life, looked):
            self._look_up_later(life)
        elif not life.order_id:
            self._orders.end(life, "absent")
            self._touch(life)
            self._conclude(life, "absent", code="no_answer")
        else:
            # The exchange archives orders that ended long ago; their fills are still listed.
            self._orders.end(life)
            self._touch(life)
            self._conclude(life, "accepted")
            self._read_fills(life.intent.ticker)
            self._on_change(life.intent.ticker)

    @staticmethod
    def _is_of(life: OrderLife, order: Order) -> bool:
        return order.ticker == life.intent.ticker and life.order_id in ("", order.order_id)

    # Messages

    def on_order(self, order: Order, life: OrderLife | None = None) -> None:
        """Handle the state of an order as the exchange reports it."""
        life = life or self._orders.by_id(order.order_id) or self._orders.get(order.client_order_id)
        if life is None:
            if self._orders.closes(order):
                self._outbox.record("order", order)
            else:
                self._stray(order)
            return
        if not life.order_id:
            if not self._orders.claims(life, order.order_id):
                return
            self._orders.accept(life, order.order_id)
        self._report(life, order)
        self._settle_unknown(life)

    def _settle_unknown(self, life: OrderLife) -> None:
        """Record the outcome of an order whose answer was lost, now that a message or a look-up shows it."""
        if life.intent.client_order_id not in self._sending:
            self._conclude(life, "accepted")

    def _report(self, life: OrderLife, order: Order) -> None:
        if not self._orders.report(life, order):
            return
        self.activity += 1
        self._outbox.record("order", order)
        self._touch(life)
        if life.missing:
            heappush(self._missing, (self._outbox.mono + MISSING_US, life.intent.client_order_id))
        self._on_change(life.intent.ticker)

    def _stray(self, order: Order) -> None:
        """Cancel an order that has the run's prefix and that no live intent explains; ignore those of other programs."""
        own = order.client_order_id.startswith(self._prefix)
        if not own or order.status != "resting" or order.order_id in self._strays:
            return
        if self._orders.owner_of(order.order_id) is not None:
            return
        self._strays.add(order.order_id)
        self._outbox.say(
            f"{order.ticker}: order {order.order_id} of the run was not expected; it is cancelled"
        )
        self._send_stray_cancel(order)

    def _send_stray_cancel(self, order: Order) -> None:
        out = self._outbox
        out.send(
            Cancel(number=out.number(), order_id=order.order_id, ticker=order.ticker),
            partial(self._on_stray_cancelled, order),
        )

    def _on_stray_cancelled(self, order: Order, result: Result) -> None:
        if not isinstance(result, Succeeded):
            # The next reading of the account lists it again if it still rests.
            self._strays.discard(order.order_id)

    def on_fill(self, fill: Fill) -> bool:
        """Count a fill from any source; return whether it was new and counted now."""
        if self._account.knows(fill):
            return False
        life = self._orders.of_fill(fill)
        owner = life.owner if life is not None else self._owner(fill)
        if owner is None:
            self._waiting.setdefault(fill.ticker, []).append(fill)
            return False
        self._count(fill, owner, life)
        if life is not None:
            self._settle_unknown(life)
        return True

    def _owner(self, fill: Fill) -> str | None:
        """Return the owner of a fill without a live order, or None while this cannot be known."""
        owner = self._orders.owner_of(fill.order_id)
        if owner is not None:
            return owner
        if fill.client_order_id in self._gone:
            return self._gone[fill.client_order_id]
        foreign = fill.client_order_id and not fill.client_order_id.startswith(self._prefix)
        return None if not foreign and self._orders.uncertain(fill.ticker) else FOREIGN

    def _count(self, fill: Fill, owner: str, life: OrderLife | None) -> None:
        self.activity += 1
        self._account.fill(fill, owner)
        self._outbox.record("fill", fill, f"{fill.trade_id}|{fill.order_id}")
        self._counts["fills" if owner != FOREIGN else "foreign_fills"] += 1
        if life is not None:
            self._orders.count(life, fill)
            self._touch(life)
        self._exposure.position(fill.ticker, *self._markets.place_of(fill.ticker), owner)
        self._markets.hold(fill.ticker)
        self._on_change(fill.ticker)

    def _release(self, ticker: str) -> None:
        """Count the fills that waited for the outcome of an order in their market."""
        if ticker in self._waiting and not self._orders.uncertain(ticker):
            for fill in self._waiting.pop(ticker):
                self.on_fill(fill)

    def _read_fills(self, ticker: str) -> None:
        out = self._outbox
        out.send(ReadFills(number=out.number(), ticker=ticker), self._on_fills)

    def _on_fills(self, result: Result) -> None:
        if isinstance(result, FillsRead):
            for fill in result.fills:
                self.on_fill(fill)

    # Cancelling

    def cancel(self, life: OrderLife) -> None:
        """Cancel an order that rests, unless this is under way."""
        if life.cancelling or life.state != "resting":
            return
        out = self._outbox
        request = Cancel(number=out.number(), order_id=life.order_id, ticker=life.intent.ticker)
        life.cancelling = out.send(request, partial(self._on_cancelled, life))

    def cancel_all(self) -> None:
        """Cancel every order that rests."""
        for life in list(self._orders.resting()):
            self.cancel(life)

    def _on_cancelled(self, life: OrderLife, result: Result) -> None:
        life.cancelling = 0
        if life.state != "resting":
            return
        if isinstance(result, Declined) and result.status == 404:
            self.look_up(life)
            return
        if isinstance(result, Succeeded):
            self._worked()
        elif isinstance(result, Lost):
            self._failed(result)
        # The order's own message shows how much of it was filled; if it is lost, a look-up does.
        life.looks = 0
        self._look_up_later(life)

    # Time

    def tick(self) -> None:
        """Look up the orders that are due, and read fills that were reported and have not arrived."""
        mono = self._outbox.mono
        while self._looks and self._looks[0][0] <= mono:
            due, key = heappop(self._looks)
            life = self._orders.get(key)
            if life is not None and life.due == due:
                self.look_up(life)
        asked: set[str] = set()
        while self._missing and self._missing[0][0] <= mono:
            self._ask_missing(heappop(self._missing)[1], asked)

    def _ask_missing(self, key: str, asked: set[str]) -> None:
        life = self._orders.get(key)
        if life is None or not life.missing:
            return
        heappush(self._missing, (self._outbox.mono + 2 * MISSING_US, key))
        if life.intent.ticker not in asked:
            asked.add(life.intent.ticker)
            self._read_fills(life.intent.ticker)

    def renew_all(self, life_us: int) -> None:
        """Give the resting orders that have less than half of their life left a later expiration."""
        now = self._outbox.now
        for life in self._orders.resting():
            key = life.intent.client_order_id
            soon = life.expires is not None and life.expires - now < life_us // 2
            if soon and not life.cancelling and key not in self._renewing:
                self._renewing.add(key)
                self._renew(life, now + life_us)

    def _renew(self, life: OrderLife, expires: int) -> None:
        out, intent = self._outbox, life.intent
        request = Amend(
            number=out.number(),
            order_id=life.order_id,
            ticker=intent.ticker,
            side=intent.side,
            price=intent.price,
            count=intent.size if life.order is None else life.order.filled + life.order.remaining,
            expires=expires,
        )
        out.send(request, partial(self._on_renewed, life, expires))

    def _on_renewed(self, life: OrderLife, expires: int, result: Result) -> None:
        self._renewing.discard(life.intent.client_order_id)
        if isinstance(result, Succeeded):
            life.expires = expires
        elif life.state == "resting":
            self._look_up_later(life)

    # Health

    def _failed(self, result: Result) -> None:
        self._errors += 1
        if self._errors >= MAX_ERRORS:
            reason = result.reason if isinstance(result, Lost) else str(result)
            self._health.degrade("orders", f"{self._errors} consecutive errors, {reason}")

    def _worked(self) -> None:
        self._errors = 0
        if not self._health.is_healthy("orders"):
            self._health.heal("orders")

    def answered(self) -> None:
        """Note that the exchange answers requests about the account again."""
        if not self.in_flight:
            self._worked()

    def overdue(self, reason: str) -> None:
        """Note that the order in flight has no answer for too long."""
        self._health.degrade("orders", reason)

    @property
    def failing(self) -> bool:
        """Whether the last request about an order got no useful answer."""
        return self._errors > 0


def _acknowledged(intent: Intent, ack: Placed, now: int) -> Order:
    """Return the order that an accepting answer describes."""
    status = "resting" if ack.remaining else "executed" if ack.filled >= intent.size else "canceled"
    return Order(
        order_id=ack.order_id,
        ticker=intent.ticker,
        side=intent.side,
        price=intent.price,
        status=status,
        initial=intent.size,
        filled=ack.filled,
        remaining=ack.remaining,
        client_order_id=intent.client_order_id,
        created_ts=now,
        updated_ts=now,
    )
