"""Profit in the order it came in, beside what luck alone would have made of the same entries."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import numpy as np
import polars as pl

from kalshilab.edge.schema import arrays_of, check_entries, settled
from kalshilab.edge.stats.martingale import intraclass, null_means
from kalshilab.tape.schema import TIME

__all__ = ["equity"]

POINTS: Final = 24
"""Places at which the null's fan is drawn from; it is interpolated between them."""
DRAWS: Final = 400
_COLUMNS: Final[dict[str, Any]] = {
    "ts": TIME,
    "event": pl.String,
    "pnl": pl.Float64,
    "total": pl.Float64,
    "null_low": pl.Float64,
    "null_mid": pl.Float64,
    "null_high": pl.Float64,
    "lockbox": pl.Boolean,
}


def equity(entries: pl.DataFrame, *, lockbox: datetime | None = None, seed: int = 0) -> pl.DataFrame:
    """A row an event, in the order in which events were settled (entered, where that time is unknown).

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`; what is not settled is left out.
        lockbox: where the lockbox begins.
        seed: of the null's draws.

    Returns:
        `ts, event, pnl` (the event's mean, cents a contract), `total` (their running sum), `null_low`, `null_mid`,
        `null_high` (5, 50 and 95 % of the running sum in worlds where every entry wins with its break-even
        probability, see `kalshilab.edge.stats.martingale`), `lockbox` (whether the event lies in it).
    """
    known = settled(check_entries(entries))
    if known.is_empty():
        return pl.DataFrame(schema=_COLUMNS)
    when = pl.coalesce("settled_ts", "entry_ts", "ts")
    events = (
        known.group_by("event", maintain_order=True)
        .agg(when.max().alias("ts"), pl.col("pnl").mean() * 100)
        .sort("ts", "event")
        .with_columns(pl.col("pnl").cum_sum().alias("total"), pl.int_range(1, pl.len() + 1).alias("_place"))
    )
    places = np.unique(np.linspace(1, events.height, min(POINTS, events.height)).round().astype(np.int64))
    rho = intraclass(arrays_of(known))
    fan = []
    for place in places.tolist():
        part = known.join(events.head(place).select("event"), on="event", how="semi", maintain_order="left")
        sums = 100 * place * null_means(part, resamples=DRAWS, rho=rho, seed=seed)
        fan.append(np.quantile(sums, [0.05, 0.5, 0.95]))
    # Before the first event everything is nothing.
    at = events["_place"].to_numpy()
    low, mid, high = (np.interp(at, [0, *places], [0.0, *column]) for column in np.array(fan).T)
    inside = pl.lit(False) if lockbox is None else pl.col("ts") >= lockbox
    return events.with_columns(
        pl.Series("null_low", low),
        pl.Series("null_mid", mid),
        pl.Series("null_high", high),
        inside.alias("lockbox"),
    ).select(pl.col(name).cast(dtype) for name, dtype in _COLUMNS.items())
