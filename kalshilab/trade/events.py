"""Records of a session: decisions, intents and their outcomes, state changes.

The journal stores these values, the report's frames are built from them, and the panels show them.  `ts` is exchange
time and `wall` machine time, both in microseconds since 1970; prices are YES prices in 1/10,000 dollar, and sizes are
in 1/100 contract.
"""

from __future__ import annotations

import hashlib
from numbers import Integral, Real
from typing import Any, Literal

import msgspec

from kalshilab.signals import Fire

__all__ = [
    "Action",
    "Decision",
    "Fired",
    "Intent",
    "Outcome",
    "Sampled",
    "Transition",
    "client_order_id",
]

CLIENT_PREFIX = "kl-"
"""Prefix of every client order id of a session; the clean-up at start cancels only orders that have it."""

Own = bool | float | int | str | None
"""A value of a signal's own field, as JSON stores it."""


class Fired(Fire, frozen=True):
    """A fire of any signal as the journal stores it; `own` holds the signal's own fields."""

    own: dict[str, Own] = msgspec.field(default_factory=dict)
    strategy: str = ""

    def __getattr__(self, name: str) -> Own:
        """Return one of the signal's own fields, so that a strategy can compare a stored fire with a new one."""
        try:
            return self.own[name]
        except KeyError:
            raise AttributeError(f"the fire has no field {name!r}") from None

    @classmethod
    def of(cls, fire: Fire, strategy: str = "") -> Fired:
        """Return a fire with its signal's own fields apart, converted to plain numbers and text.

        Args:
            fire: the fire.
            strategy: the name of its strategy; "" in a session with one strategy.
        """
        if isinstance(fire, Fired):
            return msgspec.structs.replace(fire, strategy=strategy)
        values = {name: _plain(value) for name, value in msgspec.structs.asdict(fire).items()}
        common: dict[str, Any] = {name: values.pop(name) for name in Fire.__struct_fields__}
        return cls(**common, own=values, strategy=strategy)


def _plain(value: object) -> Own:
    """Return a value as JSON stores it; a signal in Python may hold numpy numbers or other objects."""
    if value is None or type(value) in (bool, int, float, str):
        return value  # type: ignore[return-value]
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)


Action = Literal["placed", "skipped", "deferred", "expired", "refused", "rejected", "unknown"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The decision about one fire, with its reason.

    `action` is one of

    * placed: the exchange accepted the order (it may still rest unfilled);
    * skipped: the strategy found no price worth an order (`reason`: spread, no book, weaker signal, …);
    * deferred: a temporary obstacle (rate limit, no book yet); the desk retries while the fire is fresh;
    * expired: deferred until the fire was no longer fresh;
    * refused: a risk limit forbade the order (`reason`: cash, orders, position, not ready);
    * rejected: the exchange refused it (`reason`: its code);
    * unknown: the exchange did not answer, and later look-ups did not find the order.

    `side` is "bid" (buy YES), "ask" (sell YES, which buys NO) or "" where no order was made.  `yes_ratio` (a fraction) and
    `drop` (price units) are those of the fire, if its signal has them.
    """

    ts: int
    ticker: str
    action: Action
    reason: str = ""
    side: str = ""
    price: int = 0
    size: int = 0
    yes_ratio: float | None = None
    drop: int | None = None
    client_order_id: str = ""
    order_id: str = ""
    strategy: str = ""

    @classmethod
    def about(cls, fire: Fire, **facts: Any) -> Decision:
        """Return the decision about a fire; `facts` are its other fields."""
        ratio, drop = getattr(fire, "yes_ratio", None), getattr(fire, "drop", None)
        return cls(ticker=fire.ticker, yes_ratio=ratio, drop=drop, **facts)


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """An order that a session is about to send; the journal stores it before it is sent.

    `side` is "bid" (buy YES) or "ask" (sell YES, which buys NO at one dollar less the price).  `reentry` is whether the order
    adds to a position, and `closes` whether it leaves one.
    """

    client_order_id: str
    ts: int
    ticker: str
    side: str
    price: int
    size: int
    fire: Fired
    reentry: bool = False
    strategy: str = ""
    closes: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an intent: accepted, rejected (with the exchange's code), absent (it never arrived) or unknown."""

    client_order_id: str
    ts: int
    kind: Literal["accepted", "rejected", "absent", "unknown"]
    order_id: str = ""
    filled: int = 0
    remaining: int = 0
    code: str = ""


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """The account at one moment, and the counters that no other entry implies; written once a minute at most.

    `cash` and `value` (of the open positions at their marks) are in money units.  `marks` are the YES prices, in price
    units, of the held markets whose mark has changed since the last sample.
    """

    ts: int
    cash: int
    value: int
    counts: dict[str, int] = {}
    marks: dict[str, int] = {}


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the session's state."""

    ts: int
    wall: int
    source: str
    target: str
    reason: str = ""


def client_order_id(run_id: str, fire: Fire, attempt: int = 0) -> str:
    """Return the client order id of a fire; the same run, fire and attempt always give the same id.

    A restarted session can therefore match an intent in its journal with the order on the exchange, and the exchange
    refuses a second copy of the order as a duplicate.
    """
    text = f"{run_id}|{fire.ticker}|{fire.ts}|{fire.n_trades}|{fire.price}|{attempt}"
    return CLIENT_PREFIX + hashlib.blake2b(text.encode(), digest_size=14).hexdigest()
