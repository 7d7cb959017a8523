"""Cumulative profit in the order of settlement, beside the range of the same entries without an edge."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.edge.schema import arrays_of, check_entries, settled
from kalshilab.edge.stats.martingale import intraclass, null_means
from kalshilab.tape.schema import TIME

__all__ = ["equity"]

POINTS: Final = 24
"""Number of events at which the null distribution is simulated; it is interpolated between them."""
RESAMPLES: Final = 400
_COLUMNS: Final[dict[str, PolarsDataType]] = {
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
    """Return the cumulative profit, one row per event, in the order of settlement (of entry if that time is unknown).

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`; unsettled ones are left out.
        lockbox: time at which the lockbox begins; None: without a lockbox.
        seed: seed of the simulated null distribution.

    Returns:
        `ts, event, pnl` (mean profit of the event, cents per contract), `total` (running sum of `pnl`), `null_low`,
        `null_mid`, `null_high` (5, 50 and 95 % quantiles of the running sum if every entry wins with its break-even
        probability, see `kalshilab.edge.stats.martingale`), `lockbox` (whether the event lies in the lockbox).
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
    quantiles = []
    for place in places.tolist():
        part = known.join(events.head(place).select("event"), on="event", how="semi", maintain_order="left")
        sums = 100 * place * null_means(part, resamples=RESAMPLES, rho=rho, seed=seed)
        quantiles.append(np.quantile(sums, [0.05, 0.5, 0.95]))
    # The running sum is zero before the first event.
    at = events["_place"].to_numpy()
    low, mid, high = (np.interp(at, [0, *places], [0.0, *column]) for column in np.array(quantiles).T)
    inside = pl.lit(False) if lockbox is None else pl.col("ts") >= lockbox
    return events.with_columns(
        pl.Series("null_low", low),
        pl.Series("null_mid", mid),
        pl.Series("null_high", high),
        inside.alias("lockbox"),
    ).select(pl.col(name).cast(dtype) for name, dtype in _COLUMNS.items())
