"""Profit of entries: edge in cents, return on cost, and return on the capital while it is tied up.

The profit of a contract held to settlement is π = V − A − φ: its value (not always 0 or 1) less its price less its fee.
**Edge** is the mean of π in cents per contract, never a percentage. It is weighted in three ways, which agree in sign on
a robust edge:

* per event: the mean over events of the event's mean, where a fire without a fill counts as 0. This edge is judged;
* per fire: the mean over filled fires;
* per dollar: Σπ / Σc, the ratio of sums (return on cost).

**Capital-time**: a dollar is tied up from the fill until the cash arrives, at settlement rather than at the close.
Profit per dollar-day is Σπ / Σ(c·h); a year has 365 days, with simple interest.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.edge.schema import check_entries, event_means, settled
from kalshilab.market.fee_schedule import FeeSchedule

__all__ = ["Measures", "Role", "measure", "refee", "sizes"]

Role = Literal["taker", "maker"]

YEAR: Final = 365.0


class Measures(msgspec.Struct, frozen=True, kw_only=True):
    """Profit of entries. Edges are in cents per contract; the mean of an empty sample is NaN."""

    n_fires: int
    """Number of fires."""
    n_filled: int
    """Number of fires with a fill."""
    fill_rate: float
    """Fraction of fires with a fill."""
    n_settled: int
    """Number of fires whose profit is known, including those without a fill."""
    n_events: int
    """Number of events with a settled fill."""
    n_days: int
    """Number of days (UTC) with a settled fill."""
    n_losses: int
    """Number of settled fills with a loss."""
    win_rate: float
    """Mean value of a filled contract in percent: the share that won, if all pay 0 or 1."""
    break_even: float
    """Mean cost in cents, which is the win rate in percent with zero profit."""
    mean_price: float
    """Mean price in cents, before fees."""
    gross: float
    """Like `edge`, before fees."""
    edge: float
    """Mean over events of the event's mean profit; this is judged."""
    edge_per_fire: float
    """Mean profit over filled fires."""
    edge_per_dollar: float
    """Profit over cost as a ratio of sums, a fraction."""
    hold_days: float
    """Mean time the capital is tied up, in days; NaN where settlement times are unknown."""
    per_dollar_day: float
    """Profit per dollar and day, a fraction."""
    annualised: float
    """`per_dollar_day` times 365, a fraction."""

    @property
    def fragile(self) -> bool:
        """Whether the sign depends on the weighting."""
        return len({v > 0 for v in (self.edge, self.edge_per_fire, self.edge_per_dollar)}) > 1


def measure(entries: pl.DataFrame) -> Measures:
    """Measure the profit of entries; an unsettled entry counts only as a fire.

    >>> from kalshilab.edge import simulated_entries
    >>> entries, _ = simulated_entries.entries(500, edge=5.0, seed=3)
    >>> found = measure(entries)
    >>> found.n_events, bool(abs(found.win_rate - found.break_even - found.edge_per_fire) < 1e-9)
    (500, True)

    Raises:
        EdgeError: `entries` lacks columns of entries.
    """
    known = settled(check_entries(entries))
    filled = known.filter("filled")
    day = filled["entry_ts"].dt.date()
    held = filled.filter(pl.col("settled_ts").is_not_null()).with_columns(
        ((pl.col("settled_ts") - pl.col("entry_ts")).dt.total_microseconds() / 8.64e10).alias("held")
    )
    bound = float((held["cost"] * held["held"]).sum())
    a_day = float(held["pnl"].sum()) / bound if bound > 0 else float("nan")
    before = known.with_columns(
        pl.when("filled").then(pl.col("value") - pl.col("price")).otherwise(0.0).alias("pnl")
    )
    return Measures(
        n_fires=entries.height,
        n_filled=int(entries["filled"].sum()),
        fill_rate=_mean(entries["filled"].cast(pl.Float64)),
        n_settled=known.height,
        n_events=filled["event"].n_unique(),
        n_days=day.n_unique(),
        n_losses=int((filled["pnl"] < 0).sum()),
        win_rate=100 * _mean(filled["value"]),
        break_even=100 * _mean(filled["cost"]),
        mean_price=100 * _mean(filled["price"]),
        gross=100 * _mean(event_means(before)),
        edge=100 * _mean(event_means(known)),
        edge_per_fire=100 * _mean(filled["pnl"]),
        edge_per_dollar=float(filled["pnl"].sum()) / float(filled["cost"].sum())
        if filled.height
        else float("nan"),
        hold_days=_mean(held["held"]),
        per_dollar_day=a_day,
        annualised=YEAR * a_day,
    )


def refee(
    entries: pl.DataFrame,
    contracts: int,
    markets: pl.DataFrame,
    schedule: FeeSchedule | None = None,
    *,
    role: Role = "taker",
) -> pl.DataFrame:
    """Return the same fills in orders of another size, with fees, costs and profits recomputed.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        contracts: size of each order in contracts.
        markets: the markets table, for fee types and multipliers.
        schedule: fees by date; None: `FeeSchedule()`.
        role: "taker" or "maker", for the fee.
    """
    terms = check_entries(entries).join(
        markets.select("ticker", "fee_type", "fee_multiplier"), on="ticker", how="left", maintain_order="left"
    )
    some = terms.select("series", pl.coalesce("entry_ts", "ts").alias("ts"), "fee_type", "fee_multiplier")
    price = entries["price"].fill_null(0.0).to_numpy()
    fees = (schedule or FeeSchedule()).fees(some, price, contracts=contracts, role=role)
    return (
        entries.with_columns(pl.when("filled").then(pl.Series(fees)).alias("fee"))
        .with_columns((pl.col("price") + pl.col("fee")).alias("cost"))
        .with_columns(pl.when("filled").then(pl.col("value") - pl.col("cost")).otherwise(0.0).alias("pnl"))
    )


def sizes(
    entries: pl.DataFrame, markets: pl.DataFrame, *, schedule: FeeSchedule | None = None, role: Role = "taker"
) -> dict[int, float]:
    """Return the edge in cents for orders of 1, 10 and 100 contracts; small orders pay for the rounding of their fees."""
    return {c: measure(refee(entries, c, markets, schedule, role=role)).edge for c in (1, 10, 100)}


def _mean(values: pl.Series | npt.NDArray[np.float64]) -> float:
    return float(np.mean(np.asarray(values))) if len(values) else float("nan")
