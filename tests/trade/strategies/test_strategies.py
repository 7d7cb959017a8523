"""Prices and sizes of strategies: the table of spreads on both sides of the book, tiers, re-entry."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError
from kalshilab.market.book import Book
from kalshilab.signals import PriceBandFire, RlmFire, WhaleFire
from kalshilab.trade.strategies.pricing import limit_price, spread_of
from kalshilab.trade.strategies.strategies import (
    Exiting,
    Hold,
    PaperTest,
    Quote,
    RlmNo,
    WhaleFader,
    WhaleFollower,
    Yes8090,
    make_strategy,
    paper_rhythm,
)
from kalshilab.units import PRICE, TickGrid

CENT = TickGrid.named("linear_cent")


def strategy(**given_settings: object) -> RlmNo:
    return RlmNo(Settings(env={}, env_file=None, **given_settings))


def fire(drop: int = 500, ratio: float = 0.8) -> RlmFire:
    return RlmFire(0, 0, "A-B-1", "no", 4_000, 25, ratio, drop, 4_000 + drop)


def book(no_bid: int, no_ask: int) -> Book:
    made = Book()
    made.load(yes=[(PRICE - no_ask, 1_000)], no=[(no_bid, 1_000)])
    return made


@pytest.mark.parametrize(
    ("spread", "normal", "eager"),
    [
        (1, 0, 1), (2, 1, 2),  # tight: ask − 1, ask
        (3, 1.5, 2), (4, 2, 3),  # normal: middle, ask − 1
        (5, 3, 4), (8, 6, 6), (10, 7, 8),  # wide: bid + 75 %, bid + 85 %, whole cents
    ],
)  # fmt: skip
def test_prices_follow_the_table_of_spreads(spread: int, normal: float, eager: float) -> None:
    bid, ask = 4_000, 4_000 + spread * 100
    for expected, is_eager in ((normal, False), (eager, True)):
        assert limit_price(bid, ask, eager=is_eager, tight=200, normal=400) == bid + expected * 100


@given(st.integers(100, 9_000), st.integers(1, 1_000), st.booleans())
def test_the_price_stays_between_bid_and_ask(bid: int, spread: int, eager: bool) -> None:
    price = limit_price(bid, bid + spread, eager=eager, tight=200, normal=400)
    assert bid <= price <= bid + spread


def test_a_quote_is_an_ask_at_the_complement_on_the_grid() -> None:
    assert strategy().quote(fire(), book(4_000, 4_200), CENT) == Quote("ask", 5_900, 5_000)
    # The middle of a 3-cent spread has half a cent: the NO price is rounded down.
    assert strategy().quote(fire(), book(4_000, 4_300), CENT) == Quote("ask", 5_900, 5_000)
    deci = TickGrid.named("deci_cent")
    assert strategy().quote(fire(), book(4_000, 4_300), deci) == Quote("ask", 5_850, 5_000)


GRIDS = [TickGrid.named(name) for name in ("linear_cent", "deci_cent", "tapered_deci_cent")]


@st.composite
def books(draw: st.DrawFn) -> tuple[Book, Book, TickGrid]:
    """Return a book of two levels a side, the same book with YES and NO exchanged, and the market's grid."""
    grid = draw(st.sampled_from(GRIDS))
    price = st.integers(10, PRICE - 10).map(grid.floor).filter(grid.valid)
    size = st.integers(1, 10**6)
    levels = sorted(draw(st.lists(price, min_size=4, max_size=4, unique=True)))
    yes = [(p, draw(size)) for p in levels[:2]]
    no = [(PRICE - p, draw(size)) for p in levels[2:]]
    book, mirrored = Book(), Book()
    book.load(yes=yes, no=no)
    mirrored.load(yes=no, no=yes)
    return book, mirrored, grid


@given(books(), st.sampled_from([0, 500, 1_500, 2_500]))
def test_yes_and_no_are_mirror_images(given_books: tuple[Book, Book, TickGrid], drop: int) -> None:
    """The bid for YES on a book equals the bid for NO on the mirrored book, at the complement."""
    book, mirrored, grid = given_books
    trading = strategy(max_spread_cents=99)
    for_yes = trading.quote(msgspec.structs.replace(fire(drop), side="yes"), book, grid)
    for_no = trading.quote(fire(drop), mirrored, grid)
    assert isinstance(for_yes, Quote) and isinstance(for_no, Quote)
    assert (for_yes.side, for_no.side) == ("bid", "ask")
    assert for_yes.price == PRICE - for_no.price
    assert for_yes.size == for_no.size


@given(books(), st.sampled_from(["yes", "no"]), st.booleans())
def test_an_order_is_on_the_grid_and_not_above_the_ask(
    given_books: tuple[Book, Book, TickGrid], side: str, eager: bool
) -> None:
    book, _, grid = given_books
    fired = msgspec.structs.replace(fire(2_000 if eager else 0), side=side)
    quote = strategy(max_spread_cents=99).quote(fired, book, grid)
    assert isinstance(quote, Quote)
    assert grid.valid(quote.price)
    spread = spread_of(book, side)
    assert spread is not None
    paid = quote.price if side == "yes" else PRICE - quote.price
    assert spread[0] <= paid <= spread[1]


def test_a_quote_for_yes_is_a_bid() -> None:
    yes = Yes8090(Settings(env={}, env_file=None))
    fired = PriceBandFire(0, 0, "A-B-1", "yes", 8_500, 25, "A")
    # A NO bid of 15 cents is a YES ask of 85; a NO ask of 17 is a YES bid of 83.
    assert yes.quote(fired, book(1_500, 1_700), CENT) == Quote("bid", 8_400, 15_000)
    assert yes.quote(msgspec.structs.replace(fired, tier="B"), book(1_500, 1_700), CENT) == Quote(
        "bid", 8_400, 10_000
    )
    assert yes.reentry(fired, fired) == "held", "a price band has no strength"


def test_a_larger_whale_may_add_to_the_position() -> None:
    fader = WhaleFader(Settings(env={}, env_file=None))
    small = WhaleFire(0, 0, "A-B-1", "no", 5_000, 1, 200_000_000, 1)
    large = msgspec.structs.replace(small, value=300_000_000)
    assert fader.reentry(large, small) is None
    assert fader.reentry(small, large) == "not stronger"


@pytest.mark.parametrize(("paid", "price"), [(5_000, 5_000), (3_400, 3_400), (3_350, 3_400)])
def test_the_whale_follower_orders_five_contracts_at_the_whales_price(paid: int, price: int) -> None:
    """NO at 100 cents less the price of the whale; the NO price is rounded down to the grid."""
    follower = WhaleFollower(Settings(env={}, env_file=None))
    whale = WhaleFire(0, 0, "A-B-1", "no", paid, 1, 200_000_000, 1)
    assert follower.quote(whale, book(4_000, 6_000), CENT) == Quote("ask", price, 500)
    assert follower.reentry(msgspec.structs.replace(whale, value=10**12), whale) == "held"


@pytest.mark.parametrize(("price", "fires"), [(33, False), (34, True), (50, True)])
def test_the_whale_follower_needs_a_leverage_below_two(price: int, fires: bool) -> None:
    signal = WhaleFollower(Settings(env={}, env_file=None)).signal
    assert signal is not None and signal.parameters["top"] == 10
    fire = signal.update("A-B-1", 1, price * 100, 100_000, "yes")
    assert (fire is not None) == fires and (fire is None or fire.side == "no")
    assert signal.update("A-B-1", 2, price * 100, 100_000, "no") is None, "only purchases of YES count"


def test_the_settings_limit_the_whales_that_are_followed() -> None:
    follower = WhaleFollower(Settings(env={}, env_file=None, whale_top=3, whale_window_s=60))
    assert follower.signal is not None
    assert follower.signal.parameters.items() >= {"top": 3, "window": 60.0}.items()


def test_the_paper_test_buys_the_cheaper_outcome_each_thirty_seconds() -> None:
    rhythm = paper_rhythm(rearm="every")
    seconds = [(0, 4_999), (29.9, 4_999), (30, 5_000), (60, 1_999), (61, 2_000), (91, 8_000), (121, 8_001)]
    fires = [rhythm.update("A-B-1", 10**12 + round(s * 1e6), price, 100, "yes") for s, price in seconds]
    assert [fire and fire.side for fire in fires] == ["yes", None, "no", None, "yes", "no", None]
    assert rhythm.update("A-B-2", 10**12, 5_000, 100, "no") is not None, "each market has its own rhythm"


def test_the_paper_test_quotes_the_middle_and_sells_what_it_holds() -> None:
    paper = PaperTest(Settings(env={}, env_file=None))
    assert isinstance(paper, Exiting) and not isinstance(strategy(), Exiting)
    no = fire()
    yes = msgspec.structs.replace(no, side="yes")
    # YES is bid at 45 cents and asked at 48 cents.
    shown = book(5_200, 5_500)
    assert paper.quote(yes, shown, CENT) == Quote("bid", 4_600, 500)
    assert paper.quote(no, shown, CENT) == Quote("ask", 4_700, 500)
    assert paper.exit(no, 500, shown, CENT) == Quote("ask", 4_700, 500)
    assert paper.exit(no, -300, shown, CENT) == Quote("bid", 4_600, 300)
    one_sided = Book()
    one_sided.load(yes=[], no=[(4_000, 100)])
    assert paper.quote(yes, one_sided, CENT) == paper.exit(yes, 500, one_sided, CENT) == "one-sided book"


def test_a_one_sided_book_or_a_wide_spread_gives_no_quote() -> None:
    assert strategy().quote(fire(), book(4_000, 5_100), CENT) == "spread"
    assert isinstance(strategy().quote(fire(), book(4_000, 5_000), CENT), Quote)
    one_sided = Book()
    one_sided.load(yes=[], no=[(4_000, 100)])
    assert strategy().quote(fire(), one_sided, CENT) == "one-sided book"


@pytest.mark.parametrize(
    ("drop", "contracts"), [(0, 50), (5, 50), (9.99, 50), (10, 75), (19.9, 75), (20, 100), (60, 100)]
)
def test_the_drop_selects_the_default_tier(drop: float, contracts: int) -> None:
    assert strategy().size(fire(round(drop * 100))) == contracts * 100


def test_custom_tiers_round_down_to_whole_contracts() -> None:
    other = strategy(size_tiers="0:1,10:1.5,15:2", contracts=3)
    assert [other.size(fire(d)) for d in (500, 1_000, 1_500)] == [300, 400, 600], (
        "1.5 × 3 is 4 whole contracts"
    )
    assert strategy(contracts=0.5).size(fire(1_000)) == 75


def test_reentry_needs_a_stronger_signal() -> None:
    entry = fire(500, 0.8)
    assert strategy().reentry(fire(500, 0.8), entry) == "not stronger"
    assert strategy().reentry(fire(501, 0.8), entry) is None
    assert strategy().reentry(fire(500, 0.81), entry) is None
    assert strategy().reentry(fire(900, 0.9), None) == "entry unknown"
    assert strategy(allow_reentry=False).reentry(fire(900, 0.9), entry) == "held"


def test_the_signal_has_the_settings_parameters() -> None:
    signal = strategy(min_trades=30, min_drop=2, yes_threshold=0.6, allow_reentry=False).signal
    assert signal is not None
    given = {"yes_threshold": 0.6, "min_trades": 30, "min_drop": 2.0, "rearm": False}
    assert signal.parameters.items() >= given.items()


def test_hold_is_available_and_unordered_spreads_are_refused() -> None:
    assert isinstance(make_strategy(Settings(env={}, env_file=None, strategy="hold")), Hold)
    with pytest.raises(ConfigError, match="max_spread_cents must be at least normal_spread_cents"):
        strategy(tight_spread_cents=5, normal_spread_cents=4)
