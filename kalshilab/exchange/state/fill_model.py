"""Who is filled, by what, and by how much: the models of a paper fill, and the two that bound them side by side.

A **taker** walks the displayed depth.  Of what a level of the background shows he gets at most the share that
the haircut leaves; when he wants more, the rest of the level has fled from him.

A **maker** stands behind the size that was displayed when he came.  What fills him depends on the mode:

============ =======================================================================================
pessimistic  a print strictly through the price, by no more than the print's size; nothing else
queue        that; a print at the price, by what it leaves after the size ahead; a quote that meets it
optimistic   that, with nobody ahead: a print that touches the price fills
============ =======================================================================================

On the same flow each order's fills satisfy pessimistic ≤ queue ≤ optimistic at every moment, so what an edge
is worth as a maker lies between the outer two; `kalshilab.exchange.state.shadow_fills` keeps them side by side.

Nothing here looks ahead: an order meets what stood before a print, then the print.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeVar

from kalshilab.errors import ExchangeError

__all__ = ["MODES", "TOLD_TWICE", "FillModel", "Mode", "Waiting", "met", "printed"]

Mode = Literal["pessimistic", "queue", "optimistic"]
Cancels = Literal["behind", "pro_rata"]
MODES: Final[tuple[Mode, ...]] = ("pessimistic", "queue", "optimistic")
WHOLE: Final = 1_000_000
TOLD_TWICE: Final = 1_000_000
"""Microseconds within which a level that shows less and a print there may be one trade."""


@dataclass(frozen=True, slots=True)
class FillModel:
    """How orders are filled.

    Args:
        mode: what fills a maker; see the module.
        haircut: share of each displayed background level that a taker does not get, 0 to below 1.
        latency: microseconds of exchange time an order takes to arrive; whoever brings orders holds them.
        cancels: of a recorded or mirrored level that shrinks without a print, who has left: those "behind" us, as
            long as there can have been any, or everybody "pro_rata".

    >>> FillModel(haircut=0.5).reach(300), FillModel().reach(300)
    (150, 300)

    Raises:
        ExchangeError: an unknown mode, or a number out of range.
    """

    mode: Mode = "queue"
    haircut: float = 0.0
    latency: int = 0
    cancels: Cancels = "behind"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ExchangeError(f"fill mode {self.mode!r}: one of {', '.join(MODES)}")
        if not 0 <= self.haircut < 1:
            raise ExchangeError(f"haircut {self.haircut}: from 0 to below 1")
        if self.cancels not in ("behind", "pro_rata"):
            raise ExchangeError(f"cancels {self.cancels!r}: behind or pro_rata")
        if self.latency < 0:
            raise ExchangeError(f"latency {self.latency} µs: not below zero")

    def reach(self, size: int) -> int:
        """What a taker may have of a level that shows `size`, in size units, rounded down."""
        return size * (WHOLE - round(self.haircut * WHOLE)) // WHOLE


class Waiting(Protocol):
    """An order that rests, or the ghost of one.

    `ahead` is the background size before it at its price.  `cut` is what a change of the displayed level took
    off it at `cut_ts`: a feed tells of one trade twice, as a print and as a level that shows less, in either
    order, and it counts once.
    """

    ahead: int
    cut: int
    cut_ts: int

    @property
    def side(self) -> str:
        """ "bid" or "ask"."""
        ...

    @property
    def price(self) -> int:
        """YES price."""
        ...

    @property
    def remaining(self) -> int:
        """Size still open."""
        ...


W = TypeVar("W", bound=Waiting)


def printed(
    mode: Mode, waiting: Iterable[W], price: int, size: int, taker: str, now: int = 0
) -> list[tuple[W, int]]:
    """Whom a print fills and by how much, best price first, then first come; `ahead` is brought up to date.

    A print strictly through a price fills whichever side took: somebody paid more than our offer asked.
    """
    maker_side = "ask" if taker == "yes" else "bid"
    queue = [
        o
        for o in waiting
        if (o.price < price if o.side == "ask" else o.price > price)
        or (o.price == price and o.side == maker_side)
    ]
    if not queue:
        return []
    # Sorting is stable, so orders at one price keep their time order.
    queue.sort(key=lambda o: o.price if o.side == "ask" else -o.price)
    fills = []
    left, gone = size, 0
    for order in queue:
        if order.price == price:
            # Background ahead of one of our orders is ahead of the later ones too: it trades once.
            cut = order.cut if now - order.cut_ts <= TOLD_TWICE else 0
            passed = min(max(order.ahead + cut - gone, 0), left if mode == "queue" else size)
            if mode == "queue":
                left -= passed
            gone += passed
            order.ahead = min(order.ahead, max(order.ahead + cut - gone, 0))
            order.cut = max(cut - gone, 0)
            if mode == "pessimistic":
                continue
        take = min(order.remaining, left)
        if take > 0:
            fills.append((order, take))
            left -= take
    return fills


def met(mode: Mode, waiting: Iterable[W], bids: dict[int, int], asks: dict[int, int]) -> list[tuple[W, int]]:
    """Whom quotes that move onto or through their prices fill, at those prices; the quotes shrink by it."""
    fills: list[tuple[W, int]] = []
    if mode == "pessimistic":
        return fills
    # The best price meets the quotes first; sorting is stable, so time decides within a price.
    for order in sorted(waiting, key=lambda o: -o.price if o.side == "bid" else o.price):
        buys = order.side == "bid"
        quotes = asks if buys else bids
        crossing = [p for p in quotes if (p <= order.price if buys else p >= order.price)]
        taken = 0
        for price in sorted(crossing, reverse=not buys):
            if taken == order.remaining:
                break
            piece = min(order.remaining - taken, quotes[price])
            taken += piece
            if piece == quotes[price]:
                del quotes[price]
            else:
                quotes[price] -= piece
        if taken:
            fills.append((order, taken))
    return fills
