"""What a session writes down: decisions, intents and their outcomes, state changes.

These values are what the journal holds, what the report's frames are made of and what the panels show.
Instants `ts` are exchange time in microseconds, `wall` the machine's; prices are YES prices.
"""

from __future__ import annotations

import hashlib
from numbers import Integral, Real
from typing import Any, Literal

import msgspec

from kalshilab.signals import Fire

__all__ = ["Action", "Decision", "Fired", "Intent", "Outcome", "Transition", "client_order_id"]

CLIENT_PREFIX = "kl-"
"""Every client order id of ours starts with this; a start-up clean-up cancels nothing else."""

Own = bool | float | int | str | None
"""A value of a signal's own field."""


class Fired(Fire, frozen=True):
    """A fire of any signal as it is written down: `own` holds its signal's own fields."""

    own: dict[str, Own] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, fire: Fire) -> Fired:
        """The fire, its signal's own fields apart, in plain numbers and texts whatever the signal put there."""
        values = {name: _plain(value) for name, value in msgspec.structs.asdict(fire).items()}
        common: dict[str, Any] = {name: values.pop(name) for name in Fire.__struct_fields__}
        return cls(**common, own=values)


def _plain(value: object) -> Own:
    """A value as JSON has it: a signal in Python may hold numpy's numbers, or things of its own."""
    if value is None or type(value) in (bool, int, float, str):
        return value  # type: ignore[return-value]
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else str(value)


Action = Literal["placed", "skipped", "deferred", "expired", "refused", "rejected", "unknown"]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was done about one fire, and why.

    `action` is one of

    * placed: the exchange accepted the order (it may still rest unfilled);
    * skipped: the strategy saw no price worth an order (`reason`: spread, no book, weaker signal, …);
    * deferred: something passing was in the way (rate limit, no book yet); tried again while the fire is fresh;
    * expired: deferred for too long;
    * refused: a limit of ours forbade it (`reason`: cash, orders, position, not ready);
    * rejected: the exchange refused it (`reason`: its code);
    * unknown: no answer, and the order could not be found afterwards either.

    `yes_ratio` and `drop` are the fire's, where its signal has them.
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


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """An order we mean to send, written to the journal before it is.

    `side` is "bid" (buy YES) or "ask" (sell YES, which is to buy NO at a dollar less the price).
    """

    client_order_id: str
    ts: int
    ticker: str
    side: str
    price: int
    size: int
    fire: Fired
    reentry: bool = False


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The one known outcome of an intent: accepted, rejected (with the exchange's code), or never arrived."""

    client_order_id: str
    ts: int
    kind: Literal["accepted", "rejected", "absent", "unknown"]
    order_id: str = ""
    filled: int = 0
    remaining: int = 0
    code: str = ""


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the session's state."""

    ts: int
    wall: int
    source: str
    target: str
    reason: str = ""


def client_order_id(run_id: str, fire: Fire, attempt: int = 0) -> str:
    """The client order id of a fire: the same run, fire and attempt always give the same id.

    So a restarted session that finds the intent in its journal and the order on the exchange knows that they
    are one, and a second sending of it is refused by the exchange as a duplicate.
    """
    text = f"{run_id}|{fire.ticker}|{fire.ts}|{fire.n_trades}|{fire.price}|{attempt}"
    return CLIENT_PREFIX + hashlib.blake2b(text.encode(), digest_size=14).hexdigest()
