"""Cash, positions and profit as a fold over fills and settlements.

Nothing here is told what we own: it is added up from what happened, exactly, in money units, so that it can
be held against what the exchange says (`gap`).  One signed position a market, as on the exchange: a fill on
the other side first closes what is held, at its average cost, and only then opens the other way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kalshilab.market.model import Fill, Position, Settlement, outcome_price
from kalshilab.market.position import Holding
from kalshilab.units import PRICE

__all__ = ["Portfolio"]


class Portfolio:
    """The account as our own record of fills and settlements implies it.

    Args:
        cash: what the account had when the record began, in money units.

    >>> book = Portfolio(cash=100_000_000)
    >>> fill = Fill(trade_id="t1", order_id="o1", ticker="A-B-1", side="ask", price=6000, size=1000, fee=168_000,
    ...             is_taker=True, ts=0)
    >>> book.fill(fill), book.fill(fill)          # reported twice, counted once
    (True, False)
    >>> book.holdings["A-B-1"].size, book.cash    # 10 NO at 40 cents and the fee
    (-1000, 95832000)
    """

    def __init__(self, cash: int = 0) -> None:
        self.start = self.cash = cash
        self.holdings: dict[str, Holding] = {}
        self.realized = 0
        self.fees = 0
        self.settled = 0
        self.fills = 0
        self._seen: set[tuple[str, str]] = set()

    def fill(self, fill: Fill) -> bool:
        """Add one fill.  False if this match was added before (stream and REST both tell of it)."""
        if self.knows(fill):
            return False
        self._seen.add((fill.trade_id, fill.order_id))
        holding = self.holdings.setdefault(fill.ticker, Holding())
        realized = holding.realized
        self.cash += holding.trade(fill.side, fill.price, fill.size)
        self.realized += holding.realized - realized
        holding.fees += fill.fee
        self.fees += fill.fee
        self.cash -= fill.fee
        self.fills += 1
        return True

    def settle(self, settlement: Settlement) -> bool:
        """Pay out one market.  False if nothing is held there (it was paid before, or never bought)."""
        holding = self.holdings.get(settlement.ticker)
        if holding is None or holding.size == 0:
            return False
        realized = holding.realized
        self.cash += holding.settle(settlement.settlement)
        self.realized += holding.realized - realized
        self.settled += 1
        return True

    def knows(self, fill: Fill) -> bool:
        """Whether a fill was added, or is part of what was there before the record began."""
        return (fill.trade_id, fill.order_id) in self._seen

    def adopt(self, positions: Iterable[Position], fills: Iterable[Fill] = ()) -> None:
        """Begin with positions that were there before the record did, and the fills that are in them."""
        self._seen.update((fill.trade_id, fill.order_id) for fill in fills)
        for p in positions:
            if p.size:
                self.holdings[p.ticker] = Holding(size=p.size, cost=p.cost)

    @property
    def open(self) -> dict[str, Holding]:
        """Markets in which something is held now."""
        return {t: h for t, h in self.holdings.items() if h.size}

    def value(self, marks: Mapping[str, int]) -> int:
        """What the open positions are worth at YES prices `marks`; at cost where there is no mark."""
        total = 0
        for ticker, holding in self.holdings.items():
            if holding.size:
                mark = marks.get(ticker)
                total += (
                    holding.cost if mark is None else outcome_price(mark, holding.outcome) * abs(holding.size)
                )
        return total

    def gap(self, positions: Iterable[Position], cash: int | None = None) -> dict[str, tuple[int, int]]:
        """Where this record and the exchange differ: name to (ours, theirs); "cash" for the cash.

        Call it when nothing is in flight; an empty answer means that no fill was lost and none counted twice.
        """
        theirs = {p.ticker: p.size for p in positions if p.size}
        ours = {t: h.size for t, h in self.open.items()}
        differ = {
            t: (ours.get(t, 0), theirs.get(t, 0))
            for t in ours.keys() | theirs.keys()
            if ours.get(t) != theirs.get(t)
        }
        # The exchange states cash in whole cents, cut off.
        if cash is not None and abs(cash - self.cash) >= PRICE:
            differ["cash"] = (self.cash, cash)
        return differ
