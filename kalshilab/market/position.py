"""What one market's position is worth and cost: the arithmetic of netting, once for everybody.

A position is one signed number.  A trade on the other side first closes what is held, at its average cost,
and only then opens the other way.  All amounts are exact integers in money units; where an average cost does
not divide, the remainder stays with what is still held.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalshilab.market.model import outcome_price
from kalshilab.units import PRICE

__all__ = ["Holding"]


@dataclass(slots=True)
class Holding:
    """A position.  `size` is signed (+ YES, − NO); `cost` is what was paid for what is held, fees apart;
    `realized` what closing and settling brought beyond its cost.

    >>> h = Holding()
    >>> h.trade("ask", 6000, 1000)            # buys 10 NO at 40 cents
    -4000000
    >>> h.trade("bid", 5000, 400), h.realized  # buys 4 YES at 50 cents: 4 NO closed at 50
    (2000000, 400000)
    >>> h.settle(0), h.size                    # the rest pays a dollar each
    (6000000, 0)
    """

    size: int = 0
    cost: int = 0
    realized: int = 0
    fees: int = 0

    @property
    def outcome(self) -> str:
        """The outcome held; "yes" when flat."""
        return "no" if self.size < 0 else "yes"

    def closing(self, side: str, size: int) -> int:
        """How much of a trade would close rather than open."""
        against = self.size < 0 if side == "bid" else self.size > 0
        return min(size, abs(self.size)) if against else 0

    def trade(self, side: str, price: int, size: int) -> int:
        """Buy (`"bid"`) or sell (`"ask"`) `size` of YES at `price`; the change of cash, fees apart."""
        change = 0
        sign = 1 if side == "bid" else -1
        closing = self.closing(side, size)
        if closing:
            # What is closed is sold at the price of the outcome held.
            proceeds = outcome_price(price, self.outcome) * closing
            part = self.cost * closing // abs(self.size)
            self.cost -= part
            self.realized += proceeds - part
            self.size += sign * closing
            change += proceeds
        opening = size - closing
        if opening:
            paid = outcome_price(price, "yes" if side == "bid" else "no") * opening
            self.cost += paid
            self.size += sign * opening
            change -= paid
        return change

    def settle(self, settlement: int) -> int:
        """Pay out at `settlement`, the value of one YES contract; what comes in."""
        revenue = (settlement if self.size > 0 else PRICE - settlement) * abs(self.size)
        self.realized += revenue - self.cost
        self.size = self.cost = 0
        return revenue
