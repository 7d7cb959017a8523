"""What a sample can show: the smallest edge it would find, and how many trades an edge needs.

A contract bought at cost c and worth V ∈ {0, 1} pays V − c, with the variance c(1 − c) where there is no edge.  The
mean of N independent ones has the standard error √(c(1 − c)/N); a one-sided test at α then finds an edge of

    MDE = (z₁₋α + z_power) · √(c(1 − c) · deff / N)

with that power (the textbook formula, for example Bloom 1995, "Minimum detectable effects").  The design effect
`deff` says how much wider clusters make the mean than independence would (Kish 1965, "Survey Sampling").

The sequential probability ratio test (Wald 1945, "Sequential tests of statistical hypotheses") needs fewer trades
on average if the edge is one of its two points, and is bound to them.
"""

from __future__ import annotations

import math

from scipy import stats

from kalshilab.errors import EdgeError

__all__ = ["detectable", "fires_needed", "mde", "sprt_n"]


def detectable(se: float, *, alpha: float = 0.05, power: float = 0.8, trials: int = 1) -> float:
    """The edge that a one-sided test finds with `power` where the mean has the standard error `se`; in its unit.

    Args:
        se: standard error of the mean if there is no edge.
        alpha: level of the test, one-sided; divided by `trials` (Bonferroni).
        power: chance of finding it.
        trials: tests in the family.

    Raises:
        EdgeError: an argument out of its range.
    """
    if not se >= 0:
        raise EdgeError(f"se={se}; a standard error is at least 0")
    if trials < 1:
        raise EdgeError(f"trials={trials}; at least 1")
    return (_quantile("alpha", 1 - alpha / trials) + _quantile("power", power)) * se


def mde(
    cost: float,
    n_events: float,
    deff: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    trials: int = 1,
) -> float:
    """The smallest edge, in cents a contract, that so many events would show.

    Args:
        cost: typical cost of a contract in dollars, fee included.
        n_events: events with one entry each, or N of whatever `deff` is measured against.
        deff: design effect, the variance of the mean over that of independent entries.
        alpha: level, one-sided; divided by `trials`.
        power: chance of finding an edge of that size.
        trials: hypotheses in the family.

    >>> round(mde(0.73, 2_000), 1), round(mde(0.73, 2_000, trials=117), 1)
    (2.5, 4.1)

    Raises:
        EdgeError: an argument out of its range.
    """
    if not (n_events > 0 and deff > 0):
        raise EdgeError(f"n_events={n_events}, deff={deff}; both are above 0")
    return detectable(
        100 * math.sqrt(_variance(cost) * deff / n_events), alpha=alpha, power=power, trials=trials
    )


def fires_needed(
    edge: float, cost: float, power: float = 0.8, *, alpha: float = 0.05, deff: float = 1.0, trials: int = 1
) -> int:
    """How many filled entries show an edge of so many cents with `power`; rounded up.

    >>> fires_needed(5.0, 0.73), fires_needed(2.0, 0.73, 0.95)
    (488, 5333)

    Raises:
        EdgeError: an argument out of its range; an edge that is not above 0 cannot be shown.
    """
    if not edge > 0:
        raise EdgeError(f"edge={edge} c; no number of trades shows an edge that is not above 0")
    if not deff > 0:
        raise EdgeError(f"deff={deff}; above 0")
    one = detectable(100 * math.sqrt(_variance(cost) * deff), alpha=alpha, power=power, trials=trials)
    return math.ceil((one / edge) ** 2)


def sprt_n(edge: float, cost: float, *, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Wald's expected number of trades until the probability ratio test of `edge` against 0 accepts a true `edge`.

    The test adds V·ln((c + d)/c) + (1 − V)·ln((1 − c − d)/(1 − c)) a trade and stops at ln((1 − β)/α) or
    ln(β/(1 − α)); overshoot is ignored, as Wald does.

    Args:
        edge: d, in cents a contract.
        cost: c, in dollars.
        alpha: chance of accepting the edge where it is 0.
        beta: chance of accepting 0 where the edge is there.

    >>> sprt_n(5.0, 0.73)
    400

    Raises:
        EdgeError: an argument out of its range; cost and edge add to a dollar or more.
    """
    _variance(cost)
    won = cost + edge / 100
    if not (edge > 0 and won < 1):
        raise EdgeError(
            f"an edge of {edge} c at a cost of {cost} $; above 0, and less than a dollar together"
        )
    if not (alpha > 0 and beta > 0 and alpha + beta < 1):
        raise EdgeError(f"alpha={alpha}, beta={beta}; both above 0, together below 1")
    gain = won * math.log(won / cost) + (1 - won) * math.log((1 - won) / (1 - cost))
    end = (1 - beta) * math.log((1 - beta) / alpha) + beta * math.log(beta / (1 - alpha))
    return round(end / gain)


def _variance(cost: float) -> float:
    if not 0 < cost < 1:
        raise EdgeError(f"cost={cost}; dollars a contract, between 0 and 1")
    return cost * (1 - cost)


def _quantile(name: str, probability: float) -> float:
    if not 0 < probability < 1:
        raise EdgeError(f"{name} must lie between 0 and 1")
    return float(stats.norm.ppf(probability))
