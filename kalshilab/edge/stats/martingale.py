"""Martingale null: the distribution of the mean profit if the same entries had no edge.

A fair price is a martingale, so an entry at the break-even probability c wins with exactly that probability, for any
information that was available at entry (optional stopping: Doob 1953, "Stochastic Processes"). `null_means` draws the
outcomes of all entries under that null and returns the event-weighted mean profit of each draw. The fraction of draws
that are at least as good as the observed mean is a p-value (Dwass 1957, "Modified randomization tests for
nonparametric hypotheses"). No variance is estimated, so the test also holds for favourites that have not lost yet.

**Joint distribution.** Each event has one latent normal, z = √ρ·f(day) + √(1 − ρ)·ε, where the day is that of its
first entry; U = Φ(z) decides all its legs:

* Legs of **exclusive** markets that were all entered on one day: [0, 1) is divided into intervals of lengths P(YES),
  and the market whose interval contains U settles YES. Outcomes that were bought lie at the low end, those sold at
  the high end, and the rest between them. Prices that add up to more than 1 wrap around: each leg keeps its
  probability, and the number of YES settlements is as near to 1 as possible.
* **All other legs** are comonotone: our side wins where U < p. For nested thresholds bought on one side this is the
  true distribution. For legs entered on different days, or with an unknown relation, it is the worst case, because
  it maximises the variance of the mean (Puccetti & Wang 2015, "Extremal dependence concepts").

In both cases a low U favours us, so the day factor moves all events together. ρ is estimated from the data
(`intraclass`) and is at least 0.05.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
from scipy import stats
from scipy.special import ndtri

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import Arrays, Bools, Floats, Integers, arrays_of, settled
from kalshilab.edge.stats.resampling import blocks_of, draw
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled

__all__ = ["RHO", "coupled", "intraclass", "invert", "null_means"]

RHO: Final = 0.05
"""Smallest correlation of the latent normals of one day's events."""
_MAX_RHO: Final = 0.9
_INVERSION_NORMALS: Final = 8_000_000
"""Latent normals kept in memory while the test is inverted: each step evaluates all of them."""
_TIE: Final = 1e-9
"""Means nearer than this are equal: sums of the same payoffs in another order differ by rounding."""


class _NullModel(msgspec.Struct, frozen=True):
    """The null distribution in the form that the compiled loop reads.

    A leg wins if `low <= z < high`, or, with `outside`, if z lies outside that interval.
    """

    starts: Integers
    """Index of the first leg of each event, followed by the number of legs."""
    day: Integers
    """Dense code of the day of each event's first entry, from 0."""
    low: Floats
    high: Floats
    outside: Bools
    weight: Floats
    """Weight of the leg in the mean over events of the event's mean; unfilled entries have no leg."""
    paid: float
    """Weighted sum of the costs: minus the mean profit if no leg wins."""


def coupled(entries: pl.DataFrame) -> Arrays:
    """Return the settled entries as arrays, marked exclusive only where their joint distribution is known.

    An event in which one market was entered twice is not marked: two entries in one market share an outcome.
    """
    known = settled(entries)
    arrays = arrays_of(entries)
    once = known.select(pl.col("ticker").is_unique().all().over("event")).to_series().to_numpy()
    return msgspec.structs.replace(arrays, exclusive=arrays.exclusive & once)


@renamed_keywords(b="resamples")
def null_means(
    entries: pl.DataFrame | Arrays,
    *,
    resamples: int = 1999,
    rho: float = RHO,
    seed: int | np.random.Generator = 0,
    null: Literal["net", "mid"] = "net",
    executor: Executor | None = None,
) -> Floats:
    """Draw the event-weighted mean profit under the null of no edge, in dollars per contract.

    Args:
        entries: entries (`ENTRIES_SCHEMA`; unsettled ones are left out), or their arrays.
        resamples: number of draws, at least 1.
        rho: correlation of the latent normals of one day's events, 0 <= rho < 1; see `intraclass`.
        seed: a seed or a Generator.
        null: "net": an entry wins with its break-even probability, and the means centre on 0. "mid": it wins with
            its mid, and the means centre on minus the costs; this needs a frame.
        executor: executor that draws (`kalshilab.edge.stats.resampling`); None: this process. The result is the same.

    Returns:
        One mean per draw, shape (resamples,).

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(400, kind="ladder", edge=0, net=False, spread_cents=2.0, seed=1)
    >>> means = 100 * null_means(signal, null="mid")
    >>> costs = 100 * (signal["cost"] - signal["mid"]).mean()
    >>> bool(abs(means.mean() + costs) < 0.2), bool(means.std() > 1)
    (True, True)

    Raises:
        EdgeError: no entry is settled, `resamples` or `rho` is out of range, or null="mid" is given with arrays.
    """
    _check(resamples, rho)
    if null not in ("net", "mid"):
        raise EdgeError(f"null must be 'net' or 'mid', got {null!r}")
    if isinstance(entries, Arrays):
        if null == "mid":
            raise EdgeError("entries must be a DataFrame for null='mid', got arrays, which have no mid")
        arrays, win = entries, entries.cost
    else:
        arrays = coupled(entries)
        win = arrays.cost if null == "net" else settled(entries)["mid"].to_numpy()
    model = _null_model(arrays, win)
    return np.concatenate(draw(_block, (model, rho), blocks_of(resamples, len(model.day), seed), executor))


def intraclass(arrays: Arrays) -> float:
    """Estimate the correlation of the latent normals of one day's events by the method of moments.

    To first order in ρ, two events of one day have the covariance ρ·a·a′, where a is the slope of an event's mean
    payoff in its latent normal. So ρ is a ratio of two sums over the pairs of events of each day: the products of the
    events' demeaned means, over the products of their slopes.

    Returns:
        ρ, clipped to the range from 0.05 to 0.9; 0.05 if no day has two events.

    Raises:
        EdgeError: no entry is settled.
    """
    model = _null_model(arrays, arrays.cost)
    legs = np.diff(model.starts)
    event = np.repeat(np.arange(len(legs)), legs)
    sign = np.where(model.outside, -1.0, 1.0)
    leg_slope = sign * (stats.norm.pdf(model.high) - stats.norm.pdf(model.low))
    slope: Floats = np.bincount(event, model.weight * leg_slope, len(legs)).astype(np.float64) * len(legs)
    mean = np.bincount(arrays.event, arrays.pnl, len(legs)) / np.bincount(arrays.event, minlength=len(legs))
    mean = mean - mean.mean()

    def pairs(x: Floats) -> float:
        return float((np.bincount(model.day, x) ** 2).sum() - (x**2).sum())

    slope_pairs = pairs(slope)
    if not slope_pairs > 1e-12:
        return RHO
    return min(_MAX_RHO, max(RHO, pairs(mean) / slope_pairs))


@renamed_keywords(b="resamples")
def invert(
    arrays: Arrays,
    *,
    level: float = 0.95,
    resamples: int = 1999,
    rho: float = RHO,
    seed: int | np.random.Generator = 0,
) -> tuple[float, float]:
    """Return the confidence interval of the edge in dollars by inverting the Monte Carlo test.

    An edge δ means that each entry wins with probability cost + δ, clipped to [0, 1]. The interval contains each δ
    under which a mean at least as high as the observed one, and one at least as low, has a probability above
    (1 − level)/2. It is expressed as the mean edge that δ implies. No variance is estimated, so this is the interval
    for few clusters or few losses.

    Args:
        arrays: settled entries (`coupled`).
        level: confidence level of the two-sided interval.
        resamples: number of draws, at least 1; fewer are used with very many events, but at least 499.
        rho: correlation of the latent normals of one day's events, 0 <= rho < 1; see `intraclass`.
        seed: a seed or a Generator.

    Returns:
        Lower and upper bound in dollars per contract.

    Raises:
        EdgeError: no entry is settled, or an argument is out of range.
    """
    _check(resamples, rho)
    if not 0 < level < 1:
        raise EdgeError(f"level must be a confidence level between 0 and 1, got {level}")
    day = _null_model(arrays, arrays.cost).day
    rng = np.random.default_rng(seed)
    draws = min(resamples, max(499, _INVERSION_NORMALS // len(day)))
    latents = _latents(day, rho, draws, rng)
    weight = _weights(arrays)
    observed = float((np.bincount(arrays.event, arrays.pnl) / np.bincount(arrays.event)).mean())
    cost = np.where(arrays.filled, arrays.cost, 0.0)

    def edge(delta: float) -> float:
        return float(weight @ np.where(arrays.filled, np.clip(cost + delta, 0, 1) - cost, 0.0))

    def rejected(delta: float, sign: int) -> bool:
        means = _means(_null_model(arrays, arrays.cost + delta), latents)
        exceeding = int((sign * means >= sign * observed - _TIE).sum())
        return (1 + exceeding) / (draws + 1) <= (1 - level) / 2

    bounds = []
    for sign in (1, -1):
        # Bisect from the edge that is most likely to be rejected to the one that is least likely to be.
        outside, inside = (-1.0, 1.0) if sign == 1 else (1.0, -1.0)
        if not rejected(outside, sign):
            bounds.append(edge(outside))
            continue
        while abs(inside - outside) > 1e-4:
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if rejected(middle, sign) else (outside, middle)
        bounds.append(edge(outside))
    # If every entry won, the upper bound equals the observed mean except for rounding.
    return min(bounds[0], observed), max(bounds[1], observed)


def _check(resamples: int, rho: float) -> None:
    if resamples < 1:
        raise EdgeError(f"resamples must be at least 1, got {resamples}")
    if not 0 <= rho < 1:
        raise EdgeError(f"rho must be a correlation with 0 <= rho < 1, got {rho}")


def _weights(arrays: Arrays) -> Floats:
    """Return the weight of each entry in the mean over events of the event's mean; the weights add up to 1."""
    size = np.bincount(arrays.event)
    return np.asarray(1.0 / (size[arrays.event] * len(size)), dtype=np.float64)


def _null_model(arrays: Arrays, win: Floats) -> _NullModel:
    """Return the null in which entry i wins with probability `win[i]`, clipped to [0, 1]."""
    if not len(arrays.pnl):
        raise EdgeError("entries must hold at least one settled entry, got 0")
    events = int(arrays.event.max()) + 1
    # Entries are sorted by time, so the first entry of an event gives its day.
    _, first = np.unique(arrays.event, return_index=True)
    day = np.unique(arrays.day[first], return_inverse=True)[1].astype(np.int64)

    order = np.argsort(arrays.event, kind="stable")
    order = order[arrays.filled[order]]
    event, yes = arrays.event[order], arrays.yes[order]
    p = np.clip(win[order], 0.0, 1.0)
    if np.isnan(p).any():
        raise EdgeError("filled entries must have a cost and a mid, got NaN")
    starts = np.searchsorted(event, np.arange(events + 1))

    several_days = np.bincount(arrays.event, arrays.day != arrays.day[first][arrays.event], events) > 0
    not_exclusive = np.bincount(arrays.event, ~arrays.exclusive, events) > 0
    divided = ~(several_days | not_exclusive) & (np.diff(starts) > 1)
    low, high = np.zeros_like(p), p.copy()
    outside = np.zeros(len(p), np.bool_)
    if divided.any():
        on = divided[event]
        low[on], high[on], outside[on] = _intervals(p[on], yes[on], event[on])
    weight = _weights(arrays)
    return _NullModel(
        starts=starts.astype(np.int64),
        day=day,
        low=ndtri(low),
        high=ndtri(high),
        outside=outside,
        weight=weight[order],
        paid=float(weight[order] @ arrays.cost[order]),
    )


def _intervals(p: Floats, yes: Bools, event: Integers) -> tuple[Floats, Floats, Bools]:
    """Return the interval of U in which our side wins, for legs of exclusive events sorted by event.

    Returns:
        `low`, `high` and `outside`: if `outside`, our side wins where U is not in [low, high).
    """
    settles = np.where(yes, p, 1 - p)
    code = np.unique(event, return_inverse=True)[1]

    def before(length: Floats) -> Floats:
        """Return the total length of the earlier legs of the same event."""
        total = np.concatenate(([0.0], np.cumsum(length)))
        begin = np.searchsorted(code, np.arange(code[-1] + 1))
        return np.asarray(total[:-1] - total[begin][code], dtype=np.float64)

    bought, sold = np.where(yes, settles, 0.0), np.where(yes, 0.0, settles)
    low = np.where(yes, before(bought), 1 - before(sold) - sold)
    full = (np.bincount(code, settles) > 1 + _TIE)[code]
    low = np.where(full, before(settles) % 1.0, np.clip(low, 0.0, 1.0))
    high = low + settles
    # A wrapped interval is the complement of the gap that it leaves.
    wrapped = high > 1 + _TIE
    low, high = np.where(wrapped, high - 1, low), np.where(wrapped, low, np.minimum(high, 1.0))
    return low, high, wrapped ^ ~yes


def _latents(day: Integers, rho: float, resamples: int, rng: np.random.Generator) -> Floats:
    """Draw the latent normals of the events, of shape (resamples, events)."""
    factor = rng.standard_normal((resamples, int(day.max()) + 1))
    z = rng.standard_normal((resamples, len(day)))
    z *= np.sqrt(1 - rho)
    z += np.sqrt(rho) * factor[:, day]
    return z


def _block(sample: tuple[_NullModel, float], resamples: int, rng: np.random.Generator) -> Floats:
    """Draw one block of `null_means`."""
    model, rho = sample
    return _means(model, _latents(model.day, rho, resamples, rng))


def _means(model: _NullModel, z: Floats) -> Floats:
    """Return the event-weighted mean profit for each row of latent normals."""
    won = np.empty(len(z))
    _won(z, model.starts, model.low, model.high, model.outside, model.weight, won)
    return won - model.paid


@compiled
def _won(
    z: Floats, starts: Integers, low: Floats, high: Floats, outside: Bools, weight: Floats, won: Floats
) -> None:  # pragma: no cover - compiled
    for row in range(len(z)):
        total = 0.0
        for event in range(len(starts) - 1):
            at = z[row, event]
            for leg in range(starts[event], starts[event + 1]):
                if (low[leg] <= at < high[leg]) != outside[leg]:
                    total += weight[leg]
        won[row] = total
