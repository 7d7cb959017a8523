"""Units: conversions between numbers, strings and integers are exact, and nothing is rounded."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import UnitError
from kalshilab.units import (
    PRICE,
    TickGrid,
    cents,
    contracts,
    dollars,
    format_money,
    format_price,
    format_size,
    parse_money,
    parse_price,
    parse_size,
    show_cents,
    show_contracts,
    show_dollars,
)

PRICES = st.integers(0, PRICE)
AMOUNTS = st.integers(-(10**15), 10**15)
STEPS = {"whole": 100, "half": 50, "quint": 20, "deci": 10, "centi": 1}
NAMES = ["linear_cent", "deci_cent", "tapered_deci_cent"] + [
    f"center_{c}_edge_{e}_cent" for c in STEPS for e in STEPS if STEPS[e] < STEPS[c]
]
GRIDS = st.sampled_from([TickGrid.named(n) for n in NAMES])


@given(PRICES)
def test_a_price_round_trips_through_its_string(price: int) -> None:
    text = format_price(price)
    assert len(text) == 6 and parse_price(text) == price == Decimal(text) * PRICE


@given(AMOUNTS)
def test_a_size_round_trips_through_its_string(size: int) -> None:
    assert parse_size(format_size(size)) == size
    assert Decimal(format_size(size)) * 100 == size


@given(AMOUNTS)
def test_an_amount_round_trips_through_its_string(money: int) -> None:
    assert parse_money(format_money(money)) == money
    assert Decimal(format_money(money)) * 1_000_000 == money


@given(AMOUNTS, st.integers(0, 4))
def test_trailing_zeros_do_not_change_an_amount(money: int, zeros: int) -> None:
    assert parse_money(format_money(money) + "0" * zeros) == money


@given(PRICES, AMOUNTS)
def test_price_times_size_is_money(price: int, size: int) -> None:
    exact = Fraction(price, PRICE) * Fraction(size, 100)
    assert Fraction(price * size, 1_000_000) == exact


@given(st.text(max_size=12))
def test_a_parser_returns_an_exact_number_or_raises_unit_error(text: str) -> None:
    for parse, scale in ((parse_price, PRICE), (parse_size, 100), (parse_money, 1_000_000)):
        try:
            value = parse(text)
        except UnitError as error:
            assert error.value == text and error.rule
        else:
            assert Decimal(text) * scale == value


@given(st.decimals(allow_nan=True, allow_infinity=True, places=4) | st.floats() | st.integers())
def test_typed_numbers_are_converted_exactly_or_rejected(value: Decimal | float | int) -> None:
    for convert, scale in ((cents, 100), (contracts, 100), (dollars, 1_000_000)):
        exact = Decimal(str(value)) * scale if Decimal(str(value)).is_finite() else None
        try:
            got = convert(value)
        except UnitError:
            assert exact is None or exact != int(exact)
        else:
            assert exact is not None and got == exact


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "-",
        "-.5",
        ".5",
        "1e0",
        "+1",
        " 1",
        "1 ",
        "1,0",
        "0x1",
        "nan",
        "inf",
        "1_0",
        "--1",
        "0.-1",
        "٣",
        "½",
        "0.5\n",
    ],
)
def test_a_string_that_is_not_a_plain_decimal_is_rejected(text: str) -> None:
    for parse in (parse_price, parse_size, parse_money):
        with pytest.raises(UnitError) as caught:
            parse(text)
        assert caught.value.value == text


def test_a_number_finer_than_its_unit_is_rejected_instead_of_rounded() -> None:
    for call in (
        lambda: parse_price("0.43501"),
        lambda: parse_size("1.001"),
        lambda: parse_money("0.0000001"),
        lambda: cents("0.001"),
        lambda: contracts(0.005),
        lambda: dollars("0.0000001"),
    ):
        with pytest.raises(UnitError, match=r"multiple|decimals"):
            call()


@pytest.mark.parametrize("text", ["1.0001", "-0.0001", "2", "-1"])
def test_parse_price_rejects_prices_outside_0_to_1_dollar(text: str) -> None:
    with pytest.raises(UnitError, match="from 0 to 1 dollar"):
        parse_price(text)


@pytest.mark.parametrize("price", [-1, PRICE + 1])
def test_format_price_rejects_prices_outside_0_to_1_dollar(price: int) -> None:
    with pytest.raises(UnitError):
        format_price(price)


@pytest.mark.parametrize(
    "value", [True, False, None, "five", [], float("nan"), float("inf"), Decimal("-Infinity")]
)
def test_values_that_are_not_numbers_are_rejected(value: object) -> None:
    for convert in (cents, contracts, dollars):
        with pytest.raises(UnitError):
            convert(value)  # type: ignore[arg-type]


def test_a_unit_error_is_a_value_error_that_holds_the_quantity_and_the_value() -> None:
    with pytest.raises(ValueError) as caught:
        parse_price("1.5")
    error = caught.value
    assert isinstance(error, UnitError)
    assert (error.what, error.value) == ("price", "1.5") and "1.5" in str(error)


def test_prices_sizes_and_money_are_formatted_for_people() -> None:
    assert [show_cents(p) for p in (4350, 4300, 5, 10, 10_000, -250)] == [
        "43.5¢", "43¢", "0.05¢", "0.1¢", "100¢", "-2.5¢",
    ]  # fmt: skip
    assert [show_contracts(s) for s in (750, 5000, 1, 0, -300)] == ["7.5", "50", "0.01", "0", "-3"]
    assert [show_dollars(m) for m in (123_450_000, -69_000, 4_999, -4_999, 5_000, 10**12)] == [
        "$123.45", "-$0.07", "$0.00", "$0.00", "$0.01", "$1,000,000.00",
    ]  # fmt: skip


@given(AMOUNTS)
def test_shown_dollars_are_within_half_a_cent(money: int) -> None:
    shown = Decimal(show_dollars(money).replace("$", "").replace(",", ""))
    assert abs(shown * 1_000_000 - money) <= 5_000


@given(GRIDS, st.integers(-50, PRICE + 50))
def test_floor_and_ceil_return_the_nearest_valid_prices(grid: TickGrid, price: int) -> None:
    low, high = grid.floor(price), grid.ceil(price)
    assert grid.valid(low) and grid.valid(high)
    if grid.lowest <= price <= grid.highest:
        assert low <= price <= high
        assert not any(grid.valid(p) for p in range(low + 1, price + 1))
        assert not any(grid.valid(p) for p in range(price, high))
    if grid.valid(price):
        assert low == price == high


@given(GRIDS, PRICES)
def test_whole_cents_between_0_and_1_dollar_are_valid_on_every_grid(grid: TickGrid, price: int) -> None:
    if price % 100 == 0 and 0 < price < PRICE:
        assert grid.valid(price) and grid.step(price) > 0


@given(GRIDS)
def test_0_and_1_dollar_are_not_valid_prices_on_any_grid(grid: TickGrid) -> None:
    assert not grid.valid(0) and not grid.valid(PRICE)
    assert grid.valid(grid.lowest) and grid.valid(grid.highest)
    assert grid.lowest == PRICE - grid.highest
    assert not any(grid.valid(p) for p in (*range(grid.lowest), *range(grid.highest + 1, PRICE)))


@given(GRIDS)
def test_a_grid_round_trips_through_its_price_ranges(grid: TickGrid) -> None:
    ranges = [(format_price(a), format_price(b), format_price(s)) for a, b, s in grid.ranges]
    assert TickGrid.parse(ranges) == grid


def test_named_grids_have_the_steps_in_their_names() -> None:
    grid = TickGrid.named("center_half_edge_deci_cent")
    assert (grid.step(500), grid.step(5000), grid.step(9500), grid.step(1000)) == (10, 50, 10, 10)
    combos = TickGrid.named("center_deci_edge_centi_cent")
    assert (combos.step(50), combos.step(150), combos.step(9_950)) == (1, 10, 1)
    with pytest.raises(UnitError, match="must be one of"):
        TickGrid.named("banded_centi_cent")


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        ((0, 5000, 100),),
        ((100, PRICE, 100),),
        ((0, 5000, 100), (6000, PRICE, 100)),
        ((0, 5000, 100), (4000, PRICE, 100)),
        ((0, PRICE, 0),),
        ((0, PRICE, -100),),
        ((0, PRICE, 300),),
        ((0, 0, 100), (0, PRICE, 100)),
    ],
)
def test_ranges_that_do_not_form_a_grid_are_rejected(ranges: tuple[tuple[int, int, int], ...]) -> None:
    with pytest.raises(UnitError):
        TickGrid(ranges)
