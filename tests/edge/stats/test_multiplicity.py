"""Multiple testing: published values, reference implementations, and error rates in simulations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.stats.multiplicity import (
    benjamini_hochberg,
    benjamini_yekutieli,
    bonferroni_b,
    deflated_sharpe,
    e_bh,
    event_matrix,
    expected_max,
    fewest_b,
    holm,
    pbo,
    romano_wolf,
)
from kalshilab.errors import EdgeError

P_VALUES = hnp.arrays(float, st.integers(1, 40), elements=st.floats(0, 1))


# ---------------------------------------------------------------- expected maxima


def test_t12_the_expected_maximum_of_rules_without_an_edge_has_its_reference_values() -> None:
    assert round(expected_max(117), 2) == 2.59
    assert round(expected_max(4212), 2) == 3.64
    assert expected_max(1) == 0.0
    # By luck alone, the best of 4,212 rules has p < 0.001 in 98.5 %, and the best of 117 p < 0.05 in 99.8 %.
    assert round(1 - 0.999**4212, 3) == 0.985 and round(1 - 0.95**117, 3) == 0.998
    assert stats.norm.isf(0.001) < expected_max(4212)


@pytest.mark.parametrize("m", [5, 117, 1000])
def test_expected_max_is_near_the_mean_of_simulated_maxima(m: int) -> None:
    maxima = np.random.default_rng(1).normal(size=(4000, m)).max(1)
    assert expected_max(m) == pytest.approx(maxima.mean(), abs=0.06)


def test_the_fewest_resamples_are_just_enough_to_reject() -> None:
    assert bonferroni_b(1) == 1999 and bonferroni_b(117) == 46_800 and bonferroni_b(117, 0.1) == 23_400
    assert fewest_b(117) == 2339 and fewest_b(1) == 19
    for m in (1, 2, 36, 117, 4212):
        assert 1 / (fewest_b(m) + 1) <= 0.05 / m < 1 / fewest_b(m), "299 resamples never reject among 117"
    for bad in (
        lambda: expected_max(0),
        lambda: bonferroni_b(0),
        lambda: fewest_b(3, 0.0),
        lambda: bonferroni_b(1, 2),
    ):
        with pytest.raises(EdgeError):
            bad()


# ---------------------------------------------------------------- adjustments


# statsmodels takes 30 ms for one Holm adjustment.
@settings(max_examples=8)
@given(P_VALUES)
def test_adjustments_agree_with_statsmodels(p: np.ndarray[Any, Any]) -> None:
    for ours, theirs in ((holm, "holm"), (benjamini_hochberg, "fdr_bh"), (benjamini_yekutieli, "fdr_by")):
        np.testing.assert_allclose(ours(p), multipletests(p, method=theirs)[1], atol=1e-12)


@given(P_VALUES)
def test_adjusted_p_values_are_larger_and_keep_their_order(p: np.ndarray[Any, Any]) -> None:
    bonferroni = np.minimum(p * len(p), 1)
    for adjust in (holm, benjamini_hochberg, benjamini_yekutieli):
        adjusted = adjust(p)
        assert (adjusted >= p - 1e-15).all() and (adjusted <= 1).all()
        assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= -1e-15).all()
    assert (holm(p) <= bonferroni + 1e-15).all() and (benjamini_hochberg(p) <= holm(p) + 1e-12).all()


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg, benjamini_yekutieli])
def test_values_that_are_not_probabilities_are_refused(adjust: Any) -> None:
    for bad in ([0.1, math.nan], [-0.1], [1.1]):
        with pytest.raises(EdgeError, match=r"p must hold p-values from 0 to 1, got"):
            adjust(bad)
    assert adjust([]).tolist() == []


@given(hnp.arrays(float, st.integers(1, 30), elements=st.floats(0, 1e4)), st.sampled_from([0.05, 0.1, 0.2]))
def test_e_bh_equals_bh_on_inverse_e_values(e: np.ndarray[Any, Any], alpha: float) -> None:
    p = 1 / np.maximum(e, 1)
    near = np.abs(benjamini_hochberg(p) - alpha) < 1e-9
    assert (e_bh(e, alpha) == (benjamini_hochberg(p) <= alpha))[~near].all()


def test_e_bh_refuses_invalid_e_values() -> None:
    assert e_bh([]).tolist() == [] and e_bh([math.inf, 0.0], 0.05).tolist() == [True, False]
    for bad in ([-1.0], [math.nan]):
        with pytest.raises(EdgeError, match="e must hold e-values of at least 0"):
            e_bh(bad)
    with pytest.raises(EdgeError, match="alpha must be an error rate"):
        e_bh([1.0], 0.0)


# ---------------------------------------------------------------- Romano–Wolf


def correlated_nulls(rng: np.random.Generator, rules: int = 60, events: int = 300) -> np.ndarray[Any, Any]:
    """Simulate rules without an edge that each trade a random half of the same fair bets: (events, rules)."""
    cost = rng.uniform(0.55, 0.9, events)
    pnl = (rng.random(events) < cost) - cost
    return np.where(rng.random((events, rules)) < 0.5, pnl[:, None], np.nan)


def rates(sets: int, b: int) -> tuple[float, float]:
    """Return how often any rule is rejected at 5 %, with and without adjustment."""
    ours, naive = 0, 0
    for seed in range(sets):
        found = romano_wolf(correlated_nulls(np.random.default_rng(seed)), resamples=b, seed=seed)
        assert found.tested.all()
        ours += found.rejected().any()
        naive += (stats.norm.sf(found.t) < 0.05).any()
    return ours / sets, naive / sets


def test_t16b_romano_wolf_controls_the_family_wise_error() -> None:
    ours, naive = rates(100, 299)
    # 7 % of 100, with a binomial tolerance of two standard errors.
    assert ours <= 0.07 + 2 * math.sqrt(0.07 * 0.93 / 100), ours
    assert naive > 0.25, "the world must hold rules enough to mislead a reader of single p-values"


@pytest.mark.soak
def test_t16b_romano_wolf_controls_the_family_wise_error_at_full_size() -> None:
    ours, naive = rates(1000, 499)
    assert ours <= 0.07, ours
    assert 0.3 < naive < 0.65, naive


def test_romano_wolf_rejects_only_rules_with_an_edge() -> None:
    values = correlated_nulls(np.random.default_rng(5), rules=20)
    values[:, 3] += 0.12
    values[:, 11] += 0.15
    found = romano_wolf(values, resamples=999)
    assert np.flatnonzero(found.rejected()).tolist() == [3, 11]
    assert found.mean[3] == pytest.approx(np.nanmean(values[:, 3]))
    n = np.isfinite(values[:, 3]).sum()
    assert found.se[3] == pytest.approx(np.nanstd(values[:, 3], ddof=1) / math.sqrt(n))


def test_romano_wolf_is_reproducible_and_keeps_the_order_of_t() -> None:
    values = correlated_nulls(np.random.default_rng(7), rules=12)
    one, two = (
        romano_wolf(values, resamples=199, seed=3),
        romano_wolf(values, resamples=199, seed=np.random.default_rng(3)),
    )
    assert one.p.tolist() == two.p.tolist()
    assert (np.diff(one.p[np.argsort(-one.t)]) >= 0).all()
    assert (one.p >= 1 / 200).all() and (one.p <= 1).all()
    # The result does not depend on the size of the blocks.
    import kalshilab.edge.stats.multiplicity as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", 3000)
        assert romano_wolf(values, resamples=199, seed=3).p.tolist() == one.p.tolist()


def test_other_rules_raise_the_adjusted_p_value_and_copies_do_not() -> None:
    values = correlated_nulls(np.random.default_rng(8), rules=1)
    values[:, 0] += 0.05
    alone = romano_wolf(values, resamples=1999).p[0]
    copies = romano_wolf(np.repeat(values, 30, axis=1), resamples=1999).p
    assert np.unique(copies).tolist() == [alone], "thirty names of one rule are one rule"
    crowd = np.hstack([values, correlated_nulls(np.random.default_rng(9), rules=30)])
    assert romano_wolf(crowd, resamples=1999).p[0] > alone


def test_profits_with_clusters_equal_the_matrix_of_their_means() -> None:
    rng = np.random.default_rng(2)
    rules = []
    for _ in range(4):
        cluster = rng.choice([f"EV{i}" for i in range(80)], 200)
        rules.append((rng.normal(size=200), cluster))
    found = romano_wolf(rules, resamples=199)
    labels = sorted({c for _, cluster in rules for c in cluster})
    values = np.full((len(labels), 4), np.nan)
    for j, (pnl, cluster) in enumerate(rules):
        for i, label in enumerate(labels):
            if (cluster == label).any():
                values[i, j] = pnl[cluster == label].mean()
    assert found.p.tolist() == romano_wolf(values, resamples=199).p.tolist()


def test_a_rule_without_losses_is_not_tested_and_does_not_affect_others() -> None:
    values = correlated_nulls(np.random.default_rng(4), rules=5)
    winner = np.full((300, 1), 0.04)
    few = np.full((300, 1), np.nan)
    few[:20, 0] = np.linspace(-0.5, 0.9, 20)
    empty = np.full((300, 1), np.nan)
    found = romano_wolf(np.hstack([values, winner, few, empty]), resamples=199)
    assert found.tested.tolist() == [True] * 5 + [False] * 3
    assert found.p[5:].tolist() == [1, 1, 1] and np.isnan(found.t[5:]).all()
    assert found.p[:5].tolist() == romano_wolf(values, resamples=199).p.tolist()
    assert romano_wolf(winner, resamples=99).p.tolist() == [1.0]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "at least one rule, got 0"),
        (np.zeros((0, 3)), r"non-empty array of shape \(clusters, rules\)"),
        (np.array([[1.0], [np.inf]]), "finite profits, got infinity"),
        ([(np.zeros(3), np.zeros(2))], "one cluster per profit"),
    ],
)
def test_romano_wolf_refuses_invalid_cells(cells: Any, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        romano_wolf(cells)
    with pytest.raises(EdgeError, match="resamples must be at least 1, got 0"):
        romano_wolf(np.zeros((3, 1)), resamples=0)


def test_romano_wolf_agrees_with_arch_on_daily_sums() -> None:
    bootstrap = pytest.importorskip("arch.bootstrap")
    rng = np.random.default_rng(11)
    days = rng.normal(size=(250, 1)) * 0.5 + rng.normal(size=(250, 8))
    days[:, 2] += 0.45
    days[:, 5] += 0.29
    ours = romano_wolf(days, resamples=1999, seed=1)
    # Losses in arch have the opposite sign; blocks of one day, because days are drawn independently.
    spa = bootstrap.SPA(np.zeros(250), -days, block_size=1, reps=1999, seed=1)
    spa.compute()
    assert ours.p.min() == pytest.approx(spa.pvalues["upper"], abs=0.01)
    weak = np.delete(days, 2, axis=1)
    rest = bootstrap.SPA(np.zeros(250), -weak, block_size=1, reps=1999, seed=1)
    rest.compute()
    assert romano_wolf(weak, resamples=1999, seed=1).p.min() == pytest.approx(rest.pvalues["upper"], abs=0.03)
    step = bootstrap.StepM(np.zeros(250), -days, size=0.05, block_size=1, reps=1999, seed=1)
    step.compute()
    assert set(np.flatnonzero(ours.rejected())) == {int(name) for name in step.superior_models} == {2, 5}


def frame_of(rows: list[tuple[str, int, float | None]]) -> pl.DataFrame:
    """Entries of (event, minute, profit)."""
    columns: dict[str, list[Any]] = {name: [None] * len(rows) for name in ENTRIES_SCHEMA}
    columns |= {
        "fire": list(range(len(rows))), "event": [r[0] for r in rows], "ts": [r[1] * 60_000_000 for r in rows],
        "pnl": [r[2] for r in rows], "filled": [True] * len(rows),
    }  # fmt: skip
    return pl.DataFrame(columns, schema=ENTRIES_SCHEMA)


def test_the_event_matrix_is_sorted_by_time_and_has_gaps() -> None:
    one = frame_of([("B", 5, 0.1), ("B", 6, 0.3), ("A", 9, -0.5), ("C", 20, None)])
    two = frame_of([("A", 2, 0.4)])
    values, events = event_matrix([one, two, frame_of([])])
    assert events == ["A", "B"]
    np.testing.assert_allclose(values, [[-0.5, 0.4, np.nan], [0.2, np.nan, np.nan]])


# ---------------------------------------------------------------- second opinions


def test_the_deflated_sharpe_ratio_falls_with_the_number_of_trials() -> None:
    rng = np.random.default_rng(3)
    returns = rng.normal(0.12, 1, 500)
    sharpe = returns.mean() / returns.std(ddof=1)
    tried = rng.normal(0, 1 / math.sqrt(500), 50)
    alone = deflated_sharpe(returns, [sharpe])
    # One trial: the probabilistic Sharpe ratio, which for a normal is nearly Φ of the t-value.
    assert alone == pytest.approx(stats.norm.cdf(sharpe * math.sqrt(500)), abs=0.01)
    among = deflated_sharpe(returns, tried)
    assert alone > among > deflated_sharpe(returns, tried, trials=4212)
    assert deflated_sharpe(returns, tried, n_eff=100) < among


def test_the_deflated_sharpe_ratio_equals_a_manual_computation() -> None:
    returns = np.array([0.3, -0.1, 0.2, 0.1, -0.2, 0.4, 0.0, 0.1])
    mean, sd = returns.mean(), returns.std(ddof=1)
    sr, bar = mean / sd, np.std([0.1, 0.3, 0.2], ddof=1) * expected_max(3)
    skew, kurt = stats.skew(returns), stats.kurtosis(returns) + 3
    z = (sr - bar) * math.sqrt(7) / math.sqrt(1 - skew * sr + (kurt - 1) / 4 * sr**2)
    assert deflated_sharpe(returns, [0.1, 0.3, 0.2]) == pytest.approx(stats.norm.cdf(z))


@pytest.mark.parametrize(
    ("returns", "tried", "trials"),
    [([0.1], [0.1], None), ([0.1, 0.1], [0.1], None), ([0.1, 0.2], [], None), ([0.1, 0.2], [0.1, 0.2], 1)],
)
def test_the_deflated_sharpe_ratio_refuses_invalid_arguments(
    returns: list[float], tried: list[float], trials: int | None
) -> None:
    with pytest.raises(EdgeError, match="must hold"):
        deflated_sharpe(returns, tried, trials=trials)


def test_pbo_is_about_a_half_for_luck_and_zero_for_a_better_variant() -> None:
    luck = [pbo(np.random.default_rng(seed).normal(size=(320, 12)), blocks=10).pbo for seed in range(20)]
    assert 0.4 < np.mean(luck) < 0.6, luck
    better = np.random.default_rng(1).normal(size=(320, 12))
    better[:, 4] += 0.6
    found = pbo(better)
    assert found.pbo < 0.01 and found.loss < 0.01 and len(found.logits) == 12_870
    assert pbo(better, metric="sharpe").pbo < 0.01


def test_pbo_equals_a_manual_computation() -> None:
    from itertools import combinations

    values = np.random.default_rng(6).normal(size=(24, 5))
    values[np.random.default_rng(7).random((24, 5)) < 0.3] = np.nan
    parts = np.array_split(values, 6)
    logits = []
    for chosen in combinations(range(6), 3):
        seen = np.nanmean(np.concatenate([parts[i] for i in chosen]), axis=0)
        rest = np.nanmean(np.concatenate([parts[i] for i in range(6) if i not in chosen]), axis=0)
        rank = stats.rankdata(rest)[seen.argmax()] / 6
        logits.append(math.log(rank / (1 - rank)))
    found = pbo(values, blocks=6)
    np.testing.assert_allclose(found.logits, logits, atol=1e-12)
    assert found.pbo == np.mean(np.array(logits) <= 1e-12)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((40, 1), {}, "2 variants, got shape"),
        ((10, 3), {}, "at least 16 events"),
        ((40, 3), {"blocks": 7}, "an even number from 2 to 20, got 7"),
        ((40, 3), {"metric": "max"}, "'mean' or 'sharpe', got 'max'"),
    ],
)
def test_pbo_refuses_invalid_arguments(shape: tuple[int, int], options: dict[str, Any], message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        pbo(np.zeros(shape), **options)
