"""Synthetic markets are fair unless an edge is planted, and the same seed gives the same markets."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from kalshilab.errors import SignalError
from kalshilab.signals import rlm
from kalshilab.tape import check_markets, check_tape
from kalshilab.tape.synth import martingale


def edge_at(fires: pl.DataFrame, markets: pl.DataFrame) -> tuple[float, float, int]:
    """Return the mean edge of NO at the fires' prices in cents, its standard error, and the number of fires."""
    paid = fires.join(markets.select("ticker", "settlement"), on="ticker")
    gain = (paid["price"].cast(pl.Float64) - paid["settlement"]) / 100
    return float(gain.mean()), float(gain.std()) / np.sqrt(len(gain)), len(gain)


@pytest.mark.parametrize("kind", ["single", "ladder", "mutex"])
def test_a_random_print_of_each_market_is_fair(kind: str) -> None:
    tape, markets = martingale(8_000, seed=5, kind=kind)
    check_tape(tape)
    check_markets(markets)
    drawn = tape.sample(fraction=1.0, shuffle=True, seed=0).unique("ticker", keep="first")
    events = markets.unique("event", keep="first").select("ticker")
    mean, error, _ = edge_at(drawn.join(events, on="ticker"), markets)
    assert abs(mean) < 3.5 * error


def test_fires_are_fair_and_show_a_planted_edge() -> None:
    tape, fair = martingale(40_000, seed=11)
    again, planted = martingale(40_000, seed=11, edge=8.0)
    assert tape.equals(again), "an edge changes outcomes, not prints"
    fires = rlm(tape)
    mean, error, n = edge_at(fires, fair)
    assert n > 1_000
    # YES takers print the ask, half a spread above the fair price: NO seems to have an edge of up to a cent.
    assert -3 * error < mean < 1.0 + 3 * error
    found, _, _ = edge_at(fires, planted)
    # Where YES is worth less than the edge, the edge is its whole value.
    possible = float((fires["price"] / 100).clip(upper_bound=8.0).mean())
    assert 5.0 < possible < 8.0
    assert found - mean == pytest.approx(possible, abs=1.2)


def test_ladders_are_nested_and_mutex_legs_exclusive() -> None:
    _, ladder = martingale(800, seed=2, kind="ladder")
    legs = (
        ladder.sort("event", "ticker")
        .group_by("event", maintain_order=True)
        .agg((pl.col("result") == "yes").alias("y"))
    )
    assert all(row == sorted(row, reverse=True) for row in legs["y"].to_list()), "nested"
    _, mutex = martingale(600, seed=2, kind="mutex")
    assert mutex.group_by("event").agg((pl.col("result") == "yes").sum())["result"].unique().to_list() == [1]


def test_a_seed_determines_the_tape() -> None:
    one, two, other = (martingale(200, seed=s) for s in (1, 1, 2))
    assert one[0].equals(two[0]) and one[1].equals(two[1])
    assert not one[0].equals(other[0])


@pytest.mark.parametrize("bad", [{"kind": "triple"}, {"n_markets": 0}])
def test_bad_arguments_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(SignalError):
        martingale(**bad)
