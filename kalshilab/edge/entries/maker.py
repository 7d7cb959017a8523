"""Resting orders (E5): simulate when a maker's quote would have been filled, and measure adverse selection.

A quote joins the back of the queue at its price level. Its fill depends on the size ahead of it, which a recorded book
shows only in part. So every order is simulated in four books at once, from the hardest to the easiest:

============ =============================================================================================
book         filled
============ =============================================================================================
"through"    when the market trades through its price: a print beyond it, or the other side's quote at it
"queue"      also when prints at its price have consumed the size displayed there on arrival (all
             cancellations are assumed to come from behind it)
"pro_rata"   like "queue", with cancellations ahead of it and behind it in proportion
"touch"      at the first print at its price
============ =============================================================================================

The last orders in a queue are filled by informed traders (Glosten & Milgrom 1985): queue position selects bad fills,
and "touch" ignores it. A maker's edge is real only if it holds in "through".

**Timing.** An order is live `latency_s` after it was sent. It joins the queue behind the size displayed then, inclusive
of changes at that instant, and later prints can fill it until it is cancelled. Cancelling takes another
`cancel_latency_s`: traders who watch the event fill an order still resting when the event begins. An order is rejected if it
would take (post only), if no book was recorded, or while our earlier order rests on its side of the market,
filled or not. Prints at one instant count before book changes at that instant.

**Markouts**: the mid of our side some time after the fill, less our price; for unfilled quotes, after they went live.
Filled markouts below unfilled ones show adverse selection.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.entries.book_taker import check_quotes, mids, tops
from kalshilab.edge.entries.queue_position import events_of, rested_in
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.errors import EdgeError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import TAKER, TIME, check_markets
from kalshilab.tape.tape import TapeLike
from kalshilab.units import PRICE, SIZE

__all__ = ["BOOKS", "RESTED_SCHEMA", "BookName", "Selection", "entries", "joining", "markouts", "rest", "selection"]  # fmt: skip

BookName = Literal["through", "queue", "pro_rata", "touch"]
BOOKS: Final = ("through", "queue", "pro_rata", "touch")
"""From pessimistic to optimistic."""
HORIZONS: Final = (10.0, 60.0, 300.0, 3600.0)
"""Seconds after which the mid is measured, beside settlement."""

_RESTED: Final[dict[str, PolarsDataType]] = {
    "fire": pl.UInt64,
    "ts": TIME,
    "ticker": pl.String,
    "side": TAKER,
    "price": pl.Float64,
    "mid": pl.Float64,
    "live_ts": TIME,
    "posted": pl.Boolean,
    "ahead": pl.Float64,
    "book": pl.Enum(BOOKS),
    "contracts": pl.Float64,
    "first_ts": TIME,
}
RESTED_SCHEMA: Final = pl.Schema(_RESTED)
"""Outcomes of orders, one row per order and book.

`fire, ts, ticker, side` identify the order. `price` and `mid` (as of `ts`) are dollars of our side; the mid is null if a
side of the book is empty. `live_ts` is when the order went live, `posted` whether it was accepted, `ahead` the contracts
ahead of it then, `contracts` the contracts filled, and `first_ts` the time of the first fill (null without a fill)."""


def joining(fires: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """Return orders that join the best bid of their side as of the fire; fires without a bid are left out.

    Args:
        fires: `row, ts, ticker, side`.
        quotes: `kalshilab.edge.entries.book_taker.QUOTES_SCHEMA`.

    Returns:
        `row, ts, ticker, side, price`, the YES price in 1/10,000 dollar.
    """
    placed = fires.sort("ts").join_asof(
        tops(quotes).sort("ts", maintain_order=True), on="ts", by="ticker", check_sortedness=False
    )
    yes = pl.col("side").cast(pl.String) == "yes"
    price = pl.when(yes).then("yes_bid").otherwise("yes_ask").alias("price")
    return (
        placed.select("row", "ts", "ticker", "side", price).filter(pl.col("price").is_not_null()).sort("row")
    )


@renamed_keywords(life="life_s", latency="latency_s", cancel_latency="cancel_latency_s")
def rest(
    orders: pl.DataFrame,
    tape: TapeLike,
    quotes: pl.DataFrame,
    *,
    contracts: int = 10,
    life_s: float = 600.0,
    latency_s: float = 0.5,
    cancel_latency_s: float = 0.5,
) -> pl.DataFrame:
    """Simulate resting orders in each of the four books.

    Args:
        orders: `row, ts, ticker, side, price`: bids for `side`, sent at `ts`, at a YES price, as `joining` returns them
            (NO is bid at a dollar less that price).
        tape: trades of any kind; only the orders' markets are kept in memory.
        quotes: `kalshilab.edge.entries.book_taker.QUOTES_SCHEMA`.
        contracts: size of each order in contracts.
        life_s: seconds from going live until the cancellation is sent.
        latency_s: seconds until the exchange receives the order.
        cancel_latency_s: seconds until the exchange receives the cancellation.

    Returns:
        `RESTED_SCHEMA`, in the order of the orders and of `BOOKS`.

    Raises:
        EdgeError: a number is out of range, or the quotes are malformed.
        TapeError: the tape is malformed.
    """
    if not (contracts >= 1 and life_s > 0 and latency_s >= 0 and cancel_latency_s >= 0):
        raise EdgeError(
            "contracts must be >= 1, life_s > 0 and the latencies >= 0, got "
            f"{contracts=}, {life_s=}, {latency_s=}, {cancel_latency_s=}"
        )
    if orders.height and not orders["price"].is_between(1, PRICE - 1).all():
        raise EdgeError(f"orders: price must be from 1 to {PRICE - 1:,} in 1/10,000 dollar of YES")
    best = tops(check_quotes(quotes))
    groups = orders.select("ticker").unique(maintain_order=True).with_row_index("group")
    no = (orders["side"].cast(pl.String) == "no").to_numpy()
    yes_price = orders["price"].cast(pl.Int64).to_numpy()
    price = np.where(no, PRICE - yes_price, yes_price)
    sent = orders["ts"].dt.epoch("us").to_numpy()
    live = sent + round(latency_s * 1e6)
    mid = mids(best, orders["ticker"], sent)
    lined = (
        orders.select("ticker")
        .with_row_index("order")
        .join(groups, on="ticker", how="left", maintain_order="left")
        .with_columns(pl.Series("live", live))
        .sort("group", "live", "order")
    )
    events = events_of(tape_of(tape), quotes, groups)
    n = orders.height
    posted, ahead = np.zeros(n, np.bool_), np.zeros(n)
    filled, first = np.zeros((n, len(BOOKS)), np.int64), np.zeros((n, len(BOOKS)), np.int64)
    if n:
        every = np.arange(groups.height + 1)
        rested_in(
            np.searchsorted(events["group"].to_numpy(), every), events["ts"].to_numpy(), events["kind"].to_numpy(),
            events["side"].to_numpy(), events["price"].to_numpy(), events["size"].to_numpy(),
            np.searchsorted(lined["group"].to_numpy(), every), lined["order"].cast(pl.Int64).to_numpy(), live,
            live + round((life_s + cancel_latency_s) * 1e6), no.astype(np.int64), price, contracts * SIZE,
            posted, ahead, filled, first,
        )  # fmt: skip
    books = len(BOOKS)
    once = orders.select(
        pl.col("row").alias("fire"), "ts", "ticker", "side",
        pl.Series("price", price / PRICE), pl.Series("mid", np.where(no, PRICE - mid, mid) / PRICE).fill_nan(None),
        pl.Series("live_ts", live).cast(TIME), pl.Series("posted", posted), pl.Series("ahead", ahead / SIZE),
    )  # fmt: skip
    got = pl.Series("first_ts", first.ravel())
    whole = once[np.repeat(np.arange(n), books)].with_columns(
        pl.Series("book", list(BOOKS) * n, pl.Enum(BOOKS)),
        pl.Series("contracts", filled.ravel() / SIZE),
        pl.when(got > 0).then(got).cast(TIME).alias("first_ts"),
    )
    return whole.select(pl.col(name).cast(dtype) for name, dtype in RESTED_SCHEMA.items())


def entries(
    rested: pl.DataFrame,
    markets: pl.DataFrame,
    *,
    book: BookName = "through",
    schedule: FeeSchedule | None = None,
    exclusive: bool | Collection[str] | None = None,
) -> pl.DataFrame:
    """Return the orders of one of the books as entries with maker fees.

    An order counts as filled if it got any contract; its fee is that of the whole contracts it got, at least one.
    `fired_at` is our quote, and so is `mid` where the book had one side only.

    Args:
        rested: `RESTED_SCHEMA`, as `rest` returns it.
        markets: the markets table (`kl.to_markets`).
        book: the book to use.
        schedule: fees by date; None: `FeeSchedule()`.
        exclusive: events of which at most one market settles YES: their tickers, or True for all.

    Returns:
        `kalshilab.edge.ENTRIES_SCHEMA`; orders that were not posted are fires without a fill.

    Raises:
        EdgeError: the book is unknown, or an order's market is not in the table.
    """
    if book not in BOOKS:
        raise EdgeError(f"book must be one of {', '.join(BOOKS)}, got {book!r}")
    facts = check_markets(markets).select(
        "ticker", "event", "series", "category", "settlement", "settled_ts", "fee_multiplier", "fee_type"
    )
    own = rested.filter(pl.col("book") == book)
    joined = own.join(facts, on="ticker", how="left", maintain_order="left")
    unknown = own.join(facts, on="ticker", how="anti")
    if unknown.height:
        raise EdgeError(f"markets must contain every order's market, got none for {unknown['ticker'][0]}")
    filled = (own["contracts"] > 0).to_numpy()
    whole = np.maximum(own["contracts"].to_numpy().astype(np.int64), 1)
    prices = own["price"].to_numpy()
    fees = np.zeros(own.height)
    for contracts in np.unique(whole[filled]).tolist():
        some = filled & (whole == contracts)
        terms = joined.select("series", pl.col("first_ts").alias("ts"), "fee_type", "fee_multiplier")
        fees[some] = (schedule or FeeSchedule()).fees(
            terms.filter(pl.Series(some)), prices[some], contracts=contracts, role="maker"
        )
    known = pl.Series(filled)
    dollars = pl.col("settlement").cast(pl.Float64) / PRICE
    one = (
        pl.lit(bool(exclusive))
        if exclusive is None or isinstance(exclusive, bool)
        else pl.col("event").is_in(list(exclusive))
    )
    frame = joined.select(
        "fire", "ts", "ticker", "event", pl.col("series").fill_null(""), pl.col("category").fill_null(""), "side",
        pl.col("price").alias("fired_at"), pl.coalesce("mid", "price").alias("mid"),
        pl.Series("filled", filled), pl.col("first_ts").alias("entry_ts"),
        pl.when(known).then("price").alias("price"), pl.when(known).then(pl.Series(fees)).alias("fee"),
        pl.when(known).then(pl.col("price") + pl.Series(fees)).alias("cost"),
        pl.when(pl.col("side").cast(pl.String) == "no").then(1 - dollars).otherwise(dollars).alias("value"),
        "settled_ts", one.alias("exclusive"),
    )  # fmt: skip
    profit = pl.when("filled").then(pl.col("value") - pl.col("cost")).otherwise(0.0)
    return frame.with_columns(profit.alias("pnl")).select(
        pl.col(name).cast(dtype) for name, dtype in ENTRIES_SCHEMA.items()
    )


class Selection(msgspec.Struct, frozen=True):
    """Adverse selection: mean value less price of quotes, in cents per contract."""

    filled: float
    """Mean over the filled quotes."""
    quoted: float
    """Mean over all posted quotes."""
    n_filled: int
    """Number of filled quotes."""
    n_quoted: int
    """Number of posted quotes."""

    @property
    def gap(self) -> float:
        """Filled less quoted, in cents; negative under adverse selection."""
        return self.filled - self.quoted


def selection(rested: pl.DataFrame, markets: pl.DataFrame, *, book: BookName = "through") -> Selection:
    """Measure adverse selection at settlement, E[V − A | filled] − E[V − A | quoted].

    Quotes of unsettled markets are left out. Arguments are those of `entries`.

    Raises:
        EdgeError: as for `entries`.
    """
    own = rested.filter(pl.col("book") == book).select("posted", quote="price")
    known = (
        pl.concat([entries(rested, markets, book=book), own], how="horizontal")
        .filter(pl.col("posted") & pl.col("value").is_not_null())
        .select("filled", gain=100 * (pl.col("value") - pl.col("quote")))
    )
    got = known.filter("filled")["gain"].to_numpy()
    every = known["gain"].to_numpy()
    mean = [float(v.mean()) if len(v) else math.nan for v in (got, every)]
    return Selection(mean[0], mean[1], len(got), len(every))


@renamed_keywords(b="resamples")
def markouts(
    rested: pl.DataFrame,
    quotes: pl.DataFrame,
    markets: pl.DataFrame,
    *,
    book: BookName = "through",
    horizons: Sequence[float] = HORIZONS,
    resamples: int = 999,
    seed: int | np.random.Generator = 0,
) -> pl.DataFrame:
    """Return the markouts of filled and unfilled quotes, at some horizons and at settlement.

    Args:
        rested: `RESTED_SCHEMA`, as `rest` returns it.
        quotes: the quotes given to `rest`.
        markets: the markets table; a settled market is valued at its settlement.
        book: the book that decides which quotes were filled.
        horizons: seconds after the fill, or after going live for unfilled quotes.
        resamples: number of resamples of the bootstrap over events.
        seed: seed of the resamples.

    Returns:
        `horizon_s` (null: settlement), `group`, `markout, lower, upper` (cents per contract in our favour, the mean over
        events with its 95 % interval; the bounds are null for a single event), `n` quotes. Quotes without a mid at a
        horizon are left out there.

    Raises:
        EdgeError: the book is unknown, or the quotes are malformed.
    """
    rng = np.random.default_rng(seed)
    best = tops(quotes)
    table = entries(rested, markets, book=book)
    own = rested.filter(pl.col("book") == book)
    posted, filled = own["posted"].to_numpy(), table["filled"].to_numpy()
    begin = own.select(pl.coalesce("first_ts", "live_ts").dt.epoch("us")).to_series().to_numpy()
    settled_at = table["settled_ts"].dt.epoch("us").fill_null(np.iinfo(np.int64).max).to_numpy()
    value = table["value"].cast(pl.Float64).fill_null(math.nan).to_numpy()
    no = (own["side"].cast(pl.String) == "no").to_numpy()
    rows = []
    for horizon in (*horizons, None):
        if horizon is None:
            later = value
        else:
            at = begin + round(horizon * 1e6)
            mid = mids(best, own["ticker"], at) / PRICE
            later = np.where(settled_at <= at, value, np.where(no, 1 - mid, mid))
        gain = later - own["price"].to_numpy()
        for group, some in (("filled", posted & filled), ("unfilled", posted & ~filled)):
            known = some & ~np.isnan(gain)
            if not known.any():
                continue
            events = table["event"].filter(pl.Series(known))
            weight = 1.0 / events.to_frame().select(pl.len().over("event")).to_series().to_numpy()
            found = bootstrap(gain[known], events.to_numpy(), weight, resamples, rng)
            bounds = [v if math.isfinite(v) else None for v in (found.lower, found.upper)]
            rows.append((horizon, group, found.estimate, *bounds, int(known.sum())))
    schema = {
        "horizon_s": pl.Float64, "group": pl.String, "markout": pl.Float64, "lower": pl.Float64,
        "upper": pl.Float64, "n": pl.Int64,
    }  # fmt: skip
    return pl.DataFrame(rows, schema, orient="row")
