"""Cumulative profit and the range of worlds without an edge."""

from __future__ import annotations

import polars as pl
import pytest

from kalshilab.edge.report.equity import equity
from kalshilab.edge.schema import settled
from kalshilab.edge.stats import simulated_entries


def test_the_total_is_the_sum_of_event_means_in_order_of_time() -> None:
    entries, _ = simulated_entries.entries(300, kind="ladder", edge=3.0, seed=4)
    frame = equity(entries)
    means = settled(entries).group_by("event").agg(pl.col("pnl").mean() * 100)["pnl"]
    assert frame.height == 300 and frame["ts"].is_sorted()
    assert frame["total"][-1] == pytest.approx(means.sum())
    assert (frame["null_low"] <= frame["null_mid"]).all() and (frame["null_mid"] <= frame["null_high"]).all()
    assert equity(entries).equals(frame)


def test_a_fair_world_stays_in_the_null_range_and_an_edge_leaves_it() -> None:
    outside = 0
    for seed in range(20):
        entries, _ = simulated_entries.entries(200, edge=0.0, seed=seed)
        last = equity(entries, seed=seed).row(-1, named=True)
        outside += not last["null_low"] <= last["total"] <= last["null_high"]
    # One in ten on average: 7 of 20 or more has probability 0.002.
    assert outside < 7
    entries, _ = simulated_entries.entries(600, edge=8.0, seed=1)
    last = equity(entries).row(-1, named=True)
    assert last["total"] > last["null_high"]


def test_events_in_the_lockbox_are_marked_and_no_entries_give_an_empty_frame() -> None:
    entries, _ = simulated_entries.entries(50, seed=2)
    middle = equity(entries)["ts"][25]
    marked = equity(entries, lockbox=middle)
    assert marked.filter("lockbox")["ts"].min() == middle and not marked["lockbox"][24]
    assert equity(entries.head(0)).is_empty()
