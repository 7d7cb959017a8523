"""What the exchange charges for a fill.

The model fee of `C` contracts at `P` dollars is ``rate · m · C · P · (1 − P)`` with the series' or event's
multiplier `m`; the rate depends on the fee type and on whether the fill took liquidity:

================================== ======= ========
fee type                           taker   maker
================================== ======= ========
quadratic                          0.07    0
quadratic_with_maker_fees          0.07    0.0175
quadratic_with_combo_maker_fees    0.07    0.035
================================== ======= ========

Rounding, per fill (the exchange's fee-rounding page, October 2026): the trade fee is rounded up to a
millionth of a dollar; then the fill's whole cash effect, revenue less fee (revenue is negative for a buy), is
rounded down to the account's grid, $0.0001 for direct members or $0.01 through a broker, and the difference
is charged as a rounding fee.  Rounding fees gather in an accumulator that belongs to the order; whole grid
units in it are given back with a later fill, never below a fee of zero.  So many small fills of one order
cost what one fill of the same size would.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Final, Literal

from kalshilab.errors import ConfigError
from kalshilab.units import PRICE, SIZE

__all__ = ["FEE_TYPES", "FeeAccumulator", "FeeGrid", "fill_fee", "trade_fee"]

FeeGrid = Literal["direct", "cent"]

_RATES: Final[dict[str, tuple[Fraction, Fraction]]] = {
    "quadratic": (Fraction(7, 100), Fraction(0)),
    "quadratic_with_maker_fees": (Fraction(7, 100), Fraction(175, 10_000)),
    "quadratic_with_combo_maker_fees": (Fraction(7, 100), Fraction(35, 1000)),
}
FEE_TYPES: Final = tuple(_RATES)
"""Fee types with a known formula; "flat" is defined by tables."""
_GRIDS: Final[dict[str, int]] = {"direct": 100, "cent": 10_000}


@lru_cache(maxsize=1024)
def _rate(fee_type: str, taker: bool, multiplier: float) -> Fraction:
    """Money units of fee per price · (a dollar − price) · size in our integer units."""
    try:
        taking, making = _RATES[fee_type]
    except KeyError:
        raise ConfigError("fee_type", fee_type, "one of " + ", ".join(_RATES)) from None
    # A multiplier arrives as a JSON number such as 0.5 or 1.1: its decimal is meant.
    rate = (taking if taker else making) * Fraction(str(multiplier))
    # C·P·(1−P) dollars = size/100 · p/10⁴ · (10⁴−p)/10⁴ dollars; times 10⁶ for money units.
    return rate / (SIZE * PRICE * PRICE) * 1_000_000


def trade_fee(
    price: int, size: int, *, taker: bool = True, multiplier: float = 1.0, fee_type: str = "quadratic"
) -> int:
    """The model fee of a fill before it is put on the account's grid, rounded up to a money unit.

    >>> trade_fee(5200, 100), trade_fee(4400, 400)
    (17472, 68992)
    """
    exact = _rate(fee_type, taker, multiplier) * (price * (PRICE - price) * size)
    return -(-exact.numerator // exact.denominator)


class FeeAccumulator:
    """The rounding account of one order; it follows the order from taker to maker fills.

    >>> order = FeeAccumulator()
    >>> order.charge(5200, 100, buy=True)
    17500
    """

    __slots__ = ("_grid", "held")

    def __init__(self, grid: FeeGrid = "direct") -> None:
        self._grid = _GRIDS[grid]
        self.held = 0
        """Rounding fees charged and not yet given back, in money units."""

    def charge(
        self,
        price: int,
        size: int,
        *,
        taker: bool = True,
        buy: bool = True,
        multiplier: float = 1.0,
        fee_type: str = "quadratic",
        cost: int | None = None,
    ) -> int:
        """The net fee of one fill, in money units.

        Args:
            price: YES price in price units.
            size: size units.
            buy: whether YES is bought; with `cost` None, the side paid for: `price` or a dollar less it.
            cost: the fill's cash effect before fees where it is not a plain purchase (positive: paid;
                negative: received for what was held).
        """
        fee = trade_fee(price, size, taker=taker, multiplier=multiplier, fee_type=fee_type)
        if cost is None:
            cost = (price if buy else PRICE - price) * size
        change = -cost - fee
        aligned = change // self._grid * self._grid
        self.held += change - aligned
        net = fee + (change - aligned)
        rebate = min(self.held // self._grid * self._grid, net // self._grid * self._grid)
        self.held -= rebate
        return net - rebate


def fill_fee(
    price: int,
    size: int,
    *,
    taker: bool = True,
    multiplier: float = 1.0,
    fee_type: str = "quadratic",
    grid: FeeGrid = "direct",
) -> int:
    """The net fee of a purchase in one fill of a fresh order, in money units.

    Args:
        price: price units; YES or NO makes no difference, the fee is symmetric.
        size: size units.
        taker: whether the fill took liquidity.
        multiplier: the event's or series' fee multiplier.
        fee_type: as on the series.
        grid: "direct" ($0.0001, API members) or "cent" ($0.01, through a broker).

    >>> from kalshilab.units import cents, contracts
    >>> fill_fee(cents(52), contracts(1)), fill_fee(cents(56), contracts(10), grid="cent")
    (17500, 180000)

    Raises:
        ConfigError: a fee type without a known formula ("flat" is defined by tables).
    """
    return FeeAccumulator(grid).charge(price, size, taker=taker, multiplier=multiplier, fee_type=fee_type)
