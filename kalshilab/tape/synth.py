"""Synthetic fair markets: the price is exactly the probability of YES given all prints so far.

On such markets no strategy has an edge, and a method that finds one is wrong.  They are the control group of every
validation.  With `edge=` they test that a method still detects a real edge.

**Single markets.**  The outcome is drawn first: ``y ~ Bernoulli(p0)``, ``p0 ~ Beta(1.5, 2.1)``.  After each
print the log-odds of the price move by ``N((2y − 1)·d/2, d)``, which is Bayes' rule for a Gaussian signal of
precision ``d``: the price is a martingale, exactly.  A market's total information is
``LogN(ln 11, 1) · min(1, √(n/30) + 0.15)``, released as ``(k/n)³`` over its ``n ~ LogN(ln 6, 1.5)`` prints;
settlement reveals the rest.  Takers of a market buy YES with a propensity drawn from ``Beta(3.2, 2.2)``, independent of
the price.  Spread 2 cents, tick 1 cent; YES takers print the ask.

**Ladders and exclusive legs.**  A Gaussian variable decides an event, and the prints of its legs reveal it gradually.
Leg k of a ladder is YES if the variable exceeds its threshold (nested: comonotone); an exclusive leg is YES if its
interval contains the variable.  Prices are the exact conditional probabilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.tape.schema import DAY_US, HOUR_US, MARKETS_SCHEMA, TAKER, TAPE_SCHEMA, with_codes
from kalshilab.units import PRICE

__all__ = ["Recipe", "make", "martingale", "revealed"]

Kind = Literal["single", "ladder", "mutex"]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

LEGS: Final = {"single": 1, "ladder": 8, "mutex": 6}
START_US: Final = 1_748_736_000_000_000
"""2025-06-01 UTC in microseconds, the start of every synthetic tape."""


@dataclass(frozen=True)
class Recipe:
    """Parameters of synthetic markets; the defaults are those of the module's docstring.

    Attributes:
        prints_log_median: log of the median number of prints a market.
        prints_log_sd: standard deviation of the log of that number.
        most_prints: the maximum number of prints a market.
        information_log_median: log of the median total information of a market.
        taker: parameters of the Beta distribution of the propensity to buy YES.
        spread: price units between bid and ask.
        tick: price units between two prices.
        size_log_median: log of the median number of contracts a print.
        fractional: allow fractional sizes.
        span_days: days from the first opening to the last close.
        life_log_median_days: log of the median life of a market in days.
        series: ticker of the series.
        category: category of the series.
        structure: price structure of the markets.
        planted: the rule at whose first match an edge is planted, by default that of `kalshilab.signals.Rlm`: a share
            of YES takers above the first number, at least so many prints, and a drop of so many price units.
    """

    prints_log_median: float = float(np.log(6))
    prints_log_sd: float = 1.5
    most_prints: int = 20_000
    information_log_median: float = float(np.log(11))
    taker: tuple[float, float] = (3.2, 2.2)
    spread: int = 200
    tick: int = 100
    size_log_median: float = float(np.log(20))
    fractional: bool = False
    span_days: float = 90.0
    life_log_median_days: float = float(np.log(1.5))
    series: str = "KXSYN"
    category: str = "synthetic"
    structure: str = "linear_cent"
    planted: tuple[float, int, int] = (0.70, 25, 500)


def martingale(
    n_markets: int = 5000,
    seed: int = 1,
    edge: float = 0.0,
    kind: Kind = "single",
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generate a fair tape and its markets, or ones with a planted edge.

    Args:
        n_markets: markets to generate; for ladders and exclusive legs, rounded up to whole events.
        seed: the same seed gives the same rows.
        edge: cents by which NO is worth more than its price at the first print that satisfies the default rule of
            `Rlm`.  There the probability of YES is the fair price minus `edge`, or 0 if the fair price is below
            `edge`.  Only outcomes change; the tape is the same as with `edge=0`.
        kind: "single", "ladder" (8 nested legs an event) or "mutex" (6 exclusive legs).

    Returns:
        (tape, markets) in the schemas of `kalshilab.tape`; every market is settled.

    >>> tape, markets = martingale(n_markets=50, seed=3)
    >>> markets.height, tape.height > 50
    (50, True)
    """
    return make(n_markets, np.random.default_rng(seed), Recipe(), edge=edge, kind=kind)


def make(
    n_markets: int, rng: np.random.Generator, recipe: Recipe, *, edge: float = 0.0, kind: Kind = "single"
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Generate markets as `martingale` does, with other parameters.

    Args:
        n_markets: as for `martingale`.
        rng: the source of randomness.
        recipe: the parameters.
        edge: as for `martingale`.
        kind: as for `martingale`.

    Raises:
        SignalError: `kind` is unknown or `n_markets` is below 1.
    """
    if kind not in LEGS:
        raise SignalError("martingale", "kind", kind, "single, ladder or mutex")
    if n_markets < 1:
        raise SignalError("martingale", "n_markets", n_markets, "a whole number >= 1")
    legs = LEGS[kind]
    events = -(-n_markets // legs)
    count = events * legs
    drawn = np.exp(rng.normal(recipe.prints_log_median, recipe.prints_log_sd, count))
    n = np.clip(np.rint(drawn), 1, recipe.most_prints).astype(np.int64)
    market = np.repeat(np.arange(count), n)
    start = np.concatenate(([0], np.cumsum(n)[:-1]))
    k = np.arange(len(market)) - start[market]
    mid, yes = (
        _single(rng, recipe, n, market, k) if kind == "single" else _legs(rng, kind, n, market, k, legs)
    )
    takes_yes = rng.random(len(market)) < rng.beta(*recipe.taker, count)[market]
    price = _printed(mid, takes_yes, recipe)
    opened, closed, ts = _times(rng, recipe, n, market, k, legs)
    size = np.exp(rng.normal(recipe.size_log_median, 1.2, len(market)))
    units = np.maximum(
        np.rint(size * 100) if recipe.fractional else np.rint(size) * 100, 1 if recipe.fractional else 100
    )
    names = _names(recipe, events, legs)
    tape = pl.DataFrame(
        {
            "ts": pl.Series(ts).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"),
            "ticker": pl.Series(names["ticker"]).gather(market),
            "price": pl.Series(price, dtype=pl.Int16),
            "size": pl.Series(units.astype(np.uint32)),
            "taker": pl.Series(np.where(takes_yes, "yes", "no")).cast(TAKER),
        }
    ).sort("ts", maintain_order=True)
    tape = tape.with_columns(
        (pl.lit(f"{recipe.series}-") + pl.int_range(pl.len()).cast(pl.String).str.zfill(8)).alias("trade_id")
    )
    if edge:
        # Drawn last, so that the prints do not depend on the edge.
        yes = _plant(rng, yes, edge, recipe.planted, market, start, k, price, mid, takes_yes)
    return with_codes(tape).select(TAPE_SCHEMA.names()), _markets(recipe, names, opened, closed, yes)


def _single(
    rng: np.random.Generator, recipe: Recipe, n: Ints, market: Ints, k: Ints
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the mid before each print, and the outcomes."""
    return revealed(rng, recipe, rng.beta(1.5, 2.1, len(n)), n, market, k)


def revealed(
    rng: np.random.Generator, recipe: Recipe, p0: Floats, n: Ints, market: Ints, k: Ints
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Draw outcomes and reveal them print by print by Bayes' rule.

    Args:
        rng: the source of randomness.
        recipe: the parameters.
        p0: for each market, the probability of YES before its first print.
        n: for each market, its number of prints.
        market: for each print, its market; the prints of a market are consecutive and in order.
        k: for each print, its position in its market, from 0.

    Returns:
        the mid before each print, and the outcomes.
    """
    # Imported here, because readers of tapes do not need scipy.
    from scipy.special import expit, logit

    yes = rng.random(len(n)) < p0
    total = np.exp(rng.normal(recipe.information_log_median, 1.0, len(n)))
    total *= np.minimum(1.0, np.sqrt(n / 30) + 0.15)
    share = k / n[market]
    step = total[market] * ((share + 1 / n[market]) ** 3 - share**3)
    move = np.where(yes[market], 0.5, -0.5) * step + np.sqrt(step) * rng.standard_normal(len(market))
    # The k-th print precedes the k-th move: shift the cumulative sum of each market by one.
    before = np.cumsum(move) - move
    first = np.flatnonzero(k == 0)
    log_odds = logit(p0)[market] + before - before[first][market]
    return expit(np.clip(log_odds, -30, 30)), yes


def _legs(
    rng: np.random.Generator, kind: Kind, n: Ints, market: Ints, k: Ints, legs: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the mid before each print and the outcomes, for legs of events that a Gaussian variable decides."""
    from scipy.special import ndtr

    event = market // legs
    events = len(n) // legs
    known_share = rng.uniform(0.5, 0.95, events)
    time = ((k + rng.random(len(market))) / n[market]) ** 3 * known_share[event]
    order = np.lexsort((time, event))
    sorted_time, sorted_event = time[order], event[order]
    is_first = np.r_[True, sorted_event[1:] != sorted_event[:-1]]
    gap = np.where(is_first, sorted_time, np.diff(sorted_time, prepend=0.0))
    step = np.sqrt(gap) * rng.standard_normal(len(order))
    walk = np.cumsum(step)
    # Each event's walk starts at 0: subtract the sum of the events before it.
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
    mean_sorted = walk - (walk - step)[first]
    mean = np.empty(len(order))
    mean[order] = mean_sorted
    spread = np.sqrt(1 - time)
    last = np.flatnonzero(np.r_[is_first[1:], True])
    final = mean_sorted[last] + np.sqrt(1 - sorted_time[last]) * rng.standard_normal(len(last))
    cuts = np.linspace(-1.6, 1.6, legs + (kind == "mutex") * 1)
    if kind == "ladder":
        low = cuts
        mid = ndtr((mean - low[market % legs]) / spread)
        yes = final[np.arange(len(n)) // legs] > low[np.arange(len(n)) % legs]
        return mid, yes
    low, high = cuts[:-1].copy(), cuts[1:].copy()
    low[0], high[-1] = -np.inf, np.inf
    leg = market % legs
    mid = ndtr((high[leg] - mean) / spread) - ndtr((low[leg] - mean) / spread)
    every = np.arange(len(n))
    value = final[every // legs]
    return mid, (value > low[every % legs]) & (value <= high[every % legs])


def _printed(mid: Floats, takes_yes: npt.NDArray[np.bool_], recipe: Recipe) -> Ints:
    """Return the printed prices: the ask for a YES taker, the bid for a NO taker, on the price grid."""
    half = recipe.spread // 2
    side = np.where(takes_yes, half, -half)
    ticks = np.rint((mid * PRICE + side) / recipe.tick) * recipe.tick
    price: Ints = np.clip(ticks, recipe.tick, PRICE - recipe.tick).astype(np.int64)
    if recipe.structure == "tapered_deci_cent":
        # Whole cents between 10 and 90 cents, tenths outside.
        inner = (price >= 1000) & (price <= 9000)
        price = np.where(inner, np.rint(price / 100).astype(np.int64) * 100, price)
    return price


def _plant(
    rng: np.random.Generator,
    yes: npt.NDArray[np.bool_],
    edge: float,
    rule: tuple[float, int, int],
    market: Ints,
    start: Ints,
    k: Ints,
    price: Ints,
    mid: Floats,
    takes_yes: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Return outcomes with the edge: a market that satisfies the rule turns from YES to NO with probability edge / mid."""
    threshold, least, drop = rule
    total = np.cumsum(takes_yes)
    since = total - total[start][market] + takes_yes[start][market]
    holds = (k + 1 >= least) & (since / (k + 1) > threshold) & (price[start][market] - price >= drop)
    rows = np.flatnonzero(holds)
    fired, at = np.unique(market[rows], return_index=True)
    chance = np.clip(edge / 100 / np.maximum(mid[rows[at]], 1e-9), 0, 1)
    turned = yes.copy()
    turned[fired] &= rng.random(len(fired)) >= chance
    return turned


def _times(
    rng: np.random.Generator, recipe: Recipe, n: Ints, market: Ints, k: Ints, legs: int
) -> tuple[Ints, Ints, Ints]:
    """Return opening, closing and print times in microseconds; legs of an event open and close together."""
    events = len(n) // legs
    life = np.clip(np.exp(rng.normal(recipe.life_log_median_days, 0.8, events)), 0.05, recipe.span_days / 3)
    opened = np.repeat(START_US + rng.random(events) * (recipe.span_days - life) * DAY_US, legs).astype(
        np.int64
    )
    span = np.repeat(life * DAY_US, legs).astype(np.int64)
    when = rng.random(len(market))
    # Uniform times in order within each market.
    order = np.lexsort((when, market))
    ts = opened[market] + 60_000_000 + (when[order] * (span[market] - 120_000_000)).astype(np.int64)
    return opened, opened + span, ts


def _names(recipe: Recipe, events: int, legs: int) -> dict[str, list[str]]:
    event = [f"{recipe.series}-{e:06d}" for e in range(events) for _ in range(legs)]
    ticker = [f"{name}-T{leg}" for name, leg in zip(event, list(range(legs)) * events, strict=True)]
    return {"ticker": ticker, "event": event}


def _markets(
    recipe: Recipe, names: dict[str, list[str]], opened: Ints, closed: Ints, yes: npt.NDArray[np.bool_]
) -> pl.DataFrame:
    def instant(us: Ints) -> pl.Series:
        return pl.Series(us).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")

    constant: dict[str, str | float] = {
        "series": recipe.series,
        "category": recipe.category,
        "title": "",
        "fee_multiplier": 1.0,
        "fee_type": "quadratic",
        "price_structure": recipe.structure,
    }
    table = pl.DataFrame(
        {
            **names,
            "open_ts": instant(opened),
            "close_ts": instant(closed),
            "expected_close_ts": instant(closed),
            "result": np.where(yes, "yes", "no"),
            "settlement": pl.Series(np.where(yes, PRICE, 0), dtype=pl.Int16),
            "settled_ts": instant(closed + HOUR_US),
        }
    ).with_columns(**{name: pl.lit(value) for name, value in constant.items()})
    return table.select(pl.col(name).cast(dtype) for name, dtype in MARKETS_SCHEMA.items())
