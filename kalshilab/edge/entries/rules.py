"""Entries: what one could have had of a signal's fires, and for how much.

The ladder of entry rules, from what is only diagnosis to what is judged:

================ ======================================================================================
rule             entry
================ ======================================================================================
"print"          (E1) the firing print's price: too good by a half-spread; for diagnosis
"mid"            (E2) half a spread from it, without fees: what the signal knows; for diagnosis
"next_print"     (E3) the first later print whose taker bought our side, after the latency and within the
                 window; else no fill, and a profit of nothing.  The default without books
"book"           (E4) the displayed asks of our side after the latency (`kalshilab.edge.entries.book_taker`)
"maker"          (E5) a quote that joins the best bid of our side as of the fire, live after the latency and until
                 the window is over, filled where the market goes through it: the hardest of the four books of
                 `kalshilab.edge.entries.maker`.  Where there is no bid to join, or the quote would take, no fill
================ ======================================================================================

Never an earlier print, never the other side.  Fires of one market after its first, of an event's other side, and
where the outcome is all but known (98 cents and more, 2 and less, or after the close that was expected) are left out
and counted.
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
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.errors import EdgeError, UnitError
from kalshilab.market.fee_schedule import FeeSchedule
from kalshilab.signals.engine.model import as_tape
from kalshilab.tape.lake.source import Source
from kalshilab.tape.schema import TAKER, TIME, check_markets
from kalshilab.units import PRICE, TickGrid, cents

__all__ = ["RULES", "Left", "Rule", "enter", "enter_counted", "half_spread_of"]

Rule = Literal["print", "mid", "next_print", "book", "maker"]
Role = Literal["taker", "maker"]
RULES: Final = ("print", "mid", "next_print", "book", "maker")
KNOWN: Final = (200, 9800)
"""YES prices at which the outcome is all but known, and beyond."""
NEAR: Final = 60
"""Seconds between two prints of opposite takers that show a spread rather than a move."""
SEEN: Final = 2_000_000
"""Prints of a lake from which the spread is estimated."""
FALLBACK: Final = 1.0
"""Half a spread in cents where no two prints show one."""


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """How many fires there were, and why some were left out."""

    fires: int
    unmatched: int
    """In markets that are not in the table of markets."""
    known: int
    """At prices at which the outcome is all but known, or after the expected close."""
    repeated: int
    """After the first `per_market` of their market."""
    other_side: int
    """On the other side than the first of their event."""
    capped: int
    """After the first `per_event` of their event."""


def half_spread_of(tape: Any) -> float:
    """Half the spread, in cents: the median of |difference| / 2 between consecutive prints of a market, of opposite
    takers, at most 60 seconds apart; 1 where there are none.  Of a lake its first two million prints are looked at."""
    if isinstance(tape, Source):
        tape = tape.lazy().head(SEEN).select("market", "ticker", *READS).collect()  # type: ignore[attr-defined]
    frame = as_tape(tape, READS)
    ts, price, taker = (pl.col(name) - pl.col(name).shift(1).over("market") if name != "taker" else
                        pl.col(name) != pl.col(name).shift(1).over("market") for name in READS)  # fmt: skip
    near = frame.lazy().select(ts=ts, price=price.abs(), taker=taker)
    found: Any = (
        near.filter("taker", pl.col("ts") <= pl.duration(seconds=NEAR))
        .select(pl.col("price").median())
        .collect()
        .item()
    )
    return FALLBACK if found is None else float(found) / 200


def enter(fires: Any, tape: Any, markets: Any, **how: Any) -> pl.DataFrame:
    """As `enter_counted`, the entries alone.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> entries = enter(kl.signals.rlm(tape, min_trades=15), tape, markets, latency=2)
    >>> entries.columns[:5]
    ['fire', 'ts', 'ticker', 'event', 'series']
    """
    return enter_counted(fires, tape, markets, **how)[0]


def enter_counted(
    fires: Any,
    tape: Any,
    markets: Any,
    *,
    rule: Rule = "next_print",
    latency: float = 2.0,
    window: float = 1800.0,
    contracts: int = 10,
    schedule: FeeSchedule | None = None,
    half_spread: float | None = None,
    books: pl.DataFrame | None = None,
    limit: float | None = None,
    ticks: int = 0,
    per_market: int | None = 1,
    per_event: int | None = None,
    exclusive: bool | Collection[str] | None = None,
    both_sides: bool = False,
    extremes: bool = False,
) -> tuple[pl.DataFrame, Left]:
    """Entries made of fires, and what was left out.

    Args:
        fires: as a signal's `run` gives them: `row, ts, ticker, side, price`.
        tape: the tape they fired on: a frame, a lake or a tape file, which is read once.
        markets: `kl.to_markets`.
        rule: see the module.
        latency: seconds after the fire before which nothing can be bought (a print at just that time cannot).
        window: seconds after that within which the print has to come (inclusive), or that a quote rests; a book is
            asked once.
        contracts: size of an order, for the rounding of its fee.
        schedule: fees by date; None: `FeeSchedule()`.
        half_spread: cents, for `mid`; None: `half_spread_of(tape)`.
        books: recorded quotes, for rule="book" and "maker" (`kalshilab.edge.entries.book_taker`).
        limit: for rule="book": cents that our side may cost above the firing print's price; None: anything.
        ticks: so many steps of the market's grid dearer (whole cents where its grid is not known).
        per_market, per_event: the first so many fires; None: all.
        exclusive: events of which at most one market settles YES: their tickers, or True for all.
        both_sides: keep fires of both sides of an event.
        extremes: keep fires where the outcome is all but known: at 98 cents and more, 2 and less, or after the
            expected close.

    Returns:
        `kalshilab.edge.ENTRIES_SCHEMA`, a row a fire that was kept, in the order of the tape.

    Raises:
        EdgeError: no frame of fires, an unknown rule, no events in `exclusive`, times or a spread below 0, a fire in a
            market that is not on the tape.
        TapeError: the tape or the markets are not what they should be.
    """
    if rule not in RULES:
        raise EdgeError(f"rule={rule!r}; one of {', '.join(RULES)}")
    if not (latency >= 0 and window > 0 and contracts >= 1 and ticks >= 0):
        raise EdgeError(
            f"enter({latency=}, {window=}, {contracts=}, {ticks=}): seconds, at least one contract"
        )
    if half_spread is not None and not 0 <= half_spread < 50:
        raise EdgeError(f"enter({half_spread=}): cents, from 0 on")
    if exclusive is not None and not isinstance(exclusive, bool):
        known = set(check_markets(markets)["event"])
        if isinstance(exclusive, str) or (exclusive and known.isdisjoint(exclusive)):
            raise EdgeError(f"exclusive={exclusive!r:.60}: tickers of events are asked for, or True for all")
    kept, left = _kept(fires, check_markets(markets), per_market, per_event, both_sides, extremes)
    fired = kept["ts"].dt.epoch("us").to_numpy()
    start = fired + round(latency * 1e6)
    no = (kept["side"].cast(pl.String) == "no").to_numpy()
    row = kept["row"].cast(pl.Int64).to_numpy()
    later = first_later(Wanted(row, kept["ticker"], no, start, start + round(window * 1e6)), tape)
    price = kept["price"].cast(pl.Int64).to_numpy()
    spread = cents(half_spread_of(tape)) if half_spread is None else round(half_spread * 100)
    # A YES taker printed the ask, a NO taker the bid.
    mid = np.clip(price + np.where(later.taker_no, spread, -spread), 1, PRICE - 1)
    if rule in ("book", "maker"):
        if books is None:
            raise EdgeError(
                f'rule="{rule}" needs books=, recorded quotes (kalshilab.edge.entries.book_taker)'
            )
        shown = mids(tops(books), kept["ticker"], fired)
        mid = np.where(np.isnan(shown), mid, shown)
    if rule == "maker":
        at, paid, got = _rested(kept, tape, books, contracts=contracts, life=window, latency=latency)
    elif rule == "book":
        assert books is not None
        ours = np.where(no, PRICE - price, price)
        most = np.full(len(ours), PRICE) if limit is None else ours + round(limit * 100)
        at, paid, got = asked(kept.select("ticker", "side"), start, books, contracts=contracts, limit=most)
    else:
        at, paid = _paid(rule, later, fired, price, mid, no)
        got = np.where(paid > 0, contracts, 0)
    filled = got > 0
    paid = _dearer(paid, ticks, kept["price_structure"])
    role: Role = "maker" if rule == "maker" else "taker"
    fees = (
        np.zeros(len(paid)) if rule == "mid" else _fees(kept, at, paid, got, schedule or FeeSchedule(), role)
    )
    return _entries(
        kept, later, filled, at, paid / PRICE, fees, np.where(no, PRICE - mid, mid) / PRICE, exclusive
    ), left


def _kept(
    fires: Any,
    markets: pl.DataFrame,
    per_market: int | None,
    per_event: int | None,
    both: bool,
    extremes: bool,
) -> tuple[pl.DataFrame, Left]:
    """The fires that count, with what is known of their markets."""
    if isinstance(fires, pl.LazyFrame):
        fires = fires.collect()
    elif not isinstance(fires, pl.DataFrame) and type(fires).__module__.partition(".")[0] != "pandas":
        raise EdgeError(f"{type(fires).__name__} is no frame of fires; a signal's run(tape) gives one")
    frame = fires if isinstance(fires, pl.DataFrame) else pl.from_pandas(fires)
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
    open_ = matched if extremes else matched.filter(inside & early)
    once = open_ if per_market is None else open_.filter(pl.int_range(pl.len()).over("ticker") < per_market)
    sided = once if both else once.filter(pl.col("side") == pl.col("side").first().over("event"))
    capped = sided if per_event is None else sided.filter(pl.int_range(pl.len()).over("event") < per_event)
    steps = [frame.height, matched.height, open_.height, once.height, sided.height, capped.height]
    gone = [before - after for before, after in pairwise(steps)]
    left = Left(
        fires=frame.height,
        unmatched=gone[0],
        known=gone[1],
        repeated=gone[2],
        other_side=gone[3],
        capped=gone[4],
    )
    return capped, left


Array = npt.NDArray[Any]


def _paid(rule: str, later: Found, fired: Array, price: Array, mid: Array, no: Array) -> tuple[Array, Array]:
    """When and at what price of our side, in price units; 0 without a fill."""
    if rule == "next_print":
        return later.ts, np.where(later.ts > 0, np.where(no, PRICE - later.price, later.price), 0)
    yes = price if rule == "print" else mid
    return fired, np.where(no, PRICE - yes, yes)


def _dearer(paid: Array, ticks: int, structures: pl.Series) -> Array:
    """Prices so many steps of their market's grid higher; those of no fill as they are."""
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
        # Above the grid's highest price nothing is sold; what is left is all but a dollar.
        paid = min(paid + step, PRICE - 1) if step else PRICE - 1
    return float(paid)


def _rested(
    kept: pl.DataFrame, tape: Any, books: pl.DataFrame | None, *, contracts: int, life: float, latency: float
) -> tuple[Array, Array, Array]:
    """When and at what price of our side quotes that joined the bid were filled, and with how many contracts."""
    assert books is not None
    rested = maker.rest(
        maker.joining(kept, books), tape, books, contracts=contracts, life=life, latency=latency
    )
    own = rested.filter(pl.col("book") == maker.BOOKS[0], pl.col("contracts") > 0)
    found = kept.select(fire="row").join(
        own.select("fire", "price", "contracts", at=pl.col("first_ts").dt.epoch("us")),
        on="fire",
        how="left",
        maintain_order="left",
    )
    paid, got, at = (found[name].fill_null(0).to_numpy() for name in ("price", "contracts", "at"))
    # Of a fraction of a contract the fee is that of one, as `maker.entries` has it.
    whole = np.where(got > 0, np.maximum(got.astype(np.int64), 1), 0)
    return at, np.round(paid * PRICE), whole


def _fees(kept: pl.DataFrame, at: Array, paid: Array, got: Array, schedule: FeeSchedule, role: Role) -> Array:
    """Fees a contract of orders that got so many; over several levels at their mean price, which is not less
    (the fee is concave in the price)."""
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
    exclusive: Any,
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
