"""Is the mean profit above 0, and how sure is that: three tests that must all agree, and the wider interval.

What is judged is the mean over events of the event's mean profit a contract, entries without a fill counting 0.
Entries are not independent: the markets of an event are decided together, the events of a day share shocks, and
payoffs are skewed (a favourite wins little often, and loses much seldom).  Three tests look at that differently:

* `kalshilab.edge.stats.martingale`: the profits of the same entries in a market without an edge, no variance estimated;
* the studentised bootstrap over **events**, and over **days** (an event belongs to the day of its first entry).

The reported p-value is the largest of the three, and so holds wherever one of them does.  The interval is the wider
of the two bootstraps; with fewer than 30 events or 10 losses no variance can be trusted, and it is the inverted
Monte Carlo test; with fewer than 30 days that takes the place of the bootstrap over days.

**The bootstrap** (Efron & Tibshirani 1993, ch. 12; for clusters Cameron, Gelbach & Miller 2008).  Clusters have the
sums S and weights n; μ = ΣS/Σn, e = S − μn, se = √(G/(G − 1)·Σe²)/Σn.  A resample of whole clusters gives
t* = (μ* − μ)/se*, and with the quantiles q of t* the interval is μ − q·se.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.edge.schema import Arrays, Interval
from kalshilab.edge.stats.martingale import coupled, intraclass, invert, null_means
from kalshilab.edge.stats.power import detectable
from kalshilab.edge.stats.resampling import blocks_of, draw
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled

__all__ = ["CLUSTERS", "LOSSES", "Inference", "bootstrap", "gross", "infer", "two_way", "wild"]

Floats = npt.NDArray[np.float64]
CLUSTERS: Final = 30
"""Fewer clusters than this give no variance to trust."""
LOSSES: Final = 10
"""Nor do fewer losses."""
_TIE: Final = 1e-9


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample says about an edge.  Edges and standard errors are cents a contract, p-values one-sided."""

    edge: float
    """Mean over events of the event's mean profit."""
    lower: float
    """Two-sided 95 % interval, by `method`."""
    upper: float
    p: float
    """Of edge <= 0: the largest of the three below."""
    p_mc: float
    """By the martingale null."""
    p_event: float
    """By the bootstrap over events; NaN where it cannot be had (one event, no variance)."""
    p_day: float
    """By the bootstrap over days; NaN likewise."""
    n: int
    """Entries behind it, those without a fill included."""
    n_filled: int
    n_events: int
    """Events with a fill."""
    n_days: int
    """Days with a fill."""
    n_losses: int
    """Fills that lost."""
    n_eff: float
    """Independent entries whose mean would vary as much as this one."""
    deff: float
    """`n_events / n_eff`: below 1 where the legs of an event tell more than one would, above 1 where days share."""
    rho: float
    """Correlation of a day's events that the martingale null used."""
    mde: float
    """The smallest edge that such a sample finds with 80 % power, testing one hypothesis at 5 %."""
    method: str
    """Where the interval is from."""
    se_event: float
    """Clustered by event; NaN for a single one, as with the next two."""
    se_day: float
    """Clustered by the day of each entry."""
    se_two_way: float
    """By both; at least the larger of the two."""
    se_null: float
    """Of the mean if there is no edge: what `mde` is made of."""
    b: int
    """Draws of each test."""

    @property
    def interval(self) -> Interval:
        """The estimate with its interval and p-value."""
        return Interval(self.edge, self.lower, self.upper, self.p, self.n, self.n_events)

    def mde_at(self, trials: int) -> float:
        """The smallest detectable edge, in cents, in a family of so many trials (Bonferroni)."""
        return detectable(self.se_null, trials=trials)


class _Clusters(msgspec.Struct, frozen=True):
    """Sums of a ratio mean by cluster, and what follows from them."""

    residual: Floats
    weight: Floats
    mean: float
    se: float


def bootstrap(
    pnl: npt.ArrayLike,
    clusters: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    b: int = 1999,
    seed: int | np.random.Generator = 0,
    *,
    level: float = 0.95,
    executor: Executor | None = None,
) -> Interval:
    """The mean of profits with its studentised cluster-bootstrap interval and p-value.

    Args:
        pnl: profits in dollars, shape (n,).
        clusters: which cluster each is in; any labels, shape (n,).
        weights: of each profit; None for 1.  With 1/(entries of its event) the mean is over events.
        b: resamples.
        seed: a seed or a Generator.
        level: of the two-sided interval.
        executor: who resamples (`kalshilab.edge.stats.resampling`); None: this process.  The numbers are the same.

    Returns:
        Cents.  With one cluster, or no variance between clusters, bounds are infinite and p is NaN: nothing is known
        of how the mean varies.

    >>> rng = np.random.default_rng(0)
    >>> days = np.repeat(np.arange(100), 5)
    >>> shock = rng.normal(0, 0.1, 100)[days]
    >>> result = bootstrap(0.05 + shock + rng.normal(0, 0.3, 500), days)
    >>> result.lower < 5.0 < result.upper, result.p < 0.05, result.clusters
    (True, True, 100)

    Raises:
        EdgeError: no profit; arrays of different lengths; a profit or weight that is not finite; weights below 0 or
            all 0; `b` or `level` out of their range.
    """
    x, codes, w = _sample(pnl, clusters, weights)
    if b < 1 or not 0 < level < 1:
        raise EdgeError(f"b={b}, level={level}; at least 1 resample, and a level between 0 and 1")
    of = _clusters(x, codes, w)
    n, g = len(x), len(of.residual)
    if not of.se > 0:
        return Interval(100 * of.mean, -math.inf, math.inf, math.nan, n, g)
    t = np.concatenate(draw(_resampled, of, blocks_of(b, g, seed), executor))
    # Quantiles that are draws themselves: between a number and an infinite one there is nothing.
    low, high = np.quantile(t, [(1 - level) / 2, (1 + level) / 2], method="inverted_cdf")
    p = (1 + int((t >= of.mean / of.se - _TIE).sum())) / (b + 1)
    lower, upper = (100 * float(of.mean - q * of.se) for q in (high, low))
    return Interval(100 * of.mean, lower, upper, p, n, g)


def wild(
    pnl: npt.ArrayLike,
    clusters: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    b: int = 1999,
    seed: int | np.random.Generator = 0,
    *,
    executor: Executor | None = None,
) -> float:
    """One-sided p-value of mean <= 0 by the wild cluster bootstrap: each cluster's sum keeps or turns its sign.

    Rademacher signs with the null imposed (Cameron, Gelbach & Miller 2008), which is the sign-flip permutation test.
    It assumes that sums of clusters are as likely above 0 as below; payoffs are skewed, so it is a cross-check at 10
    to 40 clusters and never decides.

    Args:
        pnl, clusters, weights, b, seed, executor: as of `bootstrap`.

    Returns:
        The p-value; NaN with one cluster, or no variance between clusters.

    Raises:
        EdgeError: as of `bootstrap`.
    """
    x, codes, w = _sample(pnl, clusters, weights)
    if b < 1:
        raise EdgeError(f"b={b}; at least 1 draw")
    of = _clusters(x, codes, w)
    if not of.se > 0:
        return math.nan
    as_far = sum(draw(_turned, of, blocks_of(b, len(of.weight), seed), executor))
    return (1 + as_far) / (b + 1)


def two_way(
    pnl: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    """Standard error of the mean, in dollars, clustered both ways.

    V(first) + V(second) − V(both) (Cameron, Gelbach & Miller 2011, "Robust inference with multiway clustering"), at
    least the larger one-way variance: the difference can be negative in a small sample.  NaN with one cluster.

    Raises:
        EdgeError: as of `bootstrap`.
    """
    x, a, w = _sample(pnl, first, weights)
    _, c, _ = _sample(pnl, second, weights)
    both = np.unique(a * (int(c.max()) + 1) + c, return_inverse=True)[1]
    one, other, joint = (_clusters(x, codes, w).se ** 2 for codes in (a, c, both))
    return math.sqrt(max(one + other - joint, one, other)) if not math.isnan(one + other) else math.nan


def gross(entries: pl.DataFrame) -> pl.DataFrame:
    """The same fires as if each had been bought at the mid as of the fire, free of fees: what the signal knows.

    Fires without a fill count too, since whether a fill came was decided later; only what is unsettled is left out.
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


def infer(
    entries: pl.DataFrame,
    *,
    b: int = 1999,
    seed: int | np.random.Generator = 0,
    null: Literal["net", "mid"] = "net",
    executor: Executor | None = None,
) -> Inference:
    """The edge of entries with its interval, its p-value, and the edge that they could have shown.

    Legs of exclusive markets entered on different days, and events entered on several days, have no joint law that
    the data would tell: they keep the safe one (`kalshilab.edge.stats.martingale`), and count for the day of the first.

    Args:
        entries: `ENTRIES_SCHEMA`; what is not settled is left out.
        b: draws of each test.  A p-value is at least 1/(b + 1), so a family of m needs b >= 20·m/α.
        seed: a seed or a Generator; the same one gives the same result.
        null: "net" judges profits against cost; "mid" the information, as if bought at the mid (`gross`).
        executor: who draws (`kalshilab.edge.stats.resampling`); None: this process.  The numbers are the same.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(2_000, edge=5.0, spread=2.0, seed=0)
    >>> found = infer(signal)
    >>> found.lower > 0, found.p < 0.01, found.lower < 5.0 < found.upper
    (True, True, True)

    Raises:
        EdgeError: no settled entry, or none that was filled; an argument out of its range.
    """
    if null not in ("net", "mid"):
        raise EdgeError(f"null={null!r}; 'net' or 'mid'")
    if b < 1:
        raise EdgeError(f"b={b}; at least 1 draw")
    arrays = coupled(entries if null == "net" else gross(entries))
    if not len(arrays.pnl):
        raise EdgeError("no entry is settled, so there is nothing to judge")
    if not arrays.filled.any():
        raise EdgeError(
            f"none of {len(arrays.pnl):,} settled fires was filled, so there is no profit to judge; "
            "look at the entry rule's window, or at more of the tape"
        )
    chance, by_event, by_day, turned = np.random.default_rng(seed).spawn(4)
    rho = intraclass(arrays)
    means = null_means(arrays, b=b, rho=rho, seed=chance, executor=executor)
    size = np.bincount(arrays.event)
    each = np.bincount(arrays.event, arrays.pnl) / size
    _, opened = np.unique(arrays.event, return_index=True)
    day = arrays.day[opened]

    edge = float(each.mean())
    p_mc = (1 + int((means >= edge - _TIE).sum())) / (b + 1)
    event = bootstrap(each, np.arange(len(each)), None, b, by_event, executor=executor)
    days = bootstrap(each, day, None, b, by_day, executor=executor)
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
        low, high = invert(arrays, b=b, rho=rho, seed=turned)
        bounds.append((100 * low, 100 * high, "inverted Monte Carlo"))
    lower, upper, method = max(bounds, key=lambda bound: bound[1] - bound[0])

    weight = 1.0 / (size[arrays.event] * len(size))
    se_event, se_day = (_clusters(arrays.pnl, codes, weight).se for codes in (arrays.event, arrays.day))
    se_two_way = two_way(arrays.pnl, arrays.event, arrays.day, weight)
    fair = _fair_variance(arrays, weight)
    # Where the sample's own variances cannot be trusted, those of the null stand in for them.
    if thin or not se_two_way > 0:
        one, of_mean = fair, float(means.var())
    else:
        one, of_mean = float(weight @ (arrays.pnl - edge) ** 2), se_two_way**2
    n_filled = int(filled.sum())
    n_eff = one / of_mean if of_mean > 0 and one > 0 else float(n_filled)
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
        b=b,
    )


def _fair_variance(arrays: Arrays, weight: Floats) -> float:
    """Variance of one entry's profit if there is no edge: c(1 − c), and 0 without a fill."""
    cost = np.clip(arrays.cost[arrays.filled], 0.0, 1.0)
    return float(weight[arrays.filled] @ (cost * (1 - cost)))


def _sample(
    pnl: npt.ArrayLike, clusters: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    x = np.asarray(pnl, np.float64)
    labels = np.asarray(clusters)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if not x.ndim == labels.ndim == w.ndim == 1 or not len(x) == len(labels) == len(w):
        raise EdgeError(
            f"profits of shape {x.shape}, clusters {labels.shape}, weights {w.shape}; one row of each"
        )
    if not len(x):
        raise EdgeError("no profit, so there is no mean")
    if not (np.isfinite(x).all() and np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
        raise EdgeError("profits and weights are finite, weights at least 0 and not all of them 0")
    return x, np.unique(labels, return_inverse=True)[1].astype(np.int64), w


def _clusters(x: Floats, codes: npt.NDArray[np.int64], w: Floats) -> _Clusters:
    """The ratio mean Σwx/Σw and its clustered standard error, NaN with one cluster."""
    size: Floats = np.bincount(codes, w).astype(np.float64)
    mean = float(w @ x / w.sum())
    residual: Floats = np.bincount(codes, w * (x - mean)).astype(np.float64)
    g = len(size)
    se = math.nan if g < 2 else math.sqrt(g / (g - 1) * float(residual @ residual)) / float(w.sum())
    # Rounding leaves a trace of a variance where there is none.
    return _Clusters(residual, size, mean, 0.0 if se <= 1e-15 * max(1.0, float(np.abs(x).max())) else se)


def _resampled(of: _Clusters, b: int, rng: np.random.Generator) -> Floats:
    """Studentised means (μ* − μ)/se* of `b` resamples of the clusters."""
    g = len(of.residual)
    t = np.empty(b)
    _studentised(rng.integers(0, g, (b, g), np.int32), of.residual, of.weight, t)
    return t


def _turned(of: _Clusters, b: int, rng: np.random.Generator) -> int:
    """How many of `b` means whose clusters kept or turned their signs are as far above 0 as ours."""
    sums, g = of.residual + of.mean * of.weight, len(of.weight)
    turned = rng.choice(np.array([-1.0, 1.0]), (b, g)) * sums
    mean = turned.sum(axis=1) / of.weight.sum()
    spread = ((turned - mean[:, None] * of.weight) ** 2).sum(axis=1)
    se = np.sqrt(g / (g - 1) * spread) / of.weight.sum()
    return int((mean >= of.mean / of.se * se - _TIE).sum())


@compiled
def _studentised(picked: Any, residual: Any, weight: Any, t: Any) -> None:  # pragma: no cover - compiled
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
        # A resample of clusters that all weigh nothing has no mean to be far from ours.
        over = s / n if n > 0.0 else 0.0
        left = ss - 2.0 * over * sn + over * over * nn
        if left > 1e-12 * ss:
            t[row] = over * n / np.sqrt(g / (g - 1.0) * left)
        elif over == 0.0:
            t[row] = 0.0
        else:
            t[row] = np.inf if over > 0.0 else -np.inf
