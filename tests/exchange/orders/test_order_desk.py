"""The order desk: refusals, times in force, and conservation to the micro-dollar."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kalshilab.exchange import Exchange
from kalshilab.exchange.orders.order_desk import Refused
from kalshilab.kalshi.wire import rest as wire
from kalshilab.tape.synth import Recipe, make
from kalshilab.units import dollars


def world(fee_type: str = "quadratic_with_maker_fees", **options: Any) -> Exchange:
    import polars as pl

    recipe = Recipe(prints_log_median=float(np.log(40)), prints_log_sd=0.3, span_days=2.0)
    tape, markets = make(6, np.random.default_rng(8), recipe)
    return Exchange(tape, markets.with_columns(pl.lit(fee_type).alias("fee_type")), seed=3, **options)


def play_until_open(ex: Exchange) -> str:
    while ex.step():
        for listing in ex.listings:
            if listing.status == "active" and listing.book.asks and listing.book.bids:
                return str(listing.facts.ticker)
    raise AssertionError("no market ever had two sides")


def body(ticker: str, **changes: Any) -> wire.CreateOrder:
    facts: dict[str, Any] = {
        "ticker": ticker, "side": "bid", "count": "1.00", "price": "0.0100",
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip
    return wire.CreateOrder(**(facts | changes))


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"ticker": "NOPE"}, 404, "not_found"),
        ({"price": "0.0050"}, 400, "invalid_price"),
        ({"price": "0.0000"}, 400, "invalid_price"),
        ({"price": "1.0000"}, 400, "invalid_price"),
        ({"price": "abc"}, 400, "invalid_price"),
        ({"count": "0.00"}, 400, "invalid_order_size"),
        ({"count": "0.001"}, 400, "invalid_order_size"),
        ({"count": "-1.00"}, 400, "invalid_order_size"),
        ({"side": "yes"}, 400, "invalid_order"),
        ({"time_in_force": "day"}, 400, "invalid_order"),
        ({"self_trade_prevention_type": "none"}, 400, "invalid_order"),
        ({"client_order_id": "x" * 65}, 400, "invalid_order"),
        ({"expiration_time": 1}, 400, "invalid_order"),
        ({"expiration_time": 4_000_000_000, "time_in_force": "immediate_or_cancel"}, 400, "invalid_order"),
        ({"post_only": True, "price": "0.9900"}, 400, "invalid_order"),
        ({"post_only": True, "time_in_force": "fill_or_kill"}, 400, "invalid_order"),
        ({"reduce_only": True}, 400, "invalid_order"),
        ({"reduce_only": True, "time_in_force": "immediate_or_cancel"}, 400, "invalid_order"),
        ({"count": "1000000.00", "price": "0.9900"}, 400, "insufficient_balance"),
        (
            {"count": "1000000.00", "time_in_force": "fill_or_kill"},
            409,
            "fill_or_kill_insufficient_resting_volume",
        ),
    ],
)
def test_a_refusal_has_the_exchanges_code_and_no_effect(
    changes: dict[str, Any], status: int, code: str
) -> None:
    ex = world(balance_money_units=dollars(100_000))
    ticker = play_until_open(ex)
    with pytest.raises(Refused) as caught:
        ex.desk.create(body(**({"ticker": ticker} | changes)))
    assert (caught.value.status, caught.value.code) == (status, code)
    assert ex.account.cash == dollars(100_000)
    assert not ex.desk.orders


def test_a_client_order_id_is_never_reused() -> None:
    ex = world()
    ticker = play_until_open(ex)
    order, _, _ = ex.desk.create(body(ticker, client_order_id="a"))
    ex.desk.cancel(order.order_id)
    with pytest.raises(Refused, match="order_already_exists"):
        ex.desk.create(body(ticker, client_order_id="a"))
    with pytest.raises(Refused, match="404"):
        ex.desk.cancel(order.order_id)


def test_each_time_in_force_is_honoured() -> None:
    ex = world()
    ticker = play_until_open(ex)
    book = ex.listings.get(ticker).book
    ask = book.best_ask()
    there = book.size_at("ask", ask)
    price = f"{ask / 10_000:.4f}"
    ioc, _, _ = ex.desk.create(
        body(ticker, price=price, count=f"{there / 100 + 5:.2f}", time_in_force="immediate_or_cancel")
    )
    assert (ioc.filled, ioc.remaining, ioc.status) == (there, 0, "canceled")
    nothing, _, _ = ex.desk.create(body(ticker, time_in_force="immediate_or_cancel"))
    assert (nothing.filled, nothing.status) == (0, "canceled")
    gtc, _, _ = ex.desk.create(body(ticker))
    assert (gtc.status, ex.desk.resting()) == ("resting", [gtc])
    soon, _, _ = ex.desk.create(body(ticker, expiration_time=ex.now // 1_000_000 + 1))
    while ex.now < soon.expires:
        ex.step()
    assert (soon.status, soon.reason) in (("canceled", "ExpiryCancel"), ("canceled", "CloseCancel"))


def test_a_close_cancels_resting_orders_and_refuses_new_ones() -> None:
    ex = world()
    ticker = play_until_open(ex)
    order, _, _ = ex.desk.create(body(ticker))
    while ex.listings.get(ticker).status == "active":
        ex.step()
    assert (order.status, order.reason) == ("canceled", "CloseCancel")
    for call in (lambda: ex.desk.create(body(ticker)), lambda: ex.desk.cancel(order.order_id)):
        with pytest.raises(Refused) as caught:
            call()
        assert (caught.value.status, caught.value.code) == (400, "market_inactive")


def test_scalar_payouts_are_whole_cents_and_the_remainder_is_a_fee() -> None:
    from kalshilab.exchange.state.account import Account
    from kalshilab.exchange.state.order_book import RestingOrder

    account = Account(dollars(100))
    order = RestingOrder("o", "c", "A", "bid", 4_000, 33, 33, 0)
    account.fill(
        order, trade_id="t", price=4_000, size=33, is_taker=False, multiplier=1, fee_type="quadratic", ts=0
    )
    record = account.settle("A", "E", "scalar", 3_333, 1)
    assert record is not None
    assert record.revenue == 33 * 3_333 // 10_000 * 10_000
    assert account.drift() == 0
