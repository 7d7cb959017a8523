"""Domain values: they are frozen, and their derived properties are correct."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.market import model
from kalshilab.units import PRICE, TickGrid

ORDER = model.Order(
    order_id="o",
    ticker="T",
    side="ask",
    price=6000,
    status="resting",
    initial=1000,
    filled=400,
    remaining=600,
)
FILL = model.Fill(
    trade_id="t", order_id="o", ticker="T", side="bid", price=6000, size=400, fee=1, is_taker=True, ts=1
)
SETTLEMENT = model.Settlement(
    ticker="T", event="E", result="yes", settlement=PRICE, yes_size=300, no_size=0, yes_cost=2_500_000, no_cost=0,
    revenue=3_000_000, fees=18_900, ts=1,
)  # fmt: skip
VALUES = [
    ORDER, FILL, SETTLEMENT,
    model.Market(ticker="T", event="E"),
    model.Trade(1, "T", 4300, 750, "yes"),
    model.Position(ticker="T", size=-300, cost=1),
    model.Balance(cash=1, portfolio_value=2),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_is_frozen_and_compares_by_its_fields(value: msgspec.Struct) -> None:
    name = value.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(value, name, "other")
    same = msgspec.structs.replace(value)
    assert same == value and same is not value and hash(same) == hash(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_a_value_round_trips_through_json(value: msgspec.Struct) -> None:
    assert msgspec.json.decode(msgspec.json.encode(value), type=type(value)) == value


@given(st.integers(0, PRICE))
def test_the_prices_of_both_outcomes_add_up_to_a_dollar(price: int) -> None:
    assert model.outcome_price(price, "yes") == price
    assert model.outcome_price(price, "yes") + model.outcome_price(price, "no") == PRICE
    assert model.outcome_price(model.outcome_price(price, "no"), "no") == price


def test_a_bid_buys_yes_and_an_ask_buys_no() -> None:
    assert ORDER.outcome == "no" and msgspec.structs.replace(ORDER, side="bid").outcome == "yes"
    assert FILL.outcome == "yes" and msgspec.structs.replace(FILL, side="ask").outcome == "no"


@given(*[st.integers(0, 10**12)] * 4)
def test_profit_is_payout_less_cost_less_fees(revenue: int, yes_cost: int, no_cost: int, fees: int) -> None:
    s = msgspec.structs.replace(SETTLEMENT, revenue=revenue, yes_cost=yes_cost, no_cost=no_cost, fees=fees)
    assert s.pnl == revenue - yes_cost - no_cost - fees


def test_the_defaults_of_a_market_mean_unknown() -> None:
    market = model.Market(ticker="T", event="E")
    assert market.settlement is None and market.result == "" and market.close_ts == 0
    assert (market.yes_bid, market.yes_ask) == (0, PRICE)
    assert market.grid == TickGrid.named("linear_cent")
