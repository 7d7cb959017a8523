"""The forbidden method: judge a market by its whole life and enter at the average price of that life.

.. warning::
   Everything in this module looks ahead. It exists to measure the effect of look-ahead, beside the edge that was
   attainable. No verdict uses it.

The published system selected markets by reverse line movement over the *whole* life of a market. The share of trades whose
taker bought YES is above a threshold, there are enough trades, and the *last* price is below the first. NO is then bought
at the *mean* NO price of that life. Its published edge is +17.38 cents (audited: +1.97 at the fire, −1.15 against its price
bucket, about +0.4 after the fee and before the spread). This method gives the same result on fair markets.

**Why.** Let P_t = P(YES | information at t), w_t the share of trades at t, F the event that the filter keeps the market. On
a fair market

    E[A − Y | F] = −(1 / P(F)) · Σ_t w_t · E[Cov(Y, 1_F | F_t)],          A = Σ_t w_t P_t,

which is zero only if at each t the rest of the filter is uncorrelated with the outcome. "The last price is below the first"
is correlated with it. In the worst case, F = {Y = 0}, the bias is p0 · (1 − V), with V the trade-weighted mean of
Var(P_t) / (p0 (1 − p0)).

The published check by price buckets does not help. It compares markets of the same *life-mean* price, and at a given mean,
"it ended lower" still predicts the outcome.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.errors import EdgeError
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import check_markets
from kalshilab.tape.tape import Tape, TapeLike
from kalshilab.units import PRICE, cents

__all__ = ["Checklist", "WholeLife", "checklist", "last_print_edge", "whole_life_edge"]

READS: Final = ("ts", "price", "taker")
BUCKET: Final = 5
"""Width of a bucket in cents of NO price."""
IN_BASELINE: Final = 20
"""Markets that a bucket needs in all."""
IN_SIGNAL: Final = 5
"""Markets that a bucket needs among those the filter keeps."""
_BUCKETS: Final[dict[str, PolarsDataType]] = {
    "low": pl.Int64, "high": pl.Int64, "n": pl.Int64, "edge": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
    "baseline_edge": pl.Float64, "baseline_n": pl.Int64, "excess": pl.Float64,
}  # fmt: skip


class WholeLife(msgspec.Struct, frozen=True, kw_only=True):
    """The report of the forbidden method. Edges and prices are in cents, rates in percent."""

    edge: float
    """Win rate less mean price."""
    excess: float
    """Edge over all markets of the same 5-cent bucket, weighted by the number of kept markets."""
    buckets_positive: int
    """Number of those buckets with a positive excess."""
    buckets: int
    """Number of buckets with at least 20 markets in all and 5 kept ones."""
    n: int
    """Number of markets that the filter keeps."""
    win_rate: float
    """Mean value of NO over the kept markets, in percent."""
    price: float
    """Mean NO price of the kept markets."""
    z: float
    """(wins − n·b) / √(n·b·(1 − b)) with b the mean price: it assumes independent bets at one price, which does not hold."""
    frame: pl.DataFrame
    """One row per bucket: `low, high, n, edge, lower, upper, baseline_edge, baseline_n, excess`."""

    def __repr__(self) -> str:
        return (
            f"<WholeLife (looks ahead): {self.edge:+.2f} c, excess {self.excess:+.2f} c, "
            f"{self.buckets_positive} of {self.buckets} buckets positive, n = {self.n:,}>"
        )


class Checklist(msgspec.Struct, frozen=True, kw_only=True):
    """The five checks of the published system."""

    significant: bool
    """z is above 3.09 (p < 0.001)."""
    buckets: bool
    """At least 80 % of the buckets are positive."""
    bootstrap: bool
    """The 95 % interval of a bootstrap over markets is above 0."""
    blocks: bool
    """The mean profit is positive in each of four blocks of time."""
    held_out: bool
    """The mean profit is positive on the last 20 % of the markets."""

    @property
    def passed(self) -> bool:
        """True if all five checks pass."""
        return all(msgspec.structs.astuple(self))


def whole_life_edge(
    tape: TapeLike,
    markets: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 5,
    min_drop: float = 0,
) -> WholeLife:
    """Return the edge of reverse line movement as published: filter and entry over the whole life.

    .. warning:: This function looks ahead; see the module.

    Args:
        tape: a tape of any kind; stored data is read once.
        markets: `kl.to_markets`; unsettled markets are excluded.
        yes_threshold: fraction of prints with a YES taker, exclusive lower limit.
        min_trades: least number of prints.
        min_drop: least drop of the YES price from the first print to the last, in cents; 0: any drop above 0.

    >>> import kalshilab as kl
    >>> found = whole_life_edge(*kl.synth.martingale(n_markets=3000, seed=1))
    >>> found.edge > 10, found.buckets_positive / found.buckets > 0.8
    (True, True)

    Raises:
        EdgeError: no market is settled.
    """
    return _evaluate(_lives(tape_of(tape, READS), markets), yes_threshold, min_trades, min_drop, "mean")


def last_print_edge(
    tape: TapeLike,
    markets: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 5,
    min_drop: float = 0,
) -> WholeLife:
    """Return the edge of the same filter, entered at the last print: only the filter looks ahead.

    .. warning:: This function looks ahead; see the module.

    Args:
        tape: as for `whole_life_edge`.
        markets: as for `whole_life_edge`.
        yes_threshold: as for `whole_life_edge`.
        min_trades: as for `whole_life_edge`.
        min_drop: as for `whole_life_edge`, in cents.

    Raises:
        EdgeError: no market is settled.
    """
    return _evaluate(_lives(tape_of(tape, READS), markets), yes_threshold, min_trades, min_drop, "last")


def checklist(
    tape: TapeLike,
    markets: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 5,
    min_drop: float = 0,
    *,
    seed: int = 0,
) -> Checklist:
    """Run the published system's checks on the forbidden method; fair markets pass them.

    Args:
        tape: as for `whole_life_edge`.
        markets: as for `whole_life_edge`.
        yes_threshold: as for `whole_life_edge`.
        min_trades: as for `whole_life_edge`.
        min_drop: as for `whole_life_edge`, in cents.
        seed: seed of the bootstrap.
    """
    lives = _lives(tape_of(tape, READS), markets)
    found = _evaluate(lives, yes_threshold, min_trades, min_drop, "mean")
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
    """Return one row per settled market with prints.

    Columns: `n, share` (fraction of YES takers), `first, last` (YES price, dollars), `mean, last_no` (NO price, dollars),
    `won` (value of NO, dollars), `begun` (time of the first print).
    """
    facts = check_markets(markets).filter(pl.col("settlement").is_not_null())
    if facts.is_empty():
        raise EdgeError(
            "markets must contain a settled market: no market is settled, so there is no outcome to evaluate"
        )
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
    """Return the published filter; `drop` is in cents."""
    fell = pl.col("first") - pl.col("last")
    # Prices are multiples of 1/10,000 dollar; a tolerance of half of that makes the comparison exact.
    dropped = fell > 5e-5 if not drop else fell >= cents(drop) / PRICE - 5e-5
    return (pl.col("share") > threshold) & (pl.col("n") >= least) & dropped


def _evaluate(
    lives: pl.DataFrame, threshold: float, least: int, drop: float, entry: Literal["mean", "last"]
) -> WholeLife:
    """Return the report of the filter with entries at the mean or the last NO price."""
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
