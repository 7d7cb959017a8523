"""Joint stakes for simultaneous bets: maximise growth over their joint outcomes, within caps on the possible loss.

Bets on one event win and lose together, and events of one day share its shocks. `allocate` therefore maximises

    mean over scenarios of ln(1 + Σ f_i r_i),   f_i ≥ 0

(Kelly 1956; Breiman 1961) over scenarios from the joint distribution of the martingale null, with our probabilities
of winning in place of the prices. The caps limit the **worst-case loss**: the largest outlay that one outcome can
lose. At most one of several exclusive markets settles YES, so at most one of their NO legs is lost. The worst case of
an event is therefore the maximum over its outcomes and not the sum. Winnings of the other legs are not credited, nor
is netting of collateral: the whole outlay must be available in cash.

Growth is concave and the caps are linear, so there is one optimum. A sequential quadratic program finds it (Kraft
1988), and a linear program bounds the optimality gap: growth cannot rise by more than max over y of ∇·(y − v).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import polars as pl
from scipy import optimize, stats

from kalshilab.edge.schema import Bools, Floats, Integers
from kalshilab.errors import EdgeError

__all__ = ["CAPS", "LEGS_SCHEMA", "Allocation", "allocate", "scenarios"]

CAPS: Final[Mapping[str, float]] = {
    "market": 0.01,
    "event": 0.02,
    "series_day": 0.04,
    "category": 0.15,
    "total": 0.50,
}
"""Largest worst-case loss of each kind of group, as a fraction of the bankroll."""
LEGS_SCHEMA: Final = pl.Schema(
    {
        "ticker": pl.String,
        "event": pl.String,
        "series": pl.String,
        "category": pl.String,
        "day": pl.Date,
        "side": pl.String,
        "cost": pl.Float64,
        "p": pl.Float64,
        "exclusive": pl.Boolean,
    }
)
"""Candidate bets.

`cost` is in dollars per contract and includes the fee. `p` is the probability to bet on that the side bought pays
(`cost` plus a bounded edge). `day` is the day of entry (UTC), and `exclusive` is whether at most one market of the
event can settle YES.
"""
_RESERVE: Final = 0.01
"""Fraction of the bankroll that remains in the worst case, so that its logarithm is finite."""


def scenarios(
    legs: pl.DataFrame, *, n: int = 4000, rho: float = 0.05, seed: int | np.random.Generator = 0
) -> Bools:
    """Draw joint outcomes of bets: a matrix of shape (n, legs) that is True where the leg pays.

    Each event has one latent uniform variable, driven by a Gaussian factor of its day (correlation `rho`). Legs of
    exclusive events that were entered on one day settle by the interval into which it falls. All others win together,
    the likelier ones first, which is the worst case for a holder of all of them. The uniforms are stratified (Latin
    hypercube with dependence: Stein 1987), so that each leg pays in a fraction p of the scenarios, to within 1/n.

    Args:
        legs: candidate bets (`LEGS_SCHEMA`).
        n: number of scenarios, at least 1.
        rho: correlation of the latent normals of one day's events, 0 <= rho < 1.
        seed: a seed or a Generator.

    Raises:
        EdgeError: a column is missing or holds an invalid value, or `n` or `rho` is out of range.
    """
    _check(legs)
    if n < 1:
        raise EdgeError(f"n must be at least 1 scenario, got {n}")
    if not 0 <= rho < 1:
        raise EdgeError(f"rho must be a correlation with 0 <= rho < 1, got {rho}")
    rng = np.random.default_rng(seed)
    event = _codes(legs, "event")
    first = np.unique(event, return_index=True)[1]
    day = _codes(legs.select(day=pl.col("day").min().over("event")), "day")
    on_one_day = legs.select(pl.col("day").n_unique().over("event") == 1).to_series().to_numpy()
    factor = rng.standard_normal((n, int(day.max(initial=-1)) + 1))
    own = rng.standard_normal((n, len(first)))
    z = math.sqrt(rho) * factor[:, day[first]] + math.sqrt(1 - rho) * own
    # Ranks make each leg win as often as its p: sampling error would otherwise be bet on as if it were an edge.
    u = ((stats.rankdata(z, axis=0) - 0.5) / n)[:, event]
    p, yes = legs["p"].to_numpy(), (legs["side"] == "yes").to_numpy()
    won = u < p
    for members in _exclusive(legs, event):
        if not on_one_day[members[0]]:
            continue
        settles = np.where(yes[members], p[members], 1 - p[members])
        # YES legs lie at the low end and NO legs at the high end, so that low numbers favour every leg.
        start = np.cumsum(np.where(yes[members], settles, 0.0)) - settles
        start = np.where(yes[members], start, 1 - np.cumsum(np.where(yes[members], 0.0, settles)))
        if settles.sum() > 1:
            start = np.cumsum(settles) - settles
        inside = (u[:, members] - start) % 1.0 < settles
        won[:, members] = inside == yes[members]
    return np.asarray(won, np.bool_)


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """Stakes for several simultaneous bets, as fractions of the bankroll."""

    stakes: pl.DataFrame
    """The legs in their order with `stake`, the outlay as a fraction of the bankroll."""
    outlay: float
    """Sum of the stakes."""
    worst_case: float
    """Largest possible loss over all outcomes, as a fraction of the bankroll.

    Only legs with an edge (`p > cost`) count, as in the caps: a leg that cannot get a stake does not change it.
    """
    growth: float
    """Mean log growth over the scenarios."""
    short_of_best: float
    """Upper bound on the growth that the full-Kelly solution is short of the optimum (duality gap)."""
    binding: tuple[str, ...]
    """Names of the caps that are reached."""

    def __repr__(self) -> str:
        caps = ", ".join(self.binding) or "none"
        return f"<Allocation {self.outlay:.1%} laid out, at worst {self.worst_case:.1%} lost; caps reached: {caps}>"


def allocate(
    legs: pl.DataFrame,
    *,
    fraction: float = 0.25,
    caps: Mapping[str, float] = CAPS,
    n: int = 4000,
    rho: float = 0.05,
    seed: int | np.random.Generator = 0,
) -> Allocation:
    """Return stakes for bets that are open together, by fractional Kelly on their joint outcomes.

    The growth-optimal stakes are found within the caps divided by `fraction`, and then multiplied by `fraction`.

    Args:
        legs: candidate bets (`LEGS_SCHEMA`); a leg whose `p` is not above its cost gets a stake of 0.
        fraction: multiple of the full-Kelly stakes, 0 < fraction <= 1.
        caps: worst-case losses as fractions of the bankroll, with the keys of `CAPS`.
        n: number of scenarios; use at least 2,000 for a decision.
        rho: correlation of the latent normals of one day's events, 0 <= rho < 1.
        seed: a seed or a Generator.

    Raises:
        EdgeError: a column is missing or holds an invalid value, a cap is missing, or an argument is out of range.
    """
    _check(legs)
    if not 0 < fraction <= 1:
        raise EdgeError(f"fraction must be above 0 and at most 1, got {fraction}")
    if set(caps) != set(CAPS) or not all(0 < cap <= 1 for cap in caps.values()):
        raise EdgeError(
            f"caps must give a fraction above 0 and at most 1 for each of {', '.join(CAPS)}, got {dict(caps)}"
        )
    has_edge = (legs["p"] > legs["cost"]).to_numpy()
    candidates = legs.filter(has_edge)
    stakes = np.zeros(len(legs))
    binding: list[str] = []
    growth = gap = worst_case = 0.0
    if not candidates.is_empty():
        won = scenarios(candidates, n=max(n, 1), rho=rho, seed=seed)
        returns = won / candidates["cost"].to_numpy() - 1.0
        a, b, names = _constraints(candidates, {k: v / fraction for k, v in caps.items()}, 1 / fraction)
        optimum, gap = _maximise(returns, a, b)
        staked = fraction * optimum[: len(candidates)]
        stakes[has_edge] = staked
        growth = float(np.log1p(returns @ staked).mean())
        # The caps were set on these legs alone: another leg of an event must not change which outcomes it has.
        worst_case = _worst_case(candidates, staked)
        binding = [
            name
            for name, used, limit in zip(names, a @ optimum, b, strict=True)
            if name and used > limit * (1 - 1e-4)
        ]
    return Allocation(
        stakes=legs.with_columns(stake=pl.Series(stakes)),
        outlay=float(stakes.sum()),
        worst_case=worst_case,
        growth=growth,
        short_of_best=gap,
        binding=tuple(dict.fromkeys(binding)),
    )


def _units(legs: pl.DataFrame) -> Integers:
    """Return a code for each leg; legs of one event, series, category and day share a worst case and a code."""
    return _codes(legs, "event", "series", "category", "day")


def _codes(legs: pl.DataFrame, *names: str) -> Integers:
    """Return dense codes from 0 of the distinct values of these columns; null is a value like any other."""
    key = pl.struct(names).rank("dense").cast(pl.Int64) - 1
    codes: Integers = legs.select(key).to_series().to_numpy()
    return codes


def _exclusive(legs: pl.DataFrame, unit: Integers) -> list[Integers]:
    """Return the rows of each unit of two or more exclusive legs in distinct markets."""
    exclusive, ticker = legs["exclusive"].to_numpy(), legs["ticker"].to_numpy()
    groups = [np.flatnonzero(unit == code) for code in np.unique(unit[exclusive])]
    return [g for g in groups if len(g) > 1 and exclusive[g].all() and len(set(ticker[g])) == len(g)]


def _outcomes(legs: pl.DataFrame, members: Integers) -> Bools:
    """Return which legs are lost in each outcome, of shape (outcomes, members).

    There is one row per market that may settle YES, and a last row in which all of them settle NO.
    """
    yes = (legs["side"] == "yes").to_numpy()[members]
    settles = np.vstack([np.eye(len(members), dtype=bool), np.zeros(len(members), bool)])
    return np.asarray(settles != yes, np.bool_)


def _worst_case(legs: pl.DataFrame, stakes: Floats) -> float:
    """Return the largest outlay that can be lost: per unit of exclusive legs the worst outcome, else the sum."""
    total = float(stakes.sum())
    for members in _exclusive(legs, _units(legs)):
        lost = _outcomes(legs, members) @ stakes[members]
        total += float(lost.max() - stakes[members].sum())
    return total


def _constraints(
    legs: pl.DataFrame, caps: Mapping[str, float], cash: float
) -> tuple[Floats, Floats, list[str]]:
    """Return `a`, `b` and the names of the caps, for the constraints `a @ v <= b`.

    The variables v are the stakes, followed by the worst case of each unit of exclusive legs.
    """
    n, unit = len(legs), _units(legs)
    groups = _exclusive(legs, unit)
    size = n + len(groups)
    rows: list[Floats] = []
    names: list[str] = []
    bounds: list[float] = []

    def add(row: Floats, name: str, bound: float) -> None:
        rows.append(row)
        names.append(name)
        bounds.append(bound)

    # The contribution of each leg to the worst case of its groups: itself, or its unit's variable (once per unit).
    share = np.eye(n, size)
    for j, members in enumerate(groups):
        share[members] = 0.0
        share[members[0], n + j] = 1.0
        for lost in _outcomes(legs, members):
            row = np.zeros(size)
            row[members], row[n + j] = lost, -1.0
            add(row, "", 0.0)
    for name, key in (
        ("event", ("event",)),
        ("series_day", ("series", "day")),
        ("category", ("category",)),
    ):
        codes = _codes(legs, *key)
        for code in np.unique(codes):
            add(share[codes == code].sum(0), name, caps[name])
    markets = legs["ticker"].rank("dense").to_numpy()
    for code in np.unique(markets):
        row = np.zeros(size)
        row[:n] = markets == code
        add(row, "market", caps["market"])
    # The worst case leaves a reserve, so that the wealth in every scenario has a logarithm.
    add(share.sum(0), "total", caps["total"])
    add(share.sum(0), "solvency", 1 - _RESERVE)
    add(np.r_[np.ones(n), np.zeros(len(groups))], "cash", cash)
    return np.array(rows), np.array(bounds), names


def _maximise(returns: Floats, a: Floats, b: Floats) -> tuple[Floats, float]:
    """Return the feasible point of maximum growth and its duality gap, max over y of ∇·(y − v) (a linear program)."""
    n, size = returns.shape[1], a.shape[1]

    def loss(v: Floats) -> tuple[float, Floats]:
        wealth = 1 + returns @ v[:n]
        # A step outside the caps may evaluate negative wealth: there a parabola continues the logarithm.
        low = np.minimum(wealth / _RESERVE, 1.0) - 1
        value = np.log(np.maximum(wealth, _RESERVE)) + low - low**2 / 2
        slope = np.where(wealth >= _RESERVE, 1 / np.maximum(wealth, _RESERVE), (1 - low) / _RESERVE)
        return -float(value.mean()), -np.r_[returns.T @ slope / len(returns), np.zeros(size - n)]

    start = np.zeros(size)
    solution = optimize.minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, None)] * size,
        constraints={"type": "ineq", "fun": lambda v: b - a @ v, "jac": lambda v: -a},
        options={"maxiter": 300, "ftol": 1e-11},
    )
    v = np.maximum(solution.x, 0.0)
    # Repair rounding errors: raise unit variables to the sum of their legs, then scale everything down.
    for row in np.flatnonzero(b == 0):
        unit = int(np.argmin(a[row]))
        v[unit] = max(v[unit], float(np.maximum(a[row], 0) @ v))
    excess = float((a @ v / np.where(b > 0, b, np.inf)).max())
    v = v / max(excess, 1.0)
    slope = loss(v)[1]
    best = optimize.linprog(slope, A_ub=a, b_ub=b, bounds=(0, None), method="highs")
    if not best.success:
        raise EdgeError(f"the linear program over the caps failed: {best.message}")
    return v, max(0.0, float(slope @ (v - best.x)))


def _check(legs: pl.DataFrame) -> None:
    for name in LEGS_SCHEMA:
        if name not in legs.columns:
            raise EdgeError(f"legs must have the columns {', '.join(LEGS_SCHEMA)}; {name} is missing")
    for name in ("cost", "p"):
        bad = legs.filter(~pl.col(name).is_between(0, 1, closed="none") | pl.col(name).is_null())
        if len(bad):
            raise EdgeError(
                f"legs: {name} must lie between 0 and 1, got {bad[name][0]} for {bad['ticker'][0]}"
            )
    if not (side := legs["side"].cast(pl.String)).is_in(["yes", "no"]).all():
        wrong = next(value for value in side if value not in ("yes", "no"))
        raise EdgeError(f"legs: side must be 'yes' or 'no', got {wrong!r}")
    for name in ("event", "exclusive"):
        if legs[name].null_count():
            ticker = legs.filter(pl.col(name).is_null())["ticker"][0]
            raise EdgeError(f"legs: {name} must not be null, got null for {ticker}")
