"""The age of market data: no order on a feed or a book that has been silent for too long."""

from __future__ import annotations

from trade.core.reference_exchange import SECOND
from trade.core.test_trader import X, actions, open_bench, show

from kalshilab.kalshi.stream.events import BookDelta
from kalshilab.trade.core.books import Books
from kalshilab.trade.core.messages import Outbox, Quiet, Watch


def commands(outbox: Outbox) -> list[object]:
    found, outbox.commands = outbox.commands, []
    return list(found)


def test_a_stale_book_is_read_again_before_the_order() -> None:
    bench = open_bench(stale_book_us=60 * SECOND)
    bench.exchange.now += 61 * SECOND
    bench.exchange.mono += 61 * SECOND
    bench.watched.clear()
    show(bench)
    assert actions(bench) == [("deferred", "stale book")] and bench.watched == {X}
    bench.settle_down()
    assert [place.intent.ticker for place in bench.placed] == [X]


def test_a_change_of_the_book_makes_it_fresh() -> None:
    bench = open_bench(stale_book_us=60 * SECOND)
    for _ in range(2):
        bench.exchange.now += 50 * SECOND
        bench.exchange.mono += 50 * SECOND
        bench.give(BookDelta(X, "yes", 100, 1, bench.exchange.now, ""))
    show(bench)
    assert len(bench.placed) == 1


def test_a_fire_waits_for_a_frame_while_the_feed_is_stale() -> None:
    bench = open_bench(stale_feed_us=30 * SECOND, attempts_per_minute=1.0)
    show(bench)
    bench.settle_down()
    show(bench)
    assert actions(bench)[-1] == ("deferred", "rate limit")
    bench.pass_time(31 * SECOND)
    bench.exchange.now += 29 * SECOND
    bench.give(Quiet())
    assert actions(bench)[-1] == ("deferred", "rate limit") and len(bench.placed) == 1
    assert [p.reason for p in bench.trader._queue.all()] == ["stale feed"]
    bench.give(bench.exchange.book("B-1-X"))
    bench.give(Quiet())
    assert len(bench.placed) == 2


def test_a_book_that_does_not_arrive_is_asked_for_again() -> None:
    outbox = Outbox()
    books = Books(outbox, "stream", wait_us=2 * SECOND)
    books.watch(X)
    assert commands(outbox) == [Watch((X,))]
    outbox.mono = 2 * SECOND
    assert books.lack(X) == "no book" and commands(outbox) == []
    outbox.mono += 1
    assert books.lack(X) == "no book" and commands(outbox) == [Watch((X,))]
    assert books.lack(X) == "no book" and commands(outbox) == []


def test_without_a_limit_no_book_is_too_old() -> None:
    bench = open_bench()
    bench.exchange.now += 3_600 * SECOND
    bench.exchange.mono += 3_600 * SECOND
    show(bench)
    assert len(bench.placed) == 1
