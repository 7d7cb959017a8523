"""A later life of a run: the journal so far gives the same record, and the run goes on as if it had not been killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule
from trade.core.reference_exchange import Bench
from trade.core.test_trader_properties import TraderMachine, make_trader

from kalshilab.trade.core.messages import Place, Tick
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

    @invariant()
    def no_key_is_recorded_twice(self) -> None:
        keys = Counter((r.kind, r.key) for r in self.bench.records if r.key is not None)
        assert not [key for key, n in keys.items() if n > 1]


TestKilledTrader = KilledTraderMachine.TestCase
TestKilledTrader.settings = settings(max_examples=60, stateful_step_count=40)
