"""Whose outcomes are known: cohorts by the day of their fire, never by the day of settlement.

A market "by date X" settles YES early and NO late.  A sample of what *is* settled therefore leans to YES, the more
so the nearer to the end of the data: in a fair world with a constant hazard, by some 10 cents for the last two
months.  The cure is to keep fires by when they fired: those old enough that every market of their age has been
settled, whatever became of it (right-censoring by design: Kaplan & Meier 1958 weight what is cut; here it is left
out, and counted).
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
    """Which fires are judged."""

    cut: datetime | None
    """Fires up to this instant are kept; None: all."""
    horizon: timedelta | None
    """The longest time from a fire to settlement that was waited for."""
    kept: int
    dropped: int
    """Younger fires, left out whatever became of them."""
    unsettled: int
    """Kept fires whose outcome is not known all the same."""
    undated: int
    """Kept fires that are settled at a time that is not known."""

    @property
    def uncut(self) -> bool:
        """Whether fires are open and nothing says how long a settlement takes: what settled early is all there is, and
        of the rest nobody knows how much there will be."""
        return self.horizon is None and self.unsettled > 0

    @property
    def share(self) -> float:
        """Of the kept fires, the share whose outcome is not known; all of them where no cohort could be cut."""
        if self.uncut:
            return 1.0
        return self.unsettled / self.kept if self.kept else 0.0

    @property
    def detail(self) -> str:
        """What was done, in a sentence; empty when nothing was."""
        said = []
        if self.dropped and self.cut is not None:
            said.append(
                f"{self.dropped:,} fires after {self.cut:%Y-%m-%d} left out: not all of their age are settled"
            )
        if self.unsettled:
            said.append(f"{self.unsettled:,} fires without an outcome")
        if self.undated:
            said.append(f"{self.undated:,} settled at an unknown time")
        if self.uncut:
            said.append("no cohort could be cut: the markets table says of no settlement when it was")
        return "; ".join(said)


def censor(
    entries: pl.DataFrame, *, data_end: datetime, horizon: timedelta | None = None
) -> tuple[pl.DataFrame, Cohort]:
    """The entries of the cohorts that are old enough to be known.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        data_end: until when outcomes are known; an instant without a time zone is UTC.
        horizon: the longest a market may take from a fire to settlement.  None: where every fire is settled, nothing
            needs to be left out; else the longest time that a settled one took, so that whatever is still open would
            have to be slower than all that were seen.

    >>> from kalshilab.edge import simulated_entries
    >>> entries, _ = simulated_entries.entries(100, seed=1)
    >>> kept, cohort = censor(entries, data_end=entries["settled_ts"].max())
    >>> kept.height, cohort.share
    (100, 0.0)

    Raises:
        EdgeError: these are no entries, or `data_end` is no instant.
    """
    check_entries(entries)
    if not isinstance(data_end, datetime):
        raise EdgeError(f"data_end={data_end!r}: an instant is asked for, a datetime")
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


def marked(entries: pl.DataFrame, tape: TapeLike, half_spread: float) -> pl.DataFrame:
    """The entries with those that are not settled valued at what they could be sold for at the last print.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        tape: a frame or a lake, whose last print of each market tells the bid of our side: where its taker sold it
            that print's price, else a spread below.
        half_spread: cents.
    """
    open_ = pl.col("value").is_null() & pl.col("filled")
    tickers = check_entries(entries).filter(open_)["ticker"].unique()
    if tickers.is_empty():
        return entries
    price, spread = pl.col("price").cast(pl.Float64) / PRICE, half_spread / 50
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
