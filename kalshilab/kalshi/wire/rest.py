"""REST bodies."""

from __future__ import annotations

from datetime import datetime

import msgspec

from kalshilab.clock import from_datetime
from kalshilab.errors import ProtocolError
from kalshilab.market import model
from kalshilab.units import PRICE, TickGrid, parse_money, parse_price, parse_size

__all__ = [
    "Balance",
    "BucketLimit",
    "CancelOrderResponse",
    "CreateOrder",
    "CreateOrderResponse",
    "ErrorBody",
    "Event",
    "EventPage",
    "EventPosition",
    "EventResponse",
    "Fill",
    "FillPage",
    "Limits",
    "Market",
    "MarketPage",
    "MarketPosition",
    "MarketResponse",
    "Order",
    "OrderPage",
    "OrderResponse",
    "Orderbook",
    "OrderbookResponse",
    "PositionPage",
    "PriceRange",
    "Series",
    "SeriesList",
    "SeriesResponse",
    "Settlement",
    "SettlementPage",
    "Status",
    "Trade",
    "TradePage",
    "instant",
]  # fmt: skip


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base: keyword fields; a field at its default is left out, as the exchange leaves out what is absent."""


def instant(text: str | None) -> int:
    """An RFC 3339 time to microseconds since 1970 UTC; 0 for none.

    >>> instant("2026-11-22T06:30:00.900Z")
    1795329000900000
    """
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
        return from_datetime(moment)
    except ValueError as error:
        raise ProtocolError(f"not a time: {error}", text) from None


class PriceRange(Wire, frozen=True, omit_defaults=False):
    """A stretch of prices and the step within it, in dollars."""

    start: str
    end: str
    step: str


class Market(Wire, frozen=True):
    """A market object."""

    ticker: str
    event_ticker: str
    status: str
    market_type: str = msgspec.field(default="")
    title: str = ""
    yes_sub_title: str | None = None
    no_sub_title: str | None = None
    created_time: str | None = None
    updated_time: str | None = None
    open_time: str | None = None
    close_time: str | None = None
    expected_expiration_time: str | None = None
    latest_expiration_time: str | None = None
    settlement_timer_seconds: int | None = None
    yes_bid_dollars: str | None = None
    yes_bid_size_fp: str | None = None
    yes_ask_dollars: str | None = None
    yes_ask_size_fp: str | None = None
    no_bid_dollars: str | None = None
    no_ask_dollars: str | None = None
    last_price_dollars: str | None = None
    previous_yes_bid_dollars: str | None = None
    previous_yes_ask_dollars: str | None = None
    previous_price_dollars: str | None = None
    volume_fp: str | None = None
    volume_24h_fp: str | None = None
    open_interest_fp: str | None = None
    notional_value_dollars: str | None = None
    result: str | None = None
    settlement_value_dollars: str | None = None
    settlement_ts: str | None = None
    settlement_bounds_type: str | None = None
    can_close_early: bool | None = None
    expiration_value: str | None = None
    rules_primary: str | None = None
    rules_secondary: str | None = None
    price_level_structure: str | None = None
    price_ranges: list[PriceRange] | None = None
    exchange_index: int | None = None

    def to_model(self, *, series: str = "", category: str = "") -> model.Market:
        """The market as a value; series and category stand on other objects and are given."""
        ranges = self.price_ranges
        grid = TickGrid.parse((r.start, r.end, r.step) for r in ranges) if ranges else model.LINEAR_CENT
        return model.Market(
            ticker=self.ticker,
            event=self.event_ticker,
            series=series,
            category=category,
            title=self.title,
            status=self.status,
            open_ts=instant(self.open_time),
            close_ts=instant(self.close_time),
            expected_close_ts=instant(self.expected_expiration_time) or instant(self.close_time),
            result=self.result or "",
            settlement=_settlement(self.result, self.settlement_value_dollars),
            settled_ts=instant(self.settlement_ts),
            grid=grid,
            yes_bid=_price(self.yes_bid_dollars, 0),
            yes_ask=_price(self.yes_ask_dollars, PRICE),
            last_price=_price(self.last_price_dollars, 0),
            volume=parse_size(self.volume_fp or "0"),
            volume_24h=parse_size(self.volume_24h_fp or "0"),
            open_interest=parse_size(self.open_interest_fp or "0"),
        )


def _price(text: str | None, absent: int) -> int:
    return absent if text is None else parse_price(text)


def _settlement(result: str | None, value: str | None) -> int | None:
    if value:
        return parse_price(value)
    return {"yes": PRICE, "no": 0}.get(result or "")


class MarketResponse(Wire, frozen=True):
    market: Market


class MarketPage(Wire, frozen=True, omit_defaults=False):
    markets: list[Market]
    cursor: str = ""


class Event(Wire, frozen=True):
    """An event object; `markets` when asked for with nested markets."""

    event_ticker: str
    series_ticker: str
    title: str = msgspec.field(default="")
    sub_title: str | None = None
    collateral_return_type: str | None = None
    mutually_exclusive: bool | None = None
    category: str = ""
    settlement_sources: list[dict[str, str]] | None = None
    markets: list[Market] | None = None
    exchange_index: int | None = None


class EventResponse(Wire, frozen=True):
    event: Event
    markets: list[Market] | None = None


class EventPage(Wire, frozen=True, omit_defaults=False):
    events: list[Event]
    cursor: str = ""


class Series(Wire, frozen=True, omit_defaults=False):
    """A series object."""

    ticker: str
    title: str = ""
    category: str = ""
    frequency: str = "custom"
    categories: list[str] = []
    tags: list[str] | None = None
    settlement_sources: list[dict[str, str]] | None = None
    contract_url: str = ""
    contract_terms_url: str = ""
    fee_type: str = "quadratic"
    fee_multiplier: float = 1.0
    additional_prohibitions: list[str] | None = None


class SeriesResponse(Wire, frozen=True):
    series: Series


class SeriesList(Wire, frozen=True, omit_defaults=False):
    series: list[Series] = []


class Orderbook(Wire, frozen=True, omit_defaults=False):
    """Bids of both sides as [price, count] strings, worst first."""

    yes_dollars: list[tuple[str, str]] = []
    no_dollars: list[tuple[str, str]] = []


class OrderbookResponse(Wire, frozen=True):
    orderbook_fp: Orderbook


class Trade(Wire, frozen=True, omit_defaults=False):
    """A public print."""

    trade_id: str
    ticker: str
    count_fp: str
    yes_price_dollars: str
    no_price_dollars: str
    created_time: str
    taker_outcome_side: str | None = None
    taker_book_side: str | None = None
    taker_side: str | None = None
    is_block_trade: bool = False

    def to_model(self) -> model.Trade:
        """The print as a value.

        Raises:
            ProtocolError: neither direction field names the taker's outcome.
        """
        taker = self.taker_outcome_side or self.taker_side
        if taker not in ("yes", "no"):
            raise ProtocolError(f"trade {self.trade_id}: taker side {taker!r}")
        return model.Trade(
            ts=instant(self.created_time),
            ticker=self.ticker,
            price=parse_price(self.yes_price_dollars),
            size=parse_size(self.count_fp),
            taker=taker,
            trade_id=self.trade_id,
        )


class TradePage(Wire, frozen=True, omit_defaults=False):
    trades: list[Trade]
    cursor: str = ""


class Balance(Wire, frozen=True, omit_defaults=False):
    """Free cash in cents (cut off) and dollars, and the marked value of positions in cents."""

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


class MarketPosition(Wire, frozen=True, omit_defaults=False):
    """Our net position in one market."""

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
    """Our positions in one event, summed."""

    event_ticker: str
    total_cost_dollars: str
    total_cost_shares_fp: str
    event_exposure_dollars: str
    realized_pnl_dollars: str
    fees_paid_dollars: str


class PositionPage(Wire, frozen=True, omit_defaults=False):
    market_positions: list[MarketPosition]
    event_positions: list[EventPosition] = []
    cursor: str = ""


class Fill(Wire, frozen=True, omit_defaults=False):
    """One match of one of our orders."""

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
    fills: list[Fill]
    cursor: str = ""


class Settlement(Wire, frozen=True, omit_defaults=False):
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
        fallback = PRICE if self.market_result == "yes" else 0
        return model.Settlement(
            ticker=self.ticker,
            event=self.event_ticker,
            result=self.market_result,
            settlement=fallback if self.value is None else self.value * 100,
            yes_size=parse_size(self.yes_count_fp),
            no_size=parse_size(self.no_count_fp),
            yes_cost=parse_money(self.yes_total_cost_dollars),
            no_cost=parse_money(self.no_total_cost_dollars),
            revenue=self.revenue * 10_000,
            fees=parse_money(self.fee_cost),
            ts=instant(self.settled_time),
        )


class SettlementPage(Wire, frozen=True, omit_defaults=False):
    settlements: list[Settlement]
    cursor: str = ""


class Order(Wire, frozen=True):
    """One of our orders."""

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
    order: Order


class OrderPage(Wire, frozen=True, omit_defaults=False):
    orders: list[Order]
    cursor: str = ""


class CreateOrder(Wire, frozen=True):
    """The body of an order; `price` is the YES price, `side` "bid" or "ask"."""

    ticker: str
    side: str
    count: str
    price: str
    time_in_force: str
    self_trade_prevention_type: str
    client_order_id: str | None = None
    expiration_time: int | None = None
    post_only: bool = False
    reduce_only: bool = False
    cancel_order_on_pause: bool = False
    order_group_id: str | None = None
    subaccount: int = 0
    exchange_index: int | None = None


class CreateOrderResponse(Wire, frozen=True):
    order_id: str
    fill_count: str
    remaining_count: str
    ts_ms: int
    client_order_id: str | None = None
    average_fill_price: str | None = None
    average_fee_paid: str | None = None


class CancelOrderResponse(Wire, frozen=True):
    order_id: str
    reduced_by: str
    ts_ms: int
    client_order_id: str | None = None


class ErrorBody(Wire, frozen=True):
    """An error body: all four shapes seen on the wire fit into its optional fields."""

    error: dict[str, str] | str | None = None
    code: str | None = None
    message: str | None = None
    details: str | None = None
    msg: str | None = None


class Status(Wire, frozen=True, omit_defaults=False):
    exchange_active: bool
    trading_active: bool


class BucketLimit(Wire, frozen=True, omit_defaults=False):
    refill_rate: int
    bucket_capacity: int


class Limits(Wire, frozen=True, omit_defaults=False):
    usage_tier: str
    read: BucketLimit
    write: BucketLimit
    grants: list[dict[str, str]] = []
