"""The book: price-time priority, never crossed, and the fills of resting orders."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.exchange.state.order_book import MarketBook, RestingOrder

COUNT = iter(range(10**9))


def order(side: str = "bid", price: int = 4_500, size: int = 100, **facts: Any) -> RestingOrder:
    number = next(COUNT)
    return RestingOrder(
        order_id=f"o{number}", client_order_id=f"c{number}", ticker="A", side=side, price=price, initial=size,
        remaining=size, created=number, **facts,
    )  # fmt: skip


def book(bids: dict[int, int], asks: dict[int, int], *own: RestingOrder) -> MarketBook:
    made = MarketBook()
    made.bids, made.asks = bids, asks
    for o in own:
        made.rest(o)
    return made


def sizes(matches: list[Any]) -> list[tuple[int, int]]:
    return [(m.price, m.size) for m in matches]


def test_a_taker_walks_the_levels_and_pays_each_ones_price() -> None:
    b = book({}, {4_700: 50, 4_600: 30, 4_900: 10})
    assert sizes(b.take(order("bid", 4_700, 100)).matches) == [(4_600, 30), (4_700, 50)]
    assert b.asks == {4_900: 10}
    b = book({4_400: 30, 4_300: 50}, {})
    assert sizes(b.take(order("ask", 4_300, 60)).matches) == [(4_400, 30), (4_300, 30)]
    assert b.bids == {4_300: 20}


def test_a_print_fills_through_then_at_the_price_behind_the_queue() -> None:
    better, first, second = order("ask", 4_500, 10), order("ask", 4_600, 10), order("ask", 4_600, 10)
    b = book({}, {4_600: 30}, better, first, second)
    assert b.printed(4_600, 35, "yes") == [(better, 10)], "25 of 30 ahead traded"
    b.remove(better)
    assert (first.ahead, second.ahead) == (5, 5)
    assert b.printed(4_600, 22, "yes") == [(first, 10), (second, 7)]
    assert b.printed(4_600, 5, "no") == [], "a NO taker hits bids"
    assert b.printed(4_500, 5, "yes") == [], "a print below our price"


def test_background_size_added_later_queues_behind_our_order() -> None:
    mine = order("bid", 4_400, 10)
    b = book({4_400: 20}, {4_600: 5}, mine)
    b.requote({4_400: 500}, {4_600: 5})
    assert mine.ahead == 20
    b.requote({4_400: 8}, {4_600: 5})
    assert mine.ahead == 8, "orders that left were ahead of our order, as far as possible"
    b.requote({4_300: 8}, {4_600: 5})
    assert mine.ahead == 0


def test_a_crossing_quote_fills_our_best_order_first() -> None:
    old, better = order("bid", 4_400, 1_000), order("bid", 4_600, 1_000)
    b = book({}, {}, old, better)
    assert b.requote({}, {4_400: 1_500}) == [(better, 1_000), (old, 500)]
    assert b.asks == {}
    b = book({}, {}, order("bid", 4_500, 1_000))
    fills = b.requote({4_300: 7}, {4_400: 4_000})
    assert [n for _, n in fills] == [1_000]
    assert b.asks == {4_400: 3_000}, "the rest of the quote stays"


def test_self_trade_prevention_stops_or_cancels() -> None:
    resting = order("ask", 4_600, 10)
    b = book({}, {4_500: 5, 4_600: 20}, resting)
    result = b.take(order("bid", 4_700, 100))
    assert (sizes(result.matches), result.stopped, result.cancelled) == ([(4_500, 5), (4_600, 20)], True, [])
    resting = order("ask", 4_600, 10)
    b = book({}, {4_600: 20, 4_700: 5}, resting)
    result = b.take(order("bid", 4_700, 100, stp="maker"))
    assert (sizes(result.matches), result.stopped, result.cancelled) == (
        [(4_600, 20), (4_700, 5)],
        False,
        [resting],
    )


def test_a_partial_take_moves_the_whole_queue_up() -> None:
    first, second = order("ask", 4_600, 10), order("ask", 4_600, 10)
    b = book({}, {4_600: 1_000}, first, second)
    b.take(order("bid", 4_600, 600))
    assert (first.ahead, second.ahead, b.asks) == (400, 400, {4_600: 400})


levels = st.dictionaries(st.integers(1, 49).map(lambda c: c * 100), st.integers(1, 500), max_size=4)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("quote"), levels, levels),
        st.tuples(st.just("print"), st.integers(1, 99), st.integers(1, 800), st.sampled_from(["yes", "no"])),
        st.tuples(st.just("order"), st.sampled_from(["bid", "ask"]), st.integers(1, 99), st.integers(1, 400),
                  st.sampled_from(["taker_at_cross", "maker"])),
    ),
    max_size=40,
)  # fmt: skip


def apply(b: MarketBook, fills: list[tuple[RestingOrder, int]]) -> None:
    for o, n in fills:
        assert 0 < n <= o.remaining
        o.remaining -= n
        if not o.remaining:
            b.remove(o)


@settings(max_examples=400, deadline=None)
@given(actions)
def test_the_book_is_never_crossed_and_sizes_stay_positive(steps: list[tuple[Any, ...]]) -> None:
    b = MarketBook()
    for step in steps:
        if step[0] == "quote":
            # Quotes are uncrossed among themselves: bids below 50 cents, asks above.
            apply(b, b.requote(dict(step[1]), {10_000 - p: s for p, s in step[2].items()}))
        elif step[0] == "print":
            filled = b.printed(step[1] * 100, step[2], step[3])
            assert sum(n for _, n in filled) <= step[2]
            apply(b, filled)
        else:
            o = order(step[1], step[2] * 100, step[3], stp=step[4])
            wanted = b.available(o.side, o.price)
            result = b.take(o)
            assert all(m.price <= o.price if o.side == "bid" else m.price >= o.price for m in result.matches)
            taken = sum(m.size for m in result.matches)
            assert taken <= min(o.remaining, wanted)
            for own in result.cancelled:
                b.remove(own)
            o.remaining -= taken
            if o.remaining and not result.stopped:
                b.rest(o)
        bid, ask = b.best_bid(), b.best_ask()
        assert bid is None or ask is None or bid < ask
        assert all(s > 0 for side in (b.bids, b.asks) for s in side.values())
        assert all(o.remaining > 0 and o.ahead >= 0 for o in b.own)


@settings(max_examples=200, deadline=None)
@given(actions)
def test_background_is_conserved_and_time_decides_within_a_price(steps: list[tuple[Any, ...]]) -> None:
    b = MarketBook()

    def background() -> int:
        return sum(b.bids.values()) + sum(b.asks.values())

    def fair(fills: list[tuple[RestingOrder, int]]) -> None:
        for later, _ in fills:
            for earlier in b.own[: b.own.index(later)]:
                if (earlier.side, earlier.price) == (later.side, later.price):
                    assert {id(o): n for o, n in fills}.get(id(earlier), 0) == earlier.remaining

    for step in steps:
        before = background()
        if step[0] == "quote":
            bids, asks = dict(step[1]), {10_000 - p: s for p, s in step[2].items()}
            consumed = {side: b.consumed(side) for side in ("bid", "ask")}
            world = sum(max(s - consumed["bid"].get(p, 0), 0) for p, s in bids.items())
            world += sum(max(s - consumed["ask"].get(p, 0), 0) for p, s in asks.items())
            fills = b.requote(bids, asks)
            fair(fills)
            assert background() == world - sum(n for _, n in fills)
            apply(b, fills)
        elif step[0] == "print":
            fills = b.printed(step[1] * 100, step[2], step[3])
            fair(fills)
            assert background() == before
            apply(b, fills)
        else:
            o = order(step[1], step[2] * 100, step[3], stp=step[4])
            previewed = b.preview(o)
            assert background() == before
            result = b.take(o)
            assert [m[:2] for m in previewed.matches] == [m[:2] for m in result.matches]
            assert background() == before - sum(m.size for m in result.matches)
            for own in result.cancelled:
                b.remove(own)
            o.remaining -= sum(m.size for m in result.matches)
            if o.remaining and not result.stopped:
                b.rest(o)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(levels, levels), min_size=1, max_size=6), st.integers(1, 99), st.integers(1, 99))
def test_level_changes_equal_one_replacement_of_the_book(
    worlds: list[tuple[dict[int, int], dict[int, int]]], bid: int, ask: int
) -> None:
    whole, single = MarketBook(mirrored=True), MarketBook(mirrored=True)
    for b in (whole, single):
        b.apply("bid", 100, 5)
        for side, price in (("bid", min(bid, ask)), ("ask", max(bid, ask))):
            if not b.crosses(side, price * 100):
                b.rest(order(side, price * 100, 10**6))
    before: tuple[dict[int, int], dict[int, int]] = ({100: 5}, {})
    for bids, right in worlds:
        asks = {10_000 - p: s for p, s in right.items()}
        apply(whole, whole.requote(dict(bids), dict(asks)))
        for side, old, new in (("bid", before[0], bids), ("ask", before[1], asks)):
            for price in old.keys() | new.keys():
                change = new.get(price, 0) - old.get(price, 0)
                if change:
                    apply(single, single.apply(side, price, change))
        before = bids, asks
        world = {**bids}, {**asks}
        for b in (whole, single):
            for side, there in zip(("bid", "ask"), world, strict=True):
                consumed = b.consumed(side)
                shown_here = b.bids if side == "bid" else b.asks
                assert {
                    p: shown_here.get(p, 0) + consumed.get(p, 0) for p in {*shown_here, *consumed}
                } == there


def test_levels_that_a_print_contradicts_are_dropped() -> None:
    b = MarketBook(mirrored=True)
    b.requote({4_400: 10, 4_300: 10}, {4_500: 10, 4_600: 10})
    for price, taker in ((4_500, "yes"), (4_400, "no"), (4_450, "yes")):
        assert not b.drop_crossed(price, taker)
    assert b.drop_crossed(4_600, "yes")
    assert (b.bids, b.asks, b.consumed("ask")) == ({4_400: 10, 4_300: 10}, {4_600: 10}, {4_500: 10})
    b.apply("ask", 4_500, 5)
    assert b.asks == {4_500: 5, 4_600: 10}, "size that arrives after the print is displayed"
    assert b.drop_crossed(4_300, "no") and b.bids == {4_300: 10}
