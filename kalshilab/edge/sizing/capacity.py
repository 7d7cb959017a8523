"""Capacity of an edge: the volume that an order book offers, and the volume that the tape shows was bought.

**A book** offers contracts at rising prices. They are worth taking while the *next* one, fee included, costs no more
than p less a hurdle. Half of the displayed size is assumed to be gone when the order arrives (`haircut`).

**A tape** shows what takers of our side bought after each signal. A fraction of that volume could have been ours at
those prices. Beyond a tenth, our own orders would move the price, which no tape can show. Two readings of the same
fraction q bound the price:

* *first come*: the first contracts of the window, until a fraction q of its volume is bought. The price rises with q
  if the edge decays while the market adjusts.
* *spread out*: a fraction q of each print, at the mean price of the whole window, which is the same for each q.

Both are upper bounds of capacity, because they assume that the other takers would have made room.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.schema import DAY, Floats, Integers, check_entries
from kalshilab.errors import EdgeError
from kalshilab.market.fees import trade_fee
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.tape import Tape, TapeLike
from kalshilab.units import PRICE, SIZE

__all__ = ["BookCapacity", "TapeCapacity", "book_capacity", "taker_fee", "tape_capacity"]

Fee = Callable[[Floats], Floats]

_LOT: Final = 100_000
"""Contracts in an order so large that rounding does not show in its fee."""
_COLUMNS: Final = ("ts", "market", "price", "size", "taker")
_SHARES: Final = np.arange(1, 101) / 100


def taker_fee(prices: npt.ArrayLike) -> Floats:
    """Return the taker fee in dollars per contract, for orders so large that rounding does not show.

    Args:
        prices: dollars per contract.

    >>> taker_fee([0.5, 0.97]).round(6).tolist()
    [0.0175, 0.002037]
    """
    units = np.clip(np.rint(np.atleast_1d(np.asarray(prices, np.float64)) * PRICE), 0, PRICE).astype(np.int64)
    distinct, inverse = np.unique(units, return_inverse=True)
    fees = np.array([trade_fee(int(price), _LOT * SIZE) for price in distinct], np.float64)
    return fees[inverse] / (_LOT * 1_000_000)


class BookCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity of one side of an order book."""

    contracts: float
    """Contracts worth taking."""
    vwap: float
    """Their mean price in dollars; NaN if there are no such contracts."""
    edge: float
    """Their mean net edge in cents per contract; NaN if there are no such contracts."""
    dollars: float
    """Their total net edge in dollars."""
    half_edge: float | None
    """Contracts at which the mean edge is half that of the first one; None if the book ends before, or has no edge."""
    frame: pl.DataFrame
    """One row per level.

    Columns: `price` (dollars), `contracts` (cumulative), `vwap` (dollars, cumulative), `marginal` (net edge of this
    level, cents per contract), `edge` (mean net edge so far, cents per contract), `dollars` (net edge so far).
    """

    def __repr__(self) -> str:
        return f"<BookCapacity {self.contracts:,.0f} contracts at {self.edge:+.2f} c: ${self.dollars:,.2f}>"


@renamed_keywords(hurdle="hurdle_cents")
def book_capacity(
    prices: npt.ArrayLike,
    sizes: npt.ArrayLike,
    p: float,
    *,
    hurdle_cents: float = 0.0,
    haircut: float = 0.5,
    fee: Fee = taker_fee,
) -> BookCapacity:
    """Return the contracts that are worth taking: each costs at most p less the hurdle, fee included.

    Args:
        prices: our side's asks in dollars, cheapest first (for NO, one dollar less the YES bids).
        sizes: contracts displayed at each price.
        p: probability that our side pays.
        hurdle_cents: smallest acceptable net edge, in cents per contract.
        haircut: fraction of the displayed size that is assumed to be gone, 0 <= haircut < 1.
        fee: function of prices in dollars that returns fees in dollars per contract.

    >>> book_capacity([0.70, 0.72, 0.76], [100, 200, 500], 0.75)
    <BookCapacity 150 contracts at +2.24 c: $3.35>

    Raises:
        EdgeError: prices do not rise or do not lie between 0 and 1, a size is negative, or `p` or `haircut` is out
            of range.
    """
    price, size = (np.atleast_1d(np.asarray(v, np.float64)) for v in (prices, sizes))
    if price.shape != size.shape or (np.diff(price) <= 0).any() or not ((price > 0) & (price < 1)).all():
        raise EdgeError(
            f"prices must be dollars between 0 and 1 in rising order, with one size each, got {price} and sizes {size}"
        )
    if not (size >= 0).all():
        raise EdgeError(f"sizes must be at least 0 contracts, got {size.min()}")
    if not 0 <= haircut < 1:
        raise EdgeError(f"haircut must be a fraction with 0 <= haircut < 1, got {haircut}")
    if not 0 <= p <= 1:
        raise EdgeError(f"p must be a probability, got {p}")
    size = size * (1 - haircut)
    marginal = p - price - fee(price)
    contracts, gains = np.cumsum(size), np.cumsum(size * marginal)
    take = marginal >= hurdle_cents / 100 - 1e-12
    # Fees fall towards a dollar, but never as fast as the price rises: a dearer level is never better.
    levels = int(take.sum()) if take.all() else int(np.argmin(take))
    n = float(contracts[levels - 1]) if levels else 0.0
    dollars = float(gains[levels - 1]) if levels else 0.0
    with np.errstate(invalid="ignore", divide="ignore"):
        frame = pl.DataFrame(
            {
                "price": price,
                "contracts": contracts,
                "vwap": np.cumsum(size * price) / contracts,
                "marginal": 100 * marginal,
                "edge": 100 * gains / contracts,
                "dollars": gains,
            }
        )
    return BookCapacity(
        contracts=n,
        vwap=float(frame["vwap"][levels - 1]) if n else math.nan,
        edge=100 * dollars / n if n else math.nan,
        dollars=dollars,
        half_edge=_half_edge(contracts, gains, marginal, size),
        frame=frame,
    )


def _half_edge(contracts: Floats, gains: Floats, marginal: Floats, size: Floats) -> float | None:
    """Return the contracts at which the mean edge, gains / contracts, is half of the first level's edge."""
    offered = np.flatnonzero(size > 0)
    if not len(offered) or marginal[offered[0]] <= 0:
        return None
    half = float(marginal[offered[0]]) / 2
    below = np.flatnonzero((contracts > 0) & (gains <= half * contracts))
    if not len(below):
        return None
    j = below[0]
    before, gain_before = contracts[j] - size[j], gains[j] - size[j] * marginal[j]
    return float((gain_before - marginal[j] * before) / (half - marginal[j]))


class TapeCapacity(msgspec.Struct, frozen=True, kw_only=True):
    """Capacity of a signal as measured on a tape."""

    frame: pl.DataFrame
    """One row per participation.

    Columns: `participation` (fraction), `fires`, `contracts` (mean per signal), `outlay` (dollars per day), `edge` and
    `edge_spread` (net cents per contract, first come and spread out), `dollars` and `dollars_spread` (net dollars per
    day, first come and spread out).
    """
    volume: float
    """Median volume that takers of our side bought after a signal, in contracts."""
    half_edge: float | None
    """Mean contracts per signal at which the edge is half that of the first contract.

    None if the tape ends before, or there is no edge.
    """
    fires: int
    """Signals whose profit is known, unfilled ones included."""
    unsettled: int
    """Signals that were left out because their profit is not known."""
    days: int
    """Days from the first signal to the last, inclusive."""
    window_s: float
    """Length of the window after each signal, in seconds."""

    @property
    def window(self) -> float:
        """Deprecated name of `window_s`."""
        warnings.warn("TapeCapacity.window is now window_s", DeprecationWarning, stacklevel=2)
        return self.window_s

    def dollars_a_day(self, participation: float = 0.10) -> float:
        """Return net dollars per day at one of the participations, by the less favourable of the two readings."""
        row = self.frame.filter((pl.col("participation") - participation).abs() < 1e-9)
        if row.is_empty():
            raise EdgeError(
                f"participation must be one of {self.frame['participation'].to_list()}, got {participation}"
            )
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
    """Measure the volume that takers of our side bought after each signal, and the profit of fractions of it.

    Args:
        entries: entries (`kalshilab.edge.ENTRIES_SCHEMA`).
        tape: the tape that the signals fired on: a frame (polars or pandas), or a lake or tape file, which is read
            once and in batches.
        window_s: length of the window in seconds, above 0. Prints in (signal + latency, signal + latency + window]
            count.
        latency_s: seconds from the signal until an order could arrive, at least 0.
        participation: fractions of that volume, each above 0 and at most 1.
        fee: function of prices in dollars that returns fees in dollars per contract.

    Raises:
        EdgeError: `entries` is not a table of entries, or an argument is out of range.
        TapeError: `tape` is not a tape.
        LakeError: the lake is damaged.
    """
    check_entries(entries)
    shares = np.asarray(participation, np.float64)
    if not (len(shares) and ((shares > 0) & (shares <= 1)).all()):
        raise EdgeError(f"participation must hold fractions above 0 and at most 1, got {participation}")
    if not window_s > 0:
        raise EdgeError(f"window_s must be above 0 seconds, got {window_s}")
    if not latency_s >= 0:
        raise EdgeError(f"latency_s must be at least 0 seconds, got {latency_s}")
    # An unfilled signal counts as a signal, but if its market has not settled, no volume is assigned to it.
    known = entries.filter(pl.col("value").is_not_null() | ~pl.col("filled"))
    begin = known["ts"].dt.epoch("us") + round(latency_s * 1e6)
    windows = known.select("ticker", "side", begin=begin, stop=begin + round(window_s * 1e6))
    first, last, contracts_total, dollars_total, opening = _volume_in(windows, tape_of(tape))
    value = known["value"].to_numpy()
    size = np.where(np.isnan(value), 0.0, contracts_total[last] - contracts_total[first])
    value = np.where(np.isnan(value), 0.0, value)
    fires = len(known)
    stamps = known["ts"].dt.epoch("us").to_numpy() // DAY
    days = int(stamps.max() - stamps.min()) + 1 if fires else 0

    def earned(price: Floats, contracts: Floats) -> float:
        """Return the net dollars of these contracts at these mean prices."""
        traded = contracts > 0
        return float((contracts * (value - price - fee(price)))[traded].sum())

    def first_come(q: float) -> tuple[float, Floats]:
        contracts = q * size
        cash = np.interp(contracts_total[first] + contracts, contracts_total, dollars_total)
        cash = cash - dollars_total[first]
        price = cash / np.where(contracts > 0, contracts, 1.0)
        return earned(price, contracts), cash

    window_vwap = (dollars_total[last] - dollars_total[first]) / np.where(size > 0, size, 1.0)
    total = float(size.sum())
    rows = []
    for q in shares:
        dollars, cash = first_come(float(q))
        spread = earned(window_vwap, q * size)
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
    halved = np.flatnonzero(curve <= start / 2)
    return TapeCapacity(
        frame=pl.DataFrame(rows, names, orient="row"),
        volume=float(np.median(size)) if fires else math.nan,
        half_edge=float(_SHARES[halved[0]]) * total / fires if start > 0 and len(halved) else None,
        fires=fires,
        unsettled=len(entries) - fires,
        days=days,
        window_s=window_s,
    )


def _volume_in(windows: pl.DataFrame, tape: Tape) -> tuple[Integers, Integers, Floats, Floats, Floats]:
    """Locate the prints of each window in running totals over all relevant prints.

    Args:
        windows: columns `ticker, side, begin, stop` (microseconds since 1970).
        tape: the tape.

    Returns:
        `first` and `last` (positions of each window in the totals), the running totals of contracts and of dollars,
        and the first price in each window. A window's contracts are `total[last] - total[first]`: the totals start
        with a zero before the first print.
    """
    windows = windows.with_row_index("window").with_columns(key=pl.struct("ticker", "side").rank("dense") - 1)
    begins = windows.select("ticker", "side", "begin", "stop").unique().sort("begin")
    parts = []
    for prints in _prints(tape):
        near = prints.join(begins, on=["ticker", "side"], how="semi").sort("at", maintain_order=True)
        # Windows are equally long, so the one that began last ends last: a print is in that window or in no window.
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
    keys = windows.select("ticker", "side", "key").unique()
    prints = pl.concat(parts) if parts else pl.DataFrame()
    first, last = np.zeros(len(windows), np.int64), np.zeros(len(windows), np.int64)
    if prints.is_empty():
        return first, last, np.zeros(1), np.zeros(1), np.zeros(len(windows))
    prints = prints.join(keys, on=["ticker", "side"], how="left", maintain_order="left")
    prints = prints.sort("key", "at", maintain_order=True)
    at, price, size = (prints[name].to_numpy() for name in ("at", "price", "size"))
    edges = np.searchsorted(prints["key"].to_numpy(), np.arange(int(windows["key"].max() or 0) + 2))  # type: ignore[arg-type]
    for i, (key, begin, stop) in enumerate(windows.select("key", "begin", "stop").iter_rows()):
        low, high = edges[key], edges[key + 1]
        first[i] = low + np.searchsorted(at[low:high], begin, side="right")
        last[i] = low + np.searchsorted(at[low:high], stop, side="right")
    opening = price[np.minimum(first, len(price) - 1)]
    return first, last, np.r_[0.0, np.cumsum(size)], np.r_[0.0, np.cumsum(size * price)], opening


def _prints(tape: Tape) -> Iterator[pl.DataFrame]:
    """Yield the tape in batches.

    Columns: `ticker`, `side` (of the taker), `at` (microseconds since 1970), `price` (dollars of the taker's side),
    `size` (contracts).
    """
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
