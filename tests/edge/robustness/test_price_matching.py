"""Price matching: a biased market is recognised, and not mistaken for a signal."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy import optimize

import kalshilab as kl
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.robustness import price_matching
from kalshilab.edge.stats import simulated_entries
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.lake import Lake


def rate(sets: int, events: int, **world: float) -> tuple[float, float, float]:
    """Return the fractions of data sets with a smooth and a bucketed bound above 0, and the mean excess."""
    smooth = bucket = 0
    edges = []
    for seed in range(sets):
        signal, pool = simulated_entries.entries(events, seed=seed, **world)  # type: ignore[arg-type]
        found = price_matching.excess(signal, pool, resamples=199, seed=seed)
        assert found is not None
        smooth += found.lower975 > 0
        bucket += found.bucketed.lower > 0
        edges.append(found.edge.estimate)
    return smooth / sets, bucket / sets, float(np.mean(edges))


@pytest.mark.soak
def test_t5_a_price_bias_does_not_pass_for_a_signal() -> None:
    # 60 sets at a rate of 4 %: more than 8 has probability 0.001.
    smooth, _, mean = rate(60, 1000, edge=0.0, net=False, flb_cents=6.0)  # type: ignore[arg-type]
    assert smooth <= 8 / 60 and abs(mean) < 1.0


def test_a_signal_beyond_its_price_is_found() -> None:
    smooth, _, mean = rate(12, 2000, edge=5.0)
    assert smooth >= 11 / 12 and 4.5 < mean < 8


def test_the_fit_maximises_the_penalised_likelihood() -> None:
    _, pool = simulated_entries.entries(800, seed=3, flb_cents=6.0, edge=0.0, net=False)
    design = price_matching._Design.of(pool)
    x, y = design.matrix(pool), pool["value"].to_numpy()
    beta, chance, _ = price_matching._fit(x, y, design.smooth)
    start = np.zeros(x.shape[1])
    start[1] = 1.0
    weights = np.full(x.shape[1], price_matching.RIDGE)
    weights[design.smooth : design.smooth + 20] = 1 / price_matching.JUMP**2

    def loss(b: np.ndarray) -> float:
        odds = x @ b
        return float(np.logaddexp(0, odds).sum() - y @ odds + 0.5 * (weights * (b - start) ** 2).sum())

    best = optimize.minimize(loss, start, method="BFGS")
    assert loss(beta) <= best.fun + 1e-3
    assert chance == pytest.approx(1 / (1 + np.exp(-x @ beta)))


def test_one_step_leave_one_out_is_close_to_a_refit() -> None:
    pool, _ = simulated_entries.entries(400, kind="ladder", legs=3, seed=5, edge=0.0, net=False)
    design = price_matching._Design.of(pool)
    x, y = design.matrix(pool), pool["value"].to_numpy()
    beta, chance, inverse = price_matching._fit(x, y, design.smooth)
    events = pool["event"].unique(maintain_order=True).head(12)
    for event in events:
        mine = (pool["event"] == event).to_numpy()
        moved = inverse @ (x[mine] * (y - chance)[mine, None]).sum(0)
        refit, _, _ = price_matching._fit(x[~mine], y[~mine], design.smooth)
        full = 1 / (1 + np.exp(-x[mine] @ refit))
        step = 1 / (1 + np.exp(-x[mine] @ (beta - moved)))
        assert np.abs(full - step).max() < 0.02


@pytest.mark.soak
def test_the_interval_is_as_wide_as_the_spread_over_data_sets() -> None:
    found = [
        price_matching.excess(
            *simulated_entries.entries(600, seed=s, edge=0.0, net=False), resamples=199, seed=s
        )
        for s in range(60)
    ]
    spread = np.std([f.edge.estimate for f in found if f])
    reported = np.mean([(f.edge.upper - f.edge.lower) / 3.92 for f in found if f])
    assert 0.75 < reported / spread < 1.35


def test_the_pool_has_one_print_per_market_and_is_the_same_for_a_lake(tmp_path: Path) -> None:
    tape, markets = kl.synth.martingale(n_markets=600, seed=7)
    lake = Lake.create(tmp_path / "lake")
    lake.append(tape, markets)
    stored = lake.read()
    fires = kl.signals.rlm(stored, min_trades=8, min_drop=2)

    def bought(some: pl.DataFrame) -> pl.DataFrame:
        return enter(some, stored, markets, extremes=True)

    pool = price_matching.pool(stored, fires, bought, seed=3)
    assert pool["ticker"].n_unique() == pool.height == 600 and (pool["side"].cast(pl.String) == "no").all()
    assert price_matching.pool(lake, fires, bought, seed=3).equals(pool)
    assert not price_matching.pool(stored, fires, bought, seed=4).equals(pool)
    # Every print is equally likely, so positions in their market's life are uniform.
    place = stored.with_row_index("row").with_columns(
        k=pl.int_range(pl.len()).over("ticker") / (pl.len().over("ticker") - 1), n=pl.len().over("ticker")
    ).filter(pl.col("n") > 20, pl.col("row").is_in(pool["fire"].implode()))  # fmt: skip
    assert abs(place["k"].mean() - 0.5) < 4 * 0.29 / np.sqrt(place.height)  # type: ignore[operator]


def test_too_few_entries_give_no_excess() -> None:
    signal, pool = simulated_entries.entries(100, seed=1)
    assert price_matching.excess(signal, pool.head(49)) is None
    assert price_matching.excess(signal.head(1), pool) is None
    with pytest.raises(EdgeError):
        price_matching.excess(signal.drop("event"), pool)


def test_buckets_and_calibration_cover_all_fills() -> None:
    signal, pool = simulated_entries.entries(900, seed=2, edge=4.0)
    frame, over, positive, compared = price_matching.buckets(signal, pool)
    assert frame["n"].sum() == 900 and (frame["high"] - frame["low"] == 5).all()
    assert positive == (frame["excess"] > 0).sum() and compared == frame["excess"].is_not_null().sum()
    assert over.lower < over.estimate < over.upper
    table = price_matching.calibration(signal, pool)
    assert set(table["source"]) == {"signal", "baseline"} and table["n"].sum() == 1800
    assert (table["lower"] <= table["win"] + 1e-9).all() and (table["win"] <= table["upper"] + 1e-9).all()
    assert (table["break_even"] > table["price"]).all()
