"""Cash, positions and profit as a fold over fills and settlements.

The portfolio is computed from events, exactly, in money units, so that it can be compared with the exchange's account
(`gap`).  Each market has one signed position, as on the exchange: a fill on the opposite side first closes the position
at its average cost and then opens the opposite one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kalshilab.market.model import Fill, Position, Settlement, outcome_price
from kalshilab.market.position import Holding
from kalshilab.units import PRICE

__all__ = ["Portfolio"]


class Portfolio:
    """The account that the recorded fills and settlements imply.

    Args:
        cash: cash at the start of the record, in money units.

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
        """Add one fill; return False if it was added before (the stream and REST both report it)."""
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
        """Pay out one market; return False if there is no position (paid before, or never bought)."""
        holding = self.holdings.get(settlement.ticker)
        if holding is None or holding.size == 0:
            return False
        realized = holding.realized
        self.cash += holding.settle(settlement.settlement)
        self.realized += holding.realized - realized
        self.settled += 1
        return True

    def knows(self, fill: Fill) -> bool:
        """Return whether a fill was added, or precedes the start of the record."""
        return (fill.trade_id, fill.order_id) in self._seen

    def adopt(self, positions: Iterable[Position], fills: Iterable[Fill] = ()) -> None:
        """Start from positions that precede the record.

        Args:
            positions: the positions.
            fills: the fills that they include, which are not added again.
        """
        self._seen.update((fill.trade_id, fill.order_id) for fill in fills)
        for p in positions:
            if p.size:
                self.holdings[p.ticker] = Holding(size=p.size, cost=p.cost)

    @property
    def open(self) -> dict[str, Holding]:
        """The open positions by ticker."""
        return {t: h for t, h in self.holdings.items() if h.size}

    def value(self, marks: Mapping[str, int]) -> int:
        """Return the value of the open positions in money units.

        Args:
            marks: YES prices by ticker; a position without a mark counts at cost.
        """
        total = 0
        for ticker, holding in self.holdings.items():
            if holding.size:
                mark = marks.get(ticker)
                total += (
                    holding.cost if mark is None else outcome_price(mark, holding.outcome) * abs(holding.size)
                )
        return total

    def gap(self, positions: Iterable[Position], cash: int | None = None) -> dict[str, tuple[int, int]]:
        """Return the differences between this record and the exchange: name to (recorded, reported).

        Call it when no request is in flight; an empty result means that no fill was lost and none was counted twice.

        Args:
            positions: the positions that the exchange reports.
            cash: the cash that it reports, in money units; the name of a difference is "cash".
        """
        reported = {p.ticker: p.size for p in positions if p.size}
        recorded = {t: h.size for t, h in self.open.items()}
        differences = {
            t: (recorded.get(t, 0), reported.get(t, 0))
            for t in recorded.keys() | reported.keys()
            if recorded.get(t) != reported.get(t)
        }
        # The exchange truncates cash to whole cents.
        if cash is not None and abs(cash - self.cash) >= PRICE:
            differences["cash"] = (self.cash, cash)
        return differences
