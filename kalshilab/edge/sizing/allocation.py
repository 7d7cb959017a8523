"""Stakes of bets that are open together: growth over their joint outcomes, within caps on what can be lost.

Bets of one event win and lose together, and events of a day share its shocks.  `allocate` therefore maximises

    mean over scenarios of ln(1 + Σ f_i r_i),   f_i ≥ 0

(Kelly 1956; Breiman 1961) over scenarios from the joint law which the martingale null has too, with our chances of
winning in the place of the prices.  The caps are on the **worst-case loss**: the most outlay that one outcome can
take.  Of exclusive markets at most one settles YES, so of NO legs at most one is lost, and the worst case of an event
is the largest over its outcomes and not the sum.  No credit is taken for what the other legs win, nor for netting of
collateral: all outlay has to be there in cash.

Growth is concave and the caps are linear, so there is one best point.  A sequential quadratic program finds it (Kraft
1988), and a linear program bounds what is missing: growth cannot rise by more than max over y of ∇·(y − v).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import optimize, stats

from kalshilab.errors import EdgeError

__all__ = ["CAPS", "LEGS_SCHEMA", "Allocation", "allocate", "scenarios"]

Floats = npt.NDArray[np.float64]

CAPS: Final[Mapping[str, float]] = {
    "market": 0.01,
    "event": 0.02,
    "series_day": 0.04,
    "category": 0.15,
    "total": 0.50,
}
"""Most that may be lost in the worst case, as shares of the bankroll."""
_LEGS: Final[dict[str, Any]] = {
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
LEGS_SCHEMA: Final = pl.Schema(_LEGS)
"""Bets to choose from: `cost` in dollars with the fee, `p` the chance that the side bought pays, as one would bet
on it (`cost` plus a bounded edge), `day` the day of entry, `exclusive` whether at most one market of the event pays."""
_LEAST: Final = 0.01
"""Share of the bankroll that is left in the worst case, so that its logarithm is finite."""


def scenarios(
    legs: pl.DataFrame, *, n: int = 4000, rho: float = 0.05, seed: int | np.random.Generator = 0
) -> npt.NDArray[np.bool_]:
    """Joint outcomes of bets: which of them pay, of shape (n, legs).

    Each event has one latent uniform number, which a factor of its day moves (Gaussian, correlation `rho`).  Legs of
    exclusive events that were entered on one day settle by the interval into which it falls; all others win together,
    the likelier ones first, which is the worst case for whoever holds them all.  Numbers are spread evenly (Latin
    hypercube with dependence: Stein 1987), so that each leg pays in the share p of the scenarios.

    Args:
        legs: `LEGS_SCHEMA`.
    """
    _check(legs)
    if n < 1 or not 0 <= rho < 1:
        raise EdgeError(f"scenarios({n=}, {rho=}): at least one, a correlation from 0 below 1")
    rng = np.random.default_rng(seed)
    event = _codes(legs, "event")
    first = np.unique(event, return_index=True)[1]
    day = _codes(legs.select(day=pl.col("day").min().over("event")), "day")
    on_one_day = legs.select(pl.col("day").n_unique().over("event") == 1).to_series().to_numpy()
    factor = rng.standard_normal((n, int(day.max(initial=-1)) + 1))
    own = rng.standard_normal((n, len(first)))
    z = math.sqrt(rho) * factor[:, day[first]] + math.sqrt(1 - rho) * own
    # By rank each leg wins as often as its p says: a sample's luck would be bet on as if it were an edge.
    u = ((stats.rankdata(z, axis=0) - 0.5) / n)[:, event]
    p, yes = legs["p"].to_numpy(), (legs["side"] == "yes").to_numpy()
    won = u < p
    for members in _exclusive(legs, event):
        if not on_one_day[members[0]]:
            continue
        settles = np.where(yes[members], p[members], 1 - p[members])
        # What was bought lies at the low end and what was sold at the high end, as low numbers are good for all.
        start = np.cumsum(np.where(yes[members], settles, 0.0)) - settles
        start = np.where(yes[members], start, 1 - np.cumsum(np.where(yes[members], 0.0, settles)))
        if settles.sum() > 1:
            start = np.cumsum(settles) - settles
        inside = (u[:, members] - start) % 1.0 < settles
        won[:, members] = inside == yes[members]
    return np.asarray(won, np.bool_)


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """What to lay out for each of several bets."""

    stakes: pl.DataFrame
    """The legs in their order with `stake`, the outlay as a share of the bankroll."""
    outlay: float
    """Sum of the stakes."""
    worst_case: float
    """Most that can be lost, as a share of the bankroll."""
    growth: float
    """Mean logarithm of growth over the scenarios."""
    short_of_best: float
    """Bound on how far the growth of the unfractioned bets is from the best (duality gap)."""
    binding: tuple[str, ...]
    """Caps that are reached."""

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
    """Stakes of bets that are open together, by fractional Kelly on their joint outcomes.

    The share that grows fastest is found within the caps divided by `fraction`, and multiplied by it.

    Args:
        legs: `LEGS_SCHEMA`; a leg whose `p` is not above its cost gets nothing.
        fraction: of Kelly's shares.
        caps: as `CAPS`; all five.
        n: scenarios, at least 2,000 for a decision.
        rho: correlation of a day's events.

    Raises:
        EdgeError: columns or values that are no bets, caps that are missing.
    """
    _check(legs)
    if not 0 < fraction <= 1:
        raise EdgeError(f"allocate({fraction=}): above 0, at most 1")
    if set(caps) != set(CAPS) or not all(0 < cap <= 1 for cap in caps.values()):
        raise EdgeError(f"caps={dict(caps)}: shares above 0 for {', '.join(CAPS)}")
    cost, good = legs["cost"].to_numpy(), (legs["p"] > legs["cost"]).to_numpy()
    chosen = legs.filter(good)
    stakes = np.zeros(len(legs))
    if chosen.is_empty():
        return _allocation(legs, stakes, [], 0.0, 0.0)
    won = scenarios(chosen, n=max(n, 1), rho=rho, seed=seed)
    returns = won / cost[good] - 1.0
    a, b, names = _constraints(chosen, {k: v / fraction for k, v in caps.items()}, 1 / fraction)
    found, gap = _maximise(returns, a, b)
    stakes[good] = fraction * found[: len(chosen)]
    use = a @ found
    reached = dict.fromkeys(
        name for name, used, most in zip(names, use, b, strict=True) if name and used > most * (1 - 1e-4)
    )
    return _allocation(legs, stakes, list(reached), float(np.log1p(returns @ stakes[good]).mean()), gap)


def _allocation(
    legs: pl.DataFrame, stakes: Floats, reached: list[str], rate: float, gap: float
) -> Allocation:
    return Allocation(
        stakes=legs.with_columns(stake=pl.Series(stakes)),
        outlay=float(stakes.sum()),
        worst_case=_worst_case(legs, stakes),
        growth=rate,
        short_of_best=gap,
        binding=tuple(reached),
    )


def _units(legs: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Legs whose worst case is judged together: of one event, series, category and day."""
    return _codes(legs, "event", "series", "category", "day")


def _codes(legs: pl.DataFrame, *names: str) -> npt.NDArray[np.int64]:
    """Dense codes from 0 of rows that agree in these columns, null being a value like others."""
    key = pl.struct(names).rank("dense").cast(pl.Int64) - 1
    codes: npt.NDArray[np.int64] = legs.select(key).to_series().to_numpy()
    return codes


def _exclusive(legs: pl.DataFrame, unit: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Rows of each unit of exclusive markets with more than one leg, each market once."""
    exclusive, ticker = legs["exclusive"].to_numpy(), legs["ticker"].to_numpy()
    groups = [np.flatnonzero(unit == code) for code in np.unique(unit[exclusive])]
    return [g for g in groups if len(g) > 1 and exclusive[g].all() and len(set(ticker[g])) == len(g)]


def _outcomes(legs: pl.DataFrame, members: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which legs are lost, (outcomes, members): a row for each market that may settle YES, and one for none."""
    yes = (legs["side"] == "yes").to_numpy()[members]
    settles = np.vstack([np.eye(len(members), dtype=bool), np.zeros(len(members), bool)])
    return np.asarray(settles != yes, np.bool_)


def _worst_case(legs: pl.DataFrame, stakes: Floats) -> float:
    total = float(stakes.sum())
    for members in _exclusive(legs, _units(legs)):
        lost = _outcomes(legs, members) @ stakes[members]
        total += float(lost.max() - stakes[members].sum())
    return total


def _constraints(
    legs: pl.DataFrame, caps: Mapping[str, float], cash: float
) -> tuple[Floats, Floats, list[str]]:
    """`a @ v <= b` for v = stakes, then the worst case of each unit of exclusive legs; names of the caps."""
    n, unit = len(legs), _units(legs)
    groups = _exclusive(legs, unit)
    size = n + len(groups)
    rows: list[Floats] = []
    names: list[str] = []
    most: list[float] = []

    def add(row: Floats, name: str, bound: float) -> None:
        rows.append(row)
        names.append(name)
        most.append(bound)

    # What each leg adds to the worst case of its groups: itself, or its unit's variable (once a unit).
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
    # The worst case leaves something, so that every scenario has a logarithm.
    add(share.sum(0), "total", caps["total"])
    add(share.sum(0), "solvency", 1 - _LEAST)
    add(np.r_[np.ones(n), np.zeros(len(groups))], "cash", cash)
    return np.array(rows), np.array(most), names


def _maximise(returns: Floats, a: Floats, b: Floats) -> tuple[Floats, float]:
    """The feasible point of most growth, and a bound on what it misses: max over y of ∇·(y − v), a linear program."""
    n, size = returns.shape[1], a.shape[1]

    def loss(v: Floats) -> tuple[float, Floats]:
        wealth = 1 + returns @ v[:n]
        # Outside of the caps a step may try what would ruin: there the logarithm goes on as a parabola.
        low = np.minimum(wealth / _LEAST, 1.0) - 1
        value = np.log(np.maximum(wealth, _LEAST)) + low - low**2 / 2
        slope = np.where(wealth >= _LEAST, 1 / np.maximum(wealth, _LEAST), (1 - low) / _LEAST)
        return -float(value.mean()), -np.r_[returns.T @ slope / len(returns), np.zeros(size - n)]

    start = np.zeros(size)
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, None)] * size,
        constraints={"type": "ineq", "fun": lambda v: b - a @ v, "jac": lambda v: -a},
        options={"maxiter": 300, "ftol": 1e-11},
    )
    v = np.maximum(found.x, 0.0)
    # What rounding left outside is drawn in: unit variables up to their legs, then all down together.
    for row in np.flatnonzero(b == 0):
        unit = int(np.argmin(a[row]))
        v[unit] = max(v[unit], float(np.maximum(a[row], 0) @ v))
    excess = float((a @ v / np.where(b > 0, b, np.inf)).max())
    v = v / max(excess, 1.0)
    slope = loss(v)[1]
    best = optimize.linprog(slope, A_ub=a, b_ub=b, bounds=(0, None), method="highs")
    if not best.success:
        raise EdgeError(f"the caps could not be resolved: {best.message}")
    return v, max(0.0, float(slope @ (v - best.x)))


def _check(legs: pl.DataFrame) -> None:
    for name in _LEGS:
        if name not in legs.columns:
            raise EdgeError(f"legs: column {name} is missing; they are {', '.join(_LEGS)}")
    for name in ("cost", "p"):
        bad = legs.filter(~pl.col(name).is_between(0, 1, closed="none") | pl.col(name).is_null())
        if len(bad):
            raise EdgeError(f"{bad['ticker'][0]}: {name} is {bad[name][0]}; between 0 and 1")
    if not legs["side"].cast(pl.String).is_in(["yes", "no"]).all():
        raise EdgeError("legs: side is yes or no")
    if legs["event"].null_count() or legs["exclusive"].null_count():
        raise EdgeError("legs: each has an event, and says whether its markets are exclusive")
