"""Perturbations: concentration, blocks of time, latency, neighbouring settings and categories."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kalshilab as kl
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.robustness import perturbations
from kalshilab.edge.stats import simulated_entries
from kalshilab.errors import EdgeError, SignalError


def entries_of(profits: list[float], *, days: int = 1, categories: int = 1) -> pl.DataFrame:
    """Return entries of one event each, `days` apart, with these profits in dollars."""
    base, _ = simulated_entries.entries(max(len(profits), 1), seed=1)
    begin = datetime(2025, 1, 1, 12, tzinfo=UTC)
    return base.head(len(profits)).with_columns(
        pl.Series("event", [f"E{i}" for i in range(len(profits))], dtype=pl.String),
        pl.Series("pnl", profits, dtype=pl.Float64),
        pl.Series("category", [f"c{i % categories}" for i in range(len(profits))], dtype=pl.String),
        *(pl.Series(c, [begin + timedelta(days=i * days) for i in range(len(profits))], dtype=pl.Datetime("us", "UTC")) for c in ("ts", "entry_ts")),
    )  # fmt: skip


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=300))
def test_concentration_agrees_with_a_direct_computation(profits: list[float]) -> None:
    found = perturbations.concentration(entries_of(profits))
    cents = sorted((100 * p for p in profits), reverse=True)
    top = max(1, round(0.01 * len(cents)))
    assert found.without_top == pytest.approx(np.mean(cents[top:]), abs=1e-9)
    if sum(cents) > 1e-6:
        assert found.top_share == pytest.approx(cents[0] / sum(cents))
    else:
        assert found.top_share == math.inf or sum(cents) > 0
    assert found.without_category == {}
    assert found.curve["edge"][0] == pytest.approx(np.mean(cents), abs=1e-9)
    assert (found.curve["edge"].diff().drop_nulls() <= 1e-9).all()


def test_concentration_leaves_out_each_category_in_turn() -> None:
    found = perturbations.concentration(entries_of([0.1, -0.2, 0.3, -0.4], categories=2))
    assert found.without_category == pytest.approx({"c0": -30.0, "c1": 20.0})
    assert math.isnan(perturbations.concentration(entries_of([])).without_top)


def test_blocks_have_equal_numbers_of_days_with_entries() -> None:
    for n, count in ((10, 1), (59, 1), (60, 2), (119, 3), (120, 4), (400, 4)):
        found = perturbations.blocks(entries_of([0.01] * n))
        assert found.frame.height == count and found.frame["n_days"].sum() == n
        assert found.edges == pytest.approx([1.0] * count)
    halves = perturbations.blocks(entries_of([0.1] * 60 + [-0.1] * 60, days=9))
    assert halves.edges == pytest.approx([10, 10, -10, -10])
    assert perturbations.blocks(entries_of([])).edges == []


def test_the_half_life_is_interpolated_on_the_latency_ladder() -> None:
    tape, markets = kl.synth.martingale(n_markets=1_500, seed=3)
    fires = kl.signals.rlm(tape, min_trades=8, min_drop=2)
    ladder = perturbations.latency(fires, lambda f, **how: enter(f, tape, markets, **how))
    assert ladder["latency_s"].to_list() == list(perturbations.LADDER) and ladder["n"].n_unique() == 1
    assert ladder["fill_rate"][-1] < ladder["fill_rate"][0]

    def frame(*edges: float) -> pl.DataFrame:
        return pl.DataFrame({"latency_s": [0.0, 1.0, 3.0][: len(edges)], "edge": edges})

    assert perturbations.half_life(frame(4.0, 2.0, 1.0)) == pytest.approx(1.0)
    assert perturbations.half_life(frame(4.0, 3.0, 1.0)) == pytest.approx(math.expm1(1.5 * math.log(2)))
    assert (
        perturbations.half_life(frame(4.0, 3.0, 2.1)) is None
        and perturbations.half_life(frame(-1.0, 0.0)) is None
    )


def test_neighbours_are_one_step_away_and_valid() -> None:
    near = [
        s.parameters
        for s in perturbations.neighbours(kl.signals.Rlm(yes_threshold=0.95, min_trades=25, min_drop=5))
    ]
    assert {p["min_trades"] for p in near} == {23, 25, 27} and {p["min_drop"] for p in near} == {4, 5, 6}
    # 1.045 is not a fraction, so it is left out.
    assert {p["yes_threshold"] for p in near} == {0.855, 0.95}
    assert all(sum(p[k] != v for k, v in near[0].items()) <= 2 for p in near)


def test_cells_scanned_together_equal_cells_run_alone() -> None:
    tape, markets = kl.synth.martingale(n_markets=800, seed=4)
    signal = kl.signals.Rlm(min_trades=8, min_drop=2)

    def bought(fires: pl.DataFrame) -> pl.DataFrame:
        return enter(fires, tape, markets)

    cells = perturbations.grid(signal, tape, bought, {"min_trades": [6, 8, 10], "min_drop": [2, 4]})
    assert len(cells) == 6 and cells[0].parameters == signal.parameters
    for cell in cells:
        assert cell.entries.equals(bought(type(signal)(**cell.parameters).run(tape)))
    table = perturbations.summary(cells)
    assert (
        table.columns == ["min_trades", "min_drop", "n", "edge", "lower", "upper", "p"] and table.height == 6
    )
    by_two = perturbations.grid(
        signal, tape, bought, {"min_trades": [6, 8, 10], "min_drop": [2, 4]}, executor=2
    )
    assert all(a.entries.equals(b.entries) for a, b in zip(cells, by_two, strict=True))
    with pytest.raises(EdgeError, match="grid must name parameters of rlm"):
        perturbations.grid(signal, tape, bought, {"trades": [1]})
    with pytest.raises(SignalError):
        perturbations.grid(signal, tape, bought, {"yes_threshold": [7]})


def test_edges_are_grouped_by_category_and_month() -> None:
    found = perturbations.by_category(entries_of([0.1, 0.2, 0.3, 0.4], days=20, categories=2))
    assert found.columns == ["category", "month", "edge", "lower", "upper", "n_events"]
    assert found["n_events"].sum() == 4 and found["month"].dt.day().unique().to_list() == [1]
    assert found.filter(pl.col("category") == "c1")["edge"].to_list() == pytest.approx([20.0, 40.0])
