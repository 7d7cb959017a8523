"""Book: it equals a plain dictionary of levels after any history, and a rejected change leaves it unchanged."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kalshilab.errors import BookError
from kalshilab.market.book import Book
from kalshilab.units import PRICE

SIDES = st.sampled_from(["yes", "no"])
# Few enough prices that levels meet, at both ends, in a cluster and far apart (the walk down stops after 200).
PRICES = st.one_of(
    st.integers(0, 12), st.integers(4000, 4012), st.integers(PRICE - 12, PRICE), st.integers(0, PRICE)
)
SIZES = st.integers(1, 10**9)
LEVELS = st.dictionaries(PRICES, SIZES, max_size=12)


class BookMachine(RuleBasedStateMachine):
    """A book and a plain model of it."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.model: dict[str, dict[int, int]] = {"yes": {}, "no": {}}

    @rule(yes=LEVELS, no=LEVELS)
    def load(self, yes: dict[int, int], no: dict[int, int]) -> None:
        self.book.load(yes.items(), no.items())
        self.model = {"yes": dict(yes), "no": dict(no)}

    @rule(side=SIDES, price=PRICES, size=SIZES)
    def add(self, side: str, price: int, size: int) -> None:
        self.book.apply(side, price, size)
        self.model[side][price] = self.model[side].get(price, 0) + size

    @precondition(lambda self: self.model["yes"] or self.model["no"])
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        side = data.draw(st.sampled_from([s for s in ("yes", "no") if self.model[s]]))
        # The best level half of the time: there the cached best price must be updated.
        best = max(self.model[side])
        price = data.draw(st.sampled_from([best, *sorted(self.model[side])]))
        size = self.model[side][price]
        part = data.draw(st.sampled_from([size, 1, size // 2]))
        self.book.apply(side, price, -part)
        self.model[side][price] -= part
        if not self.model[side][price]:
            del self.model[side][price]

    @rule(side=SIDES, price=PRICES)
    def change_by_zero(self, side: str, price: int) -> None:
        self.book.apply(side, price, 0)

    @rule(side=SIDES, price=PRICES, more=SIZES)
    def remove_more_than_the_level(self, side: str, price: int, more: int) -> None:
        with pytest.raises(BookError):
            self.book.apply(side, price, -self.model[side].get(price, 0) - more)

    @rule(yes=LEVELS, no=LEVELS, side=SIDES, bad=st.sampled_from([(-1, 5), (PRICE + 1, 5), (100, -1)]))
    def load_an_invalid_level(
        self, yes: dict[int, int], no: dict[int, int], side: str, bad: tuple[int, int]
    ) -> None:
        levels = {"yes": list(yes.items()), "no": list(no.items())}
        levels[side].append(bad)
        with pytest.raises(BookError):
            self.book.load(levels["yes"], levels["no"])

    @invariant()
    def same(self) -> None:
        for side in ("yes", "no"):
            assert self.book.levels(side) == sorted(self.model[side].items(), reverse=True)
            assert all(self.book.size_at(side, p) == s for p, s in self.model[side].items())
        yes, no = (max(self.model[s], default=None) for s in ("yes", "no"))
        assert (self.book.best_yes_bid, self.book.best_no_bid) == (yes, no)
        assert self.book.yes_ask == (None if no is None else PRICE - no)
        assert self.book.no_ask == (None if yes is None else PRICE - yes)


BookMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBook = BookMachine.TestCase


def test_an_empty_book_has_no_prices() -> None:
    book = Book()
    assert (book.best_yes_bid, book.best_no_bid, book.yes_ask, book.no_ask) == (None,) * 4
    assert book.levels("yes") == [] and book.size_at("no", 5000) == 0


def test_a_bid_at_price_zero_counts_as_a_bid() -> None:
    book = Book()
    book.apply("yes", 0, 5)
    assert book.best_yes_bid == 0 and book.no_ask == PRICE


def test_empty_levels_of_a_snapshot_are_skipped() -> None:
    book = Book()
    book.load([(4000, 0), (3000, 5)], [(1, 0)])
    assert book.levels("yes") == [(3000, 5)] and book.best_no_bid is None


def test_the_next_best_level_is_found_at_any_distance() -> None:
    for below in (4999, 4801, 4800, 4799, 1, 0):
        book = Book()
        book.load([(5000, 1), (below, 2)], [])
        book.apply("yes", 5000, -1)
        assert book.best_yes_bid == below


@given(LEVELS)
def test_a_loaded_book_does_not_keep_a_reference_to_the_callers_list(levels: dict[int, int]) -> None:
    given_levels = list(levels.items())
    before = copy.deepcopy(given_levels)
    book = Book()
    book.load(given_levels, given_levels)
    given_levels.append((1, 1))
    assert book.levels("yes") == sorted(before, reverse=True)
    book.apply("yes", 5000, 7)
    assert book.size_at("no", 5000) == levels.get(5000, 0)


def test_a_change_below_zero_names_the_level_and_its_size() -> None:
    book = Book()
    book.apply("yes", 4000, 3)
    with pytest.raises(BookError, match="yes level 4000 has size 3 and cannot change by -4"):
        book.apply("yes", 4000, -4)
    assert repr(book) == "Book(yes bid 4000, yes ask None)"


@pytest.mark.parametrize("price", [-5, PRICE + 1])
def test_a_price_outside_0_to_1_dollar_is_rejected(price: int) -> None:
    with pytest.raises(BookError, match="yes price must be from 0 to 10,000"):
        Book().apply("yes", price, 10)
