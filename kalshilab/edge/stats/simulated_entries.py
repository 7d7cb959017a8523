"""Worlds of which the truth is known: entries with an edge that was put there, or with none.

A method that judges edges is judged here.  Each world is a table of entries (`ENTRIES_SCHEMA`) whose outcomes are
drawn from a joint law that is chosen, so that the share of fair worlds in which a method sees an edge, and of
others in which it misses one, can be counted.

**The law.**  Our side of leg *k* has the mid m, costs A = m + spread/2 and the fee φ = 0.07·A·(1 − A), and wins with
probability

    q = m + b·1{m ≥ favourite} + (A + φ − m if `net`) + edge        b: `flb`

One latent normal an event, z = √ρ·f(day) + √(1 − ρ)·ε with ρ = `rho_day`, decides all its legs:

========= ================================================================================================
kind      outcome
========= ================================================================================================
single    one leg, won where z < Φ⁻¹(q)
ladder    nested thresholds: all legs are won where z < Φ⁻¹(q) of the leg (comonotone)
mutex     at most one market settles YES: Φ(z) falls into one of the intervals of length P(YES), or into
          the rest; NO is bought on each
========= ================================================================================================

The **pool** has other events, of the same kind and on the same days, entered by the same rule without the signal:
there q = m + b·1{m ≥ favourite}.  So a price bias (`flb`) belongs to both, and is no edge of the signal.

The worlds are those with which tests of clustered samples are sized in the literature on few and dependent clusters
(Cameron, Gelbach & Miller 2008, "Bootstrap-based improvements for inference with clustered errors"), with binary
payoffs in place of normal errors; a shared latent normal for binary outcomes is the one-factor copula of Vasicek
(2002, "The distribution of loan portfolio value").
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import ndtr, ndtri

from kalshilab.edge.schema import DAY, ENTRIES_SCHEMA
from kalshilab.errors import EdgeError

__all__ = ["KINDS", "Kind", "entries"]

Kind = Literal["single", "ladder", "mutex"]
KINDS: Final[tuple[Kind, ...]] = ("single", "ladder", "mutex")
"""How the legs of an event hang together."""

Floats = npt.NDArray[np.float64]
_LEGS: Final = {"single": 1, "ladder": 8, "mutex": 6}
_RATE: Final = 0.07
_START: Final = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1e6)
_FIELD: Final = 0.95
"""Share of the outcomes of an exclusive event that its legs cover."""
_CATEGORIES: Final = ("Climate", "Crypto", "Economics", "Entertainment", "Sports")
_LEAST: Final = 1e-6


class _Law(msgspec.Struct, frozen=True):
    """What signal and pool have in common."""

    kind: Kind
    legs: int
    spread: float
    fee: bool
    flb: float
    favourite: float
    rho: float
    fill_rate: float
    hold: float
    days: int


def entries(
    n_events: int,
    *,
    kind: Kind = "single",
    legs: int | None = None,
    edge: float = 0.0,
    net: bool = True,
    flb: float = 0.0,
    favourite: float = 0.55,
    rho_day: float = 0.0,
    spread: float = 0.0,
    fee: bool = True,
    price: tuple[float, float] = (0.55, 0.90),
    pool_price: tuple[float, float] | None = None,
    pool_events: int | None = None,
    fill_rate: float = 1.0,
    hold: float = 3.0,
    days: int = 240,
    seed: int | np.random.Generator = 0,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A signal's entries and the pool to compare them with: two frames of `ENTRIES_SCHEMA`, in the order of time.

    All is settled.  The legs of an event are entered within an hour of one day; the events spread evenly at random
    over the days.

    Args:
        n_events: events of the signal.
        kind: how legs hang together, see above.
        legs: markets an event; None for 1, 8 and 6.
        edge: what the signal knows, in cents a contract: above cost with `net`, else above the mid.
        net: whether `edge` is left after spread and fee.  `edge=0, net=False` is a fair market.
        flb: cents by which markets at `favourite` or above win more often than their mid says, in signal and pool.
        favourite: where that bias begins, in dollars of our side.
        rho_day: correlation of the latent normals of a day's events, from 0 to below 1.
        spread: of the book, in cents; half of it is paid.
        fee: whether the taker fee is paid (0.07·A·(1 − A) a contract, before any rounding).
        price: lowest and highest mid of our side, uniform between; exclusive events have prices of their own.
        pool_price: the same of the pool; None for `price`; with `flb` for 0.05 to 0.95, or as far
            as the bias allows, so that both of its sides are there.
        pool_events: events of the pool; None for as many as the signal has.
        fill_rate: share of the fires that get a fill, at random.
        hold: days from the entry until the cash comes.
        days: length of the sample.
        seed: a seed or a Generator.

    >>> signal, pool = entries(50_000, edge=5.0, spread=2.0, seed=1)
    >>> round(100 * signal["pnl"].mean(), 1), round(100 * pool["pnl"].mean(), 1)
    (5.0, -2.4)

    Raises:
        EdgeError: an argument out of its range; a probability that falls outside 0 to 1 (edges too large for the
            prices), or exclusive legs whose probabilities add to more than 1.
    """
    law = _Law(
        kind=kind,
        legs=_LEGS.get(kind, 1) if legs is None else legs,
        spread=spread / 100,
        fee=fee,
        flb=flb / 100,
        favourite=favourite,
        rho=rho_day,
        fill_rate=fill_rate,
        hold=hold,
        days=days,
    )
    wide = (0.05, min(0.95, 0.99 - max(law.flb, 0.0))) if flb else price
    ranges = (price, wide if pool_price is None else pool_price)
    pooled = n_events if pool_events is None else pool_events
    _check(law, n_events, pooled, ranges)
    rng = np.random.default_rng(seed)
    # Signal and pool live through the same days.
    factor = rng.standard_normal(days)
    signal = _half(law, "S", n_events, ranges[0], edge / 100, net, factor, rng)
    pool = _half(law, "P", pooled, ranges[1], 0.0, False, factor, rng)
    return signal, pool


def _check(law: _Law, n_events: int, pooled: int, ranges: tuple[tuple[float, float], ...]) -> None:
    if law.kind not in KINDS:
        raise EdgeError(f"kind={law.kind!r}; one of {', '.join(KINDS)}")
    if law.kind == "single" and law.legs != 1:
        raise EdgeError(f"legs={law.legs} with kind='single'; events of several legs are 'ladder' or 'mutex'")
    for name, number, least in (
        ("n_events", n_events, 1),
        ("pool_events", pooled, 0),
        ("legs", law.legs, 1),
        ("days", law.days, 1),
    ):
        if number < least:
            raise EdgeError(f"{name}={number}; at least {least}")
    if not 0 <= law.rho < 1:
        raise EdgeError(f"rho_day={law.rho}; from 0 to below 1")
    if not 0 <= law.fill_rate <= 1:
        raise EdgeError(f"fill_rate={law.fill_rate}; from 0 to 1")
    if not (law.spread >= 0 and law.hold >= 0):
        raise EdgeError(f"spread={100 * law.spread} c, hold={law.hold} days; neither can be negative")
    for low, high in ranges:
        if not 0 < low <= high < 1:
            raise EdgeError(f"prices from {low} to {high}; dollars between 0 and 1, the lower one first")


def _half(
    law: _Law,
    name: str,
    n: int,
    price: tuple[float, float],
    edge: float,
    net: bool,
    factor: Floats,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """The entries of the signal, or of the pool; `edge` and `law` in dollars."""
    day = np.sort(rng.integers(0, law.days, n))
    mid = _mids(law, n, price, rng)
    asked = mid + law.spread / 2
    fee = _RATE * asked * (1 - asked) if law.fee else np.zeros_like(asked)
    q = mid + law.flb * (mid >= law.favourite) + edge
    if net:
        q = q + (asked + fee - mid)
    outside = (q < 0) | (q > 1) | (asked >= 1)
    if outside.any():
        at = mid[outside][0]
        raise EdgeError(
            f"a leg with a mid of {100 * at:.1f} c would win with probability {q[outside][0]:.3f} at a price of "
            f"{100 * asked[outside][0]:.1f} c; lower the edge, the bias or the prices"
        )
    z = np.sqrt(law.rho) * factor[day] + np.sqrt(1 - law.rho) * rng.standard_normal(n)
    won = _outcomes(law, q, z)
    return _frame(law, name, day, mid, asked, fee, won, rng)


def _mids(law: _Law, n: int, price: tuple[float, float], rng: np.random.Generator) -> Floats:
    """Mids of our side, of shape (events, legs)."""
    if law.kind == "mutex":
        # NO is bought on each of the exclusive outcomes; none of them is a longshot, so that edges have room.
        least = _FIELD / (2 * law.legs)
        return np.asarray(1 - least - _FIELD / 2 * rng.dirichlet(np.full(law.legs, 4.0), n), dtype=np.float64)
    return rng.uniform(*price, (n, law.legs))


def _outcomes(law: _Law, q: Floats, z: Floats) -> npt.NDArray[np.bool_]:
    """Whether our side won, of shape (events, legs)."""
    if law.kind != "mutex":
        return np.asarray(z[:, None] < ndtri(q))
    ends = np.cumsum(1 - q, axis=1)
    if n_over := int((ends[:, -1] > 1 + _LEAST).sum()):
        raise EdgeError(
            f"in {n_over} exclusive events the legs would settle YES with more than certainty together; "
            "NO cannot lose that much on every leg: raise the edge"
        )
    u = ndtr(z)[:, None]
    yes = (u < ends) & (u >= ends - (1 - q))
    return np.asarray(~yes)


def _frame(
    law: _Law,
    name: str,
    day: npt.NDArray[np.int64],
    mid: Floats,
    asked: Floats,
    fee: Floats,
    won: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> pl.DataFrame:
    n, legs = mid.shape
    # The legs of an event follow each other within an hour, the events lie anywhere in the first 20 hours of a day.
    begun = _START + day * DAY + rng.integers(0, 20 * 3_600_000_000, n)
    ts = (begun[:, None] + np.sort(rng.integers(0, 3_600_000_000, (n, legs)), axis=1)).ravel()
    rows = n * legs
    filled = rng.random(rows) < law.fill_rate
    # Either taker may have printed: ours at what we would pay, the other one as far below the mid.
    above = rng.random(rows) < 0.5
    middle, paid = mid.ravel(), asked.ravel()
    event = np.repeat(np.arange(n), legs)
    sides = (
        np.full(rows, law.kind != "mutex") if law.kind == "mutex" else np.repeat(rng.random(n) < 0.5, legs)
    )
    table: dict[str, Any] = {
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
    wait = int(law.hold * DAY)
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
        pl.lit(law.kind == "mutex").alias("exclusive"),
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
