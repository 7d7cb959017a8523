"""The account at the exchange: cash, positions, fees, settlement.

Invariant after every change: cash, plus the cost of the positions, less realised P&L, plus fees paid, equals
the deposit.  A resting order reserves cash for the part that would open a position, and for the maximum of
its fees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.lazy import renamed
from kalshilab.market.model import outcome_price
from kalshilab.market.position import Holding

__all__ = ["Account", "FillRecord", "ReservedCash", "SettlementRecord", "gross"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


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
    """The payout of one market."""

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
    """Return the cash an order reserves if all of it opens a position: its cost and the fees it may still pay."""
    fees = max(order.fee_bound - order.taker_fees - order.maker_fees, 0)
    return outcome_price(order.price, "yes" if order.side == "bid" else "no") * order.remaining + fees


class ReservedCash:
    """An upper bound of the cash that resting orders reserve, updated incrementally instead of summed each time.

    The part of an order that closes a position reserves nothing, so the exact amount (`Account.reserved`) is
    this or less.
    """

    def __init__(self) -> None:
        self.most = 0
        """Money units."""
        self._amounts: dict[str, int] = {}

    def hold(self, order: RestingOrder) -> None:
        """Record a new or changed resting order."""
        amount = gross(order)
        self.most += amount - self._amounts.get(order.order_id, 0)
        self._amounts[order.order_id] = amount

    def release(self, order: RestingOrder) -> None:
        """Remove an order that no longer rests."""
        self.most -= self._amounts.pop(order.order_id, 0)


class Account:
    """One member's account, with money in money units."""

    def __init__(self, deposit: int) -> None:
        self.deposit = self.cash = deposit
        self.holdings: dict[str, Holding] = {}
        self.fills: list[FillRecord] = []
        self.settlements: list[SettlementRecord] = []
        self.traded: dict[str, int] = {}
        self.volume: dict[str, int] = {}
        self.touched: dict[str, int] = {}

    def holding(self, ticker: str) -> Holding:
        """Return the position in a market; a flat one if there is no position."""
        return self.holdings.setdefault(ticker, Holding())

    def reserved(self, resting: list[RestingOrder]) -> int:
        """Return the cash that orders reserve: the cost of the part that would open a position, and maximum fees.

        Args:
            resting: the orders, in the order in which they close positions.
        """
        closable = {t: h.size for t, h in self.holdings.items() if h.size}
        total = 0
        for order in resting:
            position = closable.get(order.ticker, 0)
            opposite = position < 0 if order.side == "bid" else position > 0
            closing = min(order.remaining, abs(position)) if opposite else 0
            if closing:
                closable[order.ticker] = position + (closing if order.side == "bid" else -closing)
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
        """Pay out one market at the YES value `settlement`; return None without a position.

        Scalar payouts are rounded down to whole cents and the remainder is charged as a fee, as on the
        exchange.
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
        """Return the value of open positions at the YES prices `marks`."""
        return sum(
            outcome_price(marks.get(t, 0), h.outcome) * abs(h.size)
            for t, h in self.holdings.items()
            if h.size
        )

    def drift(self) -> int:
        """Return the deviation from the invariant of the module's docstring: always 0."""
        cost = sum(h.cost for h in self.holdings.values())
        realized = sum(h.realized for h in self.holdings.values())
        fees = sum(h.fees for h in self.holdings.values())
        return self.cash + cost - realized + fees - self.deposit
