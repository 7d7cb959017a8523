"""Fill models of paper orders, including the two models that bound the others.

A **taker** walks the displayed depth.  Of each background level it gets at most the share that the haircut
leaves; if it wants more, the rest of the level is withdrawn.

A **maker** queues behind the size that was displayed when it arrived.  The events that fill it depend on the
mode:

============ =======================================================================================
pessimistic  a print strictly through the price, up to the print's size; nothing else
queue        also a print at the price, by its size less the size ahead, and a quote that crosses the price
optimistic   as queue, but with nothing ahead: any print at the price fills
============ =======================================================================================

On the same flow each order's fills satisfy pessimistic ≤ queue ≤ optimistic at every moment.  So the value of
an edge as a maker lies between the outer two.  `kalshilab.exchange.state.shadow_fills` tracks all three side
by side.

No model looks ahead: an order is matched with the book before a print, then with the print.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError
from kalshilab.lazy import renamed

__all__ = ["DUPLICATE_WINDOW_US", "MODES", "FillModel", "Mode", "QueuedOrder", "print_fills", "quote_fills"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

Mode = Literal["pessimistic", "queue", "optimistic"]
Cancels = Literal["behind", "pro_rata"]
MODES: Final[tuple[Mode, ...]] = ("pessimistic", "queue", "optimistic")
WHOLE: Final = 1_000_000
DUPLICATE_WINDOW_US: Final = 1_000_000
"""Microseconds within which a level decrease and a print at the level may be the same trade."""


@dataclass(frozen=True, slots=True)
class FillModel:
    """Rules by which orders are filled.

    Args:
        mode: the events that fill a maker; see the module.
        haircut: share of each displayed background level that a taker does not get, from 0 to below 1.
        latency_us: microseconds of exchange time that an order takes to arrive; the server delays it.
        cancels: who left a recorded or mirrored level that shrinks without a print: orders "behind" ours, as
            long as there can have been any, or all orders "pro_rata".

    >>> FillModel(haircut=0.5).reach(300), FillModel().reach(300)
    (150, 300)

    Raises:
        ExchangeError: an unknown mode, or a number out of range.
    """

    mode: Mode = "queue"
    haircut: float = 0.0
    latency_us: int = 0
    cancels: Cancels = "behind"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ExchangeError(f"mode must be one of {', '.join(MODES)}, got {self.mode!r}")
        if not 0 <= self.haircut < 1:
            raise ExchangeError(f"haircut must be >= 0 and < 1, got {self.haircut}")
        if self.cancels not in ("behind", "pro_rata"):
            raise ExchangeError(f"cancels must be 'behind' or 'pro_rata', got {self.cancels!r}")
        if self.latency_us < 0:
            raise ExchangeError(f"latency_us must be >= 0, got {self.latency_us}")

    @property
    def latency(self) -> int:
        """Former name of `latency_us`."""
        warnings.warn("FillModel.latency is now latency_us", DeprecationWarning, stacklevel=2)
        return self.latency_us

    def reach(self, size: int) -> int:
        """Return the size that a taker may have of a level that shows `size`, rounded down."""
        return size * (WHOLE - round(self.haircut * WHOLE)) // WHOLE


FillModel.__init__ = renamed_keywords(latency="latency_us")(FillModel.__init__)  # type: ignore[method-assign]


class QueuedOrder(Protocol):
    """A resting order, or a shadow of one.

    `ahead` is the background size before it at its price.  `cut` is the reduction of `ahead` by the level
    decrease at `cut_ts`: a feed reports one trade twice, as a print and as a level decrease, in either order,
    and it counts once.
    """

    ahead: int
    cut: int
    cut_ts: int

    @property
    def side(self) -> str:
        """Book side: `bid` or `ask`."""
        ...

    @property
    def price(self) -> int:
        """YES price."""
        ...

    @property
    def remaining(self) -> int:
        """Unfilled size."""
        ...


W = TypeVar("W", bound=QueuedOrder)


def print_fills(
    mode: Mode, waiting: Iterable[W], price: int, size: int, taker: str, now: int = 0
) -> list[tuple[W, int]]:
    """Return the orders that a print fills and their sizes, in price-time priority; update `ahead`.

    A print strictly through a price fills an order whichever side took: somebody paid more than our offer
    asked.
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
    # The sort is stable, so orders at one price keep their time order.
    queue.sort(key=lambda o: o.price if o.side == "ask" else -o.price)
    fills = []
    left, traded_ahead = size, 0
    for order in queue:
        if order.price == price:
            # Background ahead of one of our orders is also ahead of the later ones; it trades once.
            cut = order.cut if now - order.cut_ts <= DUPLICATE_WINDOW_US else 0
            passed = min(max(order.ahead + cut - traded_ahead, 0), left if mode == "queue" else size)
            if mode == "queue":
                left -= passed
            traded_ahead += passed
            order.ahead = min(order.ahead, max(order.ahead + cut - traded_ahead, 0))
            order.cut = max(cut - traded_ahead, 0)
            if mode == "pessimistic":
                continue
        take = min(order.remaining, left)
        if take > 0:
            fills.append((order, take))
            left -= take
    return fills


def quote_fills(
    mode: Mode, waiting: Iterable[W], bids: dict[int, int], asks: dict[int, int]
) -> list[tuple[W, int]]:
    """Return the orders that crossing quotes fill and their sizes, at the orders' prices; reduce the quotes."""
    fills: list[tuple[W, int]] = []
    if mode == "pessimistic":
        return fills
    # The best price is matched first; the sort is stable, so time decides within a price.
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
