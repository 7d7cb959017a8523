"""Resting orders (E5): when a maker's quote would have been filled, and what that says about the fill.

A quote joins the back of its price level.  Whether it is reached depends on what stood before it, which a recorded
book shows only in part; so every order is kept in four books at once, from the hardest to the easiest:

============ =============================================================================================
book         filled
============ =============================================================================================
"through"    when the market goes through its price: a print beyond it, or the other side's quote at it
"queue"      also when prints at its price have used up what was displayed there as it arrived (those who
             cancel all stood behind it)
"pro_rata"   the same, where those who cancel stood before and behind it in proportion
"touch"      at the first print at its price
============ =============================================================================================

What fills a quote late is what the informed sell (Glosten & Milgrom 1985): being last in the queue selects bad fills,
and "touch" does not know it.  A maker's edge is real only if "through" has it.

**Timing.**  An order is live `latency_s` after it was sent, stands behind what the book shows then (changes of that
instant included), and can be filled by later prints until it is cancelled, which takes `cancel_latency_s` more: an
order left standing when the event begins is filled by those who watch it.  An order that would take at once is
refused (post only); so is one where no book was recorded, or before the time of an earlier one of ours on its side
of the market is over, filled or not.  Prints of one instant count before changes of the book.

**Markouts**: the mid of our side, some time after the fill, less our price; for quotes that were not filled, after
they went live.  Filled below unfilled is adverse selection.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
import polars as pl

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
"""Seconds after which the mid is looked at, before settlement."""

_RESTED: Final[dict[str, Any]] = {
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
"""What became of orders, a row an order and book: `fire, ts, ticker, side` of the order; `price` and `mid` (as of `ts`)
in dollars of our side, the mid null without both sides; `live_ts`; whether it was `posted`; contracts `ahead` when it
was; `contracts` filled, and when the first of them was (null: none)."""


def joining(fires: pl.DataFrame, quotes: pl.DataFrame) -> pl.DataFrame:
    """Fires as orders that join the best bid of their side, as of the fire; those without a bid to join are left out.

    Args:
        fires: `row, ts, ticker, side`.
        quotes: `kalshilab.edge.entries.book_taker`.

    Returns:
        `row, ts, ticker, side, price`, the price in YES price units.
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
    """What became of resting orders, in each of the four books.

    Args:
        orders: `row, ts, ticker, side, price`: bids for `side`, sent at `ts`, at a YES price (as `joining` makes
            them; NO is bid for at a dollar less it).
        tape: prints, as a frame or a lake, of which only the orders' markets are kept.
        quotes: `kalshilab.edge.entries.book_taker`.
        contracts: size of each order.
        life_s: seconds after it is live at which its cancellation is sent.
        latency_s, cancel_latency_s: seconds until the exchange has the order, and its cancellation.

    Returns:
        `RESTED_SCHEMA`, in the order of the orders and of `BOOKS`.

    Raises:
        EdgeError: no contract, times below 0, these are no quotes, a price that is none.
        TapeError: not a tape.
    """
    if not (contracts >= 1 and life_s > 0 and latency_s >= 0 and cancel_latency_s >= 0):
        raise EdgeError(
            "contracts must be >= 1, life_s > 0 and the latencies >= 0, got "
            f"{contracts=}, {life_s=}, {latency_s=}, {cancel_latency_s=}"
        )
    if orders.height and not orders["price"].is_between(1, PRICE - 1).all():
        raise EdgeError(f"orders: YES prices are from 1 to {PRICE - 1:,} of 1/10,000 dollar")
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
    """What became of the orders in one of the books, as entries with makers' fees.

    An order that got any contract is filled, at the fee of as many (whole ones, at least one).  `fired_at` is our
    quote; `mid` too, where the book had one side only.

    Returns:
        `kalshilab.edge.ENTRIES_SCHEMA`; orders that were not posted are fires without a fill.

    Raises:
        EdgeError: no such book; an order in a market that is not in the table.
    """
    if book not in BOOKS:
        raise EdgeError(f"book={book!r}; one of {', '.join(BOOKS)}")
    facts = check_markets(markets).select(
        "ticker", "event", "series", "category", "settlement", "settled_ts", "fee_multiplier", "fee_type"
    )
    own = rested.filter(pl.col("book") == book)
    joined = own.join(facts, on="ticker", how="left", maintain_order="left")
    lost = own.join(facts, on="ticker", how="anti")
    if lost.height:
        raise EdgeError(f"{lost['ticker'][0]} is not in the table of markets")
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
    """What being filled says of a quote: mean of value less price, in cents a contract."""

    filled: float
    """Over the quotes that were filled."""
    quoted: float
    """Over all that were posted."""
    n_filled: int
    n_quoted: int

    @property
    def gap(self) -> float:
        """Filled less quoted; below zero the fills are the bad ones."""
        return self.filled - self.quoted


def selection(rested: pl.DataFrame, markets: pl.DataFrame, *, book: BookName = "through") -> Selection:
    """Adverse selection at settlement, E[V − A | filled] − E[V − A | quoted]; quotes of unsettled markets are left out.

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
    """Where the mid went after quotes, filled and unfilled (see the module), and what they settled at.

    Args:
        rested: of `rest`.
        quotes, markets: as there; a market that has settled is at its value.
        horizons: seconds.
        resamples, seed: of the bootstrap over events.

    Returns:
        `horizon_s` (null: settlement), `group`, `markout, lower, upper` (cents a contract in our favour, mean over
        events, 95 %; the bounds null where one event alone cannot tell), `n` quotes.  Quotes whose mid is not known
        at a horizon are left out there.

    Raises:
        EdgeError: no such book, these are no quotes.
    """
    rng = np.random.default_rng(seed)
    best = tops(quotes)
    table = entries(rested, markets, book=book)
    own = rested.filter(pl.col("book") == book)
    posted, filled = own["posted"].to_numpy(), table["filled"].to_numpy()
    begin = own.select(pl.coalesce("first_ts", "live_ts").dt.epoch("us")).to_series().to_numpy()
    over = table["settled_ts"].dt.epoch("us").fill_null(np.iinfo(np.int64).max).to_numpy()
    value = table["value"].cast(pl.Float64).fill_null(math.nan).to_numpy()
    no = (own["side"].cast(pl.String) == "no").to_numpy()
    rows = []
    for horizon in (*horizons, None):
        if horizon is None:
            later = value
        else:
            at = begin + round(horizon * 1e6)
            mid = mids(best, own["ticker"], at) / PRICE
            later = np.where(over <= at, value, np.where(no, 1 - mid, mid))
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
