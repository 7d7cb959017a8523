"""What luck alone pays: the same entries, settled again and again in a market without any edge.

A fair price is a martingale, so an entry at the break-even probability c wins with just that probability, whatever
was known when it was made (optional stopping: Doob 1953, "Stochastic Processes").  `null_means` draws the outcomes
of all entries from that null and returns the event-weighted mean profit of each draw; the share of draws as good as
what happened is a p-value (Dwass 1957, "Modified randomization tests for nonparametric hypotheses").  It needs no
estimate of a variance, which is why it also holds for favourites that have not lost yet.

**The joint law.**  Each event has one latent normal, z = √ρ·f(day) + √(1 − ρ)·ε, the day being that of its first
entry; U = Φ(z) decides all its legs:

* legs of **exclusive** markets that were all entered on one day: [0, 1) is cut into intervals of the lengths P(YES),
  and the market into whose interval U falls settles YES.  The outcomes that were bought lie at the low end, those
  sold at the high end, the rest between them.  Prices that add to more than 1 go round the circle: each leg keeps
  its probability, and the number that settle YES is as near to 1 as it can be;
* **all others** are comonotone: our side wins where U < p.  For nested thresholds bought on one side that is the
  law; for legs entered on different days, or of an unknown relation, it is the worst case: it spreads the mean most
  (Puccetti & Wang 2015, "Extremal dependence concepts").

On either way low U is good for us, so the day factor moves all events together.  ρ comes from the data
(`intraclass`), and is at least 0.05.
"""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats
from scipy.special import ndtri

from kalshilab.edge.schema import Arrays, arrays_of, settled
from kalshilab.edge.stats.resampling import blocks_of, draw
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled

__all__ = ["RHO", "coupled", "intraclass", "invert", "null_means"]

Floats = npt.NDArray[np.float64]
RHO: Final = 0.05
"""The least correlation of a day's events."""
_MOST_RHO: Final = 0.9
_INVERTED: Final = 8_000_000
"""Latent normals of all draws when the test is inverted, which looks at them again and again."""
_TIE: Final = 1e-9
"""Means nearer than this are equal: sums of the same payoffs in another order differ by rounding."""


class _Plan(msgspec.Struct, frozen=True):
    """The null as a loop reads it: a leg wins where `low <= z < high`, or where not if it is `outside`."""

    starts: npt.NDArray[np.int64]
    """First leg of each event, and one past the last."""
    day: npt.NDArray[np.int64]
    """Of each event's first entry, dense from 0."""
    low: Floats
    high: Floats
    outside: npt.NDArray[np.bool_]
    weight: Floats
    """Share of the leg in the mean over events of the event's mean; entries without a fill have no leg."""
    paid: float
    """The weighted sum of what was paid: what the mean is when no leg wins, with its sign turned."""


def coupled(entries: pl.DataFrame) -> Arrays:
    """The settled entries as arrays, exclusive only where their joint law is known.

    Events in which a market was entered twice are not: two entries of one market are no two outcomes.
    """
    known = settled(entries)
    arrays = arrays_of(entries)
    once = known.select(pl.col("ticker").is_unique().all().over("event")).to_series().to_numpy()
    return msgspec.structs.replace(arrays, exclusive=arrays.exclusive & once)


def null_means(
    entries: pl.DataFrame | Arrays,
    *,
    b: int = 1999,
    rho: float = RHO,
    seed: int | np.random.Generator = 0,
    null: Literal["net", "mid"] = "net",
    executor: Executor | None = None,
) -> Floats:
    """Event-weighted mean profit, in dollars a contract, of `b` worlds without an edge.

    Args:
        entries: entries (`ENTRIES_SCHEMA`; what is not settled is left out), or their arrays.
        b: draws.
        rho: correlation of the latent normals of a day's events, from 0 to below 1; see `intraclass`.
        seed: a seed or a Generator.
        null: "net": an entry wins with its break-even probability, and the means centre on 0.  "mid": it wins with
            its mid, and the means centre on minus the costs; that needs a frame.
        executor: who draws (`kalshilab.edge.stats.resampling`); None: this process.  The numbers are the same.

    >>> from kalshilab.edge import simulated_entries
    >>> signal, _ = simulated_entries.entries(400, kind="ladder", edge=0, net=False, spread=2.0, seed=1)
    >>> means = 100 * null_means(signal, null="mid")
    >>> costs = 100 * (signal["cost"] - signal["mid"]).mean()
    >>> bool(abs(means.mean() + costs) < 0.2), bool(means.std() > 1)
    (True, True)

    Raises:
        EdgeError: no settled entry; `b` below 1, `rho` out of its range; null="mid" with arrays.
    """
    _check(b, rho)
    if null not in ("net", "mid"):
        raise EdgeError(f"null={null!r}; 'net' or 'mid'")
    if isinstance(entries, Arrays):
        if null == "mid":
            raise EdgeError("arrays hold no mids; pass the entries themselves for null='mid'")
        arrays, win = entries, entries.cost
    else:
        arrays = coupled(entries)
        win = arrays.cost if null == "net" else settled(entries)["mid"].to_numpy()
    plan = _plan(arrays, win)
    return np.concatenate(draw(_drawn, (plan, rho), blocks_of(b, len(plan.day), seed), executor))


def intraclass(arrays: Arrays) -> float:
    """Correlation of the latent normals of a day's events, by the method of moments; at least 0.05, at most 0.9.

    To first order in ρ two events of one day have the covariance ρ·a·a′, a being the slope of an event's mean payoff
    in its latent normal.  So ρ is the sum over pairs of a day of the products of the events' means (less the mean of
    all), over that of the products of their slopes.  Without two events on a day it is the floor.

    Raises:
        EdgeError: no settled entry.
    """
    plan = _plan(arrays, arrays.cost)
    legs = np.diff(plan.starts)
    event = np.repeat(np.arange(len(legs)), legs)
    bent = np.where(plan.outside, -1.0, 1.0) * (stats.norm.pdf(plan.high) - stats.norm.pdf(plan.low))
    slope: Floats = np.bincount(event, plan.weight * bent, len(legs)).astype(np.float64) * len(legs)
    mean = np.bincount(arrays.event, arrays.pnl, len(legs)) / np.bincount(arrays.event, minlength=len(legs))
    mean = mean - mean.mean()

    def pairs(x: Floats) -> float:
        return float((np.bincount(plan.day, x) ** 2).sum() - (x**2).sum())

    of = pairs(slope)
    if not of > 1e-12:
        return RHO
    return min(_MOST_RHO, max(RHO, pairs(mean) / of))


def invert(
    arrays: Arrays,
    *,
    level: float = 0.95,
    b: int = 1999,
    rho: float = RHO,
    seed: int | np.random.Generator = 0,
) -> tuple[float, float]:
    """The edges, in dollars, at which the entries are not surprising: the Monte Carlo test turned into an interval.

    An edge δ means that each entry wins with its cost + δ, from 0 to 1.  The interval holds the δ under which a mean
    as high, and one as low, as what happened has a chance above (1 − level)/2 each; δ is told as the mean edge it
    makes.  It needs no variance, so it is the interval for few clusters, or few losses.

    Raises:
        EdgeError: no settled entry; `b`, `rho` or `level` out of their range.
    """
    _check(b, rho)
    if not 0 < level < 1:
        raise EdgeError(f"level={level}; between 0 and 1")
    start = _plan(arrays, arrays.cost)
    rng = np.random.default_rng(seed)
    events = len(start.day)
    draws = min(b, max(499, _INVERTED // events))
    held = _latents(start.day, rho, draws, rng)
    share = _shares(arrays)
    seen = float((np.bincount(arrays.event, arrays.pnl) / np.bincount(arrays.event)).mean())
    cost = np.where(arrays.filled, arrays.cost, 0.0)

    def means(delta: float) -> Floats:
        plan = _plan(arrays, arrays.cost + delta)
        return _means(plan, held)

    def edge(delta: float) -> float:
        return float(share @ np.where(arrays.filled, np.clip(cost + delta, 0, 1) - cost, 0.0))

    def surprising(delta: float, sign: int) -> bool:
        as_far = int((sign * means(delta) >= sign * seen - _TIE).sum())
        return (1 + as_far) / (draws + 1) <= (1 - level) / 2

    bounds = []
    for sign in (1, -1):
        # From the end where what happened is most surprising to the one where it is the least so.
        out, within = (-1.0, 1.0) if sign == 1 else (1.0, -1.0)
        if not surprising(out, sign):
            bounds.append(edge(out))
            continue
        while abs(within - out) > 1e-4:
            middle = (out + within) / 2
            out, within = (middle, within) if surprising(middle, sign) else (out, middle)
        bounds.append(edge(out))
    # Where all won, the upper bound is what happened, but for rounding.
    return min(bounds[0], seen), max(bounds[1], seen)


def _check(b: int, rho: float) -> None:
    if b < 1:
        raise EdgeError(f"b={b}; at least 1 draw")
    if not 0 <= rho < 1:
        raise EdgeError(f"rho={rho}; from 0 to below 1")


def _shares(arrays: Arrays) -> Floats:
    """Weight of each entry in the mean over events of the event's mean; they add to 1."""
    size = np.bincount(arrays.event)
    return np.asarray(1.0 / (size[arrays.event] * len(size)), dtype=np.float64)


def _plan(arrays: Arrays, win: Floats) -> _Plan:
    """The null in which entry i wins with probability `win[i]`, cut to 0 to 1."""
    if not len(arrays.pnl):
        raise EdgeError("no entry is settled, so there is nothing to judge")
    events = int(arrays.event.max()) + 1
    # Entries are in the order of time, so the first of an event says its day.
    _, first = np.unique(arrays.event, return_index=True)
    day = np.unique(arrays.day[first], return_inverse=True)[1].astype(np.int64)

    order = np.argsort(arrays.event, kind="stable")
    order = order[arrays.filled[order]]
    event, yes = arrays.event[order], arrays.yes[order]
    p = np.clip(win[order], 0.0, 1.0)
    if np.isnan(p).any():
        raise EdgeError("a filled entry has no probability to win with; its cost or mid is missing")
    starts = np.searchsorted(event, np.arange(events + 1))

    split = np.bincount(arrays.event, arrays.day != arrays.day[first][arrays.event], events) > 0
    apart = np.bincount(arrays.event, ~arrays.exclusive, events) > 0
    cut = ~(split | apart) & (np.diff(starts) > 1)
    low, high = np.zeros_like(p), p.copy()
    outside = np.zeros(len(p), np.bool_)
    if cut.any():
        on = cut[event]
        low[on], high[on], outside[on] = _intervals(p[on], yes[on], event[on])
    weight = _shares(arrays)
    return _Plan(
        starts=starts.astype(np.int64),
        day=day,
        low=ndtri(low),
        high=ndtri(high),
        outside=outside,
        weight=weight[order],
        paid=float(weight[order] @ arrays.cost[order]),
    )


def _intervals(
    p: Floats, yes: npt.NDArray[np.bool_], event: npt.NDArray[np.int64]
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Where U makes our side win, for legs of exclusive events in the order of the events: low, high, outside."""
    settles = np.where(yes, p, 1 - p)
    code = np.unique(event, return_inverse=True)[1]

    def before(length: Floats) -> Floats:
        """What the earlier legs of the event add to."""
        total = np.concatenate(([0.0], np.cumsum(length)))
        begin = np.searchsorted(code, np.arange(code[-1] + 1))
        return np.asarray(total[:-1] - total[begin][code], dtype=np.float64)

    bought, sold = np.where(yes, settles, 0.0), np.where(yes, 0.0, settles)
    low = np.where(yes, before(bought), 1 - before(sold) - sold)
    full = (np.bincount(code, settles) > 1 + _TIE)[code]
    low = np.where(full, before(settles) % 1.0, np.clip(low, 0.0, 1.0))
    high = low + settles
    # A wrapped interval is everything but the gap it leaves.
    wrapped = high > 1 + _TIE
    low, high = np.where(wrapped, high - 1, low), np.where(wrapped, low, np.minimum(high, 1.0))
    return low, high, wrapped ^ ~yes


def _latents(day: npt.NDArray[np.int64], rho: float, b: int, rng: np.random.Generator) -> Floats:
    """`b` draws of the events' latent normals."""
    factor = rng.standard_normal((b, int(day.max()) + 1))
    z = rng.standard_normal((b, len(day)))
    z *= np.sqrt(1 - rho)
    z += np.sqrt(rho) * factor[:, day]
    return z


def _drawn(of: tuple[_Plan, float], b: int, rng: np.random.Generator) -> Floats:
    """Means of `b` worlds; a block of `null_means`."""
    plan, rho = of
    return _means(plan, _latents(plan.day, rho, b, rng))


def _means(plan: _Plan, z: Floats) -> Floats:
    won = np.empty(len(z))
    _won(z, plan.starts, plan.low, plan.high, plan.outside, plan.weight, won)
    return won - plan.paid


@compiled
def _won(
    z: Any, starts: Any, low: Any, high: Any, outside: Any, weight: Any, won: Any
) -> None:  # pragma: no cover - compiled
    for row in range(len(z)):
        total = 0.0
        for event in range(len(starts) - 1):
            at = z[row, event]
            for leg in range(starts[event], starts[event + 1]):
                if (low[leg] <= at < high[leg]) != outside[leg]:
                    total += weight[leg]
        won[row] = total
