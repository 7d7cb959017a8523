"""What many tries buy, and what is left of a p-value after them.

The best of *m* rules without any edge looks good: its z-score is about `expected_max(m)`.  Three kinds of family
need three corrections:

* **the cells of one grid** share their data: `romano_wolf`, a stepdown on the studentised maximum, which learns from
  the data how much the cells overlap (Romano & Wolf 2005, "Stepwise multiple testing as formalized data snooping");
* **hypotheses**: `holm` for a claim (Holm 1979), `benjamini_hochberg` (1995) and `benjamini_yekutieli` (2001) for a
  board of what deserves another look;
* **live e-values**, looked at whenever one likes: `e_bh` (Wang & Ramdas 2022, "False discovery rate control with
  e-values").

`deflated_sharpe` (Bailey & López de Prado 2014) and `pbo` (Bailey, Borwein, López de Prado & Zhu 2017, "The
probability of backtest overfitting") are second opinions on the best of many variants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import combinations
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from kalshilab.edge.schema import settled
from kalshilab.edge.stats.resampling import Block, blocks_of, draw
from kalshilab.errors import EdgeError

__all__ = [
    "Pbo",
    "RomanoWolf",
    "benjamini_hochberg",
    "benjamini_yekutieli",
    "bonferroni_b",
    "deflated_sharpe",
    "e_bh",
    "event_matrix",
    "expected_max",
    "fewest_b",
    "holm",
    "pbo",
    "romano_wolf",
]

Floats = npt.NDArray[np.float64]
Cells = Floats | Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]
_EULER: Final = 0.5772156649015329
_CHUNK: Final = 2_000_000
"""Numbers of one table of resamples that are held at a time."""


class RomanoWolf(msgspec.Struct, frozen=True):
    """A family of rules judged together; arrays in the order of the rules."""

    mean: Floats
    """Mean a cluster, in the unit of the values; NaN for a rule without any."""
    se: Floats
    """Its standard error over clusters."""
    t: Floats
    """mean / se; NaN where the rule could not be tested."""
    p: Floats
    """One-sided (mean <= 0), adjusted for the family; 1 where the rule could not be tested."""
    tested: npt.NDArray[np.bool_]
    """Whether the rule had clusters and losses enough to be tested."""
    b: int
    """Resamples."""

    def rejected(self, alpha: float = 0.05) -> npt.NDArray[np.bool_]:
        """The rules with a mean above 0, with at most `alpha` chance of a single error among them."""
        return self.p <= alpha


class Pbo(msgspec.Struct, frozen=True):
    """How often the best variant of one half of the time is below the median in the other half."""

    pbo: float
    """Share of the splits in which it is; above 0.2 the choice among the variants is luck."""
    logits: Floats
    """Of each split: log(w / (1 − w)), w the relative rank out of sample of the best in sample."""
    loss: float
    """Share of the splits in which the best in sample earns nothing, or loses, out of sample."""
    slope: float
    """Of the chosen variant's performance out of sample on that in sample."""


def event_matrix(cells: Sequence[pl.DataFrame]) -> tuple[Floats, list[str]]:
    """The profits of several rules by event: `(values, events)`, values in dollars of shape (events, rules).

    Args:
        cells: entries of each rule (`kalshilab.edge.ENTRIES_SCHEMA`); only what is settled counts.

    Returns:
        Each event's mean profit a contract under each rule, NaN where the rule did not trade it.  Events stand in
        the order of the first entry any rule made in them.
    """
    tall = pl.concat(
        [
            settled(frame).select(
                "event", "pnl", pl.coalesce("entry_ts", "ts").alias("at"), pl.lit(i).alias("cell")
            )
            for i, frame in enumerate(cells)
        ]
    )
    order = tall.group_by("event").agg(pl.col("at").min()).sort("at", "event").with_row_index("row")
    means = tall.group_by("event", "cell").agg(pl.col("pnl").mean()).join(order, on="event")
    values = np.full((len(order), len(cells)), np.nan)
    values[means["row"].to_numpy(), means["cell"].to_numpy()] = means["pnl"].to_numpy()
    return values, order["event"].to_list()


def romano_wolf(
    cells: Cells,
    *,
    b: int = 1999,
    seed: int | np.random.Generator = 0,
    min_clusters: int = 30,
    min_losses: int = 10,
    executor: Executor | None = None,
) -> RomanoWolf:
    """Adjusted p-values of many rules on the same clusters, by the studentised stepdown.

    Each resample draws clusters once, for all rules, so what the rules share they share in the resample.  With
    T_j = μ_j / se_j and T*_j = (μ*_j − μ_j) / se*_j, the rule with the k-th largest T gets
    p_(k) = P(max over j ≥ k of T*_j ≥ T_(k)), made monotone.  The mean is over clusters, each counting once: for
    clusters that are events, the mean over events of the event's mean.

    Args:
        cells: an array of shape (clusters, rules), NaN where a rule has nothing in a cluster (`event_matrix`); or
            for each rule the profits of its entries and the clusters they are in (labels shared by the rules).
        b: resamples; see `bonferroni_b` for how many are needed at least.
        seed: a seed or a Generator.
        min_clusters, min_losses: a rule with fewer clusters, or fewer with a mean below 0, cannot be judged by
            resampling (no loss seen yet is no variance); it gets p = 1 and does not disturb the others.
        executor: who resamples (`kalshilab.edge.stats.resampling`); None: this process.  The numbers are the same.

    >>> rng = np.random.default_rng(1)
    >>> values = rng.normal(size=(200, 5)) + [0.5, 0, 0, 0, 0]
    >>> romano_wolf(values, b=999).rejected().tolist()
    [True, False, False, False, False]

    Raises:
        EdgeError: no rule, an infinite value, entries and clusters of different lengths.
    """
    values = _matrix(cells)
    have = np.isfinite(values)
    if np.isinf(values).any():
        raise EdgeError("romano_wolf: a value is infinite; profits are finite, NaN stands for none")
    if b < 1:
        raise EdgeError(f"romano_wolf: b={b}; at least one resample, 1,999 are usual")
    present, sums = have.astype(np.float64), np.where(have, values, 0.0)
    n = present.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(0) / n
        se = np.sqrt(np.nansum((values - mean) ** 2, 0) / (n - 1) / n)
        t = mean / se
    tested = (n >= max(min_clusters, 2)) & ((sums < 0).sum(0) >= min_losses) & (se > 0)
    p = np.ones(values.shape[1])
    if tested.any():
        blocks = blocks_of(b, max(len(values), int(tested.sum())), seed)
        p[tested] = _stepdown(sums[:, tested], present[:, tested], mean[tested], t[tested], blocks, executor)
    return RomanoWolf(mean, se, np.where(tested, t, np.nan), p, tested, b)


def _matrix(cells: Cells) -> Floats:
    if isinstance(cells, np.ndarray):
        values = np.atleast_2d(np.asarray(cells, np.float64))
    else:
        pairs = [(np.asarray(pnl, np.float64), np.asarray(cluster)) for pnl, cluster in cells]
        if any(pnl.shape != cluster.shape for pnl, cluster in pairs):
            raise EdgeError("romano_wolf: a rule needs a cluster for each of its profits")
        if not pairs:
            raise EdgeError("romano_wolf: no rules")
        labels, codes = np.unique(np.concatenate([cluster for _, cluster in pairs]), return_inverse=True)
        values = np.full((len(labels), len(pairs)), np.nan)
        start = 0
        for j, (pnl, cluster) in enumerate(pairs):
            code = codes[start : start + len(cluster)]
            start += len(cluster)
            counts = np.bincount(code, minlength=len(labels))
            totals = np.bincount(code, weights=pnl, minlength=len(labels))
            values[counts > 0, j] = totals[counts > 0] / counts[counts > 0]
    if values.ndim != 2 or not values.size:
        raise EdgeError("romano_wolf: no rules, or no clusters; values are of shape (clusters, rules)")
    return values


class _Rules(msgspec.Struct, frozen=True):
    """Rules that are resampled together, the one with the largest t first; each a column, each cluster a row."""

    centred: Floats
    present: Floats
    t: Floats


def _stepdown(
    sums: Floats, present: Floats, mean: Floats, t: Floats, blocks: list[Block], executor: Executor | None
) -> Floats:
    order = np.argsort(-t, kind="stable")
    rules = _Rules(np.where(present > 0, sums - mean, 0.0)[:, order], present[:, order], t[order])
    exceeded = sum(draw(_exceeded, rules, blocks, executor), np.zeros(len(t)))
    p = np.empty(len(t))
    p[order] = np.maximum.accumulate((1 + exceeded) / (1 + sum(n for n, _ in blocks)))
    return p


def _exceeded(of: _Rules, b: int, rng: np.random.Generator) -> Floats:
    """Of each rule, in how many of `b` resamples the largest t of it and those behind it is at least its own."""
    clusters = len(of.centred)
    weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=b).astype(float)
    count = weights @ of.present
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = weights @ of.centred / count
        # Σ w (x − μ*)² from sums about μ, and its standard error of the mean over the clusters drawn.
        spread = np.maximum(weights @ of.centred**2 - count * shift**2, 0.0)
        star = shift / np.sqrt(spread / (count - 1) / count)
    # Nothing drawn, or nothing that varies: no evidence against the null, except that all of it was gains.
    star = np.where(np.isnan(star), np.where(shift > 0, np.inf, -np.inf), star)
    tail = np.maximum.accumulate(star[:, ::-1], axis=1)[:, ::-1]
    return np.asarray((tail >= of.t).sum(0), np.float64)


def holm(p: npt.ArrayLike) -> Floats:
    """Adjusted p-values: rejecting those at most alpha errs at all with chance at most alpha, however dependent.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

    Raises:
        EdgeError: something is no probability.
    """
    values = _probabilities(p, "holm")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    left = np.arange(len(values), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * left), 1.0) if len(values) else values
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Adjusted p-values: of those at most q, on average at most a share q are false (independent or positively
    dependent tests).

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]

    Raises:
        EdgeError: something is no probability.
    """
    values = _probabilities(p, "benjamini_hochberg")
    return np.asarray(stats.false_discovery_control(values, method="bh")) if len(values) else values


def benjamini_yekutieli(p: npt.ArrayLike) -> Floats:
    """As `benjamini_hochberg`, under any dependence, and dearer by a factor of about ln(m)."""
    values = _probabilities(p, "benjamini_yekutieli")
    return np.asarray(stats.false_discovery_control(values, method="by")) if len(values) else values


def e_bh(e: npt.ArrayLike, alpha: float = 0.10) -> npt.NDArray[np.bool_]:
    """Which e-values to believe: false discovery rate at most `alpha` under any dependence, looked at any time.

    The k largest, for the largest k with e_(k) >= m / (alpha k).

    >>> e_bh([100.0, 25.0, 1.0, 0.2], alpha=0.10).tolist()
    [True, True, False, False]

    Raises:
        EdgeError: something is no e-value (negative, NaN), or alpha is no rate.
    """
    values = np.asarray(e, np.float64).ravel()
    if np.isnan(values).any() or (values < 0).any():
        raise EdgeError("e_bh: e-values are numbers from 0 up")
    _rate("e_bh", alpha)
    m = len(values)
    order = np.argsort(-values, kind="stable")
    good = np.flatnonzero(values[order] * alpha * np.arange(1, m + 1) >= m)
    chosen = np.zeros(m, np.bool_)
    if len(good):
        chosen[order[: good[-1] + 1]] = True
    return chosen


def expected_max(m: int) -> float:
    """The expected best z-score of m rules without any edge: (1 − γ) Φ⁻¹(1 − 1/m) + γ Φ⁻¹(1 − 1/(m e)).

    Approximate from m = 2 on (Bailey & López de Prado 2014); 0 for a single rule.

    >>> round(expected_max(117), 2), round(expected_max(117 * 36), 2)
    (2.59, 3.64)

    Raises:
        EdgeError: m below 1.
    """
    if m < 1:
        raise EdgeError(f"expected_max: {m} rules; at least one was tried")
    if m == 1:
        return 0.0
    return float((1 - _EULER) * stats.norm.isf(1 / m) + _EULER * stats.norm.isf(1 / (m * math.e)))


def bonferroni_b(m: int, alpha: float = 0.05) -> int:
    """How many resamples to draw for a claim among m trials: 20 m / alpha, and never fewer than 1,999.

    Twenty times what `fewest_b` needs, so that the p-value at the threshold has a standard error below a quarter
    of it.

    >>> bonferroni_b(1), bonferroni_b(117)
    (1999, 46800)
    """
    _family("bonferroni_b", m, alpha)
    return max(1999, math.ceil(round(20 * m / alpha, 6)))


def fewest_b(m: int, alpha: float = 0.05) -> int:
    """The fewest resamples with which anything can be rejected among m trials: 1/(b + 1) <= alpha/m.

    >>> fewest_b(117)
    2339
    """
    _family("fewest_b", m, alpha)
    return max(1, math.ceil(round(m / alpha, 6)) - 1)


def deflated_sharpe(
    returns: npt.ArrayLike,
    trial_sharpes: npt.ArrayLike,
    *,
    trials: int | None = None,
    n_eff: float | None = None,
) -> float:
    """The probability that the best variant's Sharpe ratio is more than the luck of the best of all.

    DSR = Φ((SR − SR₀) √(T − 1) / √(1 − skew SR + (kurt − 1)/4 SR²)), SR₀ = sd(SR over trials) × `expected_max`.
    Ratios are per observation, not a year; kurtosis of a normal is 3.

    Args:
        returns: of the chosen variant, one an observation.
        trial_sharpes: Sharpe ratios of all variants that were tried.
        trials: how many there were, if more than are given.
        n_eff: effective number of observations; None: as many as returns.

    Returns:
        A probability, to be at least 0.95.

    >>> returns = np.random.default_rng(1).normal(0.1, 1.0, 500)
    >>> few, many = (deflated_sharpe(returns, [0.1, 0.02, -0.05], trials=m) for m in (3, 200))
    >>> many < few
    True

    Raises:
        EdgeError: fewer than two observations, or they do not vary; no trials.
    """
    values, tried = np.asarray(returns, np.float64).ravel(), np.asarray(trial_sharpes, np.float64).ravel()
    if len(values) < 2 or not np.isfinite(values).all() or values.std() == 0:
        raise EdgeError("deflated_sharpe: needs at least two finite returns that differ")
    m = len(tried) if trials is None else trials
    if not len(tried) or not np.isfinite(tried).all() or m < len(tried):
        raise EdgeError(
            "deflated_sharpe: needs the finite Sharpe ratios of all trials, and trials= not below them"
        )
    sharpe = values.mean() / values.std(ddof=1)
    bar = (tried.std(ddof=1) if len(tried) > 1 else 0.0) * expected_max(m)
    size = len(values) if n_eff is None else n_eff
    skew, kurtosis = stats.skew(values), stats.kurtosis(values, fisher=False)
    # Positive: kurtosis is at least 1 + skew².
    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    return float(stats.norm.cdf((sharpe - bar) * math.sqrt(max(size - 1, 0)) / math.sqrt(spread)))


def pbo(values: Floats, *, blocks: int = 16, metric: str = "mean") -> Pbo:
    """Probability of backtest overfitting, by combinatorially symmetric cross-validation.

    Time is cut into blocks; for each way to choose half of them (12,870 of 16), the variant that is best there is
    ranked among all in the other half.  Its relative rank w = rank / (variants + 1) has logit log(w / (1 − w)); the
    share of logits at or below 0 is the probability.

    Args:
        values: of shape (events, variants), in the order of time; NaN where a variant has none (`event_matrix`).  A
            variant without any in a half earns 0 there.
        blocks: an even number.
        metric: "mean" or "sharpe" (mean over standard deviation, of a half's events).

    >>> values = np.random.default_rng(0).normal(size=(320, 12))
    >>> luck = pbo(values).pbo
    >>> values[:, 0] += 0.5  # One variant that is better than all others, always.
    >>> luck > 0.4, pbo(values).pbo
    (True, 0.0)

    Raises:
        EdgeError: fewer than two variants, fewer events than blocks, an odd number of blocks, another metric.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or len(values) < blocks:
        raise EdgeError(
            f"pbo: needs two variants and an event a block; values are {values.shape}, blocks {blocks}"
        )
    if blocks < 2 or blocks % 2 or blocks > 20:
        raise EdgeError(f"pbo: blocks={blocks}; an even number from 2 to 20, 16 is usual")
    if metric not in ("mean", "sharpe"):
        raise EdgeError(f"pbo: metric={metric!r}; mean or sharpe")
    variants = values.shape[1]
    parts = [np.nan_to_num(part) for part in np.array_split(values, blocks)]
    count = np.array([np.isfinite(part).sum(0) for part in np.array_split(values, blocks)], np.float64)
    total = np.array([part.sum(0) for part in parts])
    square = np.array([(part**2).sum(0) for part in parts])
    halves = np.array(list(combinations(range(blocks), blocks // 2)))
    chosen = np.zeros((len(halves), blocks))
    np.put_along_axis(chosen, halves, 1.0, axis=1)
    ranks, inside, outside = [], [], []
    step = max(1, _CHUNK // variants)
    for start in range(0, len(chosen), step):
        mask = chosen[start : start + step]
        seen = _performance(mask @ total, mask @ square, mask @ count, metric)
        rest = _performance((1 - mask) @ total, (1 - mask) @ square, (1 - mask) @ count, metric)
        best = seen.argmax(1)[:, None]
        then = np.take_along_axis(rest, best, 1)
        ranks.append(((rest < then).sum(1) + (1 + (rest == then).sum(1)) / 2) / (variants + 1))
        inside.append(np.take_along_axis(seen, best, 1)[:, 0])
        outside.append(then[:, 0])
    share, had, got = (np.concatenate(part) for part in (ranks, inside, outside))
    logits = np.log(share / (1 - share))
    slope = float(np.cov(had, got)[0, 1] / had.var(ddof=1)) if len(had) > 2 and had.std() > 0 else 0.0
    # A rank in the very middle is 0 but for rounding.
    return Pbo(float((logits <= 1e-12).mean()), logits, float((got <= 0).mean()), slope)


def _performance(total: Floats, square: Floats, count: Floats, metric: str) -> Floats:
    mean = total / np.maximum(count, 1)
    if metric == "mean":
        return mean
    variance = np.maximum(square / np.maximum(count, 1) - mean**2, 0.0)
    return np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 1e-18)


def _probabilities(p: npt.ArrayLike, what: str) -> Floats:
    values: Any = np.asarray(p, np.float64).ravel()
    if not ((values >= 0) & (values <= 1)).all():
        raise EdgeError(f"{what}: p-values are from 0 to 1; leave out what was not judged, or give it 1")
    return np.asarray(values)


def _rate(what: str, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise EdgeError(f"{what}: alpha={alpha}; a rate between 0 and 1")


def _family(what: str, m: int, alpha: float) -> None:
    _rate(what, alpha)
    if m < 1:
        raise EdgeError(f"{what}: {m} trials; at least one was made")
