"""The forbidden method: judging a market by its whole life, and entering at the average price of that life.

.. warning::
   Everything here looks ahead.  It exists to show what looking ahead is worth, beside what was possible: no verdict
   uses it.

The published system judged reverse line movement so: of a market's *whole* life, the share of trades whose taker
bought YES is above a threshold, there are enough trades, and the *last* price is below the first; NO is then bought
at the *mean* NO price of that life.  Its +17.38 cents (audited: +1.97 at the fire, −1.15 against its price bucket,
about +0.4 after the fee and before the spread) are what this method shows on fair markets, too.

**Why.**  Let P_t = P(YES | what was known at t), w_t the share of trades at t, F the event that the filter keeps the
market.  On a fair market

    E[A − Y | F] = −(1 / P(F)) · Σ_t w_t · E[Cov(Y, 1_F | F_t)],          A = Σ_t w_t P_t,

which is zero only if at each t the rest of the filter is uncorrelated with the outcome.  "The last price is below
the first" is not.  At its worst, F = {Y = 0}, it is p0 · (1 − V), V the trade-weighted mean of Var(P_t) / (p0 (1 − p0)).

The check by price buckets does not help: it compares markets of the same *life-mean* price, and at a given mean, "it
ended lower" still tells the outcome.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import check_markets
from kalshilab.tape.tape import Tape, TapeLike
from kalshilab.units import PRICE, cents

__all__ = ["Checklist", "WholeLife", "checklist", "last_print_edge", "whole_life_edge"]

READS: Final = ("ts", "price", "taker")
BUCKET: Final = 5
"""Cents of NO price."""
IN_BASELINE: Final = 20
IN_SIGNAL: Final = 5
_BUCKETS: Final[dict[str, Any]] = {
    "low": pl.Int64, "high": pl.Int64, "n": pl.Int64, "edge": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
    "baseline_edge": pl.Float64, "baseline_n": pl.Int64, "excess": pl.Float64,
}  # fmt: skip


class WholeLife(msgspec.Struct, frozen=True, kw_only=True):
    """What the forbidden method reports.  Edges and prices are cents, rates percent."""

    edge: float
    """Win rate less mean price."""
    excess: float
    """Over all markets of the same bucket of 5 cents, weighted by the signal's."""
    buckets_positive: int
    buckets: int
    """Buckets with 20 markets in all and 5 of the signal's."""
    n: int
    """Markets that the filter keeps."""
    win_rate: float
    price: float
    """Mean NO price of those markets."""
    z: float
    """(wins − n·b) / √(n·b·(1 − b)), b the mean price: independent bets at one price, which they are not."""
    frame: pl.DataFrame
    """A row a bucket: `low, high, n, edge, lower, upper, baseline_edge, baseline_n, excess`."""

    def __repr__(self) -> str:
        return (
            f"<WholeLife (looks ahead): {self.edge:+.2f} c, excess {self.excess:+.2f} c, "
            f"{self.buckets_positive} of {self.buckets} buckets positive, n = {self.n:,}>"
        )


class Checklist(msgspec.Struct, frozen=True, kw_only=True):
    """The published system's own five checks."""

    significant: bool
    """z above 3.09 (p < 0.001)."""
    buckets: bool
    """At least 80 % of the buckets positive."""
    bootstrap: bool
    """The 95 % interval of a bootstrap over markets lies above 0."""
    blocks: bool
    """Positive in each of four blocks of time."""
    held_out: bool
    """Positive on the last 20 % of the markets."""

    @property
    def passed(self) -> bool:
        """All of them."""
        return all(msgspec.structs.astuple(self))


def whole_life_edge(
    tape: TapeLike,
    markets: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 5,
    min_drop: float = 0,
) -> WholeLife:
    """The edge of reverse line movement as published: filter and entry over the whole life.

    .. warning:: Looks ahead; see the module.

    Args:
        tape: a tape of any frame kind, or a lake (which is read once).
        markets: `kl.to_markets`; unsettled markets are left out.
        yes_threshold: the share of prints with a YES taker has to be above it.
        min_trades: prints at least.
        min_drop: cents by which the last YES price is below the first, at least; 0: strictly below.

    >>> import kalshilab as kl
    >>> found = whole_life_edge(*kl.synth.martingale(n_markets=3000, seed=1))
    >>> found.edge > 10, found.buckets_positive / found.buckets > 0.8
    (True, True)

    Raises:
        EdgeError: no market is settled.
    """
    return _judged(_lives(tape_of(tape, READS), markets), yes_threshold, min_trades, min_drop, "mean")


def last_print_edge(
    tape: TapeLike,
    markets: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 5,
    min_drop: float = 0,
) -> WholeLife:
    """The same filter, entered at the last print: the filter still looks ahead, the price no more.

    .. warning:: Looks ahead; see the module.
    """
    return _judged(_lives(tape_of(tape, READS), markets), yes_threshold, min_trades, min_drop, "last")


def checklist(
    tape: TapeLike,
    markets: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 5,
    min_drop: float = 0,
    *,
    seed: int = 0,
) -> Checklist:
    """The published system's checks on the forbidden method.  Fair markets pass them."""
    lives = _lives(tape_of(tape, READS), markets)
    found = _judged(lives, yes_threshold, min_trades, min_drop, "mean")
    kept = lives.filter(_filter(yes_threshold, min_trades, min_drop)).sort("begun")
    profit = (kept["won"] - kept["mean"]).to_numpy()
    if len(profit) < 20:
        return Checklist(significant=False, buckets=False, bootstrap=False, blocks=False, held_out=False)
    rng = np.random.default_rng(seed)
    means = profit[rng.integers(0, len(profit), (1000, len(profit)))].mean(1)
    return Checklist(
        significant=found.z > 3.09,
        buckets=found.buckets > 0 and found.buckets_positive / found.buckets >= 0.8,
        bootstrap=bool(np.quantile(means, 0.025) > 0),
        blocks=all(part.mean() > 0 for part in np.array_split(profit, 4)),
        held_out=bool(profit[-len(profit) // 5 :].mean() > 0),
    )


def _lives(tape: Tape, markets: pl.DataFrame) -> pl.DataFrame:
    """A row a settled market: `n, share` (of YES takers), `first, last` (YES, dollars), `mean, last_no` (NO,
    dollars), `won` (what NO paid), `begun`.
    """
    facts = check_markets(markets).filter(pl.col("settlement").is_not_null())
    if facts.is_empty():
        raise EdgeError("no market is settled: there is nothing to judge, however it is judged")
    prints = tape.lazy()
    price = pl.col("price").cast(pl.Float64) / PRICE
    lives = (
        prints.group_by(pl.col("ticker").cast(pl.String), maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("n"),
            (pl.col("taker").cast(pl.String) == "yes").mean().alias("share"),
            price.first().alias("first"),
            price.last().alias("last"),
            (1 - price.mean()).alias("mean"),
            pl.col("ts").first().alias("begun"),
        )
        .collect()
    )
    won = 1 - facts["settlement"].cast(pl.Float64) / PRICE
    return lives.join(
        facts.select("ticker", won=won), on="ticker", how="inner", maintain_order="left"
    ).with_columns((1 - pl.col("last")).alias("last_no"))


def _filter(threshold: float, least: int, drop: float) -> pl.Expr:
    fell = pl.col("first") - pl.col("last")
    # Prices are multiples of a ten-thousandth: half of one keeps rounding out of the comparison.
    low = fell > 5e-5 if not drop else fell >= cents(drop) / PRICE - 5e-5
    return (pl.col("share") > threshold) & (pl.col("n") >= least) & low


def _judged(lives: pl.DataFrame, threshold: float, least: int, drop: float, entry: str) -> WholeLife:
    price = pl.col("mean" if entry == "mean" else "last_no")
    lives = lives.with_columns(
        price.alias("paid"), ((price * 100 / BUCKET + 1e-9).floor() * BUCKET).cast(pl.Int64).alias("low")
    )
    kept = lives.filter(_filter(threshold, least, drop))
    n = kept.height
    if not n:
        nan = float("nan")
        return WholeLife(
            edge=nan, excess=nan, buckets_positive=0, buckets=0, n=0, win_rate=nan, price=nan, z=nan,
            frame=pl.DataFrame(schema=_BUCKETS),
        )  # fmt: skip
    profit = (pl.col("won") - pl.col("paid")) * 100
    base = lives.group_by("low").agg(
        profit.mean().alias("baseline_edge"), pl.len().cast(pl.Int64).alias("baseline_n")
    )
    error = 1.96 * profit.std() / pl.len().sqrt()
    frame = (
        kept.group_by("low")
        .agg(
            pl.len().cast(pl.Int64).alias("n"), profit.mean().alias("edge"),
            (profit.mean() - error).alias("lower"), (profit.mean() + error).alias("upper"),
        )
        .join(base, on="low", how="left")
        .sort("low")
        .with_columns(
            (pl.col("low") + BUCKET).alias("high"),
            pl.when((pl.col("n") >= IN_SIGNAL) & (pl.col("baseline_n") >= IN_BASELINE))
            .then(pl.col("edge") - pl.col("baseline_edge"))
            .alias("excess"),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in _BUCKETS.items())
    )  # fmt: skip
    good = frame.filter(pl.col("excess").is_not_null())
    won, paid = float(kept["won"].to_numpy().mean()), float(kept["paid"].to_numpy().mean())
    return WholeLife(
        edge=100 * (won - paid),
        excess=float(np.average(good["excess"], weights=good["n"])) if good.height else float("nan"),
        buckets_positive=int((good["excess"] > 0).sum()),
        buckets=good.height,
        n=n,
        win_rate=100 * won,
        price=100 * paid,
        z=(won - paid) * n / float(np.sqrt(n * paid * (1 - paid))),
        frame=frame,
    )
