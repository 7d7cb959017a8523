"""REST bodies of public data: markets, events, series, order books, trades, exchange status and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET, UnsetType

from kalshilab.errors import ProtocolError
from kalshilab.kalshi.wire.base import Wire, instant
from kalshilab.lazy import renamed
from kalshilab.market import model
from kalshilab.units import PRICE, TickGrid, parse_price, parse_size

__all__ = [
    "CutoffBody",
    "ErrorBody",
    "EventBody",
    "EventFeeChange",
    "EventFeeChangePage",
    "EventPage",
    "EventResponse",
    "ExchangeStatusBody",
    "MaintenanceWindow",
    "MarketBody",
    "MarketOrderbook",
    "MarketPage",
    "MarketResponse",
    "Orderbook",
    "OrderbookList",
    "OrderbookResponse",
    "PriceRange",
    "Schedule",
    "ScheduleResponse",
    "Series",
    "SeriesFeeChange",
    "SeriesFeeChangeList",
    "SeriesList",
    "SeriesResponse",
    "Session",
    "ShardStatus",
    "TradeBody",
    "TradePage",
    "UserDataTimestamp",
    "Week",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class PriceRange(Wire, frozen=True, omit_defaults=False):
    """A range of prices and the step within it, in dollars."""

    start: str
    end: str
    step: str


class MarketBody(Wire, frozen=True):
    """A market."""

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
    fee_waiver_expiration_time: str | None = None
    can_close_early: bool | None = None
    expiration_value: str | None = None
    rules_primary: str | None = None
    rules_secondary: str | None = None
    price_level_structure: str | None = None
    price_ranges: list[PriceRange] | None = None
    exchange_index: int | None = None

    def to_model(self, *, series: str = "", category: str = "") -> model.Market:
        """Return the market as a domain value.

        Args:
            series: the series ticker, which only the event has.
            category: the category, which only the series has.
        """
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
            price_structure=self.price_level_structure or "",
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
    """An answer with one market."""

    market: MarketBody


class MarketPage(Wire, frozen=True, omit_defaults=False):
    """A page of markets."""

    markets: list[MarketBody]
    cursor: str = ""


class EventBody(Wire, frozen=True):
    """An event; it has `markets` if nested markets were requested."""

    event_ticker: str
    series_ticker: str
    title: str = msgspec.field(default="")
    sub_title: str | None = None
    collateral_return_type: str | None = None
    mutually_exclusive: bool | None = None
    category: str = ""
    settlement_sources: list[dict[str, str]] | None = None
    markets: list[MarketBody] | None = None
    last_updated_ts: str | None = None
    fee_type_override: str | None = None
    fee_multiplier_override: float | None = None
    exchange_index: int | None = None


class EventResponse(Wire, frozen=True):
    """An answer with one event."""

    event: EventBody
    markets: list[MarketBody] | None = None


class EventPage(Wire, frozen=True, omit_defaults=False):
    """A page of events."""

    events: list[EventBody]
    cursor: str = ""
    milestones: list[dict[str, str]] | UnsetType = UNSET


class Series(Wire, frozen=True, omit_defaults=False):
    """A series."""

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
    product_metadata: dict[str, str] | UnsetType = UNSET
    volume_fp: str | UnsetType = UNSET
    last_updated_ts: str | UnsetType = UNSET
    exchange_index: int | UnsetType = UNSET


class SeriesResponse(Wire, frozen=True):
    """An answer with one series."""

    series: Series


class SeriesList(Wire, frozen=True, omit_defaults=False):
    """All series."""

    series: list[Series] = []


class Orderbook(Wire, frozen=True, omit_defaults=False):
    """Bids of both sides as [price, count] strings, worst first."""

    yes_dollars: list[tuple[str, str]] = []
    no_dollars: list[tuple[str, str]] = []


class OrderbookResponse(Wire, frozen=True):
    """An answer with one order book."""

    orderbook_fp: Orderbook


class MarketOrderbook(Wire, frozen=True):
    """Order book of one market in an answer about several."""

    ticker: str
    orderbook_fp: Orderbook


class OrderbookList(Wire, frozen=True):
    """Order books of several markets."""

    orderbooks: list[MarketOrderbook]


class TradeBody(Wire, frozen=True, omit_defaults=False):
    """A public trade."""

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
        """Return the trade as a domain value.

        Raises:
            ProtocolError: no field names the taker's outcome.
        """
        taker = self.taker_outcome_side or self.taker_side
        if taker not in ("yes", "no"):
            raise ProtocolError(f"taker of trade {self.trade_id} must be yes or no, got {taker!r}")
        return model.Trade(
            ts=instant(self.created_time),
            ticker=self.ticker,
            price=parse_price(self.yes_price_dollars),
            size=parse_size(self.count_fp),
            taker=taker,
            trade_id=self.trade_id,
        )


class TradePage(Wire, frozen=True, omit_defaults=False):
    """A page of trades, newest first."""

    trades: list[TradeBody]
    cursor: str = ""


class CutoffBody(Wire, frozen=True):
    """Start of the archive for each kind of record."""

    market_settled_ts: str
    trades_created_ts: str
    orders_updated_ts: str
    market_positions_last_updated_ts: str | None = None


class ErrorBody(Wire, frozen=True):
    """An error body; its optional fields cover all four shapes that the exchange sends."""

    error: Any = None
    code: Any = None
    message: Any = None
    details: Any = None
    msg: Any = None


class ShardStatus(Wire, frozen=True):
    """Status of one matching shard."""

    exchange_index: int
    description: str
    exchange_active: bool
    trading_active: bool
    intra_exchange_transfers_active: bool


class ExchangeStatusBody(Wire, frozen=True):
    """Status of the exchange; an absent field is unknown."""

    exchange_active: bool
    trading_active: bool
    intra_exchange_transfers_active: bool | None = None
    exchange_estimated_resume_time: str | None = None
    exchange_index_statuses: list[ShardStatus] | None = None


class Session(Wire, frozen=True):
    """Trading hours of a day, as "HH:MM" in New York."""

    open_time: str
    close_time: str


class Week(Wire, frozen=True):
    """Trading hours of a regular week, and the period in which they apply."""

    start_time: str
    end_time: str
    monday: list[Session]
    tuesday: list[Session]
    wednesday: list[Session]
    thursday: list[Session]
    friday: list[Session]
    saturday: list[Session]
    sunday: list[Session]


class MaintenanceWindow(Wire, frozen=True):
    """A period of scheduled maintenance."""

    start_datetime: str
    end_datetime: str


class Schedule(Wire, frozen=True):
    """Trading hours and maintenance windows of the exchange."""

    standard_hours: list[Week]
    maintenance_windows: list[MaintenanceWindow]


class ScheduleResponse(Wire, frozen=True):
    """An answer with the schedule."""

    schedule: Schedule


class UserDataTimestamp(Wire, frozen=True):
    """Time of the last update of account data."""

    as_of_time: str


class SeriesFeeChange(Wire, frozen=True):
    """Fee terms of a series from a time on."""

    id: str
    series_ticker: str
    fee_type: str
    fee_multiplier: float
    scheduled_ts: str


class SeriesFeeChangeList(Wire, frozen=True):
    """Scheduled fee changes of series."""

    series_fee_change_arr: list[SeriesFeeChange]


class EventFeeChange(Wire, frozen=True):
    """Fee terms of an event that override those of its series from a time on; None means no override."""

    id: str
    event_ticker: str
    series_ticker: str
    fee_type_override: str | None
    fee_multiplier_override: float | None
    scheduled_ts: str


class EventFeeChangePage(Wire, frozen=True, omit_defaults=False):
    """A page of scheduled fee overrides of events."""

    event_fee_changes: list[EventFeeChange]
    cursor: str = ""
