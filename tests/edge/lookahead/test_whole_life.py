"""Tests of the forbidden method: on fair markets it has the published edge and passes its own checks."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kalshilab as kl
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.lookahead.whole_life import checklist, last_print_edge, whole_life_edge
from kalshilab.edge.robustness.perturbations import interval
from kalshilab.errors import EdgeError

from ..entries.test_rules import markets_of, tape_of


def worlds(sets: int, markets: int, first: int = 1) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """Return tapes and markets of fair worlds, with seeds from `first` on."""
    return [kl.synth.martingale(n_markets=markets, seed=first + s) for s in range(sets)]


def as_of(tape: pl.DataFrame, markets: pl.DataFrame, rule: str) -> tuple[float, float, int]:
    """Return the edge in cents of the published rule's first fires as of the fire, its standard error and their number."""
    fires = kl.signals.rlm(tape, yes_threshold=0.70, min_trades=5, min_drop=1)
    entries = enter(fires, tape, markets, rule=rule, extremes=True, half_spread_cents=1.0)
    found = interval(entries)
    return found.estimate, (found.upper - found.lower) / 3.92, found.n


def test_t1_fair_markets_have_the_published_edge() -> None:
    tape, markets = worlds(1, 30_000)[0]
    whole = whole_life_edge(tape, markets)
    assert 14 < whole.edge < 22 and whole.excess > 10
    assert whole.buckets_positive >= 0.8 * whole.buckets and whole.z > 20
    mid, se, _ = as_of(tape, markets, "mid")
    assert abs(mid) < 3 * se + 0.1
    assert as_of(tape, markets, "next_print")[0] < 0
    # The published system had such an edge when it entered at the last print instead.
    assert -1 < last_print_edge(tape, markets, 0.70, 25, 2).edge < 5


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_t1_holds_at_full_size() -> None:
    rows = []
    for tape, markets in worlds(10, 72_791):
        whole = whole_life_edge(tape, markets)
        mid, se, n = as_of(tape, markets, "mid")
        net, _, _ = as_of(tape, markets, "next_print")
        rows.append((whole.edge, whole.excess, whole.buckets_positive, whole.buckets, mid, se, net, n))
    table = np.array(rows)
    print(table.round(2))
    mean = table.mean(0)
    print("mean", mean.round(2))
    assert ((table[:, 0] > 14) & (table[:, 0] < 22) & (table[:, 1] > 10)).all()
    pooled = float(np.sqrt((table[:, 5] ** 2).sum()) / len(table))
    print("as of the fire at mid", mean[4], "s.e.", pooled)
    assert abs(mean[4]) <= 3 * pooled and mean[6] < 0


def test_t2_the_published_checks_pass_on_fair_markets() -> None:
    passed = [checklist(*world).passed for world in worlds(12, 12_000)]
    # At a rate of 99 %, fewer than 11 of 12 has probability 0.006.
    assert sum(passed) >= 11


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_t2_holds_at_full_size() -> None:
    theirs = ours = 0
    for number in range(200):
        tape, markets = worlds(1, 12_000, first=1000 + number)[0]
        theirs += checklist(tape, markets).passed
        fires = kl.signals.rlm(tape, yes_threshold=0.70, min_trades=5, min_drop=1)
        found = interval(enter(fires, tape, markets))
        ours += found.lower > 0
    print("published checklist", theirs, "of 200; net interval above 0", ours)
    assert theirs >= 190 and ours == 0


def test_t13_the_worst_bias_follows_the_formula() -> None:
    """The bias E[A − Y | Y = 0] of the average price A equals p0 (1 − V)."""
    rng = np.random.default_rng(3)
    n, prints, total = 60_000, 30, 4.0
    step = total / prints
    # The measured bias and the formula in the same worlds, from long shots to favourites.
    for p0 in (0.15, 0.35, 0.55, 0.75):
        y = rng.random(n) < p0
        logit = np.log(p0 / (1 - p0)) + np.cumsum(
            np.where(y, 0.5, -0.5)[:, None] * step + np.sqrt(step) * rng.standard_normal((n, prints)), axis=1
        )
        path = 1 / (1 + np.exp(-logit))
        revealed = (path.var(axis=0) / (p0 * (1 - p0))).mean()
        assert abs(path[~y].mean() - p0 * (1 - revealed)) < 0.005
        assert 0.05 < path[~y].mean() < p0


def test_a_small_tape_matches_a_calculation_by_hand() -> None:
    tape = tape_of([(0, "A-1", 60, "yes"), (1, "A-1", 50, "yes"), (2, "A-1", 40, "yes"), (3, "B-1", 40, "yes"), (4, "B-1", 60, "yes"),
                    (5, "C-1", 60, "yes"), (6, "C-1", 50, "no"), (7, "D-1", 60, "yes"), (8, "D-1", 50, "yes")])  # fmt: skip
    markets = markets_of({"A-1": "no", "B-1": "no", "C-1": "no", "D-1": None})
    found = whole_life_edge(tape, markets, yes_threshold=0.7, min_trades=2)
    assert (found.n, found.win_rate, found.price, found.edge) == (
        1,
        100.0,
        pytest.approx(50.0),
        pytest.approx(50.0),
    )
    assert last_print_edge(tape, markets, 0.7, 2).price == pytest.approx(60.0)
    assert (
        whole_life_edge(tape, markets, 0.7, 2, min_drop=20).n == 1
        and whole_life_edge(tape, markets, 0.7, 2, min_drop=20.1).n == 0
    )
    assert whole_life_edge(tape, markets, 0.4, 2).n == 2
    assert np.isnan(whole_life_edge(tape, markets, 0.7, 9).edge)
    with pytest.raises(EdgeError, match="no market is settled"):
        whole_life_edge(tape, markets_of({"A-1": None}))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.5, 0.65, 0.8]),
    st.integers(1, 12),
    st.sampled_from([0, 1, 5, 12.5]),
)
def test_a_plain_loop_gives_the_same_edge(seed: int, threshold: float, least: int, drop: float) -> None:
    tape, markets = kl.synth.martingale(n_markets=60, seed=seed)
    won = dict(markets.select("ticker", 1 - pl.col("settlement") / 10_000).iter_rows())
    profits = []
    for (ticker,), part in tape.group_by(["ticker"]):
        prices = part.sort("ts")["price"].to_list()
        share = (part["taker"] == "yes").mean()
        fell = prices[0] - prices[-1]
        if share > threshold and len(prices) >= least and (fell >= drop * 100 if drop else fell > 0):
            profits.append(won[ticker] - 1 + np.mean(prices) / 10_000)
    found = whole_life_edge(tape, markets, threshold, least, drop)
    assert found.n == len(profits)
    if profits:
        assert found.edge == pytest.approx(100 * np.mean(profits))
