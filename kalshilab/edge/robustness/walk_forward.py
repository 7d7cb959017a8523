"""Judging on what came later: purged splits of event time, walk-forward, and a fixed mix of categories.

A rule that was fitted on data looks good on them.  So time is split, and two leaks across the split are stopped
(López de Prado 2018, *Advances in Financial Machine Learning*, chapter 7):

* **purge**: an event trains only if all of it was settled before the split, for until then its outcome was unknown;
* **embargo**: an event tests only if it began at least an embargo after the split, for prices just after it still
  react to what was trained on.  The embargo is the longer of the 95 % quantile of holding times and one period of a
  recurring series.

Events between are dropped and counted.  The walk is of *expanding origin*: fold k trains on all before its split and
tests on what comes until the next one.

`poststratify` reweights events to a fixed mix of categories: a change of an average may be a change of what is
averaged (Simpson 1951).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.edge.schema import check_entries, event_means, settled
from kalshilab.errors import EdgeError
from kalshilab.tape.schema import TIME

__all__ = [
    "Fold",
    "Split",
    "Stratified",
    "WalkForward",
    "embargo_of",
    "folds",
    "mix_of",
    "poststratify",
    "spans",
    "split",
    "walk_forward",
]

HELD: Final = 0.95
"""Quantile of the holding times that the embargo covers."""


class Split(msgspec.Struct, frozen=True):
    """Entries before and after an instant, with nothing of the one in the other."""

    boundary: datetime
    """The instant (UTC)."""
    embargo: timedelta
    train: pl.DataFrame
    """Entries of events that were settled before the boundary."""
    test: pl.DataFrame
    """Entries of events that began at the boundary plus embargo or later (and before the stop, if there is one)."""
    purged: int
    """Events that began before the boundary and were not settled by then."""
    embargoed: int
    """Events that began within the embargo."""


class Fold(msgspec.Struct, frozen=True):
    """One step of a walk forward."""

    number: int
    """From 1."""
    stop: datetime | None
    """Where the next fold's test begins; None for the last."""
    split: Split

    @property
    def train(self) -> pl.DataFrame:
        """Entries to fit on."""
        return self.split.train

    @property
    def test(self) -> pl.DataFrame:
        """Entries to judge on."""
        return self.split.test


class WalkForward(msgspec.Struct, frozen=True):
    """What a rule earned on events after those it was fitted on.  Edges are cents a contract."""

    edge: float
    """Over all folds together: mean over events of the event's mean."""
    entries: pl.DataFrame
    """The entries behind it: each fold's chosen cell, in its test."""
    events: int
    folds: pl.DataFrame
    """`fold, boundary, stop, cell, chosen, train_edge, train_events, test_edge, test_events, purged, embargoed`;
    `chosen` are the parameters as text."""

    @property
    def positive(self) -> float:
        """Share of the folds that earned more than nothing."""
        return float((self.folds["test_edge"] > 0).mean())  # type: ignore[arg-type]


class Stratified(msgspec.Struct, frozen=True):
    """An edge with the categories weighted as told.  Cents a contract."""

    edge: float
    se: float
    """Over events, within categories; NaN where a category has one event only."""
    covered: float
    """Share of the mix for which there are events; the rest cannot be judged and its weight is spread over these."""
    frame: pl.DataFrame
    """`category, weight, n_events, edge, se`."""


def spans(entries: pl.DataFrame, first_prints: pl.DataFrame | None = None) -> pl.DataFrame:
    """When events began and when all of them was known: `event, start, end`, in the order of time.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        first_prints: columns `event, ts`: each event's first print.  Without it an event begins with its first fire.

    Returns:
        `end` is when the last of its entries was settled; null while one is open.
    """
    check_entries(entries)
    # An unfilled fire has nothing to settle.
    known = pl.coalesce("settled_ts", pl.when(~pl.col("filled")).then("ts"))
    frame = entries.group_by("event").agg(
        pl.col("ts").min().alias("start"),
        pl.when(known.is_not_null().all()).then(known.max()).alias("end"),
    )
    if first_prints is not None:
        begun = first_prints.group_by("event").agg(pl.col("ts").min().cast(TIME).alias("begun"))
        frame = frame.join(begun, on="event", how="left").with_columns(
            pl.min_horizontal("start", "begun").alias("start")
        )
    return frame.select("event", "start", "end").sort("start", "event")


def embargo_of(entries: pl.DataFrame, period: timedelta | None = None) -> timedelta:
    """How long to wait after a split: the longer of the 95 % quantile of holding times and one period.

    Args:
        period: of the recurring series, as a day for daily events.  None: the median, over series with three events
            or more, of the median time between beginnings of their events.  Events without a fire are not seen, so
            this errs to the long side.
    """
    check_entries(entries)
    held = entries.filter("filled").select(
        (pl.col("settled_ts") - pl.col("entry_ts")).dt.total_microseconds()
    )
    longest = held.to_series().quantile(HELD, "higher") or 0.0
    if period is None:
        begun = entries.group_by("series", "event").agg(pl.col("ts").min()).sort("ts")
        gaps = begun.group_by("series").agg(
            pl.col("ts").diff().dt.total_microseconds().median().alias("gap"), pl.len()
        )
        typical: Any = gaps.filter(pl.col("len") >= 3)["gap"].median()
        period = timedelta(microseconds=typical or 0.0)
    return max(timedelta(microseconds=longest), period)


def split(
    entries: pl.DataFrame,
    boundary: datetime,
    *,
    embargo: timedelta,
    stop: datetime | None = None,
    first_prints: pl.DataFrame | None = None,
) -> Split:
    """Split entries at an instant, purged and embargoed.

    Args:
        boundary: with a zone.  Settled before it: trains.  Begun at it plus `embargo` or later: tests.
        stop: events that begin at it or later are left out of the test, and not counted as dropped.
        first_prints: as for `spans`.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(1_000, seed=1)
    >>> part = split(signal, signal["ts"].sort()[700], embargo=timedelta(days=3))
    >>> part.train.height, part.test.height, part.purged, part.embargoed
    (689, 284, 11, 16)
    """
    frame = spans(entries, first_prints)
    began, known = pl.col("start"), pl.col("end").is_not_null() & (pl.col("end") < boundary)
    later = began >= boundary + embargo if stop is None else (began >= boundary + embargo) & (began < stop)
    within = (began >= boundary) & (began < boundary + embargo)
    train, test = frame.filter(known & (began < boundary)), frame.filter(later)
    return Split(
        boundary,
        embargo,
        entries.join(train.select("event"), on="event", how="semi", maintain_order="left"),
        entries.join(test.select("event"), on="event", how="semi", maintain_order="left"),
        frame.filter((began < boundary) & ~known).height,
        frame.filter(within if stop is None else within & (began < stop)).height,
    )


def boundaries(starts: pl.Series, shares: Sequence[float]) -> list[datetime]:
    """The instants before which these shares of the events began; `starts` is not empty."""
    ordered = starts.sort()
    return [ordered[min(len(ordered) - 1, round(share * len(ordered)))] for share in shares]


def folds(
    entries: pl.DataFrame,
    folds: int = 4,
    *,
    embargo: timedelta | None = None,
    first_prints: pl.DataFrame | None = None,
) -> list[Fold]:
    """The folds of a walk forward with expanding origin.

    The events, in the order they began, are cut into `folds + 1` parts of equal number.  Fold k trains on what was
    settled before part k + 1 and tests on part k + 1.

    Args:
        folds: at least 2; 4 or more are asked of a claim.
        embargo: None is `embargo_of(entries)`.

    Raises:
        EdgeError: too few events, or an embargo or holding times so long that a fold has nothing to train or to test.
    """
    if folds < 2:
        raise EdgeError(f"a walk forward of {folds} folds; at least 2")
    cuts = _cuts(entries, folds, first_prints)
    waits = embargo_of(entries) if embargo is None else embargo
    found = []
    for number, (boundary, stop) in enumerate(zip(cuts, [*cuts[1:], None], strict=True), 1):
        part = split(entries, boundary, embargo=waits, stop=stop, first_prints=first_prints)
        _enough(part, number)
        found.append(Fold(number, stop, part))
    return found


def walk_forward(
    entries_of: Callable[..., pl.DataFrame],
    parameters: Sequence[Mapping[str, Any]],
    *,
    folds: int = 4,
    embargo: timedelta | None = None,
    score: Callable[[pl.DataFrame], float] | None = None,
    min_events: int = 30,
    first_prints: pl.DataFrame | None = None,
) -> WalkForward:
    """Choose the parameters on the past, judge them on what comes next, and again, fold after fold.

    Args:
        entries_of: called once for each cell with its parameters by name; the entries of the whole time.  They must
            be as of their fires, as those of `kalshilab.edge.enter` are.
        parameters: the cells.
        folds, embargo, first_prints: as for `folds`; the folds are the same for all cells, cut from the events of
            all of them.
        score: of a cell's training entries; the cell with the highest is chosen, the first among equals.  None is
            the mean over events divided by its standard error, so that a few lucky events do not win.
        min_events: a cell with fewer settled events in training is not chosen.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(1_000, edge=5.0, seed=1)
    >>> found = walk_forward(lambda: signal, [{}])
    >>> found.edge > 0, found.folds.height
    (True, 4)

    Raises:
        EdgeError: as `folds`; no cells; no cell has events enough in a fold's training.
    """
    cells = [entries_of(**cell) for cell in parameters]
    if not cells:
        raise EdgeError("walk_forward: no cells; parameters is a list of dicts, [{}] for a rule without any")
    whole = pl.concat(cells)
    cuts = _cuts(whole, folds, first_prints)
    waits = embargo_of(whole) if embargo is None else embargo
    rate = _t if score is None else score
    rows: list[dict[str, Any]] = []
    kept = []
    for number, (boundary, stop) in enumerate(zip(cuts, [*cuts[1:], None], strict=True), 1):
        of_all = split(whole, boundary, embargo=waits, stop=stop, first_prints=first_prints)
        _enough(of_all, number)
        parts = [split(c, boundary, embargo=waits, stop=stop, first_prints=first_prints) for c in cells]
        able = [i for i, part in enumerate(parts) if len(event_means(part.train)) >= min_events]
        if not able:
            raise EdgeError(
                f"fold {number}: no cell has {min_events} settled events before {boundary:%Y-%m-%d}; fewer folds"
            )
        best = max(able, key=lambda i: (rate(parts[i].train), -i))
        part = parts[best]
        kept.append(part.test)
        rows.append(
            {
                "fold": number, "boundary": boundary, "stop": stop, "cell": best,
                "chosen": ", ".join(f"{k}={v}" for k, v in parameters[best].items()),
                "train_edge": _edge(part.train), "train_events": len(event_means(part.train)),
                "test_edge": _edge(part.test), "test_events": len(event_means(part.test)),
                "purged": of_all.purged, "embargoed": of_all.embargoed,
            }
        )  # fmt: skip
    out = pl.concat(kept)
    schema: dict[str, Any] = {
        "stop": TIME,
        "boundary": TIME,
        "test_edge": pl.Float64,
        "train_edge": pl.Float64,
    }
    return WalkForward(_edge(out), out, len(event_means(out)), pl.DataFrame(rows, schema_overrides=schema))


def mix_of(entries: pl.DataFrame, column: str = "category") -> dict[str, float]:
    """The share of each category among the events, as a mix for `poststratify`; sorted by name."""
    check_entries(entries)
    shares = entries.group_by("event").agg(pl.col(column).first())[column].value_counts(normalize=True)
    return dict(shares.sort(column).iter_rows())


def poststratify(entries: pl.DataFrame, mix: Mapping[str, float], column: str = "category") -> Stratified:
    """The edge of entries as if their events were of a fixed mix of categories.

    Args:
        mix: the weight of each category, as `mix_of` gives it for the time to compare with; they need not sum to 1.
        column: what to weight by; of an event its first entry's.

    Returns:
        Σ w_k × (mean over the events of category k) / Σ w_k, over the categories that have settled events.

    Raises:
        EdgeError: a weight is negative, or no category of the mix has a settled event.
    """
    check_entries(entries)
    if any(not w >= 0 for w in mix.values()):
        raise EdgeError(f"poststratify: weights are not negative: {dict(mix)}")
    events = settled(entries).group_by("event").agg(pl.col(column).first(), pl.col("pnl").mean() * 100)
    strata = events.group_by(column).agg(
        pl.len().cast(pl.Int64).alias("n_events"),
        pl.col("pnl").mean().alias("edge"),
        (pl.col("pnl").std() / pl.len().sqrt()).fill_null(float("nan")).alias("se"),
    )
    weights = pl.DataFrame(
        {column: list(mix), "weight": list(mix.values())}, schema={column: pl.String, "weight": pl.Float64}
    )
    frame = weights.join(strata, on=column, how="left", maintain_order="left").with_columns(
        pl.col("n_events").fill_null(0)
    )
    seen = frame.filter((pl.col("n_events") > 0) & (pl.col("weight") > 0))
    if seen.is_empty():
        raise EdgeError(
            f"poststratify: no settled event of {', '.join(mix) or 'an empty mix'}; mix_of(entries) is a mix"
        )
    weight = seen["weight"].to_numpy()
    share = weight / weight.sum()
    return Stratified(
        float(share @ seen["edge"].to_numpy()),
        float(np.sqrt(share**2 @ seen["se"].to_numpy() ** 2)),
        float(weight.sum() / frame["weight"].to_numpy().sum()),
        frame.rename({column: "category"}).select("category", "weight", "n_events", "edge", "se"),
    )


def _cuts(entries: pl.DataFrame, parts: int, first_prints: pl.DataFrame | None) -> list[datetime]:
    starts = spans(entries, first_prints)["start"]
    if len(starts) < 2 * (parts + 1):
        raise EdgeError(
            f"{len(starts)} events are too few for a walk forward of {parts} folds; give more time, or fewer folds"
        )
    cuts = boundaries(starts, [k / (parts + 1) for k in range(1, parts + 1)])
    if len(set(cuts)) < parts:
        raise EdgeError(f"too many events begin at {cuts[0]:%Y-%m-%d %H:%M} for {parts} folds; fewer folds")
    return cuts


def _enough(part: Split, number: int) -> None:
    for name, entries in (("train on", part.train), ("test on", part.test)):
        if entries.is_empty():
            raise EdgeError(
                f"fold {number} at {part.boundary:%Y-%m-%d} has nothing to {name}: {part.purged} events open at the "
                f"split, {part.embargoed} within the embargo of {part.embargo}; fewer folds, or a shorter embargo"
            )


def _edge(entries: pl.DataFrame) -> float:
    means = 100 * event_means(entries)
    return float(means.mean()) if len(means) else float("nan")


def _t(entries: pl.DataFrame) -> float:
    means = 100 * event_means(entries)
    spread = means.std(ddof=1) if len(means) > 1 else 0.0
    # All the same: nothing was learned.
    return float(means.mean() / spread * np.sqrt(len(means))) if spread > 0 else float("-inf")
