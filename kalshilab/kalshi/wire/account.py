"""REST bodies of the account: balance, positions, fills, settlements, orders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kalshilab.kalshi.wire.base import Wire, instant
from kalshilab.lazy import renamed
from kalshilab.market import model
from kalshilab.units import PRICE, parse_money, parse_price, parse_size

__all__ = [
    "AccountLimitsBody",
    "BalanceBody",
    "BucketLimit",
    "EndpointCost",
    "EndpointCosts",
    "EventPosition",
    "FillBody",
    "FillPage",
    "MarketPositionBody",
    "OrderBody",
    "OrderPage",
    "OrderResponse",
    "PositionPage",
    "SettlementBody",
    "SettlementPage",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class BalanceBody(Wire, frozen=True, omit_defaults=False):
    """Free cash in cents (truncated) and in dollars, and the marked value of positions in cents."""

    balance: int
    portfolio_value: int
    updated_ts: int
    balance_dollars: str = ""
    balance_breakdown: list[dict[str, int | str]] = []

    def to_model(self) -> model.Balance:
        cash = parse_money(self.balance_dollars) if self.balance_dollars else self.balance * 10_000
        return model.Balance(
            cash=cash, portfolio_value=self.portfolio_value * 10_000, ts=self.updated_ts * 1_000_000
        )


class MarketPositionBody(Wire, frozen=True, omit_defaults=False):
    """The account's net position in one market."""

    ticker: str
    position_fp: str
    total_traded_dollars: str
    market_exposure_dollars: str
    realized_pnl_dollars: str
    fees_paid_dollars: str
    last_updated_ts: str
    exchange_index: int = 0

    def to_model(self) -> model.Position:
        return model.Position(
            ticker=self.ticker,
            size=parse_size(self.position_fp),
            cost=parse_money(self.market_exposure_dollars),
            realized=parse_money(self.realized_pnl_dollars),
            fees=parse_money(self.fees_paid_dollars),
        )


class EventPosition(Wire, frozen=True, omit_defaults=False):
    """Sum of the account's positions in one event."""

    event_ticker: str
    total_cost_dollars: str
    total_cost_shares_fp: str
    event_exposure_dollars: str
    realized_pnl_dollars: str
    fees_paid_dollars: str


class PositionPage(Wire, frozen=True, omit_defaults=False):
    """A page of positions by market and by event."""

    market_positions: list[MarketPositionBody]
    event_positions: list[EventPosition] = []
    cursor: str = ""


class FillBody(Wire, frozen=True, omit_defaults=False):
    """One fill of one of the account's orders."""

    trade_id: str
    order_id: str
    ticker: str
    book_side: str
    outcome_side: str
    count_fp: str
    yes_price_dollars: str
    no_price_dollars: str
    is_taker: bool
    fee_cost: str
    created_time: str
    fill_id: str = ""
    market_ticker: str = ""
    side: str = ""
    action: str = ""
    ts: int = 0
    exchange_index: int = 0
    subaccount_number: int = 0

    def to_model(self) -> model.Fill:
        return model.Fill(
            trade_id=self.trade_id,
            order_id=self.order_id,
            ticker=self.ticker,
            side=self.book_side,
            price=parse_price(self.yes_price_dollars),
            size=parse_size(self.count_fp),
            fee=parse_money(self.fee_cost),
            is_taker=self.is_taker,
            ts=instant(self.created_time),
        )


class FillPage(Wire, frozen=True, omit_defaults=False):
    """A page of fills, newest first."""

    fills: list[FillBody]
    cursor: str = ""


class SettlementBody(Wire, frozen=True, omit_defaults=False):
    """A payout; `revenue` and `value` are whole cents."""

    ticker: str
    event_ticker: str
    market_result: str
    yes_count_fp: str
    yes_total_cost_dollars: str
    no_count_fp: str
    no_total_cost_dollars: str
    revenue: int
    settled_time: str
    fee_cost: str
    value: int | None = None
    exchange_index: int = 0

    def to_model(self) -> model.Settlement:
        yes, no = parse_size(self.yes_count_fp), parse_size(self.no_count_fp)
        paid = self.revenue * 10_000
        if self.value is not None:
            settlement = self.value * 100
        elif self.market_result in ("yes", "no"):
            settlement = PRICE if self.market_result == "yes" else 0
        else:
            # A scalar payout without its value: the value follows from the revenue and the position.
            settlement = paid // yes if yes else PRICE - paid // no if no else 0
        return model.Settlement(
            ticker=self.ticker,
            event=self.event_ticker,
            result=self.market_result,
            settlement=settlement,
            yes_size=yes,
            no_size=no,
            yes_cost=parse_money(self.yes_total_cost_dollars),
            no_cost=parse_money(self.no_total_cost_dollars),
            revenue=paid,
            fees=parse_money(self.fee_cost),
            ts=instant(self.settled_time),
        )


class SettlementPage(Wire, frozen=True, omit_defaults=False):
    """A page of settlements, newest first."""

    settlements: list[SettlementBody]
    cursor: str = ""


class OrderBody(Wire, frozen=True):
    """One of the account's orders."""

    order_id: str
    ticker: str
    status: str
    book_side: str
    outcome_side: str
    yes_price_dollars: str
    initial_count_fp: str
    fill_count_fp: str
    remaining_count_fp: str
    client_order_id: str = msgspec.field(default_factory=str)
    user_id: str = ""
    type: str = ""
    side: str | None = None
    action: str | None = None
    no_price_dollars: str | None = None
    taker_fill_cost_dollars: str = ""
    maker_fill_cost_dollars: str = ""
    taker_fees_dollars: str = ""
    maker_fees_dollars: str = ""
    created_time: str | None = None
    last_update_time: str | None = None
    expiration_time: str | None = None
    self_trade_prevention_type: str | None = None
    order_group_id: str | None = None
    cancel_order_on_pause: bool | None = None
    subaccount_number: int | None = None
    exchange_index: int | None = None

    def to_model(self) -> model.Order:
        return model.Order(
            order_id=self.order_id,
            ticker=self.ticker,
            side=self.book_side,
            price=parse_price(self.yes_price_dollars),
            status=self.status,
            initial=parse_size(self.initial_count_fp),
            filled=parse_size(self.fill_count_fp),
            remaining=parse_size(self.remaining_count_fp),
            client_order_id=self.client_order_id,
            fees=parse_money(self.taker_fees_dollars or "0") + parse_money(self.maker_fees_dollars or "0"),
            created_ts=instant(self.created_time),
            updated_ts=instant(self.last_update_time) or instant(self.created_time),
        )


class OrderResponse(Wire, frozen=True):
    """An answer with one order."""

    order: OrderBody


class OrderPage(Wire, frozen=True, omit_defaults=False):
    """A page of orders, newest first."""

    orders: list[OrderBody]
    cursor: str = ""


class BucketLimit(Wire, frozen=True, omit_defaults=False):
    """Refill rate (tokens per second) and capacity (tokens) of one bucket."""

    refill_rate: int
    bucket_capacity: int


class AccountLimitsBody(Wire, frozen=True, omit_defaults=False):
    """Usage tier of the account and the limits of its two buckets."""

    usage_tier: str
    read: BucketLimit
    write: BucketLimit
    grants: list[dict[str, str]] = []


class EndpointCost(Wire, frozen=True, omit_defaults=False):
    """Token cost of a call that differs from the default; in a batch, the cost per item."""

    method: str
    path: str
    cost: int


class EndpointCosts(Wire, frozen=True, omit_defaults=False):
    """Token costs of all calls that differ from the default."""

    default_cost: int
    endpoint_costs: list[EndpointCost]
