"""Risk limits that each order must pass before it is sent, as a pure function of the known state.

The limits assume the worst case: resting orders count as filled.  The position limit considers the side, so buying NO on
top of NO adds to the position.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from kalshilab.config.settings import Settings
from kalshilab.market.fees import fill_fee
from kalshilab.market.model import Order, outcome_price
from kalshilab.units import contracts, dollars

__all__ = ["Limits", "RiskLimits", "refusal"]


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a session.

    Attributes:
        max_orders: resting orders.
        max_position: position per market, in size units.
        max_concurrent: markets with a position or a resting order.
        min_cash: cash below which no order is sent, in money units; 0: no such limit.
    """

    max_orders: int
    max_position: int
    max_concurrent: int
    min_cash: int

    @classmethod
    def of(cls, settings: Settings) -> RiskLimits:
        """Return the limits that the settings give."""
        return cls(
            max_orders=settings.max_orders,
            max_position=contracts(settings.max_position),
            max_concurrent=settings.max_concurrent,
            min_cash=dollars(settings.min_cash),
        )


Limits = RiskLimits
"""The former name of `RiskLimits`."""


def refusal(
    limits: RiskLimits,
    *,
    ticker: str,
    side: str,
    price: int,
    size: int,
    may_trade: bool,
    cash: int,
    position: int,
    markets_held: Collection[str],
    orders: Collection[Order],
) -> str | None:
    """Return the reason for which an order must not be sent, or `None` if it may be.

    Args:
        limits: the limits.
        ticker: the market of the order.
        side: "bid" or "ask".
        price: YES price of the order, in price units.
        size: size of the order, in size units.
        may_trade: whether the session may place orders.
        cash: cash of the account before the amount that resting orders reserve, in money units.
        position: signed position in the market, in size units.
        markets_held: tickers with a position or a resting order.
        orders: all resting orders of the session.

    Returns:
        "not ready", "low cash", "cash", "orders", "position" or "concurrent".

    >>> limits = RiskLimits(max_orders=10, max_position=10_000, max_concurrent=5, min_cash=100_000_000)
    >>> refusal(limits, ticker="A", side="ask", price=6000, size=5000, may_trade=True, cash=99_990_000,
    ...         position=0, markets_held=(), orders=())
    'low cash'
    """
    if not may_trade:
        return "not ready"
    reserved = sum(outcome_price(o.price, o.outcome) * o.remaining for o in orders)
    free = cash - reserved
    if limits.min_cash and free < limits.min_cash:
        return "low cash"
    outcome = "yes" if side == "bid" else "no"
    if outcome_price(price, outcome) * size + fill_fee(price, size) > free:
        return "cash"
    if len(orders) >= limits.max_orders:
        return "orders"
    sign = 1 if side == "bid" else -1
    resting = sum(o.remaining for o in orders if o.ticker == ticker and o.side == side)
    after = position + sign * (size + resting)
    if abs(after) > limits.max_position and abs(after) > abs(position):
        return "position"
    if ticker not in markets_held and len(markets_held) >= limits.max_concurrent:
        return "concurrent"
    return None
