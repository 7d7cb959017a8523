"""The exchange's objects as wire structs; fields that REST and the stream share are written once."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from msgspec import UNSET

from kalshilab.clock import isoformat
from kalshilab.exchange.state.account import Account, FillRecord, SettlementRecord
from kalshilab.exchange.state.listings import Listing
from kalshilab.exchange.state.order_book import RestingOrder
from kalshilab.kalshi.wire import rest, stream
from kalshilab.market.lifecycle import DETERMINED
from kalshilab.market.model import Trade
from kalshilab.market.position import Holding
from kalshilab.units import PRICE, format_money, format_price, format_size

__all__ = [
    "ACTION", "book", "event_position", "fill", "fill_message", "market", "market_id", "market_position", "order", "order_message",
    "position_message", "settlement", "trade",
]  # fmt: skip

ACTION = {"bid": ("yes", "buy"), "ask": ("yes", "sell")}
"""The legacy direction pair of a book side."""
OUTCOME = {"bid": "yes", "ask": "no"}
Fields = dict[str, Any]
"""Keyword arguments of a wire struct."""


@lru_cache(maxsize=100_000)
def market_id(ticker: str) -> str:
    """Return the id of a ticker, which is always the same."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"market:{ticker}"))


def price_ranges(listing: Listing) -> list[rest.PriceRange]:
    """Return the market's price grid in the exchange's format."""
    return [
        rest.PriceRange(start=format_price(a), end=format_price(b), step=format_price(s))
        for a, b, s in listing.facts.grid.ranges
    ]


def market(x: Listing, waived_until: int = 0) -> rest.MarketBody:
    """Return a market object as of now.

    Args:
        x: the listed market.
        waived_until: end of its fee waiver in microseconds; 0 without a waiver.
    """
    f = x.facts
    bid, ask = x.book.best_bid(), x.book.best_ask()
    settled = x.status == "finalized"
    known = x.status in DETERMINED
    return rest.MarketBody(
        ticker=f.ticker,
        event_ticker=f.event,
        market_type="scalar" if f.result == "scalar" and known else "binary",
        title=f.title,
        yes_sub_title=f.title or f.ticker,
        no_sub_title=f.title or f.ticker,
        created_time=isoformat(f.created),
        updated_time=isoformat(x.updated),
        open_time=isoformat(f.open),
        close_time=isoformat(x.close_ts),
        expected_expiration_time=isoformat(f.announced_close),
        latest_expiration_time=isoformat(f.announced_close + 7 * 86_400_000_000),
        settlement_timer_seconds=max((f.settled - f.determined) // 1_000_000, 0) if settled else 3600,
        status=x.status,
        yes_bid_dollars=format_price(bid or 0),
        yes_bid_size_fp=format_size(x.book.size_at("bid", bid)) if bid is not None else "0.00",
        yes_ask_dollars=format_price(PRICE if ask is None else ask),
        yes_ask_size_fp=format_size(x.book.size_at("ask", ask)) if ask is not None else "0.00",
        no_bid_dollars=format_price(0 if ask is None else PRICE - ask),
        no_ask_dollars=format_price(PRICE - (bid or 0)),
        last_price_dollars=format_price(x.last_price),
        previous_yes_bid_dollars="0.0000",
        previous_yes_ask_dollars="1.0000",
        previous_price_dollars="0.0000",
        volume_fp=format_size(x.volume),
        volume_24h_fp=format_size(x.volume),
        open_interest_fp=format_size(x.volume // 2),
        notional_value_dollars="1.0000",
        result=f.result if known else "",
        settlement_value_dollars=format_price(f.settlement) if known else None,
        settlement_ts=isoformat(f.settled) if settled else None,
        settlement_bounds_type="default",
        fee_waiver_expiration_time=isoformat(waived_until) if waived_until else None,
        can_close_early=True,
        expiration_value="",
        rules_primary="A market of a recorded or synthetic tape.",
        rules_secondary="",
        price_level_structure=f.structure,
        price_ranges=price_ranges(x),
        exchange_index=0,
    )


def book(x: Listing, depth: int = 0) -> rest.Orderbook:
    """Return the bids of both sides, worst first: the `depth` best levels of each, or all for 0."""
    yes = sorted(x.book.levels("bid").items())
    no = sorted((PRICE - p, s) for p, s in x.book.levels("ask").items())
    if depth:
        yes, no = yes[-depth:], no[-depth:]
    return rest.Orderbook(
        yes_dollars=[(format_price(p), format_size(s)) for p, s in yes],
        no_dollars=[(format_price(p), format_size(s)) for p, s in no],
    )


def _direction(side: str) -> Fields:
    """Return the direction of a book side in every field that the exchange has for it."""
    legacy, action = ACTION[side]
    return {"side": legacy, "action": action, "outcome_side": OUTCOME[side], "book_side": side}


def _order_facts(o: RestingOrder, user_id: str) -> Fields:
    """Return the order fields that REST and the stream share."""
    return _direction(o.side) | {
        "order_id": o.order_id,
        "user_id": user_id,
        "client_order_id": o.client_order_id,
        "ticker": o.ticker,
        "status": o.status,
        "yes_price_dollars": format_price(o.price),
        "initial_count_fp": format_size(o.initial),
        "fill_count_fp": format_size(o.filled),
        "remaining_count_fp": format_size(o.remaining),
        "taker_fill_cost_dollars": format_money(o.taker_cost),
        "maker_fill_cost_dollars": format_money(o.maker_cost),
        "taker_fees_dollars": format_money(o.taker_fees),
        "maker_fees_dollars": format_money(o.maker_fees),
        "created_time": isoformat(o.created),
        "last_update_time": isoformat(o.updated),
        "self_trade_prevention_type": o.stp,
    }


def order(o: RestingOrder, user_id: str) -> rest.OrderBody:
    """Return one of the account's orders."""
    return rest.OrderBody(
        **_order_facts(o, user_id),
        type="limit",
        no_price_dollars=format_price(PRICE - o.price),
        expiration_time=isoformat(o.expires) if o.expires else None,
        order_group_id=o.group or None,
        cancel_order_on_pause=o.cancel_on_pause,
        subaccount_number=0,
        exchange_index=0,
    )


def order_message(o: RestingOrder, user_id: str) -> stream.UserOrder:
    """Return the `user_order` message for an order's new state."""
    facts = _order_facts(o, user_id)
    del facts["action"]
    return stream.UserOrder(
        **facts,
        is_yes=True,
        created_ts_ms=o.created // 1000,
        last_updated_ts_ms=o.updated // 1000,
        last_update_reason=o.reason or UNSET,
        order_group_id=o.group or UNSET,
    )


def _fill_facts(r: FillRecord) -> Fields:
    """Return the fill fields that REST and the stream share."""
    return _direction(r.order.side) | {
        "trade_id": r.trade_id,
        "order_id": r.order.order_id,
        "market_ticker": r.ticker,
        "count_fp": format_size(r.size),
        "yes_price_dollars": format_price(r.price),
        "is_taker": r.is_taker,
        "fee_cost": format_money(r.fee),
        "ts": r.ts // 1_000_000,
    }


def fill(r: FillRecord) -> rest.FillBody:
    """Return a fill as REST has it."""
    return rest.FillBody(
        **_fill_facts(r),
        fill_id=r.trade_id,
        ticker=r.ticker,
        no_price_dollars=format_price(PRICE - r.price),
        created_time=isoformat(r.ts),
    )


def fill_message(r: FillRecord) -> stream.FillMessage:
    """Return a fill for the `fill` channel."""
    return stream.FillMessage(
        **_fill_facts(r),
        client_order_id=r.order.client_order_id,
        purchased_side=OUTCOME[r.order.side],
        post_position_fp=format_size(r.position),
        ts_ms=r.ts // 1000,
    )


def _position_facts(h: Holding) -> Fields:
    """Return the position fields that REST and the stream share."""
    return {
        "position_fp": format_size(h.size),
        "realized_pnl_dollars": format_money(h.realized),
        "fees_paid_dollars": format_money(h.fees),
    }


def market_position(ticker: str, h: Holding, traded: int, ts: int) -> rest.MarketPositionBody:
    """Return a position as REST has it."""
    return rest.MarketPositionBody(
        **_position_facts(h),
        ticker=ticker,
        total_traded_dollars=format_money(traded),
        market_exposure_dollars=format_money(h.cost),
        last_updated_ts=isoformat(ts),
    )


def position_message(ticker: str, h: Holding, volume: int, user_id: str) -> stream.MarketPositionMessage:
    """Return a position for the `market_positions` channel."""
    return stream.MarketPositionMessage(
        **_position_facts(h),
        user_id=user_id,
        market_ticker=ticker,
        position_cost_dollars=format_money(h.cost),
        position_fee_cost_dollars=format_money(h.fees),
        volume_fp=format_size(volume),
    )


def event_position(event: str, account: Account, tickers: Iterable[str]) -> rest.EventPosition:
    """Return the summed positions of one event's markets."""
    positions = [(t, account.holding(t)) for t in tickers]
    exposure = format_money(sum(h.cost for _, h in positions))
    return rest.EventPosition(
        event_ticker=event,
        total_cost_dollars=format_money(sum(account.traded.get(t, 0) for t, _ in positions)),
        total_cost_shares_fp=format_size(sum(account.volume.get(t, 0) for t, _ in positions)),
        event_exposure_dollars=exposure,
        realized_pnl_dollars=format_money(sum(h.realized for _, h in positions)),
        fees_paid_dollars=format_money(sum(h.fees for _, h in positions)),
    )


def settlement(r: SettlementRecord) -> rest.SettlementBody:
    """Return a payout as REST has it; `revenue` and `value` are in whole cents, as on the exchange."""
    yes, no = max(r.size, 0), max(-r.size, 0)
    return rest.SettlementBody(
        ticker=r.ticker,
        event_ticker=r.event,
        market_result=r.result,
        yes_count_fp=format_size(yes),
        yes_total_cost_dollars=format_money(r.cost if yes else 0),
        no_count_fp=format_size(no),
        no_total_cost_dollars=format_money(r.cost if no else 0),
        revenue=r.revenue // 10_000,
        value=r.settlement // 100,
        settled_time=isoformat(r.ts),
        fee_cost=format_money(r.fees),
    )


def trade(t: Trade) -> rest.TradeBody:
    """Return a public print as REST has it."""
    return rest.TradeBody(
        trade_id=t.trade_id,
        ticker=t.ticker,
        count_fp=format_size(t.size),
        yes_price_dollars=format_price(t.price),
        no_price_dollars=format_price(PRICE - t.price),
        taker_outcome_side=t.taker,
        taker_book_side="bid" if t.taker == "yes" else "ask",
        taker_side=t.taker,
        created_time=isoformat(t.ts),
    )
