"""Simulated entries: the planted edge, the costs and the joint distribution are as specified."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from kalshilab.edge.schema import ENTRIES_SCHEMA, check_entries, settled
from kalshilab.edge.stats import simulated_entries
from kalshilab.errors import EdgeError


def mean_and_error(frame: pl.DataFrame, what: str = "pnl") -> tuple[float, float]:
    """Return the mean over events of the event's mean, and its standard error, in cents."""
    of = frame.group_by("event").agg((100 * pl.col(what)).mean()).to_series(1).to_numpy()
    return float(of.mean()), float(of.std() / np.sqrt(len(of)))


def test_a_pandas_frame_is_named_in_the_error() -> None:
    with pytest.raises(
        EdgeError, match=r"must be a polars DataFrame as returned by kl.edge.enter, got pandas.DataFrame"
    ):
        check_entries(simulated_entries.entries(10, seed=1)[0].to_pandas())


@pytest.mark.parametrize("kind", simulated_entries.KINDS)
def test_signal_and_pool_are_valid_entries(kind: simulated_entries.Kind) -> None:
    signal, pool = simulated_entries.entries(60, kind=kind, fill_rate=0.7, spread_cents=2.0, seed=4)
    for frame in (signal, pool):
        assert check_entries(frame) is frame
        assert frame.schema == ENTRIES_SCHEMA
        assert frame["ts"].is_sorted() and settled(frame).height == frame.height
        assert frame["ticker"].is_unique().all()
        assert frame["exclusive"].all() == (kind == "mutex")
        assert (frame["settled_ts"] > frame["entry_ts"].drop_nulls().max()).any()
        left = frame.filter(~pl.col("filled"))
        assert 0 < left.height < frame.height
        assert left["pnl"].eq(0).all()
        assert left["cost"].null_count() == left["entry_ts"].null_count() == left.height
    assert not set(signal["event"]) & set(pool["event"])


@pytest.mark.parametrize("kind", simulated_entries.KINDS)
@pytest.mark.parametrize("net", [True, False])
def test_the_mean_profit_is_the_planted_edge(kind: simulated_entries.Kind, net: bool) -> None:
    signal, pool = simulated_entries.entries(8_000, kind=kind, edge=4.0, net=net, spread_cents=2.0, seed=11)
    over = signal if net else signal.with_columns(pnl=pl.col("value") - pl.col("mid"))
    mean, error = mean_and_error(over)
    assert abs(mean - 4.0) < 3.5 * error
    fair, error = mean_and_error(pool.with_columns(pnl=pl.col("value") - pl.col("mid")))
    assert abs(fair) < 3.5 * error


def test_costs_are_half_the_spread_and_the_fee() -> None:
    signal, _ = simulated_entries.entries(500, edge=0, net=False, spread_cents=3.0, seed=2)
    paid = signal["price"].to_numpy()
    assert np.allclose(paid - signal["mid"].to_numpy(), 0.015)
    assert np.allclose(signal["fee"].to_numpy(), 0.07 * paid * (1 - paid))
    free, _ = simulated_entries.entries(500, fee=False, seed=2)
    assert np.allclose(free["cost"].to_numpy(), free["mid"].to_numpy())
    printed = signal["fired_at"].to_numpy() - signal["mid"].to_numpy()
    assert set(np.round(printed, 9)) == {-0.015, 0.015}


def test_a_favourite_bias_is_in_signal_and_pool() -> None:
    signal, pool = simulated_entries.entries(
        20_000, edge=0, net=False, flb_cents=6.0, fee=False, price=(0.55, 0.9), pool_events=40_000, seed=5
    )
    assert pool["mid"].min() < 0.06 and pool["mid"].max() > 0.92  # type: ignore[operator]
    low, high = (pool.filter(pl.col("mid") < 0.55), pool.filter(pl.col("mid").is_between(0.55, 0.9)))
    for frame, bias in ((signal, 6.0), (high, 6.0), (low, 0.0)):
        mean, error = mean_and_error(frame)
        assert abs(mean - bias) < 3.5 * error


def test_legs_of_a_ladder_are_nested() -> None:
    signal, _ = simulated_entries.entries(400, kind="ladder", legs=6, edge=0, fee=False, seed=3)
    for _, legs in signal.sort("cost").group_by("event"):
        won = legs.sort("cost")["value"].to_numpy()
        assert (np.diff(won) >= 0).all()


def test_at_most_one_exclusive_leg_settles_yes() -> None:
    signal, pool = simulated_entries.entries(3_000, kind="mutex", edge=0, net=False, seed=3)
    for frame in (signal, pool):
        yes = frame.group_by("event").agg(yes=(1 - pl.col("value")).sum())["yes"].to_numpy()
        assert set(yes) == {0.0, 1.0}
        assert abs(yes.mean() - 0.95) < 4 * np.sqrt(0.05 * 0.95 / 3_000)


@pytest.mark.parametrize("kind", simulated_entries.KINDS)
def test_events_of_one_day_share_a_shock(kind: simulated_entries.Kind) -> None:
    def spread_of_days(rho: float) -> float:
        signal, pool = simulated_entries.entries(
            3_000, kind=kind, edge=0, net=False, rho_day=rho, price=(0.5, 0.6), days=100, seed=8
        )
        both = pl.concat([signal, pool]).with_columns(
            day=pl.col("ts").dt.date(), z=pl.col("value") - pl.col("mid")
        )
        return float(both.group_by("day").agg(pl.col("z").mean())["z"].to_numpy().std())

    assert spread_of_days(0.3) > 1.5 * spread_of_days(0.0)


@given(
    kind=st.sampled_from(simulated_entries.KINDS),
    n=st.integers(1, 40),
    days=st.integers(1, 60),
    spread=st.floats(0, 4),
    seed=st.integers(0, 2**32),
)
def test_the_columns_of_each_row_are_consistent(
    kind: simulated_entries.Kind, n: int, days: int, spread: float, seed: int
) -> None:
    signal, pool = simulated_entries.entries(
        n, kind=kind, days=days, spread_cents=spread, fill_rate=0.9, seed=seed
    )
    again, _ = simulated_entries.entries(
        n, kind=kind, days=days, spread_cents=spread, fill_rate=0.9, seed=seed
    )
    assert_frame_equal(signal, again)
    for frame in (signal, pool):
        hit = frame.filter("filled")
        assert np.allclose(hit["pnl"].to_numpy(), (hit["value"] - hit["price"] - hit["fee"]).to_numpy())
        assert np.allclose(hit["cost"].to_numpy(), (hit["price"] + hit["fee"]).to_numpy())
        assert frame["value"].is_in([0.0, 1.0]).all()
        assert frame["mid"].is_between(0, 1).all()
        assert frame["ts"].dt.date().n_unique() <= days
        assert frame.group_by("event").agg(pl.col("ts").dt.date().n_unique())["ts"].max() == 1


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("one of single, ladder, mutex", {"kind": "nested"}),
        ("several legs", {"legs": 3}),
        ("n_events must be at least 1, got 0", {"n_events": 0}),
        ("days must be at least 1, got 0", {"days": 0}),
        ("rho_day", {"rho_day": 1.0}),
        ("fill_rate", {"fill_rate": 1.2}),
        ("spread_cents must be at least 0", {"spread_cents": -1.0}),
        ("two rising dollar values", {"price": (0.9, 0.5)}),
        ("lower the edge", {"edge": 20.0}),
        ("add up to at most 1", {"kind": "mutex", "edge": -12.0}),
    ],
)
def test_invalid_arguments_are_refused(message: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(EdgeError, match=message):
        simulated_entries.entries(**{"n_events": 50, **arguments})
