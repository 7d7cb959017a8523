"""Entries from a recorded book (E4): what a taker's order would have found, level by level.

**Quotes** are a book's changes, one row a level that changed:

========== ================= ==================================================================
column     dtype             meaning
========== ================= ==================================================================
ts         Datetime[us, UTC] when it changed; rows of one instant stand in the exchange's order
ticker     String            market
side       Enum[yes, no]     whose bids; an ask is the other side's bid seen from across
price      Int16             of that side, 1/10,000 dollar, 1 to 9,999
size       UInt32            what is bid there from now on, 1/100 contract; 0: nothing
========== ================= ==================================================================

`QuoteLog` makes them of the snapshots and changes a feed brings.  When a feed loses touch, `QuoteLog.lost` empties
the market's book, so that nothing is bought from a book that may be gone.

**The walk.**  An order of q contracts that arrives at τ + latency takes our side's asks, `1 − bid` of the other side,
cheapest first, from the book as of that instant (its own changes included), until it has q, the limit is passed or
the book ends; the rest is dropped (immediate or cancel).  Three things keep it modest: of what a level displays only
a part is taken to be there still (`haircut`), in whole contracts; what we took before from a level stays gone until
the level itself is; and a book that was not recorded yet sells nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.market.book import Book
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.units import PRICE, SIZE

__all__ = ["QUOTES_SCHEMA", "Asked", "QuoteLog", "asked", "check_quotes", "mids", "tops"]

_QUOTES: Final[dict[str, Any]] = {
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
Level = tuple[int, int]


class QuoteLog:
    """Makes quotes of what a book feed brings, market by market.

    Times are microseconds.  A message that is older than the one before it of its market counts as of that one: the
    order in which the exchange sent them is what holds.

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
        """The whole book: (price, size) of each side's bids, in its own prices; only differences are logged.

        Raises:
            BookError: a size or a price that cannot be.
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
        """One level of `side`'s bids grew or shrank by `delta`.

        Raises:
            BookError: the level would fall below zero: a message was lost.
            EdgeError: no snapshot of this market yet.
        """
        book = self._books.get(ticker)
        if book is None:
            raise EdgeError(f"{ticker}: a change before the first snapshot of its book")
        book.apply(side, price, delta)
        self._rows.append((self._at(ts, ticker), ticker, side, price, book.size_at(side, price)))

    def lost(self, ts: int, ticker: str) -> None:
        """Nothing is known of this book from now on, until its next snapshot."""
        if ticker in self._books:
            self.snapshot(ts, ticker, (), ())
            del self._books[ticker]

    def _at(self, ts: int, ticker: str) -> int:
        self._last[ticker] = max(ts, self._last.get(ticker, ts))
        return self._last[ticker]

    def frame(self) -> pl.DataFrame:
        """All that was logged, in the order of time."""
        rows = pl.DataFrame(
            self._rows,
            {"ts": pl.Int64, "ticker": pl.String, "side": TAKER, "price": pl.Int16, "size": pl.UInt32},
            orient="row",
        )
        return rows.with_columns(pl.col("ts").cast(TIME)).sort("ts", maintain_order=True)

    def __repr__(self) -> str:
        return f"<QuoteLog {len(self._rows):,} changes of {len(self._last):,} books>"


def check_quotes(quotes: pl.DataFrame) -> pl.DataFrame:
    """The frame itself, if it holds quotes.

    Raises:
        EdgeError: a column is missing or of another dtype, a value is null, a price is none, time runs backwards.
    """
    for name, dtype in QUOTES_SCHEMA.items():
        if quotes.schema.get(name) != dtype:
            raise EdgeError(
                f"quotes: column {name} is {quotes.schema.get(name, 'missing')}, not {dtype}; "
                "kalshilab.edge.entries.book_taker.QuoteLog makes quotes of a feed"
            )
        if quotes[name].null_count():
            raise EdgeError(f"quotes: null in {name}")
    if quotes.height and not quotes["price"].is_between(1, PRICE - 1).all():
        raise EdgeError(f"quotes: prices are from 1 to {PRICE - 1:,} of 1/10,000 dollar")
    if not quotes["ts"].is_sorted():
        raise EdgeError(
            "quotes: not in the order of time; sort by ts, keeping the order of rows of one instant"
        )
    return quotes


class Asked(NamedTuple):
    """What orders got: arrays of one length; zeros where nothing was got."""

    ts: Ints
    """When they arrived, microseconds."""
    price: Floats
    """Mean price of our side over what was bought, price units."""
    contracts: Ints
    """How many were bought; what was not is dropped."""


def asked(
    fires: pl.DataFrame,
    start: Ints,
    quotes: pl.DataFrame,
    *,
    contracts: int = 10,
    haircut: float = 0.5,
    limit: npt.ArrayLike = PRICE,
) -> Asked:
    """What orders find in the recorded books, each changed by what the ones before it took.

    Args:
        fires: `ticker, side`: what is to be bought.
        start: when each order arrives, in microseconds; changes at that instant have happened.
        quotes: see the module.
        contracts: wanted.
        haircut: share of what is displayed that is not counted on.
        limit: our side's highest price, in price units; one for all, or one each.

    >>> log = QuoteLog()
    >>> log.snapshot(0, "KXA-1", yes=[(4100, 1000), (4000, 5000)], no=[])
    >>> fires = pl.DataFrame({"ticker": ["KXA-1"], "side": ["no"]})
    >>> got = asked(fires, np.array([5]), log.frame(), contracts=10)
    >>> got.price.tolist(), got.contracts.tolist()  # five at 59 cents, five at 60
    ([5950.0], [10])

    Raises:
        EdgeError: these are no quotes; no contract; a share that is none.
    """
    if contracts < 1 or not 0 <= haircut < 1:
        raise EdgeError(f"asked({contracts=}, {haircut=}): a contract at least, a share below 1")
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
    return Asked(np.where(got > 0, start, 0), price, got)


def tops(quotes: pl.DataFrame) -> pl.DataFrame:
    """Best bid and ask over time: `ts, ticker, yes_bid, yes_ask` (YES price units, null where there is none), a row
    an instant at which one of them changed, after all changes of that instant; a market's first instant is one.

    Raises:
        EdgeError: these are no quotes.
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
    """The YES mid as of instants (their own changes included), in price units; NaN without both sides.

    Args:
        best: `tops(quotes)`.
        tickers, ts: of each instant, the market and microseconds.
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
    """Where each group begins in a sorted column of groups, and where the last one ends."""
    return np.searchsorted(group.to_numpy(), np.arange(groups + 1)).astype(np.int64)


@compiled
def _walk(
    edges: Any, ts: Any, price: Any, size: Any, order_edges: Any, start: Any, limit: Any, fire: Any,
    want: int, part: float, paid: Any, got: Any,
) -> None:  # fmt: skip
    """Orders of each group in the order of time against its bids; `paid` and `got` are by fire."""
    shown, taken = np.zeros(PRICE + 1, np.int64), np.zeros(PRICE + 1, np.int64)
    for g in range(len(edges) - 1):
        shown[:], taken[:] = 0, 0
        best, i = 0, edges[g]
        for j in range(order_edges[g], order_edges[g + 1]):
            while i < edges[g + 1] and ts[i] <= start[j]:
                p = price[i]
                shown[p] = size[i]
                # What is no longer shown cannot be what we took: others are gone with it.
                taken[p] = min(taken[p], size[i])
                best = max(best, p) if size[i] > 0 else best
                i += 1
            while best > 0 and shown[best] == 0:
                best -= 1
            p, held, cash = best, 0, 0.0
            while p > 0 and held < want and PRICE - p <= limit[j]:
                have = int((shown[p] - taken[p]) * part) // SIZE
                some = min(have, want - held)
                held += some
                cash += some * (PRICE - p)
                taken[p] += some * SIZE
                p -= 1
            if held > 0:
                paid[fire[j]] = cash / held
                got[fire[j]] = held


@compiled
def _best(edges: Any, ts: Any, side: Any, price: Any, size: Any, bids: Any, keep: Any) -> None:
    """The best bids of both sides after each change, and which changes end an instant that moved them."""
    shown = np.zeros((2, PRICE + 1), np.int64)
    for g in range(len(edges) - 1):
        shown[:] = 0
        best = np.zeros(2, np.int64)
        said = np.full(2, -1)  # Nothing yet, which is not the same as that there is nothing.
        for i in range(edges[g], edges[g + 1]):
            s, p = side[i], price[i]
            shown[s, p] = size[i]
            if size[i] > 0:
                best[s] = max(best[s], p)
            while best[s] > 0 and shown[s, best[s]] == 0:
                best[s] -= 1
            bids[i, 0], bids[i, 1] = best[0], best[1]
            over = i + 1 == edges[g + 1] or ts[i + 1] > ts[i]
            if over and (best[0] != said[0] or best[1] != said[1]):
                keep[i] = True
                said[0], said[1] = best[0], best[1]
