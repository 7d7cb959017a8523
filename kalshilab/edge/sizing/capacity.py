"""How much money an edge takes: what a book offers, and what the tape shows could have been bought.

**A book** offers contracts at rising prices.  They are worth taking while the *next* one, with its fee, costs no more
than p less a hurdle; half of what is displayed is taken to be gone when one gets there (`haircut`).

**A tape** shows what takers of our side bought in the time after each fire.  A share of that volume could have been
ours, at those prices, had we been in their place; beyond a tenth our own orders would move the price, of which no
tape tells.  Two readings of the same share q bound the price:

* *first come*: the first contracts of the window, until q of its volume is bought; the price rises with q if the edge
  decays as the market comes round;
* *spread out*: q of each print, at the mean price of the whole window, the same for each q.

Either is taken as an upper bound of capacity: those who bought are assumed to make room.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import DAY, check_entries
from kalshilab.errors import EdgeError
from kalshilab.market.fees import trade_fee
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import Tape, TapeLike
from kalshilab.units import PRICE, SIZE

__all__ = ["BookCapacity", "TapeCapacity", "book_capacity", "taker_fee", "tape_capacity"]

Floats = npt.NDArray[np.float64]
Fee = Callable[[Floats], Floats]

_LOT: Final = 100_000
"""Contracts of an order so large that rounding does not show in its fee."""
_COLUMNS: Final = ("ts", "market", "price", "size", "taker")
_SHARES: Final = np.arange(1, 101) / 100


def taker_fee(prices: npt.ArrayLike) -> Floats:
    """What a taker pays a contract at these prices, in dollars, for orders so large that rounding does not show.

    >>> taker_fee([0.5, 0.97]).round(6).tolist()
    [0.0175, 0.002037]
    """
    units = np.clip(np.rint(np.atleast_1d(np.asarray(prices, np.float64)) * PRICE), 0, PRICE).astype(np.int64)
    distinct, where = np.unique(units, return_inverse=True)
    fees = np.array([trade_fee(int(price), _LOT * SIZE) for price in distinct], np.float64)
    return fees[where] / (_LOT * 1_000_000)


class BookCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """What a book takes."""

    contracts: float
    """Contracts worth taking."""
    vwap: float
    """Their mean price, dollars; NaN without any."""
    edge: float
    """Their mean net edge, cents a contract; NaN without any."""
    dollars: float
    """Their whole net edge."""
    half_edge: float | None
    """Contracts at which the mean edge is half that of the first; None if the book ends before, or has no edge."""
    frame: pl.DataFrame
    """A row a level: `price, contracts` (so far), `vwap, marginal` and `edge` (cents: of this level, and the mean so
    far), `dollars` (so far)."""

    def __repr__(self) -> str:
        return f"<BookCapacity {self.contracts:,.0f} contracts at {self.edge:+.2f} c: ${self.dollars:,.2f}>"


def book_capacity(
    prices: npt.ArrayLike,
    sizes: npt.ArrayLike,
    p: float,
    *,
    hurdle: float = 0.0,
    haircut: float = 0.5,
    fee: Fee = taker_fee,
) -> BookCapacity:
    """Contracts until the next one costs more than p less the hurdle.

    Args:
        prices: our side's asks in dollars, cheapest first (for NO, a dollar less the YES bids).
        sizes: contracts displayed at each.
        p: the chance that our side pays.
        hurdle: cents a contract that are wanted at least.
        haircut: share of what is displayed that is not counted on.
        fee: dollars a contract at prices in dollars.

    >>> book_capacity([0.70, 0.72, 0.76], [100, 200, 500], 0.75)
    <BookCapacity 150 contracts at +2.24 c: $3.35>

    Raises:
        EdgeError: prices that do not rise or are no dollars, sizes below 0, shares that are none.
    """
    price, size = (np.atleast_1d(np.asarray(v, np.float64)) for v in (prices, sizes))
    if price.shape != size.shape or (np.diff(price) <= 0).any() or not ((price > 0) & (price < 1)).all():
        raise EdgeError("a book's side: prices in dollars, cheapest first, with a size each")
    if not ((size >= 0).all() and 0 <= haircut < 1 and 0 <= p <= 1):
        raise EdgeError(f"book_capacity({p=}, {haircut=}): sizes from 0, a probability, a share below 1")
    size = size * (1 - haircut)
    marginal = p - price - fee(price)
    held, gained = np.cumsum(size), np.cumsum(size * marginal)
    take = marginal >= hurdle / 100 - 1e-12
    # Fees fall towards a dollar, but never as fast as the price rises: what is dearer is never better.
    levels = int(take.sum()) if take.all() else int(np.argmin(take))
    n = float(held[levels - 1]) if levels else 0.0
    dollars = float(gained[levels - 1]) if levels else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        frame = pl.DataFrame(
            {
                "price": price,
                "contracts": held,
                "vwap": np.cumsum(size * price) / held,
                "marginal": 100 * marginal,
                "edge": 100 * gained / held,
                "dollars": gained,
            }
        )
    return BookCapacity(
        contracts=n,
        vwap=float(frame["vwap"][levels - 1]) if n else math.nan,
        edge=100 * dollars / n if n else math.nan,
        dollars=dollars,
        half_edge=_half(held, gained, marginal, size),
        frame=frame,
    )


def _half(held: Floats, gained: Floats, marginal: Floats, size: Floats) -> float | None:
    """Where the mean edge, gained / held, has fallen to half of the first level's."""
    offered = np.flatnonzero(size > 0)
    if not len(offered) or marginal[offered[0]] <= 0:
        return None
    half = float(marginal[offered[0]]) / 2
    below = np.flatnonzero((held > 0) & (gained <= half * held))
    if not len(below):
        return None
    j = below[0]
    before, earned = (held[j] - size[j]), gained[j] - size[j] * marginal[j]
    return float((earned - marginal[j] * before) / (half - marginal[j]))


class TapeCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """What the tape takes."""

    frame: pl.DataFrame
    """A row a participation: `participation, fires, contracts` (mean a fire), `outlay` ($ a day), `edge` (net cents a
    contract, first come), `edge_spread` (spread out), `dollars` ($ a day, first come), `dollars_spread`."""
    volume: float
    """Median of what our side's takers bought after a fire, contracts."""
    half_edge: float | None
    """Contracts a fire (mean) at which the edge is half that of the first; None if the tape ends before, or there is
    no edge."""
    fires: int
    """Fires whose profit is known, unfilled ones too."""
    unsettled: int
    """Fires left out because theirs is not."""
    days: int
    """From the first fire's to the last's, both counted."""
    window: float
    """Seconds."""

    def dollars_a_day(self, participation: float = 0.10) -> float:
        """At one of the participations, by the less favourable of the two readings."""
        row = self.frame.filter((pl.col("participation") - participation).abs() < 1e-9)
        if row.is_empty():
            raise EdgeError(f"{participation}: not among {self.frame['participation'].to_list()}")
        return float(min(row["dollars"][0], row["dollars_spread"][0]))

    def __repr__(self) -> str:
        tenth = self.frame.row(len(self.frame) // 2, named=True)
        return (
            f"<TapeCapacity at {tenth['participation']:.0%} of the flow: {tenth['contracts']:,.1f} contracts a fire, "
            f"{tenth['edge']:+.2f} c, ${tenth['dollars']:,.2f} a day>"
        )


@renamed_keywords(window="window_s", latency="latency_s")
def tape_capacity(
    entries: pl.DataFrame,
    tape: TapeLike,
    *,
    window_s: float = 1800.0,
    latency_s: float = 2.0,
    participation: Sequence[float] = (0.05, 0.10, 0.20),
    fee: Fee = taker_fee,
) -> TapeCapacity:
    """Shares of what takers of our side bought after each fire, and what these would have earned.

    Args:
        entries: `kalshilab.edge.ENTRIES_SCHEMA`.
        tape: the tape they fired on: a frame, or a lake or tape file, which is read once and piece by piece.
        window_s: seconds; prints later than fire + latency and not later than fire + latency + window count.
        latency_s: seconds.
        participation: shares of that volume.
        fee: dollars a contract at prices in dollars.

    Raises:
        EdgeError: these are no entries; shares that are none; a time below 0.
        TapeError: not a tape.
        LakeError: the lake is damaged.
    """
    check_entries(entries)
    shares = np.asarray(participation, np.float64)
    if not (len(shares) and ((shares > 0) & (shares <= 1)).all() and window_s > 0 and latency_s >= 0):
        raise EdgeError(
            f"tape_capacity({participation=}, {window_s=}, {latency_s=}): shares above 0, at most 1; seconds"
        )
    # A fire without a fill counts as one; if its market has not settled, nothing is bought at it here.
    known = entries.filter(pl.col("value").is_not_null() | ~pl.col("filled"))
    begin = known["ts"].dt.epoch("us") + round(latency_s * 1e6)
    spans = known.select("ticker", "side", begin=begin, stop=begin + round(window_s * 1e6))
    first, last, bought, paid, opening = _bought(spans, tape_of(tape))
    value = known["value"].to_numpy()
    size = np.where(np.isnan(value), 0.0, bought[last] - bought[first])
    value = np.where(np.isnan(value), 0.0, value)
    fires = len(known)
    stamps = known["ts"].dt.epoch("us").to_numpy() // DAY
    days = int(stamps.max() - stamps.min()) + 1 if fires else 0

    def earned(price: Floats, contracts: Floats) -> float:
        """Net dollars of so many contracts at these mean prices."""
        have = contracts > 0
        return float((contracts * (value - price - fee(price)))[have].sum())

    def first_come(q: float) -> tuple[float, Floats]:
        contracts = q * size
        cash = np.interp(bought[first] + contracts, bought, paid) - paid[first]
        price = cash / np.where(contracts > 0, contracts, 1.0)
        return earned(price, contracts), cash

    whole = (paid[last] - paid[first]) / np.where(size > 0, size, 1.0)
    total = float(size.sum())
    rows = []
    for q in shares:
        dollars, cash = first_come(float(q))
        spread = earned(whole, q * size)
        n = q * total
        rows.append(
            (
                float(q),
                fires,
                n / fires if fires else math.nan,
                float(cash[size > 0].sum()) / days if days else math.nan,
                100 * dollars / n if n else math.nan,
                100 * spread / n if n else math.nan,
                dollars / days if days else math.nan,
                spread / days if days else math.nan,
            )
        )
    names = [
        "participation",
        "fires",
        "contracts",
        "outlay",
        "edge",
        "edge_spread",
        "dollars",
        "dollars_spread",
    ]
    curve = (
        np.array([first_come(float(q))[0] / (q * total) for q in _SHARES])
        if total
        else np.zeros(len(_SHARES))
    )
    start = earned(opening, size) / total if total else 0.0
    fallen = np.flatnonzero(curve <= start / 2)
    return TapeCapacity(
        frame=pl.DataFrame(rows, names, orient="row"),
        volume=float(np.median(size)) if fires else math.nan,
        half_edge=float(_SHARES[fallen[0]]) * total / fires if start > 0 and len(fallen) else None,
        fires=fires,
        unsettled=len(entries) - fires,
        days=days,
        window=window_s,
    )


def _bought(
    spans: pl.DataFrame, tape: Tape
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats, Floats, Floats]:
    """For each span the positions of its prints in running totals of contracts and dollars, and its first price.

    A span's contracts are `bought[last] - bought[first]`: the totals have a zero before the first print.
    """
    spans = spans.with_row_index("span").with_columns(key=pl.struct("ticker", "side").rank("dense") - 1)
    begins = spans.select("ticker", "side", "begin", "stop").unique().sort("begin")
    parts = []
    for prints in _prints(tape):
        near = prints.join(begins, on=["ticker", "side"], how="semi").sort("at", maintain_order=True)
        # Of several spans the one that began last ends last: in it, or in none.
        near = near.join_asof(
            begins,
            left_on="at",
            right_on="begin",
            by=["ticker", "side"],
            allow_exact_matches=False,
            check_sortedness=False,
        )
        parts.append(
            near.filter(pl.col("at") <= pl.col("stop")).select("ticker", "side", "at", "price", "size")
        )
    keys = spans.select("ticker", "side", "key").unique()
    prints = pl.concat(parts) if parts else pl.DataFrame()
    first, last = np.zeros(len(spans), np.int64), np.zeros(len(spans), np.int64)
    if prints.is_empty():
        return first, last, np.zeros(1), np.zeros(1), np.zeros(len(spans))
    prints = prints.join(keys, on=["ticker", "side"], how="left", maintain_order="left")
    prints = prints.sort("key", "at", maintain_order=True)
    at, price, size = (prints[name].to_numpy() for name in ("at", "price", "size"))
    edges = np.searchsorted(prints["key"].to_numpy(), np.arange(int(spans["key"].max() or 0) + 2))  # type: ignore[arg-type]
    for i, (key, begin, stop) in enumerate(spans.select("key", "begin", "stop").iter_rows()):
        low, high = edges[key], edges[key + 1]
        first[i] = low + np.searchsorted(at[low:high], begin, side="right")
        last[i] = low + np.searchsorted(at[low:high], stop, side="right")
    opening = price[np.minimum(first, len(price) - 1)]
    return first, last, np.r_[0.0, np.cumsum(size)], np.r_[0.0, np.cumsum(size * price)], opening


def _prints(tape: Tape) -> Iterator[pl.DataFrame]:
    """The tape piece by piece: `ticker, side, at` (microseconds), `price` (dollars of the taker's side), `size`."""
    side = pl.col("taker").alias("side")
    price = (
        pl.when(pl.col("taker").cast(pl.String) == "yes").then("price").otherwise(PRICE - pl.col("price"))
        / PRICE
    )
    columns = (
        "ticker",
        side,
        pl.col("ts").dt.epoch("us").alias("at"),
        price.alias("price"),
        pl.col("size") / SIZE,
    )
    tickers = tape.tickers.cast(pl.String)
    for batch in tape.batches(_COLUMNS):
        named = batch.frame.with_columns(ticker=tickers.gather(batch.frame["market"]))
        yield named.select(columns)
