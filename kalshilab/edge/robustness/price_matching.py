"""Price-matched baseline: the excess of a signal over entries at the same prices without the signal.

A rule that buys favourites earns any mispricing of favourites and needs no signal for it. So each entry is compared
with the outcomes of other contracts at such a price: a pool of entries by the same rule at random prints, one per
market, drawn without the signal.

* **Smooth baseline** (tested): the probability of winning is a logistic regression on a natural cubic spline of the
  price's log-odds (5 knots; Harrell 2001, "Regression modeling strategies", 2.4). Each bucket of 5 cents may deviate
  from the curve a little (a ridge term: mispricing jumps at round prices, and a curve cannot follow jumps). There are
  intercepts by category and side, and a slope in the time to the expected close if the frames have it (`horizon`,
  days). The excess of an entry is its value less the fitted probability.
* **Buckets of 5 cents** (for display): the excess over the pool's mean in the same bucket. Prices differ within a
  bucket, so part of a steep bias leaks into this excess.

Both samples are uncertain. The standard error is that of the sum of influence functions, by event, over both samples
together (Hampel 1974; Newey & McFadden 1994, "Large sample estimation", 6.1). An event in both samples counts once,
and its contribution to the fit is removed from the probability it is compared with (a one-step leave-one-out).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.entries.next_print import READS
from kalshilab.edge.schema import Interval, check_entries, codes_of, settled
from kalshilab.lazy import renamed
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import TAKER
from kalshilab.tape.tape import TapeLike

__all__ = ["PriceMatchedExcess", "buckets", "calibration", "excess", "pool"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

KNOTS: Final = (0.05, 0.275, 0.5, 0.725, 0.95)
"""Quantiles of the pool's prices at which the spline has its knots."""
RIDGE: Final = 1e-3
"""Ridge penalty of the other coefficients."""
JUMP: Final = 0.4
"""Prior standard deviation, in log-odds, of a 5-cent bucket's deviation from the curve."""
MIN_POOL: Final = 50
"""Minimum number of entries of a pool, and of a category that has its intercept."""
WIDTH_CENTS: Final = 5
"""Width of a bucket."""
MIN_POOL_IN_BUCKET: Final = 20
"""Minimum number of the pool's entries in a bucket that is compared."""
MIN_SIGNAL_IN_BUCKET: Final = 5
"""Minimum number of the signal's entries in a bucket that is compared."""
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class PriceMatchedExcess(msgspec.Struct, frozen=True, kw_only=True):
    """Excess of a signal's edge over entries at the same prices, in cents per contract."""

    edge: Interval
    """Excess over the smooth baseline, with its two-sided 95 % interval and one-sided p-value."""
    lower975: float
    """One-sided 97.5 % lower bound of that excess."""
    bucketed: Interval
    """Excess over buckets of 5 cents."""
    buckets: pl.DataFrame
    """`low, high, n, edge, lower, upper, baseline_edge, baseline_n, excess`."""
    buckets_positive: int
    """Number of compared buckets with a positive excess."""
    buckets_compared: int
    """Number of buckets with enough entries to compare."""
    n_pool: int
    """Number of fills in the pool."""


def pool(
    tape: TapeLike, fires: pl.DataFrame, enter: Callable[[pl.DataFrame], pl.DataFrame], *, seed: int = 0
) -> pl.DataFrame:
    """Return entries by the same rule at one random print of every market of the tape.

    Args:
        tape: trades of any kind, read once in batches.
        fires: fires of the signal; the sides of the pool are drawn with the signal's fraction of YES.
        enter: makes entries of fires with the terms of the signal.
        seed: seed of the drawn prints; the result does not depend on the kind of the tape.
    """
    opened = tape_of(tape, READS)
    names = opened.tickers.cast(pl.String)
    best = np.full(len(names), -1.0)
    row, ts, price = (np.zeros(len(names), np.int64) for _ in range(3))
    for first, frame in opened.batches(("market", *READS)):
        _draw(
            frame["market"].to_numpy(), frame["ts"].dt.epoch("us").to_numpy(), frame["price"].to_numpy(), first, seed,
            best, row, ts, price,
        )  # fmt: skip
    seen = best >= 0
    rng = np.random.default_rng(seed)
    yes_fires = int((fires["side"].cast(pl.String) == "yes").sum())
    share = yes_fires / fires.height if fires.height else 0.5
    yes = rng.random(len(names)) < share
    drawn = pl.DataFrame(
        {
            "row": pl.Series(row, dtype=pl.UInt64),
            "ts": pl.Series(ts).cast(pl.Datetime("us", "UTC")),
            "ticker": names,
            "side": pl.Series(np.where(yes, "yes", "no")).cast(TAKER),
            "price": pl.Series(price, dtype=pl.Int16),
        }
    )
    return enter(drawn.filter(pl.Series(seen)).sort("row"))


@compiled
def _draw(
    market: npt.NDArray[np.uint32], times: Ints, prices: npt.NDArray[np.int16], first: int, seed: int, best: Floats,
    row: Ints, ts: Ints, price: Ints,
) -> None:  # fmt: skip
    """Keep each market's print with the largest hash of seed and row (splitmix64)."""
    for i in range(len(market)):
        z = np.uint64(first + i) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        u = np.float64((z ^ (z >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
        m = market[i]
        if u > best[m]:
            best[m], row[m], ts[m], price[m] = u, first + i, times[i], prices[i]


@renamed_keywords(b="resamples")
def excess(
    signal: pl.DataFrame, pool: pl.DataFrame, *, resamples: int = 999, seed: int = 0
) -> PriceMatchedExcess | None:
    """Return the excess of a signal's fills over a pool's.

    Args:
        signal: entries of the signal (`kalshilab.edge.ENTRIES_SCHEMA`); unfilled and unsettled ones are left out.
        pool: entries without the signal, as `pool` returns them; unfilled and unsettled ones are left out.
        resamples: number of resamples of the studentised bootstrap over events.
        seed: seed of the resamples.

    Returns:
        None if there is too little to compare: fewer than 50 fills in the pool, or fewer than 2 events in the signal.

    >>> from kalshilab.edge import simulated_entries
    >>> found = excess(*simulated_entries.entries(1_000, edge=5.0, seed=1), resamples=199)
    >>> round(found.edge.estimate), bool(found.lower975 > 0)
    (5, True)

    Raises:
        EdgeError: `signal` or `pool` lacks columns of entries.
    """
    ours, others = _fills(signal), _fills(pool)
    if others.height < MIN_POOL or ours["event"].n_unique() < 2:
        return None
    design = _Design.of(others)
    x, z = design.matrix(ours), design.matrix(others)
    beta, chance, inverse = _fit(z, others["value"].to_numpy(), design.smooth)
    scores = z * (others["value"].to_numpy() - chance)[:, None]
    names = pl.concat([ours["event"], others["event"]])
    codes = codes_of(names)
    signal_codes, pool_codes = codes[: ours.height], codes[ours.height :]
    clusters = int(codes.max()) + 1
    by_event = np.zeros((clusters, scores.shape[1]))
    np.add.at(by_event, pool_codes, scores)
    shift = by_event @ inverse  # Change of the coefficients due to each event.
    fitted = _expit(x @ beta)
    slope = (fitted * (1 - fitted))[:, None] * x
    # One-step leave-one-out: remove the contribution of the entry's event.
    left_out = fitted - np.einsum("ij,ij->i", slope, shift[signal_codes])
    residual = ours["value"].to_numpy() - np.clip(left_out, 0.0, 1.0)
    count = np.bincount(signal_codes, minlength=clusters)
    in_signal = count > 0
    mean = np.divide(
        np.bincount(signal_codes, residual, clusters), count, out=np.zeros(clusters), where=in_signal
    )
    events = int(in_signal.sum())
    estimate = float(mean[in_signal].mean())
    weight = 1.0 / (count[signal_codes] * events)
    through_fit = shift @ (weight[:, None] * slope).sum(0)
    influence = np.where(in_signal, (mean - estimate) / events, 0.0) - through_fit
    smooth, lower = _interval(estimate, influence, resamples, seed, ours.height, events)
    frame, bucketed, positive, compared = buckets(ours, others, resamples=resamples, seed=seed)
    return PriceMatchedExcess(
        edge=smooth, lower975=lower, bucketed=bucketed, buckets=frame, buckets_positive=positive,
        buckets_compared=compared, n_pool=others.height,
    )  # fmt: skip


@renamed_keywords(b="resamples")
def buckets(
    signal: pl.DataFrame, pool: pl.DataFrame, *, resamples: int = 499, seed: int = 0
) -> tuple[pl.DataFrame, Interval, int, int]:
    """Return the excess by 5-cent buckets of the price.

    Args:
        signal: entries of the signal (`kalshilab.edge.ENTRIES_SCHEMA`).
        pool: entries without the signal.
        resamples: number of resamples of the bootstrap over events.
        seed: seed of the resamples.

    Returns:
        The buckets (`low, high, n, edge, lower, upper, baseline_edge, baseline_n, excess`); the mean excess of the
        signal's fills in compared buckets; how many buckets are positive; and how many were compared. A bucket is
        compared if it has at least 20 fills of the pool and 5 of the signal.
    """
    ours, others = _fills(signal), _fills(pool)
    low = _bucket_low()
    base = others.group_by(low.alias("low")).agg(
        (pl.col("pnl").mean() * 100).alias("baseline_edge"), pl.len().cast(pl.Int64).alias("baseline_n"),
        pl.col("value").mean().alias("_won"), (pl.col("value") - pl.col("price")).mean().alias("_over"),
    )  # fmt: skip
    rows = []
    for (start,), part in sorted(ours.group_by(low.alias("low"))):
        found = _mean_interval(part, pl.col("pnl"), resamples, seed)
        rows.append(
            {
                "low": start,
                "n": part.height,
                "edge": found.estimate,
                "lower": found.lower,
                "upper": found.upper,
            }
        )
    schema: dict[str, PolarsDataType] = {
        "low": pl.Int64,
        "n": pl.Int64,
        "edge": pl.Float64,
        "lower": pl.Float64,
        "upper": pl.Float64,
    }
    frame = pl.DataFrame(rows, schema=schema).join(base, on="low", how="left", maintain_order="left")
    enough = (pl.col("baseline_n") >= MIN_POOL_IN_BUCKET) & (pl.col("n") >= MIN_SIGNAL_IN_BUCKET)
    each = ours.with_columns(low.alias("low")).join(base, on="low", how="inner", maintain_order="left")
    over = pl.col("value") - pl.col("price") - pl.col("_over")
    means = each.group_by("low").agg((over.mean() * 100).alias("excess"))
    frame = frame.join(means, on="low", how="left", maintain_order="left").with_columns(
        pl.when(enough.fill_null(False)).then("excess").alias("excess"),
        pl.col("baseline_n").fill_null(0),
        (pl.col("low") + WIDTH_CENTS).alias("high"),
    )
    good = frame.filter(pl.col("excess").is_not_null())
    compared = each.join(good.select("low"), on="low", how="semi", maintain_order="left")
    columns = ("low", "high", "n", "edge", "lower", "upper", "baseline_edge", "baseline_n", "excess")
    return (
        frame.select(columns),
        _mean_interval(compared, over, resamples, seed),
        int((good["excess"] > 0).sum()),
        good.height,
    )


@renamed_keywords(b="resamples")
def calibration(
    signal: pl.DataFrame, pool: pl.DataFrame, *, resamples: int = 299, seed: int = 0
) -> pl.DataFrame:
    """Return the win rates of contracts by 5-cent buckets of their price.

    Args:
        signal: entries of the signal (`kalshilab.edge.ENTRIES_SCHEMA`).
        pool: entries without the signal.
        resamples: number of resamples of the bootstrap over events.
        seed: seed of the resamples.

    Returns:
        `price` (mean of the bucket, cents), `source` (signal, baseline), `win, lower, upper` (percent, 95 % over
        events), `n`, `break_even` (mean cost, cents).
    """
    rows = []
    for source, entries in (("signal", signal), ("baseline", pool)):
        for (_,), part in sorted(_fills(entries).group_by(_bucket_low().alias("low"))):
            won = _mean_interval(part, pl.col("value"), resamples, seed)
            price, cost = part.select(pl.col("price").mean() * 100, pl.col("cost").mean() * 100).row(0)
            bounds = max(won.lower, 0.0), min(won.upper, 100.0)
            rows.append((price, source, won.estimate, *bounds, part.height, cost))
    schema: dict[str, PolarsDataType] = {
        "price": pl.Float64, "source": pl.String, "win": pl.Float64, "lower": pl.Float64, "upper": pl.Float64,
        "n": pl.Int64, "break_even": pl.Float64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row")


def _fills(entries: pl.DataFrame) -> pl.DataFrame:
    """Return the settled fills, in the order of entry."""
    return settled(check_entries(entries)).filter("filled")


def _bucket_low() -> pl.Expr:
    """Return the lower bound of the price's bucket, in cents."""
    return (pl.col("price") * 100 / WIDTH_CENTS + 1e-9).floor().cast(pl.Int64) * WIDTH_CENTS


class _Design(msgspec.Struct, frozen=True):
    """Design of the regression, fixed by the pool."""

    knots: tuple[float, ...]
    categories: tuple[str, ...]
    sided: bool
    """Whether there is an intercept for YES."""
    horizon: bool
    """Whether there is a slope in the time to the expected close."""

    @classmethod
    def of(cls, pool: pl.DataFrame) -> _Design:
        """Return the design for a pool."""
        at = _logit(pool["price"].to_numpy())
        knots = np.unique(np.quantile(at, KNOTS).round(6))
        counts = (
            pool["category"]
            .value_counts()
            .filter(pl.col("count") >= MIN_POOL)
            .sort("count", "category", descending=True)
        )
        # The largest category is the reference.
        categories = tuple(counts["category"].to_list()[1:])
        both = bool(pool["side"].n_unique() > 1)
        return cls(tuple(knots.tolist()), categories, both, "horizon" in pool.columns)

    @property
    def smooth(self) -> int:
        """Number of columns of the curve; those of the buckets follow."""
        return 2 + max(len(self.knots) - 2, 0)

    def matrix(self, entries: pl.DataFrame) -> Floats:
        """Return the design matrix of entries, one row per entry."""
        at = _logit(entries["price"].to_numpy())
        columns = [np.ones_like(at), at, *_spline(at, np.array(self.knots))]
        # A curve cannot follow mispricing that jumps at a round price, so each bucket may deviate from it a little.
        bucket = (entries["price"].to_numpy() * 100 / WIDTH_CENTS + 1e-9).astype(np.int64)
        columns += [(bucket == k).astype(np.float64) for k in range(100 // WIDTH_CENTS)]
        columns += [(entries["category"] == c).cast(pl.Float64).to_numpy() for c in self.categories]
        if self.sided:
            columns.append((entries["side"].cast(pl.String) == "yes").cast(pl.Float64).to_numpy())
        if self.horizon and "horizon" in entries.columns:
            columns.append(np.log1p(np.clip(entries["horizon"].fill_null(0.0).to_numpy(), 0, None)))
        return np.column_stack(columns)


def _spline(x: Floats, knots: Floats) -> list[Floats]:
    """Return the nonlinear columns of a natural cubic spline's truncated-power basis: two fewer than knots."""
    if len(knots) < 3:
        return []
    last, before = knots[-1], knots[-2]
    scale = (last - knots[0]) ** 2

    def cubed(k: float) -> Floats:
        found: Floats = np.clip(x - k, 0, None) ** 3
        return found

    return [
        (
            cubed(k)
            - cubed(before) * (last - k) / (last - before)
            + cubed(last) * (before - k) / (last - before)
        )
        / scale
        for k in knots[:-2]
    ]


def _fit(x: Floats, y: Floats, penalty_from: int) -> tuple[Floats, Floats, Floats]:
    """Return coefficients, fitted probabilities and the inverse information, by Newton's method with a ridge penalty."""
    beta = np.zeros(x.shape[1])
    beta[1] = 1.0  # A fair market: the price is the probability.
    start = beta.copy()
    penalty = RIDGE * np.eye(x.shape[1])
    jumps = slice(penalty_from, penalty_from + 100 // WIDTH_CENTS)
    penalty[jumps, jumps] = np.eye(100 // WIDTH_CENTS) / JUMP**2
    for _ in range(50):
        p = _expit(x @ beta)
        gradient = x.T @ (y - p) - penalty @ (beta - start)
        step = np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + penalty, gradient)
        beta = beta + step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-9:
            break
    p = _expit(x @ beta)
    inverse = np.asarray(np.linalg.inv((x * (p * (1 - p))[:, None]).T @ x + penalty), np.float64)
    return beta, p, inverse


def _interval(
    estimate: float, influence: Floats, resamples: int, seed: int, n: int, events: int
) -> tuple[Interval, float]:
    """Return the interval and the one-sided 97.5 % bound in cents, by a studentised bootstrap of influences by event."""
    nonzero = influence[influence != 0]
    g = len(nonzero)
    if g < 2:
        return Interval(100 * estimate, -np.inf, np.inf, 1.0, n, events), float("-inf")
    rng = np.random.default_rng(seed)
    se = float(np.sqrt(g / (g - 1) * (nonzero**2).sum()))
    t = np.empty(resamples)
    for i in range(resamples):
        drawn = nonzero[rng.integers(0, g, g)]
        spread = np.sqrt(((drawn - drawn.mean()) ** 2).sum())
        t[i] = (drawn.sum() - nonzero.sum()) / spread if spread > 0 else 0.0
    high, low = np.quantile(t, [0.975, 0.025])
    p = float((1 + (t >= estimate / se).sum()) / (resamples + 1))
    bound = 100 * (estimate - high * se)
    return Interval(100 * estimate, bound, 100 * (estimate - low * se), p, n, events), bound


def _mean_interval(part: pl.DataFrame, what: pl.Expr, resamples: int, seed: int) -> Interval:
    """Return the event-weighted mean of an expression in cents, with its interval over events."""
    means = part.group_by("event", maintain_order=True).agg(what.mean().alias("v"))["v"].to_numpy()
    if len(means) < 2:
        alone = float(100 * means.mean()) if len(means) else float("nan")
        return Interval(alone, float("nan"), float("nan"), 1.0, part.height, len(means))
    estimate = float(means.mean())
    return _interval(estimate, (means - estimate) / len(means), resamples, seed, part.height, len(means))[0]


def _logit(p: Floats) -> Floats:
    q = np.clip(p, 1e-4, 1 - 1e-4)
    return np.log(q / (1 - q))


def _expit(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -40, 40)))
