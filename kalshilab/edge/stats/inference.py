"""Test whether the mean profit is above 0: three tests that must all agree, and the wider confidence interval.

The estimand is the mean over events of the event's mean profit per contract; unfilled entries count as 0. Entries
are not independent: the markets of an event are decided together, and the events of a day share shocks. Payoffs are
skewed: a favourite often wins a little and rarely loses much. Three tests treat that differently:

* `kalshilab.edge.stats.martingale`: the profits of the same entries in a market without an edge, which needs no
  variance estimate;
* the studentised bootstrap over **events**, and over **days** (an event belongs to the day of its first entry).

The reported p-value is the largest of the three, so it is valid wherever one of them is. The interval is the wider of
the two bootstrap intervals. With fewer than 30 events or 10 losses no variance estimate is reliable, and the interval
is that of the inverted Monte Carlo test. With fewer than 30 days, the latter replaces the bootstrap over days.

**The bootstrap** (Efron & Tibshirani 1993, ch. 12; for clusters Cameron, Gelbach & Miller 2008). Clusters have the
sums S and weights n; μ = ΣS/Σn, e = S − μn, se = √(G/(G − 1)·Σe²)/Σn. A resample of whole clusters gives
t* = (μ* − μ)/se*, and with the quantiles q of t* the interval is μ − q·se.
"""

from __future__ import annotations

import math
import warnings
from concurrent.futures import Executor
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import Arrays, Floats, Integers, Interval
from kalshilab.edge.stats.martingale import coupled, intraclass, invert, null_means
from kalshilab.edge.stats.power import detectable
from kalshilab.edge.stats.resampling import blocks_of, draw
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled

__all__ = ["CLUSTERS", "LOSSES", "Inference", "bootstrap", "gross", "infer", "two_way", "wild"]

CLUSTERS: Final = 30
"""Fewest clusters from which a variance is estimated."""
LOSSES: Final = 10
"""Fewest losses from which a variance is estimated."""
_TIE: Final = 1e-9
"""Statistics nearer than this are equal: sums of the same payoffs in another order differ by rounding."""


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """Estimate of an edge with its uncertainty.

    Edges and standard errors are in cents per contract. P-values are one-sided, for the null hypothesis edge <= 0.
    """

    edge: float
    """Mean over events of the event's mean profit."""
    lower: float
    """Lower end of the two-sided 95 % confidence interval by `method`."""
    upper: float
    """Upper end of the same interval."""
    p: float
    """The largest of the three p-values below."""
    p_mc: float
    """P-value of the martingale Monte Carlo test."""
    p_event: float
    """P-value of the bootstrap over events; NaN if it is undefined (one event, or no variance)."""
    p_day: float
    """P-value of the bootstrap over days; NaN if it is undefined (one day, or no variance)."""
    n: int
    """Entries in the sample, unfilled ones included."""
    n_filled: int
    """Filled entries."""
    n_events: int
    """Events with a fill."""
    n_days: int
    """Days with a fill."""
    n_losses: int
    """Filled entries that lost."""
    n_eff: float
    """Effective sample size: independent entries whose mean has the same variance."""
    deff: float
    """Design effect `n_events / n_eff`.

    It is below 1 where several legs of an event carry more information than one, and above 1 where days share shocks.
    """
    rho: float
    """Correlation of the latent normals of one day's events in the martingale null."""
    mde: float
    """Minimum detectable edge: found with 80 % power by one test at 5 %."""
    method: str
    """Name of the method behind the interval."""
    se_event: float
    """Standard error clustered by event; NaN with a single event."""
    se_day: float
    """Standard error clustered by the day of each entry; NaN with a single day."""
    se_two_way: float
    """Standard error clustered by event and day; at least the larger of the two, NaN with a single cluster."""
    se_null: float
    """Standard error of the mean under the null hypothesis, on which `mde` is based."""
    resamples: int
    """Resamples of each test."""

    @property
    def b(self) -> int:
        """Deprecated name of `resamples`."""
        warnings.warn("Inference.b is now Inference.resamples", DeprecationWarning, stacklevel=2)
        return self.resamples

    @property
    def interval(self) -> Interval:
        """The estimate with its interval and p-value."""
        return Interval(self.edge, self.lower, self.upper, self.p, self.n, self.n_events)

    def mde_at(self, trials: int) -> float:
        """Return the minimum detectable edge in cents in a family of `trials` tests (Bonferroni)."""
        return detectable(self.se_null, trials=trials)


class _Clusters(msgspec.Struct, frozen=True):
    """A ratio mean with its clustered standard error, and the sums by cluster from which they follow."""

    residual: Floats
    weight: Floats
    mean: float
    se: float


@renamed_keywords(b="resamples")
def bootstrap(
    pnl: npt.ArrayLike,
    clusters: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    resamples: int = 1999,
    seed: int | np.random.Generator = 0,
    *,
    level: float = 0.95,
    executor: Executor | None = None,
) -> Interval:
    """Return the mean profit with its studentised cluster-bootstrap interval and p-value.

    Args:
        pnl: profits in dollars, shape (n,).
        clusters: cluster label of each profit, of any type, shape (n,).
        weights: weight of each profit; None: 1. With 1/(entries of its event) the mean is over events.
        resamples: number of resamples, at least 1.
        seed: a seed or a Generator.
        level: confidence level of the two-sided interval.
        executor: executor that resamples (`kalshilab.edge.stats.resampling`); None: this process. The result is the
            same.

    Returns:
        Estimate and bounds in cents. With one cluster, or without variance between clusters, the sampling variance is
        unknown: the bounds are infinite and p is NaN.

    >>> rng = np.random.default_rng(0)
    >>> days = np.repeat(np.arange(100), 5)
    >>> shock = rng.normal(0, 0.1, 100)[days]
    >>> result = bootstrap(0.05 + shock + rng.normal(0, 0.3, 500), days)
    >>> result.lower < 5.0 < result.upper, result.p < 0.05, result.clusters
    (True, True, 100)

    Raises:
        EdgeError: there is no profit, array lengths differ, a profit or weight is not finite, weights are negative or
            all 0, or `resamples` or `level` is out of range.
    """
    x, codes, w = _sample(pnl, clusters, weights)
    _check_resamples(resamples)
    if not 0 < level < 1:
        raise EdgeError(f"level must be a confidence level between 0 and 1, got {level}")
    sums = _clusters(x, codes, w)
    n, g = len(x), len(sums.residual)
    if not sums.se > 0:
        return Interval(100 * sums.mean, -math.inf, math.inf, math.nan, n, g)
    t = np.concatenate(draw(_resampled, sums, blocks_of(resamples, g, seed), executor))
    # Use quantiles that are draws themselves: a finite and an infinite draw cannot be interpolated.
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    p = (1 + int((t >= sums.mean / sums.se - _TIE).sum())) / (resamples + 1)
    lower, upper = (100 * float(sums.mean - q * sums.se) for q in (high, low))
    return Interval(100 * sums.mean, lower, upper, p, n, g)


@renamed_keywords(b="resamples")
def wild(
    pnl: npt.ArrayLike,
    clusters: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    resamples: int = 1999,
    seed: int | np.random.Generator = 0,
    *,
    executor: Executor | None = None,
) -> float:
    """Return the one-sided p-value of mean <= 0 by the wild cluster bootstrap with random signs.

    Rademacher signs with the null imposed (Cameron, Gelbach & Miller 2008), which is the sign-flip permutation test.
    It assumes that cluster sums are symmetric around 0. Payoffs are skewed, so it serves as a cross-check at 10 to 40
    clusters and never decides a verdict.

    Args:
        pnl: profits in dollars, shape (n,).
        clusters: cluster label of each profit, shape (n,).
        weights: weight of each profit; None: 1.
        resamples: number of draws of the signs, at least 1.
        seed: a seed or a Generator.
        executor: executor that draws; None: this process.

    Returns:
        The p-value; NaN with one cluster, or without variance between clusters.

    Raises:
        EdgeError: as `bootstrap` raises it.
    """
    x, codes, w = _sample(pnl, clusters, weights)
    _check_resamples(resamples)
    sums = _clusters(x, codes, w)
    if not sums.se > 0:
        return math.nan
    exceeding = sum(draw(_sign_flipped, sums, blocks_of(resamples, len(sums.weight), seed), executor))
    return (1 + exceeding) / (resamples + 1)


def two_way(
    pnl: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Return the standard error of the mean in dollars, clustered in two ways.

    The variance is V(first) + V(second) − V(both) (Cameron, Gelbach & Miller 2011, "Robust inference with multiway
    clustering"), and at least the larger one-way variance, because the difference can be negative in a small sample.

    Args:
        pnl: profits in dollars, shape (n,).
        first: label of each profit in the first clustering, shape (n,).
        second: label of each profit in the second clustering, shape (n,).
        weights: weight of each profit; None: 1.

    Returns:
        Dollars; NaN if either clustering has one cluster.

    Raises:
        EdgeError: as `bootstrap` raises it.
    """
    x, a, w = _sample(pnl, first, weights)
    _, c, _ = _sample(pnl, second, weights)
    both = np.unique(a * (int(c.max()) + 1) + c, return_inverse=True)[1]
    one, other, joint = (_clusters(x, codes, w).se ** 2 for codes in (a, c, both))
    return math.sqrt(max(one + other - joint, one, other)) if not math.isnan(one + other) else math.nan


def gross(entries: pl.DataFrame) -> pl.DataFrame:
    """Return the same signals as if each had been filled at its mid without fees: the information in the signal.

    Unfilled signals are included, because the fill was decided after the signal. Unsettled ones are left out.
    """
    free = entries.filter(pl.col("value").is_not_null())
    return free.with_columns(
        filled=pl.lit(True),
        entry_ts=pl.col("ts"),
        price=pl.col("mid"),
        fee=pl.lit(0.0),
        cost=pl.col("mid"),
        pnl=pl.col("value") - pl.col("mid"),
    )


@renamed_keywords(b="resamples")
def infer(
    entries: pl.DataFrame,
    *,
    resamples: int = 1999,
    seed: int | np.random.Generator = 0,
    null: Literal["net", "mid"] = "net",
    executor: Executor | None = None,
) -> Inference:
    """Estimate the edge of entries with its interval, its p-value and the minimum detectable edge.

    The joint distribution of exclusive legs that were entered on different days cannot be estimated. They keep the
    conservative one of `kalshilab.edge.stats.martingale`. An event that was entered on several days counts for its
    first day.

    Args:
        entries: entries (`ENTRIES_SCHEMA`); unsettled ones are left out.
        resamples: resamples of each test, at least 1. A p-value is at least 1/(resamples + 1), so a family of m
            hypotheses needs 20·m/α resamples or more.
        seed: a seed or a Generator; the same one gives the same result.
        null: "net" tests profits after costs; "mid" tests the information, as if bought at the mid (`gross`).
        executor: executor that draws (`kalshilab.edge.stats.resampling`); None: this process. The result is the same.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(2_000, edge=5.0, spread_cents=2.0, seed=0)
    >>> found = infer(signal)
    >>> found.lower > 0, found.p < 0.01, found.lower < 5.0 < found.upper
    (True, True, True)

    Raises:
        EdgeError: no entry is settled, no settled entry was filled, or an argument is out of range.
    """
    if null not in ("net", "mid"):
        raise EdgeError(f"null must be 'net' or 'mid', got {null!r}")
    _check_resamples(resamples)
    arrays = coupled(entries if null == "net" else gross(entries))
    if not len(arrays.pnl):
        raise EdgeError("entries must hold at least one settled entry, got 0")
    if not arrays.filled.any():
        raise EdgeError(
            f"entries must hold at least one filled entry, got {len(arrays.pnl):,} settled signals without a fill; "
            "widen the entry window, or use a longer tape"
        )
    for_null, for_events, for_days, for_inversion = np.random.default_rng(seed).spawn(4)
    rho = intraclass(arrays)
    means = null_means(arrays, resamples=resamples, rho=rho, seed=for_null, executor=executor)
    size = np.bincount(arrays.event)
    each = np.bincount(arrays.event, arrays.pnl) / size
    _, opened = np.unique(arrays.event, return_index=True)
    day = arrays.day[opened]

    edge = float(each.mean())
    p_mc = (1 + int((means >= edge - _TIE).sum())) / (resamples + 1)
    event = bootstrap(each, np.arange(len(each)), None, resamples, for_events, executor=executor)
    days = bootstrap(each, day, None, resamples, for_days, executor=executor)
    filled, losses = arrays.filled, int((arrays.filled & (arrays.pnl < 0)).sum())
    n_events, n_days = len(np.unique(arrays.event[filled])), len(np.unique(arrays.day[filled]))

    few = n_events < CLUSTERS or losses < LOSSES
    thin = few or len(np.unique(day)) < CLUSTERS
    bounds: list[tuple[float, float, str]] = []
    if not few:
        bounds.append((event.lower, event.upper, "bootstrap over events"))
    if not thin:
        bounds.append((days.lower, days.upper, "bootstrap over days"))
    else:
        low, high = invert(arrays, resamples=resamples, rho=rho, seed=for_inversion)
        bounds.append((100 * low, 100 * high, "inverted Monte Carlo"))
    lower, upper, method = max(bounds, key=lambda bound: bound[1] - bound[0])

    weight = 1.0 / (size[arrays.event] * len(size))
    se_event, se_day = (_clusters(arrays.pnl, codes, weight).se for codes in (arrays.event, arrays.day))
    se_two_way = two_way(arrays.pnl, arrays.event, arrays.day, weight)
    fair = _fair_variance(arrays, weight)
    # Where the sample variances are unreliable, use those under the null.
    if thin or not se_two_way > 0:
        variance, variance_of_mean = fair, float(means.var())
    else:
        variance, variance_of_mean = float(weight @ (arrays.pnl - edge) ** 2), se_two_way**2
    n_filled = int(filled.sum())
    n_eff = variance / variance_of_mean if variance_of_mean > 0 and variance > 0 else float(n_filled)
    se_null = 100 * math.sqrt(fair / n_eff)
    return Inference(
        edge=100 * edge,
        lower=lower,
        upper=upper,
        p=max(x for x in (p_mc, event.p, days.p) if not math.isnan(x)),
        p_mc=p_mc,
        p_event=event.p,
        p_day=days.p,
        n=len(arrays.pnl),
        n_filled=n_filled,
        n_events=n_events,
        n_days=n_days,
        n_losses=losses,
        n_eff=n_eff,
        deff=n_events / n_eff,
        rho=rho,
        mde=detectable(se_null),
        method=method,
        se_event=100 * se_event,
        se_day=100 * se_day,
        se_two_way=100 * se_two_way,
        se_null=se_null,
        resamples=resamples,
    )


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        raise EdgeError(f"resamples must be at least 1, got {resamples}")


def _fair_variance(arrays: Arrays, weight: Floats) -> float:
    """Return the variance of one entry's profit without an edge: c(1 − c), and 0 for an unfilled entry."""
    cost = np.clip(arrays.cost[arrays.filled], 0.0, 1.0)
    return float(weight[arrays.filled] @ (cost * (1 - cost)))


def _sample(
    pnl: npt.ArrayLike, clusters: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Floats, Integers, Floats]:
    """Validate profits, cluster labels and weights, and return them with labels as dense codes."""
    x = np.asarray(pnl, np.float64)
    labels = np.asarray(clusters)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not x.ndim == labels.ndim == w.ndim == 1 or not len(x) == len(labels) == len(w):
        raise EdgeError(
            "profits, clusters and weights must be one-dimensional and of equal length, "
            f"got shapes {x.shape}, {labels.shape} and {w.shape}"
        )
    if not len(x):
        raise EdgeError("profits must hold at least one value, got 0")
    if not (np.isfinite(x).all() and np.isfinite(w).all()):
        raise EdgeError("profits and weights must be finite, got NaN or infinity")
    if not ((w >= 0).all() and w.sum() > 0):
        raise EdgeError(f"weights must be at least 0 with a sum above 0, got {w.min()} to {w.max()}")
    return x, np.unique(labels, return_inverse=True)[1].astype(np.int64), w


def _clusters(x: Floats, codes: Integers, w: Floats) -> _Clusters:
    """Return the ratio mean Σwx/Σw and its clustered standard error, which is NaN with one cluster."""
    size: Floats = np.bincount(codes, w).astype(np.float64)
    mean = float(w @ x / w.sum())
    residual: Floats = np.bincount(codes, w * (x - mean)).astype(np.float64)
    g = len(size)
    se = math.nan if g < 2 else math.sqrt(g / (g - 1) * float(residual @ residual)) / float(w.sum())
    # Rounding can leave a tiny variance where there is no variation at all.
    return _Clusters(residual, size, mean, 0.0 if se <= 1e-15 * max(1.0, float(np.abs(x).max())) else se)


def _resampled(sample: _Clusters, resamples: int, rng: np.random.Generator) -> Floats:
    """Return the studentised means (μ* − μ)/se* of resamples of the clusters."""
    g = len(sample.residual)
    t = np.empty(resamples)
    _studentised(rng.integers(0, g, (resamples, g), np.int32), sample.residual, sample.weight, t)
    return t


def _sign_flipped(sample: _Clusters, resamples: int, rng: np.random.Generator) -> int:
    """Count the sign-flipped means that are at least as many standard errors above 0 as the observed mean."""
    sums, g = sample.residual + sample.mean * sample.weight, len(sample.weight)
    flipped = rng.choice(np.array([-1.0, 1.0]), (resamples, g)) * sums
    mean = flipped.sum(axis=1) / sample.weight.sum()
    spread = ((flipped - mean[:, None] * sample.weight) ** 2).sum(axis=1)
    se = np.sqrt(g / (g - 1) * spread) / sample.weight.sum()
    return int((mean >= sample.mean / sample.se * se - _TIE).sum())


@compiled
def _studentised(
    picked: npt.NDArray[np.int32], residual: Floats, weight: Floats, t: Floats
) -> None:  # pragma: no cover - compiled
    g = picked.shape[1]
    for row in range(len(t)):
        s = n = ss = sn = nn = 0.0
        for k in range(g):
            i = picked[row, k]
            e, w = residual[i], weight[i]
            s += e
            n += w
            ss += e * e
            sn += e * w
            nn += w * w
        # The mean of clusters that all have weight 0 is undefined; it counts as equal to the observed one.
        shift = s / n if n > 0.0 else 0.0
        squares = ss - 2.0 * shift * sn + shift * shift * nn
        if squares > 1e-12 * ss:
            t[row] = shift * n / np.sqrt(g / (g - 1.0) * squares)
        elif shift == 0.0:
            t[row] = 0.0
        else:
            t[row] = np.inf if shift > 0.0 else -np.inf
