"""A real tape with a fair market on it: the control that catches what no other test sees.

Times, tickers, sizes and taker sides stay as they were recorded; prices and outcomes are replaced by a martingale
that starts at each market's first price (`kalshilab.tape.synth`).  Nobody has an edge there.  A strategy run on it
unchanged, its entry and its scoring included, must earn nothing: if it earns something, it looked ahead somewhere
(a negative control: Lipsitch et al. 2010, "Negative controls").
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.signals.model import as_tape
from kalshilab.tape.schema import check_markets
from kalshilab.tape.synth import Recipe, revealed
from kalshilab.units import PRICE

__all__ = ["Replay", "replay"]


class Replay(NamedTuple):
    """A tape on which nobody has an edge."""

    tape: pl.DataFrame
    """The recorded one with other prices."""
    markets: pl.DataFrame
    """The recorded ones with other outcomes; every market on the tape is settled."""
    mid: npt.NDArray[np.float64]
    """The chance of YES as of each print, in dollars."""


def replay(tape: pl.DataFrame, markets: pl.DataFrame, *, seed: int = 0, spread: float = 2.0) -> Replay:
    """A tape's times, tickers, sizes and takers with fair prices and outcomes.

    Args:
        tape: a tape, in order of time.
        markets: `kl.to_markets`; markets that are not on the tape stay as they are.
        seed: the same seed, the same prices.
        spread: cents between the price a YES taker prints and the one a NO taker does.

    >>> import kalshilab as kl
    >>> made = replay(*kl.sample(), seed=3)
    >>> made.tape["ts"].equals(kl.sample()[0]["ts"]), len(made.mid) == made.tape.height
    (True, True)
    """
    own = as_tape(tape, ("ts", "price", "size", "taker"))
    market = own["market"].to_numpy().astype(np.int64)
    order = np.argsort(market, kind="stable")
    codes, first, at = np.unique(market[order], return_index=True, return_inverse=True)
    n = np.diff(np.append(first, len(order)))
    k = np.arange(len(order)) - first[at]
    half = spread / 200
    takes_yes = (own["taker"].cast(pl.String) == "yes").to_numpy()[order]
    # The first price, less the half-spread its taker paid: where the market began.
    begun = own["price"].to_numpy()[order][first] / PRICE - np.where(takes_yes[first], half, -half)
    rng = np.random.default_rng(seed)
    mid, yes = revealed(rng, Recipe(), np.clip(begun, 0.01, 0.99), n, at, k)
    printed = np.rint((mid + np.where(takes_yes, half, -half)) * 100) * (PRICE // 100)
    price = np.empty(len(order), np.int16)
    price[order] = np.clip(printed, 100, PRICE - 100).astype(np.int16)
    fair = np.empty(len(order))
    fair[order] = mid
    names = own.select("market", pl.col("ticker").cast(pl.String)).unique("market")
    drawn = pl.DataFrame({"market": codes.astype(np.uint32), "_yes": yes}).join(
        names, on="market", how="left"
    )
    table = check_markets(markets).join(
        drawn.select("ticker", "_yes"), on="ticker", how="left", maintain_order="left"
    )
    known = pl.col("_yes").is_not_null()
    table = table.with_columns(
        pl.when(known)
        .then(pl.when("_yes").then(pl.lit("yes")).otherwise(pl.lit("no")))
        .otherwise("result")
        .alias("result"),
        pl.when(known)
        .then(pl.when("_yes").then(PRICE).otherwise(0))
        .otherwise("settlement")
        .cast(pl.Int16)
        .alias("settlement"),
    ).drop("_yes")
    return Replay(tape.with_columns(pl.Series("price", price)), table, fair)
