"""Batches of entries for sequential tests: one per day of entry, and the streams that keep open ones apart.

`kalshilab.edge.stats.sequential` explains why a batch is a day of entry, and why overlapping batches go into different
streams.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import check_entries
from kalshilab.errors import EdgeError
from kalshilab.tape.schema import TIME

__all__ = ["batch_mean", "day_batches", "streams_needed"]


def batch_mean(pnl: npt.ArrayLike, events: npt.ArrayLike | None = None) -> float:
    """Return X of a batch, the mean over its events of the event's mean profit, in the unit of `pnl`.

    Args:
        pnl: profit per contract of each entry of the batch, 0 if unfilled.
        events: event of each entry; None: every entry is a separate event.

    Returns:
        The mean; NaN for an empty batch.

    >>> batch_mean([0.3, 0.3, -0.6], ["a", "a", "b"])
    -0.15
    """
    values = np.atleast_1d(np.asarray(pnl, np.float64))
    if events is None:
        return float(values.mean()) if len(values) else math.nan
    _, codes = np.unique(np.asarray(events), return_inverse=True)
    if codes.shape != values.shape:
        raise EdgeError(f"events must give one event per profit, got {codes.size} for {len(values)} profits")
    means = np.bincount(codes, values) / np.bincount(codes)
    return float(means.mean()) if len(means) else math.nan


@renamed_keywords(horizon="horizon_days")
def day_batches(
    entries: pl.DataFrame, *, horizon_days: float | None = None, as_of: datetime | None = None
) -> pl.DataFrame:
    """Group entries into batches, one row per day (UTC) with entries, in order of entry.

    Args:
        entries: entries (`kalshilab.edge.ENTRIES_SCHEMA`); an unfilled entry counts as 0 on the day of its signal.
        horizon_days: days after its day at which a batch is closed at the latest, at least 0. Entries that have not
            settled by then are scored at their bounds for good: at a loss in `low`, at a win in `high`. None: a batch
            stays open until its last settlement.
        as_of: time of the information, inclusive: later events are ignored. None: the latest instant in the table.

    Returns:
        Columns `day`, `n` (entries), `events`, `low` and `high` (X in dollars per contract, null while open; they
        differ only if an entry was overdue), `entered` (time of the first entry), `closed` (null while open),
        `overdue` (entries scored at their bounds), `adaptive` (whether an entry was made after another one of the
        same day had settled).

    >>> from kalshilab.edge import simulated_entries
    >>> batches = day_batches(simulated_entries.entries(1_000, edge=5.0, hold_days=3.0, seed=1)[0])
    >>> batches.height, streams_needed(batches)
    (237, 4)

    Raises:
        EdgeError: `entries` is not a table of entries, a settled entry has no `settled_ts`, or `horizon_days` is
            negative.
    """
    check_entries(entries)
    if horizon_days is not None and not horizon_days >= 0:
        raise EdgeError(f"horizon_days must be at least 0 days, got {horizon_days}")
    timeless = entries.filter("filled", pl.col("pnl").is_not_null(), pl.col("settled_ts").is_null())
    if len(timeless):
        raise EdgeError(
            f"settled_ts must not be null for a settled entry, got null for {timeless['ticker'][0]}; "
            "the time at which its profit was known is needed"
        )
    at = pl.coalesce("entry_ts", "ts")
    done = pl.when(~pl.col("filled")).then(at).when(pl.col("pnl").is_not_null()).then("settled_ts")
    frame = entries.select("event", "filled", "pnl", "cost", at.alias("at"), done.alias("done")).with_columns(
        pl.col("at").dt.date().alias("day"), pl.col("at").dt.truncate("1d").alias("midnight")
    )
    latest = pl.max_horizontal(pl.col("at").max(), pl.col("done").max())
    now = pl.lit(frame.select(latest).item() if as_of is None else as_of, TIME)
    frame = frame.filter(pl.col("at") <= now)
    until = pl.lit(None, TIME)
    if horizon_days is not None:
        until = pl.col("midnight") + timedelta(days=1 + horizon_days)
    known = (pl.col("done") <= pl.col("until").fill_null(pl.col("done"))) & (pl.col("done") <= now)
    frame = frame.with_columns(until=until).with_columns(known=known.fill_null(False))
    frame = frame.with_columns(
        low=pl.when("known").then("pnl").otherwise(-pl.col("cost")),
        high=pl.when("known").then("pnl").otherwise(1 - pl.col("cost")),
        closed=pl.min_horizontal("done", "until"),
    )
    by_event = frame.group_by("day", "event").agg(
        pl.len().alias("n"),
        pl.col("low", "high").mean(),
        pl.col("at").min().alias("entered"),
        pl.col("at").max().alias("latest"),
        pl.col("done").filter("filled", "known").min().alias("first_done"),
        pl.col("closed").max(),
        pl.col("closed").null_count().alias("open"),
        (~pl.col("known")).sum().alias("overdue"),
    )
    batches = by_event.group_by("day").agg(
        pl.col("n").sum(),
        pl.len().alias("events"),
        # Sort first, so that rounding does not depend on the order of the groups.
        pl.col("low", "high").sort_by("event").mean(),
        pl.col("entered").min(),
        pl.col("closed").max(),
        pl.col("open").sum(),
        pl.col("overdue").sum(),
        (pl.col("first_done").min() < pl.col("latest").max()).fill_null(False).alias("adaptive"),
    )
    is_open = (pl.col("open") > 0) | (pl.col("closed") > now)
    null = pl.lit(None)
    return batches.sort("day").select(
        "day",
        "n",
        "events",
        pl.when(is_open).then(null).otherwise("low").alias("low"),
        pl.when(is_open).then(null).otherwise("high").alias("high"),
        "entered",
        pl.when(is_open).then(null).otherwise("closed").alias("closed"),
        pl.when(is_open).then(0).otherwise("overdue").alias("overdue"),
        "adaptive",
    )


def streams_needed(batches: pl.DataFrame) -> int:
    """Return the fewest streams such that each stream's next batch is entered after its last one closed.

    For a test, fix the number before any outcome is known: with a horizon of h days, h + 1 streams are enough.

    Args:
        batches: batches as returned by `day_batches`; an open one overlaps with all later ones.
    """
    entered = batches["entered"].dt.epoch("us").to_numpy()
    closed = batches["closed"].dt.epoch("us").fill_null(np.iinfo(np.int64).max).to_numpy()
    # The first batch that is entered when or after this one closed may follow it in its stream.
    free = np.searchsorted(entered, closed, side="left")
    return int(max(1, (free - np.arange(len(entered))).max(initial=1)))
