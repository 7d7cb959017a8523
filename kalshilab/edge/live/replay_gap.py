"""Paired comparison of paper trades with a replay of the same strategy on the recording of the same days.

By profit alone, thousands of trades are needed to distinguish a good rule from a lucky one. The *difference* between
paper and replay needs only tens: both had the same outcomes, so the difference is execution. It is decomposed into
parts that add up to it exactly:

    paper − replay  =  signals only one of them had  +  fills only one of them got  +  price  +  fee  +  settlement

and replay − claim is the residual: luck, or another regime.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import polars as pl
from scipy import stats

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import Floats, Interval, check_entries
from kalshilab.errors import EdgeError
from kalshilab.lazy import renamed

__all__ = ["ReplayGap", "replay_gap"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

_CENT: Final = 0.01


class ReplayGap(msgspec.Struct, frozen=True, kw_only=True):
    """Difference between paper trades and their replay."""

    n_paper: int
    """Signals on paper."""
    n_replay: int
    """Signals in the replay."""
    matched: int
    """Signals in both."""
    matched_share: float
    """`matched` as a fraction of the signals in either; NaN without signals."""
    price: Interval
    """Price paid on paper less that of the replay, in cents per contract, for pairs that were both filled.

    Its p-value is for the null hypothesis that paper does not pay more.
    """
    trades_for_a_cent: int | None
    """Pairs needed to detect a shortfall of 1 cent (5 % one-sided, 80 % power); None if prices do not vary."""
    unfilled: int
    """Matched signals that only the replay filled."""
    unfilled_edge: float
    """Mean profit of these in the replay, in cents per contract; NaN if no such signal has settled."""
    residual: Interval | None
    """Edge of the replay less the claim, in cents per contract: luck or another regime; None without a claim."""
    frame: pl.DataFrame
    """Decomposition from the replay's profit to that of paper, over settled signals: `step, n, total, edge`.

    `total` is in cents per contract summed over signals, `edge` is `total` per signal of either.
    """

    def __repr__(self) -> str:
        return (
            f"<ReplayGap: {self.matched_share:.0%} of signals matched, paper {self.price.estimate:+.2f} c dearer "
            f"[{self.price.lower:+.2f}, {self.price.upper:+.2f}], {self.unfilled} unfilled>"
        )


@renamed_keywords(tolerance="tolerance_s")
def replay_gap(
    paper: pl.DataFrame, replay: pl.DataFrame, *, tolerance_s: float = 5.0, claim: float | None = None
) -> ReplayGap:
    """Compare paper entries with those of a replay of the same days, one by one.

    Args:
        paper: entries as they were made (`kalshilab.edge.ENTRIES_SCHEMA`).
        replay: entries of the same rule on the recorded tape (`kalshilab.edge.ENTRIES_SCHEMA`).
        tolerance_s: largest distance in seconds between two signals of one market and side that form a pair.
        claim: validated edge in cents per contract; without it, no `residual` is computed.

    Raises:
        EdgeError: `paper` or `replay` is not a table of entries, or `tolerance_s` is negative.
    """
    check_entries(paper)
    check_entries(replay)
    if not tolerance_s >= 0:
        raise EdgeError(f"tolerance_s must be at least 0 seconds, got {tolerance_s}")
    pairs, only_paper, only_replay = _paired(paper, replay, tolerance_s)
    both = pairs.filter("filled", "filled_r")
    shortfall = (both["price"] - both["price_r"]).to_numpy()
    price = _interval(shortfall, both["event"])
    deviation = float(shortfall.std(ddof=1)) if len(shortfall) > 1 else 0.0
    missed = pairs.filter(~pl.col("filled"), "filled_r", pl.col("pnl_r").is_not_null())
    fires = len(pairs) + len(only_paper) + len(only_replay)
    residual = None
    if claim is not None:
        known = replay.filter(pl.col("pnl").is_not_null())
        residual = _interval(known["pnl"].to_numpy() - claim * _CENT, known["event"])
    return ReplayGap(
        n_paper=len(paper),
        n_replay=len(replay),
        matched=len(pairs),
        matched_share=len(pairs) / fires if fires else math.nan,
        price=price,
        trades_for_a_cent=_pairs_for_a_cent(deviation) if deviation > 0 else None,
        unfilled=len(pairs.filter(~pl.col("filled"), "filled_r")),
        unfilled_edge=100 * float(missed["pnl_r"].to_numpy().mean()) if len(missed) else math.nan,
        residual=residual,
        frame=_steps(pairs, only_paper, only_replay),
    )


def _paired(
    paper: pl.DataFrame, replay: pl.DataFrame, tolerance_s: float
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Match signals one to one, nearest in time first.

    Returns:
        Pairs (the replay's columns end in `_r`), unmatched paper entries, and unmatched replay entries.
    """
    left = paper.with_row_index("_paper")
    right = replay.with_row_index("_replay").rename(
        {name: f"{name}_r" for name in replay.columns if name not in ("ticker", "side")}
    )
    apart = (pl.col("ts") - pl.col("ts_r")).dt.total_microseconds().abs()
    pairs = (
        left.join(right, on=["ticker", "side"], how="inner")
        .with_columns(apart.alias("_apart"))
        .filter(pl.col("_apart") <= tolerance_s * 1e6)
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
    """Decompose the difference in profit into its causes (`ReplayGap.frame`)."""
    known = pairs.filter(pl.col("pnl").is_not_null(), pl.col("pnl_r").is_not_null())
    extra, missed = (f.filter(pl.col("pnl").is_not_null())["pnl"] for f in (only_paper, only_replay))
    both = known.filter("filled", "filled_r")
    paper_filled = known.filter("filled", ~pl.col("filled_r"))["pnl"]
    replay_filled = known.filter(~pl.col("filled"), "filled_r")["pnl_r"]
    parts = [
        ("only in the replay", -missed),
        ("only on paper", extra),
        ("unfilled on paper", -replay_filled),
        ("filled on paper only", paper_filled),
        ("price", both["price_r"] - both["price"]),
        ("fee", both["fee_r"] - both["fee"]),
        ("settlement", both["value"] - both["value_r"]),
    ]
    replayed = pl.concat([known["pnl_r"], missed])
    fires = len(known) + len(extra) + len(missed)
    rows = [("replay", len(replayed), float(replayed.sum()))]
    rows += [(step, len(values), float(values.sum())) for step, values in parts]
    rows.append(("paper", len(known) + len(extra), sum(total for _, _, total in rows)))
    return pl.DataFrame(
        [(step, n, 100 * total, 100 * total / fires if fires else math.nan) for step, n, total in rows],
        {"step": pl.String, "n": pl.Int64, "total": pl.Float64, "edge": pl.Float64},
        orient="row",
    )


def _interval(values: Floats, events: pl.Series) -> Interval:
    """Return the mean in cents with a t interval over events; its ends are infinite with fewer than two events."""
    n = len(values)
    if not n:
        return Interval(math.nan, -math.inf, math.inf, 1.0, 0, 0)
    _, codes = np.unique(events.to_numpy(), return_inverse=True)
    groups, mean = int(codes.max()) + 1, float(values.mean())
    if groups < 2:
        return Interval(100 * mean, -math.inf, math.inf, 1.0, n, groups)
    sums = np.bincount(codes, values - mean)
    se = math.sqrt(groups / (groups - 1) * float((sums**2).sum())) / n
    half_width = float(stats.t.ppf(0.975, groups - 1)) * se
    p = float(stats.t.sf(mean / se, groups - 1)) if se > 0 else float(mean <= 0)
    return Interval(100 * mean, 100 * (mean - half_width), 100 * (mean + half_width), p, n, groups)


def _pairs_for_a_cent(deviation: float) -> int:
    z = float(stats.norm.ppf(0.95) + stats.norm.ppf(0.80))
    return math.ceil((z * deviation / _CENT) ** 2)
