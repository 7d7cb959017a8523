"""The martingale null: marginal probabilities, dependence between legs, and means that equal exact sums."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.special import ndtr

from kalshilab.edge.schema import Arrays, arrays_of
from kalshilab.edge.stats import martingale, simulated_entries
from kalshilab.errors import EdgeError


def legs(
    cost: list[float],
    *,
    event: list[int] | None = None,
    day: list[int] | None = None,
    yes: list[bool] | None = None,
    exclusive: bool = False,
    pnl: list[float] | None = None,
    filled: list[bool] | None = None,
) -> Arrays:
    n = len(cost)
    return Arrays(
        pnl=np.array(pnl or [0.0] * n),
        cost=np.array(cost),
        event=np.array(event or [0] * n),
        day=np.array(day or [0] * n),
        yes=np.array([True] * n if yes is None else yes),
        exclusive=np.full(n, exclusive),
        filled=np.array([True] * n if filled is None else filled),
    )


def distribution_of(arrays: Arrays) -> dict[tuple[float, ...], float]:
    """Return the exact probability of each event mean plus cost, by splitting [0, 1) at every bound of a leg."""
    model = martingale._null_model(arrays, arrays.cost)
    cuts = np.unique(np.concatenate([[0.0, 1.0], ndtr(model.low), ndtr(model.high)]))
    found: dict[tuple[float, ...], float] = {}
    for a, c in itertools.pairwise(cuts):
        at = float(martingale.ndtri((a + c) / 2))
        won = ((model.low <= at) & (at < model.high)) != model.outside
        key = tuple(won.astype(float))
        found[key] = found.get(key, 0.0) + float(c - a)
    return found


def test_legs_that_are_not_exclusive_are_comonotone() -> None:
    law = distribution_of(legs([0.2, 0.7, 0.5]))
    assert law == pytest.approx({(1, 1, 1): 0.2, (0, 1, 1): 0.3, (0, 1, 0): 0.2, (0, 0, 0): 0.3})


def test_exclusive_legs_win_on_disjoint_intervals() -> None:
    # YES of one outcome is bought, NO of two others.
    law = distribution_of(legs([0.3, 0.8, 0.9], yes=[True, False, False], exclusive=True))
    assert law == pytest.approx({(1, 1, 1): 0.3, (0, 1, 1): 0.4, (0, 0, 1): 0.2, (0, 1, 0): 0.1})


def test_prices_that_add_up_to_more_than_one_keep_their_probabilities() -> None:
    law = distribution_of(legs([0.6, 0.5, 0.4], exclusive=True))
    assert sum(law.values()) == pytest.approx(1)
    for leg, p in enumerate((0.6, 0.5, 0.4)):
        assert sum(chance for won, chance in law.items() if won[leg]) == pytest.approx(p)
    assert {sum(won) for won in law} == {1.0, 2.0}


@pytest.mark.parametrize(
    "loose",
    [
        legs([0.3, 0.4], day=[0, 1], exclusive=True),
        msgspec.structs.replace(legs([0.3, 0.4]), exclusive=np.array([True, False])),
    ],
)
def test_legs_of_unknown_dependence_are_comonotone(loose: Arrays) -> None:
    assert distribution_of(loose) == pytest.approx({(1, 1): 0.3, (0, 1): 0.1, (0, 0): 0.6})


def test_an_event_with_a_market_entered_twice_is_not_exclusive() -> None:
    signal, _ = simulated_entries.entries(3, kind="mutex", legs=2, seed=1)
    assert martingale.coupled(signal).exclusive.all()
    event = signal["event"][0]
    ticker = signal.filter(pl.col("event") == event)["ticker"][0]
    twice = signal.with_columns(
        ticker=pl.when(pl.col("event") == event).then(pl.lit(ticker)).otherwise("ticker")
    )
    arrays = martingale.coupled(twice)
    assert arrays.exclusive.sum() == 4
    assert not arrays.exclusive[
        arrays.event == arrays_of(twice).event[signal["event"].to_list().index(event)]
    ].any()


@given(
    costs=st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6),
    sides=st.lists(st.booleans(), min_size=6, max_size=6),
    exclusive=st.booleans(),
)
def test_every_leg_keeps_its_probability(costs: list[float], sides: list[bool], exclusive: bool) -> None:
    law = distribution_of(legs(costs, yes=sides[: len(costs)], exclusive=exclusive))
    assert sum(law.values()) == pytest.approx(1)
    for leg, cost in enumerate(costs):
        assert sum(chance for won, chance in law.items() if won[leg]) == pytest.approx(cost, abs=1e-6)
    if exclusive and len(costs) > 1:
        # The number of YES settlements differs by at most one.
        yes = {
            sum(bool(w) == s for w, s in zip(won, sides, strict=False))
            for won, chance in law.items()
            if chance > 1e-6
        }
        assert max(yes) - min(yes) <= 1


@given(seed=st.integers(0, 2**32), b=st.integers(1, 40), n=st.integers(1, 30))
@hypothesis_settings(max_examples=25)
def test_means_follow_the_definition(seed: int, b: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    rows = 2 * n
    arrays = Arrays(
        pnl=np.zeros(rows),
        cost=rng.uniform(0.1, 0.9, rows),
        event=np.unique(rng.integers(0, n, rows), return_inverse=True)[1],
        day=np.sort(np.unique(rng.integers(0, 5, rows), return_inverse=True)[1]),
        yes=rng.random(rows) < 0.5,
        exclusive=np.zeros(rows, np.bool_),
        filled=rng.random(rows) < 0.8,
    )
    got = martingale.null_means(arrays, resamples=b, rho=0.3, seed=seed)
    events = int(arrays.event.max()) + 1
    opened = np.array([arrays.day[arrays.event == e][0] for e in range(events)])
    latent = np.random.default_rng(seed)
    factor = latent.standard_normal((b, len(set(opened))))
    noise = latent.standard_normal((b, events))
    codes = {day: k for k, day in enumerate(sorted(set(opened)))}
    expected = np.zeros(b)
    for draw in range(b):
        for e in range(events):
            z = np.sqrt(0.3) * factor[draw, codes[opened[e]]] + np.sqrt(0.7) * noise[draw, e]
            mine = np.flatnonzero(arrays.event == e)
            won = [
                float(ndtr(z) < arrays.cost[i]) - arrays.cost[i] if arrays.filled[i] else 0.0 for i in mine
            ]
            expected[draw] += sum(won) / len(mine) / events
    assert np.allclose(got, expected)


@pytest.mark.parametrize("kind", simulated_entries.KINDS)
def test_the_null_has_the_standard_deviation_of_the_simulation(kind: simulated_entries.Kind) -> None:
    sets = [
        simulated_entries.entries(150, kind=kind, fee=False, rho_day=0.2, days=30, seed=s)[0]
        for s in range(300)
    ]
    seen = [s.group_by("event").agg(pl.col("pnl").mean())["pnl"].mean() for s in sets]
    drawn = martingale.null_means(sets[0], resamples=2_000, rho=0.2)
    assert abs(drawn.mean()) < 4 * drawn.std() / np.sqrt(2_000)
    assert np.std(np.array(seen, float)) == pytest.approx(drawn.std(), rel=0.15)


def test_at_the_mid_the_means_centre_on_minus_the_costs() -> None:
    signal, _ = simulated_entries.entries(400, edge=0, net=False, spread_cents=2.0, fill_rate=0.8, seed=6)
    drawn = martingale.null_means(signal, null="mid", resamples=4_000)
    cost = (signal["cost"] - signal["mid"]).fill_null(0.0).to_numpy().mean()
    assert abs(drawn.mean() + cost) < 4 * drawn.std() / np.sqrt(4_000)


def test_the_same_seed_gives_the_same_draws_in_any_order_of_rows() -> None:
    signal, _ = simulated_entries.entries(80, kind="ladder", seed=2)
    one = martingale.null_means(signal, resamples=50, seed=7)
    assert np.array_equal(
        one, martingale.null_means(signal.sample(fraction=1, shuffle=True, seed=1), resamples=50, seed=7)
    )
    assert np.array_equal(one, martingale.null_means(martingale.coupled(signal), resamples=50, seed=7))
    assert np.array_equal(one, martingale.null_means(signal, resamples=50, seed=np.random.default_rng(7)))
    assert not np.array_equal(one, martingale.null_means(signal, resamples=50, seed=8))


@pytest.mark.parametrize(("kind", "tolerance"), [("single", 0.04), ("ladder", 0.04), ("mutex", 0.07)])
def test_the_correlation_of_days_is_estimated(kind: simulated_entries.Kind, tolerance: float) -> None:
    def found(rho: float) -> float:
        sets = (
            simulated_entries.entries(1_500, kind=kind, edge=0, rho_day=rho, days=100, seed=s)[0]
            for s in range(25)
        )
        return float(np.mean([martingale.intraclass(martingale.coupled(s)) for s in sets]))

    assert found(0.25) == pytest.approx(0.25, abs=tolerance)
    assert martingale.RHO <= found(0.0) < 0.05 + tolerance


def test_without_two_events_on_a_day_the_correlation_is_the_floor() -> None:
    assert martingale.intraclass(legs([0.5, 0.5], event=[0, 1], day=[0, 1])) == martingale.RHO
    # Days on which all win or all lose give the largest correlation.
    sure = legs(
        [0.5] * 40, event=list(range(40)), day=[i // 10 for i in range(40)], pnl=[0.5] * 20 + [-0.5] * 20
    )
    assert martingale.intraclass(sure) == 0.9


def test_an_interval_without_losses_equals_the_binomial_one() -> None:
    n, cost = 60, 0.95
    arrays = legs([cost] * n, event=list(range(n)), day=list(range(n)), pnl=[1 - cost] * n)
    lower, upper = martingale.invert(arrays, rho=0.0, resamples=20_000)
    # Clopper & Pearson (1934): with n wins of n the lower bound is 0.025^(1/n).
    assert lower == pytest.approx(0.025 ** (1 / n) - cost, abs=0.003)
    assert upper == pytest.approx(1 - cost)
    lost = legs([cost] * n, event=list(range(n)), day=list(range(n)), pnl=[-cost] * n)
    lower, upper = martingale.invert(lost, rho=0.0, resamples=20_000)
    assert lower == pytest.approx(-cost)
    assert upper == pytest.approx(1 - 0.025 ** (1 / n) - cost, abs=0.003)


@pytest.mark.parametrize("edge", [-10.0, 0.0, 5.0])
def test_the_inverted_interval_contains_the_true_edge(edge: float) -> None:
    covered = 0
    for s in range(60):
        signal, _ = simulated_entries.entries(40, edge=edge, days=20, seed=s)
        lower, upper = martingale.invert(martingale.coupled(signal), resamples=499, seed=s)
        covered += lower <= edge / 100 <= upper
    # 95 % of 60, less three binomial standard errors.
    assert covered >= 52


def test_costs_above_a_dollar_and_unfilled_entries_are_accepted() -> None:
    arrays = legs([1.01, 0.5, np.nan], event=[0, 1, 2], day=[0, 1, 2], filled=[True, True, False])
    assert set(np.round(martingale.null_means(arrays, resamples=200, seed=1) * 3, 9)) == {-0.51, 0.49}
    nothing = legs([np.nan], filled=[False])
    assert martingale.null_means(nothing, resamples=5).tolist() == [0.0] * 5
    assert martingale.intraclass(nothing) == martingale.RHO


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: martingale.null_means(legs([0.5]), resamples=0),
        lambda: martingale.null_means(legs([0.5]), rho=1.0),
        lambda: martingale.null_means(legs([0.5]), null="mid"),
        lambda: martingale.null_means(legs([0.5]), null="fair"),  # type: ignore[arg-type]
        lambda: martingale.null_means(simulated_entries.entries(5)[0].clear()),
        lambda: martingale.null_means(legs([np.nan])),
        lambda: martingale.invert(legs([0.5]), level=1.0),
        lambda: martingale.invert(legs([0.5]), resamples=0),
    ],
)
def test_invalid_arguments_are_refused(wrong: Any) -> None:
    with pytest.raises(EdgeError):
        wrong()
