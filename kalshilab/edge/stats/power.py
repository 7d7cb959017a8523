"""Statistical power: the minimum detectable edge of a sample, and the sample size that an edge requires.

A contract bought at cost c and worth V ∈ {0, 1} pays V − c, with the variance c(1 − c) if there is no edge. The mean
of N independent ones has the standard error √(c(1 − c)/N); a one-sided test at α then finds an edge of

    MDE = (z₁₋α + z_power) · √(c(1 − c) · deff / N)

with that power (the textbook formula, for example Bloom 1995, "Minimum detectable effects"). The design effect `deff`
is the ratio of the variance of the mean under clustering to that under independence (Kish 1965, "Survey Sampling").

The sequential probability ratio test (Wald 1945, "Sequential tests of statistical hypotheses") needs fewer trades on
average if the true edge is one of its two hypotheses, and makes no promise otherwise.
"""

from __future__ import annotations

import math

from scipy import stats

from kalshilab.errors import EdgeError

__all__ = ["detectable", "fires_needed", "mde", "sprt_n"]


def detectable(se: float, *, alpha: float = 0.05, power: float = 0.8, trials: int = 1) -> float:
    """Return the edge that a one-sided test finds with probability `power`, in the unit of `se`.

    Args:
        se: standard error of the mean if there is no edge.
        alpha: one-sided level of the test; divided by `trials` (Bonferroni).
        power: probability of finding the edge.
        trials: number of tests in the family.

    Raises:
        EdgeError: an argument is out of range.
    """
    if not se >= 0:
        raise EdgeError(f"se must be a standard error of at least 0, got {se}")
    if trials < 1:
        raise EdgeError(f"trials must be at least 1, got {trials}")
    for name, value in (("alpha", alpha), ("power", power)):
        if not 0 < value < 1:
            raise EdgeError(f"{name} must be a probability between 0 and 1, got {value}")
    return float(stats.norm.ppf(1 - alpha / trials) + stats.norm.ppf(power)) * se


def mde(
    cost: float,
    n_events: float,
    deff: float = 1.0,
    alpha: float = 0.05,
    power: float = 0.8,
    *,
    trials: int = 1,
) -> float:
    """Return the minimum detectable edge of a sample of `n_events` events, in cents per contract.

    Args:
        cost: typical cost of a contract in dollars, fee included.
        n_events: number of events with one entry each, or the N that `deff` refers to.
        deff: design effect, the variance of the mean over that of independent entries.
        alpha: one-sided level of the test; divided by `trials`.
        power: probability of finding an edge of that size.
        trials: number of hypotheses in the family.

    >>> round(mde(0.73, 2_000), 1), round(mde(0.73, 2_000, trials=117), 1)
    (2.5, 4.1)

    Raises:
        EdgeError: an argument is out of range.
    """
    if not n_events > 0:
        raise EdgeError(f"n_events must be above 0, got {n_events}")
    if not deff > 0:
        raise EdgeError(f"deff must be above 0, got {deff}")
    return detectable(
        100 * math.sqrt(_variance(cost) * deff / n_events), alpha=alpha, power=power, trials=trials
    )


def fires_needed(
    edge: float, cost: float, power: float = 0.8, *, alpha: float = 0.05, deff: float = 1.0, trials: int = 1
) -> int:
    """Return the number of filled entries that show an edge with probability `power`, rounded up.

    Args:
        edge: true edge in cents per contract, above 0.
        cost: typical cost of a contract in dollars, fee included.
        power: probability of finding the edge.
        alpha: one-sided level of the test; divided by `trials`.
        deff: design effect, the variance of the mean over that of independent entries.
        trials: number of hypotheses in the family.

    >>> fires_needed(5.0, 0.73), fires_needed(2.0, 0.73, 0.95)
    (488, 5333)

    Raises:
        EdgeError: an argument is out of range.
    """
    if not edge > 0:
        raise EdgeError(f"edge must be above 0 cents, got {edge}; no sample size shows an edge of 0 or less")
    if not deff > 0:
        raise EdgeError(f"deff must be above 0, got {deff}")
    one = detectable(100 * math.sqrt(_variance(cost) * deff), alpha=alpha, power=power, trials=trials)
    return math.ceil((one / edge) ** 2)


def sprt_n(edge: float, cost: float, *, alpha: float = 0.05, beta: float = 0.05) -> int:
    """Return Wald's expected number of trades until the SPRT of `edge` against 0 accepts a true `edge`.

    The test adds V·ln((c + d)/c) + (1 − V)·ln((1 − c − d)/(1 − c)) per trade and stops at ln((1 − β)/α) or
    ln(β/(1 − α)). Overshoot is ignored, as in Wald's paper.

    Args:
        edge: d, in cents per contract.
        cost: c, in dollars per contract.
        alpha: probability of accepting the edge if it is 0.
        beta: probability of accepting 0 if the edge is real.

    >>> sprt_n(5.0, 0.73)
    400

    Raises:
        EdgeError: an argument is out of range, or cost and edge add up to a dollar or more.
    """
    _variance(cost)
    won = cost + edge / 100
    if not (edge > 0 and won < 1):
        raise EdgeError(
            f"edge must be above 0 and cost + edge below one dollar, got an edge of {edge} c at a cost of {cost} $"
        )
    if not (alpha > 0 and beta > 0 and alpha + beta < 1):
        raise EdgeError(f"alpha and beta must be above 0 with a sum below 1, got alpha={alpha}, beta={beta}")
    gain = won * math.log(won / cost) + (1 - won) * math.log((1 - won) / (1 - cost))
    end = (1 - beta) * math.log((1 - beta) / alpha) + beta * math.log(beta / (1 - alpha))
    return round(end / gain)


def _variance(cost: float) -> float:
    if not 0 < cost < 1:
        raise EdgeError(f"cost must be dollars per contract between 0 and 1, got {cost}")
    return cost * (1 - cost)
