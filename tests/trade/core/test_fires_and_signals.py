"""Fires of a trader: consumed by an order or an expiry only, and each strategy by its signal alone.

Traders of this kind have been seen to wipe the evidence of a signal at every skip, to add to positions although re-entry
was switched off, and to trade on whales whichever strategy was selected.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trade.core.reference_exchange import SECOND, Bench, Take
from trade.core.test_trader import RISK, X, Y, Z, actions, open_bench, show

from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError
from kalshilab.kalshi.stream.events import BookDelta, BookSnapshot
from kalshilab.signals import MarketState
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.core.messages import Lost, Operate, Quiet, RequestAnswer
from kalshilab.trade.strategies.strategies import make_strategy


def open_named(*names: str, given: dict[str, Any] | None = None, **rules: Any) -> Bench:
    """Return a bench with strategies by their names; `given` are settings."""
    settings = Settings(env={}, env_file=None, min_trades=3, min_drop=5, contracts=10, **(given or {}))
    plans = [(name, make_strategy(settings.replace(strategy=name)), Budget()) for name in names]
    return open_bench(*plans, **rules)  # type: ignore[arg-type]


def fall(bench: Bench, by: int = 500, ticker: str = X) -> None:
    """Print three trades whose takers bought YES while its price fell."""
    for price in (5000, 5000 - by // 2, 5000 - by):
        show(bench, ticker, price)


def signal_state(bench: Bench, ticker: str = X) -> MarketState | None:
    """Return the state of the first strategy's signal."""
    signal = bench.trader.strategies[0].strategy.signal
    assert signal is not None
    state: MarketState | None = signal.state(ticker)
    return state


def wait(bench: Bench, seconds: int) -> None:
    """Let seconds pass, and answer everything."""
    for _ in range(seconds):
        bench.pass_time(SECOND)
        bench.settle_down()


# Evidence


def test_a_wide_spread_keeps_the_fire_and_the_prints_after_it() -> None:
    bench = open_named("rlm_no")
    bench.give(BookSnapshot(X, [(3000, 1000)], [(4000, 1000)]))
    fall(bench)
    assert actions(bench) == [("deferred", "spread")] and not bench.placed
    show(bench, price=4400)
    state = signal_state(bench)
    assert state is not None and state.n_trades == 1, (
        "the next window has begun, whether or not an order was sent"
    )
    bench.give(BookDelta(X, "yes", 5500, 1000, bench.exchange.now, ""))
    bench.give(Quiet())
    assert [place.intent.fire.own["drop"] for place in bench.placed] == [500]
    assert signal_state(bench) == state


@pytest.mark.parametrize("obstacle", ["rate limit", "orders", "concurrent", "closed for lunch"])
def test_a_temporary_obstacle_keeps_the_fire(obstacle: str) -> None:
    risk = {"orders": {"max_orders": 1}, "concurrent": {"max_concurrent": 1}}.get(obstacle, {})
    bench = open_named(
        "rlm_no",
        risk=msgspec.structs.replace(RISK, **risk),
        attempts_per_minute=2.0 if obstacle == "rate limit" else 100.0,
    )
    fall(bench, ticker=Y)
    bench.settle_down()
    if obstacle == "rate limit":
        fall(bench, ticker=Z)
        bench.settle_down()
    elif obstacle == "closed for lunch":
        bench.give(Operate("pause", obstacle))
    before = len(bench.placed)
    fall(bench)
    wait(bench, 3)
    assert len(bench.placed) == before and actions(bench)[-1] == ("deferred", obstacle)
    if obstacle == "rate limit":
        wait(bench, 27)
    elif obstacle == "closed for lunch":
        bench.give(Operate("resume"))
    else:
        bench.exchange.cancel(next(iter(bench.exchange.orders)))
    bench.settle_down()
    assert [place.intent.ticker for place in bench.placed[before:]] == [X] and bench.trader.pending == 0


def test_a_lost_answer_keeps_the_fire_until_the_order_is_shown_to_be_absent() -> None:
    bench = open_named("rlm_no")
    fall(bench)
    request = bench.requests.pop()[0]
    bench.give(RequestAnswer(request.number, Lost("time-out")))
    wait(bench, 20)
    assert len(bench.placed) == 1, "the request may still arrive"
    wait(bench, 10)
    first, second = (place.intent for place in bench.placed)
    assert first.fire == second.fire and first.client_order_id != second.client_order_id


def test_only_an_expiry_ends_a_fire_without_an_order() -> None:
    bench = open_named("rlm_no")
    bench.give(BookSnapshot(X, [], [(4000, 1000)]))
    fall(bench)
    fired = bench.trader.counts["signals"]
    for _ in range(59):
        bench.pass_time(SECOND)
        bench.give(Quiet())
    assert bench.trader.pending == fired == 1
    bench.pass_time(2 * SECOND)
    bench.give(Quiet())
    assert bench.trader.pending == 0
    assert actions(bench) == [("deferred", "one-sided book"), ("expired", "one-sided book")]


def test_a_skip_keeps_the_memory_of_the_entry() -> None:
    """A trader that forgets its entry at a failed attempt takes any later fire for a stronger one."""
    bench = open_named("rlm_no")
    bench.exchange.fill_of_new = 4
    fall(bench, by=900)
    bench.settle_down()
    assert [place.intent.fire.own["drop"] for place in bench.placed] == [900]
    fall(bench, by=600)
    bench.settle_down()
    fall(bench, by=900)
    bench.settle_down()
    assert actions(bench)[1:] == [("skipped", "not stronger")] * 2
    fall(bench, by=901)
    bench.settle_down()
    assert len(bench.placed) == 2 and bench.trader.counts["reentries"] == 1
    fall(bench, by=901)
    bench.settle_down()
    assert actions(bench)[-1] == ("skipped", "not stronger"), "the second entry is the one to exceed"


def test_without_reentry_a_position_blocks_every_fire() -> None:
    """A switch that is read only where an entry is known adds to positions all the same."""
    bench = open_bench(("no", Take("no", reenter=False), Budget()))
    bench.exchange.fill_of_new = 4
    for _ in range(3):
        show(bench)
        bench.settle_down()
    assert actions(bench) == [("placed", ""), ("skipped", "held"), ("skipped", "held")]


def test_a_position_of_an_earlier_life_has_no_entry_that_could_be_exceeded() -> None:
    bench = open_named("rlm_no")
    bench.exchange.foreign_fill(X, "ask", 5000, 1000)
    bench.settle_down()
    fall(bench, by=2_000)
    assert actions(bench) == [("skipped", "entry unknown")]


# Rate


def test_the_eleventh_order_of_a_minute_waits_six_seconds() -> None:
    bench = open_bench(attempts_per_minute=10.0)
    tickers = (X, Y, Z)
    for n in range(12):
        show(bench, tickers[n % 3])
        bench.settle_down()
    assert len(bench.placed) == 10 and bench.trader.counts["rate_limited"] == 2
    wait(bench, 5)
    assert len(bench.placed) == 10
    wait(bench, 1)
    assert len(bench.placed) == 11
    wait(bench, 6)
    assert len(bench.placed) == 12


def test_each_strategy_has_its_rate() -> None:
    bench = open_bench(
        ("one", Take("yes"), Budget()), ("two", Take("yes"), Budget()), attempts_per_minute=1.0
    )
    for _ in range(2):
        show(bench)
        bench.settle_down()
    assert sorted(place.intent.strategy for place in bench.placed) == ["one", "two"]


# Strategies


def test_an_unknown_strategy_is_refused_and_not_held() -> None:
    with pytest.raises(ConfigError, match="whale_chaser"):
        Settings(env={}, env_file=None, strategy="whale_chaser")


@pytest.mark.parametrize("name", ["hold", "rlm_no", "yes_80_90"])
def test_a_whale_is_traded_only_by_the_strategy_for_whales(name: str) -> None:
    bench = open_named(name)
    show(bench, price=5000, size=100_000)
    bench.settle_down()
    assert not bench.placed and bench.trader.counts["signals"] == 0


def test_a_whale_leads_to_one_decision_that_names_it() -> None:
    """A list of followed whales whose key is written otherwise than it is read stays empty."""
    bench = open_named("whale_fade")
    show(bench, price=5000, size=100_000)
    bench.settle_down()
    (decision,) = bench.trader.decisions
    (fire,) = [r.value for r in bench.records if r.kind == "fire"]
    assert (decision.action, decision.ticker, decision.strategy) == ("placed", X, "whale_fade")
    assert fire.own["value"] == 5000 * 100_000 and bench.placed[0].intent.fire.ts == fire.ts
    assert bench.placed[0].intent.side == "ask"


def test_a_policy_that_is_absent_places_no_orders_and_gives_the_reason() -> None:
    strategy = make_strategy(Settings(env={}, env_file=None, strategy="rl_model"))
    bench = open_bench(("rl_model", strategy, Budget()))
    fall(bench)
    bench.settle_down()
    assert not bench.placed and strategy.why


@pytest.mark.parametrize("end", ["determined", "settled"])
def test_the_end_of_a_market_clears_its_signal(end: str) -> None:
    bench = open_named("rlm_no")
    show(bench)
    assert signal_state(bench) is not None
    bench.exchange.settle(X, "no")
    bench.give(next(e for e in bench.exchange.stream if getattr(e, "kind", "") == end))
    assert signal_state(bench) is None
    assert not bench.trader.strategies[0].entries


def test_fires_of_a_market_that_ended_are_not_traded() -> None:
    bench = open_bench()
    bench.give(bench.exchange.trade(X, 5000))
    bench.exchange.settle(X, "no")
    for message in bench.exchange.stream:
        bench.give(message)
    bench.exchange.stream.clear()
    bench.give(Quiet())
    assert not bench.placed and actions(bench) == [("refused", "market settled")]
    assert msgspec.json.encode(list(bench.trader.decisions))
