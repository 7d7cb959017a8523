"""Multiple testing: p-values, e-values and resamples adjusted for the number of hypotheses that were tried.

The best of *m* rules without any edge looks good: its z-score is about `expected_max(m)`. Three kinds of family need
three corrections:

* **The cells of one grid** share their data: `romano_wolf`, a stepdown on the studentised maximum, estimates from the
  data how much the cells overlap (Romano & Wolf 2005, "Stepwise multiple testing as formalized data snooping").
* **Hypotheses**: `holm` for a claim (Holm 1979), `benjamini_hochberg` (1995) and `benjamini_yekutieli` (2001) for a
  board of candidates that deserve another look.
* **Live e-values**, which may be checked at any time: `e_bh` (Wang & Ramdas 2022, "False discovery rate control with
  e-values").

`deflated_sharpe` (Bailey & López de Prado 2014) and `pbo` (Bailey, Borwein, López de Prado & Zhu 2017, "The
probability of backtest overfitting") are second opinions on the best of many variants.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import Executor
from itertools import combinations
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import Bools, Floats, settled
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

Cells = Floats | Sequence[tuple[npt.ArrayLike, npt.ArrayLike]]
_EULER: Final = 0.5772156649015329
_CHUNK: Final = 2_000_000
"""Numbers of one table of splits that are in memory at a time."""


class RomanoWolf(msgspec.Struct, frozen=True):
    """Test results of a family of rules; all arrays are in the order of the rules."""

    mean: Floats
    """Mean over clusters, in the unit of the values; NaN for a rule without clusters."""
    se: Floats
    """Standard error of the mean over clusters."""
    t: Floats
    """mean / se; NaN if the rule could not be tested."""
    p: Floats
    """One-sided p-value (mean <= 0), adjusted for the family; 1 if the rule could not be tested."""
    tested: Bools
    """Whether the rule had enough clusters and losses to be tested."""
    resamples: int
    """Number of resamples."""

    @property
    def b(self) -> int:
        """Deprecated name of `resamples`."""
        warnings.warn("RomanoWolf.b is now RomanoWolf.resamples", DeprecationWarning, stacklevel=2)
        return self.resamples

    def rejected(self, alpha: float = 0.05) -> Bools:
        """Return which rules have a mean above 0, at a family-wise error rate of at most `alpha`."""
        return self.p <= alpha


class Pbo(msgspec.Struct, frozen=True):
    """Probability of backtest overfitting, with its details over all splits of the sample into halves."""

    pbo: float
    """Fraction of splits in which the best variant of one half is below the median in the other half.

    Above 0.2 the choice among the variants is luck.
    """
    logits: Floats
    """log(w / (1 − w)) of each split, where w is the relative out-of-sample rank of the best variant in sample."""
    loss: float
    """Fraction of splits in which the best variant in sample has a mean of 0 or less out of sample."""
    slope: float
    """Slope of a regression of the chosen variant's out-of-sample performance on its in-sample performance."""


def event_matrix(cells: Sequence[pl.DataFrame]) -> tuple[Floats, list[str]]:
    """Return the profits of several rules by event.

    Args:
        cells: entries of each rule (`kalshilab.edge.ENTRIES_SCHEMA`); unsettled ones are ignored.

    Returns:
        `(values, events)`: the mean profit of each event under each rule, in dollars per contract, of shape
        (events, rules), NaN if the rule did not trade the event; and the events, sorted by the first entry that any
        rule made in them.
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


@renamed_keywords(b="resamples")
def romano_wolf(
    cells: Cells,
    *,
    resamples: int = 1999,
    seed: int | np.random.Generator = 0,
    min_clusters: int = 30,
    min_losses: int = 10,
    executor: Executor | None = None,
) -> RomanoWolf:
    """Return adjusted p-values of many rules on the same clusters, by the studentised stepdown.

    Each resample draws the clusters once for all rules, so the dependence between rules is kept. With
    T_j = μ_j / se_j and T*_j = (μ*_j − μ_j) / se*_j, the rule with the k-th largest T gets
    p_(k) = P(max over j ≥ k of T*_j ≥ T_(k)), made monotone. Each cluster has the same weight in the mean: if the
    clusters are events, it is the mean over events of the event's mean.

    Args:
        cells: an array of shape (clusters, rules), NaN where a rule has no entry in a cluster (`event_matrix`); or
            for each rule the profits of its entries and their clusters (labels shared by the rules).
        resamples: number of resamples, at least 1; see `bonferroni_b` for how many a claim needs.
        seed: a seed or a Generator.
        min_clusters: fewest clusters of a rule that is tested. Others get p = 1 and do not affect the family.
        min_losses: fewest clusters with a mean below 0 of a rule that is tested, because without losses the variance
            is underestimated. Others get p = 1 and do not affect the family.
        executor: executor that resamples (`kalshilab.edge.stats.resampling`); None: this process. The result is the
            same.

    >>> rng = np.random.default_rng(1)
    >>> values = rng.normal(size=(200, 5)) + [0.5, 0, 0, 0, 0]
    >>> romano_wolf(values, resamples=999).rejected().tolist()
    [True, False, False, False, False]

    Raises:
        EdgeError: there is no rule or no cluster, a value is infinite, profits and clusters differ in length, or
            `resamples` is below 1.
    """
    values = _matrix(cells)
    have = np.isfinite(values)
    if np.isinf(values).any():
        raise EdgeError("cells must hold finite profits, got infinity; pass NaN where a rule has no entry")
    if resamples < 1:
        raise EdgeError(f"resamples must be at least 1, got {resamples}; 1,999 are usual")
    present, sums = have.astype(np.float64), np.where(have, values, 0.0)
    n = present.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums.sum(0) / n
        se = np.sqrt(np.nansum((values - mean) ** 2, 0) / (n - 1) / n)
        t = mean / se
    tested = (n >= max(min_clusters, 2)) & ((sums < 0).sum(0) >= min_losses) & (se > 0)
    p = np.ones(values.shape[1])
    if tested.any():
        blocks = blocks_of(resamples, max(len(values), int(tested.sum())), seed)
        p[tested] = _stepdown(sums[:, tested], present[:, tested], mean[tested], t[tested], blocks, executor)
    return RomanoWolf(mean, se, np.where(tested, t, np.nan), p, tested, resamples)


def _matrix(cells: Cells) -> Floats:
    if isinstance(cells, np.ndarray):
        values = np.atleast_2d(np.asarray(cells, np.float64))
    else:
        pairs = [(np.asarray(pnl, np.float64), np.asarray(cluster)) for pnl, cluster in cells]
        if any(pnl.shape != cluster.shape for pnl, cluster in pairs):
            raise EdgeError(
                "cells must give one cluster per profit of each rule, got arrays of different shapes"
            )
        if not pairs:
            raise EdgeError("cells must hold at least one rule, got 0")
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
        raise EdgeError(
            f"cells must be a non-empty array of shape (clusters, rules), got shape {values.shape}"
        )
    return values


class _SortedRules(msgspec.Struct, frozen=True):
    """Rules that are resampled together, sorted by falling t: one column per rule, one row per cluster."""

    centred: Floats
    present: Floats
    t: Floats


def _stepdown(
    sums: Floats, present: Floats, mean: Floats, t: Floats, blocks: list[Block], executor: Executor | None
) -> Floats:
    order = np.argsort(-t, kind="stable")
    rules = _SortedRules(np.where(present > 0, sums - mean, 0.0)[:, order], present[:, order], t[order])
    exceeding = sum(draw(_exceeding, rules, blocks, executor), np.zeros(len(t)))
    p = np.empty(len(t))
    p[order] = np.maximum.accumulate((1 + exceeding) / (1 + sum(n for n, _ in blocks)))
    return p


def _exceeding(sample: _SortedRules, resamples: int, rng: np.random.Generator) -> Floats:
    """Count for each rule the resamples in which the largest t* of it and the later rules is at least its t."""
    clusters = len(sample.centred)
    weights = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples).astype(float)
    count = weights @ sample.present
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = weights @ sample.centred / count
        # Σ w (x − μ*)² from sums about μ, then the standard error of the mean over the resampled clusters.
        squares = np.maximum(weights @ sample.centred**2 - count * shift**2, 0.0)
        star = shift / np.sqrt(squares / (count - 1) / count)
    # Without clusters or without variation, t* is undefined: it counts as exceeding only if the mean is a gain.
    star = np.where(np.isnan(star), np.where(shift > 0, np.inf, -np.inf), star)
    tail = np.maximum.accumulate(star[:, ::-1], axis=1)[:, ::-1]
    return np.asarray((tail >= sample.t).sum(0), np.float64)


def holm(p: npt.ArrayLike) -> Floats:
    """Return Holm-adjusted p-values, which control the family-wise error rate under any dependence.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]

    Raises:
        EdgeError: a value is not a probability.
    """
    values = _probabilities(p)
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    remaining = np.arange(len(values), 0, -1)
    if len(values):
        adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * remaining), 1.0)
    return adjusted


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Return p-values adjusted for the false discovery rate of independent or positively dependent tests.

    Of the hypotheses with an adjusted p-value of at most q, a fraction of at most q is false on average.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.04, 0.04]

    Raises:
        EdgeError: a value is not a probability.
    """
    values = _probabilities(p)
    return np.asarray(stats.false_discovery_control(values, method="bh")) if len(values) else values


def benjamini_yekutieli(p: npt.ArrayLike) -> Floats:
    """Return p-values adjusted for the false discovery rate under any dependence.

    They are larger than those of `benjamini_hochberg` by a factor of about ln(m).

    Raises:
        EdgeError: a value is not a probability.
    """
    values = _probabilities(p)
    return np.asarray(stats.false_discovery_control(values, method="by")) if len(values) else values


def e_bh(e: npt.ArrayLike, alpha: float = 0.10) -> Bools:
    """Return which e-values to reject at a false discovery rate of `alpha`, under any dependence and at any time.

    The k largest are rejected, for the largest k with e_(k) >= m / (alpha k).

    Args:
        e: e-values, at least 0.
        alpha: false discovery rate, between 0 and 1.

    >>> e_bh([100.0, 25.0, 1.0, 0.2], alpha=0.10).tolist()
    [True, True, False, False]

    Raises:
        EdgeError: a value is negative or NaN, or `alpha` is out of range.
    """
    values = np.asarray(e, np.float64).ravel()
    if np.isnan(values).any() or (values < 0).any():
        raise EdgeError("e must hold e-values of at least 0, got a negative value or NaN")
    _check_rate(alpha)
    m = len(values)
    order = np.argsort(-values, kind="stable")
    good = np.flatnonzero(values[order] * alpha * np.arange(1, m + 1) >= m)
    chosen = np.zeros(m, np.bool_)
    if len(good):
        chosen[order[: good[-1] + 1]] = True
    return chosen


def expected_max(m: int) -> float:
    """Return the expected best z-score of m rules without any edge.

    It is (1 − γ) Φ⁻¹(1 − 1/m) + γ Φ⁻¹(1 − 1/(m e)), an approximation for m >= 2 (Bailey & López de Prado 2014), and 0
    for a single rule.

    >>> round(expected_max(117), 2), round(expected_max(117 * 36), 2)
    (2.59, 3.64)

    Raises:
        EdgeError: m below 1.
    """
    if m < 1:
        raise EdgeError(f"m must be at least 1 rule, got {m}")
    if m == 1:
        return 0.0
    return float((1 - _EULER) * stats.norm.isf(1 / m) + _EULER * stats.norm.isf(1 / (m * math.e)))


def bonferroni_b(m: int, alpha: float = 0.05) -> int:
    """Return the number of resamples for a claim among m trials: 20 m / alpha, at least 1,999.

    This is twenty times `fewest_b`, so that the standard error of a p-value at the threshold is below a quarter of
    the threshold.

    >>> bonferroni_b(1), bonferroni_b(117)
    (1999, 46800)
    """
    _check_family(m, alpha)
    return max(1999, math.ceil(round(20 * m / alpha, 6)))


def fewest_b(m: int, alpha: float = 0.05) -> int:
    """Return the fewest resamples b with which a test among m trials can reject: 1/(b + 1) <= alpha/m.

    >>> fewest_b(117)
    2339
    """
    _check_family(m, alpha)
    return max(1, math.ceil(round(m / alpha, 6)) - 1)


def deflated_sharpe(
    returns: npt.ArrayLike,
    trial_sharpes: npt.ArrayLike,
    *,
    trials: int | None = None,
    n_eff: float | None = None,
) -> float:
    """Return the probability that the best variant's Sharpe ratio exceeds the best one expected from luck.

    DSR = Φ((SR − SR₀) √(T − 1) / √(1 − skew SR + (kurt − 1)/4 SR²)), SR₀ = sd(SR over trials) × `expected_max`.
    Ratios are per observation and not annualised; the kurtosis of a normal distribution is 3.

    Args:
        returns: returns of the chosen variant, one per observation.
        trial_sharpes: Sharpe ratios of all variants that were tried.
        trials: number of variants that were tried; None: as many as ratios are given.
        n_eff: effective number of observations; None: the number of returns.

    Returns:
        A probability; require at least 0.95.

    >>> returns = np.random.default_rng(1).normal(0.1, 1.0, 500)
    >>> few, many = (deflated_sharpe(returns, [0.1, 0.02, -0.05], trials=m) for m in (3, 200))
    >>> many < few
    True

    Raises:
        EdgeError: there are fewer than two finite returns, they do not vary, or the ratios or `trials` are invalid.
    """
    values, tried = np.asarray(returns, np.float64).ravel(), np.asarray(trial_sharpes, np.float64).ravel()
    if len(values) < 2 or not np.isfinite(values).all() or values.std() == 0:
        raise EdgeError("returns must hold at least two finite values that differ")
    m = len(tried) if trials is None else trials
    if not len(tried) or not np.isfinite(tried).all() or m < len(tried):
        raise EdgeError(
            f"trial_sharpes must hold finite ratios, at least 1 and at most trials, got {len(tried)} for trials={m}"
        )
    sharpe = values.mean() / values.std(ddof=1)
    threshold = (tried.std(ddof=1) if len(tried) > 1 else 0.0) * expected_max(m)
    size = len(values) if n_eff is None else n_eff
    skew, kurtosis = stats.skew(values), stats.kurtosis(values, fisher=False)
    # The variance is positive, because the kurtosis is at least 1 + skew².
    variance = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    return float(stats.norm.cdf((sharpe - threshold) * math.sqrt(max(size - 1, 0)) / math.sqrt(variance)))


def pbo(values: Floats, *, blocks: int = 16, metric: str = "mean") -> Pbo:
    """Estimate the probability of backtest overfitting by combinatorially symmetric cross-validation.

    Time is divided into blocks. For each way to choose half of them (12,870 ways for 16 blocks), the variant that is
    best there is ranked among all variants in the other half. Its relative rank w = rank / (variants + 1) has the
    logit log(w / (1 − w)); the fraction of logits at or below 0 is the probability.

    Args:
        values: profits of shape (events, variants), sorted by time, NaN where a variant did not trade the event
            (`event_matrix`). A variant without events in a half earns 0 there.
        blocks: number of blocks, even and from 2 to 20.
        metric: "mean" or "sharpe" (mean over standard deviation of the events of a half).

    >>> values = np.random.default_rng(0).normal(size=(320, 12))
    >>> luck = pbo(values).pbo
    >>> values[:, 0] += 0.5  # One variant that is better than all others, always.
    >>> luck > 0.4, pbo(values).pbo
    (True, 0.0)

    Raises:
        EdgeError: there are fewer than two variants or fewer events than blocks, or an argument is out of range.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or len(values) < blocks:
        raise EdgeError(
            f"values must have at least {blocks} events (one per block) and 2 variants, got shape {values.shape}"
        )
    if blocks < 2 or blocks % 2 or blocks > 20:
        raise EdgeError(f"blocks must be an even number from 2 to 20, got {blocks}; 16 is usual")
    if metric not in ("mean", "sharpe"):
        raise EdgeError(f"metric must be 'mean' or 'sharpe', got {metric!r}")
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
        chosen_rest = np.take_along_axis(rest, best, 1)
        below, tied = (rest < chosen_rest).sum(1), (rest == chosen_rest).sum(1)
        ranks.append((below + (1 + tied) / 2) / (variants + 1))
        inside.append(np.take_along_axis(seen, best, 1)[:, 0])
        outside.append(chosen_rest[:, 0])
    rank, in_sample, out_of_sample = (np.concatenate(part) for part in (ranks, inside, outside))
    logits = np.log(rank / (1 - rank))
    slope = 0.0
    if len(in_sample) > 2 and in_sample.std() > 0:
        slope = float(np.cov(in_sample, out_of_sample)[0, 1] / in_sample.var(ddof=1))
    # The logit of the median rank is 0 except for rounding.
    return Pbo(float((logits <= 1e-12).mean()), logits, float((out_of_sample <= 0).mean()), slope)


def _performance(total: Floats, square: Floats, count: Floats, metric: str) -> Floats:
    mean = total / np.maximum(count, 1)
    if metric == "mean":
        return mean
    variance = np.maximum(square / np.maximum(count, 1) - mean**2, 0.0)
    return np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 1e-18)


def _probabilities(p: npt.ArrayLike) -> Floats:
    values = np.asarray(p, np.float64).ravel()
    valid = (values >= 0) & (values <= 1)
    if not valid.all():
        raise EdgeError(
            f"p must hold p-values from 0 to 1, got {values[~valid][0]}; "
            "omit hypotheses that were not tested, or give them p = 1"
        )
    return values


def _check_rate(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise EdgeError(f"alpha must be an error rate between 0 and 1, got {alpha}")


def _check_family(m: int, alpha: float) -> None:
    _check_rate(alpha)
    if m < 1:
        raise EdgeError(f"m must be at least 1 trial, got {m}")
