"""Tables and values that the modules of `kalshilab.edge` exchange.

**Entries** have one row per signal that the entry rule considered, whether or not it was filled, settled or lost.
Prices in this table are dollars per contract of the outcome that was bought (*our side*), as Float64: from here on
they are statistics and not orders. Instants are UTC.

========== ================= ============ =========== =========================================================
column     dtype             unit         known at    meaning
========== ================= ============ =========== =========================================================
fire       UInt64            row number   signal      row of the triggering print in the tape
ts         Datetime[us, UTC] instant      signal      time of the triggering print
ticker     String            –            signal      market
event      String            –            signal      event of the market, the cluster; never null
series     String            –            signal      series of the event
category   String            –            signal      category of the series; may be null
side       Enum[yes, no]     –            signal      outcome bought
fired_at   Float64           $ a contract signal      our side's price of the triggering print (E1)
mid        Float64           $ a contract signal      our side's mid (E2)
filled     Boolean           –            window end  whether the entry rule was filled
entry_ts   Datetime[us, UTC] instant      fill        time of the fill; null if unfilled
price      Float64           $ a contract fill        price before fees; null if unfilled
fee        Float64           $ a contract fill        fee at the order's size; null if unfilled
cost       Float64           $ a contract fill        price + fee, the break-even probability; null if unfilled
value      Float64           $ a contract settlement  payout, from 0 to 1; null while unsettled
settled_ts Datetime[us, UTC] instant      settlement  time of the payout; null while unsettled
pnl        Float64           $ a contract settlement  value − cost; 0 if unfilled; null if filled and unsettled
exclusive  Boolean           –            signal      whether at most one market of the event can settle YES
========== ================= ============ =========== =========================================================

"Known at" names the earliest moment at which a live program has the value: at the signal (as of `ts`, inclusive), at
the fill (`entry_ts`), at the end of the entry window, or at settlement (`settled_ts`).

The profit of an unfilled entry is 0 and known at the end of the entry window.
"""

from __future__ import annotations

from typing import Final

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
    "Bools",
    "ColumnType",
    "Criterion",
    "Floats",
    "Integers",
    "Interval",
    "arrays_of",
    "check_entries",
    "codes_of",
    "event_means",
    "settled",
]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
ColumnType = pl.DataType | type[pl.DataType]
"""Type of a column in a schema: an instance such as `pl.Datetime("us")`, or a class such as `pl.Float64`."""

_ENTRIES: Final[dict[str, ColumnType]] = {
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
"""Columns and dtypes of entries; the table above gives the unit and the timing of each."""

DAY: Final = 86_400_000_000
"""Microseconds per day."""


class Interval(msgspec.Struct, frozen=True):
    """An estimate in cents per contract, with its two-sided 95 % interval and one-sided p-value (edge <= 0)."""

    estimate: float
    lower: float
    upper: float
    p: float
    n: int
    """Entries in the sample."""
    clusters: int
    """Independent clusters in the sample."""


class Criterion(msgspec.Struct, frozen=True):
    """One line of a report card.

    A line that was not examined has `passed=None` and gives the reason in `detail`. `label` is the verdict if this is
    the first line that fails.
    """

    number: int
    name: str
    value: str
    threshold: str
    passed: bool | None
    label: str
    detail: str = ""


class Arrays(msgspec.Struct, frozen=True):
    """Settled entries as arrays of equal length, sorted by entry time (unfilled ones by signal time)."""

    pnl: Floats
    """Dollars per contract; 0 if unfilled."""
    cost: Floats
    """Dollars per contract; NaN if unfilled."""
    event: Integers
    """Dense event codes, from 0."""
    day: Integers
    """Dense codes of entry days (UTC), from 0."""
    yes: Bools
    """Whether YES was bought."""
    exclusive: Bools
    """Whether at most one market of the event can settle YES."""
    filled: Bools


def check_entries(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame itself if it is a valid table of entries.

    Raises:
        EdgeError: the frame is not a polars DataFrame, a column is missing or has another dtype, or an event is null.
    """
    given: object = frame
    if not isinstance(given, pl.DataFrame):
        kind = f"{type(given).__module__.partition('.')[0]}.{type(given).__name__}"
        raise EdgeError(f"entries must be a polars DataFrame as returned by kl.edge.enter, got {kind}")
    for name, dtype in ENTRIES_SCHEMA.items():
        if frame.schema.get(name) != dtype:
            raise EdgeError(
                f"entries: column {name} must be {dtype}, got {frame.schema.get(name, 'no such column')}; "
                "kl.edge.enter returns valid entries"
            )
    if frame["event"].null_count():
        ticker = frame.filter(pl.col("event").is_null())["ticker"][0]
        raise EdgeError(
            f"{ticker} has no event, and profits cannot be clustered without one; "
            "pass event= to kl.to_markets (a column, or a function of the ticker)"
        )
    return frame


def settled(entries: pl.DataFrame) -> pl.DataFrame:
    """Return the entries whose profit is known (settled or unfilled), sorted by entry time."""
    known = entries.filter(pl.col("pnl").is_not_null())
    return known.sort(pl.coalesce("entry_ts", "ts"), "fire", maintain_order=True)


def event_means(entries: pl.DataFrame) -> Floats:
    """Return each settled event's mean profit in dollars per contract, sorted by event name.

    The edge of a sample is the mean of these.
    """
    means = settled(entries).group_by("event").agg(pl.col("pnl").mean()).sort("event")
    return means["pnl"].to_numpy()


def codes_of(values: pl.Series) -> Integers:
    """Return dense codes from 0, in the order of the values."""
    return (values.rank("dense").cast(pl.Int64) - 1).to_numpy() if values.len() else np.zeros(0, np.int64)


def arrays_of(entries: pl.DataFrame) -> Arrays:
    """Return the settled entries as arrays."""
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
