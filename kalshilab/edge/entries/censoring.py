"""Right-censoring: keep the fires whose outcomes must be known by now, by the time of the fire.

A market "by date X" settles YES early and NO late. A sample of *settled* markets therefore leans to YES, and more so
near the end of the data: in a fair world with a constant hazard, by about 10 cents for the last two months. So fires
are selected by the time of the fire, never by that of settlement: only fires old enough that every market of their age has
settled are kept. Kaplan & Meier (1958) weight censored observations; here they are left out and counted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import polars as pl

from kalshilab.edge.schema import check_entries
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import TapeLike
from kalshilab.units import PRICE

__all__ = ["Cohort", "censor", "marked"]

MOST: Final = 0.02
"""Share of unsettled fires within the kept cohorts above which a verdict is doubtful."""


class Cohort(msgspec.Struct, frozen=True, kw_only=True):
    """The fires that are judged, and how many were left out."""

    cut: datetime | None
    """Time up to which fires are kept, inclusive; None: all."""
    horizon: timedelta | None
    """Longest time allowed from a fire to its settlement."""
    kept: int
    """Number of fires kept."""
    dropped: int
    """Number of younger fires, left out whether settled or not."""
    unsettled: int
    """Number of kept fires without an outcome."""
    undated: int
    """Number of kept fires with an outcome but without a settlement time."""

    @property
    def uncut(self) -> bool:
        """Whether fires are open and no settlement has a time, so that no cohort can be cut.

        The settled fires may then be only those that settled early.
        """
        return self.horizon is None and self.unsettled > 0

    @property
    def share(self) -> float:
        """Fraction of the kept fires without an outcome; 1 where no cohort could be cut."""
        if self.uncut:
            return 1.0
        return self.unsettled / self.kept if self.kept else 0.0

    @property
    def detail(self) -> str:
        """Summary of the censoring in one sentence; empty if nothing was left out."""
        parts = []
        if self.dropped and self.cut is not None:
            parts.append(
                f"{self.dropped:,} fires after {self.cut:%Y-%m-%d} left out: not all of their age are settled"
            )
        if self.unsettled:
            parts.append(f"{self.unsettled:,} fires without an outcome")
        if self.undated:
            parts.append(f"{self.undated:,} settled at an unknown time")
        if self.uncut:
            parts.append("no cohort could be cut: the markets table has no settlement times")
        return "; ".join(parts)


def censor(
    entries: pl.DataFrame, *, data_end: datetime, horizon: timedelta | None = None
) -> tuple[pl.DataFrame, Cohort]:
    """Return the entries old enough for their outcome to be known, and a summary of the others.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        data_end: time up to which outcomes are known, inclusive; UTC if it has no time zone.
        horizon: longest time from a fire to its settlement. None: the longest time among settled fires, so that a
            market still open would be slower than all those observed; if every fire is settled, nothing is left out.

    >>> from kalshilab.edge import simulated_entries
    >>> entries, _ = simulated_entries.entries(100, seed=1)
    >>> kept, cohort = censor(entries, data_end=entries["settled_ts"].max())
    >>> kept.height, cohort.share
    (100, 0.0)

    Raises:
        EdgeError: `entries` lacks columns of entries, or `data_end` is not a datetime.
    """
    check_entries(entries)
    if not isinstance(data_end, datetime):
        raise EdgeError(f"data_end must be a datetime, got {data_end!r}")
    if data_end.tzinfo is None:
        data_end = data_end.replace(tzinfo=UTC)
    open_ = pl.col("value").is_null()
    waits = entries.select((pl.col("settled_ts") - pl.col("ts")).max()).item()
    if not entries.select(open_.any()).item() or (horizon is None and waits is None):
        return entries, _cohort(entries, None, horizon, 0)
    longest = waits if horizon is None else horizon
    cut = data_end - longest
    kept = entries.filter(pl.col("ts") <= cut)
    return kept, _cohort(kept, cut, longest, entries.height - kept.height)


def marked(entries: pl.DataFrame, tape: TapeLike, half_spread_cents: float) -> pl.DataFrame:
    """Return the entries with unsettled ones marked to market: valued at the bid of our side at the last print.

    That bid is the price of the last print if its taker sold our side, else that price less the spread.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        tape: the tape, of any kind.
        half_spread_cents: half the spread in cents.
    """
    open_ = pl.col("value").is_null() & pl.col("filled")
    tickers = check_entries(entries).filter(open_)["ticker"].unique()
    if tickers.is_empty():
        return entries
    price, spread = pl.col("price").cast(pl.Float64) / PRICE, half_spread_cents / 50
    bought = pl.col("taker").cast(pl.String) == "yes"
    last = (
        tape_of(tape, ("ts", "price", "taker"))
        .lazy()
        .select(pl.col("ticker").cast(pl.String), "price", "taker")
        .filter(pl.col("ticker").is_in(tickers.implode()))
        .group_by("ticker", maintain_order=True)
        .last()
        .select(
            "ticker",
            _bid=pl.when(bought).then(price - spread).otherwise(price),
            _ask=pl.when(bought).then(price).otherwise(price + spread),
        )
        .collect()
    )
    ours = (
        pl.when(pl.col("side").cast(pl.String) == "yes").then("_bid").otherwise(1 - pl.col("_ask")).clip(0, 1)
    )
    with_bids = entries.join(last, on="ticker", how="left", maintain_order="left")
    valued = with_bids.with_columns(value=pl.when(open_).then(ours).otherwise("value"))
    return valued.with_columns(pnl=pl.coalesce("pnl", pl.col("value") - pl.col("cost"))).drop("_bid", "_ask")


def _cohort(kept: pl.DataFrame, cut: datetime | None, horizon: timedelta | None, dropped: int) -> Cohort:
    unsettled = kept["value"].null_count()
    undated = kept.filter(pl.col("value").is_not_null() & pl.col("settled_ts").is_null()).height
    return Cohort(
        cut=cut, horizon=horizon, kept=kept.height, dropped=dropped, unsettled=unsettled, undated=undated
    )
