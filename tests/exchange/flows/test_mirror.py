"""The mirror flow: the mirrored book, level for level, less the size that our fills have taken."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.errors import BookError, ExchangeError
from kalshilab.exchange import Exchange, serve
from kalshilab.exchange.flows import mirror
from kalshilab.exchange.flows.mirror import Mirror
from kalshilab.exchange.flows.recorded_books import BookFrame, Levels, fold, read_frames
from kalshilab.exchange.orders.order_desk import Refused
from kalshilab.exchange.state.fill_model import FillModel
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.kalshi.stream.protocol import StreamProtocol
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.book import Book
from kalshilab.market.model import Market, Trade
from kalshilab.units import PRICE, format_price, format_size

RECORDINGS = ("orderbook_frames_verbatim.jsonl", "btc15m_frames.jsonl.gz")
T = "KXA-26NOV23-T1"


def play(ex: Exchange) -> None:
    while ex.step():
        pass


def place(ex: Exchange, side: str, price: int, size: int, ticker: str = T, **facts: Any) -> Any:
    body: dict[str, Any] = {"time_in_force": "good_till_canceled", "self_trade_prevention_type": "maker"}
    return ex.desk.create(
        wire.CreateOrder(
            ticker=ticker, side=side, count=format_size(size), price=format_price(price), **body | facts
        )
    )


def venue(**options: Any) -> tuple[Mirror, Exchange]:
    flow = Mirror()
    return flow, Exchange(flow=flow, **options)


def listed(ex: Exchange, ticker: str = T) -> Listing:
    listing = ex.listings.get(ticker)
    assert listing is not None
    return listing


def shown(ex: Exchange, ticker: str = T) -> Levels:
    book = listed(ex, ticker).book
    return book.levels("bid"), book.levels("ask")


# Recorded feeds


@pytest.mark.parametrize("name", RECORDINGS)
def test_recorded_books_are_mirrored_level_for_level(shared: Path, name: str) -> None:
    flow, ex = venue()
    books: dict[str, Levels | None] = {}
    connection = ex.hub.connect()
    served: dict[str, Book] = {}

    def apply_event(event: Any) -> None:
        if isinstance(event, BookSnapshot):
            served.setdefault(event.ticker, Book()).load(event.yes, event.no)
        elif isinstance(event, BookDelta):
            served[event.ticker].apply(event.side, event.price, event.delta)

    reader = StreamProtocol(apply_event)
    for number, frame in enumerate(read_frames(shared / "data" / "ws" / name)):
        flow.push_frame(frame)
        play(ex)
        if frame.ticker not in books:
            command = {"id": 1, "cmd": "subscribe", "params": {"channels": ["orderbook_delta"], "market_tickers": [frame.ticker]}}  # fmt: skip
            connection.receive(json.dumps(command))
        book = books[frame.ticker] = fold(books.get(frame.ticker), frame)
        for served_frame in connection.take():
            reader.receive(served_frame)
        if number % 97 == 0 or frame.levels is not None:
            assert book is not None
            assert shown(ex, frame.ticker) == book
            bids, asks = book
            theirs = served[frame.ticker]
            assert dict(theirs.levels("yes")) == bids
            assert {PRICE - p: s for p, s in theirs.levels("no")} == asks
    assert number > 200
    for ticker, book in books.items():
        assert book == shown(ex, ticker)
        assert book is not None and dict(served[ticker].levels("yes")) == book[0]


def test_the_displayed_book_is_the_recorded_one_less_our_fills(shared: Path) -> None:
    flow, ex = venue(echo_trades=False)
    books: dict[str, Levels | None] = {}
    for number, frame in enumerate(read_frames(shared / "data" / "ws" / RECORDINGS[1])):
        flow.push_frame(frame)
        play(ex)
        books[frame.ticker] = fold(books.get(frame.ticker), frame)
        listing = listed(ex, frame.ticker)
        bid, ask = listing.book.best_bid(), listing.book.best_ask()
        if number % 200 == 0 and ask is not None:
            side = "bid" if listing.facts.ticker[-1] in "02468" or number % 400 else "ask"
            price = ask if side == "bid" else bid
            if price is not None and 0 < price < PRICE:
                place(ex, side, price, 200, frame.ticker, time_in_force="immediate_or_cancel")
        if number % 50 == 0:
            actual = books[frame.ticker]
            assert actual is not None
            for one, levels in zip(("bid", "ask"), actual, strict=True):
                consumed = listing.book.consumed(one)
                less = {p: s - consumed.get(p, 0) for p, s in levels.items() if s > consumed.get(p, 0)}
                assert listing.book.levels(one) == less
                assert all(n <= levels.get(p, 0) for p, n in consumed.items())
    assert len(ex.account.fills) > 30
    assert ex.account.drift() == 0


# By hand


def test_size_that_our_orders_took_stays_consumed() -> None:
    flow, ex = venue()
    flow.push_snapshot(T, yes=[(4_400, 1_000)], no=[(5_500, 500)], ts=1_000)
    play(ex)
    order, cost, _ = place(ex, "bid", 4_500, 200)
    assert (order.filled, cost) == (200, 4_500 * 200)
    assert shown(ex) == ({4_400: 1_000}, {4_500: 300})
    flow.push_delta(T, "no", 5_500, 100, ts=2_000)
    flow.push_delta(T, "yes", 4_300, 70, ts=2_000)
    play(ex)
    assert shown(ex) == ({4_400: 1_000, 4_300: 70}, {4_500: 400})
    flow.push_snapshot(T, yes=[(4_400, 1_000)], no=[(5_500, 600)], ts=3_000)
    play(ex)
    assert shown(ex) == ({4_400: 1_000}, {4_500: 400}), "a snapshot does not restore consumed size"


def test_a_maker_queues_behind_the_mirrored_size_and_trades_with_a_crossing_quote() -> None:
    flow, ex = venue(echo_trades=False)
    flow.push_snapshot(T, yes=[(4_400, 100)], no=[(5_500, 100)], ts=1_000)
    play(ex)
    mine, _, _ = place(ex, "bid", 4_400, 300)
    flow.push_trade(Trade(2_000, T, 4_400, 150, "no", "t1"))
    flow.push_delta(T, "yes", 4_400, -100, ts=2_100)
    play(ex)
    assert mine.filled == 50
    flow.push_delta(T, "no", 5_600, 80, ts=3_000)
    play(ex)
    assert mine.filled == 130 and shown(ex) == ({4_400: 170}, {4_500: 100})
    row = ex.shadow_fills().row(0, named=True)
    assert (row["pessimistic"], row["queue"], row["optimistic"]) == (0, 130, 230)


def test_a_lost_frame_raises_and_a_snapshot_recovers() -> None:
    flow, ex = venue()
    flow.push_snapshot(T, yes=[(4_400, 100)], no=[], ts=1)
    flow.push_delta(T, "yes", 4_400, -200, ts=2)
    with pytest.raises(BookError, match="cannot change by"):
        play(ex)
    assert shown(ex) == ({4_400: 100}, {})
    flow.push_snapshot(T, yes=[(4_300, 50)], no=[], ts=3)
    play(ex)
    assert shown(ex) == ({4_300: 50}, {})


def test_an_unknown_book_fills_no_order_and_keeps_our_place() -> None:
    flow, ex = venue()
    flow.push_snapshot(T, yes=[(4_400, 1_000)], no=[(5_500, 2_000)], ts=1)
    play(ex)
    place(ex, "bid", 4_400, 300)
    flow.push_blind(T, ts=2)
    flow.push_blind("KXNONE-1-T", ts=2)
    play(ex)
    assert shown(ex) == ({4_400: 300}, {})
    with pytest.raises(Refused):
        place(ex, "bid", 4_500, 100, time_in_force="fill_or_kill")
    # After the snapshot at most the displayed 600 are ahead of our order.
    flow.push_snapshot(T, yes=[(4_400, 600)], no=[(5_500, 2_000)], ts=3)
    flow.push_trade(Trade(4, T, 4_400, 700, "no"))
    play(ex)
    assert ex.account.fills and ex.account.fills[-1].size == 100
    # Blind again; the next snapshot crosses our price.
    flow.push_blind(T, ts=5)
    flow.push_snapshot(T, yes=[(4_000, 600)], no=[(5_700, 2_000)], ts=6)
    play(ex)
    assert sum(fill.size for fill in ex.account.fills) == 300 and not listed(ex).book.own


def test_time_steps_expire_orders() -> None:
    flow, ex = venue()
    flow.push_snapshot(T, yes=[(4_400, 1_000)], no=[(5_500, 2_000)], ts=1)
    play(ex)
    place(ex, "bid", 4_400, 300, expiration_time=5)
    flow.push_time(4_999_999)
    play(ex)
    assert listed(ex).book.own and ex.now == 4_999_999
    flow.push_time(5_000_000)
    play(ex)
    assert not listed(ex).book.own


def test_lifecycle_messages_move_a_market() -> None:
    flow, ex = venue()
    flow.push_event("KXA-26NOV23", "KXA", "A question")
    flow.push_lifecycle(T, "created", 10, event="KXA-26NOV23", open_ts=20, close_ts=5_000_000)
    play(ex)
    listing = listed(ex)
    assert (listing.status, listing.facts.series, listing.facts.title) == ("initialized", "KXA", "A question")
    with pytest.raises(Refused):
        place(ex, "bid", 4_500, 100)
    flow.push_lifecycle(T, "activated", 20)
    flow.push_snapshot(T, yes=[(4_400, 100)], no=[(5_500, 900)], ts=30)
    play(ex)
    place(ex, "bid", 4_500, 300)
    place(ex, "bid", 4_400, 100)
    flow.push_lifecycle(T, "deactivated", 100)
    play(ex)
    with pytest.raises(Refused):
        place(ex, "bid", 4_400, 100)
    flow.push_lifecycle(T, "activated", 200)
    play(ex)
    place(ex, "bid", 4_300, 100)
    flow.push_lifecycle(T, "determined", 6_000_000, result="yes", settlement=10_000)
    play(ex)
    assert listing.status == "determined" and not listing.book.own, "a determination closes the market first"
    flow.push_lifecycle(T, "settled", 7_000_000)
    play(ex)
    assert listing.status == "finalized"
    assert ex.account.settlements[0].revenue == 300 * 10_000
    assert ex.account.drift() == 0


def test_markets_from_rest_set_facts_and_status() -> None:
    flow, ex = venue()
    flow.push_market(Market(ticker=T, event="KXA-26NOV23", category="Crypto", close_ts=9_000_000), ts=5)
    flow.push_market(Market(ticker="KXB-1-T", event="KXB-1", status="closed"), ts=6)
    flow.push_market(Market(ticker=T, event="KXA-26NOV23", category="Economics", close_ts=9_000_000), ts=7)
    play(ex)
    assert listed(ex).facts.category == "Economics" and listed(ex).status == "active"
    assert listed(ex, "KXB-1-T").status == "closed" and len(ex.listings) == 2
    with pytest.raises(ExchangeError, match="fee_type must be one of"):
        flow.push_market(Market(ticker="X", event="X", fee_type="flat"))
    flow.push_close(T, 9_000_000)
    play(ex)
    assert listed(ex).status == "closed"


def test_time_never_goes_back() -> None:
    flow, ex = venue()
    flow.push_snapshot(T, yes=[(4_400, 100)], no=[], ts=5_000)
    flow.push_trade(Trade(3_000, T, 4_400, 10, "no", "late"))
    play(ex)
    assert ex.now == 5_000 and ex.next_ts() is None and not ex.step()
    flow.push_delta(T, "yes", 4_400, 10, ts=6_000)
    assert ex.next_ts() == 6_000
    assert flow.prints == 1


def test_the_mirror_imports_no_network_module() -> None:
    """Check that no import of the mirror can reach a host."""
    tree = ast.parse(inspect.getsource(mirror))
    named = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    named |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    allowed = {"__future__", "collections", "collections.abc", "typing"}
    assert all(m in allowed or m.startswith(("kalshilab.exchange.f", "kalshilab.market", "kalshilab.errors", "kalshilab.units", "kalshilab.deprecation")) for m in named)  # fmt: skip


prices = st.integers(1, 49).map(lambda c: c * 100)
feed = st.lists(
    st.one_of(
        st.tuples(st.just("level"), st.sampled_from(["yes", "no"]), prices, st.integers(-200, 300)),
        st.tuples(st.just("print"), st.integers(1, 99), st.integers(1, 200), st.sampled_from(["yes", "no"])),
        st.tuples(
            st.just("snapshot"),
            st.dictionaries(prices, st.integers(1, 300), max_size=4),
            st.dictionaries(prices, st.integers(1, 300), max_size=4),
        ),
        st.tuples(st.just("take"), st.sampled_from(["bid", "ask"]), st.integers(1, 99), st.integers(1, 300)),
    ),
    max_size=60,
)


@settings(max_examples=120, deadline=None)
@given(feed, st.sampled_from([0.0, 0.5]))
def test_displayed_and_consumed_size_add_up_to_the_real_book(
    events: list[tuple[Any, ...]], haircut: float
) -> None:
    flow, ex = venue(fills=FillModel(haircut=haircut), balance_money_units=10**12)
    flow.push_snapshot(T, yes=[], no=[], ts=1)
    actual: Levels | None = ({}, {})
    play(ex)
    for n, event in enumerate(events, 2):
        if event[0] == "take":
            place(ex, event[1], event[2] * 100, event[3], time_in_force="immediate_or_cancel")
        elif event[0] == "print":
            flow.push_trade(Trade(n, T, event[1] * 100, event[2], event[3], f"t{n}"))
        elif event[0] == "snapshot":
            flow.push_snapshot(T, event[1].items(), event[2].items(), n)
            actual = dict(event[1]), {PRICE - p: s for p, s in event[2].items()}
        else:
            _, side, price, change = event
            at = price if side == "yes" else PRICE - price
            assert actual is not None
            change = max(change, -actual[side == "no"].get(at, 0))
            if change:
                flow.push_delta(T, side, price, change, n)
                actual = fold(actual, BookFrame(n, T, "bid" if side == "yes" else "ask", at, change))
        play(ex)
        book = listed(ex).book
        assert actual is not None
        for side, levels in zip(("bid", "ask"), actual, strict=True):
            there = dict(book.levels(side))
            for price, size in book.consumed(side).items():
                assert size > 0
                there[price] = there.get(price, 0) + size
            assert there == levels
    if not haircut:
        consumed = sum(n for side in ("bid", "ask") for n in listed(ex).book.consumed(side).values())
        assert consumed <= sum(f.size for f in ex.account.fills), "consumed size exceeds our fills"


async def test_a_served_mirror_waits_for_more_and_raises_at_a_broken_book() -> None:
    flow, ex = venue()
    pushed, ended = asyncio.Event(), asyncio.Event()

    async def more() -> bool:
        while flow.next_ts is None and not ended.is_set():
            pushed.clear()
            await pushed.wait()
        return not ended.is_set()

    with pytest.raises(BookError):
        async with serve(ex, more=more) as served, asyncio.timeout(60):
            for ts in (1, 2):
                flow.push_snapshot(T, yes=[(4_400, 1_000)], no=[], ts=ts)
                pushed.set()
                while flow.waiting:
                    await asyncio.sleep(0)
            assert not served.finished.is_set() and shown(ex) == ({4_400: 1_000}, {})
            flow.push_delta(T, "yes", 4_400, -2_000, ts=3)
            pushed.set()
            await served.finished.wait()
    flow, ex = venue()
    async with serve(ex, more=more) as served, asyncio.timeout(60):
        ended.set()
        pushed.set()
        await served.finished.wait()
