"""Entries from a recorded order book (E4): walk the levels that a taker's order would have met.

**Quotes** are the changes of a book, one row per level that changed:

========== ================= ==================================================================
column     dtype             meaning
========== ================= ==================================================================
ts         Datetime[us, UTC] time of the change; rows of one instant keep the exchange's order
ticker     String            market
side       Enum[yes, no]     side of the bid; an ask is a bid for the other side
price      Int16             price of that side, 1/10,000 dollar, 1 to 9,999
size       UInt32            size bid at that price from then on, 1/100 contract; 0: the level is empty
========== ================= ==================================================================

`QuoteLog` builds them from the snapshots and changes of a feed. When a feed disconnects, `QuoteLog.lost` empties the
market's book, so that nothing is bought from a book that may no longer exist.

**The walk.** An order of q contracts that arrives at τ + latency takes our side's asks, `1 − bid` of the other side,
cheapest first. It uses the book as of that instant, inclusive of changes at that instant, until it has q contracts, the
limit is reached or the book is exhausted; the rest is cancelled (immediate or cancel). Three rules keep it conservative:
only part of the displayed size is assumed available (`haircut`), in whole contracts; size taken earlier from a level
stays taken until the level itself disappears; and a book without a snapshot offers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.errors import EdgeError
from kalshilab.market.book import Book
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.units import PRICE, SIZE

__all__ = ["QUOTES_SCHEMA", "BookFills", "QuoteLog", "asked", "check_quotes", "mids", "tops"]

_QUOTES: Final[dict[str, PolarsDataType]] = {
    "ts": TIME,
    "ticker": pl.String,
    "side": TAKER,
    "price": pl.Int16,
    "size": pl.UInt32,
}
QUOTES_SCHEMA: Final = pl.Schema(_QUOTES)
"""Columns and dtypes of quotes."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Level = tuple[int, int]


class QuoteLog:
    """A log of quotes, built from the messages of a book feed.

    Times are in microseconds. A message older than its market's previous one is logged at the time of that one: the order
    in which the exchange sent messages prevails.

    >>> log = QuoteLog()
    >>> log.snapshot(1_000_000, "KXA-1", yes=[(4100, 1000)], no=[(5600, 1700), (5500, 300)])
    >>> log.change(2_000_000, "KXA-1", "no", 5600, -1700)
    >>> log.frame().select("side", "price", "size").rows()
    [('yes', 4100, 1000), ('no', 5600, 1700), ('no', 5500, 300), ('no', 5600, 0)]
    """

    def __init__(self) -> None:
        self._books: dict[str, Book] = {}
        self._last: dict[str, int] = {}
        self._rows: list[tuple[int, str, str, int, int]] = []

    def snapshot(self, ts: int, ticker: str, yes: Iterable[Level], no: Iterable[Level]) -> None:
        """Log the differences between a snapshot and the book so far.

        Args:
            ts: exchange time in microseconds.
            ticker: market.
            yes: (price, size) of each YES bid, in 1/10,000 dollar and 1/100 contract.
            no: (price, size) of each NO bid, in NO prices.

        Raises:
            BookError: a price or size is out of range.
        """
        fresh = Book()
        fresh.load(yes, no)
        before = self._books.get(ticker, Book())
        ts = self._at(ts, ticker)
        for side in ("yes", "no"):
            old, new = dict(before.levels(side)), dict(fresh.levels(side))
            changed = [p for p in old | new if old.get(p, 0) != new.get(p, 0)]
            self._rows += [(ts, ticker, side, p, new.get(p, 0)) for p in changed]
        self._books[ticker] = fresh

    def change(self, ts: int, ticker: str, side: str, price: int, delta: int) -> None:
        """Log a change of one level of `side`'s bids by `delta`, in 1/100 contract.

        Raises:
            BookError: the level would fall below zero, so a message is missing.
            EdgeError: the market has no snapshot yet.
        """
        book = self._books.get(ticker)
        if book is None:
            raise EdgeError(f"{ticker}: a book change must follow a snapshot; call snapshot() first")
        book.apply(side, price, delta)
        self._rows.append((self._at(ts, ticker), ticker, side, price, book.size_at(side, price)))

    def lost(self, ts: int, ticker: str) -> None:
        """Mark a book as unknown from `ts` on, until its next snapshot."""
        if ticker in self._books:
            self.snapshot(ts, ticker, (), ())
            del self._books[ticker]

    def _at(self, ts: int, ticker: str) -> int:
        self._last[ticker] = max(ts, self._last.get(ticker, ts))
        return self._last[ticker]

    def frame(self) -> pl.DataFrame:
        """Return the logged quotes in the order of time (`QUOTES_SCHEMA`)."""
        rows = pl.DataFrame(
            self._rows,
            {"ts": pl.Int64, "ticker": pl.String, "side": TAKER, "price": pl.Int16, "size": pl.UInt32},
            orient="row",
        )
        return rows.with_columns(pl.col("ts").cast(TIME)).sort("ts", maintain_order=True)

    def __repr__(self) -> str:
        return f"<QuoteLog {len(self._rows):,} changes of {len(self._last):,} books>"


def check_quotes(quotes: pl.DataFrame) -> pl.DataFrame:
    """Return the frame if it holds quotes.

    Raises:
        EdgeError: a column is missing or of another dtype, a value is null, a price is out of range, or times go back.
    """
    for name, dtype in QUOTES_SCHEMA.items():
        if quotes.schema.get(name) != dtype:
            raise EdgeError(
                f"quotes: column {name} must be {dtype}, got {quotes.schema.get(name, 'missing')}; "
                "kalshilab.edge.entries.book_taker.QuoteLog builds quotes from a feed"
            )
        if quotes[name].null_count():
            raise EdgeError(f"quotes: column {name} must not have nulls")
    if quotes.height and not quotes["price"].is_between(1, PRICE - 1).all():
        raise EdgeError(f"quotes: price must be from 1 to {PRICE - 1:,} in 1/10,000 dollar")
    if not quotes["ts"].is_sorted():
        raise EdgeError(
            "quotes: ts must not decrease; sort by ts and keep the order of rows with the same ts"
        )
    return quotes


class BookFills(NamedTuple):
    """Fills of orders: arrays of one length, zeros where an order got nothing."""

    ts: Ints
    """Arrival time of the order in microseconds."""
    price: Floats
    """Mean price of our side over the contracts bought, in 1/10,000 dollar."""
    contracts: Ints
    """Contracts bought; the rest of the order is cancelled."""


def asked(
    fires: pl.DataFrame,
    start: Ints,
    quotes: pl.DataFrame,
    *,
    contracts: int = 10,
    haircut: float = 0.5,
    limit: npt.ArrayLike = PRICE,
) -> BookFills:
    """Fill orders from the recorded books; each order finds what earlier ones left.

    Args:
        fires: `ticker, side` to buy.
        start: arrival time of each order in microseconds, inclusive of book changes at that time.
        quotes: `QUOTES_SCHEMA`.
        contracts: size of each order in contracts.
        haircut: fraction of the displayed size assumed unavailable, from 0 to below 1.
        limit: highest price of our side in 1/10,000 dollar, one for all orders or one each.

    >>> log = QuoteLog()
    >>> log.snapshot(0, "KXA-1", yes=[(4100, 1000), (4000, 5000)], no=[])
    >>> fires = pl.DataFrame({"ticker": ["KXA-1"], "side": ["no"]})
    >>> got = asked(fires, np.array([5]), log.frame(), contracts=10)
    >>> got.price.tolist(), got.contracts.tolist()  # five at 59 cents, five at 60
    ([5950.0], [10])

    Raises:
        EdgeError: `quotes` are malformed, or `contracts` or `haircut` is out of range.
    """
    if contracts < 1 or not 0 <= haircut < 1:
        raise EdgeError(f"contracts must be >= 1 and haircut from 0 to below 1, got {contracts=}, {haircut=}")
    across = pl.when(pl.col("side").cast(pl.String) == "yes").then(pl.lit("no")).otherwise(pl.lit("yes"))
    keys = fires.select("ticker", across.alias("side")).with_row_index("fire")
    books = check_quotes(quotes).with_columns(pl.col("side").cast(pl.String))
    groups = keys.select("ticker", "side").unique(maintain_order=True).with_row_index("group")
    orders = (
        keys.join(groups, on=["ticker", "side"], how="left", maintain_order="left")
        .with_columns(pl.Series("start", start), pl.Series("limit", np.broadcast_to(limit, len(start))))
        .sort("group", "start", "fire")
    )
    changes = books.join(groups, on=["ticker", "side"], how="inner", maintain_order="left").sort(
        "group", maintain_order=True
    )
    price, got = np.zeros(len(start)), np.zeros(len(start), np.int64)
    if orders.height:
        _walk(
            _edges(changes["group"], groups.height), changes["ts"].dt.epoch("us").to_numpy(),
            changes["price"].to_numpy(), changes["size"].cast(pl.Int64).to_numpy(),
            _edges(orders["group"], groups.height), orders["start"].to_numpy(),
            orders["limit"].cast(pl.Float64).to_numpy(), orders["fire"].to_numpy(),
            contracts, 1.0 - haircut, price, got,
        )  # fmt: skip
    return BookFills(np.where(got > 0, start, 0), price, got)


def tops(quotes: pl.DataFrame) -> pl.DataFrame:
    """Return the best bid and ask over time.

    Returns:
        `ts, ticker, yes_bid, yes_ask` (1/10,000 dollar of YES, null on an empty side), one row per instant at which
        one of them changed, after all changes of that instant, and one for a market's first instant.

    Raises:
        EdgeError: `quotes` are malformed.
    """
    books = check_quotes(quotes)
    groups = books.select("ticker").unique(maintain_order=True).with_row_index("group")
    changes = books.join(groups, on="ticker", how="left", maintain_order="left").sort(
        "group", maintain_order=True
    )
    bids = np.zeros((changes.height, 2), np.int64)
    keep = np.zeros(changes.height, np.bool_)
    if changes.height:
        _best(
            _edges(changes["group"], groups.height), changes["ts"].dt.epoch("us").to_numpy(),
            changes["side"].to_physical().cast(pl.Int64).to_numpy(), changes["price"].to_numpy(),
            changes["size"].cast(pl.Int64).to_numpy(), bids, keep,
        )  # fmt: skip
    yes, no = pl.Series("yes", bids[:, 0]), pl.Series("no", bids[:, 1])
    found = changes.select(
        "ts",
        "ticker",
        pl.when(yes > 0).then(yes).cast(pl.Int16).alias("yes_bid"),
        pl.when(no > 0).then(PRICE - no).cast(pl.Int16).alias("yes_ask"),
    )
    return found.filter(pl.Series(keep)).sort("ts", maintain_order=True)


def mids(best: pl.DataFrame, tickers: pl.Series, ts: Ints) -> Floats:
    """Return the YES mid as of some times, inclusive of changes at those times.

    Args:
        best: `tops(quotes)`.
        tickers: market of each time.
        ts: times in microseconds.

    Returns:
        Mids in 1/10,000 dollar; NaN where a side of the book is empty.
    """
    wanted = pl.DataFrame({"ticker": tickers, "ts": pl.Series(ts).cast(TIME)}).with_row_index("wanted")
    found = (
        wanted.sort("ts")
        .join_asof(best.sort("ts", maintain_order=True), on="ts", by="ticker", check_sortedness=False)
        .sort("wanted")
    )
    middle = (pl.col("yes_bid").cast(pl.Float64) + pl.col("yes_ask").cast(pl.Float64)) / 2
    return found.select(middle.fill_null(float("nan"))).to_series().to_numpy()


def _edges(group: pl.Series, groups: int) -> Ints:
    """Return the position at which each group begins in a sorted column of groups, and the end of the last one."""
    return np.searchsorted(group.to_numpy(), np.arange(groups + 1)).astype(np.int64)


@compiled
def _walk(
    edges: Ints, ts: Ints, price: Ints, size: Ints, order_edges: Ints, start: Ints, limit: Floats, fire: Ints,
    want: int, part: float, paid: Floats, got: Ints,
) -> None:  # fmt: skip
    """Match the orders of each group, in the order of time, against its bids; write `paid` and `got` by fire."""
    shown, taken = np.zeros(PRICE + 1, np.int64), np.zeros(PRICE + 1, np.int64)
    for g in range(len(edges) - 1):
        shown[:], taken[:] = 0, 0
        best, i = 0, edges[g]
        for j in range(order_edges[g], order_edges[g + 1]):
            while i < edges[g + 1] and ts[i] <= start[j]:
                p = price[i]
                shown[p] = size[i]
                # Size that is no longer displayed cannot be what we took: other orders have left.
                taken[p] = min(taken[p], size[i])
                best = max(best, p) if size[i] > 0 else best
                i += 1
            while best > 0 and shown[best] == 0:
                best -= 1
            p, bought, cash = best, 0, 0.0
            while p > 0 and bought < want and PRICE - p <= limit[j]:
                have = int((shown[p] - taken[p]) * part) // SIZE
                some = min(have, want - bought)
                bought += some
                cash += some * (PRICE - p)
                taken[p] += some * SIZE
                p -= 1
            if bought > 0:
                paid[fire[j]] = cash / bought
                got[fire[j]] = bought


@compiled
def _best(edges: Ints, ts: Ints, side: Ints, price: Ints, size: Ints, bids: Ints, keep: Flags) -> None:
    """Write the best bids of both sides after each change, and mark the changes that end an instant that moved them."""
    shown = np.zeros((2, PRICE + 1), np.int64)
    for g in range(len(edges) - 1):
        shown[:] = 0
        best = np.zeros(2, np.int64)
        last = np.full(2, -1)  # -1: no instant has ended yet; 0 would be an empty side.
        for i in range(edges[g], edges[g + 1]):
            s, p = side[i], price[i]
            shown[s, p] = size[i]
            if size[i] > 0:
                best[s] = max(best[s], p)
            while best[s] > 0 and shown[s, best[s]] == 0:
                best[s] -= 1
            bids[i, 0], bids[i, 1] = best[0], best[1]
            ends = i + 1 == edges[g + 1] or ts[i + 1] > ts[i]
            if ends and (best[0] != last[0] or best[1] != last[1]):
                keep[i] = True
                last[0], last[1] = best[0], best[1]
