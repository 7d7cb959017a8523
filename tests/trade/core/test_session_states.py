"""States, time limits and health of a trader.

Traders of this kind have been seen to stay in ERROR for ever, to trade on in ERROR from a stale copy of the state, and to
count errors over their whole life until they were unhealthy for good.
"""

from __future__ import annotations

import itertools

import pytest
from trade.core.reference_exchange import SECOND, Bench, ReferenceExchange, Take
from trade.core.test_trader import RULES, X, Y, actions, notes, open_bench, show

from kalshilab.errors import IllegalTransition
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.core.messages import (
    Declined,
    FeedDown,
    FeedUp,
    ListMarkets,
    LookUpMarket,
    Lost,
    OpenGroup,
    Operate,
    Outbox,
    Place,
    Quiet,
    ReadAccount,
    RequestAnswer,
    Say,
    Tick,
    TraderRequest,
)
from kalshilab.trade.core.states import ALLOWED, CRITICAL, TIMEOUTS, TRADING, PartHealth, States
from kalshilab.trade.core.trader import Trader

STATES = tuple(ALLOWED)


def take_request(bench: Bench, kind: type[TraderRequest]) -> TraderRequest:
    """Remove the oldest request of a kind that was not carried out, and return it."""
    at = next(i for i, (request, _) in enumerate(bench.requests) if isinstance(request, kind))
    return bench.requests.pop(at)[0]


def lose_reading(bench: Bench) -> None:
    """Lose the answer to the next reading of the account."""
    bench.pass_time(31 * SECOND)
    bench.give(RequestAnswer(take_request(bench, ReadAccount).number, Lost("503")))


def refuse_order(bench: Bench, ticker: str, status: int) -> None:
    """Let an order be refused with an HTTP status."""
    show(bench, ticker)
    bench.give(RequestAnswer(take_request(bench, Place).number, Declined(status, "")))


# Transitions


@pytest.mark.parametrize("source", STATES)
@pytest.mark.parametrize("target", STATES)
def test_exactly_the_listed_transitions_are_possible(source: str, target: str) -> None:
    outbox = Outbox()
    states = States(outbox)
    states.state = source
    if target == source:
        states.to(target, "again")
        assert not outbox.commands and not states.history
    elif target in ALLOWED[source]:
        states.to(target, "go")
        assert states.state == target and states.may_trade == (target in ("READY", "ACTING"))
        assert [(t.source, t.target) for t in states.history] == [(source, target)]
    else:
        with pytest.raises(IllegalTransition):
            states.to(target, "go")
        assert states.state == source and not outbox.commands


def test_the_latest_fifty_transitions_are_kept_with_their_times() -> None:
    outbox = Outbox()
    states = States(outbox)
    states.state = "READY"
    for second in range(60):
        outbox.now, outbox.mono = second * SECOND, 7 + second * SECOND
        states.to("ACTING" if states.state == "READY" else "READY", str(second))
    assert [t.reason for t in states.history] == [str(second) for second in range(10, 60)]
    assert {t.ts - u.ts for u, t in zip(states.history, list(states.history)[1:], strict=False)} == {SECOND}
    assert states.lasted_us() == 0


def test_each_transition_is_recorded_once_in_its_order() -> None:
    bench = open_bench()
    bench.finish()
    changes = [r.value for r in bench.records if r.kind == "transition"]
    assert [change.target for change in changes] == [
        "INITIALIZING", "ORDERBOOK_CONNECT", "TRADING_CLIENT_CONNECT", "KALSHI_DATA_SYNC", "READY", "SHUTDOWN",
    ]  # fmt: skip
    assert all(after.source == before.target for before, after in itertools.pairwise(changes))


# Time limits


@pytest.mark.parametrize("state", STATES)
def test_every_state_but_ready_has_a_time_limit_that_is_checked(state: str) -> None:
    """ERROR and SHUTDOWN have their own ends, and READY may last for ever; any other state must change to ERROR."""
    outbox = Outbox()
    states = States(outbox)
    states.state = state
    assert states.overdue() is None
    limit = TIMEOUTS.get(state)
    outbox.mono = round((limit or 1e6) * 1e6)
    assert states.overdue() is None
    outbox.mono += 1
    assert (states.overdue() is not None) == (state not in ("READY", "ERROR", "SHUTDOWN"))
    assert (limit is None) == (state == "READY")


@pytest.mark.parametrize("silent", [ReadAccount, ListMarkets])
def test_a_start_without_an_answer_changes_to_error_and_can_still_succeed(
    silent: type[TraderRequest],
) -> None:
    bench = open_bench(ready=False)
    bench.give(FeedUp())
    while not isinstance(bench.requests[0][0], silent):
        bench.carry_out()
        bench.answer()
    stuck = bench.trader.state
    bench.pass_time(61 * SECOND)
    assert (
        bench.trader.states.errors == 1 and bench.trader.states.last_error == f"{stuck} lasted more than 60 s"
    )
    bench.settle_down()
    assert bench.trader.state == "READY"


def test_time_limits_do_not_depend_on_the_exchange_clock() -> None:
    bench = open_bench()
    show(bench)
    assert bench.trader.state == "ACTING"
    bench.exchange.now += 3_600 * SECOND
    bench.give(Tick())
    assert bench.trader.state == "ACTING"
    bench.exchange.now -= 7_200 * SECOND
    bench.exchange.mono += 61 * SECOND
    bench.give(Tick())
    assert bench.trader.state == "ERROR"


# ERROR and the way out of it


def test_no_order_is_placed_in_error_and_the_fire_is_kept() -> None:
    """A copy of the state that is not updated on ERROR lets strategies trade on; here the state itself is asked."""
    bench = open_bench()
    for _ in range(3):
        lose_reading(bench)
    assert bench.trader.state == "ERROR"
    show(bench)
    assert not bench.placed and actions(bench) == [("deferred", "not ready")]
    bench.pass_time(2 * SECOND)
    bench.settle_down()
    assert bench.trader.state == "READY" and [place.intent.ticker for place in bench.placed] == [X]


def test_error_is_left_as_soon_as_every_critical_part_is_healthy() -> None:
    """A state machine that counts itself among its critical parts can never leave ERROR."""
    bench = open_bench()
    for times in range(1, 6):
        bench.give(FeedDown("reset"))
        assert bench.trader.state == "ERROR"
        bench.give(FeedUp())
        bench.settle_down()
        assert bench.trader.state == "READY" and bench.trader.states.errors == times


@pytest.mark.parametrize("part", [*CRITICAL, "discovery", "order group", "strategy yes"])
def test_only_a_critical_part_ends_trading(part: str) -> None:
    bench = open_bench()
    bench.trader.health.degrade(part, "broken")
    bench.give(Tick())
    assert (bench.trader.state in TRADING) == (part not in CRITICAL)
    bench.trader.health.heal(part)
    bench.give(Tick())
    assert bench.trader.state == "READY"


def test_a_degraded_part_is_shown_once_and_its_recovery_once() -> None:
    outbox = Outbox()
    health = PartHealth(outbox)
    health.heal("feed")
    for reason in ("silent", "still silent", "silent"):
        health.degrade("feed", reason)
    assert health.parts["feed"] == "degraded: silent" and not health.is_healthy("feed")
    health.heal("feed")
    health.heal("feed")
    assert outbox.commands == [Say("feed: degraded, silent"), Say("feed: recovered")]


def test_a_steady_session_shows_and_records_nothing() -> None:
    bench = open_bench(discovery=False)
    records = len(bench.records)
    for _ in range(600):
        bench.exchange.now += SECOND
        bench.exchange.mono += SECOND
        shown = [command for command in bench.give(Tick()) if not isinstance(command, ReadAccount)]
        bench.settle_down()
        assert not shown
    assert len(bench.records) == records


def test_errors_that_are_followed_by_success_do_not_add_up() -> None:
    """A limit on the errors of a whole life is reached by every session that lasts long enough."""
    bench = open_bench()
    for _ in range(150):
        lose_reading(bench)
        bench.pass_time(2 * SECOND)
        bench.settle_down()
    assert bench.trader.states.errors == 0 and bench.trader.state == "READY"


def test_five_consecutive_errors_of_orders_end_trading_and_a_success_starts_again() -> None:
    bench = open_bench()
    for _ in range(4):
        refuse_order(bench, X, 500)
    assert bench.trader.state == "READY"
    show(bench, Y)
    bench.settle_down()
    for _ in range(4):
        refuse_order(bench, X, 500)
    assert bench.trader.state == "READY"
    refuse_order(bench, X, 500)
    assert bench.trader.state == "ERROR" and "5 consecutive errors" in bench.trader.health.parts["orders"]
    bench.pass_time(31 * SECOND)
    bench.settle_down()
    assert bench.trader.state == "READY" and bench.trader.health.is_healthy("orders")


def test_refusals_that_show_a_working_exchange_are_not_errors() -> None:
    bench = open_bench()
    for _ in range(10):
        refuse_order(bench, X, 400)
    assert bench.trader.state == "READY" and bench.trader.counts["rejected"] == 10


def test_an_account_that_cannot_be_read_ends_trading_until_it_can() -> None:
    """A health check that nobody calls, or that one early success satisfies for ever, sees nothing."""
    bench = open_bench()
    lose_reading(bench)
    lose_reading(bench)
    assert bench.trader.state == "READY"
    lose_reading(bench)
    assert bench.trader.state == "ERROR" and bench.trader.states.last_error == "account: degraded: 503"
    bench.pass_time(2 * SECOND)
    bench.settle_down()
    assert bench.trader.state == "READY" and bench.trader.health.is_healthy("account")


# Start and stop


def test_a_session_is_ready_without_books() -> None:
    bench = open_bench(ready=False)
    bench.give(FeedUp())
    while bench.requests:
        bench.carry_out()
        bench.answer()
    assert bench.trader.state == "READY" and bench.trader.books.get(X) is None
    show(bench)
    assert actions(bench) == [("deferred", "no book")]
    bench.books()
    bench.give(Quiet())
    assert len(bench.placed) == 1


def test_a_session_trades_without_an_order_group() -> None:
    bench = open_bench(ready=False, group_contracts=10_000)
    bench.give(FeedUp())
    while bench.requests:
        if isinstance(bench.requests[0][0], OpenGroup):
            bench.give(RequestAnswer(bench.requests.pop(0)[0].number, Declined(403, "forbidden")))
        else:
            bench.carry_out()
            bench.answer()
    bench.settle_down()
    assert bench.trader.state == "READY" and not bench.trader.health.is_healthy("order group")
    show(bench)
    assert [place.group for place in bench.placed] == [""]
    bench.finish()


@pytest.mark.parametrize("started", [False, True])
def test_a_stop_during_the_start_ends_at_once(started: bool) -> None:
    """A stop that returns because nothing is running yet leaves open all that the start has opened."""
    bench = Bench(Trader(RULES, [("yes", Take("yes"), Budget())], "run-1"), ReferenceExchange())
    if started:
        bench.give(Tick())
        bench.give(FeedUp())
    bench.give(Operate("stop", "interrupted"))
    bench.settle_down()
    assert bench.finished is not None and bench.finished.left == () and bench.trader.state == "SHUTDOWN"


def test_a_second_stop_changes_nothing() -> None:
    bench = open_bench()
    show(bench)
    bench.settle_down()
    bench.give(Operate("stop", "first"))
    bench.give(Operate("stop", "second"))
    bench.give(Operate("kill", "third"))
    for _ in range(10):
        bench.settle_down()
        bench.pass_time(SECOND // 2)
    # The bench refuses a second end.
    assert bench.finished is not None and bench.finished.reason == "first"
    assert [note["reason"] for note in notes(bench, "stop")] == ["first"]
    assert [order.status for order in bench.exchange.orders.values()] == ["canceled"]


def test_nothing_is_decided_after_the_end() -> None:
    bench = open_bench()
    bench.finish()
    for event in (bench.exchange.trade(X, 5000), Quiet(), FeedDown("reset"), FeedUp(), Tick()):
        commands = bench.give(event)
        assert not any(isinstance(command, TraderRequest) for command in commands)
    assert not any(isinstance(request, LookUpMarket) for request, _ in bench.requests)
