"""Strategies that leave their positions, and orders that would trade with one's other orders."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trade.core.reference_exchange import SECOND, Bench, EachPrint, Take
from trade.core.test_trader import RISK, X, actions, open_bench, show

from kalshilab.kalshi.stream.events import BookSnapshot
from kalshilab.market.book import Book
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.core.messages import Operate
from kalshilab.trade.strategies.strategies import Quote
from kalshilab.units import TickGrid, dollars


class TakeAndLeave(Take):
    """A strategy that buys at one print and sells at the next."""

    def __init__(self, side: str, *, part: int = 1000, exit_side: str = "") -> None:
        super().__init__(side, reenter=False)
        self._part, self._exit_side = part, exit_side

    def exit(self, fire: Any, held: int, book: Book, grid: TickGrid) -> Quote | str:
        side = self._exit_side or ("ask" if held > 0 else "bid")
        price = book.best_yes_bid if side == "ask" else book.yes_ask
        assert price is not None
        return Quote(side, price, self._part)


def traded(bench: Bench) -> list[tuple[str, str, int]]:
    """Return strategy, side and size of each order."""
    return [(p.intent.strategy, p.intent.side, p.intent.size) for p in bench.placed]


def again(bench: Bench) -> None:
    """Print one trade, and answer everything."""
    show(bench)
    bench.settle_down()


@pytest.mark.parametrize("side", ["yes", "no"])
def test_a_position_is_sold_and_bought_again(side: str) -> None:
    bench = open_bench((side, TakeAndLeave(side), Budget()))
    bench.exchange.fill_of_new = 4
    for _ in range(4):
        again(bench)
    buy, sell = ("bid", "ask") if side == "yes" else ("ask", "bid")
    assert [order for _, order, _ in traded(bench)] == [buy, sell, buy, sell]
    assert not bench.trader.account.total.size(X) and not bench.trader.exposure.markets
    assert [place.intent.closes for place in bench.placed] == [False, True, False, True]
    assert bench.trader.counts["reentries"] == 0 and not any(place.intent.reentry for place in bench.placed)
    bench.check_account()


def test_a_position_is_sold_in_parts() -> None:
    bench = open_bench(("one", TakeAndLeave("yes", part=400), Budget()))
    bench.exchange.fill_of_new = 4
    for _ in range(3):
        again(bench)
    assert traded(bench)[1:] == [("one", "ask", 400)] * 2 and bench.trader.account.total.size(X) == 200


@pytest.mark.parametrize(("part", "side"), [(1001, ""), (1000, "bid")])
def test_an_exit_that_would_open_a_position_stops_its_strategy(part: int, side: str) -> None:
    bench = open_bench(("one", TakeAndLeave("yes", part=part, exit_side=side), Budget()))
    bench.exchange.fill_of_new = 4
    again(bench)
    again(bench)
    assert len(bench.placed) == 1 and actions(bench)[-1] == ("skipped", "strategy failed")
    assert "exit must close at most 1000 size units" in bench.trader.strategies[0].failed


def test_a_position_is_sold_once_at_a_time() -> None:
    bench = open_bench(("one", TakeAndLeave("yes"), Budget()))
    bench.exchange.fill_of_new = 4
    again(bench)
    bench.exchange.fill_of_new = 0
    again(bench)
    again(bench)
    assert len(bench.placed) == 2 and actions(bench)[-1] == ("deferred", "open order")
    bench.exchange.fill(list(bench.exchange.orders)[-1], 1000)
    bench.settle_down()
    # The fire that waited finds nothing to sell, and buys.
    assert [side for _, side, _ in traded(bench)] == ["bid", "ask", "bid"]
    bench.check_account()


def test_a_sale_needs_neither_cash_nor_budget() -> None:
    bench = open_bench(
        ("one", TakeAndLeave("yes"), Budget(cash=dollars(6), contracts=1000, positions=1)),
        cash=dollars(6),
        risk=msgspec.structs.replace(RISK, min_cash=dollars(0.5), max_position=1000, max_event=dollars(6)),
    )
    bench.exchange.fill_of_new = 4
    again(bench)
    again(bench)
    assert [side for _, side, _ in traded(bench)] == ["bid", "ask"]


def test_a_paused_strategy_sells_nothing() -> None:
    bench = open_bench(("one", TakeAndLeave("yes"), Budget()))
    bench.exchange.fill_of_new = 4
    again(bench)
    bench.give(Operate("pause", "lunch"))
    again(bench)
    assert len(bench.placed) == 1 and actions(bench)[-1] == ("deferred", "lunch")


def test_a_sale_does_not_trade_with_the_order_of_another_strategy() -> None:
    bench = open_bench(("one", TakeAndLeave("yes"), Budget()), ("two", Take("yes", reenter=False), Budget()))
    show(bench)
    bench.settle_down()
    first, second = bench.exchange.orders
    bench.exchange.fill(first, 1000)
    bench.settle_down()
    again(bench)
    assert ("skipped", "opposite of two") in actions(bench) and len(bench.placed) == 2
    bench.exchange.fill(second, 1000)
    bench.settle_down()
    again(bench)
    # Both hold YES: a sale of the one concerns the position of the other in nothing.
    assert traded(bench)[2:] == [("one", "ask", 1000)]
    bench.exchange.fill(list(bench.exchange.orders)[-1], 1000)
    bench.settle_down()
    assert bench.trader.account.owner("two").size(X) == 1000
    bench.check_account()


class EitherSide(EachPrint):
    """A signal that fires for YES at falling prices and for NO at rising ones."""

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Any:
        fire = super().update(ticker, ts, price, size, taker)
        return fire and msgspec.structs.replace(fire, side="yes" if price < 5000 else "no")


def test_a_strategy_does_not_trade_with_its_own_order() -> None:
    both = Take("yes")
    both.signal = EitherSide("yes")
    bench = open_bench(("both", both, Budget()))
    show(bench, price=4900)
    bench.settle_down()
    show(bench, price=5100)
    bench.settle_down()
    assert traded(bench) == [("both", "bid", 1000)] and actions(bench)[-1] == ("deferred", "open order")
    bench.exchange.cancel(next(iter(bench.exchange.orders)))
    bench.settle_down()
    assert [side for _, side, _ in traded(bench)] == ["bid", "ask"]


def test_a_sale_waits_for_a_book() -> None:
    bench = open_bench(("one", TakeAndLeave("yes"), Budget()))
    bench.exchange.fill_of_new = 4
    again(bench)
    bench.trader.books.clear()
    show(bench)
    assert actions(bench)[-1] == ("deferred", "no book")
    bench.give(BookSnapshot(X, [(4900, 1000)], [(4900, 1000)]))
    bench.settle_down()
    bench.pass_time(SECOND)
    assert [side for _, side, _ in traded(bench)] == ["bid", "ask"]
