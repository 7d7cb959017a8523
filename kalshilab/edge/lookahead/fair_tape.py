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

from kalshilab.tape.schema import check_markets
from kalshilab.tape.synth import Recipe, revealed
from kalshilab.tape.tape import FrameLike, FrameTape
from kalshilab.units import PRICE

__all__ = ["Replay", "Stage", "replay"]


class Replay(NamedTuple):
    """A tape on which nobody has an edge."""

    tape: pl.DataFrame
    """The recorded one with other prices."""
    markets: pl.DataFrame
    """The recorded ones with other outcomes; every market on the tape is settled."""
    mid: npt.NDArray[np.float64]
    """The chance of YES as of each print, in dollars."""


class Stage:
    """A recorded tape on which fair worlds are played, one after the other.

    Args:
        tape: in order of time.
        markets: `kl.to_markets`; markets that are not on the tape stay as they are.
        spread: cents between the price a YES taker prints and the one a NO taker does.
    """

    def __init__(self, tape: FrameTape, markets: pl.DataFrame, *, spread: float = 2.0) -> None:
        self._tape, self._markets, self._half = tape.frame, check_markets(markets), spread / 200
        own = tape.frame
        market = own["market"].to_numpy()
        self._order = np.argsort(market, kind="stable")
        codes, first, self._at = np.unique(market[self._order], return_index=True, return_inverse=True)
        self._n = np.diff(np.append(first, len(market)))
        self._k = np.arange(len(market)) - first[self._at]
        self._takes_yes = (own["taker"].cast(pl.String) == "yes").to_numpy()[self._order]
        # The first price, less the half-spread its taker paid: where the market began.
        begun = own["price"].to_numpy()[self._order][first] / PRICE
        begun = begun - np.where(self._takes_yes[first], self._half, -self._half)
        self._begun = np.clip(begun, 0.01, 0.99)
        tickers = own["ticker"].cast(pl.String).gather(self._order[first])
        # Of each market in the table its place among those on the tape; null if it is not there.
        places = pl.DataFrame({"ticker": tickers, "place": np.arange(len(codes))})
        self._place = markets.select("ticker").join(places, on="ticker", how="left", maintain_order="left")[
            "place"
        ]

    def world(self, seed: int) -> Replay:
        """The same times, tickers, sizes and takers with fair prices and outcomes; the same seed, the same ones."""
        rng = np.random.default_rng(seed)
        mid, yes = revealed(rng, Recipe(), self._begun, self._n, self._at, self._k)
        printed = np.rint((mid + np.where(self._takes_yes, self._half, -self._half)) * 100) * (PRICE // 100)
        price = np.empty(len(mid), np.int16)
        price[self._order] = np.clip(printed, 100, PRICE - 100).astype(np.int16)
        fair = np.empty(len(mid))
        fair[self._order] = mid
        won = pl.Series(yes).gather(self._place)
        known = won.is_not_null()
        word = pl.when(won).then(pl.lit("yes")).otherwise(pl.lit("no"))
        value = pl.when(won).then(PRICE).otherwise(0)
        table = self._markets.with_columns(
            pl.when(known).then(word).otherwise("result").alias("result"),
            pl.when(known).then(value).otherwise("settlement").cast(pl.Int16).alias("settlement"),
        )
        return Replay(self._tape.with_columns(pl.Series("price", price)), table, fair)


def replay(tape: FrameLike, markets: pl.DataFrame, *, seed: int = 0, spread: float = 2.0) -> Replay:
    """One fair world on a tape: `Stage(tape, markets, spread=spread).world(seed)`.

    >>> import kalshilab as kl
    >>> made = replay(*kl.sample(), seed=3)
    >>> made.tape["ts"].equals(kl.sample()[0]["ts"]), len(made.mid) == made.tape.height
    (True, True)
    """
    return Stage(FrameTape.whole(tape), markets, spread=spread).world(seed)
