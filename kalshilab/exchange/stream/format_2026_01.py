"""The message and body forms of January 2026, converted from today's.

Recordings and clients of that time expect whole cents and whole contracts as numbers. Prints and lifecycle messages had
no sequence numbers, and no message had a sending time. Fractional contracts did not exist and are rounded down.

Source: the exchange's changelog and the examples it published at the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from kalshilab.units import MONEY, parse_money, parse_price, parse_size

__all__ = ["FORMS", "JANUARY", "UNSEQUENCED", "january_frame", "january_rest"]

JANUARY: Final = "2026-01"
FORMS: Final = ("", JANUARY)
"""Available forms; the empty string is today's."""
UNSEQUENCED: Final = frozenset({"trade", "market_lifecycle_v2", "event_lifecycle"})
"""Message types that had no `seq` in January 2026."""

JsonObject = dict[str, object]
"""A decoded JSON object."""
Fields = Mapping[str, object]
"""A decoded JSON object that is only read."""


# Fields of today's form: prices, sizes and money are decimal strings


def _text(m: Fields, name: str) -> str:
    value = m[name]
    assert isinstance(value, str), name
    return value


def _fields(value: object) -> JsonObject:
    """Return a nested JSON object with its type."""
    assert isinstance(value, dict)
    return value


def _cents(m: Fields, name: str) -> int:
    """Return a price in whole cents.

    >>> _cents({"price_dollars": "0.4150"}, "price_dollars")
    41
    """
    return parse_price(_text(m, name)) // 100


def _price_text(price: str) -> str:
    """Return a price in dollars with three decimals.

    >>> _price_text("0.4100")
    '0.410'
    """
    return f"{parse_price(price) / 10_000:.3f}"


def _dollars(m: Fields, name: str) -> str:
    return _price_text(_text(m, name))


def _contracts(m: Fields, name: str) -> int:
    """Return a size in whole contracts, rounded down; it cannot be negative."""
    return parse_size(_text(m, name)) // 100


def _signed_contracts(m: Fields, name: str) -> int:
    """Return a change or a position in whole contracts, rounded towards zero."""
    return int(float(_text(m, name)))


def _money(m: Fields, name: str, per_dollar: int) -> int:
    """Return an amount of money as a whole number of parts of a dollar, rounded down."""
    return parse_money(_text(m, name)) * per_dollar // MONEY


def _levels(levels: object) -> tuple[list[list[int]], list[list[str | int]]]:
    """Return book levels of at least one contract, with prices in cents and in dollars."""
    sized = [(p, parse_size(s) // 100) for p, s in msgspec.convert(levels or (), list[tuple[str, str]])]
    kept = [(p, n) for p, n in sized if n]
    return [[parse_price(p) // 100, n] for p, n in kept], [[_price_text(p), n] for p, n in kept]


# Messages


def _snapshot(m: Fields) -> JsonObject:
    converted: JsonObject = {"market_ticker": m["market_ticker"]}
    for side in ("yes", "no"):
        levels = m.get(f"{side}_dollars_fp")
        if levels:
            converted[side], converted[f"{side}_dollars"] = _levels(levels)
    return converted


def _delta(m: Fields) -> JsonObject:
    return {
        "market_ticker": m["market_ticker"],
        "price": _cents(m, "price_dollars"),
        "price_dollars": _dollars(m, "price_dollars"),
        "delta": _signed_contracts(m, "delta_fp"),
        "side": m["side"],
    }


def _ticker(m: Fields) -> JsonObject:
    return {
        "market_ticker": m["market_ticker"],
        "price": _cents(m, "price_dollars"),
        "yes_bid": _cents(m, "yes_bid_dollars"),
        "yes_ask": _cents(m, "yes_ask_dollars"),
        "price_dollars": _dollars(m, "price_dollars"),
        "yes_bid_dollars": _dollars(m, "yes_bid_dollars"),
        "no_bid_dollars": f"{1 - parse_price(_text(m, 'yes_ask_dollars')) / 10_000:.3f}",
        "volume": _contracts(m, "volume_fp"),
        "open_interest": _contracts(m, "open_interest_fp"),
        "dollar_volume": m["dollar_volume"],
        "dollar_open_interest": m["dollar_open_interest"],
        "ts": m["ts"],
    }


def _trade(m: Fields) -> JsonObject:
    yes_cents = _cents(m, "yes_price_dollars")
    return {
        "market_ticker": m["market_ticker"],
        "yes_price": yes_cents,
        "yes_price_dollars": _dollars(m, "yes_price_dollars"),
        "no_price": 100 - yes_cents,
        "no_price_dollars": _dollars(m, "no_price_dollars"),
        "count": _contracts(m, "count_fp"),
        "taker_side": m["taker_side"],
        "ts": m["ts"],
    }


def _fill(m: Fields) -> JsonObject:
    return {
        "trade_id": m["trade_id"],
        "order_id": m["order_id"],
        "client_order_id": m["client_order_id"],
        "market_ticker": m["market_ticker"],
        "is_taker": m["is_taker"],
        "side": m["side"],
        "yes_price": _cents(m, "yes_price_dollars"),
        "yes_price_dollars": _dollars(m, "yes_price_dollars"),
        "count": _contracts(m, "count_fp"),
        "action": m["action"],
        "ts": m["ts"],
        "post_position": _signed_contracts(m, "post_position_fp"),
        "purchased_side": m["purchased_side"],
    }


def _position(m: Fields) -> JsonObject:
    # Money was given in hundredths of a cent.
    return {
        "user_id": m["user_id"],
        "market_ticker": m["market_ticker"],
        "position": _signed_contracts(m, "position_fp"),
        "position_cost": _money(m, "position_cost_dollars", 10_000),
        "realized_pnl": _money(m, "realized_pnl_dollars", 10_000),
        "fees_paid": _money(m, "fees_paid_dollars", 10_000),
        "volume": _contracts(m, "volume_fp"),
    }


_NEWER_LIFECYCLE_FIELDS: Final = (
    "settlement_value",
    "price_level_structure",
    "price_ranges",
    "exchange_index",
)


def _lifecycle(m: Fields) -> JsonObject | None:
    if m["event_type"] in ("price_level_structure_updated", "metadata_updated"):
        return None
    converted = {k: v for k, v in m.items() if k not in _NEWER_LIFECYCLE_FIELDS}
    if "additional_metadata" in converted:
        metadata = _fields(converted["additional_metadata"])
        converted["additional_metadata"] = {k: v for k, v in metadata.items() if k != "event_ticker"}
    return converted


def _event(m: Fields) -> JsonObject:
    converted = {k: v for k, v in m.items() if k not in ("exchange_index", "subtitle")}
    return converted | {"sub_title": m.get("subtitle", "")}


_FRAMES: Final[Mapping[str, Callable[[Fields], JsonObject | None]]] = {
    "orderbook_snapshot": _snapshot,
    "orderbook_delta": _delta,
    "ticker": _ticker,
    "trade": _trade,
    "fill": _fill,
    "market_position": _position,
    "market_lifecycle_v2": _lifecycle,
    "event_lifecycle": _event,
}


def january_frame(kind: str, body: msgspec.Struct) -> JsonObject | None:
    """Return a message's body in the form of January 2026; None for a message that did not exist then.

    >>> from kalshilab.kalshi.wire.stream import OrderbookDelta
    >>> january_frame("orderbook_delta", OrderbookDelta(market_ticker="A", price_dollars="0.5600", delta_fp="-4.00", side="no"))
    {'market_ticker': 'A', 'price': 56, 'price_dollars': '0.560', 'delta': -4, 'side': 'no'}
    """
    convert = _FRAMES.get(kind)
    return None if convert is None else convert(msgspec.to_builtins(body))


# REST


def _rest_market(m: Fields) -> JsonObject:
    converted = dict(m)
    for name in ("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "previous_yes_bid", "previous_yes_ask", "previous_price", "notional_value", "settlement_value"):  # fmt: skip
        if f"{name}_dollars" in m:
            converted[name] = _cents(m, f"{name}_dollars")
    for name in ("volume", "volume_24h", "open_interest"):
        if f"{name}_fp" in m:
            converted[name] = _contracts(m, f"{name}_fp")
    return converted | {"liquidity": 0, "tick_size": 1, "response_price_units": "usd_cent"}


def _rest_book(m: Fields) -> JsonObject:
    today = _fields(m["orderbook_fp"])
    book: JsonObject = {}
    for side in ("yes", "no"):
        in_cents, in_dollars = _levels(today.get(f"{side}_dollars"))
        book[side], book[f"{side}_dollars"] = in_cents or None, in_dollars or None
    return {"orderbook": book, "orderbook_fp": today}


def _rest_trade(m: Fields) -> JsonObject:
    newer = ("taker_outcome_side", "taker_book_side", "is_block_trade")
    return {k: v for k, v in m.items() if k not in newer} | _rest_print(m)


def _rest_print(m: Fields) -> JsonObject:
    """Return the count and the prices that prints and fills had."""
    yes_cents = _cents(m, "yes_price_dollars")
    return {
        "count": _contracts(m, "count_fp"),
        "price": yes_cents / 100,
        "yes_price": yes_cents,
        "no_price": 100 - yes_cents,
    }


def _rest_order(m: Fields) -> JsonObject:
    yes_cents = _cents(m, "yes_price_dollars")
    converted = dict(m) | {"yes_price": yes_cents, "no_price": 100 - yes_cents, "queue_position": 0}
    for name in ("fill_count", "remaining_count", "initial_count"):
        converted[name] = _contracts(m, f"{name}_fp")
    for name in ("taker_fees", "maker_fees", "taker_fill_cost", "maker_fill_cost"):
        converted[name] = _money(m, f"{name}_dollars", 100)
    return converted


def _rest_fill(m: Fields) -> JsonObject:
    kept = {k: v for k, v in m.items() if k != "fee_cost"}
    return kept | _rest_print(m) | {"yes_price_fixed": m["yes_price_dollars"]}


_REST: Final[Mapping[str, Callable[[Fields], JsonObject]]] = {
    "market": _rest_market,
    "markets": _rest_market,
    "trades": _rest_trade,
    "order": _rest_order,
    "orders": _rest_order,
    "fills": _rest_fill,
}


def _candle(value: object) -> JsonObject:
    """Return a candlestick with cents and contracts; archived ones, which did not exist then, stay unchanged."""
    c = _fields(value)
    if "volume_fp" not in c:
        return c
    converted = c | {"volume": _contracts(c, "volume_fp"), "open_interest": _contracts(c, "open_interest_fp")}
    for side in ("yes_bid", "yes_ask", "price"):
        quotes = _fields(c[side])
        names = ("open", "low", "high", "close", *(("mean", "previous") if side == "price" else ()))
        cents: JsonObject = {
            name: _cents(quotes, f"{name}_dollars") if f"{name}_dollars" in quotes else None for name in names
        }
        converted[side] = cents | quotes
    return converted


def _candles(value: object) -> list[JsonObject]:
    assert isinstance(value, list)
    return [_candle(c) for c in value]


def _convert_candles(body: JsonObject) -> bool:
    """Convert a body's candlesticks in place; return whether it has any."""
    markets = body.get("markets")
    several = [m for m in markets if "candlesticks" in m] if isinstance(markets, list) else []
    for holder in (body, *several):
        if "candlesticks" in holder:
            holder["candlesticks"] = _candles(holder["candlesticks"])
    by_market = body.get("market_candlesticks")
    if isinstance(by_market, list):
        body["market_candlesticks"] = [_candles(row) for row in by_market]
    return bool(several) or "candlesticks" in body or "market_candlesticks" in body


def january_rest(body: bytes) -> bytes:
    """Return a REST body in the form of January 2026.

    Markets, books, prints, candlesticks, orders and fills are converted; other bodies stay unchanged.

    >>> january_rest(b'{"orderbook_fp":{"yes_dollars":[["0.4100","10.00"]],"no_dollars":[]}}')
    b'{"orderbook":{"yes":[[41,10]],"yes_dollars":[["0.410",10]],"no":null,"no_dollars":null},"orderbook_fp":{"yes_dollars":[["0.4100","10.00"]],"no_dollars":[]}}'
    """
    decoded: object = msgspec.json.decode(body) if body else None
    if not isinstance(decoded, dict):
        return body
    if "orderbook_fp" in decoded:
        return msgspec.json.encode(_rest_book(decoded))
    changed = _convert_candles(decoded)
    for name, convert in _REST.items():
        value = decoded.get(name)
        if isinstance(value, dict) and "ticker" in value:
            decoded[name], changed = convert(value), True
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "ticker" in value[0]:
            decoded[name], changed = [convert(v) for v in value], True
    return msgspec.json.encode(decoded) if changed else body
