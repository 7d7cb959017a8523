"""From messages of the WebSocket stream to events: the account's fills and orders, and the lifecycle of markets."""

from __future__ import annotations

from typing import Final

from kalshilab.kalshi.stream.events import Lifecycle
from kalshilab.kalshi.wire import stream as wire
from kalshilab.market.model import Fill, Order
from kalshilab.units import PRICE, parse_money, parse_price, parse_size

__all__ = ["fill_of", "lifecycle_of", "order_of", "price_of", "size_of"]

# There are few distinct prices, and sizes repeat: a lookup is several times faster than parsing.
_PRICES: dict[str, int] = {}
_SIZES: dict[str, int] = {}
_CACHE_LIMIT: Final = 50_000


def price_of(text: str) -> int:
    """Return a price in price units; UnitError for a text that is not a price."""
    price = _PRICES.get(text)
    if price is None:
        price = parse_price(text)
        if len(_PRICES) < _CACHE_LIMIT:
            _PRICES[text] = price
    return price


def size_of(text: str) -> int:
    """Return a size in size units; UnitError for a text that is not a size."""
    size = _SIZES.get(text)
    if size is None:
        size = parse_size(text)
        if len(_SIZES) < _CACHE_LIMIT:
            _SIZES[text] = size
    return size


def fill_of(m: wire.FillMessage) -> Fill:
    """Return the fill that a message reports.

    Raises:
        UnitError: a number cannot be read.
    """
    return Fill(
        trade_id=m.trade_id,
        order_id=m.order_id,
        ticker=m.market_ticker,
        side=m.book_side,
        price=price_of(m.yes_price_dollars),
        size=size_of(m.count_fp),
        fee=parse_money(m.fee_cost),
        is_taker=m.is_taker,
        ts=m.ts_ms * 1000,
        client_order_id=m.client_order_id,
        position=parse_size(m.post_position_fp),
    )


def order_of(m: wire.UserOrder) -> Order:
    """Return the state of an order that a message reports.

    Raises:
        UnitError: a number cannot be read.
    """
    return Order(
        order_id=m.order_id,
        ticker=m.ticker,
        side=m.book_side,
        price=price_of(m.yes_price_dollars),
        status=m.status,
        initial=size_of(m.initial_count_fp),
        filled=size_of(m.fill_count_fp),
        remaining=size_of(m.remaining_count_fp),
        client_order_id=m.client_order_id,
        fees=parse_money(m.taker_fees_dollars) + parse_money(m.maker_fees_dollars),
        created_ts=m.created_ts_ms * 1000,
        updated_ts=m.last_updated_ts_ms * 1000,
        reason=m.last_update_reason or "",
    )


def lifecycle_of(m: wire.LifecycleMessage) -> Lifecycle:
    """Return the step in a market's life that a message reports.

    Raises:
        UnitError: a number cannot be read.
    """
    result = m.result or ""
    settlement = (
        {"yes": PRICE, "no": 0}.get(result) if not m.settlement_value else price_of(m.settlement_value)
    )
    about = m.additional_metadata
    event = (about.event_ticker or "") if about is not None else ""
    seconds = m.determination_ts or m.settled_ts or (m.open_ts if m.event_type == "created" else 0) or 0
    return Lifecycle(
        m.event_type,
        m.market_ticker,
        seconds * 1_000_000,
        event,
        (m.open_ts or 0) * 1_000_000,
        (m.close_ts or 0) * 1_000_000,
        result,
        settlement,
    )
