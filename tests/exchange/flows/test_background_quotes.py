"""Quotes inferred from past prints: never crossed, independent of later prints, as wide as the bounce."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.exchange.flows.background_quotes import BackgroundQuotes
from kalshilab.units import TickGrid

GRIDS = ("linear_cent", "deci_cent", "tapered_deci_cent")
prints = st.lists(
    st.tuples(st.integers(1, 9_999), st.integers(1, 10**6), st.sampled_from(["yes", "no"])), max_size=60
)


def quotes(structure: str = "linear_cent", spread: int = 200, depth: int = 3) -> BackgroundQuotes:
    return BackgroundQuotes(TickGrid.named(structure), spread, depth)


@settings(max_examples=300, deadline=None)
@given(prints, st.sampled_from(GRIDS), st.sampled_from([100, 200, 700]), st.integers(1, 5))
def test_a_print_hits_the_best_quote_and_never_crosses(
    tape: list[tuple[int, int, str]], structure: str, spread: int, depth: int
) -> None:
    q = quotes(structure, spread, depth)
    last: Any = None
    for price, size, taker in tape:
        same = q.stays(price, taker)
        bids, asks = q.around(price, taker)
        assert not same or (bids, asks) == last, "unchanged quotes differ"
        last = bids, asks
        assert all(n > 0 for n in (*bids.values(), *asks.values()))
        assert len(bids) <= depth and len(asks) <= depth
        assert max(bids, default=0) < min(asks, default=10_000)
        assert price == (min(asks) if taker == "yes" else max(bids))
        grid = TickGrid.named(structure)
        assert all(grid.valid(p) for p in (*bids, *asks) if p not in {x[0] for x in tape})
        q.learn(price, size, taker)


@settings(max_examples=100, deadline=None)
@given(prints, prints, prints)
def test_quotes_do_not_depend_on_later_prints(past: Any, one: Any, other: Any) -> None:
    seen = []
    for future in (one, other):
        q = quotes()
        shown = []
        for price, size, taker in past:
            shown.append(q.around(price, taker))
            q.learn(price, size, taker)
        seen.append(shown)
        for price, size, taker in future:
            q.around(price, taker)
            q.learn(price, size, taker)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("true", [100, 300, 500])
def test_the_spread_converges_to_the_bounce_of_prints(true: int) -> None:
    q = quotes(spread=200)
    for n in range(60):
        mid = 5_000 + 100 * (n // 7 % 3)
        taker = "yes" if n % 3 else "no"
        price = mid + true // 2 if taker == "yes" else mid - true // 2
        q.around(price, taker)
        q.learn(price, 1_000, taker)
    assert abs(q.spread - true) <= 100
    bids, asks = q.around(8_000, "yes")
    assert abs(min(asks) - max(bids) - true) <= 100, "the spread applies at a new price"


def test_a_bounce_leaves_the_book_unchanged() -> None:
    q = quotes()
    q.around(4_600, "yes")
    q.learn(4_600, 5_000, "yes")
    before = q.around(4_500, "no")
    for price, taker in ((4_600, "yes"), (4_500, "no")):
        q.learn(price, 5_000, taker)
        assert q.stays(price, taker)
        assert q.around(price, taker) == before


def test_a_price_move_does_not_change_the_spread() -> None:
    q = quotes()
    for price, taker in ((2_000, "no"), (7_000, "yes"), (2_000, "yes"), (1_000, "no")):
        q.around(price, taker)
        q.learn(price, 100, taker)
    assert q.spread == 200


def test_sizes_follow_those_of_past_prints() -> None:
    small, large = quotes(), quotes()
    for _ in range(60):
        small.learn(4_500, 100, "yes")
        large.learn(4_500, 500_000, "yes")
    a, b = (sum(q.around(4_500, "yes")[0].values()) for q in (small, large))
    assert 50 * a < b


def test_at_the_edges_one_side_is_empty() -> None:
    q = quotes()
    assert q.around(100, "yes")[0] == {}
    assert q.around(9_900, "no")[1] == {}
    bids, asks = q.around(1, "yes")
    assert (bids, next(iter(asks))) == ({}, 1)
