"""A real tape with fair prices: the control that detects leaks no other test can see.

Times, tickers, sizes and taker sides stay as recorded. Prices and outcomes are replaced by a martingale that starts at each
market's first price (`kalshilab.tape.synth`), so that no strategy can have an edge. A strategy is run on this tape
unchanged, including its entry and its scoring. If it makes a profit, some part of it looks ahead (a negative control:
Lipsitch et al. 2010, "Negative controls").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.lookahead.audited_fires import fires_of
from kalshilab.edge.lookahead.strategy import AuditedStrategy
from kalshilab.edge.schema import settled
from kalshilab.lazy import renamed
from kalshilab.tape.schema import check_markets
from kalshilab.tape.synth import Recipe, revealed
from kalshilab.tape.tape import FrameLike, FrameTape
from kalshilab.units import PRICE

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["EntryRule", "FairProfit", "FairWorld", "FairWorlds", "fair_profit", "fair_world"]

EntryRule = Callable[[pl.DataFrame, pl.DataFrame, pl.DataFrame], pl.DataFrame]
"""`(fires, tape, markets) -> entries`."""


class FairWorld(NamedTuple):
    """A tape on which no strategy has an edge, with its markets."""

    tape: pl.DataFrame
    """The recorded tape with other prices."""
    markets: pl.DataFrame
    """The recorded markets with other outcomes; every market on the tape is settled."""
    mid: npt.NDArray[np.float64]
    """Probability of YES as of each print, which is its fair price in dollars."""


class FairWorlds:
    """Fair worlds of a recorded tape, one per seed.

    Args:
        tape: prints in exchange-time order.
        markets: `kl.to_markets`; markets without prints on the tape are unchanged.
        spread_cents: difference between the price printed by a YES taker and by a NO taker, in cents.
    """

    @renamed_keywords(spread="spread_cents")
    def __init__(self, tape: FrameTape, markets: pl.DataFrame, *, spread_cents: float = 2.0) -> None:
        self._tape, self._markets, self._half = tape.frame, check_markets(markets), spread_cents / 200
        prints = tape.frame
        market = prints["market"].to_numpy()
        self._order = np.argsort(market, kind="stable")
        codes, first, self._at = np.unique(market[self._order], return_index=True, return_inverse=True)
        self._n = np.diff(np.append(first, len(market)))
        self._k = np.arange(len(market)) - first[self._at]
        self._takes_yes = (prints["taker"].cast(pl.String) == "yes").to_numpy()[self._order]
        # A market starts at its first price, corrected for the half-spread that its taker paid.
        begun = prints["price"].to_numpy()[self._order][first] / PRICE
        begun = begun - np.where(self._takes_yes[first], self._half, -self._half)
        self._begun = np.clip(begun, 0.01, 0.99)
        tickers = prints["ticker"].cast(pl.String).gather(self._order[first])
        # For each market of the table its position among those on the tape; null if it has no prints.
        places = pl.DataFrame({"ticker": tickers, "place": np.arange(len(codes))})
        self._place = markets.select("ticker").join(places, on="ticker", how="left", maintain_order="left")[
            "place"
        ]

    def world(self, seed: int) -> FairWorld:
        """Return the tape with fair prices and outcomes; the same seed gives the same world."""
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
        return FairWorld(self._tape.with_columns(pl.Series("price", price)), table, fair)


@renamed_keywords(spread="spread_cents")
def fair_world(
    tape: FrameLike, markets: pl.DataFrame, *, seed: int = 0, spread_cents: float = 2.0
) -> FairWorld:
    """Return one fair world of a tape: `FairWorlds(tape, markets, spread_cents=spread_cents).world(seed)`.

    Args:
        tape: prints in exchange-time order.
        markets: `kl.to_markets`.
        seed: the same seed gives the same world.
        spread_cents: difference between the price printed by a YES taker and by a NO taker, in cents.

    >>> import kalshilab as kl
    >>> made = fair_world(*kl.sample(), seed=3)
    >>> made.tape["ts"].equals(kl.sample()[0]["ts"]), len(made.mid) == made.tape.height
    (True, True)
    """
    return FairWorlds(FrameTape.whole(tape), markets, spread_cents=spread_cents).world(seed)


class FairProfit(msgspec.Struct, frozen=True):
    """Profit in some fair worlds, in dollars per fire."""

    edge: float
    """Mean profit."""
    se: float
    """Its standard error, over events."""
    fair: float
    """Standard error of bets at these prices on a fair market; a few favourites that all won have a smaller `se`."""
    n: int
    """Number of fires."""
    clusters: int
    """Number of events, over all worlds."""
    frame: pl.DataFrame
    """One row per world: `seed, n, n_events, edge` (cents)."""

    @property
    def summary(self) -> str:
        """Edge, standard error and sample size, for `Audit.detail`."""
        worlds = self.frame.height
        return f"{100 * self.edge:+.2f} c (s.e. {100 * self.se:.2f}) over {self.n:,} fires in {worlds} fair worlds"


def fair_profit(
    audited: AuditedStrategy, worlds: FairWorlds, seeds: range, entry: EntryRule | None
) -> tuple[FairProfit | None, str]:
    """Return the profit of a strategy in fair worlds; None and the reason if it asks for a withheld column.

    Args:
        audited: the strategy.
        worlds: the fair worlds of its tape.
        seeds: one seed per world.
        entry: a custom entry rule; None: the first fire of each market is entered at the mid, without costs.

    Raises:
        EdgeError: the strategy raised an exception.
    """
    sums: list[npt.NDArray[np.float64]] = []
    rows = []
    fired, variance = 0, 0.0
    for number in seeds:
        world = worlds.world(number)
        fires, refusal = fires_of(audited, FrameTape(world.tape), world.markets)
        if fires is None:
            return None, refusal
        if entry is None:
            known = _at_mid(fires, world.mid, world.markets)
        else:
            known = settled(entry(fires, world.tape, world.markets))
        # Sums, not means: the number of an event's markets that fire depends on the path, and a mean over such a number is
        # biased even where each market is fair.
        events = known.group_by("event").agg(pl.col("pnl").sum()).sort("event")["pnl"].to_numpy()
        fired += known.height
        filled = known.filter("filled") if "filled" in known.columns else known
        variance += float((filled["mid"] * (1 - filled["mid"])).sum())
        sums.append(events)
        edge_cents = 100 * float(events.sum()) / known.height if known.height else None
        rows.append((number, known.height, len(events), edge_cents))
    schema = {"seed": pl.Int64, "n": pl.Int64, "n_events": pl.Int64, "edge": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    pooled = np.concatenate(sums)
    if not fired:
        return FairProfit(0.0, 0.0, 0.0, 0, 0, frame), ""
    se, fair = float(np.sqrt((pooled**2).sum())) / fired, float(np.sqrt(variance)) / fired
    return FairProfit(float(pooled.sum()) / fired, se, fair, fired, len(pooled), frame), ""


def _at_mid(fires: pl.DataFrame, mid: npt.NDArray[np.float64], markets: pl.DataFrame) -> pl.DataFrame:
    """Enter the first fire of each market at the mid: `event, mid, pnl` (dollars)."""
    first = fires.unique("ticker", keep="first", maintain_order=True)
    facts = markets.select("ticker", "event", "settlement").filter(pl.col("settlement").is_not_null())
    entered = first.select("ticker", "side", mid=pl.Series(mid).gather(first["row"])).join(
        facts, on="ticker", how="inner", maintain_order="left"
    )
    profit = pl.col("settlement").cast(pl.Float64) / PRICE - pl.col("mid")
    ours = pl.when(pl.col("side").cast(pl.String) == "yes").then(profit).otherwise(-profit)
    return entered.select("event", "mid", ours.alias("pnl"))
