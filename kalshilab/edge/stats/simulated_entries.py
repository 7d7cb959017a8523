"""Simulated entries with a known edge, to measure the size and the power of a method.

Each simulation is a table of entries (`ENTRIES_SCHEMA`) whose outcomes are drawn from a chosen joint distribution. The
fraction of fair simulations in which a method finds an edge, and of others in which it misses one, can be counted.

**The model.** Our side of leg *k* has the mid m, the price A = m + spread/2 and the fee φ = 0.07·A·(1 − A), and wins
with probability

    q = m + b·1{m ≥ favourite} + (A + φ − m if `net`) + edge        b: `flb_cents`

One latent normal per event, z = √ρ·f(day) + √(1 − ρ)·ε with ρ = `rho_day`, decides all its legs:

========= ================================================================================================
kind      outcome
========= ================================================================================================
single    one leg, won where z < Φ⁻¹(q)
ladder    nested thresholds: each leg is won where z < Φ⁻¹(q) of the leg (comonotone)
mutex     at most one market settles YES: Φ(z) falls into one of the intervals of length P(YES), or into
          the rest; NO is bought on each
========= ================================================================================================

The **pool** has other events of the same kind and on the same days, entered by the same rule without the signal, with
q = m + b·1{m ≥ favourite}. So a price bias (`flb_cents`) is present in both, and is not an edge of the signal.

Such simulations are used to size tests in the literature on few and dependent clusters (Cameron, Gelbach & Miller
2008, "Bootstrap-based improvements for inference with clustered errors"); here payoffs are binary instead of normal.
A shared latent normal for binary outcomes is the one-factor copula of Vasicek (2002, "The distribution of loan
portfolio value").
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
from scipy.special import ndtr, ndtri

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import DAY, ENTRIES_SCHEMA, Bools, Floats, Integers
from kalshilab.errors import EdgeError

__all__ = ["KINDS", "Kind", "entries"]

Kind = Literal["single", "ladder", "mutex"]
KINDS: Final[tuple[Kind, ...]] = ("single", "ladder", "mutex")
"""Dependence between the legs of an event."""

_LEGS: Final = {"single": 1, "ladder": 8, "mutex": 6}
_RATE: Final = 0.07
_START: Final = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1e6)
_COVERED: Final = 0.95
"""Probability that one of the legs of an exclusive event settles YES."""
_CATEGORIES: Final = ("Climate", "Crypto", "Economics", "Entertainment", "Sports")
_TOLERANCE: Final = 1e-6


class _Model(msgspec.Struct, frozen=True):
    """Parameters that signal and pool share; prices in dollars."""

    kind: Kind
    legs: int
    spread: float
    fee: bool
    flb: float
    favourite: float
    rho: float
    fill_rate: float
    hold_days: float
    days: int


@renamed_keywords(spread="spread_cents", flb="flb_cents", hold="hold_days")
def entries(
    n_events: int,
    *,
    kind: Kind = "single",
    legs: int | None = None,
    edge: float = 0.0,
    net: bool = True,
    flb_cents: float = 0.0,
    favourite: float = 0.55,
    rho_day: float = 0.0,
    spread_cents: float = 0.0,
    fee: bool = True,
    price: tuple[float, float] = (0.55, 0.90),
    pool_price: tuple[float, float] | None = None,
    pool_events: int | None = None,
    fill_rate: float = 1.0,
    hold_days: float = 3.0,
    days: int = 240,
    seed: int | np.random.Generator = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Simulate the entries of a signal and the pool to compare them with.

    All entries are settled. The legs of an event are entered within one hour of one day; the days of the events are
    uniformly random.

    Args:
        n_events: number of events of the signal.
        kind: dependence between the legs of an event, see above.
        legs: markets per event; None: 1 for "single", 8 for "ladder" and 6 for "mutex".
        edge: true edge in cents per contract: above the cost with `net`, else above the mid.
        net: whether `edge` remains after spread and fee. `edge=0, net=False` is a fair market.
        flb_cents: favourite-longshot bias: cents by which the win probability of markets at `favourite` or above
            exceeds their mid, in signal and pool.
        favourite: price at which that bias begins, in dollars of our side.
        rho_day: correlation of the latent normals of one day's events, 0 <= rho_day < 1.
        spread_cents: bid-ask spread in cents; half of it is paid.
        fee: whether the taker fee is paid (0.07·A·(1 − A) per contract, before any rounding).
        price: lowest and highest mid of our side in dollars, uniform in between; not used for "mutex".
        pool_price: the same for the pool. None: `price`; with `flb_cents` from 0.05 to 0.95, or as far as the bias
            allows, so that the pool has markets on both sides of `favourite`.
        pool_events: number of events of the pool; None: as many as the signal has.
        fill_rate: fraction of the signals that are filled, at random.
        hold_days: days from entry to settlement.
        days: length of the sample in days.
        seed: a seed or a Generator.

    Returns:
        Entries of the signal and of the pool, both of `ENTRIES_SCHEMA` and sorted by time.

    >>> signal, pool = entries(50_000, edge=5.0, spread_cents=2.0, seed=1)
    >>> round(100 * signal["pnl"].mean(), 1), round(100 * pool["pnl"].mean(), 1)
    (5.0, -2.4)

    Raises:
        EdgeError: an argument is out of range, a probability falls outside [0, 1] (the edge is too large for the
            prices), or the probabilities of exclusive legs add up to more than 1.
    """
    model = _Model(
        kind=kind,
        legs=_LEGS.get(kind, 1) if legs is None else legs,
        spread=spread_cents / 100,
        fee=fee,
        flb=flb_cents / 100,
        favourite=favourite,
        rho=rho_day,
        fill_rate=fill_rate,
        hold_days=hold_days,
        days=days,
    )
    wide = (0.05, min(0.95, 0.99 - max(model.flb, 0.0))) if flb_cents else price
    ranges = (price, wide if pool_price is None else pool_price)
    pooled = n_events if pool_events is None else pool_events
    _check(model, n_events, pooled, ranges)
    rng = np.random.default_rng(seed)
    # Signal and pool share the day factors.
    factor = rng.standard_normal(days)
    signal = _sample(model, "S", n_events, ranges[0], edge / 100, net, factor, rng)
    pool = _sample(model, "P", pooled, ranges[1], 0.0, False, factor, rng)
    return signal, pool


def _check(model: _Model, n_events: int, pooled: int, ranges: tuple[tuple[float, float], ...]) -> None:
    if model.kind not in KINDS:
        raise EdgeError(f"kind must be one of {', '.join(KINDS)}, got {model.kind!r}")
    if model.kind == "single" and model.legs != 1:
        raise EdgeError(
            f"legs must be 1 for kind='single', got {model.legs}; events of several legs are 'ladder' or 'mutex'"
        )
    for name, number, least in (
        ("n_events", n_events, 1),
        ("pool_events", pooled, 0),
        ("legs", model.legs, 1),
        ("days", model.days, 1),
    ):
        if number < least:
            raise EdgeError(f"{name} must be at least {least}, got {number}")
    if not 0 <= model.rho < 1:
        raise EdgeError(f"rho_day must be a correlation with 0 <= rho_day < 1, got {model.rho}")
    if not 0 <= model.fill_rate <= 1:
        raise EdgeError(f"fill_rate must be a fraction from 0 to 1, got {model.fill_rate}")
    for name, value in (("spread_cents", 100 * model.spread), ("hold_days", model.hold_days)):
        if not value >= 0:
            raise EdgeError(f"{name} must be at least 0, got {value}")
    for low, high in ranges:
        if not 0 < low <= high < 1:
            raise EdgeError(f"price must be two rising dollar values between 0 and 1, got {low} to {high}")


def _sample(
    model: _Model,
    name: str,
    n: int,
    price: tuple[float, float],
    edge: float,
    net: bool,
    factor: Floats,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return the entries of the signal, or of the pool; `price` and `edge` are in dollars."""
    day = np.sort(rng.integers(0, model.days, n))
    mid = _mids(model, n, price, rng)
    ask = mid + model.spread / 2
    fee = _RATE * ask * (1 - ask) if model.fee else np.zeros_like(ask)
    q = mid + model.flb * (mid >= model.favourite) + edge
    if net:
        q = q + (ask + fee - mid)
    invalid = (q < 0) | (q > 1) | (ask >= 1)
    if invalid.any():
        raise EdgeError(
            f"win probabilities must lie in [0, 1] and prices below 100 c, got probability {q[invalid][0]:.3f} at a "
            f"price of {100 * ask[invalid][0]:.1f} c (mid {100 * mid[invalid][0]:.1f} c); "
            "lower the edge, the bias or the prices"
        )
    z = np.sqrt(model.rho) * factor[day] + np.sqrt(1 - model.rho) * rng.standard_normal(n)
    won = _outcomes(model, q, z)
    return _frame(model, name, day, mid, ask, fee, won, rng)


def _mids(model: _Model, n: int, price: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Draw the mids of our side, of shape (events, legs)."""
    if model.kind == "mutex":
        # NO is bought on each exclusive outcome; YES is never a longshot, which leaves room for an edge.
        least = _COVERED / (2 * model.legs)
        weights = rng.dirichlet(np.full(model.legs, 4.0), n)
        return np.asarray(1 - least - _COVERED / 2 * weights, dtype=np.float64)
    return rng.uniform(*price, (n, model.legs))


def _outcomes(model: _Model, q: Floats, z: Floats) -> Bools:
    """Return whether our side won, of shape (events, legs)."""
    if model.kind != "mutex":
        return np.asarray(z[:, None] < ndtri(q))
    ends = np.cumsum(1 - q, axis=1)
    if n_over := int((ends[:, -1] > 1 + _TOLERANCE).sum()):
        raise EdgeError(
            f"YES probabilities of an exclusive event must add up to at most 1, got more in {n_over} events; "
            "raise the edge, as NO cannot lose that often on every leg"
        )
    u = ndtr(z)[:, None]
    yes = (u < ends) & (u >= ends - (1 - q))
    return np.asarray(~yes)


def _frame(
    model: _Model,
    name: str,
    day: Integers,
    mid: Floats,
    ask: Floats,
    fee: Floats,
    won: Bools,
    rng: np.random.Generator,
) -> pl.DataFrame:
    n, legs = mid.shape
    # The legs of an event follow within an hour of each other; events start in the first 20 hours of a day.
    start = _START + day * DAY + rng.integers(0, 20 * 3_600_000_000, n)
    ts = (start[:, None] + np.sort(rng.integers(0, 3_600_000_000, (n, legs)), axis=1)).ravel()
    rows = n * legs
    filled = rng.random(rows) < model.fill_rate
    # The triggering print may be of either taker: at our ask, or as far below the mid.
    above = rng.random(rows) < 0.5
    middle, paid = mid.ravel(), ask.ravel()
    event = np.repeat(np.arange(n), legs)
    sides = np.full(rows, False) if model.kind == "mutex" else np.repeat(rng.random(n) < 0.5, legs)
    table = {
        "ts": ts,
        "event": event,
        "leg": np.tile(np.arange(legs), n),
        "kind": event % len(_CATEGORIES),
        "yes": sides,
        "fired_at": np.where(above, paid, 2 * middle - paid),
        "mid": middle,
        "filled": filled,
        "price": paid,
        "fee": fee.ravel(),
        "value": won.ravel().astype(np.float64),
    }
    category = pl.lit(pl.Series(_CATEGORIES)).gather(pl.col("kind"))
    label = pl.lit("KX") + category.str.to_uppercase()
    fill = pl.col("filled")
    moment = pl.Datetime("us", "UTC")
    wait = int(model.hold_days * DAY)
    frame = pl.DataFrame(table).sort("ts", maintain_order=True).with_row_index("fire")
    frame = frame.with_columns(
        pl.col("fire").cast(pl.UInt64),
        pl.col("ts").cast(moment),
        label.alias("series"),
        category.alias("category"),
        pl.when("yes").then(pl.lit("yes")).otherwise(pl.lit("no")).cast(ENTRIES_SCHEMA["side"]).alias("side"),
        pl.when(fill).then(pl.col("ts") + 5_000_000).cast(moment).alias("entry_ts"),
        (pl.col("ts") + 5_000_000 + wait).cast(moment).alias("settled_ts"),
        pl.when(fill).then(pl.col("price") + pl.col("fee")).alias("cost"),
        pl.lit(model.kind == "mutex").alias("exclusive"),
    )
    frame = frame.with_columns(
        pl.format(
            "{}-{}{}", "series", pl.lit(name), pl.col("event").cast(pl.String).str.zfill(_width(n))
        ).alias("event"),
        pl.when(fill).then(pl.col("price")).alias("price"),
        pl.when(fill).then(pl.col("fee")).alias("fee"),
        pl.when(fill).then(pl.col("value") - pl.col("cost")).otherwise(0.0).alias("pnl"),
    )
    return frame.with_columns(pl.format("{}-{}", "event", "leg").alias("ticker")).select(
        ENTRIES_SCHEMA.names()
    )


def _width(n: int) -> int:
    return int(math.log10(max(n, 1))) + 1
