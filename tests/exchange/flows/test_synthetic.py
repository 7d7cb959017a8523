"""The synthetic flow: fair, endless, bounded in memory, and reproducible."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.errors import ExchangeError
from kalshilab.exchange import Exchange
from kalshilab.exchange.flows.synthetic import CATEGORIES, START, Synthetic
from kalshilab.exchange.flows.synthetic_series import SERIES
from kalshilab.exchange.flows.tape_flow import ORDER, FlowStep

QUICK: Any = {"categories": ["Crypto"], "markets": 12, "rate_per_s": 1.0}


def steps(flow: Synthetic, count: int) -> Iterator[FlowStep]:
    """Yield one step at a time, so that facts are as of the step."""
    return (flow.take() for _ in range(count))


def take(flow: Synthetic, count: int) -> list[FlowStep]:
    return list(steps(flow, count))


@pytest.mark.parametrize(
    "bad",
    [
        {"categories": ["Astrology"]},
        {"categories": []},
        {"markets": 0},
        {"rate_per_s": 0},
        {"settle_after_us": 0},
    ],
)
def test_invalid_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(ExchangeError):
        Synthetic(**bad)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**40), st.sets(st.sampled_from(CATEGORIES), min_size=1), st.integers(1, 80))
def test_the_same_seed_gives_the_same_steps(seed: int, categories: set[str], markets: int) -> None:
    chosen = sorted(categories)
    a, b, other = (Synthetic(s, chosen, markets=markets, rate_per_s=5) for s in (seed, seed, seed + 1))
    first = take(a, 1_500)
    assert first == take(b, 1_500) != take(other, 1_500)
    assert [f.ticker for f in a.facts] == [f.ticker for f in b.facts]


def test_an_exchange_with_the_same_flow_gives_the_same_bytes() -> None:
    runs = []
    for seed in (3, 3, 4):
        ex = Exchange(flow=Synthetic(seed, markets=30, rate_per_s=3), seed=1)
        connection = ex.hub.connect()
        while len(ex.listings) < 30:
            ex.step()
        for number, channel in enumerate(("trade", "orderbook_delta", "market_lifecycle_v2", "ticker"), 1):
            tickers = [x.facts.ticker for x in ex.listings]
            command = {"id": number, "cmd": "subscribe", "params": {"channels": [channel], "market_tickers": tickers}}  # fmt: skip
            connection.receive(json.dumps(command))
        for _ in range(3_000):
            ex.step()
        runs.append(connection.take())
    assert len(runs[0]) > 5_000
    assert runs[0] == runs[1] != runs[2]


def test_steps_are_in_order_and_prints_are_on_the_grid_of_open_markets() -> None:
    flow = Synthetic(5, markets=40, rate_per_s=2)
    state: dict[int, str] = {}
    before = (0, 0)
    seen: Counter[str] = Counter()
    for step in steps(flow, 20_000):
        assert step.ts >= before[0]
        before = (step.ts, ORDER[step.kind])
        seen[step.kind] += 1
        if step.kind == "print":
            assert state[step.market] == "open"
            facts = flow.facts[step.market]
            assert facts.grid.valid(step.price) and facts.open <= step.ts < facts.close
            assert step.size > 0 and step.taker in ("yes", "no")
        else:
            expected = {"create": None, "open": "create", "close": "open", "determine": "close", "settle": "determine"}  # fmt: skip
            assert state.get(step.market) == expected.get(step.kind, "settle")
            state[step.market] = step.kind
    assert seen["print"] > 15_000 and seen["settle"] > 5
    assert flow.prints == seen["print"]


def test_the_number_of_open_markets_stays_near_the_target() -> None:
    flow = Synthetic(1, markets=25, rate_per_s=0.01)
    live = 0
    for step in steps(flow, 4_000):
        live += (step.kind == "open") - (step.kind == "close")
        if step.ts > START:
            assert 15 <= live <= 35


def test_every_category_has_markets_and_tickers_are_unique() -> None:
    flow = Synthetic(2, markets=120, rate_per_s=0.002)
    tickers: list[str] = []
    for step in steps(flow, 6_000):
        if step.kind == "create":
            f = flow.facts[step.market]
            tickers.append(f.ticker)
            assert f.ticker.startswith(f.event + "-") and f.event.startswith(f.series + "-")
            assert f.title and f.category and f.result == ""
    assert len(tickers) == len(set(tickers)) > 500
    listed = {t.split("-")[0] for t in tickers}
    assert {p.category for p in SERIES if p.series in listed} == set(CATEGORIES)


def test_a_result_does_not_exist_before_the_close() -> None:
    flow = Synthetic(8, **QUICK)
    results: dict[int, str] = {}
    for step in steps(flow, 30_000):
        facts = flow.facts[step.market]
        if step.kind in ("create", "open", "print"):
            assert facts.result == ""
        elif step.kind == "determine":
            assert facts.result in ("yes", "no")
            assert facts.settlement == (10_000 if facts.result == "yes" else 0)
            results[step.market] = facts.result
    assert len(results) > 40 and set(results.values()) == {"yes", "no"}


def test_prices_are_fair_and_converge_to_the_result() -> None:
    flow = Synthetic(11, ["Crypto", "Sports"], markets=60, rate_per_s=0.05)
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    gaps, late = [], []
    for step in steps(flow, 60_000):
        if step.kind == "print":
            first.setdefault(step.market, step.price)
            last[step.market] = step.price
        elif step.kind == "settle" and step.market in first:
            worth = flow.facts[step.market].settlement
            gaps.append(worth - first[step.market])
            late.append(abs(worth - last[step.market]))
    assert len(gaps) > 1_500
    # The standard error of the mean gap is about 40 cents / sqrt(n); markets of one event are not independent.
    assert abs(sum(gaps) / len(gaps)) < 3 * 4_500 / len(gaps) ** 0.5
    assert sum(late) / len(late) < 0.6 * sum(map(abs, gaps)) / len(gaps)


def test_the_markets_of_an_event_are_consistent() -> None:
    flow = Synthetic(4, ["Climate and Weather", "Sports", "Economics"], markets=200, rate_per_s=0.002)
    events: dict[str, list[tuple[str, str]]] = {}
    for step in steps(flow, 6_000):
        if step.kind == "settle":
            f = flow.facts[step.market]
            events.setdefault(f.event, []).append((f.ticker, f.result))
    exclusive = [v for k, v in events.items() if k.startswith(("KXHIGH", "KXNBA", "KXMLB"))]
    assert len(exclusive) > 50
    assert all([r for _, r in v].count("yes") == 1 for v in exclusive)
    ladders = [v for k, v in events.items() if k.startswith(("KXCPI", "KXPAY"))]
    for v in ladders:
        results = [r for _, r in sorted(v, key=lambda x: float(x[0].rpartition("-T")[2]))]
        assert results == sorted(results, reverse=True), "YES below the outcome, NO above"


def test_the_memory_of_the_flow_is_bounded() -> None:
    flow = Synthetic(6, ["Crypto"], markets=10, rate_per_s=0.001, retire_after_us=60_000_000)
    kept = []
    for _ in range(6):
        take(flow, 3_000)
        kept.append(sum(1 for f in flow.facts if f.ticker))
    assert len(flow.facts) > 2_000
    assert max(kept) < 120
    assert len(flow._used) < 2_000 and len(flow._schedule) < 1_000


def test_an_exchange_drops_retired_markets() -> None:
    ex = Exchange(flow=Synthetic(6, ["Crypto"], markets=10, rate_per_s=0.01, retire_after_us=60_000_000))
    listed = []
    for _ in range(5):
        for _ in range(2_000):
            ex.step()
        listed.append(len(ex.listings))
    assert max(listed) < 40 and len(ex.flow.facts) > 500
    numbers = [x.number for x in ex.listings]
    assert numbers == sorted(set(numbers)) and numbers[-1] > 400
    assert {x.facts.event for x in ex.listings} == set(ex.listings.events())


def test_an_exchange_plays_the_flow_and_settles_positions() -> None:
    from kalshilab.kalshi.wire import rest as wire
    from kalshilab.units import format_price

    ex = Exchange(flow=Synthetic(9, ["Crypto"], markets=15, rate_per_s=1.0))
    bought = 0
    for _ in range(12_000):
        ex.step()
        if ex.prints_played % 50:
            continue
        for listing in ex.listings:
            ask = listing.book.best_ask()
            if (
                listing.status == "active"
                and ask is not None
                and not ex.account.holding(listing.facts.ticker).size
            ):
                ex.desk.create(
                    wire.CreateOrder(
                        ticker=listing.facts.ticker, side="bid", count="1.00", price=format_price(ask),
                        time_in_force="immediate_or_cancel", self_trade_prevention_type="maker",
                    )
                )  # fmt: skip
                bought += 1
                break
    assert bought > 30 and len(ex.account.settlements) > 10
    assert ex.account.drift() == 0
    bid_ask = [(x.book.best_bid(), x.book.best_ask()) for x in ex.listings]
    assert all(b is None or a is None or b < a for b, a in bid_ask)
