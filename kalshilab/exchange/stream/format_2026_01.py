"""The forms of January 2026: what the exchange's messages and bodies looked like before it changed them.

Recordings and clients of that time expect whole cents and whole contracts as numbers, no sequence on prints and
lifecycle messages, and no sending time.  Each form is made of today's: what was sold in fractions then did not
exist, and is rounded down here.

Source: the exchange's changelog and the examples it published at the time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from kalshilab.units import MONEY, parse_money, parse_price, parse_size

__all__ = ["FORMS", "JANUARY", "UNSEQUENCED", "january_frame", "january_rest"]

JANUARY: Final = "2026-01"
FORMS: Final = ("", JANUARY)
"""Forms that can be asked for; "" is today's."""
UNSEQUENCED: Final = frozenset({"trade", "market_lifecycle_v2", "event_lifecycle"})
"""Kinds of message that had no `seq` then."""


def _cents(text: str) -> int:
    return parse_price(text) // 100


def _three(text: str) -> str:
    """A price in dollars with three decimals.

    >>> _three("0.4100")
    '0.410'
    """
    return f"{parse_price(text) / 10_000:.3f}"


def _whole(text: str) -> int:
    """Whole contracts."""
    return parse_size(text) // 100


def _levels(levels: list[list[str]]) -> tuple[list[list[int]], list[list[Any]]]:
    kept = [(p, _whole(s)) for p, s in levels if _whole(s)]
    return [[_cents(p), n] for p, n in kept], [[_three(p), n] for p, n in kept]


def _snapshot(m: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {"market_ticker": m["market_ticker"]}
    for side in ("yes", "no"):
        levels = m.get(f"{side}_dollars_fp")
        if levels:
            made[side], made[f"{side}_dollars"] = _levels(levels)
    return made


def _delta(m: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "market_ticker": m["market_ticker"],
        "price": _cents(m["price_dollars"]),
        "price_dollars": _three(m["price_dollars"]),
        "delta": int(float(m["delta_fp"])),
        "side": m["side"],
    }


def _ticker(m: Mapping[str, Any]) -> dict[str, Any]:
    bid, ask = _cents(m["yes_bid_dollars"]), _cents(m["yes_ask_dollars"])
    return {
        "market_ticker": m["market_ticker"],
        "price": _cents(m["price_dollars"]),
        "yes_bid": bid,
        "yes_ask": ask,
        "price_dollars": _three(m["price_dollars"]),
        "yes_bid_dollars": _three(m["yes_bid_dollars"]),
        "no_bid_dollars": f"{1 - parse_price(m['yes_ask_dollars']) / 10_000:.3f}",
        "volume": _whole(m["volume_fp"]),
        "open_interest": _whole(m["open_interest_fp"]),
        "dollar_volume": m["dollar_volume"],
        "dollar_open_interest": m["dollar_open_interest"],
        "ts": m["ts"],
    }


def _trade(m: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "market_ticker": m["market_ticker"],
        "yes_price": _cents(m["yes_price_dollars"]),
        "yes_price_dollars": _three(m["yes_price_dollars"]),
        "no_price": 100 - _cents(m["yes_price_dollars"]),
        "no_price_dollars": _three(m["no_price_dollars"]),
        "count": _whole(m["count_fp"]),
        "taker_side": m["taker_side"],
        "ts": m["ts"],
    }


def _fill(m: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "trade_id": m["trade_id"],
        "order_id": m["order_id"],
        "client_order_id": m["client_order_id"],
        "market_ticker": m["market_ticker"],
        "is_taker": m["is_taker"],
        "side": m["side"],
        "yes_price": _cents(m["yes_price_dollars"]),
        "yes_price_dollars": _three(m["yes_price_dollars"]),
        "count": _whole(m["count_fp"]),
        "action": m["action"],
        "ts": m["ts"],
        "post_position": int(float(m["post_position_fp"])),
        "purchased_side": m["purchased_side"],
    }


def _position(m: Mapping[str, Any]) -> dict[str, Any]:
    def centi_cents(text: str) -> int:
        return parse_money(text) * 10_000 // MONEY

    return {
        "user_id": m["user_id"],
        "market_ticker": m["market_ticker"],
        "position": int(float(m["position_fp"])),
        "position_cost": centi_cents(m["position_cost_dollars"]),
        "realized_pnl": centi_cents(m["realized_pnl_dollars"]),
        "fees_paid": centi_cents(m["fees_paid_dollars"]),
        "volume": _whole(m["volume_fp"]),
    }


_LATER: Final = ("settlement_value", "price_level_structure", "price_ranges", "exchange_index")


def _lifecycle(m: Mapping[str, Any]) -> dict[str, Any] | None:
    if m["event_type"] in ("price_level_structure_updated", "metadata_updated"):
        return None
    made = {k: v for k, v in m.items() if k not in _LATER}
    if "additional_metadata" in made:
        made["additional_metadata"] = {
            k: v for k, v in made["additional_metadata"].items() if k != "event_ticker"
        }
    return made


def _event(m: Mapping[str, Any]) -> dict[str, Any]:
    made = {k: v for k, v in m.items() if k not in ("exchange_index", "subtitle")}
    return made | {"sub_title": m.get("subtitle", "")}


_FRAMES: Final[Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any] | None]]] = {
    "orderbook_snapshot": _snapshot,
    "orderbook_delta": _delta,
    "ticker": _ticker,
    "trade": _trade,
    "fill": _fill,
    "market_position": _position,
    "market_lifecycle_v2": _lifecycle,
    "event_lifecycle": _event,
}


def january_frame(kind: str, body: msgspec.Struct) -> dict[str, Any] | None:
    """The body of a message in the form of January 2026; None for one that did not exist then.

    >>> from kalshilab.kalshi.wire.stream import OrderbookDelta
    >>> january_frame("orderbook_delta", OrderbookDelta(market_ticker="A", price_dollars="0.5600", delta_fp="-4.00", side="no"))
    {'market_ticker': 'A', 'price': 56, 'price_dollars': '0.560', 'delta': -4, 'side': 'no'}
    """
    made = _FRAMES.get(kind)
    return None if made is None else made(msgspec.to_builtins(body))


# REST


def _rest_market(m: dict[str, Any]) -> dict[str, Any]:
    made = dict(m)
    for name in ("yes_bid", "yes_ask", "no_bid", "no_ask", "last_price", "previous_yes_bid", "previous_yes_ask", "previous_price", "notional_value", "settlement_value"):  # fmt: skip
        if f"{name}_dollars" in m:
            made[name] = _cents(m[f"{name}_dollars"])
    for name in ("volume", "volume_24h", "open_interest"):
        if f"{name}_fp" in m:
            made[name] = _whole(m[f"{name}_fp"])
    return made | {"liquidity": 0, "tick_size": 1, "response_price_units": "usd_cent"}


def _rest_book(m: dict[str, Any]) -> dict[str, Any]:
    shown = m["orderbook_fp"]
    book: dict[str, Any] = {}
    for side in ("yes", "no"):
        whole, three = _levels(shown.get(f"{side}_dollars") or [])
        book[side], book[f"{side}_dollars"] = whole or None, three or None
    return {"orderbook": book, "orderbook_fp": shown}


def _rest_trade(m: dict[str, Any]) -> dict[str, Any]:
    cents = _cents(m["yes_price_dollars"])
    dropped = ("taker_outcome_side", "taker_book_side", "is_block_trade")
    kept = {k: v for k, v in m.items() if k not in dropped}
    return kept | {"count": _whole(m["count_fp"]), "price": cents / 100, "yes_price": cents, "no_price": 100 - cents}  # fmt: skip


def _rest_order(m: dict[str, Any]) -> dict[str, Any]:
    cents = _cents(m["yes_price_dollars"])
    made = m | {"yes_price": cents, "no_price": 100 - cents, "queue_position": 0}
    for name in ("fill_count", "remaining_count", "initial_count"):
        made[name] = _whole(m[f"{name}_fp"])
    for name in ("taker_fees", "maker_fees", "taker_fill_cost", "maker_fill_cost"):
        made[name] = parse_money(m[f"{name}_dollars"]) * 100 // MONEY
    return made


def _rest_fill(m: dict[str, Any]) -> dict[str, Any]:
    cents = _cents(m["yes_price_dollars"])
    kept = {k: v for k, v in m.items() if k != "fee_cost"}
    return kept | {
        "count": _whole(m["count_fp"]), "price": cents / 100, "yes_price": cents, "no_price": 100 - cents,
        "yes_price_fixed": m["yes_price_dollars"],
    }  # fmt: skip


_REST: Final[Mapping[str, Callable[[dict[str, Any]], dict[str, Any]]]] = {
    "market": _rest_market,
    "markets": _rest_market,
    "trades": _rest_trade,
    "order": _rest_order,
    "orders": _rest_order,
    "fills": _rest_fill,
}


def _candle(c: Mapping[str, Any]) -> dict[str, Any]:
    """A candlestick; the archive's, which there was none of then, stays as it is."""
    if "volume_fp" not in c:
        return dict(c)
    made = dict(c) | {"volume": _whole(c["volume_fp"]), "open_interest": _whole(c["open_interest_fp"])}
    for side in ("yes_bid", "yes_ask", "price"):
        cents = {
            name: _cents(c[side][f"{name}_dollars"]) if f"{name}_dollars" in c[side] else None
            for name in ("open", "low", "high", "close", *(("mean", "previous") if side == "price" else ()))
        }
        made[side] = cents | c[side]
    return made


def _candles(found: dict[str, Any]) -> bool:
    """Give a body's candlesticks their form; whether it is one that has any."""
    several = [m for m in found.get("markets") or () if "candlesticks" in m]
    for holder in (found, *several):
        if "candlesticks" in holder:
            holder["candlesticks"] = [_candle(c) for c in holder["candlesticks"]]
    if "market_candlesticks" in found:
        found["market_candlesticks"] = [[_candle(c) for c in row] for row in found["market_candlesticks"]]
    return bool(several) or "candlesticks" in found or "market_candlesticks" in found


def january_rest(body: bytes) -> bytes:
    """A REST body in the form of January 2026: markets, books, prints, candles, orders and fills; others as they are.

    >>> january_rest(b'{"orderbook_fp":{"yes_dollars":[["0.4100","10.00"]],"no_dollars":[]}}')
    b'{"orderbook":{"yes":[[41,10]],"yes_dollars":[["0.410",10]],"no":null,"no_dollars":null},"orderbook_fp":{"yes_dollars":[["0.4100","10.00"]],"no_dollars":[]}}'
    """
    found = msgspec.json.decode(body) if body else None
    if not isinstance(found, dict):
        return body
    if "orderbook_fp" in found:
        return msgspec.json.encode(_rest_book(found))
    changed = _candles(found)
    for name, form in _REST.items():
        value = found.get(name)
        if isinstance(value, dict) and "ticker" in value:
            found[name], changed = form(value), True
        elif isinstance(value, list) and value and isinstance(value[0], dict) and "ticker" in value[0]:
            found[name], changed = [form(v) for v in value], True
    return msgspec.json.encode(found) if changed else body
