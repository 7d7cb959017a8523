"""WebSocket messages: the bodies (`msg`) that the exchange sends, and the commands that it accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from kalshilab.kalshi.wire.rest import PriceRange
from kalshilab.lazy import renamed

__all__ = [
    "Command",
    "CommandParams",
    "EventFeeUpdate",
    "EventLifecycleMessage",
    "FillMessage",
    "LifecycleMessage",
    "LifecycleMetadata",
    "MarketPositionMessage",
    "OrderGroupUpdate",
    "OrderbookDelta",
    "OrderbookSnapshot",
    "TickerMessage",
    "TradeMessage",
    "UserOrder",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Base of the message bodies: keyword fields, all of which are encoded."""


class OrderbookSnapshot(Message, frozen=True, omit_defaults=True):
    """All levels of one market; an empty side is omitted."""

    market_ticker: str
    market_id: str = msgspec.field(default_factory=str)
    clock: int = msgspec.field(default_factory=int)
    yes_dollars_fp: list[tuple[str, str]] = []
    no_dollars_fp: list[tuple[str, str]] = []


class OrderbookDelta(Message, frozen=True, omit_defaults=True):
    """Change of one level by `delta_fp`; NO levels have NO prices."""

    market_ticker: str
    price_dollars: str
    delta_fp: str
    side: str
    market_id: str = msgspec.field(default_factory=str)
    clock: int = msgspec.field(default_factory=int)
    client_order_id: str = ""
    subaccount: int | None = None
    ts: str = ""
    ts_ms: int = 0


class TradeMessage(Message, frozen=True):
    """A public trade."""

    market_ticker: str
    yes_price_dollars: str
    count_fp: str
    trade_id: str = ""
    no_price_dollars: str = ""
    taker_side: str = ""
    taker_outcome_side: str = ""
    taker_book_side: str = ""
    is_block_trade: bool = False
    ts: int = 0
    ts_ms: int = 0
    ts_us: int = 0
    """Microseconds; only the local exchange sends it, so that a replayed tape keeps its exact times."""


class TickerMessage(Message, frozen=True):
    """Top of the book and totals of one market."""

    market_ticker: str
    price_dollars: str = "0.0000"
    yes_bid_dollars: str = "0.0000"
    yes_ask_dollars: str = "1.0000"
    market_id: str = ""
    yes_bid_size_fp: str = "0.00"
    yes_ask_size_fp: str = "0.00"
    last_trade_size_fp: str = "0.00"
    volume_fp: str = "0.00"
    open_interest_fp: str = "0.00"
    dollar_volume: int = 0
    dollar_open_interest: int = 0
    ts: int = 0
    ts_ms: int = 0
    time: str = ""


class FillMessage(Message, frozen=True):
    """One fill of one of the account's orders."""

    trade_id: str
    order_id: str
    market_ticker: str
    is_taker: bool
    yes_price_dollars: str
    count_fp: str
    outcome_side: str
    book_side: str
    fee_cost: str = "0"
    side: str = ""
    action: str = ""
    purchased_side: str = ""
    client_order_id: str = ""
    post_position_fp: str = "0.00"
    exchange_index: int = 0
    ts: int = 0
    ts_ms: int = 0
    subaccount: int = 0


class UserOrder(Message, frozen=True):
    """New state of one of the account's orders."""

    order_id: str
    ticker: str
    status: str
    outcome_side: str
    book_side: str
    yes_price_dollars: str
    initial_count_fp: str
    fill_count_fp: str
    remaining_count_fp: str
    user_id: str = ""
    client_order_id: str = ""
    side: str = ""
    is_yes: bool = True
    taker_fill_cost_dollars: str = "0"
    maker_fill_cost_dollars: str = "0"
    taker_fees_dollars: str = "0"
    maker_fees_dollars: str = "0"
    self_trade_prevention_type: str = "taker_at_cross"
    created_time: str = ""
    created_ts_ms: int = 0
    last_update_time: str = ""
    last_updated_ts_ms: int = 0
    last_update_reason: str | msgspec.UnsetType = msgspec.UNSET
    order_group_id: str | msgspec.UnsetType = msgspec.UNSET
    exchange_index: int = 0
    subaccount_number: int = 0


class MarketPositionMessage(Message, frozen=True):
    """New position of the account in one market."""

    market_ticker: str
    position_fp: str
    position_cost_dollars: str
    realized_pnl_dollars: str
    fees_paid_dollars: str
    position_fee_cost_dollars: str = "0"
    volume_fp: str = "0.00"
    user_id: str = ""
    subaccount: int = 0


class OrderGroupUpdate(Message, frozen=True):
    """Change of an order group; it has the limit if that was set."""

    event_type: str
    order_group_id: str
    contracts_limit_fp: str | msgspec.UnsetType = msgspec.UNSET
    ts_ms: int = 0


class LifecycleMetadata(Message, frozen=True, omit_defaults=True):
    """Description of a new market."""

    event_ticker: str | None = None
    name: str | None = None
    title: str | None = None
    yes_sub_title: str | None = None
    no_sub_title: str | None = None
    rules_primary: str | None = None
    rules_secondary: str | None = None
    can_close_early: bool | None = None
    expected_expiration_ts: int | None = None


class LifecycleMessage(Message, frozen=True, omit_defaults=True):
    """A step in a market's lifecycle; the fields depend on `event_type`, and every `_ts` is in seconds."""

    market_ticker: str
    event_type: str
    open_ts: int | None = None
    close_ts: int | None = None
    result: str | None = None
    determination_ts: int | None = None
    settlement_value: str | None = None
    settled_ts: int | None = None
    is_deactivated: bool | None = None
    price_level_structure: str | None = None
    price_ranges: list[PriceRange] | None = None
    additional_metadata: LifecycleMetadata | None = None
    yes_sub_title: str | None = None
    exchange_index: int | None = None


class EventLifecycleMessage(Message, frozen=True):
    """A new event, which groups markets."""

    event_ticker: str
    title: str = ""
    subtitle: str = ""
    collateral_return_type: str = ""
    series_ticker: str = ""
    exchange_index: int = 0


class EventFeeUpdate(Message, frozen=True):
    """Fee override of an event; None where it was cleared."""

    event_ticker: str
    fee_type_override: str | None = None
    fee_multiplier_override: float | None = None


class CommandParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parameters of a command; each command uses some of them."""

    channels: list[str] | None = None
    market_ticker: str | None = None
    market_tickers: list[str] | None = None
    market_id: str | None = None
    market_ids: list[str] | None = None
    sid: int | None = None
    sids: list[int] | None = None
    action: str | None = None
    send_initial_snapshot: bool | None = None
    skip_ticker_ack: bool | None = None
    use_yes_price: bool | None = None


class Command(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Command of a client; the answer repeats its `id`."""

    cmd: str
    id: int = 0
    params: CommandParams | None = None
