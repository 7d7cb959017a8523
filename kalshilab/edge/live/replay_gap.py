"""The paired replay gap: paper trades beside the same strategy replayed on the recording of the same days.

Profit needs thousands of trades to tell a good rule from a lucky one.  The *difference* between what was traded and
what the replay says should have been traded needs tens: both had the same outcomes, so what is left is execution.
The difference is taken apart, and the parts add up to it exactly:

    paper − replay  =  signals only one of them had  +  fills only one of them got  +  price  +  fee  +  settlement

and replay − claim is the residual: luck, or another regime.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from kalshilab.edge.schema import Interval, check_entries
from kalshilab.errors import EdgeError

__all__ = ["Gap", "replay_gap"]

_CENT: Final = 0.01


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """How paper differs from its replay."""

    n_paper: int
    """Fires on paper."""
    n_replay: int
    """Fires in the replay."""
    matched: int
    """Fires in both."""
    matched_share: float
    """matched / fires in either; NaN without any."""
    price: Interval
    """What paper paid above the replay, cents a contract, where both were filled; p: paper is no dearer."""
    trades_for_a_cent: int | None
    """Pairs at which a shortfall of 1 c shows (5 % one-sided, 80 % power), by the spread of `price`."""
    unfilled: int
    """Matched fires that only the replay got filled."""
    unfilled_edge: float
    """What these would have earned, mean cents a contract; NaN without settled ones."""
    residual: Interval | None
    """The replay's edge less the claim, cents: luck or another regime; None without a claim."""
    frame: pl.DataFrame
    """`step, n, total, edge`: from the replay's profit to paper's, in cents a contract summed over fires, and the
    same a fire of either.  Only settled fires count."""

    def __repr__(self) -> str:
        return (
            f"<Gap: {self.matched_share:.0%} of signals matched, paper {self.price.estimate:+.2f} c dearer "
            f"[{self.price.lower:+.2f}, {self.price.upper:+.2f}], {self.unfilled} unfilled>"
        )


def replay_gap(
    paper: pl.DataFrame, replay: pl.DataFrame, *, tolerance: float = 5.0, claim: float | None = None
) -> Gap:
    """Compare paper entries with those of a replay of the same days, trade by trade.

    Args:
        paper: entries as they were made (`kalshilab.edge.ENTRIES_SCHEMA`).
        replay: entries of the same rule on the recorded tape.
        tolerance: seconds between the two fires of one signal, at most; same market and side.
        claim: cents; the edge that was validated.

    Raises:
        EdgeError: these are no entries; a tolerance below 0.
    """
    check_entries(paper)
    check_entries(replay)
    if not tolerance >= 0:
        raise EdgeError(f"tolerance={tolerance}: seconds, from 0")
    pairs, only_paper, only_replay = _paired(paper, replay, tolerance)
    both = pairs.filter("filled", "filled_r")
    dearer = (both["price"] - both["price_r"]).to_numpy()
    price = _interval(dearer, both["event"])
    spread = float(dearer.std(ddof=1)) if len(dearer) > 1 else 0.0
    missed = pairs.filter(~pl.col("filled"), "filled_r", pl.col("pnl_r").is_not_null())
    fires = len(pairs) + len(only_paper) + len(only_replay)
    residual = None
    if claim is not None:
        known = replay.filter(pl.col("pnl").is_not_null())
        residual = _interval(known["pnl"].to_numpy() - claim * _CENT, known["event"])
    return Gap(
        n_paper=len(paper),
        n_replay=len(replay),
        matched=len(pairs),
        matched_share=len(pairs) / fires if fires else math.nan,
        price=price,
        trades_for_a_cent=_pairs_for_a_cent(spread) if spread > 0 else None,
        unfilled=len(pairs.filter(~pl.col("filled"), "filled_r")),
        unfilled_edge=100 * float(missed["pnl_r"].to_numpy().mean()) if len(missed) else math.nan,
        residual=residual,
        frame=_steps(pairs, only_paper, only_replay),
    )


def _paired(
    paper: pl.DataFrame, replay: pl.DataFrame, tolerance: float
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Pairs (the replay's columns end in `_r`), and what either has alone; each fire is in one pair at most.

    Of several candidates the one nearest in time is taken, nearest pairs first.
    """
    left = paper.with_row_index("_paper")
    right = replay.with_row_index("_replay").rename(
        {name: f"{name}_r" for name in replay.columns if name not in ("ticker", "side")}
    )
    apart = (pl.col("ts") - pl.col("ts_r")).dt.total_microseconds().abs()
    pairs = (
        left.join(right, on=["ticker", "side"], how="inner")
        .with_columns(apart.alias("_apart"))
        .filter(pl.col("_apart") <= tolerance * 1e6)
        .sort("_apart", "_paper", "_replay")
    )
    used_paper: set[int] = set()
    used_replay: set[int] = set()
    kept = []
    for i, (p, r) in enumerate(pairs.select("_paper", "_replay").iter_rows()):
        if p not in used_paper and r not in used_replay:
            used_paper.add(p)
            used_replay.add(r)
            kept.append(i)
    return (
        pairs[kept].sort("_paper"),
        left.filter(~pl.col("_paper").is_in(list(used_paper))),
        replay.with_row_index("_replay").filter(~pl.col("_replay").is_in(list(used_replay))),
    )


def _steps(pairs: pl.DataFrame, only_paper: pl.DataFrame, only_replay: pl.DataFrame) -> pl.DataFrame:
    known = pairs.filter(pl.col("pnl").is_not_null(), pl.col("pnl_r").is_not_null())
    alone, lost = (f.filter(pl.col("pnl").is_not_null())["pnl"] for f in (only_paper, only_replay))
    both = known.filter("filled", "filled_r")
    paper_filled = known.filter("filled", ~pl.col("filled_r"))["pnl"]
    replay_filled = known.filter(~pl.col("filled"), "filled_r")["pnl_r"]
    parts = [
        ("only in the replay", -lost),
        ("only on paper", alone),
        ("unfilled on paper", -replay_filled),
        ("filled on paper only", paper_filled),
        ("price", both["price_r"] - both["price"]),
        ("fee", both["fee_r"] - both["fee"]),
        ("settlement", both["value"] - both["value_r"]),
    ]
    replayed = pl.concat([known["pnl_r"], lost])
    fires = len(known) + len(alone) + len(lost)
    rows = [("replay", len(replayed), float(replayed.sum()))]
    rows += [(step, len(values), float(values.sum())) for step, values in parts]
    rows.append(("paper", len(known) + len(alone), sum(total for _, _, total in rows)))
    return pl.DataFrame(
        [(step, n, 100 * total, 100 * total / fires if fires else math.nan) for step, n, total in rows],
        {"step": pl.String, "n": pl.Int64, "total": pl.Float64, "edge": pl.Float64},
        orient="row",
    )


def _interval(values: npt.NDArray[np.float64], events: pl.Series) -> Interval:
    """Mean in cents with a t interval over events; infinite ends with fewer than two events."""
    n = len(values)
    if not n:
        return Interval(math.nan, -math.inf, math.inf, 1.0, 0, 0)
    _, codes = np.unique(events.to_numpy(), return_inverse=True)
    groups, mean = int(codes.max()) + 1, float(values.mean())
    if groups < 2:
        return Interval(100 * mean, -math.inf, math.inf, 1.0, n, groups)
    sums = np.bincount(codes, values - mean)
    se = math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / n
    reach = float(stats.t.ppf(0.975, groups - 1)) * se
    p = float(stats.t.sf(mean / se, groups - 1)) if se > 0 else float(mean <= 0)
    return Interval(100 * mean, 100 * (mean - reach), 100 * (mean + reach), p, n, groups)


def _pairs_for_a_cent(spread: float) -> int:
    z = float(stats.norm.ppf(0.95) + stats.norm.ppf(0.80))
    return math.ceil((z * spread / _CENT) ** 2)
