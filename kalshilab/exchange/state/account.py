"""The account at the exchange: cash, positions, fees, settlement.

Every change keeps one sum: cash plus what positions cost, less what was realised, plus fees paid, is what was
deposited.  Orders bind cash while they rest, for the part of them that would open rather than close,
and for the most that their fees can be.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.market.model import outcome_price
from kalshilab.market.position import Holding

__all__ = ["Account", "FillRecord", "Reserved", "SettlementRecord", "gross"]


@dataclass(frozen=True, slots=True)
class FillRecord:
    """One match of one order of the account."""

    trade_id: str
    order: RestingOrder
    ticker: str
    price: int
    size: int
    fee: int
    is_taker: bool
    ts: int
    position: int


@dataclass(frozen=True, slots=True)
class SettlementRecord:
    """What one market paid out."""

    ticker: str
    event: str
    result: str
    settlement: int
    size: int
    cost: int
    revenue: int
    fees: int
    ts: int


def gross(order: RestingOrder) -> int:
    """Cash that an order binds if all of it opens a position: its cost, and the fees that it may still pay."""
    fees = max(order.fee_bound - order.taker_fees - order.maker_fees, 0)
    return outcome_price(order.price, "yes" if order.side == "bid" else "no") * order.remaining + fees


class Reserved:
    """The cash that resting orders bind at most, kept up to date, so that it need not be summed each time.

    What an order closes of a position binds nothing, so the truth (`Account.bound`) is this or less.
    """

    def __init__(self) -> None:
        self.most = 0
        """Money units."""
        self._held: dict[str, int] = {}

    def hold(self, order: RestingOrder) -> None:
        """An order rests, or has changed."""
        amount = gross(order)
        self.most += amount - self._held.get(order.order_id, 0)
        self._held[order.order_id] = amount

    def release(self, order: RestingOrder) -> None:
        """An order rests no more."""
        self.most -= self._held.pop(order.order_id, 0)


class Account:
    """One member's account.  Money in money units."""

    def __init__(self, deposit: int) -> None:
        self.deposit = self.cash = deposit
        self.holdings: dict[str, Holding] = {}
        self.fills: list[FillRecord] = []
        self.settlements: list[SettlementRecord] = []
        self.traded: dict[str, int] = {}
        self.volume: dict[str, int] = {}
        self.touched: dict[str, int] = {}

    def holding(self, ticker: str) -> Holding:
        """The position in a market, flat if there is none."""
        return self.holdings.setdefault(ticker, Holding())

    def bound(self, resting: list[RestingOrder]) -> int:
        """Cash that orders bind: the cost of the part of each that would open a position, and its fees at most."""
        closable = {t: h.size for t, h in self.holdings.items() if h.size}
        total = 0
        for order in resting:
            held = closable.get(order.ticker, 0)
            against = held < 0 if order.side == "bid" else held > 0
            closing = min(order.remaining, abs(held)) if against else 0
            if closing:
                closable[order.ticker] = held + (closing if order.side == "bid" else -closing)
            cost = outcome_price(order.price, "yes" if order.side == "bid" else "no")
            total += gross(order) - cost * closing
        return total

    def fill(
        self,
        order: RestingOrder,
        *,
        trade_id: str,
        price: int,
        size: int,
        is_taker: bool,
        multiplier: float,
        fee_type: str,
        ts: int,
    ) -> FillRecord:
        """Book one match of an order: position, cash, and the fee through the order's rounding account."""
        holding = self.holding(order.ticker)
        change = holding.trade(order.side, price, size)
        fee = order.fees.charge(
            price, size, taker=is_taker, multiplier=multiplier, fee_type=fee_type, cost=-change
        )
        self.cash += change - fee
        holding.fees += fee
        cost = outcome_price(price, "yes" if order.side == "bid" else "no") * size
        order.remaining -= size
        order.filled += size
        order.updated = ts
        order.reason = "Trade"
        if is_taker:
            order.taker_cost += cost
            order.taker_fees += fee
        else:
            order.maker_cost += cost
            order.maker_fees += fee
        if order.remaining == 0:
            order.status = "executed"
        self.traded[order.ticker] = self.traded.get(order.ticker, 0) + cost
        self.volume[order.ticker] = self.volume.get(order.ticker, 0) + size
        self.touched[order.ticker] = ts
        record = FillRecord(trade_id, order, order.ticker, price, size, fee, is_taker, ts, holding.size)
        self.fills.append(record)
        return record

    def settle(
        self, ticker: str, event: str, result: str, settlement: int, ts: int
    ) -> SettlementRecord | None:
        """Pay out one market at YES' value `settlement`; None if nothing is held there.

        Scalar payouts are rounded down to whole cents and the remainder is a fee, as on the exchange.
        """
        holding = self.holdings.get(ticker)
        if holding is None or holding.size == 0:
            return None
        size, cost = holding.size, holding.cost
        revenue = holding.settle(settlement)
        remainder = revenue % 10_000 if result == "scalar" else 0
        holding.fees += remainder
        self.cash += revenue - remainder
        record = SettlementRecord(
            ticker, event, result, settlement, size, cost, revenue - remainder, holding.fees, ts
        )
        self.settlements.append(record)
        self.touched[ticker] = ts
        return record

    def value(self, marks: dict[str, int]) -> int:
        """Open positions at YES prices `marks`."""
        return sum(
            outcome_price(marks.get(t, 0), h.outcome) * abs(h.size)
            for t, h in self.holdings.items()
            if h.size
        )

    def drift(self) -> int:
        """What the sum of the module's docstring is off by: always 0."""
        held = sum(h.cost for h in self.holdings.values())
        realized = sum(h.realized for h in self.holdings.values())
        fees = sum(h.fees for h in self.holdings.values())
        return self.cash + held - realized + fees - self.deposit
