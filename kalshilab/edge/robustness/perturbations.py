"""Does the edge hang on one event, one month, one setting, or a price that nobody would have got?

All functions take entries (`kalshilab.edge.ENTRIES_SCHEMA`) or make them with `enter`, a function of fires on the
signal's own terms, and return small frames: edges in cents a contract, the mean over events of the event's mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import polars as pl

from kalshilab.edge.schema import Interval, check_entries, event_means, settled
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.errors import EdgeError, SignalError
from kalshilab.signals.grid import cells_of
from kalshilab.signals.scan import scan_cells
from kalshilab.tape.tape import TapeLike

__all__ = [
    "LADDER",
    "Blocks",
    "Cell",
    "Concentration",
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

Enter = Callable[..., pl.DataFrame]
"""Entries of fires; accepts `latency_s=` and `ticks=` too."""
LADDER: Final = (0.0, 2.0, 60.0, 300.0, 1800.0, 3600.0, 86_400.0)
"""Latencies in seconds: at once, two seconds, a minute, five, half an hour, an hour, a day."""
DRAWS: Final = 399


class Concentration(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the profit hangs on how few."""

    top_share: float
    """Share of the whole profit that the best event made; infinite where there is no profit."""
    without_top: float
    """The edge without the best 1 % of the events (at least one)."""
    without_category: dict[str, float]
    """The edge without each category; empty where there is one only."""
    curve: pl.DataFrame
    """`removed` (share of the events, best first), `edge` of the rest."""


class Blocks(msgspec.Struct, frozen=True):
    """The edge over consecutive stretches of time."""

    frame: pl.DataFrame
    """`block, start, end` (dates of the first and last entry), `n_events, n_days, edge`."""

    @property
    def edges(self) -> list[float]:
        """The edges, in order."""
        return self.frame["edge"].to_list()


class Cell(NamedTuple):
    """A setting of a signal and what it would have bought."""

    parameters: dict[str, Any]
    signal: Any
    entries: pl.DataFrame


def concentration(entries: pl.DataFrame) -> Concentration:
    """How much the edge depends on its best events and on each category.

    An event's profit is the mean of its entries', as in the edge.
    """
    events = _events(entries)
    if events.is_empty():
        nothing = pl.DataFrame(schema={"removed": pl.Float64, "edge": pl.Float64})
        return Concentration(
            top_share=float("inf"), without_top=float("nan"), without_category={}, curve=nothing
        )
    means = events.sort("pnl", descending=True)["pnl"].to_numpy()
    n, total = len(means), float(means.sum())
    # What is left when the best k are gone.
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


def blocks(entries: pl.DataFrame, n: int = 4, min_days: int = 30) -> Blocks:
    """The edge in up to `n` blocks of as many entry days each, at least `min_days`; fewer blocks where time is short.

    A *day* is one with an entry: four consecutive days are not four quarters.
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
    schema: dict[str, Any] = {
        "block": pl.Int64, "start": pl.Date, "end": pl.Date, "n_events": pl.Int64, "n_days": pl.Int64, "edge": pl.Float64,
    }  # fmt: skip
    return Blocks(pl.DataFrame(rows, schema=schema, orient="row"))


def by_category(entries: pl.DataFrame) -> pl.DataFrame:
    """The edge of each category in each month: `category, month` (its first day), `edge, lower, upper, n_events`."""
    events = _events(entries).with_columns(pl.col("day").dt.month_start().alias("month"))
    rows = []
    for (category, month), part in events.group_by(["category", "month"], maintain_order=True):
        found = _interval(part["pnl"].to_numpy(), part.height)
        rows.append((category, month, found.estimate, found.lower, found.upper, part.height))
    schema: dict[str, Any] = {
        "category": pl.String, "month": pl.Date, "edge": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
        "n_events": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").sort("category", "month")


def latency(
    fires: pl.DataFrame, enter: Enter, ladder: Sequence[float] = LADDER, *, keep: pl.DataFrame | None = None
) -> pl.DataFrame:
    """The edge when orders arrive later and later.

    Args:
        keep: entries; only fires that are among them count.

    Returns:
        `latency_s, edge, lower, upper, n` (fires whose profit is known), `fill_rate`.
    """
    rows = []
    for seconds in ladder:
        entries = enter(fires, latency_s=seconds)
        if keep is not None:
            entries = entries.join(keep.select("fire"), on="fire", how="semi", maintain_order="left")
        found = interval(entries)
        rate = float(entries["filled"].mean() or 0.0) if entries.height else float("nan")  # type: ignore[arg-type]
        rows.append((seconds, found.estimate, found.lower, found.upper, found.n, rate))
    schema: dict[str, Any] = {
        "latency_s": pl.Float64, "edge": pl.Float64, "lower": pl.Float64, "upper": pl.Float64, "n": pl.Int64,
        "fill_rate": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def half_life(ladder: pl.DataFrame) -> float | None:
    """The latency, in seconds, at which half of the edge at the shortest one is gone; None if it never is, or there is
    none to lose.  Between two steps of the ladder it is interpolated on log(1 + seconds).
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


def neighbours(signal: Any) -> list[Any]:
    """The signal one step to each side of each of its numbers: a tenth of it, and at least one of a whole one.

    A setting that the signal refuses (a share above 1) is left out.  No numbers, no neighbours.
    """
    found = []
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
    signal: Any,
    tape: TapeLike,
    enter: Enter,
    varied: Mapping[str, Sequence[Any]] | None = None,
    executor: Executor | int | None = None,
) -> list[Cell]:
    """What the signal and its neighbours would have bought, the signal itself first.

    Args:
        signal: of `kalshilab.signals`, or a custom one.
        varied: the values of parameters to try in all combinations; None: `neighbours(signal)`.
        executor: where the tape is scanned, as for `kalshilab.signals.scan`.

    Raises:
        SignalError: a value that the signal refuses.
        EdgeError: a parameter that it does not have.
    """
    if varied is None:
        others = neighbours(signal)
    else:
        unknown = [name for name in varied if name not in signal.parameters]
        if unknown:
            raise EdgeError(f"{signal.name} has no parameter {unknown[0]!r}: {', '.join(signal.parameters)}")
        given = {**signal.parameters, **{name: list(values) for name, values in varied.items()}}
        _, others = cells_of(type(signal), given)
    whole = [signal, *(s for s in others if s.parameters != signal.parameters)]
    fires = scan_cells(tape, whole, executor)
    return [Cell(dict(s.parameters), s, enter(f)) for s, f in zip(whole, fires, strict=True)]


def summary(cells: Sequence[Cell]) -> pl.DataFrame:
    """A row a cell: the parameters that vary, `n` (fires whose profit is known), `edge, lower, upper, p`."""
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
    """The edge of entries with its interval over events."""
    known = settled(check_entries(entries))
    return _interval(100 * event_means(known), known.height)


def _interval(cents: Any, n: int) -> Interval:
    """The mean of events' means (cents), with a bootstrap over them."""
    if len(cents) < 2:
        alone = float(cents[0]) if len(cents) else float("nan")
        return Interval(alone, float("nan"), float("nan"), 1.0, n, len(cents))
    found = bootstrap(np.asarray(cents) / 100, np.arange(len(cents)), b=DRAWS)
    return Interval(found.estimate, found.lower, found.upper, found.p, n, len(cents))


def _events(entries: pl.DataFrame) -> pl.DataFrame:
    """A row a settled event: `event, category, day` (of its first entry), `pnl` (its mean, cents)."""
    known = settled(check_entries(entries))
    return known.group_by("event", maintain_order=True).agg(
        pl.col("category").first(),
        pl.coalesce("entry_ts", "ts").min().dt.date().alias("day"),
        pl.col("pnl").mean() * 100,
    )


def _mean(events: pl.DataFrame) -> float:
    return float(events["pnl"].to_numpy().mean()) if events.height else float("nan")
