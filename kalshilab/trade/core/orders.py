"""The life of each order: from an intent to its one known outcome, and from there to its end.

    sending ──accepted──▶ resting ──▶ ended
       │ ╲                   ▲           ▲
       │  ╲─refused──────────┼───────────┤
       └──no answer──▶ unknown ──────────┘   looked up until it is found, or shown to be absent

An order without an answer is never sent again.  It is looked up by its client order id until it is found.  That a look-up
does not find it proves nothing while the request may still arrive: the exchange accepts a signature for `WINDOW_US`, and
its listings lag.  Only a look-up that was sent `ABSENT_US` after the request ends the question, and until then the
market of the order is blocked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Final, Literal

from kalshilab.market.fees import fill_fee
from kalshilab.market.model import Fill, Order, outcome_price
from kalshilab.signals import Fire
from kalshilab.trade.core.messages import Placed
from kalshilab.trade.events import CLIENT_PREFIX, Intent, Outcome

__all__ = ["ABSENT_US", "OrderLife", "Orders", "acknowledged", "order_key", "run_prefix"]

WINDOW_US: Final = 20_000_000
"""Microseconds after its signature for which the exchange accepts a request."""
ABSENT_US: Final = WINDOW_US + 4_000_000
"""Microseconds after which a request can no longer arrive, and the listings show what arrived before."""
LOOK_UP_AFTER_US: Final = (200_000, 500_000, 1_000_000, 2_000_000, 4_000_000)
"""Monotonic microseconds before each look-up; the last repeats."""
DECISIVE_US: Final = 500_000
"""Monotonic microseconds between the look-ups that can show that an order is absent."""
DENSE_US: Final = 10_000_000
"""Monotonic microseconds for which they follow each other so closely."""

State = Literal["sending", "unknown", "resting", "ended"]


class OrderLife:
    """One order of the session.

    Attributes:
        intent: what was sent.
        owner: the strategy that sent it.
        sent: monotonic time of its request; None: an earlier life of the run sent it, and it was not looked up since.
        state: see the module.
        order: the last state that the exchange reported, or None.
        counted: the size of its fills that the account has counted.
        expires: its expiration in microseconds, or None.
        cancelling: the number of the cancel request in flight, or 0.
    """

    __slots__ = (
        "cancelling", "counted", "due", "expires", "intent", "looks", "order", "order_id", "outcome", "owner", "sent",
        "state",
    )  # fmt: skip

    def __init__(self, intent: Intent, owner: str, sent: int | None, expires: int | None = None) -> None:
        self.intent, self.owner, self.sent, self.expires = intent, owner, sent, expires
        self.state: State = "sending"
        self.order: Order | None = None
        self.order_id = ""
        self.outcome = ""
        self.counted = 0
        self.cancelling = 0
        self.looks, self.due = 0, 0

    @property
    def remaining(self) -> int:
        """The size that may still trade; all of it while the outcome is not known."""
        if self.state == "ended":
            return 0
        filled = self.counted if self.order is None else max(self.counted, self.order.filled)
        size = self.intent.size if self.order is None else self.order.initial
        return max(size - filled, 0)

    @property
    def missing(self) -> int:
        """The filled size that the exchange reports and the account has not counted."""
        return 0 if self.order is None else max(self.order.filled - self.counted, 0)

    @property
    def uncounted(self) -> int:
        """The size that may still trade, or has traded and is not part of the account's positions yet."""
        return self.remaining + self.missing

    @property
    def bound(self) -> int:
        """The cash that the order may still cost the recorded account, fees included, in money units."""
        size = self.uncounted
        if not size:
            return 0
        outcome = "yes" if self.intent.side == "bid" else "no"
        return outcome_price(self.intent.price, outcome) * size + fill_fee(self.intent.price, size)

    def look_up_at(self, mono: int) -> None:
        """Schedule the next look-up.

        One is sent as soon as it can show that the order never arrived.  From then on they are close together for a while:
        a session that is about to end has few seconds left to find out.
        """
        self.due = mono + LOOK_UP_AFTER_US[min(self.looks, len(LOOK_UP_AFTER_US) - 1)]
        if self.sent is not None and not self.order_id:
            decisive = self.sent + ABSENT_US
            if mono < decisive:
                self.due = min(self.due, decisive)
            elif mono < decisive + DENSE_US:
                self.due = min(self.due, mono + DECISIVE_US)
        self.looks += 1

    def __repr__(self) -> str:
        return f"OrderLife({self.intent.client_order_id}, {self.state}, {self.outcome})"


class Orders:
    """All orders of the run that have not ended, and the ids of those that have."""

    def __init__(self) -> None:
        self.live: dict[str, OrderLife] = {}
        """Orders by client order id that are not ended, or whose fills are not all counted."""
        self._by_id: dict[str, OrderLife] = {}
        self._owners: dict[str, str] = {}
        """The owner of every order id of the run, for fills that are reported late."""
        self._ids_in: dict[str, list[str]] = {}
        self._by_ticker: dict[str, set[str]] = {}
        self._unsettled: set[str] = set()
        self._unreported: dict[str, OrderLife] = {}
        self.accepted = 0

    def add(self, life: OrderLife) -> None:
        """Add an order that is about to be sent, or one of an earlier life of the run."""
        key = life.intent.client_order_id
        self.live[key] = life
        self._by_ticker.setdefault(life.intent.ticker, set()).add(key)
        self._unsettled.add(key)

    def get(self, client_order_id: str) -> OrderLife | None:
        """Return a live order by its client order id."""
        return self.live.get(client_order_id)

    def by_id(self, order_id: str) -> OrderLife | None:
        """Return a live order by the exchange's id."""
        return self._by_id.get(order_id)

    def owner_of(self, order_id: str) -> str | None:
        """Return the strategy of any order of the run, or None for an order of another program."""
        return self._owners.get(order_id)

    def of(self, ticker: str) -> list[OrderLife]:
        """Return the live orders in a market."""
        return [self.live[key] for key in sorted(self._by_ticker.get(ticker, ()))]

    def uncertain(self, ticker: str) -> bool:
        """Return whether an order in a market has no known outcome."""
        return any(self.live[key].state in ("sending", "unknown") for key in self._by_ticker.get(ticker, ()))

    def resting(self) -> Iterator[OrderLife]:
        """Yield the orders that rest at the exchange."""
        return (life for life in self.live.values() if life.state == "resting")

    @property
    def unknown(self) -> list[OrderLife]:
        """The orders without a known outcome."""
        return [self.live[k] for k in sorted(self._unsettled)]

    def tickers(self) -> set[str]:
        """Return the markets with a live order."""
        return {ticker for ticker, keys in self._by_ticker.items() if keys}

    def forget(self, ticker: str) -> None:
        """Forget the ids of a market's orders, which have all ended."""
        for order_id in self._ids_in.pop(ticker, ()):
            self._owners.pop(order_id, None)
            self._unreported.pop(order_id, None)

    # Reports of the exchange

    def accept(self, life: OrderLife, order_id: str) -> bool:
        """Record the exchange's id of an order; return whether this was its outcome."""
        new = not life.order_id
        life.order_id = order_id
        self._by_id[order_id] = life
        if order_id not in self._owners:
            self._ids_in.setdefault(life.intent.ticker, []).append(order_id)
        self._owners[order_id] = life.owner
        self._unsettled.discard(life.intent.client_order_id)
        if life.state in ("sending", "unknown"):
            life.state = "resting"
        if new:
            life.outcome = "accepted"
            self.accepted += 1
        return new

    def claims(self, life: OrderLife, order_id: str) -> bool:
        """Return whether an order id in an answer or a message can be this order's: no other order has it."""
        owner = self.by_id(order_id)
        return bool(order_id) and (
            owner is life or (owner is None and self.owner_of(order_id) is None) or life.order_id == order_id
        )

    def of_fill(self, fill: Fill) -> OrderLife | None:
        """Return the live order of a fill; the fill may be the first message that shows the order's id."""
        life = self.by_id(fill.order_id)
        if life is None and fill.client_order_id:
            life = self.get(fill.client_order_id)
            if life is not None and not life.order_id and self.claims(life, fill.order_id):
                self.accept(life, fill.order_id)
        return life

    def report(self, life: OrderLife, order: Order) -> bool:
        """Record the state of an order as the exchange reports it; return whether it is news.

        Reports may arrive in any order and twice: an order never loses fills, and never rests again.
        """
        last = life.order
        if last is not None:
            older = order.filled < last.filled or (last.status != "resting" and order.status == "resting")
            if older or (order.filled, order.status, order.remaining) == (
                last.filled,
                last.status,
                last.remaining,
            ):
                return False
        life.order = order
        if order.status != "resting":
            self.end(life)
        return True

    def closes(self, order: Order) -> bool:
        """Return whether a report is the first to show the end of an order that its fills have ended already."""
        if order.status == "resting" or order.order_id not in self._unreported:
            return False
        del self._unreported[order.order_id]
        return True

    @property
    def unreported(self) -> list[OrderLife]:
        """The orders that their fills have ended, and whose last report shows them resting."""
        return list(self._unreported.values())

    def give_up_report(self, life: OrderLife) -> None:
        """Expect no further report of an order that has ended."""
        self._unreported.pop(life.order_id, None)

    def end(self, life: OrderLife, outcome: str = "") -> None:
        """End an order; it stays live until its fills are counted."""
        life.state = "ended"
        life.outcome = life.outcome or outcome
        self._unsettled.discard(life.intent.client_order_id)
        self._drop(life)

    def count(self, life: OrderLife, fill: Fill) -> None:
        """Count a fill of an order."""
        life.counted += fill.size
        if life.counted >= life.intent.size and life.state == "resting":
            # Filled completely, although the exchange has not reported it yet.
            life.state = "ended"
        self._drop(life)

    def _drop(self, life: OrderLife) -> None:
        if life.state != "ended" or life.missing:
            return
        key = life.intent.client_order_id
        if self.live.pop(key, None) is None:
            return
        self._by_id.pop(life.order_id, None)
        if life.order_id and (life.order is None or life.order.status == "resting"):
            self._unreported[life.order_id] = life
        keys = self._by_ticker[life.intent.ticker]
        keys.discard(key)
        if not keys:
            del self._by_ticker[life.intent.ticker]

    # Outcomes

    def lose(self, life: OrderLife, mono: int) -> None:
        """Record that an order's request got no answer."""
        if life.state == "sending":
            life.state = "unknown"
        life.look_up_at(mono)

    def absent(self, life: OrderLife, looked: int) -> bool:
        """Return whether a look-up that was sent at `looked` and found nothing proves that an order never arrived."""
        if life.sent is None:
            # The clock of an earlier life is gone.  Its request was sent before this look-up, so it counts from here.
            life.sent = looked
        return looked - life.sent >= ABSENT_US

    @staticmethod
    def outcome(life: OrderLife, kind: str, now: int, *, code: str = "") -> Outcome:
        """Return the outcome of an order for the journal."""
        order = life.order
        filled = life.counted if order is None else max(order.filled, life.counted)
        return Outcome(
            client_order_id=life.intent.client_order_id,
            ts=now,
            kind=kind,  # type: ignore[arg-type]
            order_id=life.order_id,
            filled=filled,
            remaining=life.intent.size - filled
            if order is None and kind == "accepted"
            else 0
            if order is None
            else order.remaining,
            code=code,
        )


def acknowledged(intent: Intent, ack: Placed, now: int) -> Order:
    """Return the order that an accepting answer describes, at an exchange time in microseconds."""
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


def run_prefix(run_id: str) -> str:
    """Return the prefix of the client order ids of a run: only orders with it are the run's.

    >>> run_prefix("run-1")
    'kl-2e2cda26-'
    """
    return f"{CLIENT_PREFIX}{hashlib.blake2b(run_id.encode(), digest_size=4).hexdigest()}-"


def order_key(prefix: str, strategy: str, fire: Fire, attempt: int = 0) -> str:
    """Return the client order id of a fire; the same run, strategy, fire and attempt always give the same id.

    A restarted session can therefore match an intent in its journal with the order at the exchange, and the exchange
    refuses a second copy of the order as a duplicate.

    Args:
        prefix: the run's prefix, as `run_prefix` returns it.
        strategy: the name of the strategy.
        fire: the fire.
        attempt: the number of earlier attempts that certainly had no effect.
    """
    text = f"{strategy}|{fire.ticker}|{fire.ts}|{fire.n_trades}|{fire.price}|{attempt}"
    return prefix + hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
