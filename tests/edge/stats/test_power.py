"""Power: published tables, and formulas checked by simulation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.edge.stats import power
from kalshilab.errors import EdgeError

EVENTS = (200, 500, 1_000, 2_000, 5_000, 10_000)


@pytest.mark.parametrize(
    ("cost", "row"),
    [
        (0.50, ("8.8", "5.6", "3.9", "2.8", "1.8", "1.2")),
        (0.73, ("7.8", "4.9", "3.5", "2.5", "1.6", "1.1")),
        (0.90, ("5.3", "3.3", "2.4", "1.7", "1.1", ".75")),
    ],
)
def test_t12_minimum_detectable_edges_equal_the_reference_table(cost: float, row: tuple[str, ...]) -> None:
    for n, written in zip(EVENTS, row, strict=True):
        digits = len(written.split(".")[1])
        assert round(power.mde(cost, n), digits) == float(written)
        assert power.mde(cost, n, 2.25) == pytest.approx(1.5 * power.mde(cost, n))


def test_the_multiple_of_the_standard_error_is_about_two_and_a_half_and_four_in_a_family() -> None:
    assert power.detectable(1.0) == pytest.approx(2.49, abs=0.005)
    assert power.detectable(1.0, trials=117) == pytest.approx(4.2, abs=0.05)


@pytest.mark.parametrize(
    ("edge", "cost", "eighty", "ninety_five", "wald"),
    [
        (2, 0.73, 3_047, 5_333, 2_569),
        (3, 0.73, 1_354, 2_370, 1_132),
        (5, 0.73, 487, 853, 400),
        (8, 0.73, 190, 333, 151),
        (2, 0.90, 1_391, None, None),
        (5, 0.90, 222, None, None),
    ],
)
def test_fires_needed_equals_the_published_table(
    edge: float, cost: float, eighty: int, ninety_five: int | None, wald: int | None
) -> None:
    # The table rounds both up and down, so one trade more or less is accepted.
    assert abs(power.fires_needed(edge, cost) - eighty) <= 1
    if ninety_five is not None:
        assert abs(power.fires_needed(edge, cost, 0.95) - ninety_five) <= 1
    if wald is not None:
        assert abs(power.sprt_n(edge, cost) - wald) <= 1


@given(
    cost=st.floats(0.05, 0.95),
    edge=st.floats(0.5, 4.0),
    deff=st.floats(0.5, 5.0),
    chance=st.floats(0.5, 0.99),
    trials=st.integers(1, 5_000),
)
def test_fires_needed_is_the_inverse_of_mde(
    cost: float, edge: float, deff: float, chance: float, trials: int
) -> None:
    n = power.fires_needed(edge, cost, chance, deff=deff, trials=trials)
    assert power.mde(cost, n, deff, power=chance, trials=trials) <= edge * (1 + 1e-9)
    if n > 1:
        assert power.mde(cost, n - 1, deff, power=chance, trials=trials) > edge * (1 - 1e-9)


def test_a_test_on_fires_needed_trades_has_the_stated_power() -> None:
    cost, edge = 0.73, 5.0
    n = power.fires_needed(edge, cost)
    won = np.random.default_rng(3).binomial(n, cost + edge / 100, 20_000) / n
    found = float((won - cost > 1.6448536 * math.sqrt(cost * (1 - cost) / n)).mean())
    # The variance is slightly smaller with an edge than without, so the power is slightly above 80 %.
    assert 0.78 < found < 0.84


def test_the_sprt_takes_as_many_trades_as_the_formula() -> None:
    cost, edge, end = 0.73, 0.08, math.log(19)
    rng = np.random.default_rng(5)
    won = rng.random((2_000, 2_000)) < cost + edge
    steps = np.where(won, math.log((cost + edge) / cost), math.log((1 - cost - edge) / (1 - cost)))
    path = steps.cumsum(axis=1)
    stopped = (np.abs(path) >= end).argmax(axis=1)
    # The formula ignores the overshoot of the last step.
    assert power.sprt_n(8.0, cost) <= stopped.mean() + 1 <= 1.2 * power.sprt_n(8.0, cost)
    assert (path[np.arange(2_000), stopped] > 0).mean() == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: power.mde(0.0, 100),
        lambda: power.mde(1.0, 100),
        lambda: power.mde(0.5, 0),
        lambda: power.mde(0.5, 100, 0.0),
        lambda: power.mde(0.5, 100, alpha=0.0),
        lambda: power.mde(0.5, 100, power=1.0),
        lambda: power.mde(0.5, 100, trials=0),
        lambda: power.detectable(math.nan),
        lambda: power.fires_needed(0.0, 0.5),
        lambda: power.fires_needed(1.0, 0.5, deff=0.0),
        lambda: power.sprt_n(0.0, 0.5),
        lambda: power.sprt_n(60.0, 0.5),
        lambda: power.sprt_n(5.0, 0.5, alpha=0.6, beta=0.5),
    ],
)
def test_invalid_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(EdgeError):
        wrong()
