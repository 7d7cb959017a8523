"""Bet sizing for an estimated edge: a quarter of Kelly at the lower confidence bound, within caps on the loss.

**One bet** (Kelly 1956, "A new interpretation of information rate"; Thorp 2006). A contract of cost c pays one dollar
with probability p. Measured as outlay, the fraction of the bankroll

    f* = (p − c) / (1 − c)

grows it fastest. Overestimating p costs more than underestimating it: at twice f* the bankroll no longer grows. So p
is the cost plus the *lower* one-sided 80 % bound of the edge, and a quarter of f* is bet. Before that, the estimate is
shrunk towards the edges that takers have been able to earn (normal prior, mean 0, standard deviation 2 cents).

**Simultaneous bets** share events and days, so `allocate` (`kalshilab.edge.sizing.allocation`) maximises growth over
scenarios of their joint outcomes, within caps on the worst-case loss.

**Drawdown.** If p is right, the probability of ever falling to a fraction x of the bankroll at k times Kelly is
x^(2/k − 1). `drawdowns` estimates drawdowns from the record itself, by resampling its days.
"""

from __future__ import annotations

import math
from typing import Final, overload

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import Floats, arrays_of
from kalshilab.edge.sizing.allocation import CAPS, LEGS_SCHEMA, Allocation, allocate, scenarios
from kalshilab.errors import EdgeError

__all__ = [
    "CAPS",
    "LEGS_SCHEMA",
    "Allocation",
    "Drawdown",
    "allocate",
    "bounded_edge",
    "drawdowns",
    "growth",
    "kelly",
    "ruin",
    "scenarios",
    "shrunken",
    "stake",
]

_QUANTILES: Final = (0.5, 0.75, 0.9, 0.95, 0.99)


@overload
def kelly(p: float, cost: float) -> float: ...
@overload
def kelly(p: npt.ArrayLike, cost: npt.ArrayLike) -> float | Floats: ...
def kelly(p: npt.ArrayLike, cost: npt.ArrayLike) -> float | Floats:
    """Return the growth-optimal fraction of the bankroll, as outlay; 0 without an edge.

    Args:
        p: probability that the contract pays a dollar.
        cost: dollars per contract, fee included.

    Returns:
        A float for two scalars, else an array.

    >>> round(kelly(0.9018, 0.728), 3)
    0.639

    Raises:
        EdgeError: a probability outside [0, 1], a cost outside (0, 1).
    """
    chance, price = np.asarray(p, np.float64), np.asarray(cost, np.float64)
    if not (((chance >= 0) & (chance <= 1)).all() and ((price > 0) & (price < 1)).all()):
        raise EdgeError(
            f"p must be a probability and cost dollars between 0 and 1, got p={chance}, cost={price}"
        )
    share = np.maximum(0.0, (chance - price) / (1 - price))
    return float(share) if share.ndim == 0 else share


def growth(f: float, p: float, cost: float) -> float:
    """Return the expected log growth per bet with a fraction `f` of the bankroll as outlay.

    Args:
        f: outlay as a fraction of the bankroll, 0 <= f < 1.
        p: probability that the contract pays a dollar.
        cost: dollars per contract, fee included.

    >>> f = kelly(0.55, 0.50)
    >>> growth(f, 0.55, 0.50) > growth(0.9 * f, 0.55, 0.50) > 0 > growth(2.01 * f, 0.55, 0.50)
    True
    """
    if not 0 <= f < 1:
        raise EdgeError(f"f must be a fraction of the bankroll with 0 <= f < 1, got {f}")
    return p * math.log1p(f * (1 - cost) / cost) + (1 - p) * math.log1p(-f)


@renamed_keywords(se="se_cents", prior_sd="prior_sd_cents")
def shrunken(edge: float, se_cents: float, *, prior_sd_cents: float = 2.0) -> tuple[float, float]:
    """Return the posterior mean and standard deviation of the edge under a normal prior with mean 0, in cents.

    Args:
        edge: estimated net edge, in cents per contract.
        se_cents: standard error of the edge, at least 0.
        prior_sd_cents: standard deviation of the prior, above 0.

    >>> shrunken(6.0, 2.0)
    (3.0, 1.4142135623730951)
    """
    if not se_cents >= 0:
        raise EdgeError(f"se_cents must be a standard error of at least 0 cents, got {se_cents}")
    if not prior_sd_cents > 0:
        raise EdgeError(f"prior_sd_cents must be above 0, got {prior_sd_cents}")
    weight = prior_sd_cents**2 / (prior_sd_cents**2 + se_cents**2)
    return edge * weight, se_cents * math.sqrt(weight)


@renamed_keywords(se="se_cents", prior_sd="prior_sd_cents")
def bounded_edge(edge: float, se_cents: float, *, level: float = 0.80, prior_sd_cents: float = 2.0) -> float:
    """Return the lower one-sided confidence bound of the shrunken edge, in cents.

    Args:
        edge: estimated net edge, in cents per contract.
        se_cents: standard error of the edge.
        level: confidence level of the bound, 0.5 <= level < 1.
        prior_sd_cents: standard deviation of the prior (`shrunken`).
    """
    if not 0.5 <= level < 1:
        raise EdgeError(f"level must be a confidence level with 0.5 <= level < 1, got {level}")
    mean, sd = shrunken(edge, se_cents, prior_sd_cents=prior_sd_cents)
    return mean - float(stats.norm.ppf(level)) * sd


@renamed_keywords(se="se_cents", prior_sd="prior_sd_cents")
def stake(
    edge: float,
    se_cents: float,
    cost: float,
    *,
    fraction: float = 0.25,
    level: float = 0.80,
    prior_sd_cents: float = 2.0,
    cap: float = CAPS["market"],
) -> float:
    """Return the fraction of the bankroll to lay out for one bet.

    Args:
        edge: estimated net edge, in cents per contract.
        se_cents: standard error of the edge.
        cost: dollars per contract, fee included.
        fraction: multiple of the full-Kelly stake, 0 < fraction <= 1.
        level: confidence level of the lower bound of the edge.
        prior_sd_cents: standard deviation of the prior (`shrunken`).
        cap: upper limit of the result.

    >>> stake(3.0, 0.8, 0.73), round(stake(3.0, 0.8, 0.73, cap=1), 4)
    (0.01, 0.0182)
    """
    if not 0 < fraction <= 1:
        raise EdgeError(f"fraction must be above 0 and at most 1, got {fraction}")
    bound = bounded_edge(edge, se_cents, level=level, prior_sd_cents=prior_sd_cents)
    return min(cap, fraction * float(kelly(min(1.0, max(0.0, cost + bound / 100)), cost)))


def ruin(x: float, fraction: float) -> float:
    """Return the probability of ever falling to a fraction `x` of the bankroll at `fraction` times Kelly.

    It assumes that p is right and uses the diffusion limit, which many small bets approach.

    Args:
        x: fraction of the bankroll, 0 < x <= 1.
        fraction: multiple of the full-Kelly stake, above 0.

    >>> round(ruin(0.5, 0.25), 4), ruin(0.5, 1.0)
    (0.0078, 0.5)
    """
    if not (0 < x <= 1 and fraction > 0):
        raise EdgeError(
            f"x must be above 0 and at most 1, and fraction above 0, got x={x}, fraction={fraction}"
        )
    return 1.0 if fraction >= 2 else x ** (2 / fraction - 1)


class Drawdown(msgspec.Struct, frozen=True, kw_only=True):
    """Distribution of the largest drawdown over resampled records."""

    frame: pl.DataFrame
    """Columns `quantile, drawdown, at_lower`, as fractions of the peak.

    `at_lower` is the drawdown with the edge at its lower bound; null if no bound was given.
    """
    halved: float
    """Fraction of the resamples in which half of the bankroll was lost at some time."""
    halved_at_lower: float | None
    """The same with the edge at its lower bound; None if no bound was given."""
    growth: float
    """Median growth factor of the bankroll over the whole record."""
    days: int
    """Number of days with entries in the record."""
    resamples: int
    """Number of resamples."""

    def __repr__(self) -> str:
        deep = self.frame.filter(pl.col("quantile") == 0.95)["drawdown"][0]
        return f"<Drawdown: 95 % of {self.days} days stay above -{deep:.1%}; halved in {self.halved:.1%}>"


@renamed_keywords(lower="lower_cents", block="block_days")
def drawdowns(
    entries: pl.DataFrame,
    share: float,
    *,
    lower_cents: float | None = None,
    block_days: int = 1,
    resamples: int = 2000,
    day_cap: float = CAPS["total"],
    seed: int | np.random.Generator = 0,
) -> Drawdown:
    """Estimate quantiles of the largest drawdown by a block bootstrap over days of entry.

    Args:
        entries: entries (`kalshilab.edge.ENTRIES_SCHEMA`). Settled ones count, staked on the bankroll at the start of
            their day.
        share: outlay per entry as a fraction of the bankroll, 0 < share < 1.
        lower_cents: lower end of the edge's confidence interval, in cents per contract. All profits are shifted to it
            for `at_lower`. None: `at_lower` is null.
        block_days: length of a bootstrap block, in days with entries; serial dependence within a block is kept.
        resamples: number of resamples, at least 1.
        day_cap: largest outlay per day as a fraction of the bankroll; the stakes of a fuller day are scaled down.
        seed: a seed or a Generator.

    Raises:
        EdgeError: no settled entry was filled, or an argument is out of range.
    """
    for name, part in (("share", share), ("day_cap", day_cap)):
        if not 0 < part < 1:
            raise EdgeError(f"{name} must be a fraction of the bankroll between 0 and 1, got {part}")
    for name, count in (("block_days", block_days), ("resamples", resamples)):
        if count < 1:
            raise EdgeError(f"{name} must be at least 1, got {count}")
    known = arrays_of(entries)
    if not known.filled.any():
        raise EdgeError("no entry was filled and settled, so there is no record to resample")
    outlay = np.bincount(known.day, known.filled * share)
    scale = np.minimum(1.0, day_cap / np.maximum(outlay, 1e-300))[known.day] * share * known.filled
    cost = np.where(known.filled, known.cost, 1.0)
    rng = np.random.default_rng(seed)
    days = len(outlay)
    starts = rng.integers(0, days, (resamples, -(-days // block_days)))
    order = ((starts[:, :, None] + np.arange(block_days)) % days).reshape(resamples, -1)[:, :days]

    def paths(pnl: Floats) -> tuple[Floats, Floats, Floats]:
        """Return each resample's largest drawdown, lowest log wealth and final log wealth."""
        daily = np.bincount(known.day, scale * pnl / cost, days)
        path = np.cumsum(np.log1p(np.maximum(daily, -1 + 1e-12))[order], axis=1)
        peak = np.maximum(np.maximum.accumulate(path, axis=1), 0.0)
        return 1 - np.exp((path - peak).min(1)), path.min(1), path[:, -1]

    deepest, lowest, end = paths(known.pnl)
    at_lower = halved_at_lower = None
    if lower_cents is not None:
        each = np.bincount(known.event)
        mean = float((np.bincount(known.event, known.pnl) / each).mean())
        filled = float((np.bincount(known.event, known.filled) / each).mean())
        shifted, shifted_lowest, _ = paths(known.pnl - (mean - lower_cents / 100) / filled)
        at_lower = np.quantile(shifted, _QUANTILES)
        halved_at_lower = float((shifted_lowest <= math.log(0.5)).mean())
    frame = pl.DataFrame(
        {"quantile": _QUANTILES, "drawdown": np.quantile(deepest, _QUANTILES), "at_lower": at_lower},
        {"quantile": pl.Float64, "drawdown": pl.Float64, "at_lower": pl.Float64},
    )
    return Drawdown(
        frame=frame,
        halved=float((lowest <= math.log(0.5)).mean()),
        halved_at_lower=halved_at_lower,
        growth=math.exp(min(float(np.median(end)), 700.0)),
        days=days,
        resamples=resamples,
    )
