"""Out-of-sample evaluation: purged splits of event time, walk-forward, and reweighting to a fixed mix of categories.

A rule looks good on the data it was fitted on. So events are split by time, and two leaks across the split are closed
(López de Prado 2018, *Advances in Financial Machine Learning*, chapter 7):

* **purge**: an event is used for training only if all of it was settled before the split, since its outcome was
  unknown until then;
* **embargo**: an event is used for testing only if it began at least an embargo after the split, since prices just
  after the split still react to the training data. The embargo is the longer of the 95 % quantile of holding times and
  one period of a recurring series.

Other events are dropped and counted. The walk-forward has an *expanding origin*: fold k trains on all events before its
split and tests on those between its split and the next one.

`poststratify` reweights events to a fixed mix of categories, because an average can change through its composition
alone (Simpson 1951).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
import numpy as np
import polars as pl
from polars._typing import PolarsDataType

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

HOLDING_QUANTILE: Final = 0.95
"""Quantile of the holding times that the embargo covers."""


class Split(msgspec.Struct, frozen=True):
    """Training and test entries on either side of a boundary in time, without common events."""

    boundary: datetime
    """Time of the split (UTC)."""
    embargo: timedelta
    """Time after the boundary in which no test event begins."""
    train: pl.DataFrame
    """Entries of events that were settled before the boundary."""
    test: pl.DataFrame
    """Entries of events that began at the boundary plus embargo or later, and before the stop if there is one."""
    purged: int
    """Number of events that began before the boundary and were not settled by then."""
    embargoed: int
    """Number of events that began within the embargo."""


class Fold(msgspec.Struct, frozen=True):
    """One fold of a walk-forward."""

    number: int
    """Number of the fold, from 1."""
    stop: datetime | None
    """End of the test, exclusive: the boundary of the next fold; None for the last fold."""
    split: Split
    """Training and test entries."""

    @property
    def train(self) -> pl.DataFrame:
        """Entries for fitting."""
        return self.split.train

    @property
    def test(self) -> pl.DataFrame:
        """Entries for testing."""
        return self.split.test


class WalkForward(msgspec.Struct, frozen=True):
    """Results of a rule on events after those it was fitted on, in cents per contract."""

    edge: float
    """Mean over the test events of all folds of each event's mean profit."""
    entries: pl.DataFrame
    """Entries behind the edge: the test entries of each fold's chosen cell."""
    events: int
    """Number of test events."""
    folds: pl.DataFrame
    """`fold, boundary, stop, cell, chosen, train_edge, train_events, test_edge, test_events, purged, embargoed`;
    `chosen` holds the parameters as text."""

    @property
    def positive(self) -> float:
        """Fraction of the folds with a positive edge."""
        return float((self.folds["test_edge"] > 0).mean())  # type: ignore[arg-type]


class Stratified(msgspec.Struct, frozen=True):
    """Edge of a fixed mix of categories, in cents per contract."""

    edge: float
    se: float
    """Standard error over events, within categories; NaN if a category has only one event."""
    covered: float
    """Fraction of the mix with settled events; the weight of the rest is spread over these categories."""
    frame: pl.DataFrame
    """`category, weight, n_events, edge, se`."""


def spans(entries: pl.DataFrame, first_prints: pl.DataFrame | None = None) -> pl.DataFrame:
    """Return when each event began and when all its outcomes were known, in the order of time.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        first_prints: columns `event, ts`: each event's first print. None: an event begins with its first fire.

    Returns:
        `event, start, end`; `end` is the time of the event's last settlement, null while one of its entries is open.
    """
    check_entries(entries)
    # An unfilled fire has nothing to settle, so it is known at its fire.
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
    """Return the embargo after a split: the longer of the 95 % quantile of holding times and one period.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        period: period of the recurring series, such as a day for daily events. None: the median, over series with at
            least three events, of the median time between the beginnings of their events. Events without a fire are
            not counted, so this estimate errs on the long side.
    """
    check_entries(entries)
    holding = entries.filter("filled").select(
        (pl.col("settled_ts") - pl.col("entry_ts")).dt.total_microseconds()
    )
    longest_us = holding.to_series().quantile(HOLDING_QUANTILE, "higher") or 0.0
    if period is None:
        begun = entries.group_by("series", "event").agg(pl.col("ts").min()).sort("ts")
        gaps = begun.group_by("series").agg(
            pl.col("ts").diff().dt.total_microseconds().median().alias("gap"), pl.len()
        )
        typical_us = gaps.filter(pl.col("len") >= 3)["gap"].cast(pl.Float64).median()
        period = timedelta(microseconds=typical_us if isinstance(typical_us, float) else 0.0)
    return max(timedelta(microseconds=longest_us), period)


def split(
    entries: pl.DataFrame,
    boundary: datetime,
    *,
    embargo: timedelta,
    stop: datetime | None = None,
    first_prints: pl.DataFrame | None = None,
) -> Split:
    """Split entries by time, with purge and embargo.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        boundary: time of the split, with a time zone. Events settled before it are for training.
        embargo: time after the boundary in which no test event begins; an event that begins at its end is for testing.
        stop: end of the test, exclusive; events that begin then or later are left out and not counted as dropped.
        first_prints: as for `spans`.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(1_000, seed=1)
    >>> part = split(signal, signal["ts"].sort()[700], embargo=timedelta(days=3))
    >>> part.train.height, part.test.height, part.purged, part.embargoed
    (689, 284, 11, 16)
    """
    frame = spans(entries, first_prints)
    began, known = pl.col("start"), pl.col("end").is_not_null() & (pl.col("end") < boundary)
    after = began >= boundary + embargo if stop is None else (began >= boundary + embargo) & (began < stop)
    within = (began >= boundary) & (began < boundary + embargo)
    train, test = frame.filter(known & (began < boundary)), frame.filter(after)
    return Split(
        boundary,
        embargo,
        entries.join(train.select("event"), on="event", how="semi", maintain_order="left"),
        entries.join(test.select("event"), on="event", how="semi", maintain_order="left"),
        frame.filter((began < boundary) & ~known).height,
        frame.filter(within if stop is None else within & (began < stop)).height,
    )


def boundaries(starts: pl.Series, shares: Sequence[float]) -> list[datetime]:
    """Return the times before which these fractions of the events began; `starts` must not be empty."""
    ordered = starts.sort()
    return [ordered[min(len(ordered) - 1, round(share * len(ordered)))] for share in shares]


def folds(
    entries: pl.DataFrame,
    folds: int = 4,
    *,
    embargo: timedelta | None = None,
    first_prints: pl.DataFrame | None = None,
) -> list[Fold]:
    """Return the folds of a walk-forward with expanding origin.

    The events, in the order they began, are cut into `folds + 1` parts with equal numbers of events. Fold k trains on
    events settled before part k + 1 and tests on part k + 1.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        folds: number of folds, at least 2; a claim needs at least 4.
        embargo: time after each boundary in which no test event begins; None: `embargo_of(entries)`.
        first_prints: as for `spans`.

    Raises:
        EdgeError: there are too few events, or the embargo or the holding times leave a fold without training or test
            events.
    """
    if folds < 2:
        raise EdgeError(f"folds must be >= 2, got {folds}")
    cuts = _cuts(entries, folds, first_prints)
    pause = embargo_of(entries) if embargo is None else embargo
    found = []
    for number, (boundary, stop) in enumerate(zip(cuts, [*cuts[1:], None], strict=True), 1):
        part = split(entries, boundary, embargo=pause, stop=stop, first_prints=first_prints)
        _check_not_empty(part, number)
        found.append(Fold(number, stop, part))
    return found


def walk_forward(
    entries_of: Callable[..., pl.DataFrame],
    parameters: Sequence[Mapping[str, object]],
    *,
    folds: int = 4,
    embargo: timedelta | None = None,
    score: Callable[[pl.DataFrame], float] | None = None,
    min_events: int = 30,
    first_prints: pl.DataFrame | None = None,
) -> WalkForward:
    """Choose the parameters on each fold's training events and test them on the events that follow.

    Args:
        entries_of: function of a cell's parameters by keyword, called once per cell, that returns the entries of the
            whole period. They must use only data up to their fires, like those of `kalshilab.edge.enter`.
        parameters: the parameters of each cell; `[{}]` for a rule without parameters.
        folds: number of folds, at least 2. All cells have the same folds, cut from the events of all of them.
        embargo: as for `folds`.
        score: function of a cell's training entries; each fold chooses the cell with the highest score, the first of
            equal ones. None: the mean over events divided by its standard error, so that few lucky events do not win.
        min_events: minimum number of settled training events; cells with fewer are not chosen.
        first_prints: as for `spans`.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(1_000, edge=5.0, seed=1)
    >>> found = walk_forward(lambda: signal, [{}])
    >>> found.edge > 0, found.folds.height
    (True, 4)

    Raises:
        EdgeError: as for `folds`; there are no cells; or no cell has enough training events in a fold.
    """
    cells = [entries_of(**cell) for cell in parameters]
    if not cells:
        raise EdgeError("parameters must not be empty; pass [{}] for a rule without parameters")
    whole = pl.concat(cells)
    cuts = _cuts(whole, folds, first_prints)
    pause = embargo_of(whole) if embargo is None else embargo
    score = _t_statistic if score is None else score
    rows: list[dict[str, object]] = []
    tests = []
    for number, (boundary, stop) in enumerate(zip(cuts, [*cuts[1:], None], strict=True), 1):
        of_all = split(whole, boundary, embargo=pause, stop=stop, first_prints=first_prints)
        _check_not_empty(of_all, number)
        parts = [split(c, boundary, embargo=pause, stop=stop, first_prints=first_prints) for c in cells]
        eligible = [i for i, part in enumerate(parts) if len(event_means(part.train)) >= min_events]
        if not eligible:
            raise EdgeError(
                f"fold {number}: no cell has {min_events} settled events before {boundary:%Y-%m-%d}; use fewer folds"
            )
        scores = {i: score(parts[i].train) for i in eligible}
        best = max(eligible, key=lambda i: (scores[i], -i))
        part = parts[best]
        tests.append(part.test)
        rows.append(
            {
                "fold": number, "boundary": boundary, "stop": stop, "cell": best,
                "chosen": ", ".join(f"{k}={v}" for k, v in parameters[best].items()),
                "train_edge": _edge(part.train), "train_events": len(event_means(part.train)),
                "test_edge": _edge(part.test), "test_events": len(event_means(part.test)),
                "purged": of_all.purged, "embargoed": of_all.embargoed,
            }
        )  # fmt: skip
    out = pl.concat(tests)
    schema: dict[str, PolarsDataType] = {
        "stop": TIME,
        "boundary": TIME,
        "test_edge": pl.Float64,
        "train_edge": pl.Float64,
    }
    return WalkForward(_edge(out), out, len(event_means(out)), pl.DataFrame(rows, schema_overrides=schema))


def mix_of(entries: pl.DataFrame, column: str = "category") -> dict[str, float]:
    """Return the fraction of the events in each category, sorted by name, as a mix for `poststratify`."""
    check_entries(entries)
    shares = entries.group_by("event").agg(pl.col(column).first())[column].value_counts(normalize=True)
    return dict(shares.sort(column).iter_rows())


def poststratify(entries: pl.DataFrame, mix: Mapping[str, float], column: str = "category") -> Stratified:
    """Return the edge of entries, reweighted to a fixed mix of categories.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        mix: weight of each category, such as `mix_of` of the period to compare with; weights need not sum to 1.
        column: column with the category; an event has that of its first entry.

    Returns:
        Σ w_k × (mean over the events of category k) / Σ w_k, over the categories that have settled events.

    Raises:
        EdgeError: a weight is negative, or no category of the mix has a settled event.
    """
    check_entries(entries)
    if any(not w >= 0 for w in mix.values()):
        raise EdgeError(f"mix must have weights >= 0, got {dict(mix)}")
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
            f"mix must have a positive weight on a category with settled events, got {dict(mix)}; "
            "mix_of(entries) returns such a mix"
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
    """Return the boundaries of the folds.

    Raises:
        EdgeError: there are too few events, or too many begin at one time.
    """
    starts = spans(entries, first_prints)["start"]
    if len(starts) < 2 * (parts + 1):
        raise EdgeError(
            f"a walk-forward with {parts} folds needs at least {2 * (parts + 1)} events, got {len(starts)}; "
            "use a longer tape or fewer folds"
        )
    cuts = boundaries(starts, [k / (parts + 1) for k in range(1, parts + 1)])
    if len(set(cuts)) < parts:
        raise EdgeError(
            f"too many events begin at {cuts[0]:%Y-%m-%d %H:%M} for {parts} folds; use fewer folds"
        )
    return cuts


def _check_not_empty(part: Split, number: int) -> None:
    """Raise EdgeError if a fold has no training or no test entries."""
    for name, entries in (("training", part.train), ("test", part.test)):
        if entries.is_empty():
            raise EdgeError(
                f"fold {number} at {part.boundary:%Y-%m-%d} has no {name} events: {part.purged} were open at the split, "
                f"{part.embargoed} began within the embargo of {part.embargo}; use fewer folds or a shorter embargo"
            )


def _edge(entries: pl.DataFrame) -> float:
    """Return the mean of events' means in cents; NaN without settled events."""
    means = 100 * event_means(entries)
    return float(means.mean()) if len(means) else float("nan")


def _t_statistic(entries: pl.DataFrame) -> float:
    """Return the mean of events' means divided by its standard error; -inf if it cannot be computed."""
    means = 100 * event_means(entries)
    spread = means.std(ddof=1) if len(means) > 1 else 0.0
    # Identical means, or a single one, have no standard error.
    return float(means.mean() / spread * np.sqrt(len(means))) if spread > 0 else float("-inf")
