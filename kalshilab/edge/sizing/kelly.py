"""How much to put on an edge that is only estimated: a quarter of Kelly at its lower bound, capped by what can be lost.

**One bet** (Kelly 1956, "A new interpretation of information rate"; Thorp 2006).  A contract of cost c pays a dollar
with probability p; of a bankroll, as outlay,

    f* = (p − c) / (1 − c)

grows it fastest.  Errors of p hurt on one side: at twice f* nothing grows.  So p is the cost plus the *lower* one-sided
80 % bound of the edge, after the estimate was shrunk towards what takers have been able to earn (normal prior, mean 0,
2 c), and a quarter of f* is bet.

**Many bets at once** share events and days, so `allocate` (`kalshilab.edge.sizing.allocation`) maximises growth over
scenarios of their joint outcomes, within caps on the worst-case loss.

**Drawdown.**  If p is right, the chance of ever falling to a share x of the bankroll is x^(2/k − 1) at k times Kelly.
`drawdowns` resamples days for what the record itself says.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats

from kalshilab.edge.schema import arrays_of
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

Floats = npt.NDArray[np.float64]

_QUANTILES: Final = (0.5, 0.75, 0.9, 0.95, 0.99)


def kelly(p: npt.ArrayLike, cost: npt.ArrayLike) -> Any:
    """The share of the bankroll, as outlay, whose growth is fastest; 0 without an edge.

    >>> round(kelly(0.9018, 0.728), 3)
    0.639

    Raises:
        EdgeError: a probability outside [0, 1], a cost outside (0, 1).
    """
    chance, price = np.asarray(p, np.float64), np.asarray(cost, np.float64)
    if not (((chance >= 0) & (chance <= 1)).all() and ((price > 0) & (price < 1)).all()):
        raise EdgeError(f"kelly(p={chance}, cost={price}): a probability, and dollars between 0 and 1")
    share = np.maximum(0.0, (chance - price) / (1 - price))
    return float(share) if share.ndim == 0 else share


def growth(f: float, p: float, cost: float) -> float:
    """Expected logarithm of growth a bet, with the share `f` of the bankroll as outlay.

    >>> f = kelly(0.55, 0.50)
    >>> growth(f, 0.55, 0.50) > growth(0.9 * f, 0.55, 0.50) > 0 > growth(2.01 * f, 0.55, 0.50)
    True
    """
    if not 0 <= f < 1:
        raise EdgeError(f"growth(f={f}): a share of the bankroll from 0, below 1")
    return p * math.log1p(f * (1 - cost) / cost) + (1 - p) * math.log1p(-f)


def shrunken(edge: float, se: float, *, prior_sd: float = 2.0) -> tuple[float, float]:
    """Mean and standard deviation of the edge after a normal prior around 0; all in cents.

    >>> shrunken(6.0, 2.0)
    (3.0, 1.4142135623730951)
    """
    if not (se >= 0 and prior_sd > 0):
        raise EdgeError(
            f"shrunken({se=}, {prior_sd=}): a standard error from 0, a prior with a spread; in cents"
        )
    keep = prior_sd**2 / (prior_sd**2 + se**2)
    return edge * keep, se * math.sqrt(keep)


def bounded_edge(edge: float, se: float, *, level: float = 0.80, prior_sd: float = 2.0) -> float:
    """The lower one-sided bound of the shrunken edge, in cents."""
    if not 0.5 <= level < 1:
        raise EdgeError(f"bounded_edge({level=}): from a half, below 1")
    mean, sd = shrunken(edge, se, prior_sd=prior_sd)
    return mean - float(stats.norm.ppf(level)) * sd


def stake(
    edge: float,
    se: float,
    cost: float,
    *,
    fraction: float = 0.25,
    level: float = 0.80,
    prior_sd: float = 2.0,
    cap: float = CAPS["market"],
) -> float:
    """The share of the bankroll to lay out for one bet.

    Args:
        edge: the net edge as estimated, in cents.
        se: its standard error, in cents.
        cost: dollars a contract, with the fee.
        fraction: of Kelly's share.
        level: of the lower bound.
        prior_sd: cents.
        cap: at most this.

    >>> stake(3.0, 0.8, 0.73), round(stake(3.0, 0.8, 0.73, cap=1), 4)
    (0.01, 0.0182)
    """
    if not 0 < fraction <= 1:
        raise EdgeError(f"stake({fraction=}): above 0, at most 1")
    bound = bounded_edge(edge, se, level=level, prior_sd=prior_sd)
    return min(cap, fraction * float(kelly(min(1.0, max(0.0, cost + bound / 100)), cost)))


def ruin(x: float, fraction: float) -> float:
    """The chance of ever falling to a share `x` of the bankroll, at `fraction` times Kelly and with p right.

    It is that of a diffusion, which many small bets come near to.

    >>> round(ruin(0.5, 0.25), 4), ruin(0.5, 1.0)
    (0.0078, 0.5)
    """
    if not (0 < x <= 1 and fraction > 0):
        raise EdgeError(f"ruin({x=}, {fraction=}): a share above 0, at most 1; a fraction above 0")
    return 1.0 if fraction >= 2 else x ** (2 / fraction - 1)


class Drawdown(msgspec.Struct, frozen=True, kw_only=True):
    """How deep resampled records fall below their peaks."""

    frame: pl.DataFrame
    """`quantile, drawdown, at_lower`: shares of the peak; `at_lower` with the edge at its lower bound, null without."""
    halved: float
    """Share of the resamples in which half of the bankroll was ever lost."""
    halved_at_lower: float | None
    growth: float
    """Median of the whole growth, as a factor."""
    days: int
    """Days with entries in the record."""
    resamples: int

    def __repr__(self) -> str:
        deep = self.frame.filter(pl.col("quantile") == 0.95)["drawdown"][0]
        return f"<Drawdown: 95 % of {self.days} days stay above -{deep:.1%}; halved in {self.halved:.1%}>"


def drawdowns(
    entries: pl.DataFrame,
    share: float,
    *,
    lower: float | None = None,
    block: int = 1,
    resamples: int = 2000,
    day_cap: float = CAPS["total"],
    seed: int | np.random.Generator = 0,
) -> Drawdown:
    """Quantiles of the largest drawdown over resampled days of entry.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`; what is settled counts, on the bankroll of its day's morning.
        share: outlay for an entry, as a share of the bankroll.
        lower: cents; lower end of the edge's interval, to which all profits are moved for `at_lower`.
        block: days that are drawn together, so that runs of days stay runs.
        day_cap: most that is laid out on a day; entries of a fuller day get less each.

    Raises:
        EdgeError: no settled entry was filled; shares that are none.
    """
    if not (0 < share < 1 and 0 < day_cap < 1 and block >= 1 and resamples >= 1):
        raise EdgeError(
            f"drawdowns({share=}, {day_cap=}, {block=}, {resamples=}): shares below 1, at least one day"
        )
    known = arrays_of(entries)
    if not known.filled.any():
        raise EdgeError("no entry was filled and settled, so there is no record to resample")
    laid = np.bincount(known.day, known.filled * share)
    scale = np.minimum(1.0, day_cap / np.maximum(laid, 1e-300))[known.day] * share * known.filled
    cost = np.where(known.filled, known.cost, 1.0)
    rng = np.random.default_rng(seed)
    days = len(laid)
    starts = rng.integers(0, days, (resamples, -(-days // block)))
    order = ((starts[:, :, None] + np.arange(block)) % days).reshape(resamples, -1)[:, :days]

    def falls(pnl: Floats) -> tuple[Floats, Floats, Floats]:
        daily = np.bincount(known.day, scale * pnl / cost, days)
        path = np.cumsum(np.log1p(np.maximum(daily, -1 + 1e-12))[order], axis=1)
        peak = np.maximum(np.maximum.accumulate(path, axis=1), 0.0)
        return 1 - np.exp((path - peak).min(1)), path.min(1), path[:, -1]

    deep, low, end = falls(known.pnl)
    at_lower = halved_at_lower = None
    if lower is not None:
        each = np.bincount(known.event)
        mean = float((np.bincount(known.event, known.pnl) / each).mean())
        filled = float((np.bincount(known.event, known.filled) / each).mean())
        worse, low_worse, _ = falls(known.pnl - (mean - lower / 100) / filled)
        at_lower, halved_at_lower = np.quantile(worse, _QUANTILES), float((low_worse <= math.log(0.5)).mean())
    frame = pl.DataFrame(
        {"quantile": _QUANTILES, "drawdown": np.quantile(deep, _QUANTILES), "at_lower": at_lower},
        {"quantile": pl.Float64, "drawdown": pl.Float64, "at_lower": pl.Float64},
    )
    return Drawdown(
        frame=frame,
        halved=float((low <= math.log(0.5)).mean()),
        halved_at_lower=halved_at_lower,
        growth=math.exp(min(float(np.median(end)), 700.0)),
        days=days,
        resamples=resamples,
    )
