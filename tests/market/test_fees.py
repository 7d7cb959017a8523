"""Fees: published golden values, the rounding of an order's fills, and no negative fee."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kalshilab.errors import ConfigError, UnitError
from kalshilab.market.fees import FeeAccumulator, fill_fee, trade_fee
from kalshilab.units import PRICE, cents, contracts, dollars

TYPES = st.sampled_from(["quadratic", "quadratic_with_maker_fees", "quadratic_with_combo_maker_fees"])
GRIDS = {"direct": 100, "cent": 10_000}
PRICES = st.integers(1, PRICE - 1)
SIZES = st.integers(1, 1_000_000)
MAKERS = "quadratic_with_maker_fees"


@pytest.mark.parametrize(
    ("price", "size", "model", "net"),
    [
        ("52", 1, "0.017472", "0.0175"),
        ("99", 1, "0.000693", "0.0007"),
        ("56", 10, "0.17248", "0.1725"),
        ("44", 4, "0.068992", "0.0690"),
    ],
)
def test_fees_match_values_recorded_from_the_exchange(price: str, size: int, model: str, net: str) -> None:
    assert trade_fee(cents(price), contracts(size)) == dollars(model)
    assert fill_fee(cents(price), contracts(size)) == dollars(net)


def test_a_broker_account_is_charged_on_a_grid_of_one_cent() -> None:
    assert fill_fee(cents(56), contracts(10), grid="cent") == dollars("0.18")


@pytest.mark.parametrize(
    ("price", "taker_100", "maker_100", "taker_1"),
    [
        (50, "1.75", "0.44", 2), (67, "1.55", "0.39", 2), (73, "1.38", "0.35", 2), (75, "1.32", "0.33", 2),
        (90, "0.63", "0.16", 1), (95, "0.34", "0.09", 1), (97, "0.21", "0.06", 1),
    ],
)  # fmt: skip
def test_fees_on_the_cent_grid_match_the_published_table(
    price: int, taker_100: str, maker_100: str, taker_1: int
) -> None:
    lot = contracts(100)
    # Cents per contract times a hundred contracts are dollars.
    assert fill_fee(cents(price), lot, grid="cent") == dollars(taker_100)
    assert fill_fee(cents(price), lot, taker=False, fee_type=MAKERS, grid="cent") == dollars(maker_100)
    assert fill_fee(cents(price), contracts(1), grid="cent") == taker_1 * 10_000


def test_the_fee_depends_on_role_type_and_multiplier() -> None:
    p, s = cents(50), contracts(100)
    assert fill_fee(p, s) == dollars("1.75")
    assert fill_fee(p, s, taker=False) == 0
    assert fill_fee(p, s, taker=False, fee_type=MAKERS) == dollars("0.4375")
    assert fill_fee(p, s, taker=False, fee_type="quadratic_with_combo_maker_fees") == dollars("0.875")
    assert fill_fee(p, s, multiplier=0.5) == dollars("0.875")
    assert fill_fee(p, s, multiplier=0) == 0


@pytest.mark.parametrize("fee_type", ["flat", "", "Quadratic"])
def test_a_fee_type_without_a_formula_is_rejected(fee_type: str) -> None:
    with pytest.raises(ConfigError, match=f"fee_type must be one of quadratic, .*, got '{fee_type}'"):
        fill_fee(cents(50), contracts(1), fee_type=fee_type)


@pytest.mark.parametrize("price", [0.52, "52", None, -1, PRICE + 1])
def test_a_price_that_is_not_in_price_units_is_a_unit_error(price: object) -> None:
    with pytest.raises(UnitError, match="price must be a whole number of price units from 0 to 10,000"):
        fill_fee(price, contracts(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1.5, "1", None, -1])
def test_a_size_that_is_not_in_size_units_is_a_unit_error(size: object) -> None:
    with pytest.raises(UnitError, match="size must be a whole number of size units from 0"):
        fill_fee(cents(52), size)  # type: ignore[arg-type]


def test_an_invalid_multiplier_or_grid_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="multiplier must be a number, got nan"):
        fill_fee(cents(50), contracts(1), multiplier=float("nan"))
    with pytest.raises(ConfigError, match="grid must be direct or cent, got 'dollar'"):
        fill_fee(cents(50), contracts(1), grid="dollar")  # type: ignore[arg-type]


def test_numpy_integers_are_accepted() -> None:
    assert fill_fee(np.int64(5200), np.uint32(100)) == 17_500  # type: ignore[arg-type]


def exact(price: int, size: int, rate: str, multiplier: float) -> Fraction:
    dollars_ = Fraction(rate) * Fraction(str(multiplier)) * Fraction(size, 100)
    return dollars_ * Fraction(price, PRICE) * (1 - Fraction(price, PRICE)) * 1_000_000


@given(PRICES, SIZES, st.booleans(), TYPES, st.sampled_from([0, 0.5, 1, 1.1, 2.0]))
def test_the_model_fee_is_the_formula_rounded_up_to_a_millionth(
    price: int, size: int, taker: bool, fee_type: str, multiplier: float
) -> None:
    making = {"quadratic": "0", MAKERS: "0.0175"}.get(fee_type, "0.035")
    wanted = exact(price, size, "0.07" if taker else making, multiplier)
    fee = trade_fee(price, size, taker=taker, fee_type=fee_type, multiplier=multiplier)
    assert wanted <= fee < wanted + 1


@given(PRICES, SIZES)
def test_the_model_fee_is_symmetric_in_yes_and_no(price: int, size: int) -> None:
    assert trade_fee(price, size) == trade_fee(PRICE - price, size)


@given(PRICES, SIZES, st.sampled_from(sorted(GRIDS)), st.booleans(), st.booleans(), TYPES)
def test_the_cash_effect_of_a_new_orders_fill_is_on_the_grid(
    price: int, size: int, grid: str, taker: bool, buy: bool, fee_type: str
) -> None:
    unit = GRIDS[grid]
    model = trade_fee(price, size, taker=taker, fee_type=fee_type)
    fee = FeeAccumulator(grid).charge(price, size, taker=taker, buy=buy, fee_type=fee_type)  # type: ignore[arg-type]
    cost = (price if buy else PRICE - price) * size
    assert model <= fee < model + unit
    assert (cost + fee) % unit == 0


@given(
    st.lists(st.tuples(PRICES, SIZES, st.booleans(), st.booleans()), min_size=1, max_size=30),
    TYPES,
    st.sampled_from(sorted(GRIDS)),
)
def test_fees_are_never_negative_and_equal_model_fees_plus_the_accumulator(
    fills: list[tuple[int, int, bool, bool]], fee_type: str, grid: str
) -> None:
    order = FeeAccumulator(grid)  # type: ignore[arg-type]
    model = paid = 0
    for price, size, taker, buy in fills:
        fee = order.charge(price, size, taker=taker, buy=buy, fee_type=fee_type)
        assert fee >= 0 and order.held >= 0
        model += trade_fee(price, size, taker=taker, fee_type=fee_type)
        paid += fee
        assert paid == model + order.held


@given(PRICES, st.lists(st.integers(1, 2_000), min_size=1, max_size=60), st.sampled_from(sorted(GRIDS)))
def test_many_small_fills_cost_as_much_as_one_fill(price: int, parts: list[int], grid: str) -> None:
    if grid == "cent":
        price = min(max(price // 100, 1), 99) * 100
    unit = GRIDS[grid]
    sizes = [contracts(p) for p in parts]
    order = FeeAccumulator(grid)  # type: ignore[arg-type]
    total = sum(order.charge(price, s) for s in sizes)
    single = fill_fee(price, sum(sizes), grid=grid)  # type: ignore[arg-type]
    assert 0 <= total - single <= unit


@given(PRICES, st.lists(st.integers(1, 500), min_size=2, max_size=40))
def test_many_fractional_fills_with_positive_fees_cost_as_much_as_one_fill(
    price: int, sizes: list[int]
) -> None:
    # A rebate never reduces a fee below zero, so the fee of each fill must be at least a grid unit.
    assume(all(trade_fee(price, s) >= 100 for s in sizes))
    order = FeeAccumulator()
    total = sum(order.charge(price, s) for s in sizes)
    assert abs(total - fill_fee(price, sum(sizes))) <= 100
    assert order.held < 200


def test_the_accumulator_spans_taker_and_maker_fills_of_an_order() -> None:
    order = FeeAccumulator()
    assert order.charge(5200, 100) == 17_500 and order.held == 28
    assert order.charge(5200, 100, taker=False) == 0 and order.held == 28
    assert FeeAccumulator().held == 0


def test_closing_a_position_receives_cash_less_the_fee() -> None:
    order = FeeAccumulator()
    fee = order.charge(5200, 100, buy=False, cost=-520_000)
    assert fee == 17_500 and (520_000 - fee) % 100 == 0
