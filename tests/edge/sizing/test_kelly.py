"""Kelly stakes: published values, the cost of estimation error, drawdowns of resampled days."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kalshilab.edge.schema import DAY, ENTRIES_SCHEMA
from kalshilab.edge.sizing.kelly import bounded_edge, drawdowns, growth, kelly, ruin, shrunken, stake
from kalshilab.errors import EdgeError

PRICE = st.floats(0.02, 0.98)


def entries_of(
    pnl: Any, cost: Any, day: Any, event: Any | None = None, filled: Any | None = None
) -> pl.DataFrame:
    n = len(pnl)
    at = np.asarray(day, np.int64) * DAY
    had = np.ones(n, bool) if filled is None else np.asarray(filled)
    columns = {
        "fire": np.arange(n), "ts": at, "ticker": [f"T{i}" for i in range(n)],
        "event": [f"E{e}" for e in (range(n) if event is None else event)], "series": ["S"] * n,
        "category": ["C"] * n, "side": ["no"] * n, "fired_at": cost, "mid": cost, "filled": had, "entry_ts": at,
        "price": cost, "fee": np.zeros(n), "cost": cost, "value": np.asarray(pnl) + cost,
        "settled_ts": at + DAY, "pnl": np.where(had, pnl, 0.0), "exclusive": [False] * n,
    }  # fmt: skip
    frame = pl.DataFrame(columns).with_columns(
        pl.col("ts", "entry_ts", "settled_ts").cast(pl.Datetime("us", "UTC"))
    )
    bought = ("entry_ts", "price", "fee", "cost", "value", "settled_ts")
    return frame.with_columns(pl.when("filled").then(pl.col(name)).alias(name) for name in bought).cast(
        dict(ENTRIES_SCHEMA)
    )


# ---------------------------------------------------------------- Kelly


def test_t12_kelly_equals_the_published_value() -> None:
    assert round(kelly(0.9018, 0.728), 3) == 0.639
    # The published system inverted the odds, which gave 0.8651 for the same inputs.
    assert kelly(0.6, 0.5) == pytest.approx(0.2) and kelly(0.4, 0.5) == 0.0
    assert kelly([0.9018, 0.3], 0.728).round(3).tolist() == [0.639, 0.0]


@given(PRICE, st.floats(0.001, 0.9))
def test_kelly_is_growth_optimal_and_twice_kelly_does_not_grow(cost: float, part: float) -> None:
    p = cost + part * (1 - cost)
    best = kelly(p, cost)
    for other in (0.5 * best, 0.9 * best, min(1.1 * best, 0.999)):
        assert growth(best, p, cost) >= growth(other, p, cost) - 1e-12
    small = cost + 0.0005 * (1 - cost)
    twice = 2 * kelly(small, cost)
    assert abs(growth(twice, small, cost)) < 0.05 * growth(twice / 2, small, cost)


def test_overestimation_costs_more_than_underestimation() -> None:
    # The true edge is half of the estimate: full Kelly is then twice the optimal stake.
    assert growth(kelly(0.56, 0.50), 0.53, 0.50) == pytest.approx(0.0, abs=2e-5)
    assert growth(0.25 * kelly(0.56, 0.50), 0.53, 0.50) > 0.0007


def test_a_stake_is_based_on_the_lower_bound_of_the_shrunken_edge() -> None:
    assert shrunken(6.0, 2.0) == pytest.approx((3.0, math.sqrt(2)))
    assert bounded_edge(6.0, 2.0) == pytest.approx(3.0 - stats.norm.ppf(0.8) * math.sqrt(2))
    assert bounded_edge(6.0, 0.0) == 6.0 and shrunken(17.38, 8.0)[0] < 1.1
    assert stake(6.0, 2.0, 0.73, cap=1) == pytest.approx(0.25 * bounded_edge(6.0, 2.0) / 27)
    assert stake(6.0, 2.0, 0.73) == 0.01 and stake(1.0, 3.0, 0.73) == 0.0
    assert stake(50.0, 0.1, 0.95, cap=1) == pytest.approx(0.25)


@given(st.floats(-10, 30), st.floats(0, 20), PRICE)
def test_a_stake_never_rises_with_the_standard_error(edge: float, se: float, cost: float) -> None:
    if edge >= 0:
        assert stake(edge, se + 1, cost) <= stake(edge, se, cost) + 1e-12
    assert 0 <= stake(edge, se, cost) <= 0.01


def test_ruin_agrees_with_simulated_bets() -> None:
    assert ruin(0.5, 0.25) == pytest.approx(0.0078, abs=5e-5) and ruin(0.5, 1) == 0.5 and ruin(0.5, 2) == 1.0
    rng = np.random.default_rng(1)
    p, cost, n = 0.53, 0.50, 6000
    f = kelly(p, cost)
    won = rng.random((1500, n)) < p
    low = np.cumsum(np.where(won, np.log1p(f * (1 - cost) / cost), np.log1p(-f)), axis=1).min(1)
    assert (low <= math.log(0.5)).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: kelly(1.2, 0.5),
        lambda: kelly(0.5, 1.0),
        lambda: growth(1.0, 0.5, 0.5),
        lambda: shrunken(1.0, -1.0),
        lambda: bounded_edge(1.0, 1.0, level=0.3),
        lambda: stake(1.0, 1.0, 0.5, fraction=0),
        lambda: ruin(0.0, 1.0),
        lambda: drawdowns(entries_of([0.3], [0.7], [0]), 0.0),
        lambda: drawdowns(entries_of([0.3], [0.7], [0]), 0.1, block_days=0),
        lambda: drawdowns(entries_of([0.0], [0.7], [0], filled=[False]), 0.1),
    ],
)
def test_invalid_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(EdgeError):
        bad()


# ---------------------------------------------------------------- drawdowns


def record(days: int, edge: float, seed: int = 0, a_day: int = 5) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    n = days * a_day
    cost = rng.uniform(0.6, 0.85, n)
    return entries_of((rng.random(n) < cost + edge / 100) - cost, cost, np.repeat(np.arange(days), a_day))


def test_drawdowns_of_a_known_path_are_exact() -> None:
    # Each day loses a tenth of the bankroll, so every resample has the same drawdown.
    losing = entries_of(np.full(5, -0.5), np.full(5, 0.5), np.arange(5))
    got = drawdowns(losing, 0.1, resamples=50)
    assert got.frame["drawdown"].to_list() == pytest.approx([1 - 0.9**5] * 5)
    assert (
        got.frame["at_lower"].null_count() == 5 and got.halved == 0.0 and got.growth == pytest.approx(0.9**5)
    )
    many = entries_of(np.full(40, -0.5), np.full(40, 0.5), np.zeros(40))
    assert drawdowns(many, 0.1, resamples=5).frame["drawdown"][0] == pytest.approx(0.5), (
        "the outlay of a day is capped"
    )


def test_drawdowns_at_the_lower_bound_are_deeper() -> None:
    entries = record(200, 4.0)
    got = drawdowns(entries, 0.02, lower_cents=-2.0)
    assert (got.frame["at_lower"] > got.frame["drawdown"]).all() and got.frame["drawdown"].is_sorted()
    assert got.halved_at_lower is not None and got.halved_at_lower >= got.halved
    assert got.days == 200 and got.resamples == 2000 and "200 days" in repr(got)
    same = drawdowns(entries, 0.02, lower_cents=100 * float(entries["pnl"].mean()))  # type: ignore[arg-type]
    assert same.frame["at_lower"].to_list() == pytest.approx(same.frame["drawdown"].to_list())


def test_larger_stakes_have_deeper_drawdowns_and_seeds_are_reproducible() -> None:
    entries = record(120, 2.0)
    small, large = drawdowns(entries, 0.01), drawdowns(entries, 0.04)
    assert (large.frame["drawdown"] > small.frame["drawdown"]).all()
    assert drawdowns(entries, 0.01, seed=3).frame.equals(drawdowns(entries, 0.01, seed=3).frame)
    assert not drawdowns(entries, 0.01, seed=4).frame.equals(drawdowns(entries, 0.01, seed=3).frame)


def test_blocks_preserve_serial_dependence() -> None:
    week = np.repeat(np.where(np.arange(60) % 2, 0.3, -0.3), 7)
    entries = entries_of(week, np.full(len(week), 0.6), np.arange(len(week)))
    apart, together = drawdowns(entries, 0.05), drawdowns(entries, 0.05, block_days=28)
    assert together.frame["drawdown"][0] != pytest.approx(apart.frame["drawdown"][0], rel=0.05)


def test_unfilled_signals_carry_no_risk() -> None:
    base = record(60, 3.0)
    unfilled = entries_of(np.zeros(60), np.full(60, 0.7), np.arange(60), filled=np.zeros(60, bool))
    more = pl.concat([base, unfilled.with_columns(event=pl.col("event") + "-u")])
    assert drawdowns(more, 0.02).frame.equals(drawdowns(base, 0.02).frame)
