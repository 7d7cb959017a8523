"""Size, coverage and power of the tests of an edge in simulated markets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy import stats

from kalshilab.edge.schema import Interval
from kalshilab.edge.stats import inference, martingale, power, simulated_entries
from kalshilab.errors import EdgeError

FAIR: dict[str, dict[str, Any]] = {
    "single legs, 300 events": {"n_events": 300},
    "NO at 94-98c, 150 events": {"n_events": 150, "price": (0.94, 0.98)},
    "ladders K=10, 150 events": {"n_events": 150, "kind": "ladder", "legs": 10},
    "exclusive K=6, 300 events": {"n_events": 300, "kind": "mutex"},
    "day shock .1, 600 events": {"n_events": 600, "rho_day": 0.1},
    "ladders + day shock, 300 events": {"n_events": 300, "kind": "ladder", "legs": 10, "rho_day": 0.1},
}


def fair(name: str, seed: int) -> pl.DataFrame:
    """Simulate entries at the mid in a fair market of sixty days."""
    return simulated_entries.entries(
        **{"fee": False, "days": 60, "pool_events": 0, "seed": seed, **FAIR[name]}
    )[0]


def clustered(pnl: np.ndarray, codes: np.ndarray) -> float:
    """Return the one-sided p-value of the usual t-test with clustered standard errors."""
    code = np.unique(codes, return_inverse=True)[1]
    sums = np.bincount(code, pnl - pnl.mean())
    g = len(sums)
    se = math.sqrt(g / (g - 1) * (sums**2).sum()) / len(pnl)
    return float(stats.t.sf(pnl.mean() / se, g - 1))


def every_test(entries: pl.DataFrame, b: int, seed: int) -> dict[str, float]:
    """Return the one-sided p-values of one sample by all methods."""
    a = martingale.coupled(entries)
    n, price = len(a.pnl), a.cost.mean()
    won = (a.pnl + a.cost).mean()
    each = np.bincount(a.event, a.pnl) / np.bincount(a.event)
    found = inference.infer(entries, resamples=b, seed=seed)

    def monte_carlo(rho: float) -> float:
        drawn = martingale.null_means(a, resamples=b, rho=rho, seed=seed)
        return float((1 + (drawn >= each.mean() - 1e-9).sum()) / (b + 1))

    return {
        "naive z": float(stats.norm.sf((won - price) / math.sqrt(price * (1 - price) / n))),
        "iid t": float(stats.ttest_1samp(a.pnl, 0, alternative="greater").pvalue),
        "t event": clustered(a.pnl, a.event),
        "boot-t event": found.p_event,
        "wild event": inference.wild(each, np.arange(len(each)), None, b, seed),
        "MC event": monte_carlo(0.0),
        "t day": clustered(a.pnl, a.day),
        "boot-t day": found.p_day,
        "MC day .1": monte_carlo(0.1),
        "reported": found.p,
    }


def sizes(name: str, sets: int, b: int) -> dict[str, float]:
    """Return the fraction of fair simulations in which a one-sided 5 % test rejects, by method."""
    ps = [every_test(fair(name, 1_000 + s), b, s) for s in range(sets)]
    return {method: float(np.mean([p[method] <= 0.05 for p in ps])) for method in ps[0]}


def limit(rate: float, sets: int) -> float:
    """Return the upper limit of a rejection rate over `sets` simulations: three binomial standard errors up."""
    return rate + 3 * math.sqrt(rate * (1 - rate) / sets)


@pytest.mark.parametrize("name", FAIR)
def test_t8_the_reported_p_value_keeps_its_size(name: str) -> None:
    sets = 100
    rejected = sum(
        inference.infer(fair(name, 5_000 + s), resamples=199, seed=s).p <= 0.05 for s in range(sets)
    )
    assert rejected / sets <= limit(0.05, sets)


def test_t8_naive_tests_reject_too_often_on_ladders() -> None:
    rate = sizes("ladders K=10, 150 events", 80, 99)
    assert rate["naive z"] > 0.15
    assert rate["iid t"] > 0.15


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", FAIR)
def test_t8_the_sizes_of_all_methods_are_as_documented(name: str) -> None:
    rate = sizes(name, 400, 399)
    print(f"\nT8 {name}: " + ", ".join(f"{method} {r:.3f}" for method, r in rate.items()))
    assert rate["reported"] <= 0.075
    assert rate["MC day .1"] <= 0.075
    if "ladders" in name:
        assert min(rate["naive z"], rate["iid t"]) > 0.15
    if "94-98c" in name:
        assert min(rate["iid t"], rate["t event"], rate["t day"]) > 0.08
        assert rate["boot-t event"] <= 0.05
    if "exclusive" in name:
        assert max(rate["naive z"], rate["iid t"]) <= 0.01
    if "day shock" not in name:
        assert rate["MC event"] <= 0.075


@pytest.mark.parametrize(
    ("world", "edge"),
    [
        ({"n_events": 400}, 3.0),
        ({"n_events": 150, "kind": "ladder"}, 0.0),
        ({"n_events": 150, "kind": "mutex"}, 2.0),
        ({"n_events": 400, "rho_day": 0.1, "days": 40}, 0.0),
        ({"n_events": 60, "price": (0.9, 0.94)}, 2.0),
    ],
)
def test_intervals_contain_the_true_edge(world: dict[str, Any], edge: float) -> None:
    sets, covered = 80, 0
    for s in range(sets):
        signal, _ = simulated_entries.entries(edge=edge, pool_events=0, seed=s, **world)
        found = inference.infer(signal, resamples=299, seed=s)
        assert found.lower <= found.edge <= found.upper
        covered += found.lower <= edge <= found.upper
    assert covered / sets >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / sets)


def test_the_detectable_edge_is_found_with_the_stated_power() -> None:
    # At the minimum detectable edge a single test finds 80 %; all three together find somewhat fewer.
    signal, _ = simulated_entries.entries(500, seed=0)
    edge = inference.infer(signal, resamples=99).mde
    found = [
        inference.infer(
            simulated_entries.entries(500, edge=edge, pool_events=0, seed=s)[0], resamples=199, seed=s
        )
        for s in range(80)
    ]
    assert 0.55 < np.mean([f.p <= 0.05 for f in found]) < 0.95
    assert 0.65 < np.mean([f.p_mc <= 0.05 for f in found]) < 0.95


def test_reported_numbers_are_consistent() -> None:
    signal, _ = simulated_entries.entries(
        200, kind="ladder", legs=4, rho_day=0.1, fill_rate=0.8, edge=2.0, seed=3
    )
    found = inference.infer(signal, resamples=499)
    each = signal.group_by("event").agg(pl.col("pnl").mean())["pnl"].to_numpy()
    assert found.edge == pytest.approx(100 * each.mean())
    assert found.p == max(found.p_mc, found.p_event, found.p_day)
    assert found.n == signal.height and found.n_filled == signal["filled"].sum()
    assert found.n_losses == signal.filter(pl.col("filled") & (pl.col("value") == 0)).height
    hit = signal.filter("filled")
    assert found.n_events == hit["event"].n_unique()
    assert found.n_days == hit["entry_ts"].dt.date().n_unique()
    assert found.se_event == pytest.approx(100 * each.std(ddof=1) / math.sqrt(len(each)))
    assert found.se_two_way >= max(found.se_event, found.se_day)
    assert found.deff == pytest.approx(found.n_events / found.n_eff)
    assert found.mde_at(1) == found.mde < found.mde_at(117)
    assert found.interval == Interval(found.edge, found.lower, found.upper, found.p, found.n, found.n_events)
    assert found.method == "bootstrap over events" or found.method == "bootstrap over days"
    # Only plain Python numbers, because a card is stored as JSON.
    assert all(type(v) in (int, float, str) for v in msgspec.structs.astuple(found))
    assert msgspec.json.decode(msgspec.json.encode(found), type=inference.Inference) == found


def test_the_effective_size_of_independent_entries_is_their_number() -> None:
    signal, _ = simulated_entries.entries(3_000, days=3_000, price=(0.72, 0.74), fee=False, seed=5)
    found = inference.infer(signal, resamples=99)
    assert found.n_eff == pytest.approx(3_000, rel=0.1)
    assert found.mde == pytest.approx(power.mde(0.73, 3_000), rel=0.06)
    # Ten copies of each entry carry the information of one.
    copies = pl.concat(
        [
            signal.with_columns(ticker=pl.col("ticker") + f"-{k}", fire=pl.col("fire") + 3_000 * k)
            for k in range(10)
        ]
    )
    again = inference.infer(copies, resamples=99)
    assert again.n == 30_000
    assert again.n_eff == pytest.approx(found.n_eff)
    assert again.mde == pytest.approx(found.mde)
    assert again.edge == pytest.approx(found.edge)


def test_few_clusters_or_losses_use_the_inverted_test() -> None:
    small, _ = simulated_entries.entries(20, seed=1)
    assert inference.infer(small, resamples=199).method == "inverted Monte Carlo"
    sure, _ = simulated_entries.entries(400, price=(0.985, 0.995), edge=0.4, seed=1)
    found = inference.infer(sure, resamples=199)
    assert found.n_losses < inference.LOSSES
    assert found.method == "inverted Monte Carlo"
    # Many events on few days: the wider of the bootstrap over events and the inverted test with the day factor.
    crowded, _ = simulated_entries.entries(900, rho_day=0.2, days=9, seed=1)
    found = inference.infer(crowded, resamples=199)
    assert found.n_days == 9
    assert found.method == "inverted Monte Carlo"
    assert found.upper - found.lower > 2 * 1.96 * found.se_event


def test_without_a_loss_the_p_value_is_that_of_the_martingale_null() -> None:
    signal, _ = simulated_entries.entries(12, price=(0.9, 0.91), fee=False, edge=8.99, seed=0)
    assert signal["value"].eq(1).all()
    found = inference.infer(signal)
    # The probability that a draw wins all of them is about 0.905^12, and higher with the day factor.
    assert found.p == found.p_mc > 0.25
    assert found.lower < 0 < found.edge


def test_a_single_event_has_a_p_value_but_no_bootstrap() -> None:
    signal, _ = simulated_entries.entries(1, kind="ladder", legs=5, seed=2)
    found = inference.infer(signal, resamples=199)
    assert math.isnan(found.p_event) and math.isnan(found.p_day) and math.isnan(found.se_two_way)
    assert found.p == found.p_mc
    assert found.n_events == found.n_days == 1
    assert math.isfinite(found.lower) and math.isfinite(found.upper) and found.mde > 50


def test_the_mid_null_tests_information_before_costs() -> None:
    signal, _ = simulated_entries.entries(1_500, edge=5.0, net=False, spread_cents=6.0, fill_rate=0.5, seed=3)
    free = inference.gross(signal)
    assert free["filled"].all() and free["pnl"].equals((signal["value"] - signal["mid"]).alias("pnl"))
    mid, net = inference.infer(signal, null="mid", resamples=499), inference.infer(signal, resamples=499)
    assert mid.p < 0.01 < net.p
    assert mid.n_filled == mid.n == 1_500 and net.n_filled < 1_000
    assert mid.edge == pytest.approx(5.0, abs=3.5)
    # An unfilled signal in a settled market counts; one in an unsettled market does not.
    open_ = signal.with_columns(value=pl.when(pl.col("fire") < 100).then(None).otherwise("value"))
    assert inference.gross(open_).height == 1_400


def test_unsettled_entries_are_excluded_and_scalar_settlements_count_fractionally() -> None:
    signal, _ = simulated_entries.entries(100, seed=9)
    later = signal.with_columns(
        pl.when(pl.col("fire") < 20).then(None).otherwise(c).alias(c) for c in ("value", "pnl", "settled_ts")
    )
    assert inference.infer(later, resamples=99) == inference.infer(
        signal.filter(pl.col("fire") >= 20), resamples=99
    )
    void = signal.with_columns(value=pl.lit(0.5), pnl=0.5 - pl.col("cost"))
    found = inference.infer(void, resamples=99)
    assert found.edge == pytest.approx(100 * (0.5 - signal["cost"].to_numpy().mean()))
    assert found.n_losses == 100 and found.upper < 0


@given(seed=st.integers(0, 2**32), shuffle=st.integers(0, 100))
@hypothesis_settings(max_examples=10)
def test_the_same_seed_gives_the_same_result_in_any_order_of_rows(seed: int, shuffle: int) -> None:
    signal, _ = simulated_entries.entries(40, kind="ladder", legs=3, seed=seed)
    again = signal.sample(fraction=1, shuffle=True, seed=shuffle)
    assert inference.infer(signal, resamples=99, seed=seed) == inference.infer(again, resamples=99, seed=seed)


@given(
    g=st.integers(2, 12),
    scale=st.floats(0.01, 100),
    shift=st.floats(-1, 1),
    seed=st.integers(0, 2**32),
    weighted=st.booleans(),
)
@hypothesis_settings(max_examples=40)
def test_the_bootstrap_follows_its_formula(
    g: int, scale: float, shift: float, seed: int, weighted: bool
) -> None:
    rng = np.random.default_rng(seed)
    n, b = 3 * g, 60
    clusters = np.concatenate([np.arange(g), rng.integers(0, g, n - g)])
    x = rng.normal(size=n) * scale + shift
    w = rng.uniform(0.5, 2, n) if weighted else np.ones(n)
    result = inference.bootstrap(x, clusters, w if weighted else None, b, seed)
    sums, sizes_ = np.bincount(clusters, w * x), np.bincount(clusters, w)

    def mean_and_error(picked: np.ndarray) -> tuple[float, float]:
        s, m = sums[picked], sizes_[picked]
        mu = s.sum() / m.sum()
        return mu, math.sqrt(g / (g - 1) * ((s - mu * m) ** 2).sum()) / m.sum()

    mu, se = mean_and_error(np.arange(g))
    t = []
    for picked in np.random.default_rng(seed).integers(0, g, (b, g), np.int32):
        again, error = mean_and_error(picked)
        near = error <= 1e-9 * se
        t.append(np.sign(again - mu) * np.inf if near else (again - mu) / error)
    low, high = np.quantile(t, [0.025, 0.975], method="inverted_cdf")
    assert result.estimate == pytest.approx(100 * mu)
    assert result.lower == pytest.approx(100 * (mu - high * se), rel=1e-6, abs=1e-6 * scale)
    assert result.upper == pytest.approx(100 * (mu - low * se), rel=1e-6, abs=1e-6 * scale)
    assert abs(result.p - (1 + sum(v >= mu / se for v in t)) / (b + 1)) <= 1.01 / (b + 1)
    assert (result.n, result.clusters) == (n, g)


def test_the_bootstrap_accepts_any_labels_and_is_infinite_without_variance() -> None:
    x = [0.1, -0.2, 0.3, 0.4]
    assert inference.bootstrap(x, ["a", "b", "a", "c"], resamples=99) == inference.bootstrap(
        x, [0, 1, 0, 2], resamples=99
    )
    for nothing in (inference.bootstrap(x, [1] * 4), inference.bootstrap([0.2] * 4, [1, 2, 3, 4])):
        assert (nothing.lower, nothing.upper) == (-math.inf, math.inf) and math.isnan(nothing.p)
    assert math.isnan(inference.wild(x, [1] * 4)) and math.isnan(inference.wild([0.0] * 4, range(4)))


def test_the_wild_bootstrap_approximates_all_sign_flips() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0.4, 1, 10)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 10)).reshape(10, -1)
    flipped = signs.T * x
    t = flipped.mean(axis=1) / flipped.std(axis=1, ddof=1)
    exact = (t >= x.mean() / x.std(ddof=1) - 1e-12).mean()
    assert inference.wild(x, range(10), resamples=20_000) == pytest.approx(exact, abs=0.012)


def test_two_way_errors_agree_with_statsmodels() -> None:
    sandwich = pytest.importorskip("statsmodels.stats.sandwich_covariance")
    linear = pytest.importorskip("statsmodels.regression.linear_model")
    rng = np.random.default_rng(4)
    a, c = rng.integers(0, 30, 600), rng.integers(0, 20, 600)
    x = rng.normal(size=600) + rng.normal(size=30)[a] + rng.normal(size=20)[c]
    fit = linear.OLS(x, np.ones(600)).fit()
    # The small-sample factor of statsmodels is (G/(G−1))·((n−1)/(n−k)) with k = 1.
    both, _, _ = sandwich.cov_cluster_2groups(fit, a, c, use_correction=True)
    assert inference.two_way(x, a, c) == pytest.approx(math.sqrt(both[0, 0]))
    one = sandwich.cov_cluster(fit, a, use_correction=True)
    assert inference.two_way(x, a, a) == pytest.approx(math.sqrt(one[0, 0]))


@pytest.mark.parametrize(
    ("message", "wrong"),
    [
        (
            "at least one settled entry, got 0",
            lambda: inference.infer(simulated_entries.entries(3)[0].clear()),
        ),
        (
            "got 3 settled signals without a fill",
            lambda: inference.infer(simulated_entries.entries(3, fill_rate=0.0)[0]),
        ),
        ("'net' or 'mid'", lambda: inference.infer(simulated_entries.entries(3)[0], null="fair")),  # type: ignore[arg-type]
        (
            "resamples must be at least 1, got 0",
            lambda: inference.infer(simulated_entries.entries(3)[0], resamples=0),
        ),
        ("at least one value, got 0", lambda: inference.bootstrap([], [])),
        ("of equal length, got shapes", lambda: inference.bootstrap([1.0], [1, 2])),
        ("finite", lambda: inference.bootstrap([math.nan], [1])),
        ("weights must be at least 0", lambda: inference.bootstrap([1.0], [1], [-1.0])),
        ("level must be a confidence level", lambda: inference.bootstrap([1.0, 2.0], [1, 2], level=0.0)),
        ("resamples must be at least 1, got 0", lambda: inference.wild([1.0, 2.0], [1, 2], resamples=0)),
    ],
)
def test_invalid_arguments_are_refused(message: str, wrong: Callable[[], Any]) -> None:
    with pytest.raises(EdgeError, match=message):
        wrong()
