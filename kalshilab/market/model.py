"""Domain values: markets, public trades, orders, fills, positions and settlements, all frozen.

Prices are YES prices in 1/10,000 dollar, sizes 1/100 contract, money 1/1,000,000 dollar (`kalshilab.units`);
instants are microseconds since 1970 UTC.  An instant of 0 means "not known".

Each market has one YES book: a *bid* buys YES and an *ask* sells YES, which is the same as buying NO at a dollar less
the price.  A position is one signed number: positive for YES, negative for NO.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from kalshilab.units import PRICE, TickGrid

__all__ = [
    "Balance",
    "BookSide",
    "Fill",
    "LifecycleKind",
    "Market",
    "MarketStatus",
    "Order",
    "OrderStatus",
    "Outcome",
    "Position",
    "Settlement",
    "Trade",
    "outcome_price",
]

Outcome = Literal["yes", "no"]
BookSide = Literal["bid", "ask"]
MarketStatus = Literal[
    "initialized", "inactive", "active", "closed", "determined", "disputed", "amended", "finalized"
]
LifecycleKind = Literal[
    "created",
    "activated",
    "deactivated",
    "close_date_updated",
    "determined",
    "settled",
    "price_level_structure_updated",
    "metadata_updated",
]
OrderStatus = Literal["resting", "canceled", "executed"]

LINEAR_CENT = TickGrid.named("linear_cent")


def outcome_price(yes_price: int, outcome: str) -> int:
    """Return the price of `outcome` when YES trades at `yes_price`; the function is its own inverse.

    >>> outcome_price(7300, "yes"), outcome_price(7300, "no")
    (7300, 2700)
    """
    return yes_price if outcome == "yes" else PRICE - yes_price


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """A market as known at one moment.

    `settlement` is the value of one YES contract in price units once determined (10,000 for "yes", 0 for "no",
    between for "scalar"), else None.  `expected_close_ts` is the announced time; `close_ts` may move.
    `price_structure` is the exchange's name for the grid, or "".
    """

    ticker: str
    event: str
    series: str = ""
    category: str = ""
    title: str = ""
    status: str = "active"
    open_ts: int = 0
    close_ts: int = 0
    expected_close_ts: int = 0
    result: str = ""
    settlement: int | None = None
    settled_ts: int = 0
    fee_type: str = "quadratic"
    fee_multiplier: float = 1.0
    grid: TickGrid = LINEAR_CENT
    price_structure: str = ""
    yes_bid: int = 0
    yes_ask: int = PRICE
    last_price: int = 0
    volume: int = 0
    volume_24h: int = 0
    open_interest: int = 0


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A public trade; `price` is the YES price, `taker` the outcome that the taker bought."""

    ts: int
    ticker: str
    price: int
    size: int
    taker: str
    trade_id: str = ""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One of the account's orders in its last known state.

    `price` is the YES price on both sides.  `initial`, `filled` and `remaining` are sizes.  `fees` is the sum of the
    maker and taker fees of its fills so far.  `reason` is the exchange's reason for the last change ("" over REST).
    """

    order_id: str
    ticker: str
    side: str
    price: int
    status: str
    initial: int
    filled: int
    remaining: int
    client_order_id: str = ""
    fees: int = 0
    created_ts: int = 0
    updated_ts: int = 0
    reason: str = ""

    @property
    def outcome(self) -> Outcome:
        """The outcome a fill of this order buys."""
        return "yes" if self.side == "bid" else "no"


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """One fill of one of the account's orders.

    `fee` is the fee of the whole fill.  `position` is the signed position after it; REST does not
    send it, and it is then None.
    """

    trade_id: str
    order_id: str
    ticker: str
    side: str
    price: int
    size: int
    fee: int
    is_taker: bool
    ts: int
    client_order_id: str = ""
    position: int | None = None

    @property
    def outcome(self) -> Outcome:
        """The outcome this fill bought."""
        return "yes" if self.side == "bid" else "no"


class Position(msgspec.Struct, frozen=True, kw_only=True):
    """The account's net position in one market; `cost` is its cost basis, excluding fees."""

    ticker: str
    size: int
    cost: int
    realized: int = 0
    fees: int = 0


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """A payout for one market; `revenue` is the payout in money units, `settlement` the value of YES."""

    ticker: str
    event: str
    result: str
    settlement: int
    yes_size: int
    no_size: int
    yes_cost: int
    no_cost: int
    revenue: int
    fees: int
    ts: int

    @property
    def pnl(self) -> int:
        """Payout less cost and fees, in money units."""
        return self.revenue - self.yes_cost - self.no_cost - self.fees


class Balance(msgspec.Struct, frozen=True, kw_only=True):
    """Free cash and the marked value of open positions, in money units."""

    cash: int
    portfolio_value: int
    ts: int = 0
