"""Position in one market: netting of trades, cost basis and profit.

A position is one signed number.  A trade on the other side first closes the position at its average cost, and only
then opens one in the other direction.  All amounts are exact integers in money units.  Where an average cost does not
divide evenly, the remainder stays with the open part.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalshilab.market.model import outcome_price
from kalshilab.units import PRICE

__all__ = ["Holding"]


@dataclass(slots=True)
class Holding:
    """A position that trades and settlement change.

    `size` is signed (+ YES, − NO).  `cost` is the cost basis, excluding fees.  `realized` is the profit of closing and
    settling, excluding fees.

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
        """The outcome of the position; "yes" if it is flat."""
        return "no" if self.size < 0 else "yes"

    def closing(self, side: str, size: int) -> int:
        """Return the part of a trade's size that would close the position rather than open one."""
        against = self.size < 0 if side == "bid" else self.size > 0
        return min(size, abs(self.size)) if against else 0

    def trade(self, side: str, price: int, size: int) -> int:
        """Buy ("bid") or sell ("ask") YES, and return the change of cash in money units, excluding fees.

        Args:
            side: "bid" or "ask".
            price: YES price in price units.
            size: size units.
        """
        change = 0
        sign = 1 if side == "bid" else -1
        closing = self.closing(side, size)
        if closing:
            # The closed part is sold at the price of the outcome that was bought.
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
        """Settle the position and return the payout in money units.

        Args:
            settlement: the value of one YES contract in price units.
        """
        revenue = (settlement if self.size > 0 else PRICE - settlement) * abs(self.size)
        self.realized += revenue - self.cost
        self.size = self.cost = 0
        return revenue
