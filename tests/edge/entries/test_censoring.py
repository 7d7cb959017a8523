"""Cohorts by fire date: settled markets alone are biased to YES, a sample selected by age is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from made_fires import fires_of, markets_of, tape_of

from kalshilab.edge.entries.censoring import Cohort, censor, marked
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.stats import simulated_entries
from kalshilab.errors import EdgeError

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
DEADLINE = 120.0


def by_date(n: int, seed: int, *, end: float = 365.0) -> pl.DataFrame:
    """Simulate YES entries at the fair price in markets "will it happen within 120 days?".

    The event has a constant hazard.  The market settles YES when it happens, else NO at the deadline.  Settlements after
    day `end` are not known yet.
    """
    rng = np.random.default_rng(seed)
    hazard = rng.uniform(0.001, 0.01, n)
    opened = rng.uniform(0, end, n)
    fired = opened + rng.uniform(0, DEADLINE, n)
    # The event has not happened by the fire; the price is its probability in the remaining time.
    left = opened + DEADLINE - fired
    price = 1 - np.exp(-hazard * left)
    happens = rng.exponential(1 / hazard)
    yes = happens < left
    settled = fired + np.where(yes, happens, left)
    keep = (fired < end) & (price > 0.03)
    known = settled <= end

    def instant(days: np.ndarray) -> pl.Series:
        return pl.Series([BEGIN + timedelta(days=float(d)) for d in days], dtype=pl.Datetime("us", "UTC"))

    base, _ = simulated_entries.entries(n, seed=seed)
    frame = base.with_columns(
        pl.Series("event", [f"E{i}" for i in range(n)]), pl.Series("ticker", [f"E{i}-T" for i in range(n)]),
        ts=instant(fired), entry_ts=instant(fired), filled=pl.lit(True), price=pl.Series(price), fee=pl.lit(0.0),
        cost=pl.Series(price), value=pl.Series(np.where(known, yes.astype(float), np.nan)).fill_nan(None),
        settled_ts=pl.Series([t if k else None for t, k in zip(instant(settled), known, strict=True)], dtype=pl.Datetime("us", "UTC")),
    ).with_columns(pnl=pl.col("value") - pl.col("cost"))  # fmt: skip
    return frame.select(ENTRIES_SCHEMA.names()).filter(pl.Series(keep)).sort("ts")


def edge(frame: pl.DataFrame) -> float:
    return 100 * float(frame["pnl"].drop_nulls().mean())  # type: ignore[arg-type]


def test_t15_settled_entries_are_biased_to_yes_and_cohorts_are_not() -> None:
    worlds = [by_date(15_000, seed) for seed in range(8)]
    end = BEGIN + timedelta(days=365)
    late = [w.filter(pl.col("ts") > end - timedelta(days=60)) for w in worlds]
    assert np.mean([edge(w) for w in worlds]) > 1.5
    assert np.mean([edge(w) for w in late]) > 8
    kept = [censor(w, data_end=end, horizon=timedelta(days=DEADLINE)) for w in worlds]
    assert abs(np.mean([edge(k) for k, _ in kept])) < 0.5
    assert all(c.unsettled == 0 and c.dropped > 1000 for _, c in kept)
    # If the deadline is not known, the longest wait observed is used.
    inferred = [censor(w, data_end=end) for w in worlds]
    assert abs(np.mean([edge(k) for k, _ in inferred])) < 0.5
    assert all(c.share <= 0.001 for _, c in inferred)


def test_no_entry_is_dropped_if_all_are_settled() -> None:
    entries, _ = simulated_entries.entries(100, seed=4)
    kept, cohort = censor(entries, data_end=BEGIN)
    assert kept.equals(entries) and cohort.cut is None and cohort.detail == "" and cohort.share == 0


def test_an_end_without_a_time_zone_is_utc() -> None:
    entries = by_date(400, 3, end=100.0)
    end = BEGIN + timedelta(days=100)
    kept, cohort = censor(entries, data_end=end)
    again, naive = censor(entries, data_end=end.replace(tzinfo=None))
    assert kept.equals(again) and cohort == naive and 0 < kept.height < entries.height
    with pytest.raises(EdgeError, match="data_end must be a datetime"):
        censor(entries, data_end="2024-04-10")  # type: ignore[arg-type]


def test_kept_entries_without_an_outcome_or_a_settlement_time_are_counted() -> None:
    entries, _ = simulated_entries.entries(100, seed=4)
    unsettled = entries.with_columns(
        [
            pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise(pl.col(c)).alias(c)
            for c in ("value", "settled_ts", "pnl")
        ]
    )
    last = unsettled["settled_ts"].max() + timedelta(days=400)  # type: ignore[operator]
    kept, cohort = censor(unsettled, data_end=last)
    assert (cohort.kept, cohort.unsettled, cohort.dropped) == (100, 10, 0) and cohort.share == pytest.approx(
        0.1
    )
    assert "10 fires without an outcome" in cohort.detail and kept.height == 100
    undated = entries.with_columns(settled_ts=pl.lit(None, pl.Datetime("us", "UTC")))
    assert censor(undated, data_end=last)[1].undated == 100


def test_open_entries_without_any_settlement_time_prevent_a_cut_and_give_a_share_of_one() -> None:
    """The settled entries may then be only those that settled early."""
    entries, _ = simulated_entries.entries(100, seed=4)
    never = pl.lit(None, pl.Datetime("us", "UTC"))
    last = entries["settled_ts"].max()
    undated = entries.with_columns(settled_ts=never)
    assert censor(undated, data_end=last)[1].share == 0.0, "all entries are settled"
    one_open = undated.with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise(pl.col(c)).alias(c)
        for c in ("value", "pnl")
    )
    kept, cohort = censor(one_open, data_end=last)
    assert kept.height == 100 and cohort.uncut and cohort.share == 1.0
    assert "has no settlement times" in cohort.detail
    _, with_horizon = censor(one_open, data_end=last, horizon=timedelta(days=1))
    assert not with_horizon.uncut and with_horizon.share <= 0.02


def test_empty_entries_have_a_cohort() -> None:
    entries, _ = simulated_entries.entries(5, seed=4)
    assert isinstance(censor(entries.head(0), data_end=BEGIN)[1], Cohort)


def test_open_entries_are_marked_at_their_bid() -> None:
    tape = tape_of([(0, "A-1", 50, "yes"), (1, "B-1", 50, "no"), (2, "C-1", 50, "no"), (5, "A-1", 52, "no"), (6, "B-1", 44, "yes"),
                    (7, "C-1", 48, "no"), (8, "A-1", 60, "yes"), (9, "B-1", 40, "no")])  # fmt: skip
    markets = markets_of({"A-1": None, "B-1": None, "C-1": "no"})
    fires = fires_of(tape, [(0, "no"), (1, "yes"), (2, "no")])
    entries = enter(fires, tape, markets)
    found = marked(entries, tape, 1.0)
    assert entries["pnl"].null_count() == 2 and found.schema == entries.schema
    # A: NO is sold at the YES ask, 60.  B: YES is sold at its bid, 40.  The settled entry C does not change.
    assert found["value"].to_list() == pytest.approx([0.40, 0.40, 1.0])
    assert (found["value"] - found["cost"] - found["pnl"]).abs().max() < 1e-12  # type: ignore[operator]
    later = marked(entries, tape.head(6), 1.0)
    assert later["value"].to_list()[:2] == pytest.approx([0.46, 0.42]), (
        "one spread below the price of the other side"
    )
    assert marked(entries.tail(1), tape, 1.0).equals(entries.tail(1))
