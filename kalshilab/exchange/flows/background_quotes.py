"""Background quotes of a market of which only prints are known, inferred from past prints.

Just before a print by a YES taker at `p` the best ask is `p`; the best bid is the price of the last NO taker if
that is near, otherwise the market's spread below.  (A print by a NO taker is the mirror image.)  The spread is
the mean bounce between consecutive prints of opposite takers.  Displayed sizes follow those of past prints, in
powers of two of ten contracts, because real displays change little in quiet markets.  Round prices show more
size, because people bid there.

The quotes stay until a print moves them.  So no print crosses them, and the quotes between two prints depend only
on prints up to the first of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from kalshilab.lazy import renamed
from kalshilab.units import TickGrid

__all__ = ["BackgroundQuotes"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

LEARNING: Final = 0.2
"""Weight of the newest bounce in the spread."""
WIDEST: Final = 2_000
"""Price units: a larger bounce is a price move, not a spread."""
FIRST_SIZE: Final = 5_000.0
ROUND: Final = 500
SMALLEST: Final = 1_000
LARGEST: Final = 1_000_000

Ladder = tuple[tuple[int, int], ...]
"""Levels from the best one outwards: price, and the displayed size as a multiple of the market's size."""
_LADDERS: Final[dict[tuple[TickGrid, int, int], tuple[dict[int, Ladder], dict[int, Ladder]]]] = {}


class BackgroundQuotes:
    """Infers one market's background book from its past prints.

    Args:
        grid: the market's price grid.
        spread_price_units: difference between best bid and best ask until prints show a bounce.
        depth: levels on each side.

    >>> quotes = BackgroundQuotes(TickGrid.named("linear_cent"), 200, depth=2)
    >>> quotes.around(4_500, "yes")
    ({4300: 4000, 4200: 4000}, {4500: 8000, 4600: 4000})
    >>> quotes.learn(4_500, 1_000, "yes")
    >>> quotes.around(4_400, "no")
    ({4400: 4000, 4300: 4000}, {4500: 8000, 4600: 4000})
    >>> quotes.learn(4_400, 1_000, "no"); quotes.spread
    180
    """

    __slots__ = (
        "_above", "_ask", "_below", "_bid", "_depth", "_grid", "_last", "_last_taker", "_mean", "_size",
        "_spread", "_step",
    )  # fmt: skip

    def __init__(self, grid: TickGrid, spread_price_units: int, depth: int) -> None:
        self._grid, self._depth = grid, depth
        self._spread = float(spread_price_units)
        self._step = max(100, grid.lowest)
        self._mean = FIRST_SIZE
        self._bid = self._ask = self._last = self._size = 0
        self._last_taker = ""
        # Levels depend only on the best price, so all markets of a grid share them.
        self._below, self._above = _LADDERS.setdefault((grid, self._step, depth), ({}, {}))

    @property
    def spread(self) -> int:
        """Price units between best bid and best ask, as estimated from prints so far."""
        return round(self._spread)

    def stays(self, price: int, taker: str) -> bool:
        """Return whether the quotes of the last `around` fit a print unchanged."""
        return self._size > 0 and price == (self._ask if taker == "yes" else self._bid)

    def around(self, price: int, taker: str) -> tuple[dict[int, int], dict[int, int]]:
        """Return bids and asks, size by YES price, whose best quote a print by `taker` at `price` hits."""
        size = self._size = self._size or self._shown()
        spread = round(self._spread)
        # The print's price is kept even if it is off the grid: the tape is right.
        if taker == "yes":
            self._ask = price
            if not 0 < price - self._bid <= 2 * spread:
                self._bid = _floor(self._grid, price - spread)
        else:
            self._bid = price
            if not self._ask or not 0 < self._ask - price <= 2 * spread:
                self._ask = _ceil(self._grid, price + spread)
        bids = self._below.get(self._bid) or self._ladder(self._bid, -1)
        asks = self._above.get(self._ask) or self._ladder(self._ask, 1)
        return {p: n * size for p, n in bids}, {p: n * size for p, n in asks}

    def _ladder(self, best: int, way: int) -> Ladder:
        """Return the levels from the best one outwards; empty without a best price."""
        grid, levels = self._grid, [best] if best else []
        for level in range(1, self._depth if best else 0):
            price = best + way * level * self._step
            price = grid.floor(price) if way < 0 else grid.ceil(price)
            if (price - levels[-1]) * way > 0:
                levels.append(price)
        made = tuple((p, 2 if p % ROUND == 0 else 1) for p in levels)
        (self._below if way < 0 else self._above)[best] = made
        return made

    def _shown(self) -> int:
        size = SMALLEST
        while size * 2 <= self._mean and size < LARGEST:
            size *= 2
        return size

    def learn(self, price: int, size: int, taker: str) -> None:
        """Update the estimates with a print."""
        self._mean += 0.1 * (size - self._mean)
        if taker != self._last_taker:
            bounce = price - self._last if taker == "yes" else self._last - price
            if self._last and 0 < bounce <= min(WIDEST, 3 * self._spread):
                self._spread += LEARNING * (bounce - self._spread)
            self._last_taker = taker
        self._last = price
        if not self._size <= self._mean < 2 * self._size and self._shown() != self._size:
            # The new size is displayed from the next print on.
            self._size = 0

    def __repr__(self) -> str:
        return f"BackgroundQuotes({self._bid}/{self._ask}, spread {self.spread})"


# There are few grids and few prices, and a lookup is several times faster than the computation.
@lru_cache(maxsize=65_536)
def _floor(grid: TickGrid, price: int) -> int:
    """Return the best bid at or below a price; 0, an empty side, below the grid."""
    return grid.floor(price) if price >= grid.lowest else 0


@lru_cache(maxsize=65_536)
def _ceil(grid: TickGrid, price: int) -> int:
    """Return the best ask at or above a price; 0, an empty side, above the grid."""
    return grid.ceil(price) if price <= grid.highest else 0
