"""Prices, sizes and money as integers, and their conversion at the border.

Inside kalshilab every quantity is an `int` in the exchange's smallest step, so sums and comparisons are exact:

======== ======================= ======================================
quantity one unit                example
======== ======================= ======================================
price    1/10,000 dollar         43.5 cents is 4_350; a dollar is 10_000
size     1/100 contract          7.5 contracts are 750
money    1/1,000,000 dollar      one price unit times one size unit
======== ======================= ======================================

`price * size` *is* money: nothing is rounded before fees.  The strings of REST and WebSocket bodies ("0.4350",
"7.50") are parsed once, at the border, by `parse_price`, `parse_size` and `parse_money`.  Numbers that people type
(cents, contracts, dollars) go through `cents`, `contracts` and `dollars`.  None of them rounds: a number that does
not fit the unit raises `UnitError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache

from kalshilab.errors import UnitError

__all__ = [
    "MONEY",
    "PRICE",
    "SIZE",
    "TickGrid",
    "cents",
    "contracts",
    "dollars",
    "format_money",
    "format_price",
    "format_size",
    "parse_money",
    "parse_price",
    "parse_size",
    "show_cents",
    "show_contracts",
    "show_dollars",
]

PRICE = 10_000
"""Price units in a dollar."""
SIZE = 100
"""Size units in a contract."""
MONEY = 1_000_000
"""Money units in a dollar."""

Number = int | float | str | Decimal


def _exact(what: str, value: Number, scale: int, unit: str) -> int:
    if isinstance(value, bool):
        raise UnitError(what, value, f"a number of {unit}")
    try:
        # str() first: 0.1 is the decimal that the user typed, not the nearest binary fraction.
        number = Decimal(str(value)) * scale
        whole = int(number)
    except (InvalidOperation, ValueError, OverflowError):
        raise UnitError(what, value, f"a number of {unit}") from None
    if number != whole:
        raise UnitError(what, value, f"a multiple of 1/{scale} {unit.removesuffix('s')}")
    return whole


def cents(value: Number) -> int:
    """Convert cents to price units, exactly.

    >>> cents(5), cents("43.5"), cents(0.1)
    (500, 4350, 10)

    Raises:
        UnitError: not a number, or finer than a hundredth of a cent.
    """
    return _exact("price", value, PRICE // 100, "cents")


def contracts(value: Number) -> int:
    """Convert contracts to size units, exactly.

    >>> contracts(10), contracts(0.01)
    (1000, 1)

    Raises:
        UnitError: not a number, or finer than a hundredth of a contract.
    """
    return _exact("size", value, SIZE, "contracts")


def dollars(value: Number) -> int:
    """Convert dollars to money units, exactly.

    >>> dollars(100), dollars("0.0175")
    (100000000, 17500)

    Raises:
        UnitError: not a number, or finer than a millionth of a dollar.
    """
    return _exact("money", value, MONEY, "dollars")


def _parse(what: str, text: str, places: int) -> int:
    """Parse a decimal string with at most `places` significant decimals; more trailing zeros are accepted."""
    # The exchange always sends the form "0.4300"; int() of the digits is several times faster than Decimal.
    head, dot, tail = text.partition(".")
    body = head[1:] if head[:1] == "-" else head
    if not (body.isascii() and body.isdigit()) or (dot and tail and not (tail.isascii() and tail.isdigit())):
        raise UnitError(what, text, "a decimal number")
    if len(tail) > places:
        if tail[places:].strip("0"):
            raise UnitError(what, text, f"a number with at most {places} decimals")
        tail = tail[:places]
    return int(head + tail.ljust(places, "0"))


def parse_price(text: str) -> int:
    """Convert the exchange's dollar string of a price to price units, 0 to 10,000 inclusive.

    >>> parse_price("0.4350"), parse_price("1.0000"), parse_price("0.43")
    (4350, 10000, 4300)

    Raises:
        UnitError: not a decimal, finer than 1/10,000 dollar, or outside 0 to 1 dollar.
    """
    price = _parse("price", text, 4)
    if not 0 <= price <= PRICE:
        raise UnitError("price", text, "from 0 to 1 dollar")
    return price


def parse_size(text: str) -> int:
    """Convert the exchange's contract count (signed, as in `position_fp`) to size units.

    >>> parse_size("7.50"), parse_size("-3.00"), parse_size("10")
    (750, -300, 1000)

    Raises:
        UnitError: not a decimal, or finer than 1/100 contract.
    """
    return _parse("size", text, 2)


def parse_money(text: str) -> int:
    """Convert the exchange's dollar string of an amount to money units.

    >>> parse_money("0.069000"), parse_money("-2.5")
    (69000, -2500000)

    Raises:
        UnitError: not a decimal, or finer than a millionth of a dollar.
    """
    return _parse("money", text, 6)


_PRICE_TEXT = tuple(f"{p / PRICE:.4f}" for p in range(PRICE + 1))


def format_price(price: int) -> str:
    """Convert price units to the exchange's form.

    >>> format_price(4350)
    '0.4350'
    """
    if 0 <= price <= PRICE:
        return _PRICE_TEXT[price]
    raise UnitError("price", price, "from 0 to 10,000 price units")


def _fixed(value: int, places: int) -> str:
    whole, rest = divmod(abs(value), 10**places)
    return f"{'-' if value < 0 else ''}{whole}.{rest:0{places}d}"


@lru_cache(maxsize=16_384)
def format_size(size: int) -> str:
    """Convert size units to the exchange's form.

    >>> format_size(750), format_size(-1)
    ('7.50', '-0.01')
    """
    return _fixed(size, 2)


def format_money(money: int) -> str:
    """Convert money units to the exchange's six-decimal form.

    >>> format_money(69000)
    '0.069000'
    """
    return _fixed(money, 6)


def show_cents(price: int) -> str:
    """Format price units in cents, for people.

    >>> show_cents(4350), show_cents(4300)
    ('43.5¢', '43¢')
    """
    whole, rest = divmod(abs(price), 100)
    tail = f".{rest:02d}".rstrip("0").rstrip(".") if rest else ""
    return f"{'-' if price < 0 else ''}{whole}{tail}¢"


def show_contracts(size: int) -> str:
    """Format size units in contracts, for people.

    >>> show_contracts(750), show_contracts(5000)
    ('7.5', '50')
    """
    text = _fixed(size, 2)
    return text.rstrip("0").rstrip(".")


def show_dollars(money: int) -> str:
    """Format money units in dollars, for people: rounded to the cent, halves away from zero.

    >>> show_dollars(123_450_000), show_dollars(-69_000)
    ('$123.45', '-$0.07')
    """
    whole_cents = (abs(money) + 5_000) // 10_000
    sign = "-" if money < 0 and whole_cents else ""
    return f"{sign}${whole_cents // 100:,}.{whole_cents % 100:02d}"


@dataclass(frozen=True, slots=True)
class TickGrid:
    """The prices a market accepts, from its `price_ranges`.

    Each range is `(start, end, step)` in price units, both ends inclusive; the ranges ascend and touch.  The
    exchange accepts no order at 0 or at a dollar: the lowest price is the first step, and the highest is one step
    below the end.

    >>> grid = TickGrid.named("tapered_deci_cent")
    >>> grid.valid(955), grid.valid(4350), grid.floor(4350), grid.ceil(4350)
    (False, False, 4300, 4400)
    >>> grid.lowest, grid.highest
    (10, 9990)
    """

    ranges: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        edge = self.ranges[0][0] if self.ranges else -1
        for start, end, step in self.ranges:
            if start != edge or end <= start or step <= 0 or (end - start) % step:
                raise UnitError("price_ranges", self.ranges, "touching (start, end, step) ranges")
            edge = end
        if not self.ranges or self.ranges[0][0] != 0 or edge != PRICE:
            raise UnitError("price_ranges", self.ranges, "ranges that cover 0 to 1 dollar")

    @classmethod
    def parse(cls, ranges: Iterable[tuple[str, str, str]]) -> TickGrid:
        """Return the grid of a market's `price_ranges`, given as dollar strings."""
        return cls(tuple((parse_price(a), parse_price(b), parse_price(c)) for a, b, c in ranges))

    @classmethod
    def named(cls, structure: str) -> TickGrid:
        """Return the grid of a `price_level_structure` name.

        Raises:
            UnitError: this version does not know the name; read the market's `price_ranges` instead.
        """
        try:
            return _STRUCTURES[structure]
        except KeyError:
            raise UnitError("price_level_structure", structure, f"one of {', '.join(_STRUCTURES)}") from None

    @property
    def lowest(self) -> int:
        """The lowest price an order may have."""
        return self.ranges[0][2]

    @property
    def highest(self) -> int:
        """The highest price an order may have."""
        return PRICE - self.ranges[-1][2]

    def step(self, price: int) -> int:
        """Return the step of the range that contains `price`; at a border, the finer of the two."""
        return min(s for a, b, s in self.ranges if a <= price <= b)

    def valid(self, price: int) -> bool:
        """Return whether an order may have this price."""
        if not self.lowest <= price <= self.highest:
            return False
        return any(a <= price <= b and (price - a) % s == 0 for a, b, s in self.ranges)

    def floor(self, price: int) -> int:
        """Return the highest valid price at or below `price`, or `lowest` if all are higher."""
        price = max(self.lowest, min(self.highest, price))
        return max(a + (price - a) // s * s for a, b, s in self.ranges if a <= price <= b)

    def ceil(self, price: int) -> int:
        """Return the lowest valid price at or above `price`, or `highest` if all are lower."""
        price = max(self.lowest, min(self.highest, price))
        return min(a - (a - price) // s * s for a, b, s in self.ranges if a <= price <= b)


def _edged(centre: int, edge: int, at: int) -> TickGrid:
    return TickGrid(((0, at, edge), (at, PRICE - at, centre), (PRICE - at, PRICE, edge)))


_STEPS = {"whole": 100, "half": 50, "quint": 20, "deci": 10, "centi": 1}
_STRUCTURES = {
    "linear_cent": TickGrid(((0, PRICE, 100),)),
    "deci_cent": TickGrid(((0, PRICE, 10),)),
    "tapered_deci_cent": _edged(100, 10, 1000),
    # Kalshi's names: the grid is finer at the edges, where a cent is a large part of the price.
    **{
        f"center_{c}_edge_{e}_cent": _edged(
            _STEPS[c], _STEPS[e], 100 if (c, e) == ("deci", "centi") else 1000
        )
        for c in _STEPS
        for e in _STEPS
        if _STEPS[e] < _STEPS[c]
    },
}
