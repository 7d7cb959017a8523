"""Markets of a trader: admission, capacity, their life from created to settled, and how often the exchange is asked.

Traders of this kind have been seen to deadlock when a position changed a subscription, to take a closed market for a
determined one, to record neither the time nor the result of a determination, and to give all recovered markets one name.
"""

from __future__ import annotations

import msgspec
import pytest
from trade.core.reference_exchange import SECOND, Bench, ReferenceExchange, Take
from trade.core.test_trader import RULES, X, Y, Z, open_bench, show

from kalshilab.kalshi.stream.events import BookSnapshot, FeedGap, Lifecycle
from kalshilab.market.model import Market
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.core.messages import (
    FeedUp,
    ListMarkets,
    LookUpMarket,
    MarketFound,
    MarketsListed,
    RequestAnswer,
    Tick,
    Unwatch,
    Watch,
)
from kalshilab.trade.core.trader import Trader

DAY = 86_400 * SECOND


def created(ticker: str, ts: int = 0) -> Lifecycle:
    """Return the message about a new market."""
    return Lifecycle("created", ticker, ts, ticker, 0, 0, "", None)


def listed(bench: Bench, *markets: Market) -> None:
    """Bring the trader to its first listing, and answer it with these markets."""
    bench.give(FeedUp())
    bench.carry_out()
    bench.answer()
    request = bench.requests.pop()[0]
    assert isinstance(request, ListMarkets)
    bench.give(RequestAnswer(request.number, MarketsListed(markets)))


# Life


def test_a_market_goes_from_created_to_settled() -> None:
    bench = open_bench(discovery=False)
    x = bench.exchange
    x.markets["N-1"] = Market(ticker="N-1", event="N", category="Sports")
    x.holdings["N-1"] = type(x.holdings[X])()
    bench.give(created("N-1", x.now))
    bench.settle_down()
    followed = bench.trader.markets.get("N-1")
    assert followed is not None and followed.status == "active" and bench.watched == {"N-1"}
    assert bench.trader.counts["tracked"] == bench.trader.markets.active == 1
    x.fill_of_new = 4
    show(bench, "N-1")
    bench.settle_down()
    x.settle("N-1", "yes")
    ended = x.now
    determined, settled = x.stream[-2:]
    bench.give(determined)
    assert followed.status == "determined" and bench.watched == set() and not bench.trader.markets.feeding
    assert followed.market is not None and (followed.market.result, followed.market.settlement) == (
        "yes",
        10_000,
    )
    bench.give(settled)
    assert followed.status == "settled" and followed.market.settled_ts == ended
    bench.settle_down()
    bench.check_account()
    assert [r.value.revenue for r in bench.records if r.kind == "settlement"] == [10_000_000]
    assert bench.trader.markets.active == 0


def test_each_message_about_the_end_counts_once() -> None:
    bench = open_bench()
    bench.exchange.settle(X, "no")
    messages = list(bench.exchange.stream)
    for message in (*messages, *messages, *reversed(messages)):
        bench.give(message)
    assert bench.trader.markets.active == 2 and set(bench.trader.markets.feeding) == {Y, Z}
    followed = bench.trader.markets.get(X)
    assert followed is not None and followed.status == "settled"


def test_a_closed_market_is_not_determined() -> None:
    """A market that is closed has no result yet; its position stays until there is one."""
    bench = open_bench()
    x = bench.exchange
    x.fill_of_new = 4
    show(bench)
    bench.settle_down()
    x.markets[X] = msgspec.structs.replace(x.markets[X], status="closed", close_ts=x.now + SECOND)
    bench.give(Lifecycle("close_date_updated", X, x.now, "A-1", 0, x.now + SECOND, "", None))
    for _ in range(10):
        bench.pass_time(SECOND)
        bench.settle_down()
    followed = bench.trader.markets.get(X)
    assert followed is not None and followed.status == "active" and bench.trader.account.total.size(X)
    x.settle(X, "yes")
    x.stream.clear()
    bench.pass_time(60 * SECOND)
    bench.settle_down()
    bench.check_account()
    assert followed.status == "settled" and bench.trader.counts["settlements"] == 1


def test_a_paused_market_is_not_traded_until_it_is_activated() -> None:
    bench = open_bench()
    now = bench.exchange.now
    bench.give(Lifecycle("deactivated", X, now, "A-1", 0, 0, "", None))
    show(bench)
    bench.settle_down()
    assert not bench.placed and bench.trader.counts["signals"] == 1
    bench.give(Lifecycle("activated", X, now, "A-1", 0, 0, "", None))
    show(bench)
    bench.settle_down()
    assert len(bench.placed) == 1


def test_a_fill_and_the_end_of_its_market_in_one_instant_end_the_subscription_once() -> None:
    """A lock that is taken twice on the way from a position to its subscription stops the trader for ever."""
    bench = open_bench()
    show(bench)
    bench.carry_out()
    bench.answer()
    bench.exchange.fill(next(iter(bench.exchange.orders)), 1000)
    bench.exchange.settle(X, "yes")
    sent = [command for event in list(bench.exchange.stream) for command in bench.give(event)]
    bench.exchange.stream.clear()
    assert [c for c in sent if isinstance(c, Watch | Unwatch)] == [Unwatch((X,))]
    bench.settle_down()
    bench.check_account()


# Admission


def test_a_market_beyond_the_capacity_is_rejected() -> None:
    bench = open_bench(ready=False, max_markets=1_000)
    listed(bench, *(Market(ticker=f"M-{i}", event="M", category="Sports") for i in range(1_001)))
    assert bench.trader.markets.active == 1_000 and bench.trader.markets.rejected == {"capacity": 1}


def test_the_closing_rule_holds_for_each_market_of_an_event() -> None:
    bench = open_bench(ready=False, close_min_us=600 * SECOND)
    now = bench.exchange.now
    listed(
        bench,
        *(
            Market(ticker=f"E-{minutes}", event="E", category="Sports", close_ts=now + minutes * 60 * SECOND)
            for minutes in (9, 10, 11)
        ),
    )
    assert set(bench.trader.markets.feeding) == {"E-10", "E-11"}


def test_a_market_without_a_category_matches_no_category() -> None:
    bench = open_bench(ready=False, categories=("sports",))
    listed(bench, Market(ticker="N", event="N"), Market(ticker="S", event="S", category="Sports"))
    assert set(bench.trader.markets.feeding) == {"S"} and bench.trader.markets.rejected == {"no category": 1}


def test_listed_tickers_are_followed_and_no_others() -> None:
    bench = open_bench(tickers=(Y,))
    assert set(bench.trader.markets.feeding) == bench.watched == {Y}
    bench.give(created("N-1"))
    assert not bench.requests
    show(bench, X)
    assert bench.trader.counts["filtered"] == 1


def test_without_discovery_markets_come_from_messages_alone() -> None:
    bench = open_bench(discovery=False)
    assert not bench.trader.markets.feeding
    bench.give(created(X))
    assert [type(request) for request, _ in bench.requests] == [LookUpMarket]
    bench.settle_down()
    assert set(bench.trader.markets.feeding) == {X}
    for _ in range(20):
        bench.pass_time(60 * SECOND)
        assert not any(isinstance(request, ListMarkets) for request, _ in bench.requests)
        bench.settle_down()


def test_a_market_that_is_created_and_listed_is_followed_once() -> None:
    bench = open_bench(ready=False)
    bench.give(FeedUp())
    bench.give(created(X))
    bench.settle_down()
    assert bench.trader.markets.active == 3 and bench.trader.counts["tracked"] == 3


@pytest.mark.parametrize("status", ["finalized", "determined", "closed", "settled"])
def test_a_market_that_has_ended_is_not_admitted(status: str) -> None:
    bench = open_bench(discovery=False)
    bench.give(created("N-1"))
    market = Market(ticker="N-1", event="N", category="Sports", status=status)
    bench.give(RequestAnswer(bench.requests.pop()[0].number, MarketFound(market)))
    assert bench.trader.markets.active == 0 and bench.trader.markets.rejected == {f"status {status}": 1}


def test_a_later_life_follows_the_same_markets_and_positions() -> None:
    """A restart that reads a wrong key recovers every market under one empty name."""
    bench = open_bench()
    bench.exchange.fill_of_new = 4
    for ticker in (X, Z):
        show(bench, ticker)
        bench.settle_down()
    bench.finish()
    again = Bench(Trader(RULES, [("yes", Take("yes"), Budget())], "run-2"), bench.exchange)
    again.give(Tick())
    again.give(FeedUp())
    again.settle_down()
    assert again.trader.state == "READY" and again.watched == set(again.trader.markets.feeding) == {X, Y, Z}
    assert {ticker: holding.size for ticker, holding in again.trader.account.total.positions()} == {
        X: 1000,
        Z: 1000,
    }
    again.check_account()


# Time


def test_open_markets_are_listed_at_each_interval() -> None:
    bench = open_bench(discovery_us=300 * SECOND)
    asked = []
    for second in range(1, 1_000):
        bench.pass_time(SECOND)
        asked += [second for request, _ in bench.requests if isinstance(request, ListMarkets)]
        bench.settle_down()
    assert asked == [300, 600, 900]


def test_a_loss_of_lifecycle_frames_lists_the_markets_at_once() -> None:
    bench = open_bench()
    bench.exchange.markets["N-1"] = Market(ticker="N-1", event="N", category="Sports")
    bench.give(FeedGap(1, "market_lifecycle_v2", (), 3, 5))
    bench.settle_down()
    assert "N-1" in bench.trader.markets.feeding


def test_the_last_print_of_a_market_is_its_mark() -> None:
    """A limit on the rate of updates that discards the later ones leaves an old price."""
    bench = open_bench()
    for price in (5000, 5500, 4500, 6100):
        bench.give(bench.exchange.trade(X, price))
        bench.give(bench.exchange.trade(Y, 10_000 - price))
    assert bench.trader.account.marks == {X: 6100, Y: 3900}


def test_the_asks_of_a_book_are_the_bids_for_the_other_outcome() -> None:
    """Quotes of NO that are read from a message without them are zero."""
    bench = open_bench(("no", Take("no"), Budget()))
    bench.give(BookSnapshot(X, [(4200, 100)], [(5500, 100)]))
    book = bench.trader.books.get(X)
    assert book is not None
    assert (book.best_yes_bid, book.yes_ask, book.best_no_bid, book.no_ask) == (4200, 4500, 5500, 5800)
    show(bench)
    assert bench.placed[0].intent.price == 4200


def test_the_exchange_is_not_asked_about_markets_in_which_nothing_is_held() -> None:
    x = ReferenceExchange()
    bench = open_bench(("no order", Take("yes", least=10_000), Budget()))
    for ticker in (X, Y, Z):
        market = x.markets[ticker]
        bench.exchange.markets[ticker] = msgspec.structs.replace(market, close_ts=bench.exchange.now + SECOND)
        bench.give(
            Lifecycle("close_date_updated", ticker, 0, market.event, 0, bench.exchange.now + SECOND, "", None)
        )
    for _ in range(30):
        bench.pass_time(SECOND)
        assert not any(isinstance(request, LookUpMarket) for request, _ in bench.requests)
        bench.settle_down()
