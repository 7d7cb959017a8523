"""The five live states: the evidence for each, and the rate of false alarms of decay."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from kalshilab.edge.live.monitor import STATES, Cusum, LiveState, monitor
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.stats.sequential import EProcess, batch_mean
from kalshilab.errors import EdgeError

START = datetime(2025, 1, 1, tzinfo=UTC)


def entries_of(
    seed: int, edges: Any, *, a_day: int = 4, held: tuple[float, float] = (0.1, 0.9), series: str = "S"
) -> pl.DataFrame:
    """Simulate independent entries, `a_day` per day with that day's true edge in cents; `held` is in days."""
    rng = np.random.default_rng(seed)
    n = len(edges) * a_day
    cost = rng.uniform(0.55, 0.90, n)
    value = (rng.random(n) < cost + np.repeat(edges, a_day) / 100).astype(float)
    day = np.datetime64("2025-01-01", "us") + np.repeat(np.arange(len(edges)), a_day) * np.timedelta64(1, "D")
    at = day + rng.integers(0, 7_200_000_000, n).astype("timedelta64[us]")
    done = at + (rng.uniform(*held, n) * 86_400e6).astype("timedelta64[us]")
    names = [f"{series}{i}" for i in range(n)]
    columns = {
        "fire": np.arange(n), "ts": at, "ticker": names, "event": names, "series": [series] * n,
        "category": ["C"] * n, "side": ["no"] * n, "fired_at": cost, "mid": cost, "filled": [True] * n,
        "entry_ts": at, "price": cost, "fee": np.zeros(n), "cost": cost, "value": value, "settled_ts": done,
        "pnl": value - cost, "exclusive": [False] * n,
    }  # fmt: skip
    frame = pl.DataFrame(columns)
    times = pl.col("ts", "entry_ts", "settled_ts").dt.replace_time_zone("UTC")
    return frame.with_columns(times).cast(dict(ENTRIES_SCHEMA))


def states(edges: Any, claim: float, runs: int, **more: Any) -> Counter[str]:
    return Counter(monitor(entries_of(seed, edges, **more), claim).state for seed in range(runs))


@pytest.mark.parametrize(
    ("edge", "days", "claim", "state"),
    [
        (5.0, 20, 3.0, "ACCRUING"),
        (5.0, 600, 3.0, "LIVE_CONFIRMED"),
        (-2.2, 300, 3.0, "LIVE_REFUTED"),
        (3.0, 1000, 8.0, "LIVE_WEAKER"),
    ],
)
def test_each_state_is_reached_in_its_simulation(edge: float, days: int, claim: float, state: str) -> None:
    got = states(np.full(days, edge), claim, 6)
    assert got[state] >= 5, got


def test_an_edge_that_ends_is_reported_as_decayed() -> None:
    ended = np.r_[np.full(400, 5.0), np.full(300, -3.0)]
    assert states(ended, 3.0, 6)["DECAYED"] >= 5
    got = monitor(entries_of(0, ended), 3.0)
    assert got.decayed_on is not None and got.decayed_on > (START + timedelta(days=400)).date()
    assert got.criterion().passed is False and got.criterion().label == "DECAYED"
    assert str(got.decayed_on) in got.reason


def test_an_edge_that_recovers_is_confirmed_and_may_decay_again() -> None:
    edges = np.r_[np.full(300, 6.0), np.full(300, -4.0), np.full(400, 7.0), np.full(400, -4.0)]
    entries = entries_of(1, edges, a_day=8)
    seen = [monitor(entries, 3.0, as_of=START + timedelta(days=d)).state for d in (300, 600, 1000, 1400)]
    assert seen == ["LIVE_CONFIRMED", "DECAYED", "LIVE_CONFIRMED", "DECAYED"]


def test_a_smaller_constant_edge_is_not_reported_as_decayed() -> None:
    assert states(np.full(1000, 2.5), 8.0, 8)["DECAYED"] <= 1
    assert states(np.full(800, 4.0), 3.0, 8)["DECAYED"] == 0


def test_false_alarms_of_decay_are_rarer_than_the_bound() -> None:
    rng = np.random.default_rng(3)
    batches, runs, alarms = 400, 100, 0
    for _ in range(runs):
        cusum = Cusum(arl=1000)
        cost = rng.uniform(0.55, 0.90, (batches, 4))
        for x in ((rng.random((batches, 4)) < cost + 0.03) - cost).mean(1):
            cusum.update(float(x), 3.0)
        alarms += cusum.alarmed
    # T / arl = 40 % is the bound.
    assert alarms / runs <= 0.15


def test_the_e_values_are_those_of_the_two_processes() -> None:
    entries = entries_of(4, np.full(60, 3.0))
    got = monitor(entries, 5.0)
    up, against = EProcess(), EProcess(claim=5.0)
    for x in entries.group_by(pl.col("entry_ts").dt.date(), maintain_order=True).agg("pnl")["pnl"]:
        up.update(batch_mean(x.to_numpy()))
        against.update(batch_mean(x.to_numpy()))
    assert got.e0 == pytest.approx(up.max) and got.e1 == pytest.approx(against.max)
    assert (got.streams, got.batches, got.n, got.waiting, got.adaptive) == (1, 60, 240, 0, 0)
    assert got.edge == pytest.approx(100 * entries["pnl"].mean())  # type: ignore[operator]
    assert got.frame.columns[:6] == ["day", "n", "log_e0", "log_e1", "cs_low", "cs_high"]
    last = got.frame.row(-1, named=True)
    assert last["log_e0"] == pytest.approx(up.log_e) and last["n"] == 240
    assert got.frame["day"].is_unique().all() and got.frame["cs_low"].is_sorted()
    assert got.windows["batches"].max() == 60 and got.windows["start"][0] == START.date()


def test_an_earlier_state_is_a_prefix_of_a_later_one() -> None:
    entries = entries_of(5, np.full(120, 4.0), held=(0.5, 3.5))
    whole = monitor(entries, 3.0, streams=5)
    early = monitor(entries, 3.0, streams=5, as_of=START + timedelta(days=60))
    # Later entries do not change earlier rows.
    assert whole.frame.head(len(early.frame) - 1).equals(early.frame.head(-1))
    assert early.waiting > 0 and early.n < whole.n


def test_overlapping_batches_get_separate_streams() -> None:
    entries = entries_of(6, np.full(200, 4.0), held=(2.0, 4.5))
    got = monitor(entries, 3.0)
    assert got.streams == 5
    with pytest.raises(EdgeError, match="pass streams=5"):
        monitor(entries, 3.0, streams=2)
    assert monitor(entries, 3.0, horizon_days=6).streams == 7


def test_long_holds_have_separate_streams() -> None:
    quick = entries_of(7, np.full(150, 5.0))
    long = entries_of(8, np.full(150, 5.0), a_day=1, held=(25.0, 29.0), series="L")
    both = pl.concat([quick, long])
    assert monitor(both, 3.0).streams >= 27
    apart = monitor(both, 3.0, horizon_days=1, series_horizon_days={"L": 30})
    assert apart.streams == 2 + 31 and apart.batches == 300 and apart.overdue == 0
    # A null series is treated like any other series.
    nameless = both.with_columns(series=pl.when(pl.col("series") == "L").then(pl.col("series")))
    assert monitor(nameless, 3.0, horizon_days=1, series_horizon_days={"L": 30}).n == len(both)


def test_overdue_entries_weaken_both_conclusions() -> None:
    entries = entries_of(9, np.full(400, 5.0))
    stuck = entries.with_columns(
        pl.when(pl.col("fire") % 10 == 0).then(None).otherwise(pl.col(name)).alias(name)
        for name in ("value", "pnl", "settled_ts")
    )
    waits, closed, whole = (
        monitor(stuck, 3.0),
        monitor(stuck, 3.0, horizon_days=0),
        monitor(entries, 3.0, horizon_days=0),
    )
    assert waits.waiting > 600 and closed.waiting <= 4 and closed.overdue >= 159
    assert closed.e0 < whole.e0 and closed.e1 <= whole.e1
    assert closed.cs_low < whole.cs_low and closed.cs_high > whole.cs_high


def test_accruing_states_how_many_entries_are_needed() -> None:
    got = monitor(entries_of(10, np.full(30, 3.0)), 5.0)
    assert got.state == "ACCRUING" and got.needed is not None and 400 < got.needed < 1500
    assert f"{got.needed:,} needed" in got.reason and got.criterion().passed is None
    assert monitor(entries_of(10, np.full(5, 3.0)), 5.0).needed is None
    assert monitor(entries_of(10, np.full(30, 3.0)), -1.0).needed is None


def test_needed_is_close_to_the_entries_that_simulations_take() -> None:
    taken = []
    for seed in range(20):
        frame = monitor(entries_of(seed, np.full(500, 5.0)), 5.0).frame
        crossed = frame.filter(pl.col("log_e0") >= math.log(20))
        taken.append(crossed["n"][0] if len(crossed) else math.inf)
    said = monitor(entries_of(50, np.full(100, 5.0)), 5.0).needed
    assert said is not None and np.quantile(taken, 0.3) < said < 2 * np.median(taken)


def test_without_entries_the_state_is_accruing() -> None:
    got = monitor(entries_of(0, np.full(1, 5.0)).head(0), 3.0)
    assert got.state == "ACCRUING" and got.n == 0 and math.isnan(got.edge) and got.frame.is_empty()
    assert (got.cs_low, got.cs_high, got.e0, got.sprt) == (-100.0, 100.0, 1.0, None)


def test_the_sprt_is_reported() -> None:
    assert monitor(entries_of(11, np.full(200, 6.0)), 5.0).sprt == "edge"
    assert monitor(entries_of(11, np.full(200, -3.0)), 5.0).sprt == "none"
    assert monitor(entries_of(11, np.full(200, -3.0)), 5.0, as_of=START + timedelta(days=2)).sprt is None


def test_the_state_is_shown_in_one_line() -> None:
    got = monitor(entries_of(0, np.full(300, 5.0)), 3.0)
    assert isinstance(got, LiveState) and got.state in STATES
    assert repr(got).startswith(f"<LiveState {got.state}: ")
    line = got.criterion()
    assert line.number == 13 and line.name == "live" and line.label == got.state


@pytest.mark.parametrize(
    "bad",
    [
        lambda e: monitor(e, 3.0, alpha=0),
        lambda e: monitor(e, 3.0, window_days=0),
        lambda e: monitor(e, 3.0, arl=1),
        lambda e: monitor(e, 3.0, horizon_days=-1),
        lambda e: monitor(e, 3.0, streams=0),
        lambda e: monitor(e, 200.0),
        lambda e: monitor(e.drop("cost"), 3.0),
    ],
)
def test_invalid_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(EdgeError):
        bad(entries_of(0, np.full(3, 1.0)))
