"""Seeded schedules of faults between a session and an exchange.

A fault has a kind, a time and a length.  Three groups of kinds exist.  A fault of `ONCE` strikes one request: the first
that matches its target at its time or later.  A fault of `WINDOWS` lasts from its time for its length.  A fault of
`INSTANTS` happens at its time.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Final

__all__ = ["INSTANTS", "KINDS", "ONCE", "WINDOWS", "Fault", "describe", "random_faults"]

ONCE: Final = {
    "delay": "the answer arrives `length_s` later",
    "held": "the request arrives `length_s` later, and the client may have given up by then",
    "late": "the client sees a reset, and the request arrives `length_s` later",
    "lost": "the client sees a reset, and the request never arrives",
    "answer_lost": "the request arrives, and the client sees a reset in place of the answer",
    "truncated": "the request arrives, and half of the answer precedes the end of the connection",
    "half_close": "the request arrives, and the connection ends for reading without an answer",
    "bytewise": "the answer arrives byte by byte for `length_s`, then the rest at once",
    "doubled": "the answer is sent twice on the kept connection",
    "page_429": "a page refuses the request, which never arrives",
    "page_500": "a page replaces the request, which never arrives",
    "page_502": "a page replaces the request, which never arrives",
    "page_503": "a page replaces the request, which never arrives",
    "page_302": "a redirect replaces the request, which never arrives",
    "page_404": "a page replaces the request, which never arrives",
    "page_200": "a page with status 200 replaces the request, which never arrives",
    "page_504_after": "the request arrives, and a page replaces the answer",
    "page_200_after": "the request arrives, and a page with status 200 replaces the answer",
    "unreadable": "the request arrives, and one number of the answer is not a number",
}
WINDOWS: Final = {
    "stall": "requests wait until the window ends",
    "rest_away": "requests are reset while the feed lives",
    "feed_away": "the feed is cut and its handshakes are reset while REST lives",
    "feed_stall": "the feed falls silent until the window ends",
    "feed_bytewise": "the feed arrives byte by byte",
    "unreachable": "all connections are reset and new ones are refused",
    "maintenance": "each request and handshake gets a page with status 503",
    "redirects": "each request and handshake is redirected to a page",
    "lagging": "listings are as of the start of the window",
    "frames_lost": "messages of a type are lost",
    "frames_late": "messages of a type arrive when the window ends",
    "frames_doubled": "messages of a type arrive twice",
}
INSTANTS: Final = {
    "feed_reset": "the feed is reset",
    "feed_truncated": "the feed ends in the middle of a message",
    "idle_reset": "the kept connections are reset",
}
KINDS: Final = {**ONCE, **WINDOWS, **INSTANTS}

FRAMES: Final = {
    "lifecycle": r"^(market_lifecycle_v2|event_lifecycle)$",
    "fills": r"^fill$",
    "orders": r"^user_order$",
    "account": r"^(fill|user_order|market_position)$",
    "public": r"^(trade|orderbook_delta)$",
}
"""Message types by the name of the group that is lost, late or doubled."""
PRIVATE: Final = ("lifecycle", "fills", "orders", "account")
"""The groups that have no sequence numbers, so that only they can be late or doubled."""
PLACING: Final = r"^POST "
READING: Final = r"^GET "
ACCOUNT: Final = r"/portfolio/(orders|fills|positions|settlements|balance)"
LISTINGS: Final = r"^GET \S*/portfolio/(orders|fills|positions|settlements)"
ANYTHING: Final = ""
AFTER: Final = frozenset(
    ("answer_lost", "truncated", "half_close", "page_504_after", "page_200_after", "unreadable")
)
"""Kinds that lose the answer to a request that has arrived."""
NEVER_ARRIVES: Final = frozenset(
    (
        "lost",
        "page_200",
        "page_500",
        "page_502",
        "page_503",
        "page_302",
        "rest_away",
        "maintenance",
        "redirects",
    )
)
"""Kinds after which an order that was sent is unknown until its signature has expired."""
CUTS: Final = frozenset(("unreachable", "idle_reset"))
"""Kinds that can cut a connection on which a request has been sent and not read."""
LATEST_S: Final = 18.0
"""Seconds after which a late request still arrives within the window of its signature."""
LAG_S: Final = 3.0
"""Seconds for which the listing of orders lags at most; the exchange lists an order within four."""


@dataclass(frozen=True, order=True)
class Fault:
    """One fault of a schedule.

    Attributes:
        at_s: seconds after the start of the proxy.
        kind: a key of `KINDS`.
        length_s: seconds; see the kind.
        target: a regular expression over "METHOD target" of a request, or over the type of a message; "" matches all.
    """

    at_s: float
    kind: str
    length_s: float = 0.0
    target: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")

    @property
    def until_s(self) -> float:
        """The end of the fault, in seconds after the start of the proxy."""
        return self.at_s + self.length_s

    def __str__(self) -> str:
        target = f" of {self.target}" if self.target else ""
        return f"{self.at_s:7.2f} s  {self.kind}{target}, {self.length_s:.2f} s"


def random_faults(
    seed: int,
    *,
    over_s: float,
    longest_s: float,
    count: tuple[int, int] = (8, 16),
    orders_arrive: bool = False,
) -> list[Fault]:
    """Return a random schedule, in the order of time.

    Args:
        seed: the same seed gives the same schedule.
        over_s: seconds within which all faults begin and end.
        longest_s: seconds that the longest fault lasts.
        count: the fewest and the most faults.
        orders_arrive: whether each order that is sent arrives, so that no outcome takes as long to be known as a
            signature is valid.
    """
    draw = random.Random(f"faults {seed}")
    kinds = [kind for kind in (*ONCE, *WINDOWS, *WINDOWS, *INSTANTS) if not (orders_arrive and kind in CUTS)]
    return sorted(
        _fault(draw, draw.choice(kinds), over_s, longest_s, orders_arrive)
        for _ in range(draw.randint(*count))
    )


def _fault(draw: random.Random, kind: str, over_s: float, longest_s: float, orders_arrive: bool) -> Fault:
    at_s = draw.uniform(0, 0.9 * over_s)
    # Most faults are short, as in practice; the longest take most of a run.
    length_s = math.exp(draw.uniform(math.log(0.1), math.log(longest_s)))
    target = _target(draw, kind, orders_arrive)
    if kind == "late":
        length_s = min(length_s, LATEST_S)
    elif kind == "lagging":
        length_s = min(length_s, LAG_S)
    elif kind in INSTANTS:
        length_s = 0.0
    return Fault(round(at_s, 3), kind, round(min(length_s, over_s - at_s), 3), target)


def _target(draw: random.Random, kind: str, orders_arrive: bool) -> str:
    if kind == "frames_lost":
        return draw.choice(list(FRAMES.values()))
    if kind.startswith("frames_"):
        return draw.choice([FRAMES[name] for name in PRIVATE])
    if kind == "lagging":
        return LISTINGS
    if orders_arrive and (kind in NEVER_ARRIVES or kind == "late"):
        return READING
    if kind in WINDOWS:
        return ANYTHING
    return draw.choice([PLACING, PLACING, PLACING, ACCOUNT, READING, ANYTHING])


def describe(faults: list[Fault]) -> str:
    """Return a schedule as text, one fault a line."""
    return "\n".join(str(fault) for fault in sorted(faults))
