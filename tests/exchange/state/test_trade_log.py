"""The trade log: equal to a plain list, stable pages, and bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ExchangeError
from kalshilab.exchange import Exchange
from kalshilab.exchange.state.trade_log import TradeLog
from kalshilab.market.model import Trade
from kalshilab.tape import sample

STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from("ABC"), st.sampled_from(["yes", "no"])), max_size=60
)


def prints(steps: list[tuple[int, str, str]]) -> list[Trade]:
    now, made = 0, []
    for n, (wait, ticker, taker) in enumerate(steps):
        now += wait
        made.append(Trade(now, ticker, n % 10_000, n + 1, taker, f"t{n}"))
    return made


def walk(log: TradeLog, low: int, high: int, ticker: str | None, count: int) -> list[Trade]:
    collected: list[Trade] = []
    below = None
    while True:
        page = log.between(low, high, ticker, below=below, count=count)
        assert len(page.prints) <= count
        collected += page.prints
        if page.below is None:
            return collected
        assert page.prints, "a page before the last is not empty"
        below = page.below


@given(STEPS, st.integers(0, 100), st.integers(0, 100), st.sampled_from([None, "", "A", "B", "?"]),
       st.integers(1, 7), st.integers(8, 40))  # fmt: skip
def test_a_listing_equals_that_of_a_plain_list(
    steps: list[tuple[int, str, str]], low: int, high: int, ticker: str | None, count: int, limit: int
) -> None:
    log, made = TradeLog(limit), prints(steps)
    for trade in made:
        log.append(trade)
    kept = made[log.first :]
    assert len(log) == len(kept) <= limit
    assert len(kept) == len(made) or len(kept) >= limit * 7 // 8, "more was forgotten than necessary"
    wanted = [t for t in reversed(kept) if low <= t.ts < high and (not ticker or t.ticker == ticker)]
    assert walk(log, low, high, ticker, count) == wanted


@given(STEPS, STEPS, st.integers(1, 5))
def test_prints_that_arrive_between_pages_do_not_move_rows(
    first: list[tuple[int, str, str]], more: list[tuple[int, str, str]], count: int
) -> None:
    log, made = TradeLog(), prints(first + more)
    for trade in made[: len(first)]:
        log.append(trade)
    seen: list[Trade] = []
    below, late = None, iter(made[len(first) :])
    while True:
        page = log.between(0, 10_000, below=below, count=count)
        seen += page.prints
        if page.below is None:
            break
        below = page.below
        for trade in (t for _, t in zip(range(2), late, strict=False)):
            log.append(trade)
    assert seen == list(reversed(made[: len(first)]))


def test_prints_forgotten_between_pages_only_end_the_listing() -> None:
    log = TradeLog(16)
    made = prints([(1, "A", "yes")] * 40)
    for trade in made[:16]:
        log.append(trade)
    page = log.between(0, 100, "A", count=4)
    for trade in made[16:]:
        log.append(trade)
    assert page.below is not None and page.below < log.first
    assert log.between(0, 100, "A", below=page.below, count=4) == ([], None)
    assert log.between(0, 100, below=page.below, count=4) == ([], None)


def test_invalid_arguments_are_refused() -> None:
    log = TradeLog()
    log.append(Trade(5, "A", 1, 1, "yes", "a"))
    with pytest.raises(ExchangeError, match="print b: ts must be >= 5"):
        log.append(Trade(4, "A", 1, 1, "yes", "b"))
    with pytest.raises(ExchangeError, match="must be >= 8, got 7"):
        TradeLog(7)
    for wrong in ({"archive_after_us": -1}, {"prints_kept": 7}):
        with pytest.raises(ExchangeError):
            Exchange(*sample(), **wrong)
    assert repr(log) == "TradeLog(1 of 1 prints, 1 markets)"
