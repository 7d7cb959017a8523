"""Fees of fills: formulas and rounding.

The model fee of `C` contracts at `P` dollars is ``rate · m · C · P · (1 − P)`` with the series' or event's
multiplier `m`.  The rate depends on the fee type and on whether the fill took liquidity:

================================== ======= ========
fee type                           taker   maker
================================== ======= ========
quadratic                          0.07    0
quadratic_with_maker_fees          0.07    0.0175
quadratic_with_combo_maker_fees    0.07    0.035
================================== ======= ========

Rounding, per fill (the exchange's fee-rounding page, October 2026):

1. The trade fee is rounded up to a millionth of a dollar.
2. The fill's cash effect, revenue less fee (revenue is negative for a buy), is rounded down to the account's grid:
   $0.0001 for direct members, $0.01 through a broker.  The difference is charged as a rounding fee.
3. Rounding fees accumulate per order.  Whole grid units of the accumulator are rebated with a later fill, never below
   a fee of zero, so many small fills of one order cost as much as one fill of the same size.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from numbers import Integral
from typing import Final, Literal

from kalshilab.errors import ConfigError, UnitError
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
    """Return the fee in money units per price · (a dollar − price) · size, in integer units."""
    try:
        taking, making = _RATES[fee_type]
    except KeyError:
        raise ConfigError("fee_type", fee_type, "one of " + ", ".join(_RATES)) from None
    try:
        # A multiplier is a JSON number such as 0.5 or 1.1: its decimal counts, not the binary fraction.
        rate = (taking if taker else making) * Fraction(str(multiplier))
    except ValueError:
        raise ConfigError("multiplier", multiplier, "a number") from None
    # C·P·(1−P) dollars = size/100 · p/10⁴ · (10⁴−p)/10⁴ dollars; times 10⁶ for money units.
    return rate / (SIZE * PRICE * PRICE) * 1_000_000


def trade_fee(
    price: int, size: int, *, taker: bool = True, multiplier: float = 1.0, fee_type: str = "quadratic"
) -> int:
    """Return the model fee of a fill before rounding to the account's grid, rounded up to a money unit.

    >>> trade_fee(5200, 100), trade_fee(4400, 400)
    (17472, 68992)
    """
    exact = _rate(fee_type, taker, multiplier) * (price * (PRICE - price) * size)
    return -(-exact.numerator // exact.denominator)


class FeeAccumulator:
    """Rounding fees of one order, across its taker and maker fills.

    Args:
        grid: "direct" ($0.0001, API members) or "cent" ($0.01, through a broker).

    >>> order = FeeAccumulator()
    >>> order.charge(5200, 100, buy=True)
    17500
    """

    __slots__ = ("_grid", "held")

    def __init__(self, grid: FeeGrid = "direct") -> None:
        self._grid = _GRIDS[grid]
        self.held = 0
        """Rounding fees charged and not yet rebated, in money units."""

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
        """Return the net fee of one fill, in money units.

        Args:
            price: YES price in price units.
            size: size units.
            taker: whether the fill took liquidity.
            buy: whether YES is bought; without `cost`, the fill costs `price`, or a dollar less `price` for NO.
            multiplier: the fee multiplier of the event or series.
            fee_type: the fee type of the series.
            cost: cash paid before fees, in money units, where the fill is not a plain purchase; negative if cash is
                received for closing a position.
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


def _check_units(what: str, value: object, rule: str, *, high: int | None = None) -> None:
    # numpy's integers are accepted as well.
    if not isinstance(value, Integral) or not 0 <= int(value) <= (int(value) if high is None else high):
        raise UnitError(what, value, f"a whole number of {rule}")


def fill_fee(
    price: int,
    size: int,
    *,
    taker: bool = True,
    multiplier: float = 1.0,
    fee_type: str = "quadratic",
    grid: FeeGrid = "direct",
) -> int:
    """Return the net fee of a purchase by a new order in one fill, in money units.

    Args:
        price: YES or NO price in price units (`kl.cents(52)`); the fee is symmetric.
        size: size units (`kl.contracts(1)`).
        taker: whether the fill took liquidity.
        multiplier: the fee multiplier of the event or series.
        fee_type: the fee type of the series.
        grid: "direct" ($0.0001, API members) or "cent" ($0.01, through a broker).

    >>> from kalshilab.units import cents, contracts
    >>> fill_fee(cents(52), contracts(1)), fill_fee(cents(56), contracts(10), grid="cent")
    (17500, 180000)

    Raises:
        UnitError: the price or the size is not a whole number of its unit, or out of range.
        ConfigError: the fee type has no known formula ("flat" is defined by tables), or `multiplier` or `grid` is
            invalid.
    """
    _check_units("price", price, f"price units from 0 to {PRICE:,}, as from kl.cents", high=PRICE)
    _check_units("size", size, "size units from 0, as from kl.contracts")
    if grid not in _GRIDS:
        raise ConfigError("grid", grid, " or ".join(_GRIDS))
    return FeeAccumulator(grid).charge(price, size, taker=taker, multiplier=multiplier, fee_type=fee_type)
