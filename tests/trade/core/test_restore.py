"""A later life of a run: the journal so far gives the same record, and the run goes on as if it had not been killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from trade.core.reference_exchange import SECOND, Bench, Take
from trade.core.test_exits import TakeAndLeave
from trade.core.test_trader import RULES, X, Y, actions, notes, open_bench, show
from trade.core.test_trader_properties import TraderMachine, make_trader

from kalshilab.errors import SessionError
from kalshilab.market.model import Fill
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.core.messages import (
    Cancel,
    FeedUp,
    JournalRecord,
    ListMarkets,
    LookUpMarket,
    LookUpOrder,
    Operate,
    Place,
    Quiet,
    ReadAccount,
    ReadFills,
    Tick,
)
from kalshilab.trade.core.record.history import RunHistory
from kalshilab.trade.core.trader import Trader

IMPLIED = (
    "tracked", "signals", "orders", "rejected", "fills", "foreign_fills", "settlements", "skipped", "rate_limited", "low_cash",
    "reentries",
)  # fmt: skip
"""Counters that the entries of a journal imply."""


def ledgers(trader: Trader) -> dict[str, object]:
    """Return the account of each owner, without the values, which depend on the last prints."""
    return {
        name: [
            ledger.cash, ledger.realized, ledger.fees, ledger.fills, ledger.settled, ledger.open, ledger.cost,
            *sorted((ticker, h.size, h.cost) for ticker, h in ledger.positions()),
        ]
        for name, ledger in (*trader.account.owners(), ("total", trader.account.total))
        if ledger.fills or ledger.open
    }  # fmt: skip


def open_orders(trader: Trader) -> dict[str, object]:
    state = {"sending": "unknown"}
    return {
        key: (life.owner, state.get(life.state, life.state), life.order_id, life.counted, life.remaining, life.bound)
        for key, life in trader.orders.live.items()
    }  # fmt: skip


def sums(trader: Trader, *, placed: bool) -> list[object]:
    """Return the sums of the limits; those of events and categories only if the places of all markets are known."""
    x = trader.exposure
    counters = [
        x.by_owner,
        x.size_of_owner,
        x.markets_of_owner,
        *((x.by_event, x.by_category) if placed else ()),
    ]
    shown = [{name: n for name, n in counter.items() if n} for counter in counters]
    return [x.bound, x.orders, x.markets, *shown]


def implied(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts[name] for name in IMPLIED if counts.get(name)}


def entries(trader: Trader) -> dict[str, object]:
    return {run.name: {t: (f.ts, f.n_trades) for t, f in run.entries.items()} for run in trader.strategies}


def check_restored(old: Trader, new: Trader, now: int) -> None:
    """Check that a restored trader has the record of the trader that was killed."""
    assert new.account.cash == old.account.cash and new.account.start == old.account.start
    assert ledgers(new) == ledgers(old)
    assert open_orders(new) == open_orders(old)
    used = {ticker for ticker, _ in old.account.total.positions()} | old.orders.tickers()
    placed = all(old.markets.place_of(ticker)[0] for ticker in used)
    assert sums(new, placed=placed) == sums(old, placed=placed)
    assert implied(new.counts) == implied(old.counts)
    assert entries(new) == entries(old)
    for before, after in zip(old.strategies, new.strategies, strict=True):
        assert implied(after.counts) == implied(before.counts)
        assert (after.on, after.token_at(now)) == (before.on, before.token_at(now))
    assert (new.paused, list(new.settlements)) == (old.paused, list(old.settlements))
    assert new.equity[:1] == old.equity[:1] and not new.opened


class KilledTraderMachine(TraderMachine):
    """Any order of events, in which the process is killed and the run is continued from its journal."""

    @rule(data=st.data(), mid=st.booleans(), arrive=st.booleans())
    def kill(self, data: st.DataObject, mid: bool, arrive: bool) -> None:
        """Kill the trader, at an event or between two commands of one, and restore another from the journal."""
        old = self.bench
        if mid and old.answers:
            event = old.answers.pop(data.draw(st.integers(0, len(old.answers) - 1)))
            old.give(event, limit=data.draw(st.integers(0, 4)))
        for request, sent in old.requests:
            if isinstance(request, Place) and arrive:
                self.late.append((request, sent))
        trader = make_trader()
        trader.restore(old.records)
        if not mid:
            check_restored(old.trader, trader, self.exchange.now)
        self.exchange.stream.clear()
        self.exchange.mono += 1
        self.bench = Bench(trader, self.exchange, old)
        self.bench.give(Tick())
        self.feed_up = False

    def check_the_end(self) -> None:
        super().check_the_end()
        records = self.bench.records
        final = [r for r in records if r.kind == "decision" and r.value.action != "deferred"]
        assert len(final) == sum(r.kind == "fire" for r in records), "each fire has one final decision"

    @invariant()
    def no_key_is_recorded_twice(self) -> None:
        keys = Counter((r.kind, r.key) for r in self.bench.records if r.key is not None)
        assert not [key for key, n in keys.items() if n > 1]


TestKilledTrader = KilledTraderMachine.TestCase
TestKilledTrader.settings = settings(max_examples=60, stateful_step_count=40)


# One behaviour at a time


def restart(bench: Bench, *, ready: bool = True, take: Take | None = None, **rules: Any) -> Bench:
    """Kill a bench's trader, and continue the run in another one."""
    strategies = [("yes", take or Take("yes"), Budget())]
    trader = Trader(msgspec.structs.replace(RULES, **rules), strategies, "run-1")
    trader.restore(bench.records)
    bench.exchange.stream.clear()
    bench.exchange.mono += SECOND
    again = Bench(trader, bench.exchange, bench)
    again.give(Tick())
    if ready:
        again.give(FeedUp())
        again.settle_down()
        while trader.state != "READY":
            again.pass_time(SECOND)
            again.settle_down()
        assert trader.opened
    return again


def new_records(bench: Bench, kind: str) -> list[Any]:
    """Return the values of one kind that this life has recorded."""
    return [r.value for r in bench.records[len(bench.past) :] if r.kind == kind]


def requests(bench: Bench, kind: type) -> list[Any]:
    return [request for request, _ in bench.requests if type(request) is kind]


def test_an_empty_journal_restores_a_new_run() -> None:
    trader = make_trader()
    trader.restore([])
    assert trader.handle(Tick(), 0, 0) == make_trader().handle(Tick(), 0, 0)


def test_a_trader_that_has_handled_an_event_is_not_restored() -> None:
    bench = open_bench()
    with pytest.raises(SessionError, match="before its first event"):
        bench.trader.restore(bench.records)


def test_the_record_is_open_only_after_the_account_was_read() -> None:
    bench = restart(open_bench(), ready=False)
    assert not bench.trader.opened
    bench.give(FeedUp())
    assert bench.trader.state == "TRADING_CLIENT_CONNECT" and requests(bench, ReadAccount)
    bench.settle_down()
    assert bench.trader.opened and bench.trader.state == "READY"


def test_a_run_killed_before_the_account_was_read_starts_its_record_in_the_next_life() -> None:
    first = open_bench(ready=False)
    first.exchange.foreign_fill(X, "bid", 5000, 700)
    bench = restart(first)
    assert len(notes(bench, "account")) == 1 and bench.trader.counts["foreign_fills"] == 0
    bench.check_account()
    again = restart(bench)
    assert len(notes(again, "account")) == 1 and len(notes(again, "account again")) == 1
    assert again.trader.account.start == first.exchange.cash
    again.check_account()


def test_a_foreign_position_of_the_opening_is_valued_and_settled_in_a_later_life() -> None:
    first = open_bench(ready=False)
    first.exchange.foreign_fill(X, "bid", 5000, 700)
    first.give(FeedUp())
    first.settle_down()
    bench = restart_after(first, lambda x: x.settle(X, "yes"))
    for _ in range(5):
        bench.pass_time(SECOND)
        bench.settle_down()
    bench.check_account()
    assert bench.trader.account.equity - bench.trader.equity[0][1] == 700 * 10_000


def test_fills_of_the_gap_are_counted_and_those_before_the_run_are_not() -> None:
    first = open_bench(ready=False)
    first.exchange.foreign_fill(X, "bid", 5000, 700)
    first.exchange.stream.clear()
    first.give(FeedUp())
    first.settle_down()
    show(first)
    first.settle_down()
    order_id = next(iter(first.exchange.orders))
    bench = restart_after(first, lambda x: x.fill(order_id, 400), cleanup=False)
    bench.check_account()
    assert bench.trader.counts["fills"] == 1 and bench.trader.counts["foreign_fills"] == 0
    assert bench.trader.account.owner("yes").size(X) == 400
    assert [fill.size for fill in new_records(bench, "fill")] == [400]


def restart_after(bench: Bench, happens: Any, **rules: Any) -> Bench:
    """Let something happen at the exchange between two lives."""
    happens(bench.exchange)
    return restart(bench, **rules)


def test_a_settlement_of_the_gap_is_paid() -> None:
    first = open_bench()
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    bench = restart_after(first, lambda x: x.settle(X, "yes"))
    for _ in range(5):
        bench.pass_time(SECOND)
        bench.settle_down()
    bench.check_account()
    assert bench.trader.counts["settlements"] == 1 and bench.trader.differences == {}


def test_a_life_that_is_stopped_during_its_start_has_the_settlements_of_the_gap() -> None:
    first = open_bench()
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    first.exchange.settle(X, "yes")
    bench = restart(first, ready=False)
    bench.give(Operate("stop", "early"))
    for _ in range(5):
        bench.settle_down()
        bench.pass_time(SECOND)
    assert bench.trader.finished is not None and bench.trader.compared_at_end
    assert bench.trader.counts["settlements"] == 1 and bench.trader.differences == {}


@pytest.mark.parametrize("cleanup", [True, False])
def test_resting_orders_of_earlier_lives_are_cancelled_if_the_rules_ask_for_it(cleanup: bool) -> None:
    first = open_bench()
    show(first)
    first.settle_down()
    bench = restart(first, cleanup=cleanup)
    bench.pass_time(SECOND)
    bench.settle_down()
    order = next(iter(bench.exchange.orders.values()))
    assert order.status == ("canceled" if cleanup else "resting")
    assert bench.trader.exposure.orders == (0 if cleanup else 1)


def test_an_order_of_this_life_is_not_cleaned_up() -> None:
    bench = restart(open_bench())
    show(bench)
    bench.settle_down()
    bench.pass_time(SECOND)
    assert not requests(bench, Cancel)
    assert [o.status for o in bench.exchange.orders.values()] == ["resting"]


def test_an_intent_without_an_answer_is_found_with_its_order() -> None:
    first = open_bench()
    show(first)
    first.carry_out(0)
    bench = restart(first, ready=False, cleanup=False)
    assert bench.trader.orders.uncertain(X)
    bench.give(FeedUp())
    for _ in range(8):
        bench.settle_down()
        bench.pass_time(SECOND)
    assert [o.kind for o in new_records(bench, "outcome")] == ["accepted"]
    assert actions(bench)[-1][0] == "placed" and bench.trader.counts["orders"] == 1
    assert bench.trader.strategies[0].entries[X].ts == bench.placed_before(0).intent.fire.ts


def test_an_intent_that_never_arrived_is_absent_only_after_the_window() -> None:
    first = open_bench()
    show(first)
    bench = restart(first)
    looked = bench.exchange.mono
    while not new_records(bench, "outcome"):
        bench.pass_time(SECOND)
        bench.settle_down()
    assert [o.kind for o in new_records(bench, "outcome")] == ["absent"]
    assert bench.exchange.mono - looked >= 24 * SECOND
    assert bench.trader.exposure.orders == 0 and not bench.trader.orders.live


def test_an_attempt_of_an_earlier_life_has_another_id() -> None:
    bench = open_bench()
    show(bench)
    used = bench.placed[-1].intent
    keys = {used.client_order_id}
    for _ in range(2):
        bench = restart(bench)
        while not bench.placed:
            assert bench.exchange.now - used.fire.ts < 60 * SECOND
            bench.pass_time(SECOND)
            while bench.requests and not bench.placed:
                bench.carry_out()
                bench.answer()
            bench.give(Quiet())
        intent = bench.placed[0].intent
        assert intent.client_order_id not in keys
        keys.add(intent.client_order_id)
        assert intent.fire == used.fire


def test_a_fill_of_an_order_that_was_absent_in_an_earlier_life_is_its_strategys() -> None:
    first = open_bench()
    show(first)
    place, sent = first.requests[0]
    while not new_records(first, "outcome"):
        first.drop() if first.requests else None
        first.answer() if first.answers else None
        first.pass_time(SECOND)
        first.settle_down()
    first.exchange.mono, mono = sent, first.exchange.mono
    first.exchange.fill_of_new = 4
    first.exchange.process(place, sent)
    first.exchange.mono = mono
    bench = restart(first)
    bench.pass_time(SECOND)
    bench.settle_down()
    assert bench.trader.account.owner("yes").size(X) == 1000
    bench.check_account()


def test_fills_that_an_order_of_an_earlier_life_lacks_are_read() -> None:
    first = open_bench()
    show(first)
    first.exchange.fill_of_new = 4
    first.carry_out()
    first.answer()
    assert next(iter(first.trader.orders.live.values())).missing == 1000
    bench = restart(first, ready=False)
    bench.pass_time(SECOND)
    assert [r.ticker for r in requests(bench, ReadFills)] == [X]


def test_the_first_reading_asks_for_fills_since_the_last_known_one() -> None:
    first = open_bench()
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    bench = restart(first, ready=False)
    bench.give(FeedUp())
    newest = max(fill.ts for fill in bench.exchange.fills)
    assert [r.fills_since for r in requests(bench, ReadAccount)] == [newest - 300 * SECOND]


def test_the_end_of_an_order_of_an_earlier_life_is_recorded_once() -> None:
    first = open_bench()
    show(first)
    first.settle_down()
    first.exchange.fill(next(iter(first.exchange.orders)), 1000)
    fill, order = first.exchange.stream
    first.give(fill)
    assert not first.trader.orders.live
    bench = restart(first)
    bench.give(order)
    bench.give(order)
    assert [o.status for o in new_records(bench, "order")] == ["executed"]
    last = restart(bench)
    last.give(order)
    assert new_records(last, "order") == []


def test_a_payout_for_a_fill_that_was_found_late_is_recorded_and_restored() -> None:
    first = open_bench()
    x = first.exchange
    show(first)
    first.settle_down()
    order_id = next(iter(x.orders))
    x.fill(order_id, 500)
    first.settle_down()
    x.fill(order_id, 500)
    x.settle(X, "yes")
    late = next(message for message in x.stream if isinstance(message, Fill))
    x.fills.remove(late)
    x.stream.remove(late)
    first.settle_down()
    assert [r.key for r in first.records if r.kind == "settlement"] == [f"{X}|{x.now}"]
    x.fills.append(late)
    for _ in range(40):
        first.pass_time(SECOND)
        first.settle_down()
    first.check_account()
    keys = [r.key for r in first.records if r.kind == "settlement"]
    assert len(set(keys)) == len(keys) == 2
    again = restart(first)
    again.check_account()
    assert first.trader.counts["settlements"] == again.trader.counts["settlements"] == 1


def test_the_entries_of_earlier_lives_decide_about_reentry() -> None:
    first = open_bench()
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    bench = restart(first, take=Take("yes", reenter=False))
    show(bench)
    show(bench, Y)
    bench.settle_down()
    assert actions(bench)[-2:] == [("skipped", "held"), ("placed", "")]


def test_profit_is_measured_from_the_start_of_the_first_life() -> None:
    first = open_bench()
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    start, cash = first.trader.equity[0], first.exchange.cash
    assert cash < start[1]
    bench = restart(first, take=Take("yes", reenter=False))
    assert bench.trader.equity[0] == start
    show(bench, X, 9000)
    bench.settle_down()
    bench.pass_time(SECOND)
    _, cash, value = bench.trader.equity[-1]
    assert (cash, value) == (bench.exchange.cash, bench.trader.account.total.value)
    assert bench.trader.account.equity - sum(start[1:]) == 1000 * (9000 - 5100) - 10 * 10_000


def test_marks_are_those_of_the_last_sample() -> None:
    first = open_bench()
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    show(first, X, 8000)
    first.settle_down()
    first.pass_time(61 * SECOND)
    bench = restart(first, ready=False)
    assert bench.trader.account.marks[X] == 8000
    assert bench.trader.account.equity == first.trader.account.equity


@pytest.mark.parametrize("action", ["pause", "flatten"])
def test_a_pause_lasts_over_lives_until_the_operator_ends_it(action: Any) -> None:
    first = open_bench()
    first.give(Operate(action, "lunch"))
    bench = restart(restart(first))
    assert bench.trader.paused == "lunch"
    show(bench)
    assert actions(bench)[-1] == ("deferred", "lunch")
    bench.give(Operate("resume"))
    bench.give(Quiet())
    assert requests(bench, Place)
    assert restart(bench).trader.paused == ""


def test_a_switch_of_a_strategy_lasts_over_lives() -> None:
    first = open_bench()
    first.give(Operate("pause", strategy="yes"))
    bench = restart(first)
    assert not bench.trader.strategies[0].on
    bench.give(Operate("resume", strategy="yes"))
    assert restart(bench).trader.strategies[0].on


def test_a_loss_of_the_day_pauses_every_life() -> None:
    risk = msgspec.structs.replace(RULES.risk, daily_loss=1_000_000)
    first = open_bench(risk=risk)
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    show(first, X, 1000)
    first.settle_down()
    first.pass_time(SECOND)
    assert first.trader.paused == "daily loss"
    assert restart(first, risk=risk).trader.paused == "daily loss"


def test_the_start_of_the_day_is_that_of_the_first_life() -> None:
    risk = msgspec.structs.replace(RULES.risk, daily_loss=3_000_000)
    first = open_bench(risk=risk)
    first.exchange.fill_of_new = 4
    show(first, price=4900)
    first.settle_down()
    bench = restart(first, risk=risk)
    assert not bench.trader.paused
    show(bench, X, 1900)
    bench.pass_time(SECOND)
    assert bench.trader.paused == "daily loss"


def test_the_order_group_of_a_killed_life_is_used_on_and_that_of_a_closed_one_is_not() -> None:
    first = open_bench(group_contracts=100)
    bench = restart(first, group_contracts=100)
    show(bench)
    assert bench.placed[-1].group == "g1" and len(notes(bench, "group")) == 1
    bench.settle_down()
    bench.finish()
    assert bench.exchange.groups == set()
    again = restart(bench, group_contracts=100)
    assert len(notes(again, "group")) == 2


def test_markets_of_earlier_lives_are_looked_up_if_none_are_listed() -> None:
    first = open_bench()
    bench = restart(first, discovery=False)
    assert not requests(bench, ListMarkets)
    assert bench.trader.counts["tracked"] == first.trader.counts["tracked"] == 3
    assert bench.trader.markets.active == 3
    show(bench)
    assert requests(bench, Place)


def test_a_market_with_an_order_is_looked_up_and_traded_again() -> None:
    first = open_bench()
    show(first)
    first.settle_down()
    bench = restart(first, ready=False, cleanup=False)
    bench.give(FeedUp())
    bench.carry_out()
    bench.answer()
    assert [r.ticker for r in requests(bench, LookUpMarket)] == [X]
    assert [r.order_id for r in requests(bench, LookUpOrder)] in ([], list(bench.exchange.orders))
    bench.settle_down()
    followed = bench.trader.markets.get(X)
    assert followed is not None and followed.status == "active"


def test_a_run_that_ended_can_be_continued() -> None:
    first = open_bench()
    show(first)
    first.settle_down()
    first.finish()
    bench = restart(first)
    assert bench.trader.stopped == "" and bench.trader.counts["orders"] == 1
    show(bench)
    bench.settle_down()
    assert bench.trader.counts["orders"] == 2
    bench.finish()
    bench.check_account()


def test_an_order_that_closes_a_position_is_not_its_entry_in_a_later_life() -> None:
    first = open_bench(("yes", TakeAndLeave("yes"), Budget()))
    first.exchange.fill_of_new = 4
    show(first)
    first.settle_down()
    bought = first.trader.strategies[0].entries[X].ts
    show(first)
    assert first.placed[-1].intent.closes
    first.carry_out()
    bench = restart(first, take=TakeAndLeave("yes"))
    for _ in range(5):
        bench.pass_time(SECOND)
        bench.settle_down()
    assert not bench.trader.account.total.size(X) and bench.trader.counts["orders"] == 2
    assert bench.trader.strategies[0].entries[X].ts == bought
    assert restart(bench, take=TakeAndLeave("yes")).trader.strategies[0].entries[X].ts == bought


def test_rates_of_earlier_lives_count() -> None:
    first = open_bench(attempts_per_minute=1.0)
    show(first)
    first.settle_down()
    bench = restart(first, attempts_per_minute=1.0)
    show(bench)
    assert actions(bench)[-1] == ("deferred", "rate limit")


def test_fires_that_a_killed_life_did_not_decide_expire() -> None:
    first = open_bench()
    first.give(Operate("pause"))
    show(first)
    show(first, Y)
    bench = restart(first)
    assert actions(bench)[-2:] == [("expired", "session killed")] * 2
    assert bench.trader.counts["signals"] == bench.trader.counts["skipped"] == 2
    assert actions(restart(bench)) == actions(bench)


def test_a_history_is_readable_without_a_trader() -> None:
    bench = open_bench()
    bench.exchange.fill_of_new = 2
    show(bench)
    bench.settle_down()
    past = RunHistory()
    past.fold(bench.records)
    assert past.account.cash == bench.exchange.cash and past.account.owner("yes").size(X) == 500
    assert past.counts["signals"] == past.counts["orders"] == 1 and past.admitted == {X, Y, "B-1-X"}
    assert repr(past).startswith("RunHistory(") and not past.stopped
    bench.finish()
    past = RunHistory()
    past.fold(bench.records)
    assert past.stopped == "test over" and past.counts["trades"] == 1


def test_unknown_kinds_and_notes_are_left_out() -> None:
    past = RunHistory()
    past.fold([JournalRecord("weather", {"rain": True}), JournalRecord("note", {"what": "lunch"})])
    assert past.entries == 2 and not past.opened
