"""Entry rules: the price at which each fire of a signal could have been bought.

The ladder of rules, from diagnosis to judgement:

================ ======================================================================================
rule             entry
================ ======================================================================================
"print"          (E1) the price of the firing print: too good by half a spread; for diagnosis
"mid"            (E2) the mid as of the fire, without fees: the information in the signal; for diagnosis
"next_print"     (E3) the first later print whose taker bought our side, after the latency and within the
                 window; otherwise no fill and a profit of 0. The default without recorded books
"book"           (E4) the displayed asks of our side after the latency (`kalshilab.edge.entries.book_taker`)
"maker"          (E5) a quote that joins the best bid of our side as of the fire, live from the latency to the
                 end of the window, filled when the market trades through it: the hardest of the four books of
                 `kalshilab.edge.entries.maker`. No fill if there is no bid to join, or if the quote would take
================ ======================================================================================

An entry never uses an earlier print or the other side. Left out and counted are fires of a market after its first, fires
on the other side of an event, and fires where the outcome is nearly certain: at 98 cents and more, at 2 cents and less,
or after the expected close.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any, Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.edge.entries import maker
from kalshilab.edge.entries.book_taker import asked, mids, tops
from kalshilab.edge.entries.next_print import READS, Found, Wanted, first_later
from kalshilab.edge.entries.terms import RULES, EntryTerms, Rule, terms_of
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.errors import EdgeError, UnitError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.tape.frame_checks import polars_frame
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.schema import TAKER, TIME, check_markets
from kalshilab.tape.tape import COLUMNS, FrameLike, Tape, TapeLike
from kalshilab.units import PRICE, TickGrid, cents

__all__ = ["RULES", "Left", "Rule", "enter", "enter_counted", "half_spread_of", "made"]

Role = Literal["taker", "maker"]
KNOWN: Final = (200, 9800)
"""YES prices at and beyond which the outcome is nearly certain, in 1/10,000 dollar."""
NEAR: Final = 60
"""Maximum seconds between two prints by opposite takers that show a spread rather than a move."""
SEEN: Final = 2_000_000
"""Prints of stored data from which the spread is estimated."""
FALLBACK: Final = 1.0
"""Half the spread in cents if no two prints show one."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """Number of fires, and of those left out, by reason."""

    fires: int
    """Number of fires in all."""
    unmatched: int
    """Fires in markets that the markets table lacks."""
    known: int
    """Fires at prices where the outcome is nearly certain, or after the expected close."""
    repeated: int
    """Fires after the first `per_market` of their market."""
    other_side: int
    """Fires on the other side than the first of their event."""
    capped: int
    """Fires after the first `per_event` of their event."""


def half_spread_of(tape: TapeLike) -> float:
    """Estimate half the spread, in cents.

    The estimate is the median of |difference| / 2 between consecutive prints of a market by opposite takers, at most
    60 seconds apart; 1 cent if there are no such prints. The first two million prints of stored data are used.

    Raises:
        TapeError: the data are not a tape.
    """
    frame = tape_of(tape, READS).excerpt(SEEN).frame
    ts, price, taker = (
        pl.col(name) != pl.col(name).shift(1).over("market")
        if name == "taker"
        else pl.col(name) - pl.col(name).shift(1).over("market")
        for name in READS
    )
    near = frame.lazy().select(ts=ts, price=price.abs(), taker=taker)
    median = (
        near.filter("taker", pl.col("ts") <= pl.duration(seconds=NEAR))
        .select(pl.col("price").median())
        .collect()
        .item()
    )
    return FALLBACK if median is None else float(median) / 200


def enter(
    fires: FrameLike,
    tape: TapeLike,
    markets: pl.DataFrame,
    terms: EntryTerms | None = None,
    **changes: object,
) -> pl.DataFrame:
    """Return the entries that could have been made of fires.

    Arguments and errors are those of `enter_counted`.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> entries = enter(kl.signals.rlm(tape, min_trades=15), tape, markets, latency_s=2)
    >>> entries.columns[:5]
    ['fire', 'ts', 'ticker', 'event', 'series']
    """
    on = terms_of("enter", terms, changes)
    return made(fires, tape_of(tape, _reads(on)), check_markets(markets), on)[0]


def enter_counted(
    fires: FrameLike,
    tape: TapeLike,
    markets: pl.DataFrame,
    terms: EntryTerms | None = None,
    **changes: object,
) -> tuple[pl.DataFrame, Left]:
    """Return the entries that could have been made of fires, and how many fires were left out.

    Args:
        fires: as a signal's `run` returns them: `row, ts, ticker, side, price`.
        tape: the tape they fired on: a frame, a lake or a tape file, which is read once.
        markets: the markets table (`kl.to_markets`).
        terms: the terms of entry; None: `EntryTerms()`.
        changes: fields of `EntryTerms` that differ from `terms`; the most used ones are
            rule: "next_print", "book", "maker", "mid" or "print";
            latency_s: seconds from a fire until an order can trade;
            window_s: seconds after the latency within which the print must come, or during which a quote rests;
            contracts: size of an order in contracts;
            half_spread_cents: half the spread in cents; None: estimated from the tape.

    Returns:
        `kalshilab.edge.ENTRIES_SCHEMA`, one row per fire that was kept, in the order of the tape.

    Raises:
        EdgeError: `fires` is not a frame of fires; a term is unknown or out of range; `exclusive` names no event; a
            fire is in a market that is not on the tape.
        TapeError: the tape or the markets table is malformed.
    """
    on = terms_of("enter_counted", terms, changes)
    return made(fires, tape_of(tape, _reads(on)), check_markets(markets), on)


def _reads(terms: EntryTerms) -> tuple[str, ...]:
    """Return the columns of the tape that a rule reads: a queue needs sizes."""
    return COLUMNS if terms.rule == "maker" else READS


def made(fires: FrameLike, tape: Tape, markets: pl.DataFrame, terms: EntryTerms) -> tuple[pl.DataFrame, Left]:
    """Make entries of fires on an opened tape and a checked markets table; `enter_counted` for callers inside."""
    _check_exclusive(terms.exclusive, markets)
    kept, left = _kept(fires, markets, terms)
    fired = kept["ts"].dt.epoch("us").to_numpy()
    start = fired + round(terms.latency_s * 1e6)
    no = (kept["side"].cast(pl.String) == "no").to_numpy()
    row = kept["row"].cast(pl.Int64).to_numpy()
    stop = start + round(terms.window_s * 1e6)
    later = first_later(Wanted(row, kept["ticker"], no, start, stop), tape)
    price = kept["price"].cast(pl.Int64).to_numpy()
    half = terms.half_spread_cents
    spread = cents(half_spread_of(tape)) if half is None else round(half * 100)
    # A YES taker printed the ask, a NO taker the bid.
    mid = np.clip(price + np.where(later.taker_no, spread, -spread), 1, PRICE - 1)
    books = terms.books
    if terms.rule in ("book", "maker"):
        if books is None:
            raise EdgeError(
                f'rule="{terms.rule}" needs books=, recorded quotes (kalshilab.edge.entries.book_taker)'
            )
        shown = mids(tops(books), kept["ticker"], fired)
        mid = np.where(np.isnan(shown), mid, shown)
    if terms.rule == "maker":
        at, paid, got = _rested(kept, tape, books, terms)
    elif terms.rule == "book":
        assert books is not None
        ours = np.where(no, PRICE - price, price)
        limit = terms.limit_cents
        most = np.full(len(ours), PRICE) if limit is None else ours + round(limit * 100)
        wanted = kept.select("ticker", "side")
        at, paid, got = asked(wanted, start, books, contracts=terms.contracts, limit=most)
    else:
        at, paid = _paid(terms.rule, later, fired, price, mid, no)
        got = np.where(paid > 0, terms.contracts, 0)
    filled = got > 0
    paid = _dearer(paid, terms.ticks, kept["price_structure"])
    role: Role = "maker" if terms.rule == "maker" else "taker"
    if terms.rule == "mid":
        fees = np.zeros(len(paid))
    else:
        fees = _fees(kept, at, paid, got, terms.schedule or FeeSchedule(), role)
    ours_mid = np.where(no, PRICE - mid, mid) / PRICE
    return _entries(kept, later, filled, at, paid / PRICE, fees, ours_mid, terms.exclusive), left


def _check_exclusive(exclusive: bool | Collection[str] | None, markets: pl.DataFrame) -> None:
    """Raise `EdgeError` unless `exclusive` names events of the markets table."""
    if exclusive is None or isinstance(exclusive, bool):
        return
    if isinstance(exclusive, str) or (exclusive and set(markets["event"]).isdisjoint(exclusive)):
        raise EdgeError(
            f"exclusive must be a set of event tickers, or True for all events, got {exclusive!r:.60}"
        )


def _kept(fires: FrameLike, markets: pl.DataFrame, terms: EntryTerms) -> tuple[pl.DataFrame, Left]:
    """Return the fires that count, joined with the facts of their markets, and how many were left out."""
    frame = polars_frame(fires)
    if frame is None:
        raise EdgeError(
            f"fires must be a DataFrame as returned by signal.run(tape), got {type(fires).__name__}"
        )
    facts = markets.select(
        "ticker", "event", "series", "category", "settlement", "settled_ts", "fee_multiplier", "fee_type",
        "price_structure", "expected_close_ts",
    )  # fmt: skip
    typed = frame.select(
        pl.col("row").cast(pl.UInt64), "ts", pl.col("ticker").cast(pl.String),
        pl.col("side").cast(pl.String).cast(TAKER), pl.col("price").cast(pl.Int16),
    ).sort("row", maintain_order=True)  # fmt: skip
    matched = typed.join(facts, on="ticker", how="inner", maintain_order="left")
    early = (pl.col("ts") <= pl.col("expected_close_ts")).fill_null(True)
    inside = (pl.col("price") > KNOWN[0]) & (pl.col("price") < KNOWN[1])
    open_ = matched if terms.extremes else matched.filter(inside & early)
    per_market, per_event = terms.per_market, terms.per_event
    once = open_ if per_market is None else open_.filter(pl.int_range(pl.len()).over("ticker") < per_market)
    sided = once if terms.both_sides else once.filter(pl.col("side") == pl.col("side").first().over("event"))
    capped = sided if per_event is None else sided.filter(pl.int_range(pl.len()).over("event") < per_event)
    steps = [frame.height, matched.height, open_.height, once.height, sided.height, capped.height]
    dropped = [before - after for before, after in pairwise(steps)]
    left = Left(
        fires=frame.height,
        unmatched=dropped[0],
        known=dropped[1],
        repeated=dropped[2],
        other_side=dropped[3],
        capped=dropped[4],
    )
    return capped, left


Array = npt.NDArray[Any]


def _paid(rule: str, later: Found, fired: Array, price: Array, mid: Array, no: Array) -> tuple[Array, Array]:
    """Return the times (µs) and prices of our side (1/10,000 dollar) of fills; 0 without a fill."""
    if rule == "next_print":
        return later.ts, np.where(later.ts > 0, np.where(no, PRICE - later.price, later.price), 0)
    yes = price if rule == "print" else mid
    return fired, np.where(no, PRICE - yes, yes)


def _dearer(paid: Array, ticks: int, structures: pl.Series) -> Array:
    """Raise prices by a number of steps of their market's grid; prices of 0 (no fill) stay."""
    if not ticks:
        return paid
    table = pl.DataFrame({"paid": paid, "structure": structures})
    distinct = table.unique().with_columns(
        pl.struct("paid", "structure")
        .map_elements(lambda row: _raised(row["paid"], row["structure"], ticks), pl.Float64)
        .alias("raised")
    )
    joined = table.join(
        distinct, on=["paid", "structure"], how="left", maintain_order="left", nulls_equal=True
    )
    return joined["raised"].to_numpy()


def _raised(paid: float, structure: str | None, ticks: int) -> float:
    if not paid:
        return 0.0
    try:
        grid = TickGrid.named(structure or "linear_cent")
    except UnitError:
        grid = TickGrid.named("linear_cent")
    for _ in range(ticks):
        below = grid.floor(int(paid))
        step = grid.ceil(below + 1) - below
        # The grid has no higher price; the cost is just below a dollar.
        paid = min(paid + step, PRICE - 1) if step else PRICE - 1
    return float(paid)


def _rested(
    kept: pl.DataFrame, tape: Tape, books: pl.DataFrame | None, terms: EntryTerms
) -> tuple[Array, Array, Array]:
    """Return the times (µs), prices (1/10,000 dollar) and contracts of the fills of quotes that joined the best bid."""
    assert books is not None
    quotes = maker.joining(kept, books)
    rested = maker.rest(
        quotes,
        tape,
        books,
        contracts=terms.contracts,
        life_s=terms.window_s,
        latency_s=terms.latency_s,
    )
    own = rested.filter(pl.col("book") == maker.BOOKS[0], pl.col("contracts") > 0)
    found = kept.select(fire="row").join(
        own.select("fire", "price", "contracts", at=pl.col("first_ts").dt.epoch("us")),
        on="fire",
        how="left",
        maintain_order="left",
    )
    paid, got, at = (found[name].fill_null(0).to_numpy() for name in ("price", "contracts", "at"))
    # A fraction of a contract pays the fee of one contract, as in `maker.entries`.
    whole = np.where(got > 0, np.maximum(got.astype(np.int64), 1), 0)
    return at, np.round(paid * PRICE), whole


def _fees(kept: pl.DataFrame, at: Array, paid: Array, got: Array, schedule: FeeSchedule, role: Role) -> Array:
    """Return the fees of fills in dollars per contract.

    A fill over several levels pays the fee of its mean price, which is not lower because the fee is concave in the price.
    """
    terms = kept.select("series", "fee_type", "fee_multiplier", pl.Series("ts", at).cast(TIME))
    fees = np.zeros(len(paid))
    for contracts in np.unique(got[got > 0]).tolist():
        some = got == contracts
        fees[some] = schedule.fees(
            terms.filter(pl.Series(some)), np.round(paid[some]) / PRICE, contracts=contracts, role=role
        )
    return fees


def _entries(
    kept: pl.DataFrame,
    later: Found,
    filled: Array,
    at: Array,
    paid: Array,
    fees: Array,
    mid: Array,
    exclusive: bool | Collection[str] | None,
) -> pl.DataFrame:
    no = pl.col("side").cast(pl.String) == "no"
    dollars = pl.col("settlement").cast(pl.Float64) / PRICE
    fired = pl.col("price").cast(pl.Float64) / PRICE
    known = pl.Series(filled)

    def where(values: Array) -> pl.Expr:
        return pl.when(known).then(pl.Series(values))

    one = (
        pl.lit(bool(exclusive))
        if exclusive is None or isinstance(exclusive, bool)
        else pl.col("event").is_in(list(exclusive))
    )
    frame = kept.select(
        pl.col("row").alias("fire"), "ts", "ticker", "event",
        pl.col("series").fill_null(""), pl.col("category").fill_null(""), "side",
        pl.when(no).then(1 - fired).otherwise(fired).alias("fired_at"),
        pl.Series("mid", mid),
        pl.Series("filled", filled),
        where(at).cast(TIME).alias("entry_ts"),
        where(paid).alias("price"),
        where(fees).alias("fee"),
        where(paid + fees).alias("cost"),
        pl.when(no).then(1 - dollars).otherwise(dollars).alias("value"),
        "settled_ts",
        one.alias("exclusive"),
    )  # fmt: skip
    profit = pl.when("filled").then(pl.col("value") - pl.col("cost")).otherwise(0.0)
    whole = frame.with_columns(profit.alias("pnl"))
    return whole.select(pl.col(name).cast(dtype) for name, dtype in ENTRIES_SCHEMA.items())
