"""Anytime-valid tests: error rates in fair markets, speed of detection, overlapping and adaptive batches."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import ndtr

from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.stats.sequential import (
    LAMBDAS,
    ConfidenceSequence,
    EProcess,
    Sprt,
    batch_mean,
    day_batches,
    log_e,
    streams_needed,
)
from kalshilab.errors import EdgeError

LINE = math.log(20)
START = datetime(2025, 3, 1, tzinfo=UTC)
X = hnp.arrays(float, st.integers(1, 40), elements=st.floats(-1, 1))


def trades(rng: np.random.Generator, paths: int, n: int, edge: float, top: float = 0.90) -> Any:
    """Simulate profits of independent trades that win with cost + edge; costs are uniform from 55 c to `top`."""
    cost = rng.uniform(0.55, top, (paths, n))
    return (rng.random((paths, n)) < cost + edge / 100) - cost, cost


def first(crossed: Any) -> Any:
    """Return the index (from 1) at which each path first crossed, or infinity."""
    return np.where(crossed.any(1), crossed.argmax(1) + 1, np.inf)


def entry(
    day: float,
    event: str,
    pnl: float | None,
    held: float | None = 0.2,
    *,
    cost: float = 0.7,
    filled: bool = True,
) -> dict[str, Any]:
    at = START + timedelta(days=day)
    return {
        "fire": 0,
        "ts": at,
        "ticker": f"{event}-T",
        "event": event,
        "series": "S",
        "category": "C",
        "side": "no",
        "fired_at": cost,
        "mid": cost,
        "filled": filled,
        "entry_ts": at if filled else None,
        "price": cost if filled else None,
        "fee": 0.0 if filled else None,
        "cost": cost if filled else None,
        "value": None if pnl is None or not filled else pnl + cost,
        "settled_ts": None if held is None or not filled else at + timedelta(days=held),
        "pnl": pnl if filled else 0.0,
        "exclusive": False,
    }


def table(*rows: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(rows), schema=ENTRIES_SCHEMA)


# ---------------------------------------------------------------- the capital


@given(X, st.sampled_from([None, 0.0, 5.0, 17.38]))
def test_single_updates_equal_the_vectorised_path(x: Any, claim: float | None) -> None:
    test = EProcess(claim=claim)
    path = log_e(x, claim=claim)
    for value, at in zip(x, path, strict=True):
        test.update(value)
        assert test.log_e == pytest.approx(at, abs=1e-9)
    assert test.log_max == pytest.approx(max(0.0, path.max()), abs=1e-9)
    assert test.p == pytest.approx(min(1.0, math.exp(-test.log_max)))
    assert test.rejected == bool(test.log_max >= LINE)


@given(X, st.integers(1, 6))
def test_streams_are_separate_bets_with_one_threshold(x: Any, streams: int) -> None:
    test = EProcess(streams=streams)
    for value in x:
        test.update(value)
    apart = [log_e(x[s::streams])[-1] if len(x[s::streams]) else 0.0 for s in range(streams)]
    assert test.log_e == pytest.approx(max(apart) - math.log(streams), abs=1e-9)


def test_capital_is_the_mean_of_the_bets() -> None:
    x = [0.3, -0.7, 0.25]
    by_hand = np.mean([np.prod([1 + bet * v for v in x]) for bet in LAMBDAS])
    against = np.mean([np.prod([1 - bet * (v - 0.05) for v in x]) for bet in LAMBDAS])
    assert math.exp(log_e(x)[-1]) == pytest.approx(by_hand)
    assert math.exp(log_e(x, claim=5.0)[-1]) == pytest.approx(against)


def test_a_batch_weights_events_equally() -> None:
    assert batch_mean([0.2, 0.2, 0.2, -0.6], ["a", "a", "a", "b"]) == pytest.approx(-0.2)
    assert batch_mean([0.2, -0.6]) == pytest.approx(-0.2) and math.isnan(batch_mean([]))
    by_leg, by_event = EProcess(), EProcess()
    by_leg.update([0.2, 0.2, 0.2, -0.6])
    by_event.update([0.2, 0.2, 0.2, -0.6], ["a", "a", "a", "b"])
    assert by_leg.e == pytest.approx(1.0) and by_event.e < 0.95


def test_confirmed_and_refuted_belong_to_different_null_hypotheses() -> None:
    up, against = EProcess(), EProcess(claim=17.38)
    for _ in range(200):
        up.update([0.3, 0.3, -0.7, 0.3, 0.3])
        against.update([0.3, -0.7, 0.3, -0.7])
    assert up.confirmed and not up.refuted and up.max >= 20 and up.p == pytest.approx(1 / up.max)
    assert against.refuted and not against.confirmed
    assert "edge > 0" in repr(up) and "17.38" in repr(against)
    huge = EProcess()
    for _ in range(3000):
        huge.update(0.9)
    assert math.isfinite(huge.e) and huge.p < 1e-300


def test_each_stream_takes_its_batches_in_order_of_entry() -> None:
    test = EProcess(streams=2)
    test.update(0.5, batch=1)
    test.update(0.1, batch=0)
    test.update(0.1, batch=2)
    assert test.log_e == pytest.approx(log_e([0.5])[-1] - math.log(2))
    with pytest.raises(EdgeError, match="got batch 0 after batch 2"):
        test.update(0.1, batch=0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: EProcess(lambdas=()),
        lambda: EProcess(lambdas=(1.0,)),
        lambda: EProcess(streams=0),
        lambda: EProcess(alpha=0),
        lambda: EProcess(claim=-30),
        lambda: EProcess().update([]),
        lambda: EProcess().update(math.nan),
        lambda: EProcess().update(-30.0),
        lambda: EProcess().update([0.1, 0.2], ["a"]),
        lambda: ConfidenceSequence(alpha=1),
        lambda: ConfidenceSequence().update(30.0),
        lambda: ConfidenceSequence().update(math.nan),
        lambda: Sprt(0),
        lambda: Sprt(5, alpha=0.6),
        lambda: Sprt().update(1, 1.0),
        lambda: Sprt().update(2, 0.5),
        lambda: day_batches(table(entry(0, "a", 0.3)), horizon_days=-1),
        lambda: day_batches(table(entry(0, "a", 0.3, None))),
        lambda: day_batches(table(entry(0, "a", 0.3)).drop("pnl")),
    ],
)
def test_invalid_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(EdgeError):
        bad()


# ---------------------------------------------------------------- T9, T10: e-processes


def e_null(paths: int, n: int) -> dict[str, float]:
    """Return how often a fair market is confirmed (T9), and how often with one factor per leg of a ladder."""
    rng = np.random.default_rng(9)
    fair, _ = trades(rng, paths, n, 0.0)
    legs, events = 8, n // 8
    cost = np.sort(rng.uniform(0.55, 0.90, (paths, events, legs)), axis=-1)
    pnl = (rng.random((paths, events, 1)) < cost) - cost
    return {
        "single": float((log_e(fair) >= LINE).any(1).mean()),
        "per event": float((log_e(pnl.mean(-1)) >= LINE).any(1).mean()),
        "per leg": float((log_e(pnl.reshape(paths, -1)) >= LINE).any(1).mean()),
    }


def test_t9_a_fair_market_is_rarely_confirmed_under_continuous_checking() -> None:
    rates = e_null(300, 1600)
    assert rates["single"] <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300) and rates["per event"] <= 0.075
    assert rates["per leg"] > 0.25, "a factor a leg multiplies one piece of luck eight times"


@pytest.mark.soak
def test_t9_at_full_size() -> None:
    rates = e_null(1000, 3000)
    print("T9", rates)
    assert rates["single"] <= 0.05 and rates["per event"] <= 0.05 and rates["per leg"] > 0.30


def speed(paths: int) -> dict[str, float]:
    """Return the trades until +5 c is confirmed and +17.38 c refuted, and the rate of false refutations (T10)."""
    rng = np.random.default_rng(10)
    five, _ = trades(rng, paths, 3000, 5.0)
    fair, _ = trades(rng, paths, 400, -2.2)
    two, _ = trades(rng, paths, 400, 2.0)
    true, _ = trades(rng, paths, 1000, 17.38, top=0.82)
    confirm = first(log_e(five) >= LINE)
    refute, weaker = first(log_e(fair, claim=17.38) >= LINE), first(log_e(two, claim=17.38) >= LINE)
    return {
        "confirm median": float(np.median(confirm)),
        "confirm 80 %": float(np.quantile(confirm, 0.8)),
        "refute median": float(np.median(refute)),
        "refute 80 %": float(np.quantile(refute, 0.8)),
        "refute at +2 median": float(np.median(weaker)),
        "false refutations": float((log_e(true, claim=17.38) >= LINE).any(1).mean()),
    }


def test_t10_edges_are_confirmed_and_claims_refuted_within_the_stated_trades() -> None:
    found = speed(200)
    assert 400 <= found["confirm median"] <= 650
    assert 30 <= found["refute median"] <= 70 and found["refute 80 %"] <= 90
    assert found["false refutations"] <= 0.08


@pytest.mark.soak
def test_t10_at_full_size() -> None:
    found = speed(1000)
    print("T10", found)
    assert 400 <= found["confirm median"] <= 650 and 30 <= found["refute median"] <= 70
    assert found["false refutations"] <= 0.05


# ---------------------------------------------------------------- T16: overlapping holds


def overlap(paths: int, days: int) -> dict[str, float]:
    """Simulate twenty trades a day, each held for five days and exposed to their shocks (T16, rho = 0.3)."""
    rng = np.random.default_rng(16)
    hold, rho, trades_a_day = 5, 0.3, 20
    streamed, plain = 0, 0
    for _ in range(paths):
        shocks = rng.normal(size=days + hold)
        held = np.convolve(shocks, np.ones(hold), "valid")[:days, None] / math.sqrt(hold)
        latent = math.sqrt(rho) * held + math.sqrt(1 - rho) * rng.normal(size=(days, trades_a_day))
        cost = rng.uniform(0.55, 0.90, (days, trades_a_day))
        x = ((ndtr(latent) < cost) - cost).mean(1)
        plain += bool((log_e(x) >= LINE).any())
        streams = [log_e(x[s::hold]).max() for s in range(hold)]
        streamed += max(streams) >= LINE + math.log(hold)
    return {"streams": float(streamed / paths), "plain": plain / paths}


def test_t16_overlapping_batches_need_streams() -> None:
    rates = overlap(200, 400)
    assert rates["streams"] <= 0.05 and rates["plain"] > 0.15


@pytest.mark.soak
def test_t16_at_full_size() -> None:
    rates = overlap(1000, 400)
    print("T16", rates)
    assert rates["streams"] <= 0.05 and rates["plain"] > 0.15


# ---------------------------------------------------------------- T11: the confidence sequence


def coverage(runs: int, n: int) -> dict[str, Any]:
    """Return the fraction of runs whose bounds held at all times, and their half-widths in cents (T11)."""
    rng = np.random.default_rng(11)
    pnl, _ = trades(rng, runs, n, 2.0)
    marks = [m for m in (100, 300, 1000, 2000) if m <= n]
    inside, widths = 0, []
    for x in pnl:
        cs = ConfidenceSequence()
        width, start = [], 0
        for mark in marks:
            cs.update(x[start:mark])
            width.append((cs.upper - cs.lower) / 2)
            start = mark
        cs.update(x[start:])
        # Bounds only tighten: if they hold at the end, they held throughout.
        inside += cs.lower <= 2.0 <= cs.upper
        widths.append(width)
    return {
        "coverage": inside / runs,
        "half-widths": dict(zip(marks, np.median(widths, 0).tolist(), strict=True)),
    }


def test_t11_the_confidence_sequence_contains_the_mean() -> None:
    found = coverage(60, 1000)
    assert found["coverage"] >= 0.90
    # The published values count whole points of the grid, a quarter of a cent narrower on each side, at +5 c.
    assert found["half-widths"] == pytest.approx({100: 11.1, 300: 6.5, 1000: 3.8}, rel=0.15)


@pytest.mark.soak
def test_t11_at_full_size() -> None:
    found = coverage(600, 2000)
    print("T11", found)
    assert found["coverage"] >= 0.94


@given(X)
def test_bounds_only_tighten_and_do_not_depend_on_how_batches_are_passed(x: Any) -> None:
    whole, single = ConfidenceSequence(), ConfidenceSequence()
    before = (-100.0, 100.0)
    for value in x:
        single.update(value)
        assert before[0] <= single.lower and single.upper <= before[1]
        before = (single.lower, single.upper)
    whole.update(x)
    assert (whole.lower, whole.upper, whole.n) == (single.lower, single.upper, len(x))


@given(X, st.integers(2, 4))
def test_the_bounds_of_streams_intersect(x: Any, streams: int) -> None:
    together, single = ConfidenceSequence(streams=streams), ConfidenceSequence(streams=streams)
    together.update(x)
    for value in x:
        single.update(value)
    apart = []
    for s in range(streams):
        alone = ConfidenceSequence(alpha=0.05 / streams)
        alone.update(x[s::streams])
        apart.append(alone)
    assert together.lower == single.lower == pytest.approx(max(a.lower for a in apart), abs=1e-9)
    assert together.upper == single.upper == pytest.approx(min(a.upper for a in apart), abs=1e-9)


def test_a_certain_profit_gives_bounds_at_the_end_of_the_range() -> None:
    cs = ConfidenceSequence()
    cs.update(np.ones(500))
    assert cs.lower > 97 and cs.upper == 100 and "after 500" in repr(cs)
    down = ConfidenceSequence()
    down.update(-np.ones(500))
    assert (down.lower, down.upper) == pytest.approx((-cs.upper, -cs.lower))


# ---------------------------------------------------------------- SPRT


def test_the_sprt_decides_between_its_two_hypotheses() -> None:
    rng = np.random.default_rng(12)
    found = {}
    for edge in (0.0, 5.0):
        pnl, cost = trades(rng, 300, 3000, edge)
        tests = [Sprt(5) for _ in pnl]
        for test, x, c in zip(tests, pnl, cost, strict=True):
            test.update((x + c).round(), c)
        ups = sum(t.decision == "edge" for t in tests) / 300
        found[edge] = (ups, float(np.median([t.decided_at for t in tests if t.decided_at])))
    # Of 1,000 runs: +5 c in 96 % after 298; without an edge in 5 % after 256.
    assert found[5.0][0] >= 0.93 and found[0.0][0] <= 0.08
    assert found[5.0][1] == pytest.approx(298, rel=0.2) and found[0.0][1] == pytest.approx(256, rel=0.2)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 0.5]), st.floats(0.02, 0.99)), min_size=1, max_size=60))
def test_single_sprt_updates_equal_one_call(rows: list[tuple[float, float]]) -> None:
    value, cost = np.array(rows).T
    whole, single = Sprt(5), Sprt(5)
    whole.update(value, cost)
    for v, c in rows:
        single.update(v, c)
    assert whole.llr == pytest.approx(single.llr) and whole.n == single.n
    assert (whole.decision, whole.decided_at) == (single.decision, single.decided_at)
    assert repr(whole).startswith("<Sprt +5 c or 0")


# ---------------------------------------------------------------- batches


def test_batches_are_days_of_entry_weighted_by_event() -> None:
    frame = table(
        entry(0.1, "a", 0.3),
        entry(0.2, "a", 0.3),
        entry(0.5, "b", -0.7, 0.1),
        entry(0.6, "c", None, filled=False),
        entry(1.5, "a", -0.7, 4),
        entry(3.5, "d", 0.3, 0.1),
    )
    got = day_batches(frame)
    assert got["n"].to_list() == [4, 1, 1] and got["events"].to_list() == [3, 1, 1]
    assert got["low"].to_list() == pytest.approx([-0.4 / 3, -0.7, 0.3])
    assert got["low"].equals(got["high"].rename("low"))
    assert got["closed"][0] == START + timedelta(days=0.6)
    # Day 2 is open until day 5.5: the entry of day 3 overlaps it.
    assert streams_needed(got) == 2 and got["overdue"].sum() == 0
    # On the first day b was entered after a had settled.
    assert got["adaptive"].to_list() == [True, False, False]


def test_an_open_batch_overlaps_all_later_ones() -> None:
    frame = table(entry(0.1, "a", None, None), entry(1.1, "b", 0.3), entry(2.1, "c", 0.3))
    got = day_batches(frame)
    assert got["low"].to_list() == [None, pytest.approx(0.3), pytest.approx(0.3)]
    assert got["closed"][0] is None and streams_needed(got) == 3
    assert streams_needed(got.head(0)) == 1


def test_overdue_entries_are_scored_at_their_bounds_for_good() -> None:
    rows = [entry(0.1, "a", 0.3), entry(0.2, "b", 0.3, 10.0), entry(4.0, "c", 0.3)]
    got = day_batches(table(*rows), horizon_days=2)
    assert got["overdue"].to_list() == [1, 0]
    assert got["low"][0] == pytest.approx((0.3 - 0.7) / 2) and got["high"][0] == pytest.approx(0.3)
    assert got["closed"][0] == START + timedelta(days=3) and streams_needed(got) == 1
    early = day_batches(table(*rows), horizon_days=2, as_of=START + timedelta(days=2))
    assert early["low"].to_list() == [None]
    # A late win counts like a market that is still open.
    unsettled = day_batches(table(rows[0], entry(0.2, "b", None, None), rows[2]), horizon_days=2)
    assert unsettled["low"].to_list() == got["low"].to_list()


def test_events_after_as_of_are_ignored() -> None:
    frame = table(entry(0.1, "a", 0.3, 0.2), entry(0.2, "b", -0.7, 2.0), entry(1.0, "c", 0.3))
    now = START + timedelta(days=0.9)
    got = day_batches(frame, as_of=now)
    assert got["n"].to_list() == [2] and got["low"].to_list() == [None]
    later = day_batches(frame, as_of=START + timedelta(days=2.2))
    assert later["low"].to_list() == [pytest.approx(-0.2), pytest.approx(0.3)]
