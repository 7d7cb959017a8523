"""Fill models: the fills of takers and makers, and all models side by side."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.errors import ExchangeError
from kalshilab.exchange import Exchange
from kalshilab.exchange.state.fill_model import MODES, FillModel
from kalshilab.exchange.state.order_book import MarketBook, RestingOrder
from kalshilab.exchange.state.shadow_fills import ShadowFills
from kalshilab.kalshi.wire import rest as wire
from kalshilab.tape import sample
from kalshilab.units import format_price

COUNT = iter(range(10**9))


def order(side: str = "bid", price: int = 4_500, size: int = 100, **facts: Any) -> RestingOrder:
    number = next(COUNT)
    return RestingOrder(
        order_id=f"o{number}", client_order_id=f"c{number}", ticker="A", side=side, price=price, initial=size,
        remaining=size, created=number, **facts,
    )  # fmt: skip


def taken(book: MarketBook, *args: Any) -> list[tuple[int, int]]:
    return [(m.price, m.size) for m in book.take(order(*args)).matches]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"mode": "hopeful"}, "mode must be one of"),
        ({"haircut": 1.0}, "haircut must be >= 0 and < 1, got 1.0"),
        ({"haircut": -0.1}, "haircut must be >= 0 and < 1, got -0.1"),
        ({"latency_us": -1}, "latency_us must be >= 0, got -1"),
        ({"cancels": "ahead"}, "cancels must be"),
    ],
)
def test_invalid_model_arguments_are_refused(model: Any, message: str) -> None:
    with pytest.raises(ExchangeError, match=message):
        FillModel(**model)
    with pytest.raises(ExchangeError, match="kept must be >= 1, got 0"):
        ShadowFills(kept=0)


# Takers


def test_a_haircut_leaves_its_share_of_each_level() -> None:
    book = MarketBook(FillModel(haircut=0.5))
    book.requote({}, {4_500: 100, 4_600: 300, 4_700: 1_000})
    assert book.available("bid", 4_600) == 200
    assert taken(book, "bid", 4_600, 500) == [(4_500, 50), (4_600, 150)]
    # The order wanted more, so the rest of each level is withdrawn and its remainder does not cross.
    assert book.asks == {4_700: 1_000}


def test_many_small_orders_get_no_more_than_one_large_one() -> None:
    once, twice = (MarketBook(FillModel(haircut=0.25)) for _ in range(2))
    for book in (once, twice):
        book.requote({}, {4_500: 1_000})
    whole = sum(n for _, n in taken(once, "bid", 4_500, 1_000))
    pieces = sum(n for _ in range(20) for _, n in taken(twice, "bid", 4_500, 100))
    assert whole == pieces == 750


def test_taken_size_does_not_grow_back_until_new_size_arrives() -> None:
    book = MarketBook()
    book.requote({}, {4_500: 100, 4_600: 100})
    taken(book, "bid", 4_500, 60)
    book.requote({}, {4_500: 100, 4_600: 100})
    assert (book.asks, book.consumed("ask")) == ({4_500: 40, 4_600: 100}, {4_500: 60})
    book.requote({}, {4_500: 130, 4_600: 100})
    assert book.asks[4_500] == 70, "30 are new"
    book.requote({}, {4_500: 50, 4_600: 100})
    assert 4_500 not in book.asks, "the real book shows less than we took"
    assert book.consumed("ask") == {4_500: 50}
    book.printed(4_500, 20, "yes")
    book.requote({}, {4_500: 50, 4_600: 100})
    assert book.asks[4_500] == 20, "20 traded and the level stands: they arrived after ours"
    book.requote({}, {4_600: 100})
    book.requote({}, {4_500: 50})
    assert book.asks == {4_500: 50}, "a level that returns is a new one"


# Makers


def resting(mode: Any, *orders: RestingOrder, bids: Any = (), asks: Any = ()) -> MarketBook:
    book = MarketBook(FillModel(mode=mode))
    book.requote(dict(bids), dict(asks))
    for o in orders:
        book.rest(o)
    return book


@pytest.mark.parametrize(("mode", "filled"), [("pessimistic", 0), ("queue", 20), ("optimistic", 50)])
def test_a_print_at_the_price_fills_by_mode(mode: str, filled: int) -> None:
    mine = order("ask", 4_600, 80)
    book = resting(mode, mine, asks={4_600: 30})
    assert sum(n for _, n in book.printed(4_600, 50, "yes")) == filled
    assert mine.ahead == 0, "the queue moves under every model"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("taker", ["yes", "no"])
def test_a_print_through_the_price_fills_whichever_side_took(mode: str, taker: str) -> None:
    mine = order("ask", 4_600, 80)
    book = resting(mode, mine, asks={4_600: 3_000})
    assert book.printed(4_700, 50, taker) == [(mine, 50)]
    assert book.printed(4_500, 50, taker) == []


def test_a_crossing_quote_fills_unless_the_model_is_pessimistic() -> None:
    for mode in MODES:
        mine = order("ask", 4_600, 80)
        book = resting(mode, mine)
        fills = book.requote({4_700: 50, 4_600: 10, 4_500: 5}, {4_800: 9})
        assert fills == ([] if mode == "pessimistic" else [(mine, 60)])
        assert book.bids == {4_500: 5}, "the book is not crossed"
        assert book.consumed("bid") == {4_700: 50, 4_600: 10}


def test_a_trade_reported_twice_counts_once() -> None:
    for first in ("level", "print"):
        mine = order("bid", 4_400, 10)
        book = MarketBook(mirrored=True)
        book.apply("bid", 4_400, 100)
        book.rest(mine)
        for what in (first, "print" if first == "level" else "level"):
            book.now += 1_000
            if what == "level":
                assert book.apply("bid", 4_400, -40) == []
            else:
                assert book.printed(4_400, 40, "no") == []
        assert mine.ahead == 60
        book.now += 10_000_000
        book.apply("bid", 4_400, -30)
        assert mine.ahead == 30, "30 remain, so at most 30 are ahead"
        book.now += 10_000_000
        assert book.printed(4_400, 35, "no") == [(mine, 5)], "long after, the print is a separate trade"


def test_cancels_reduce_the_queue_behind_or_pro_rata() -> None:
    for cancels, ahead in (("behind", 100), ("pro_rata", 75)):
        mine = order("bid", 4_400, 10)
        book = MarketBook(FillModel(cancels=cancels), mirrored=True)  # type: ignore[arg-type]
        book.apply("bid", 4_400, 100)
        book.rest(mine)
        book.apply("bid", 4_400, 100)
        book.now += 10_000_000
        book.apply("bid", 4_400, -50)
        assert mine.ahead == ahead
        for first in ("print", "level"):
            book.now += 10_000_000
            for what in (first, "level" if first == "print" else "print"):
                if what == "print":
                    book.printed(4_400, 20, "no")
                else:
                    book.apply("bid", 4_400, -20)
            ahead -= 20
            assert mine.ahead == ahead, "a trade does not count as a cancel, whichever message comes first"


# Side by side


def test_shadow_orders_follow_their_order() -> None:
    shadows = ShadowFills("queue")
    book = MarketBook(FillModel(), shadows)
    book.requote({}, {4_600: 30})
    mine = order("ask", 4_600, 100)
    book.rest(mine)
    for price, size, filled in ((4_600, 50, (0, 20, 50)), (4_700, 60, (60, 80, 100))):
        for o, n in book.printed(price, size, "yes"):
            o.remaining -= n
            o.filled += n
        row = shadows.frame().row(0, named=True)
        assert tuple(row[m] for m in MODES) == filled
        assert (row["filled"], row["size"], row["waits"]) == (filled[1], 100, True)
    book.remove(mine)
    mine.remaining = 0
    book.printed(4_700, 500, "yes")
    row = shadows.frame().row(0, named=True)
    assert (row["pessimistic"], row["waits"], row["size"]) == (60, False, 100), (
        "a cancel ends the order under every model"
    )


def test_shadow_orders_outlive_a_filled_order_and_end_with_the_market() -> None:
    shadows = ShadowFills("optimistic")
    book = MarketBook(FillModel("optimistic"), shadows)
    late, soon = order("bid", 4_400, 10), order("bid", 4_400, 10, expires=500)
    for o in (late, soon):
        book.rest(o)
    for o, n in book.printed(4_400, 20, "no"):
        o.remaining -= n
        o.filled += n
        book.remove(o)
    assert book.fillable and not book.own
    book.now = 600
    book.printed(4_300, 15, "no")
    frame = shadows.frame()
    assert frame["pessimistic"].to_list() == [10, 0], "the other order would have expired"
    assert frame["waits"].to_list() == [False, False]
    book.clear()
    assert not book.fillable


def test_a_moved_order_keeps_its_shadow_fills() -> None:
    shadows = ShadowFills("queue")
    book = MarketBook(FillModel(), shadows)
    mine = order("ask", 4_600, 100)
    book.requote({}, {4_600: 50})
    book.rest(mine)
    book.printed(4_600, 40, "yes")
    book.remove(mine)
    mine.price, mine.remaining, mine.filled = 4_700, 70, 30  # moved, and took 30 before resting again
    book.rest(mine)
    book.printed(4_700, 10, "yes")
    row = shadows.frame().row(0, named=True)
    assert (row["optimistic"], row["size"], row["filled"], row["pessimistic"]) == (50, 70, 0, 0)


def test_the_number_of_remembered_orders_is_limited() -> None:
    shadows = ShadowFills(kept=3)
    book = MarketBook(FillModel(), shadows)
    for _ in range(50):
        o = order()
        book.rest(o)
        book.remove(o)
    assert 3 <= len(shadows) <= 10 and shadows.frame().height == len(shadows)


sides = st.sampled_from(["bid", "ask"])
quotes = st.dictionaries(st.integers(1, 49).map(lambda c: c * 100), st.integers(1, 300), max_size=4)
events = st.lists(
    st.one_of(
        st.tuples(st.just("quote"), quotes, quotes, st.integers(0, 50)),
        st.tuples(st.just("print"), st.integers(30, 70), st.integers(1, 400), st.sampled_from(["yes", "no"])),
        st.tuples(st.just("order"), sides, st.integers(30, 70), st.integers(1, 300)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("take"), sides, st.integers(30, 70), st.integers(1, 300)),
    ),
    max_size=50,
)


@settings(max_examples=300, deadline=None)
@given(events, st.sampled_from(MODES))
def test_fills_are_ordered_pessimistic_queue_optimistic(steps: Any, mode: Any) -> None:
    shadows = ShadowFills(mode)
    book = MarketBook(FillModel(mode), shadows)
    placed: list[RestingOrder] = []

    def fill(fills: Any) -> None:
        for o, n in fills:
            o.remaining -= n
            o.filled += n
            if not o.remaining:
                book.remove(o)

    for step in steps:
        if step[0] == "quote":
            shift = step[3] * 100 - 2_500
            bids = {p + shift: s for p, s in step[1].items() if 0 < p + shift < 10_000}
            asks = {10_000 - p + shift: s for p, s in step[2].items() if 0 < 10_000 - p + shift < 10_000}
            fill(book.requote(bids, asks))
        elif step[0] == "print":
            fill(book.printed(step[1] * 100, step[2], step[3]))
        elif step[0] == "cancel":
            if book.own:
                cancelled = book.own[step[1] % len(book.own)]
                book.remove(cancelled)
                cancelled.remaining = 0
        else:
            o = order(step[1], step[2] * 100, step[3], stp="maker")
            result = book.take(o)
            for own in result.cancelled:
                book.remove(own)
                own.remaining = 0
            done = sum(m.size for m in result.matches)
            o.remaining -= done
            o.filled += done
            if o.remaining and step[0] == "order":
                book.rest(o)
                placed.append(o)
        bid, ask = book.best_bid(), book.best_ask()
        assert bid is None or ask is None or bid < ask
        frame = shadows.frame()
        assert frame.height == len(placed)
        for row in frame.iter_rows(named=True):
            assert row["pessimistic"] <= row["queue"] <= row["optimistic"] <= row["size"]
            assert row[mode] == row["filled"]


def quote_and_hold(model: FillModel) -> Exchange:
    """Play the sample with a bid and an ask in each market, at the best prices of its first book."""
    ex = Exchange(*sample(), fills=model, echo_trades=False)
    quoted: set[str] = set()
    while ex.step():
        for listing in ex.listings if ex.prints_played % 20 == 0 else ():
            ticker = listing.facts.ticker
            if listing.status != "active" or ticker in quoted:
                continue
            bid, ask = listing.book.best_bid(), listing.book.best_ask()
            if bid is None or ask is None or not bid < ask:
                continue
            quoted.add(ticker)
            for side, price in (("bid", bid), ("ask", ask)):
                if listing.facts.grid.valid(price):
                    ex.desk.create(
                        wire.CreateOrder(
                            ticker=ticker, side=side, count="40.00", price=format_price(price), post_only=True,
                            time_in_force="good_till_canceled", self_trade_prevention_type="maker",
                        )
                    )  # fmt: skip
    return ex


def test_shadow_fills_equal_the_fills_of_a_run_with_that_model() -> None:
    runs = {mode: quote_and_hold(FillModel(mode)) for mode in MODES}
    for mode, ex in runs.items():
        frame = ex.shadow_fills()
        assert frame.height > 50
        assert frame.filter(pl.col("pessimistic") > pl.col("queue")).is_empty()
        assert frame.filter(pl.col("queue") > pl.col("optimistic")).is_empty()
        assert (frame["filled"] == frame[mode]).all()
        made = sum(f.size for f in ex.account.fills if not f.is_taker)
        assert made == frame["filled"].sum()
        assert ex.account.drift() == 0
    # The shadow fills of one run equal the fills of the runs with those models.
    frame = runs["queue"].shadow_fills()
    for mode in ("pessimistic", "optimistic"):
        assert frame[mode].to_list() == runs[mode].shadow_fills()["filled"].to_list()
    totals = [frame[mode].sum() for mode in MODES]
    assert totals == sorted(totals) and totals[0] < totals[2]
