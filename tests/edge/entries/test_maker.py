"""Resting orders: fills by queue position, and adverse selection of the last orders in a queue."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_fires import BEGIN, fires_of, markets_of, tape_of

from kalshilab.edge.entries import maker
from kalshilab.edge.entries.book_taker import QuoteLog
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.stats.inference import bootstrap
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.schema import MARKETS_SCHEMA, TAKER, TAPE_SCHEMA, TIME, with_codes
from kalshilab.units import PRICE

T = "A-1"
START = int(BEGIN.timestamp() * 1e6)
AT_ONCE: dict[str, Any] = {"latency_s": 0, "cancel_latency_s": 0, "contracts": 2}


def at(seconds: float) -> int:
    return START + round(seconds * 1e6)


def orders_of(*sent: tuple[float, str, int], ticker: str = T) -> pl.DataFrame:
    """Return orders sent at (seconds, side, YES price in cents)."""
    return pl.DataFrame(
        {
            "row": range(len(sent)),
            "ts": [BEGIN + timedelta(seconds=s) for s, _, _ in sent],
            "ticker": ticker,
            "side": [side for _, side, _ in sent],
            "price": [cents * 100 for *_, cents in sent],
        },
        schema_overrides={
            "row": pl.UInt64,
            "ts": TIME,
            "side": TAKER,
            "price": pl.Int16,
            "ticker": pl.String,
        },
    )


def got(rested: pl.DataFrame) -> list[float]:
    return rested["contracts"].to_list()


def book_log(size: int = 300) -> QuoteLog:
    """Return a log with a bid of 58 and an ask of 62 for `size` (1/100 contract) each, three contracts by default."""
    log = QuoteLog()
    log.snapshot(at(0), T, yes=[(5800, size), (5700, 9900)], no=[(3800, size), (3700, 9900)])
    return log


def test_each_fill_model_fills_a_queued_order_by_its_rule() -> None:
    # Our two contracts are behind three; prints of two, two and two contracts are at our price.
    tape = tape_of([(s, T, 58, "no") for s in (1, 1, 2, 2, 3, 3)] + [(4, T, 62, "yes")])
    found = maker.rest(orders_of((0, "yes", 58)), tape, book_log().frame(), **AT_ONCE)
    assert found.schema == maker.RESTED_SCHEMA and found["book"].to_list() == list(maker.BOOKS)
    assert got(found) == [0, 2, 2, 2] and found["ahead"].to_list() == [3.0] * 4 and found["posted"].all()
    assert found["first_ts"].to_list() == [None, *(BEGIN + timedelta(seconds=s) for s in (2, 2, 1))]
    assert found["mid"].to_list() == [0.6] * 4 and found["price"].to_list() == [0.58] * 4
    # A bid for NO is an ask for YES: the YES taker at 62 fills it.
    assert got(maker.rest(orders_of((0, "no", 62)), tape, book_log().frame(), **AT_ONCE)) == [0, 0, 0, 2]
    # A print through our price fills the order regardless of the queue; a queue consumed in part gives a partial fill.
    through = tape_of([(1, T, 57, "no")])
    assert got(maker.rest(orders_of((0, "yes", 58)), through, book_log().frame(), **AT_ONCE)) == [2] * 4
    some = tape_of([(1, T, 58, "no")] * 4)
    assert got(maker.rest(orders_of((0, "yes", 58)), some, book_log().frame(), **AT_ONCE)) == [0, 1, 1, 2]


def test_cancellations_move_the_order_up_only_in_the_pro_rata_model() -> None:
    log = book_log(size=600)
    # Three contracts trade, and two of the other three are cancelled: behind us in "queue", ahead of us in "pro_rata".
    log.change(at(1), T, "yes", 5800, -300)
    log.change(at(2), T, "yes", 5800, -200)
    tape = tape_of([(1, T, 58, "no")] * 3 + [(3, T, 58, "no")] * 2)
    found = maker.rest(orders_of((0, "yes", 58)), tape, log.frame(), **AT_ONCE)
    assert got(found) == [0, 0, 1, 2]
    # Prints come before book changes of the same instant, so a traded contract does not count as cancelled.
    # A lost book does not count as a cancellation.
    lost = book_log(size=600)
    lost.lost(at(1), T)
    later = tape_of([(3, T, 58, "no")] * 5)
    assert got(maker.rest(orders_of((0, "yes", 58)), later, lost.frame(), **AT_ONCE)) == [0, 0, 0, 2]


def test_a_quote_of_the_other_side_at_our_price_fills_the_order() -> None:
    log = book_log()
    log.change(at(5), T, "yes", 5800, -300)
    log.change(at(6), T, "no", 4200, 100)
    tape = tape_of([(9, T, 57, "yes")])
    found = maker.rest(orders_of((0, "yes", 58)), tape, log.frame(), **AT_ONCE)
    assert got(found) == [2] * 4 and found["first_ts"][0] == BEGIN + timedelta(seconds=6)
    # There is no fill while other orders bid at that price: such a crossed book mixes two instants.
    crossed = book_log()
    crossed.change(at(6), T, "no", 4200, 100)
    assert got(maker.rest(orders_of((0, "yes", 58)), tape, crossed.frame(), **AT_ONCE)) == [0] * 4


def test_an_order_is_live_from_its_latency_until_its_cancellation_arrives() -> None:
    tape = tape_of([(s, T, 57, "no") for s in (1, 3, 11, 12)])
    quotes = book_log().frame()

    def first(sent: float, **terms: Any) -> float | None:
        found = maker.rest(orders_of((sent, "yes", 58)), tape, quotes, contracts=2, **terms)["first_ts"][0]
        return None if found is None else (found - BEGIN).total_seconds()

    assert first(0, latency_s=0) == 1 and first(0, latency_s=1) == 3 and first(1, latency_s=0) == 3
    # The print is 5 s after the order went live: 4.5 s of life and 0.49 s of cancelling are too short.
    assert first(5.5, latency_s=0.5, life_s=4.5, cancel_latency_s=0.49) is None
    assert first(5.5, latency_s=0.5, life_s=4.5, cancel_latency_s=0.5) == 11


def test_an_order_is_not_posted_if_it_would_take_or_has_no_book_or_another_rests() -> None:
    tape = tape_of([(5, T, 50, "no")])
    log = book_log()
    log.lost(at(50), T)
    sent = orders_of((-1, "yes", 58), (0, "yes", 62), (1, "yes", 58), (2, "yes", 57), (3, "no", 62), (60, "yes", 58))  # fmt: skip
    found = maker.rest(sent, tape, log.frame(), life_s=40, **AT_ONCE).filter(pl.col("book") == "through")
    # In order: no book yet; would take; posted; an order rests; posted on the other side; book lost.
    assert found["posted"].to_list() == [False, False, True, False, True, False]
    assert found["contracts"].to_list() == [0, 0, 2, 0, 0, 0]
    # An order is posted once the previous one has been cancelled.
    again = maker.rest(orders_of((1, "yes", 58), (9, "yes", 58)), tape, log.frame(), life_s=7.9, **AT_ONCE)
    assert again["posted"].all()


def test_orders_join_the_best_bid_of_their_side() -> None:
    tape = tape_of([(1, T, 60, "yes"), (2, T, 60, "yes"), (3, "B-1", 60, "yes")])
    found = maker.joining(fires_of(tape, [(0, "no"), (1, "yes"), (2, "yes")]), book_log().frame())
    assert found.select("row", "price").rows() == [(0, 6200), (1, 5800)]


prints = st.lists(
    st.tuples(st.just("print"), st.integers(0, 2), st.sampled_from(["yes", "no"]), st.integers(1, 9), st.integers(1, 40)),
    max_size=30,
)  # fmt: skip
levels = st.lists(
    st.tuples(st.just("level"), st.integers(0, 2), st.sampled_from(["yes", "no"]), st.integers(1, 9), st.integers(0, 60)),
    min_size=1, max_size=30,
)  # fmt: skip
sent = st.lists(
    st.tuples(st.integers(0, 40), st.sampled_from(["yes", "no"]), st.integers(1, 9)), min_size=1, max_size=5
)


def made(rows: list[Any]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a tape and quotes of one market; prices are in tens of cents of the side."""
    time, tape, quotes = 0, [], []
    for kind, gap, side, price, size in rows:
        time += gap
        (tape if kind == "print" else quotes).append((time, T, side, price * 1000, size * 10))
    names = ["ts", "ticker", "side", "price", "size"]
    kinds = {"ts": TIME, "ticker": pl.String, "side": TAKER, "price": pl.Int16, "size": pl.UInt32}
    frames = [
        pl.DataFrame(some, names, orient="row").with_columns(
            pl.col("ts").cast(pl.Int64) * 1_000_000 + START, pl.col("price").cast(pl.Int64)
        )
        for some in (tape, quotes)
    ]
    frames = [f.select(pl.col(n).cast(d) for n, d in kinds.items()) for f in frames]
    printed = frames[0].with_columns(
        taker=pl.col("side"), trade_id=pl.lit(None, pl.String)
    )  # a print at p YES by its taker
    return with_codes(printed).select(TAPE_SCHEMA.names()), frames[1]


@settings(max_examples=200)
@given(prints, levels, st.randoms(use_true_random=False), sent)
def test_fills_grow_from_through_to_touch_and_equal_those_of_a_plain_loop(
    some: list[Any], other: list[Any], shuffle: Any, wanted: list[tuple[int, str, int]]
) -> None:
    rows = [*some, *other]
    shuffle.shuffle(rows)
    tape, quotes = made(rows)
    wanted = sorted(wanted)
    sent = orders_of(*((s, side, 10 * p) for s, side, p in wanted))
    found = maker.rest(sent, tape, quotes, life_s=8, latency_s=1, cancel_latency_s=0, contracts=2)
    by = [found.filter(pl.col("book") == b) for b in maker.BOOKS]
    for hard, easy in pairwise(by):
        assert (hard["contracts"] <= easy["contracts"]).all()
        both = hard["first_ts"].is_not_null()
        assert (easy["first_ts"].filter(both) <= hard["first_ts"].filter(both)).all()
    assert found["contracts"].max() <= 2 and not found.filter(~pl.col("posted"))["contracts"].sum()  # type: ignore[operator]
    # A plain loop computes "touch", "queue" and "through" for the first order.
    first = next((r for r in by[0].iter_rows(named=True) if r["posted"]), None)
    if first is None:
        return
    live, stop = first["live_ts"], first["live_ts"] + timedelta(seconds=8)
    ours = round(first["price"] * PRICE)
    shown: dict[tuple[str, int], int] = {}
    steps = sorted({*quotes["ts"], *tape["ts"]})
    queue, filled = None, dict.fromkeys(("through", "queue", "touch"), 0.0)
    for now in steps:
        if now > live and queue is None:
            queue = shown.get((first["side"], ours), 0)
        inside = live < now <= stop
        for row in tape.filter(pl.col("ts") == now).iter_rows(named=True):
            hit = "no" if row["taker"] == "yes" else "yes"
            price = row["price"] if hit == "yes" else PRICE - row["price"]
            if inside and hit == first["side"] and price <= ours:
                filled["touch"] = 200
                if price < ours:
                    filled["through"] = filled["queue"] = 200
                else:
                    reached = max(row["size"] - queue, 0)  # type: ignore[operator]
                    filled["queue"] = min(200, filled["queue"] + reached)
                    queue = max(queue - row["size"], 0)  # type: ignore[operator]
        for row in quotes.filter(pl.col("ts") == now).iter_rows(named=True):
            shown[row["side"], row["price"]] = row["size"]
        across = "no" if first["side"] == "yes" else "yes"
        bid, other_bid = (max((p for (s, p), q in shown.items() if s == side and q), default=0) for side in (first["side"], across))  # fmt: skip
        if inside and bid < PRICE - other_bid <= ours:
            filled = dict.fromkeys(filled, 200.0)
    for name, contracts in filled.items():
        row = found.filter(pl.col("book") == name, pl.col("fire") == first["fire"])
        assert row["contracts"].item() == contracts / 100


def informed(n: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Simulate orders, tape, quotes and markets in which the last order in the queue has a true edge of zero.

    Three contracts rest at the best bid of each market, with our order behind them.  A noise trader sells one contract,
    and a new one joins the end of the queue.  An informed trader either sells through the level, and the mid falls by J,
    or buys, and the mid rises by J.  With r the share of noise trades, four noise sales reach our order first with
    probability r⁴, and an informed sale with (1 − r⁴)/2.  The mean value of our fills is therefore zero for
    J = h · (1 + 2·r⁴/(1 − r⁴)), where h is half the spread.
    """
    rng = np.random.default_rng(seed)
    r, half, ahead = 0.7, 600, 3
    late = r ** (ahead + 1)
    jump = round(half * (1 + 2 * late / (1 - late)))
    noise = rng.geometric(1 - r, n) - 1
    down = rng.random(n) < 0.5
    mid = rng.integers(2500, 7500, n)
    yes_side = rng.random(n) < 0.5
    # Prices are those of our side; a NO order sees the mirrored book.
    value = rng.random(n) < (mid + np.where(down, -jump, jump)) / PRICE
    log, prints, orders = QuoteLog(), [], []
    for e in range(n):
        ticker, ours, theirs = f"E{e}-T", *(("yes", "no") if yes_side[e] else ("no", "yes"))
        m, start = int(mid[e]), START + e * 60_000_000
        bid = m - half

        def around(ts: int, middle: int, name: str = ticker, a: str = ours, b: str = theirs) -> None:
            sides = {
                a: [(middle - half, 300), (middle - half - 100, 5000)],
                b: [(PRICE - middle - half, 300), (PRICE - middle - half - 100, 5000)],
            }
            log.snapshot(ts, name, sides["yes"], sides["no"])

        def print_(
            ts: int, price: int, size: int, taker: str, name: str = ticker, flip: bool = ours == "no"
        ) -> None:
            prints.append((ts, name, PRICE - price if flip else price, size, taker))

        around(start, m)
        orders.append((e, start + 1_000_000, ticker, ours, bid if ours == "yes" else PRICE - bid))
        now = start + 2_000_000
        for _ in range(int(noise[e])):
            now += 2_000_000
            print_(now, bid, 100, theirs)
            log.change(now, ticker, ours, bid, -100)
            log.change(now + 500_000, ticker, ours, bid, 100)
        now += 2_000_000
        if down[e]:
            print_(now, bid, 300, theirs)
            print_(now, bid - 100, 100, theirs)
        else:
            print_(now, m + half, 300, ours)
        around(now, m + (-jump if down[e] else jump))
    order = pl.DataFrame(orders, ["row", "ts", "ticker", "side", "price"], orient="row").select(
        pl.col("row").cast(pl.UInt64), pl.col("ts").cast(TIME), "ticker", pl.col("side").cast(TAKER), pl.col("price").cast(pl.Int16),
    )  # fmt: skip
    tape = pl.DataFrame(prints, ["ts", "ticker", "price", "size", "taker"], orient="row").select(
        pl.col("ts").cast(TIME), "ticker", pl.col("price").cast(pl.Int16), pl.col("size").cast(pl.UInt32),
        pl.col("taker").cast(TAKER), pl.lit(None, pl.String).alias("trade_id"),
    )  # fmt: skip
    yes = np.where(yes_side, value, ~value)
    facts = {"ticker": [f"E{e}-T" for e in range(n)], "event": [f"E{e}" for e in range(n)], "series": "KXS", "category": "c",
             "result": np.where(yes, "yes", "no"), "settlement": np.where(yes, PRICE, 0), "fee_multiplier": 1.0,
             "fee_type": "quadratic", "settled_ts": [BEGIN + timedelta(days=300)] * n}  # fmt: skip
    table = pl.DataFrame(facts)
    markets = table.select(
        (pl.col(c) if c in table.columns else pl.lit(None).alias(c)).cast(d)
        for c, d in MARKETS_SCHEMA.items()
    )
    return (
        order,
        with_codes(tape.sort("ts", maintain_order=True)).select(TAPE_SCHEMA.names()),
        log.frame(),
        markets,
    )


def edges_of(seed: int, n: int = 6_000) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the bootstrapped edge in each book with the orders, quotes and markets that it was measured on."""
    orders, tape, quotes, markets = informed(n, seed)
    rested = maker.rest(orders, tape, quotes, contracts=1, latency_s=0.5, life_s=3000)
    assert rested["posted"].all()
    found = {}
    for book in maker.BOOKS:
        entries = maker.entries(rested, markets, book=book)
        assert entries.schema == ENTRIES_SCHEMA and entries["fee"].drop_nulls().max() == 0
        found[book] = bootstrap(
            entries["pnl"].to_numpy(), entries["event"].to_numpy(), resamples=499, seed=seed
        )
    return found, rested, quotes, markets


def test_t17_the_queue_model_finds_a_zero_edge_where_touch_finds_a_false_one() -> None:
    worlds = [edges_of(seed) for seed in range(5)]
    # The true edge is zero.  The interval of "queue" contains it, that of "through" is never above it, and that of
    # "touch" always is.
    assert sum(found["queue"].lower < 0 < found["queue"].upper for found, *_ in worlds) >= 3
    assert all(found["through"].lower <= 0 for found, *_ in worlds)
    assert all(found["touch"].lower > 0 for found, *_ in worlds)
    _, rested, quotes, markets = worlds[0]
    # Late fills come from informed traders.
    gaps = {b: maker.selection(rested, markets, book=b).gap for b in maker.BOOKS}
    assert gaps["through"] < gaps["queue"] < gaps["touch"]
    # After an hour all information is in the mid.  Without the noise of outcomes, the edge of "queue" is still zero.
    hour = maker.markouts(rested, quotes, markets, book="queue", horizons=(3600,), resamples=199)
    queue = hour.filter(pl.col("group") == "filled", pl.col("horizon_s") == 3600).row(0, named=True)
    assert queue["lower"] < 0 < queue["upper"] and queue["upper"] - queue["lower"] < 0.6
    marks = maker.markouts(rested, quotes, markets, book="through", resamples=199)
    assert marks.columns == ["horizon_s", "group", "markout", "lower", "upper", "n"]
    soon = dict(marks.filter(pl.col("horizon_s") == 60).select("group", "markout").rows())
    # A fill by an informed trader earns half the spread and loses the jump; an unfilled quote misses the jump.
    assert soon["filled"] == pytest.approx(6 - 9.79, abs=0.01)
    late = dict(marks.filter(pl.col("horizon_s") == 3600).select("group", "markout").rows())
    assert late["unfilled"] == pytest.approx(6 + 9.79, abs=0.01)
    settled = marks.filter(pl.col("horizon_s").is_null(), pl.col("group") == "filled").row(0, named=True)
    assert settled["lower"] < soon["filled"] < settled["upper"]


@pytest.mark.soak
def test_t17_at_full_size() -> None:
    found = [edges_of(seed, 3_000)[0] for seed in range(100, 200)]
    assert sum(f["queue"].lower < 0 < f["queue"].upper for f in found) >= 88
    assert sum(f["queue"].p < 0.05 for f in found) <= 12
    assert sum(f["through"].lower > 0 for f in found) == 0
    assert np.mean([f["touch"].estimate for f in found]) == pytest.approx(3.56, abs=0.3)
    assert np.mean([f["through"].estimate for f in found]) == pytest.approx(-1.89, abs=0.3)


def test_a_lake_and_a_frame_give_the_same_fills(tmp_path: Path) -> None:
    orders, tape, quotes, markets = informed(40, seed=3)
    lake = Lake.create(tmp_path / "lake")
    lake.append(tape, markets)
    assert maker.rest(orders, lake, quotes).equals(maker.rest(orders, tape, quotes))


def test_entries_selection_and_markouts_of_a_maker_equal_a_manual_computation() -> None:
    tape = tape_of([(1, T, 58, "no")] * 4)
    markets = markets_of({T: "yes"}, fee_type=["quadratic_with_maker_fees"])
    sent = orders_of((0, "yes", 58), (1, "yes", 57))
    rested = maker.rest(sent, tape, book_log().frame(), **AT_ONCE)
    entries = maker.entries(rested, markets, book="touch", exclusive={"A"})
    first, second = entries.row(0, named=True), entries.row(1, named=True)
    # BEGIN is in June 2025: makers pay a quarter of a cent.
    assert [first[k] for k in ("price", "fee", "cost", "value", "pnl")] == pytest.approx(
        [0.58, 0.0025, 0.5825, 1, 0.4175]
    )
    assert first["exclusive"] and not second["filled"] and second["pnl"] == 0 and second["price"] is None
    one = maker.selection(rested, markets, book="touch")
    assert (one.n_filled, one.n_quoted) == (1, 1) and one.filled == pytest.approx(42) and one.gap == 0
    none = maker.selection(rested, markets)
    assert none.n_filled == 0 and np.isnan(none.gap)
    marks = maker.markouts(rested, book_log().frame(), markets, book="touch")
    # A single event gives no interval.  The mid does not move; then the market settles.
    assert (
        marks["markout"].to_list() == pytest.approx([2.0] * 4 + [42.0]) and marks["lower"].null_count() == 5
    )


def test_invalid_arguments_are_refused() -> None:
    tape, quotes = tape_of([(1, T, 58, "no")]), book_log().frame()
    for arguments in ({"contracts": 0}, {"life_s": 0}, {"latency_s": -1}, {"cancel_latency_s": -1}):
        with pytest.raises(EdgeError):
            maker.rest(orders_of((0, "yes", 58)), tape, quotes, **arguments)  # type: ignore[arg-type]
    with pytest.raises(EdgeError, match="price must be"):
        maker.rest(orders_of((0, "yes", 0)), tape, quotes)
    rested = maker.rest(orders_of((0, "yes", 58)), tape, quotes)
    with pytest.raises(EdgeError, match="one of through"):
        maker.entries(rested, markets_of({T: "yes"}), book="front")  # type: ignore[arg-type]
    with pytest.raises(EdgeError, match="markets must contain every order's market"):
        maker.entries(rested, markets_of({"B-1": "yes"}))
    assert maker.rest(orders_of(), tape, quotes).schema == maker.RESTED_SCHEMA
