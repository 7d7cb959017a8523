"""The trader against a small exchange, under any order of events and any loss.

The machine interleaves prints, fills, settlements, lost requests and answers, late arrivals, repeated messages, losses of
the feed, and the operator's switches.  At the end everything is delivered, and the record must equal the exchange's.
"""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from trade.core.reference_exchange import SECOND, TICKERS, Bench, ReferenceExchange, Take

from kalshilab.market.model import Fill
from kalshilab.trade.core.account import FOREIGN
from kalshilab.trade.core.exposure import Budget, RiskRules, TraderRules
from kalshilab.trade.core.messages import FeedDown, FeedUp, Operate, Place, Placed, Quiet, RequestAnswer, Tick
from kalshilab.trade.core.trader import Trader

RULES = TraderRules(
    risk=RiskRules(max_orders=20, max_position=10_000, max_concurrent=10, min_cash=0),
    attempts_per_minute=1000.0,
    sync_us=30 * SECOND,
)


def make_trader() -> Trader:
    """Return a trader with two strategies that want opposite sides of every market."""
    strategies = [("yes", Take("yes"), Budget()), ("no", Take("no", least=300), Budget(positions=2))]
    return Trader(RULES, strategies, "run-1")


class TraderMachine(RuleBasedStateMachine):
    """Any order of events between a trader and the exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.exchange = ReferenceExchange()
        self.bench = Bench(make_trader(), self.exchange)
        self.feed_up = False
        self.late: list[tuple[Place, int]] = []

    @initialize()
    def start(self) -> None:
        self.bench.give(Tick())
        self.raise_feed()
        self.bench.settle_down()
        assert self.bench.trader.state == "READY"

    def raise_feed(self) -> None:
        self.feed_up = True
        self.bench.give(FeedUp())

    # Time

    @rule(us=st.sampled_from((SECOND // 10, SECOND, 5 * SECOND, 40 * SECOND)))
    def pass_time(self, us: int) -> None:
        if us > 30 * SECOND:
            # A driver answers each request within its own time limit.
            while self.bench.requests:
                self.bench.drop()
            while self.bench.answers:
                self.bench.answer()
        self.bench.pass_time(us)
        self.arrive_late()

    @rule()
    def come_to_rest(self) -> None:
        if self.feed_up:
            self.bench.settle_down()

    # Requests and answers

    @precondition(lambda self: self.bench.requests)
    @rule(data=st.data(), lose=st.booleans(), quarters=st.integers(0, 4))
    def carry_out(self, data: st.DataObject, lose: bool, quarters: int) -> None:
        self.exchange.fill_of_new = quarters
        self.bench.carry_out(data.draw(st.integers(0, len(self.bench.requests) - 1)), lose=lose)

    @precondition(lambda self: self.bench.requests)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        self.bench.drop(data.draw(st.integers(0, len(self.bench.requests) - 1)))

    @precondition(lambda self: any(isinstance(r, Place) for r, _ in self.bench.requests))
    @rule()
    def delay_an_order(self) -> None:
        """Lose the answer of an order whose request arrives later."""
        at = next(i for i, (r, _) in enumerate(self.bench.requests) if isinstance(r, Place))
        place, sent = self.bench.requests[at]
        assert isinstance(place, Place)
        self.late.append((place, sent))
        self.bench.drop(at)

    @precondition(lambda self: self.late)
    @rule()
    def arrive_late(self) -> None:
        for place, sent in self.late:
            self.exchange.process(place, sent)
        self.late.clear()

    @precondition(lambda self: self.bench.answers)
    @rule(data=st.data(), twice=st.booleans())
    def answer(self, data: st.DataObject, twice: bool) -> None:
        at = data.draw(st.integers(0, len(self.bench.answers) - 1))
        again = self.bench.answers[at]
        self.bench.answer(at)
        if twice:
            self.bench.give(again)

    @precondition(lambda self: any(isinstance(a.result, Placed) for a in self.bench.answers))
    @rule()
    def confuse_an_answer(self) -> None:
        """Give an order the answer to an earlier one, as a connection does that repeats an answer."""
        answers, orders = self.bench.answers, list(self.exchange.orders)
        at = next(i for i, a in enumerate(answers) if isinstance(a.result, Placed))
        placed = answers[at].result
        assert isinstance(placed, Placed)
        if orders[0] != placed.order_id:
            answers[at] = RequestAnswer(
                answers[at].request, Placed(orders[0], placed.filled, placed.remaining)
            )

    # Messages

    @precondition(lambda self: self.exchange.stream)
    @rule(data=st.data(), fate=st.sampled_from(("once", "once", "twice", "never")), bare=st.booleans())
    def deliver(self, data: st.DataObject, fate: str, bare: bool) -> None:
        stream = self.exchange.stream
        message = stream.pop(data.draw(st.integers(0, len(stream) - 1)))
        if isinstance(message, Fill) and bare:
            message = msgspec.structs.replace(message, client_order_id="")
        if self.feed_up and fate != "never":
            self.bench.give(message)
            if fate == "twice":
                self.bench.give(message)
            self.bench.give(Quiet())

    @rule(
        ticker=st.sampled_from(TICKERS),
        price=st.sampled_from((4000, 5000, 6000)),
        size=st.sampled_from((100, 300)),
    )
    def print_trade(self, ticker: str, price: int, size: int) -> None:
        trade = self.exchange.trade(ticker, price, size)
        if self.feed_up:
            self.bench.books()
            self.bench.give(trade)
            self.bench.give(Quiet())

    @rule()
    def lose_the_feed(self) -> None:
        self.exchange.stream.clear()
        self.feed_up = False
        self.bench.give(FeedDown("reset"))

    @precondition(lambda self: not self.feed_up)
    @rule()
    def find_the_feed(self) -> None:
        self.raise_feed()

    # The exchange

    @precondition(lambda self: any(o.status == "resting" for o in self.exchange.orders.values()))
    @rule(data=st.data(), size=st.sampled_from((100, 500, 1000)))
    def fill(self, data: st.DataObject, size: int) -> None:
        resting = [o.order_id for o in self.exchange.orders.values() if o.status == "resting"]
        self.exchange.fill(data.draw(st.sampled_from(resting)), size)

    @precondition(lambda self: any(o.status == "resting" for o in self.exchange.orders.values()))
    @rule(data=st.data())
    def end_an_order(self, data: st.DataObject) -> None:
        resting = [o.order_id for o in self.exchange.orders.values() if o.status == "resting"]
        self.exchange.cancel(data.draw(st.sampled_from(resting)))

    @rule(ticker=st.sampled_from(TICKERS), side=st.sampled_from(("bid", "ask")))
    def fill_for_another_program(self, ticker: str, side: str) -> None:
        self.exchange.foreign_fill(ticker, side, 5000, 100)

    @rule(ticker=st.sampled_from(TICKERS[1:]), result=st.sampled_from(("yes", "no")))
    def settle(self, ticker: str, result: str) -> None:
        self.exchange.settle(ticker, result)

    # The operator

    @rule(action=st.sampled_from(("pause", "resume", "resume", "flatten")))
    def operate(self, action: str) -> None:
        self.bench.give(Operate(action))  # type: ignore[arg-type]

    # Facts

    @invariant()
    def an_intent_has_at_most_one_outcome_and_one_order(self) -> None:
        assert all(len(found) <= 1 for found in self.bench.outcomes().values())
        keys = [o.client_order_id for o in self.exchange.orders.values()]
        assert len(keys) == len(set(keys))

    @invariant()
    def a_fire_has_at_most_one_order(self) -> None:
        intents = {p.intent.client_order_id: p.intent for p in (*self.bench.earlier, *self.bench.placed)}
        fires = [
            (intents[o.client_order_id].strategy, intents[o.client_order_id].fire.ticker, intents[o.client_order_id].fire.ts)
            for o in self.exchange.orders.values()
        ]  # fmt: skip
        assert len(fires) == len(set(fires))

    @invariant()
    def strategies_do_not_hold_opposite_sides(self) -> None:
        account = self.bench.trader.account
        for ticker in TICKERS:
            sizes = [ledger.size(ticker) for name, ledger in account.owners() if name != FOREIGN]
            assert not (any(s > 0 for s in sizes) and any(s < 0 for s in sizes)), ticker

    @invariant()
    def each_fill_counts_once(self) -> None:
        keys = [r.key for r in self.bench.records if r.kind == "fill"]
        assert len(keys) == len(set(keys))

    @invariant()
    def sums_of_the_limits_are_those_of_the_orders(self) -> None:
        trader = self.bench.trader
        live = [life for life in trader.orders.live.values() if life.uncounted]
        assert trader.exposure.orders == len(live)
        assert trader.exposure.bound == sum(life.bound for life in live)

    def teardown(self) -> None:
        bench = self.bench
        if not bench.script:
            return
        self.arrive_late()
        if not self.feed_up:
            self.raise_feed()
        for _ in range(80):
            bench.settle_down()
            bench.pass_time(SECOND)
        assert bench.trader.state == "READY"
        bench.check_account()
        assert bench.trader.differences == {}
        resting = {o.order_id for o in self.exchange.orders.values() if o.status == "resting"}
        assert {life.order_id for life in bench.trader.orders.live.values()} == resting
        self.check_owners()
        finish = bench.finish()
        assert finish.left == ()
        bench.check_account()
        self.check_the_end()

    def check_owners(self) -> None:
        """Check that each strategy has the fills of its orders, in the markets that are not settled."""
        owners = {r.value.client_order_id: r.value.strategy for r in self.bench.records if r.kind == "intent"}
        sizes: Counter[tuple[str, str]] = Counter()
        for fill in self.exchange.fills:
            if self.exchange.markets[fill.ticker].status == "active":
                owner = owners.get(fill.client_order_id, FOREIGN)
                sizes[owner, fill.ticker] += fill.size if fill.side == "bid" else -fill.size
        for name, ledger in self.bench.trader.account.owners():
            for ticker in TICKERS:
                assert ledger.size(ticker) == sizes[name, ticker], (name, ticker)

    def check_the_end(self) -> None:
        bench, trader = self.bench, self.bench.trader
        found = {o.client_order_id: o for o in self.exchange.orders.values()}
        for key, outcomes in bench.outcomes().items():
            assert len(outcomes) == 1, key
            assert (outcomes[0].kind == "accepted") == (key in found), (key, outcomes)
            assert key not in found or outcomes[0].order_id == found[key].order_id
        assert all(o.status != "resting" for o in found.values())
        assert trader.orders.live == {} and trader.exposure.orders == trader.exposure.bound == 0
        again = make_trader()
        again.restore(bench.past)
        for event, now, mono, commands in bench.script:
            assert msgspec.json.encode(again.handle(event, now, mono)) == commands


TestTrader = TraderMachine.TestCase
TestTrader.settings = settings(max_examples=60, stateful_step_count=40)
