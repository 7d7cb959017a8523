"""The trader, one behaviour at a time, against the small exchange of these tests."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trade.core.reference_exchange import SECOND, Bench, ReferenceExchange, Take

from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot, FeedGap, Lifecycle
from kalshilab.market.model import Market, Order
from kalshilab.trade.core.exposure import Budget, RiskRules, TraderRules
from kalshilab.trade.core.messages import (
    Amend,
    Cancel,
    Declined,
    Ended,
    FeedDown,
    FeedUp,
    ListMarkets,
    LookUpMarket,
    Lost,
    MarketFound,
    MarketsListed,
    Operate,
    PrintsRead,
    Quiet,
    ReadAccount,
    ReadPrints,
    RequestAnswer,
    Say,
    Tick,
)
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.strategies.strategies import make_strategy

RISK = RiskRules(max_orders=20, max_position=100_000, max_concurrent=10, min_cash=0)
RULES = TraderRules(risk=RISK, attempts_per_minute=1000.0)
X, Y, Z = "A-1-X", "A-1-Y", "B-1-X"


def open_bench(
    *strategies: tuple[str, Take, Budget], ready: bool = True, cash: int = 1_000_000_000, **rules: Any
) -> Bench:
    """Return a bench whose trader has started, by default with one strategy that buys YES at each print."""
    given = list(strategies) or [("yes", Take("yes"), Budget())]
    bench = Bench(Trader(msgspec.structs.replace(RULES, **rules), given, "run-1"), ReferenceExchange(cash))
    bench.give(Tick())
    if ready:
        bench.give(FeedUp())
        bench.settle_down()
        assert bench.trader.state == "READY"
    return bench


def show(bench: Bench, ticker: str = X, price: int = 5000, size: int = 100) -> None:
    """Deliver one print and the end of its instant."""
    bench.give(bench.exchange.trade(ticker, price, size))
    bench.give(Quiet())


def actions(bench: Bench) -> list[tuple[str, str]]:
    """Return action and reason of each decision."""
    return [(r.value.action, r.value.reason) for r in bench.records if r.kind == "decision"]


def notes(bench: Bench, what: str) -> list[Any]:
    return [r.value for r in bench.records if r.kind == "note" and r.value["what"] == what]


# Start, time limits and the end


def test_the_start_waits_for_the_feed_the_account_and_the_markets() -> None:
    bench = open_bench(ready=False)
    assert bench.trader.state == "ORDERBOOK_CONNECT"
    bench.give(FeedUp())
    assert bench.trader.state == "TRADING_CLIENT_CONNECT"
    assert [type(r) for r, _ in bench.requests] == [ReadAccount]
    bench.carry_out()
    bench.answer()
    assert bench.trader.state == "KALSHI_DATA_SYNC"
    assert [type(r) for r, _ in bench.requests] == [ListMarkets]
    bench.settle_down()
    assert bench.trader.state == "READY" and bench.watched == {X, Y, Z}


def test_a_fill_during_the_first_reading_repeats_it() -> None:
    bench = open_bench(ready=False)
    bench.give(FeedUp())
    bench.carry_out()
    bench.exchange.foreign_fill(X, "bid", 5000, 100)
    bench.give(bench.exchange.stream.pop())
    bench.answer()
    assert not bench.trader.opened
    bench.pass_time(SECOND)
    bench.settle_down()
    assert bench.trader.state == "READY"
    bench.check_account()


def test_an_outage_of_the_feed_is_waited_out() -> None:
    bench = open_bench()
    bench.give(FeedDown("maintenance"))
    assert bench.trader.state == "ERROR"
    for _ in range(100):
        bench.pass_time(60 * SECOND)
        while bench.requests:
            bench.drop()
        while bench.answers:
            bench.answer()
    assert bench.trader.state == "ERROR"
    bench.give(FeedUp())
    for _ in range(5):
        bench.settle_down()
        bench.pass_time(SECOND)
    assert bench.trader.state == "READY" and bench.trader.counts["reconnects"] == 1


def test_an_outage_beyond_its_limit_ends_the_session() -> None:
    bench = open_bench(max_outage_us=600 * SECOND)
    bench.give(FeedDown("reset"))
    bench.pass_time(SECOND)
    bench.pass_time(601 * SECOND)
    assert bench.trader.state == "SHUTDOWN" and "away for 600 s" in bench.trader.stopped


def test_a_fault_of_this_side_ends_the_session_after_its_limit() -> None:
    bench = open_bench()
    show(bench)
    bench.pass_time(61 * SECOND)
    assert bench.trader.state == "ERROR" and "ACTING lasted" in bench.trader.states.last_error
    bench.pass_time(200 * SECOND)
    assert not bench.trader.stopped
    bench.pass_time(101 * SECOND)
    assert "ERROR lasted more than 300 s" in bench.trader.stopped


def test_an_answer_after_the_time_limit_of_acting_ends_the_error() -> None:
    bench = open_bench()
    show(bench)
    bench.pass_time(61 * SECOND)
    bench.settle_down()
    assert bench.trader.state == "READY" and actions(bench) == [("rejected", "signature_expired")]


def test_a_feed_that_never_comes_changes_to_error_and_can_still_come() -> None:
    bench = open_bench(ready=False)
    bench.pass_time(121 * SECOND)
    assert bench.trader.state == "ERROR"
    bench.give(FeedUp())
    bench.settle_down()
    assert bench.trader.state == "READY"


def test_the_end_cancels_reads_the_account_and_names_nothing() -> None:
    bench = open_bench(group_contracts=10_000)
    assert bench.exchange.groups == {"g1"}
    show(bench)
    bench.settle_down()
    assert [p.group for p in bench.placed] == ["g1"]
    finish = bench.finish()
    assert finish.left == () and bench.trader.state == "SHUTDOWN"
    assert [o.status for o in bench.exchange.orders.values()] == ["canceled"]
    assert bench.exchange.groups == set()
    assert bench.give(bench.exchange.trade(X, 5000)) == []


def test_the_end_comes_within_28_seconds_and_names_what_is_left() -> None:
    bench = open_bench()
    show(bench)
    bench.settle_down()
    bench.give(Operate("stop", "deadline"))
    for _ in range(60):
        bench.pass_time(SECOND // 2)
        while bench.requests:
            bench.drop()
        while bench.answers:
            bench.answer()
    assert bench.finished is not None
    assert bench.finished.left == tuple(bench.exchange.orders)
    assert bench.finished.reason == "deadline"


def test_the_end_resolves_an_order_whose_answer_was_lost() -> None:
    bench = open_bench()
    show(bench)
    bench.drop()
    bench.answer()
    bench.give(Ended())
    for _ in range(60):
        bench.settle_down()
        bench.pass_time(SECOND // 2)
    assert bench.finished is not None and bench.finished.left == ()
    assert [o.kind for found in bench.outcomes().values() for o in found] == ["absent"]


def test_a_reading_without_an_answer_is_given_up_and_the_account_read_again() -> None:
    bench = open_bench()
    bench.pass_time(bench.trader.rules.sync_us)
    ((first, _),) = [(r, sent) for r, sent in bench.requests if isinstance(r, ReadAccount)]
    bench.requests.clear()
    bench.give(Operate("stop", "test"))
    for _ in range(7):
        bench.pass_time(SECOND)
        bench.settle_down()
    assert bench.finished is None
    bench.pass_time(SECOND)
    bench.settle_down()
    assert bench.finished is not None and bench.trader.compared_at_end
    bench.give(RequestAnswer(first.number, Lost("time-out")))


def test_a_slow_venue_is_given_more_time_for_each_reading() -> None:
    bench = open_bench()
    bench.pass_time(bench.trader.rules.sync_us)
    waits, sent = [], bench.exchange.mono
    while len(waits) < 3:
        bench.requests.clear()
        bench.pass_time(SECOND)
        if any(isinstance(r, ReadAccount) for r, _ in bench.requests):
            waits.append((bench.exchange.mono - sent) // SECOND)
            sent = bench.exchange.mono
    assert waits == [8, 16, 32]


@pytest.mark.parametrize("answered", range(11))
def test_an_order_that_never_arrived_is_absent_as_soon_as_its_signature_and_the_listings_allow(
    answered: int,
) -> None:
    bench = open_bench()
    show(bench)
    bench.drop()
    bench.pass_time(answered * SECOND)
    bench.answer()
    for second in range(answered, 24):
        bench.settle_down()
        assert not bench.trader.orders.owner_of("o1") and not any(bench.outcomes().values()), second
        bench.pass_time(SECOND)
    bench.settle_down()
    assert [o.kind for found in bench.outcomes().values() for o in found] == ["absent"]


# Losses of the feed


def test_missed_prints_are_read_and_fed_once_in_their_order() -> None:
    bench = open_bench(("yes", Take("yes", size=100), Budget()))
    x = bench.exchange
    show(bench)
    bench.settle_down()
    bench.give(FeedDown("reset"))
    missed = [x.trade(X, 5100), x.trade(X, 5200)]
    bench.give(FeedUp())
    after = x.trade(X, 5300)
    bench.give(after)
    assert bench.trader.counts["signals"] == 1
    at = next(i for i, (r, _) in enumerate(bench.requests) if isinstance(r, ReadPrints))
    bench.carry_out(at)
    assert isinstance(bench.answers[-1].result, PrintsRead) and len(bench.answers[-1].result.prints) == 4
    bench.answer(-1)
    fired = [r.value.ts for r in bench.records if r.kind == "fire"]
    assert fired[1:] == [*(trade.ts for trade in missed), after.ts]
    assert list(bench.trader.recent)[-1] == after


@pytest.mark.parametrize("complete", [True, False])
def test_markets_with_missed_prints_fire_no_more(complete: bool) -> None:
    bench = open_bench()
    show(bench)
    bench.settle_down()
    bench.give(FeedDown("reset"))
    bench.exchange.trade(X, 5100)
    bench.give(FeedUp())
    read = next(r for r, _ in bench.requests if isinstance(r, ReadPrints))
    bench.give(RequestAnswer(read.number, PrintsRead((), complete=complete)))
    signals = bench.trader.counts["signals"]
    show(bench)
    assert bench.trader.counts["signals"] == signals + complete
    assert len(notes(bench, "prints missed")) == 1 - complete


def test_missed_prints_are_asked_for_again_and_given_up_after_ten_seconds() -> None:
    bench = open_bench()
    show(bench)
    bench.settle_down()
    bench.give(FeedDown("reset"))
    bench.give(FeedUp())
    asked = 0
    for _ in range(14):
        for request, _ in bench.requests:
            asked += isinstance(request, ReadPrints)
        while bench.requests:
            bench.drop()
        while bench.answers:
            bench.answer()
        bench.pass_time(SECOND)
    assert 4 <= asked <= 7 and len(notes(bench, "prints missed")) == 1


def test_lost_frames_of_a_book_drop_it_until_its_snapshot() -> None:
    bench = open_bench()
    bench.watched.clear()
    bench.give(FeedGap(1, "orderbook_delta", (X,), 5, 7))
    assert bench.trader.books.get(X) is None and bench.watched == {X}
    show(bench)
    assert actions(bench) == [("deferred", "no book")]
    bench.give(bench.exchange.book(X))
    bench.give(Quiet())
    assert len(bench.placed) == 1


# Decisions


def test_a_wide_spread_leaves_the_fire_pending_until_the_book_changes() -> None:
    bench = open_bench()
    bench.give(BookSnapshot(X, [(4000, 100)], []))
    show(bench)
    assert actions(bench) == [("deferred", "one-sided book")] and not bench.trader.busy
    assert bench.give(Quiet()) == []
    bench.give(BookDelta(X, "no", 5000, 100, 0, ""))
    assert bench.trader.busy
    bench.give(Quiet())
    assert len(bench.placed) == 1


def test_a_fire_expires_after_a_minute_of_exchange_time() -> None:
    bench = open_bench()
    bench.give(Operate("pause", "lunch"))
    show(bench)
    bench.pass_time(61 * SECOND)
    bench.give(Quiet())
    assert actions(bench) == [("deferred", "lunch"), ("expired", "lunch")] and bench.trader.pending == 0


def test_a_busy_exchange_keeps_the_fire_and_changes_the_order_id() -> None:
    bench = open_bench()
    show(bench)
    place, _ = bench.requests.pop()
    bench.give(RequestAnswer(place.number, Declined(429, "rate_limited")))
    bench.give(Quiet())
    assert len(bench.placed) == 1
    bench.pass_time(2 * SECOND)
    bench.give(Quiet())
    first, second = (p.intent for p in bench.placed)
    assert first.fire == second.fire and first.client_order_id != second.client_order_id
    assert actions(bench) == [("deferred", "rate_limited")]


def test_the_rate_limit_defers_on_exchange_time() -> None:
    bench = open_bench(attempts_per_minute=1.0)
    show(bench)
    bench.settle_down()
    show(bench, Y)
    assert actions(bench)[-1] == ("deferred", "rate limit")
    bench.exchange.now += 59 * SECOND
    bench.give(Quiet())
    assert len(bench.placed) == 1
    bench.exchange.now += SECOND
    bench.give(Quiet())
    assert len(bench.placed) == 2


def test_a_closed_budget_frees_when_an_order_ends() -> None:
    bench = open_bench(("yes", Take("yes"), Budget(positions=1)))
    show(bench)
    bench.settle_down()
    show(bench, Y)
    assert actions(bench)[-1] == ("deferred", "budget positions")
    bench.exchange.cancel(bench.trader.orders.of(X)[0].order_id)
    bench.settle_down()
    assert [p.intent.ticker for p in bench.placed] == [X, Y]


def test_strategies_do_not_trade_against_each_other() -> None:
    bench = open_bench(("yes", Take("yes"), Budget()), ("no", Take("no"), Budget()))
    show(bench)
    bench.settle_down()
    assert ("skipped", "opposite of yes") in actions(bench)
    assert [p.intent.strategy for p in bench.placed] == ["yes"]


def test_a_signal_that_raises_stops_its_strategy_alone() -> None:
    bench = open_bench(("bad", Take("maybe"), Budget()), ("good", Take("yes"), Budget()))
    show(bench)
    bench.settle_down()
    assert bench.trader.state == "READY" and len(bench.placed) == 1
    assert bench.trader.health.parts["strategy bad"].startswith("degraded: TypeError")
    assert notes(bench, "strategy failed")[0]["strategy"] == "bad"


def test_one_strategy_can_be_paused_and_resumed() -> None:
    bench = open_bench(("one", Take("yes"), Budget()), ("two", Take("yes"), Budget()))
    bench.give(Operate("pause", strategy="one"))
    show(bench)
    bench.settle_down()
    assert [p.intent.strategy for p in bench.placed] == ["two"]
    bench.give(Operate("resume", strategy="one"))
    bench.settle_down()
    assert [p.intent.strategy for p in bench.placed] == ["two", "one"]


def test_flatten_cancels_until_nothing_rests() -> None:
    bench = open_bench()
    show(bench)
    bench.settle_down()
    bench.give(Operate("flatten"))
    assert isinstance(bench.requests[-1][0], Cancel)
    bench.drop()
    for _ in range(6):
        bench.settle_down()
        bench.pass_time(SECOND)
    assert [o.status for o in bench.exchange.orders.values()] == ["canceled"]
    assert bench.trader.paused == "paused"


def test_the_loss_of_a_day_pauses_the_session() -> None:
    bench = open_bench(
        risk=msgspec.structs.replace(RISK, daily_loss=1_000_000),
    )
    bench.exchange.fill_of_new = 4
    show(bench)
    bench.settle_down()
    assert not bench.trader.paused
    show(bench, price=4000)
    bench.settle_down()
    bench.pass_time(SECOND)
    assert bench.trader.paused == "daily loss"


def test_books_are_asked_for_at_a_decision_and_kept_for_one_instant() -> None:
    bench = open_bench(books="ask")
    assert bench.watched == set()
    show(bench)
    assert bench.trader.busy and bench.watched == {X} and not bench.placed
    bench.give(bench.exchange.book(X))
    bench.give(Quiet())
    assert len(bench.placed) == 1 and bench.trader.books.get(X) is None


def test_an_asked_book_without_an_answer_defers_the_fire() -> None:
    bench = open_bench(books="ask")
    show(bench)
    bench.give(Quiet())
    assert actions(bench) == [("deferred", "no book")] and not bench.trader.busy


# Orders


def test_a_resting_order_is_renewed_before_it_expires() -> None:
    bench = open_bench(order_life_us=120 * SECOND)
    show(bench)
    bench.carry_out()
    bench.answer()
    assert bench.placed[0].expires == bench.exchange.now + 120 * SECOND
    bench.pass_time(61 * SECOND)
    amend = next(r for r, _ in bench.requests if isinstance(r, Amend))
    assert (amend.count, amend.expires) == (1000, bench.exchange.now + 120 * SECOND)


def test_an_order_of_the_run_that_nothing_explains_is_cancelled() -> None:
    bench = open_bench()
    x = bench.exchange
    show(bench)
    bench.settle_down()
    order = next(iter(x.orders.values()))
    stray = msgspec.structs.replace(order, order_id="o99", client_order_id=bench.trader.prefix + "other")
    other = msgspec.structs.replace(order, order_id="o98", client_order_id="kl-00000000-another-run")
    x.orders |= {"o98": other, "o99": stray}
    bench.pass_time(31 * SECOND)
    bench.settle_down()
    assert (x.orders["o98"].status, x.orders["o99"].status) == ("resting", "canceled")


def test_an_unexplained_difference_of_cash_blocks_orders_until_it_is_gone() -> None:
    bench = open_bench()
    bench.exchange.cash -= 5_000_000
    for _ in range(4):
        bench.pass_time(31 * SECOND)
        bench.settle_down()
    assert bench.trader.differences.keys() == {"cash"} and bench.trader.state == "READY"
    assert "cash" in bench.trader.health.parts["account"]
    show(bench)
    assert actions(bench) == [("deferred", "account differs")]
    bench.exchange.cash += 5_000_000
    bench.pass_time(31 * SECOND)
    bench.settle_down()
    assert len(bench.placed) == 1 and bench.trader.health.parts["account"] == "healthy"


def test_fills_that_an_order_reports_and_that_do_not_arrive_are_read() -> None:
    bench = open_bench()
    bench.exchange.fill_of_new = 4
    show(bench)
    bench.carry_out()
    bench.exchange.stream.clear()
    bench.answer()
    bench.pass_time(2 * SECOND)
    bench.settle_down()
    bench.check_account()
    assert bench.trader.orders.live == {}


@pytest.mark.parametrize("end", ["sync", "stop"])
def test_the_lost_last_report_of_a_filled_order_is_asked_for(end: str) -> None:
    bench = open_bench()
    show(bench)
    bench.settle_down()
    (order_id,) = bench.exchange.orders
    bench.exchange.fill(order_id, 10**9)
    bench.exchange.stream = [message for message in bench.exchange.stream if not isinstance(message, Order)]
    bench.settle_down()
    assert [r.value.status for r in bench.records if r.kind == "order"] == ["resting"]
    if end == "sync":
        bench.pass_time(bench.trader.rules.sync_us)
        bench.settle_down()
    else:
        bench.finish()
    assert [r.value.status for r in bench.records if r.kind == "order"] == ["resting", "executed"]


def test_an_order_that_the_exchange_knows_already_is_looked_up() -> None:
    bench = open_bench()
    show(bench)
    bench.carry_out()
    place = bench.placed[0]
    bench.answers.clear()
    bench.exchange.stream.clear()
    bench.give(RequestAnswer(place.number, Declined(409, "order_already_exists")))
    for _ in range(6):
        bench.pass_time(SECOND)
        bench.settle_down()
    assert [o.kind for found in bench.outcomes().values() for o in found] == ["accepted"]


# Markets


def test_a_market_that_settles_while_the_feed_is_away_is_paid_out() -> None:
    bench = open_bench()
    bench.exchange.fill_of_new = 4
    show(bench)
    bench.settle_down()
    bench.give(FeedDown("reset"))
    bench.exchange.settle(X, "yes")
    bench.exchange.stream.clear()
    bench.give(FeedUp())
    for _ in range(5):
        bench.settle_down()
        bench.pass_time(SECOND)
    bench.check_account()
    assert bench.trader.counts["settlements"] == 1 and bench.trader.exposure.markets == 0


def test_a_pay_out_that_is_listed_late_is_asked_for_again() -> None:
    bench = open_bench()
    bench.exchange.fill_of_new = 4
    show(bench)
    bench.settle_down()
    bench.exchange.settle(X, "no")
    late = bench.exchange.settlements.pop()
    bench.settle_down()
    assert bench.trader.counts["settlements"] == 0
    bench.exchange.settlements.append(late)
    for _ in range(4):
        bench.pass_time(SECOND)
        bench.settle_down()
    bench.check_account()


def test_a_held_market_that_is_not_admitted_is_followed_to_its_pay_out() -> None:
    bench = open_bench(ready=False, tickers=(Y,))
    bench.exchange.foreign_fill(X, "bid", 5000, 1000)
    bench.exchange.stream.clear()
    bench.give(FeedUp())
    bench.settle_down()
    followed = bench.trader.markets.get(X)
    assert followed is not None and followed.status == "held" and X not in bench.trader.markets.feeding
    bench.exchange.settle(X, "yes")
    bench.settle_down()
    bench.check_account()
    assert bench.trader.counts["settlements"] == 1


def test_a_held_market_that_is_admitted_reaches_the_signals() -> None:
    bench = open_bench(ready=False)
    bench.exchange.foreign_fill(X, "bid", 5000, 1000)
    bench.exchange.stream.clear()
    bench.give(FeedUp())
    bench.settle_down()
    assert set(bench.trader.markets.feeding) == {X, Y, Z}
    show(bench)
    assert bench.trader.counts["signals"] == 1


def test_a_held_market_is_looked_up_after_its_close_time() -> None:
    bench = open_bench()
    x = bench.exchange
    x.fill_of_new = 4
    show(bench)
    bench.settle_down()
    bench.give(Lifecycle("close_date_updated", X, x.now, "A-1", 0, x.now + 5 * SECOND, "", None))
    x.settle(X, "yes")
    x.stream.clear()
    bench.pass_time(6 * SECOND)
    bench.pass_time(2 * SECOND)
    bench.settle_down()
    bench.check_account()


def test_a_place_that_becomes_free_is_offered_again() -> None:
    bench = open_bench(max_markets=2)
    assert bench.trader.markets.rejected["capacity"] == 1
    bench.exchange.settle(X, "yes")
    bench.settle_down()
    bench.pass_time(6 * SECOND)
    bench.settle_down()
    assert set(bench.trader.markets.feeding) == {Y, Z}


def test_prints_during_a_look_up_reach_the_signal_on_admission() -> None:
    bench = open_bench()
    x = bench.exchange
    x.markets["N-1"] = Market(ticker="N-1", event="N", category="Sports")
    bench.give(Lifecycle("created", "N-1", x.now, "N", 0, 0, "", None))
    show(bench, "N-1")
    bench.drop()
    bench.answer()
    show(bench, "N-1")
    assert bench.trader.counts["signals"] == 0
    bench.pass_time(2 * SECOND)
    assert isinstance(bench.requests[-1][0], LookUpMarket)
    bench.carry_out(-1)
    bench.answer(-1)
    assert bench.trader.counts["signals"] == 2


@pytest.mark.parametrize(
    ("market", "reason"),
    [
        (Market(ticker="N", event="N", category="Politics"), "category"),
        (Market(ticker="N", event="N"), "no category"),
        (Market(ticker="N", event="N", category="Sports", status="closed"), "status closed"),
        (Market(ticker="N", event="N", category="Sports", close_ts=10**16, expected_close_ts=1_100 * SECOND), "closes too soon"),
    ],
)  # fmt: skip
def test_a_market_is_rejected_with_a_reason(market: Market, reason: str) -> None:
    bench = open_bench(categories=("sports",), close_min_us=600 * SECOND)
    bench.give(Lifecycle("created", "N", 0, "N", 0, 0, "", None))
    bench.give(RequestAnswer(bench.requests.pop()[0].number, MarketFound(market)))
    followed = bench.trader.markets.get("N")
    assert followed is not None and followed.reason == reason


def test_a_listing_without_a_match_names_the_categories_seen() -> None:
    bench = open_bench(ready=False, categories=("weather",))
    bench.give(FeedUp())
    bench.carry_out()
    bench.answer()
    listing = bench.requests.pop()[0]
    said = bench.give(RequestAnswer(listing.number, MarketsListed(tuple(bench.exchange.markets.values()))))
    assert any(
        "no market matches categories=weather; seen: Sports (category: 3)'" in str(command)
        for command in said
    )


def test_markets_without_a_match_are_named_within_a_minute_also_without_listings() -> None:
    bench = open_bench(categories=("weather",), discovery=False)
    bench.exchange.markets["C-1-X"] = Market(ticker="C-1-X", event="C-1", category="Crypto")
    said: list[str] = []
    for ticker in (X, "C-1-X"):
        bench.give(Lifecycle("created", ticker, bench.exchange.now, ticker[:3], 0, 0, "", None))
        bench.settle_down()
    for _ in range(120):
        bench.exchange.now += SECOND // 2
        bench.exchange.mono += SECOND // 2
        said += [c.text for c in bench.give(Tick()) if isinstance(c, Say)]
    assert said == ["discovery: no market matches categories=weather; seen: Crypto, Sports (category: 2)"]


def test_a_session_that_follows_a_market_reports_no_lack_of_them() -> None:
    bench = open_bench(discovery=False)
    bench.give(Lifecycle("created", X, bench.exchange.now, X[:3], 0, 0, "", None))
    bench.settle_down()
    said = []
    for _ in range(120):
        bench.exchange.mono += SECOND
        said += [c for c in bench.give(Tick()) if isinstance(c, Say)]
    assert bench.trader.markets.active == 1 and not said


def test_a_failed_listing_only_degrades_the_discovery() -> None:
    bench = open_bench(ready=False)
    bench.give(FeedUp())
    bench.carry_out()
    bench.answer()
    bench.give(RequestAnswer(bench.requests.pop()[0].number, Lost("503")))
    assert bench.trader.state == "READY" and not bench.trader.health.is_healthy("discovery")
    bench.pass_time(6 * SECOND)
    bench.settle_down()
    assert bench.trader.health.is_healthy("discovery") and bench.trader.markets.active == 3


# The rest


def test_settings_make_a_trader_and_names_must_be_unique() -> None:
    settings = Settings(env={}, env_file=None, close_min_minutes=5)
    strategy = make_strategy(settings)
    trader = Trader(settings, [("a", strategy, Budget())], "run-1", books="ask")
    assert trader.rules.close_min_us == 300 * SECOND and trader.books.asked_for
    with pytest.raises(SessionError, match="unique"):
        Trader(settings, [("a", strategy, Budget()), ("a", strategy, Budget())], "run-1")


def test_memory_is_flat_in_the_length_of_the_run() -> None:
    bench = open_bench()
    for _ in range(20_000):
        bench.exchange.now += SECOND
        bench.trader.handle(Tick(), bench.exchange.now, bench.exchange.mono)
    assert len(bench.trader.equity) <= 4096
    stamps = [ts for ts, _, _ in bench.trader.equity]
    assert stamps == sorted(stamps) and stamps[-1] == bench.exchange.now
