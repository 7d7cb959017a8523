"""The tables and values that the parts of `kalshilab.edge` hand each other.

**Entries** are one row a fire that was taken up, whatever became of it.  Prices here are dollars of the outcome
that was bought (*our side*), as Float64: from here on they are statistics, not orders.

========== ================= ==========================================================================
column     dtype             meaning
========== ================= ==========================================================================
fire       UInt64            row of the firing print in the tape
ts         Datetime[us, UTC] when it fired
ticker     String            market
event      String            its event: what clusters
series     String            its series
category   String            its category
side       Enum[yes, no]     outcome bought
fired_at   Float64           our side's price of the firing print (entry E1)
mid        Float64           our side's mid as of the fire (entry E2)
filled     Boolean           whether the entry rule got a fill
entry_ts   Datetime[us, UTC] when it was filled; null without a fill
price      Float64           what a contract cost, before fees; null without a fill
fee        Float64           fee a contract at the order's size; null without a fill
cost       Float64           price + fee: the break-even probability; null without a fill
value      Float64           what a contract paid at settlement, from 0 to 1; null while unsettled
settled_ts Datetime[us, UTC] when the cash came; null while unsettled
pnl        Float64           value − cost; 0 without a fill; null when filled and unsettled
exclusive  Boolean           whether at most one market of the event can settle YES
========== ================= ==========================================================================
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.tape.schema import TAKER, TIME

__all__ = [
    "DAY",
    "ENTRIES_SCHEMA",
    "Arrays",
    "Criterion",
    "Interval",
    "arrays_of",
    "check_entries",
    "codes_of",
    "event_means",
    "settled",
]

_ENTRIES: Final[dict[str, Any]] = {
    "fire": pl.UInt64,
    "ts": TIME,
    "ticker": pl.String,
    "event": pl.String,
    "series": pl.String,
    "category": pl.String,
    "side": TAKER,
    "fired_at": pl.Float64,
    "mid": pl.Float64,
    "filled": pl.Boolean,
    "entry_ts": TIME,
    "price": pl.Float64,
    "fee": pl.Float64,
    "cost": pl.Float64,
    "value": pl.Float64,
    "settled_ts": TIME,
    "pnl": pl.Float64,
    "exclusive": pl.Boolean,
}
ENTRIES_SCHEMA: Final = pl.Schema(_ENTRIES)
"""Columns and dtypes of entries."""

DAY: Final = 86_400_000_000
"""Microseconds of a day."""


class Interval(msgspec.Struct, frozen=True):
    """An estimate in cents a contract, with its two-sided 95 % interval and one-sided p-value (edge <= 0)."""

    estimate: float
    lower: float
    upper: float
    p: float
    n: int
    """Entries behind it."""
    clusters: int
    """Independent groups behind it."""


class Criterion(msgspec.Struct, frozen=True):
    """One line of a report card.

    `passed` is None where it was not examined; `detail` then says why.  `label` is the verdict if this is the
    first line that fails.
    """

    number: int
    name: str
    value: str
    threshold: str
    passed: bool | None
    label: str
    detail: str = ""


class Arrays(msgspec.Struct, frozen=True):
    """Settled entries as arrays of one length, in the order of entry (unfilled ones at their fire)."""

    pnl: npt.NDArray[np.float64]
    """Dollars a contract; 0 without a fill."""
    cost: npt.NDArray[np.float64]
    """Dollars; NaN without a fill."""
    event: npt.NDArray[np.int64]
    """Dense codes of events, from 0."""
    day: npt.NDArray[np.int64]
    """Dense codes of entry days (UTC), from 0."""
    yes: npt.NDArray[np.bool_]
    """Whether YES was bought."""
    exclusive: npt.NDArray[np.bool_]
    filled: npt.NDArray[np.bool_]


def check_entries(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame itself, if it holds entries.

    Raises:
        EdgeError: not a polars frame; a column is missing or of another dtype; an event is null.
    """
    given: Any = frame
    if not isinstance(given, pl.DataFrame):
        kind = f"{type(given).__module__.partition('.')[0]}.{type(given).__name__}"
        raise EdgeError(f"entries: {kind} is no polars DataFrame; kl.edge.enter makes entries")
    for name, dtype in ENTRIES_SCHEMA.items():
        if frame.schema.get(name) != dtype:
            raise EdgeError(
                f"entries: column {name} is {frame.schema.get(name, 'missing')}, not {dtype}; kl.edge.enter makes entries"
            )
    if frame["event"].null_count():
        ticker = frame.filter(pl.col("event").is_null())["ticker"][0]
        raise EdgeError(
            f"{ticker} has no event, and what clusters cannot be judged without one; "
            "pass event= to kl.to_markets (a column, or a function of the ticker)"
        )
    return frame


def settled(entries: pl.DataFrame) -> pl.DataFrame:
    """The entries whose profit is known: settled ones, and those without a fill, in the order of entry."""
    known = entries.filter(pl.col("pnl").is_not_null())
    return known.sort(pl.coalesce("entry_ts", "ts"), "fire", maintain_order=True)


def event_means(entries: pl.DataFrame) -> npt.NDArray[np.float64]:
    """Each settled event's mean profit, in dollars a contract, in the order of its name: what an edge is a mean of."""
    means = settled(entries).group_by("event").agg(pl.col("pnl").mean()).sort("event")
    return means["pnl"].to_numpy()


def codes_of(values: pl.Series) -> npt.NDArray[np.int64]:
    """Dense codes from 0, in the order of the values."""
    return (values.rank("dense").cast(pl.Int64) - 1).to_numpy() if values.len() else np.zeros(0, np.int64)


def arrays_of(entries: pl.DataFrame) -> Arrays:
    """The settled entries as arrays."""
    known = settled(entries)
    at = known.select(pl.coalesce("entry_ts", "ts").dt.epoch("us") // DAY).to_series()
    return Arrays(
        pnl=known["pnl"].to_numpy(),
        cost=known["cost"].fill_null(float("nan")).to_numpy(),
        event=codes_of(known["event"]),
        day=codes_of(at),
        yes=(known["side"].cast(pl.String) == "yes").to_numpy(),
        exclusive=known["exclusive"].to_numpy(),
        filled=known["filled"].to_numpy(),
    )
