"""Orders, fills and cash of a trader: limits by side, partial fills, slow answers, and what each of them changes.

Traders of this kind have been seen to delete an order at its first partial fill, to take a purchase of NO for a reduction
of a NO position, to cancel their request in the middle when its answer was slow, to lose fills behind public trades, and
to count cash when an order is placed.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trade.core.reference_exchange import SECOND, Bench, Take
from trade.core.test_trader import RISK, X, Y, Z, actions, open_bench, show

from kalshilab.market.fees import fill_fee
from kalshilab.market.model import Order, Position, Settlement
from kalshilab.trade.core.account import TradingAccount
from kalshilab.trade.core.exposure import Budget, Exposure
from kalshilab.trade.core.messages import (
    Declined,
    FeedUp,
    LookUpOrder,
    Lost,
    Operate,
    Place,
    Quiet,
    ReadAccount,
    RequestAnswer,
    Tick,
)
from kalshilab.trade.session.trader_view import position_rows, profit, snapshot_of
from kalshilab.units import cents, contracts, dollars


def place_one(bench: Bench, ticker: str = X) -> str:
    """Let the trader place an order that rests, and return its id at the exchange."""
    show(bench, ticker)
    bench.settle_down()
    return list(bench.exchange.orders)[-1]


def shot(bench: Bench) -> Any:
    """Return the snapshot that panels draw."""
    return snapshot_of(
        bench.trader, venue="test", note="", prints=0, started=0, elapsed=0.0, now=bench.exchange.now, wall_offset=0,
        stopped="", finished=False, frames=0, health={}, messages=[],
    )  # fmt: skip


# Limits


@pytest.mark.parametrize(
    ("position", "side", "size", "reason"),
    [
        (-1000, "ask", 1, "position"),  # more NO on NO
        (-1000, "bid", 2000, None),  # YES closes the NO and opens as much
        (-1000, "bid", 2001, "position"),
        (1000, "bid", 1, "position"),
        (1000, "ask", 2000, None),
        (1000, "ask", 2001, "position"),
        (0, "ask", 1000, None),
        (0, "ask", 1001, "position"),
        (3000, "ask", 1000, None),  # a position beyond the limit may be reduced
        (3000, "bid", 1, "position"),
    ],
)
def test_the_position_limit_knows_the_side(position: int, side: str, size: int, reason: str | None) -> None:
    account = TradingAccount()
    account.open_with(dollars(1_000), [Position(ticker=X, size=position, cost=0)])
    refused = Exposure(account).refusal(
        msgspec.structs.replace(RISK, max_position=1000), Budget(), owner="one", ticker=X, event="E", category="C",
        side=side, price=5000, size=size, last_price=0,
    )  # fmt: skip
    assert refused == reason


@pytest.mark.parametrize("side", ["yes", "no"])
def test_orders_that_rest_count_towards_the_position_limit(side: str) -> None:
    bench = open_bench(
        (side, Take(side), Budget()), risk=msgspec.structs.replace(RISK, max_position=contracts(25))
    )
    for _ in range(4):
        show(bench)
        bench.settle_down()
    assert len(bench.placed) == 2 and actions(bench)[-1] == ("deferred", "position")
    bench.exchange.fill(next(iter(bench.exchange.orders)), 1000)
    bench.settle_down()
    assert len(bench.placed) == 2, "the size that was filled is still there"


def test_the_limit_of_open_orders_frees_with_the_end_of_one() -> None:
    bench = open_bench(risk=msgspec.structs.replace(RISK, max_orders=2))
    for ticker in (X, Y, Z):
        show(bench, ticker)
        bench.settle_down()
    assert len(bench.placed) == 2 and actions(bench)[-1] == ("deferred", "orders")
    first = next(iter(bench.exchange.orders))
    bench.exchange.fill(first, 999)
    bench.settle_down()
    assert len(bench.placed) == 2
    bench.exchange.fill(first, 1)
    bench.settle_down()
    assert [place.intent.ticker for place in bench.placed] == [X, Y, Z]


def test_at_the_limit_of_markets_only_those_held_are_traded() -> None:
    bench = open_bench(risk=msgspec.structs.replace(RISK, max_concurrent=1))
    show(bench)
    bench.settle_down()
    show(bench, Y)
    assert actions(bench)[-1] == ("deferred", "concurrent")
    show(bench)
    bench.settle_down()
    assert [place.intent.ticker for place in bench.placed] == [X, X]


@pytest.mark.parametrize(("short", "placed"), [(0, 1), (10_000, 0)])
def test_the_least_cash_must_remain_after_the_order(short: int, placed: int) -> None:
    """A check of the balance before the order lets the last order spend all of it."""
    cost = contracts(10) * cents(51) + fill_fee(cents(51), contracts(10))
    cost = -(-cost // 10_000) * 10_000  # the exchange reports whole cents
    bench = open_bench(
        cash=cost + dollars(100) - short, risk=msgspec.structs.replace(RISK, min_cash=dollars(100))
    )
    show(bench)
    assert len(bench.placed) == placed
    assert bench.trader.counts["low_cash"] == 1 - placed


@pytest.mark.parametrize(("side", "order"), [("yes", ("bid", 5100)), ("no", ("ask", 4900))])
def test_a_purchase_of_either_outcome_is_one_side_of_the_book(side: str, order: tuple[str, int]) -> None:
    bench = open_bench((side, Take(side), Budget()))
    place_one(bench)
    sent = bench.placed[0].intent
    assert (sent.side, sent.price) == order and sent.size == contracts(10)


# Fills


def test_an_order_stays_open_until_it_is_filled_completely() -> None:
    bench = open_bench()
    order_id = place_one(bench)
    bench.exchange.fill(order_id, 400)
    bench.settle_down()
    life = bench.trader.orders.by_id(order_id)
    assert life is not None and (life.state, life.remaining, life.counted) == ("resting", 600, 400)
    assert bench.trader.exposure.orders == 1 and bench.trader.account.total.size(X) == 400
    bench.exchange.fill(order_id, 600)
    bench.settle_down()
    assert bench.trader.orders.live == {} and bench.trader.exposure.orders == bench.trader.exposure.bound == 0
    assert bench.trader.counts["fills"] == 2
    bench.check_account()


def test_the_rest_of_a_partly_filled_order_is_cancelled_at_the_end() -> None:
    bench = open_bench()
    order_id = place_one(bench)
    bench.exchange.fill(order_id, 400)
    bench.settle_down()
    finish = bench.finish()
    assert finish.left == () and bench.exchange.orders[order_id].status == "canceled"
    bench.check_account()


def test_a_fill_is_counted_once_from_any_source() -> None:
    bench = open_bench()
    order_id = place_one(bench)
    bench.exchange.fill(order_id, 400)
    fill = bench.exchange.fills[-1]
    for _ in range(3):
        bench.give(fill)
    bench.pass_time(31 * SECOND)
    bench.settle_down()
    assert bench.trader.counts["fills"] == 1 and bench.trader.account.total.size(X) == 400
    bench.check_account()


def test_cash_changes_with_a_fill_and_not_with_an_order() -> None:
    bench = open_bench()
    before = bench.trader.account.cash
    order_id = place_one(bench)
    assert bench.trader.account.cash == before and bench.trader.exposure.bound > 0
    bench.exchange.fill(order_id, 400)
    bench.settle_down()
    fill = bench.exchange.fills[-1]
    assert before - bench.trader.account.cash == fill.price * fill.size + fill.fee
    bench.check_account()


def test_a_fill_is_shown_at_once() -> None:
    bench = open_bench()
    order_id = place_one(bench)
    bench.exchange.fill(order_id, 400)
    bench.settle_down()
    seen = shot(bench)
    assert [(row.ticker, row.outcome, row.size) for row in seen.positions] == [(X, "yes", 400)]
    assert [order.remaining for order in seen.open_orders] == [600] and seen.cash == bench.exchange.cash
    assert bench.trader.equity[-1][1:] == (seen.cash, seen.portfolio_value)


def test_a_snapshot_shows_every_market_and_can_be_stored() -> None:
    """Messages that are merged by their kind show one market of many; values of unknown types break the status file."""
    bench = open_bench(("yes", Take("yes"), Budget()), ("no", Take("no"), Budget()))
    for ticker, price in ((X, 5100), (Y, 5200), (Z, 5300)):
        bench.give(bench.exchange.trade(ticker, price))
    bench.give(Quiet())
    bench.settle_down()
    seen = shot(bench)
    assert {row.ticker: row.price for row in seen.markets} == {X: 5100, Y: 5200, Z: 5300}
    assert {trade.ticker for trade in seen.trades} == {X, Y, Z} == {d.ticker for d in seen.decisions}
    assert [t.target for t in seen.transitions][-1] == bench.trader.state
    stored = msgspec.json.decode(msgspec.json.encode(seen), type=type(seen))
    assert stored == msgspec.structs.replace(seen, messages=[])


# Requests


def test_a_slow_answer_interrupts_neither_the_order_nor_the_prints() -> None:
    """A limit on the time of a handler cancels an order in the middle of its request, and holds back all others."""
    bench = open_bench()
    show(bench)
    request = bench.placed[0]
    for second in range(40):
        bench.exchange.now += SECOND
        bench.exchange.mono += SECOND
        bench.give(Tick())
        show(bench, Y, 5000 + second)
    assert bench.trader.state == "ACTING" and len(bench.placed) == 1
    assert bench.trader.account.marks[Y] == 5039 and bench.trader.counts["signals"] == 41
    bench.give(RequestAnswer(request.number, Declined(400, "late")))
    assert bench.trader.state == "READY"


def test_no_fill_is_lost_behind_public_trades() -> None:
    """A queue that drops its newest entries when it is full loses fills behind trades."""
    bench = open_bench()
    order_id = place_one(bench)
    bench.give(bench.exchange.trade(Y, 5000))
    for _ in range(3_000):
        bench.give(bench.exchange.trade("another market", 5000))
    bench.exchange.fill(order_id, 1000)
    while bench.exchange.stream:
        bench.give(bench.exchange.stream.pop(0))
    assert bench.trader.counts["filtered"] == 3_000 and bench.trader.counts["fills"] == 1
    bench.check_account()


def test_two_prints_of_one_instant_lead_to_one_order() -> None:
    bench = open_bench(("yes", Take("yes", reenter=False), Budget()))
    bench.give(bench.exchange.trade(X, 5000))
    bench.give(bench.exchange.trade(X, 5000))
    bench.give(Quiet())
    assert len(bench.placed) == 1
    bench.settle_down()
    assert len(bench.placed) == 1 and actions(bench) == [("placed", ""), ("skipped", "held")]


def test_a_rejected_order_is_not_repeated() -> None:
    """An order that is sent again at each tick is rejected hundreds of times in a session."""
    bench = open_bench()
    show(bench)
    place = bench.requests.pop()[0]
    assert isinstance(place, Place)
    bench.give(RequestAnswer(place.number, Declined(400, "invalid_price")))
    for _ in range(70):
        bench.pass_time(SECOND)
        bench.settle_down()
    assert len(bench.placed) == 1 and actions(bench) == [("rejected", "invalid_price")]
    assert bench.trader.exposure.orders == bench.trader.exposure.bound == 0


def test_an_order_whose_answer_is_lost_is_found_and_not_sent_again() -> None:
    """Without an id of the client's choice a repeated request makes a second order."""
    bench = open_bench()
    show(bench)
    bench.carry_out(lose=True)
    bench.exchange.stream.clear()
    bench.answer()
    for _ in range(10):
        bench.pass_time(SECOND)
        bench.settle_down()
    assert len(bench.exchange.orders) == len(bench.placed) == 1
    assert [o.kind for found in bench.outcomes().values() for o in found] == ["accepted"]
    (order,) = bench.exchange.orders.values()
    assert order.client_order_id == bench.placed[0].intent.client_order_id


def test_every_order_has_an_id_of_its_run() -> None:
    bench = open_bench()
    for ticker in (X, Y, Z, X):
        show(bench, ticker)
        bench.settle_down()
    keys = [place.intent.client_order_id for place in bench.placed]
    assert len(set(keys)) == 4 and all(key.startswith(bench.trader.prefix) for key in keys)


def test_the_end_leaves_orders_of_other_programs_alone() -> None:
    bench = open_bench()
    order_id = place_one(bench)
    other = Order(
        order_id="x1", ticker=Y, side="bid", price=100, status="resting", initial=100, filled=0, remaining=100,
        client_order_id="another-program", created_ts=0, updated_ts=0,
    )  # fmt: skip
    bench.exchange.orders["x1"] = other
    assert bench.finish().left == ()
    ended = {key: order.status for key, order in bench.exchange.orders.items()}
    assert ended == {order_id: "canceled", "x1": "resting"}


# The account


def test_the_record_is_compared_at_each_interval() -> None:
    bench = open_bench(sync_us=20 * SECOND)
    read = 0
    for _ in range(100):
        bench.pass_time(SECOND)
        read += sum(isinstance(request, ReadAccount) for request, _ in bench.requests)
        bench.settle_down()
    assert read == 5


def test_a_settlement_alone_is_a_change_of_the_account() -> None:
    """A comparison of balances and counts overlooks a pay-out that changes only the list of settlements."""
    account = TradingAccount()
    account.open_with(dollars(100), [Position(ticker=X, size=1000, cost=4_000_000)])
    lost = Settlement(
        ticker=X, event="A-1", result="no", settlement=0, yes_size=1000, no_size=0, yes_cost=0, no_cost=0, revenue=0,
        fees=0, ts=5,
    )  # fmt: skip
    assert account.settle(lost) and not account.settle(lost)
    assert account.cash == dollars(100) and account.total.realized == -4_000_000


def test_profit_is_the_change_of_equity_at_the_last_print() -> None:
    """A profit from two figures of cost shows nothing of the market."""
    bench = open_bench(("no", Take("no"), Budget()))
    bench.exchange.fill_of_new = 4
    place_one(bench)
    fill = bench.exchange.fills[-1]
    # Ten NO at 51 cents, and the market falls by nine cents.
    assert (fill.price, fill.size) == (4900, 1000)
    bench.give(bench.exchange.trade(X, 4000))
    (row,) = position_rows(bench.trader)
    assert (row.outcome, row.cost, row.value, row.pnl) == ("no", 5_100_000, 6_000_000, 900_000)
    assert profit(bench.trader) == 900_000 - fill.fee
    assert bench.trader.account.equity == bench.exchange.cash + 6_000_000


def test_the_cost_of_a_position_survives_later_fills() -> None:
    bench = open_bench(ready=False)
    bench.exchange.foreign_fill(X, "bid", 3000, 1000)
    bench.exchange.stream.clear()
    bench.give(FeedUp())
    bench.settle_down()
    bench.exchange.fill(place_one(bench), 1000)
    bench.settle_down()
    holding = bench.trader.account.total.holdings[X]
    assert (holding.size, holding.cost) == (2000, 3_000_000 + 5_100_000)


def test_a_lost_reading_keeps_the_last_known_account() -> None:
    bench = open_bench()
    cash = bench.trader.account.cash
    bench.pass_time(31 * SECOND)
    request = next(r for r, _ in bench.requests if isinstance(r, ReadAccount))
    bench.requests.clear()
    bench.give(RequestAnswer(request.number, Lost("502")))
    assert bench.trader.account.cash == cash and bench.trader.state == "READY"
    assert not bench.trader.differences


@pytest.mark.parametrize("limited", [True, False])
def test_a_fill_that_has_not_arrived_counts_towards_limits_and_positions(limited: bool) -> None:
    """Between the end of an order and its fill neither shows what was bought, unless the order is asked."""
    risk = msgspec.structs.replace(RISK, max_position=1000) if limited else RISK
    bench = open_bench(("yes", Take("yes", reenter=limited), Budget()), risk=risk)
    bench.exchange.fill_of_new = 4
    show(bench)
    bench.carry_out()
    bench.exchange.stream.clear()
    bench.answer()
    assert bench.trader.account.total.size(X) == 0 and bench.trader.exposure.bound > 0
    show(bench)
    expected = ("deferred", "position") if limited else ("skipped", "held")
    assert actions(bench)[-1] == expected and len(bench.placed) == 1
    bench.pass_time(2 * SECOND)
    bench.settle_down()
    bench.check_account()
    assert bench.trader.exposure.bound == bench.trader.exposure.orders == 0 and len(bench.placed) == 1


def test_one_lost_look_up_does_not_leave_an_order_unknown_at_the_end() -> None:
    """A session ends 28 seconds after its stop, and a request may arrive for 24: there must be time for more than one."""
    bench = open_bench()
    show(bench)
    bench.drop()
    bench.answer()
    bench.give(Operate("stop", "deadline"))
    lost = 0
    while bench.finished is None:
        bench.pass_time(SECOND // 4)
        for at in reversed(range(len(bench.requests))):
            late = isinstance(bench.requests[at][0], LookUpOrder) and bench.exchange.mono >= 1_024 * SECOND
            if late and lost < 5:
                lost += 1
                bench.drop(at)
        bench.settle_down()
    assert lost == 5 and bench.finished.left == ()
    assert [o.kind for found in bench.outcomes().values() for o in found] == ["absent"]
