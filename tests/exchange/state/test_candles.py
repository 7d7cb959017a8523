"""Candles against an independent computation, for any prints and quotes; and their memory bound."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ExchangeError
from kalshilab.exchange.state.candles import CANDLES_KEPT, INTERVALS, Candle, Candles
from kalshilab.units import PRICE

SECOND = 1_000_000


class Event(NamedTuple):
    """An event at an instant: a print, or without `size` a change of quotes."""

    ts: int
    bid: int
    ask: int
    price: int
    size: int


def event_lists() -> st.SearchStrategy[list[Event]]:
    """Return events in order of time, with short and long gaps, and instants that end a period."""
    gap = st.one_of(
        st.integers(0, 90 * SECOND), st.sampled_from([0, 1, 60 * SECOND, 3600 * SECOND, 86_400 * SECOND])
    )
    one = st.tuples(
        gap, st.integers(0, 5_000), st.integers(5_001, PRICE), st.integers(1, PRICE - 1), st.integers(0, 3)
    )

    def timed(rows: list[tuple[int, int, int, int, int]]) -> list[Event]:
        ts, made = 0, []
        for after, bid, ask, price, size in rows:
            ts += after
            made.append(Event(ts, bid, ask, price, size * 125))
        return made

    return st.lists(one, max_size=60).map(timed)


def by_hand(events: list[Event], interval: int) -> list[tuple[object, ...]]:
    """Return the fields of the candles, computed for each period separately."""
    length = interval * 60 * SECOND
    made, bid, ask, last, total = [], 0, PRICE, 0, 0
    ends = sorted({-(-e.ts // length) * length for e in events})
    for end in ends:
        inside = [e for e in events if end - length < e.ts <= end]
        bids, asks, prints, changed = [bid], [ask], [], False
        for e in inside:
            changed |= (e.bid, e.ask) != (bid, ask) or e.size > 0
            bid, ask = e.bid, e.ask
            bids.append(bid)
            asks.append(ask)
            prints += [(e.price, e.size)] if e.size else []
        volume = sum(s for _, s in prints)
        total += volume
        if changed:
            prices = [p for p, _ in prints]
            price = [prices[0], min(prices), max(prices), prices[-1]] if prices else [0] * 4
            made.append(
                (
                    end,
                    [bids[0], min(bids), max(bids), bids[-1]],
                    [asks[0], min(asks), max(asks), asks[-1]],
                    price,
                    last,
                    volume,
                    sum(p * s for p, s in prints),
                    total,
                )
            )
        last = prints[-1][0] if prints else last
    return made


def facts(c: Candle) -> tuple[object, ...]:
    return (c.end, c.bid, c.ask, c.price, c.previous, c.volume, c.notional, c.total)


def played(candles: Candles, events: list[Event], ticker: str = "A") -> Candles:
    for e in events:
        if e.size:
            candles.printed(ticker, e.ts, e.price, e.size)
        candles.quoted(ticker, e.ts, e.bid, e.ask)
    return candles


@given(event_lists())
def test_candles_equal_the_independent_computation(events: list[Event]) -> None:
    candles = played(Candles(), events)
    for interval in INTERVALS:
        assert [facts(c) for c in candles.between("A", interval, 0, 2**60)] == by_hand(events, interval)


@given(event_lists(), st.integers(0, 10 * 86_400), st.integers(0, 10 * 86_400), st.sampled_from(INTERVALS))
def test_a_range_is_inclusive_at_both_ends(events: list[Event], low: int, high: int, interval: int) -> None:
    candles = played(Candles(), events)
    every = [facts(c) for c in candles.between("A", interval, 0, 2**60)]
    low, high = low * SECOND, high * SECOND
    within = [facts(c) for c in candles.between("A", interval, low, high)]
    assert within == [f for f in every if low <= f[0] <= high]  # type: ignore[operator]
    earlier = candles.before("A", interval, low)
    assert (earlier and facts(earlier)) == next((f for f in reversed(every) if f[0] < low), None)  # type: ignore[operator]


@given(event_lists(), event_lists())
def test_markets_are_independent(a: list[Event], b: list[Event]) -> None:
    both = Candles()
    for ticker, event in sorted([("A", e) for e in a] + [("B", e) for e in b], key=lambda x: x[1].ts):
        played(both, [event], ticker)
    for ticker, events in (("A", a), ("B", b)):
        alone = played(Candles(), events, ticker)
        for interval in INTERVALS:
            left, right = (x.between(ticker, interval, 0, 2**60) for x in (both, alone))
            assert [facts(c) for c in left] == [facts(c) for c in right]


def test_memory_is_bounded_and_the_oldest_are_forgotten_first() -> None:
    candles = Candles(dict.fromkeys(INTERVALS, 80))
    for minute in range(1_000):
        candles.printed("AB"[minute % 2], minute * 60 * SECOND, 5_000, 100)
    kept = [c.end // (60 * SECOND) for c in candles.between("A", 1, 0, 2**60)]
    assert kept == list(range(kept[0], 1_000, 2)) and 30 <= len(kept) <= 42
    assert len(candles.between("A", 60, 0, 2**60)) == 18, "hours outlast minutes"
    candles.forget("A")
    assert candles.between("A", 1, 0, 2**60) == [] and candles.before("A", 1, 2**60) is None
    assert candles.between("B", 1, 0, 2**60)
    with pytest.raises(ExchangeError, match="kept must be >= 8"):
        Candles(dict.fromkeys(INTERVALS, 7))


def test_the_mean_is_weighted_and_rounded() -> None:
    candle = Candle(0, 0, PRICE, 0, 0)
    candle.print(1_000, 100)
    candle.print(2_000, 200)
    assert candle.mean == 1_667 and candle.open_interest == 150
    assert "volume=300" in repr(candle) and "0 markets" in repr(Candles())
    assert CANDLES_KEPT.keys() == set(INTERVALS)
