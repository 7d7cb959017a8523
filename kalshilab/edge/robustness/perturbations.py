"""Perturbations: measure whether an edge depends on few events, one month, one setting or an unrealistic price.

Every function takes entries (`kalshilab.edge.ENTRIES_SCHEMA`), or obtains them from `enter`, a function of fires with
the terms of the signal. Results are small frames. An edge is in cents per contract: the mean over events of each
event's mean profit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.edge.schema import Interval, check_entries, event_means, settled
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.errors import EdgeError, SignalError
from kalshilab.lazy import renamed
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.signals.grid import cells_of
from kalshilab.signals.scan import scan_cells
from kalshilab.tape.tape import TapeLike

__all__ = [
    "LADDER",
    "Concentration",
    "GridCell",
    "TimeBlocks",
    "blocks",
    "by_category",
    "concentration",
    "grid",
    "half_life",
    "interval",
    "latency",
    "neighbours",
    "summary",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

Enter = Callable[..., pl.DataFrame]
"""A function from fires to entries that also accepts `latency_s=` and `ticks=`."""
Floats = npt.NDArray[np.float64]
LADDER: Final = (0.0, 2.0, 60.0, 300.0, 1800.0, 3600.0, 86_400.0)
"""Latencies in seconds, from none to a day."""
RESAMPLES: Final = 399


class Concentration(msgspec.Struct, frozen=True, kw_only=True):
    """Dependence of the profit on few events and on single categories."""

    top_share: float
    """Fraction of the total profit earned by the best event; infinite if the total is not positive."""
    without_top: float
    """Edge without the best 1 % of the events (at least one event)."""
    without_category: dict[str, float]
    """Edge without each category; empty if there is only one category."""
    curve: pl.DataFrame
    """`removed` (fraction of the events removed, best first), `edge` of the rest."""


class TimeBlocks(msgspec.Struct, frozen=True):
    """Edges of consecutive blocks of time."""

    frame: pl.DataFrame
    """`block, start, end` (dates of the first and last entry), `n_events, n_days, edge`."""

    @property
    def edges(self) -> list[float]:
        """The edges, in order of time."""
        return self.frame["edge"].to_list()


class GridCell(NamedTuple):
    """One setting of a signal and its entries."""

    parameters: dict[str, Any]
    signal: CompiledSignal
    entries: pl.DataFrame


def concentration(entries: pl.DataFrame) -> Concentration:
    """Return how much the edge depends on its best events and on each category.

    An event's profit is the mean over its entries, as in the edge.
    """
    events = _events(entries)
    if events.is_empty():
        nothing = pl.DataFrame(schema={"removed": pl.Float64, "edge": pl.Float64})
        return Concentration(
            top_share=float("inf"), without_top=float("nan"), without_category={}, curve=nothing
        )
    means = events.sort("pnl", descending=True)["pnl"].to_numpy()
    n, total = len(means), float(means.sum())
    # Edge without the best k events.
    rest = (total - np.cumsum(means)[:-1]) / np.arange(n - 1, 0, -1)
    top = max(1, round(0.01 * n))
    removed = np.unique(np.linspace(0, min(n - 1, max(top * 5, n // 5)), 60).round().astype(np.int64))
    curve = pl.DataFrame(
        {"removed": removed / n, "edge": [total / n if k == 0 else rest[k - 1] for k in removed]}
    )
    categories = sorted(events["category"].unique().to_list())
    without = (
        {c: _mean(events.filter(pl.col("category") != c)) for c in categories} if len(categories) > 1 else {}
    )
    return Concentration(
        top_share=float(means[0] / total) if total > 0 else float("inf"),
        without_top=float(rest[top - 1]) if n > top else float("nan"),
        without_category=without,
        curve=curve.cast({"removed": pl.Float64, "edge": pl.Float64}),
    )


def blocks(entries: pl.DataFrame, n: int = 4, min_days: int = 30) -> TimeBlocks:
    """Return the edge of consecutive blocks with equal numbers of entry days.

    Only days (UTC) with an entry count, so four consecutive days do not pass for four quarters.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        n: maximum number of blocks; fewer are made if the entries cover too few days.
        min_days: minimum number of entry days per block.
    """
    events = _events(entries)
    days = events["day"].unique().sort()
    count = max(1, min(n, len(days) // min_days)) if len(days) else 0
    parts = np.array_split(np.arange(len(days)), count) if count else []
    rows = []
    for block, part in enumerate(parts, 1):
        start, end = days[int(part[0])], days[int(part[-1])]
        inside = events.filter(pl.col("day").is_between(start, end))
        rows.append((block, start, end, inside.height, len(part), _mean(inside)))
    schema: dict[str, PolarsDataType] = {
        "block": pl.Int64, "start": pl.Date, "end": pl.Date, "n_events": pl.Int64, "n_days": pl.Int64, "edge": pl.Float64,
    }  # fmt: skip
    return TimeBlocks(pl.DataFrame(rows, schema=schema, orient="row"))


def by_category(entries: pl.DataFrame) -> pl.DataFrame:
    """Return the edge of each category and month: `category, month` (first day), `edge, lower, upper, n_events`."""
    events = _events(entries).with_columns(pl.col("day").dt.month_start().alias("month"))
    rows = []
    for (category, month), part in events.group_by(["category", "month"], maintain_order=True):
        found = _interval(part["pnl"].to_numpy(), part.height)
        rows.append((category, month, found.estimate, found.lower, found.upper, part.height))
    schema: dict[str, PolarsDataType] = {
        "category": pl.String, "month": pl.Date, "edge": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
        "n_events": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").sort("category", "month")


def latency(
    fires: pl.DataFrame, enter: Enter, ladder: Sequence[float] = LADDER, *, keep: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Return the edge at increasing latencies.

    Args:
        fires: fires of the signal.
        enter: makes entries of fires, and accepts `latency_s=`.
        ladder: latencies in seconds, in increasing order.
        keep: entries whose fires are counted; None: all fires.

    Returns:
        `latency_s, edge, lower, upper, n` (fires with a known profit), `fill_rate` (a fraction).
    """
    rows = []
    for seconds in ladder:
        entries = enter(fires, latency_s=seconds)
        if keep is not None:
            entries = entries.join(keep.select("fire"), on="fire", how="semi", maintain_order="left")
        found = interval(entries)
        rate = float(entries["filled"].mean() or 0.0) if entries.height else float("nan")  # type: ignore[arg-type]
        rows.append((seconds, found.estimate, found.lower, found.upper, found.n, rate))
    schema: dict[str, PolarsDataType] = {
        "latency_s": pl.Float64, "edge": pl.Float64, "lower": pl.Float64, "upper": pl.Float64, "n": pl.Int64,
        "fill_rate": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def half_life(ladder: pl.DataFrame) -> float | None:
    """Return the latency in seconds that halves the edge at the shortest latency of the ladder.

    Between two latencies the edge is interpolated linearly in log(1 + seconds).

    Returns:
        None if the edge is not positive at the shortest latency, or does not fall to half within the ladder.
    """
    edges, seconds = ladder["edge"].to_numpy(), ladder["latency_s"].to_numpy()
    if not len(edges) or not edges[0] > 0:
        return None
    below = np.flatnonzero(edges <= edges[0] / 2)
    if not len(below):
        return None
    at = int(below[0])
    high, low = edges[at - 1], edges[at]
    share = (high - edges[0] / 2) / (high - low)
    a, b = np.log1p(seconds[at - 1]), np.log1p(seconds[at])
    return float(np.expm1(a + share * (b - a)))


def neighbours(signal: CompiledSignal) -> list[CompiledSignal]:
    """Return copies of the signal with one numeric parameter moved one step up or down.

    A step is a tenth of the value, and at least 1 for an integer. Settings that the signal rejects, such as a fraction
    above 1, are left out; a signal without numeric parameters has no neighbours.
    """
    found: list[CompiledSignal] = []
    for name, value in signal.parameters.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value:
            continue
        step = max(1, round(abs(value) / 10)) if isinstance(value, int) else abs(value) / 10
        for moved in (value - step, value + step):
            rounded = moved if isinstance(value, int) else float(f"{moved:.6g}")
            try:
                found.append(type(signal)(**{**signal.parameters, name: rounded}))
            except SignalError:
                continue
    return found


def grid(
    signal: CompiledSignal,
    tape: TapeLike,
    enter: Enter,
    varied: Mapping[str, Sequence[object]] | None = None,
    executor: Executor | int | None = None,
) -> list[GridCell]:
    """Return the entries of the signal and of its neighbouring settings, the signal itself first.

    The tape is read once for all settings.

    Args:
        signal: a signal of `kalshilab.signals`, or a custom one.
        tape: trades of any kind.
        enter: makes entries of fires.
        varied: values of parameters, tried in all combinations; None: `neighbours(signal)`.
        executor: executor that scans the tape, as for `kalshilab.signals.scan`.

    Raises:
        SignalError: the signal rejects a value.
        EdgeError: the signal does not have one of the parameters.
    """
    if varied is None:
        others = neighbours(signal)
    else:
        unknown = [name for name in varied if name not in signal.parameters]
        if unknown:
            raise EdgeError(
                f"grid must name parameters of {signal.name} ({', '.join(signal.parameters)}), got {unknown[0]!r}"
            )
        given = {**signal.parameters, **{name: list(values) for name, values in varied.items()}}
        _, others = cells_of(type(signal), given)
    whole = [signal, *(s for s in others if s.parameters != signal.parameters)]
    fires = scan_cells(tape, whole, executor)
    return [GridCell(dict(s.parameters), s, enter(f)) for s, f in zip(whole, fires, strict=True)]


def summary(cells: Sequence[GridCell]) -> pl.DataFrame:
    """Return a row per cell: the parameters that vary, `n` (fires with a known profit), `edge, lower, upper, p`."""
    if not cells:
        return pl.DataFrame()
    first = cells[0].parameters
    varied = [name for name in first if any(c.parameters[name] != first[name] for c in cells)]
    rows = []
    for cell in cells:
        found = interval(cell.entries)
        rows.append(
            {**{name: cell.parameters[name] for name in varied}, "n": found.n, "edge": found.estimate,
             "lower": found.lower, "upper": found.upper, "p": found.p}
        )  # fmt: skip
    return pl.DataFrame(rows, strict=False)


def interval(entries: pl.DataFrame) -> Interval:
    """Return the edge of entries with its bootstrap interval over events."""
    known = settled(check_entries(entries))
    return _interval(100 * event_means(known), known.height)


def _interval(cents: Floats, n: int) -> Interval:
    """Return the mean of events' means in cents, with a bootstrap interval over the events."""
    if len(cents) < 2:
        alone = float(cents[0]) if len(cents) else float("nan")
        return Interval(alone, float("nan"), float("nan"), 1.0, n, len(cents))
    found = bootstrap(cents / 100, np.arange(len(cents)), resamples=RESAMPLES)
    return Interval(found.estimate, found.lower, found.upper, found.p, n, len(cents))


def _events(entries: pl.DataFrame) -> pl.DataFrame:
    """Return a row per settled event: `event, category, day` (of its first entry), `pnl` (its mean, cents)."""
    known = settled(check_entries(entries))
    return known.group_by("event", maintain_order=True).agg(
        pl.col("category").first(),
        pl.coalesce("entry_ts", "ts").min().dt.date().alias("day"),
        pl.col("pnl").mean() * 100,
    )


def _mean(events: pl.DataFrame) -> float:
    return float(events["pnl"].to_numpy().mean()) if events.height else float("nan")
