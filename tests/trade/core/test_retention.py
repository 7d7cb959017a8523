"""Memory of a trader: what it knows about markets, orders and fills is bounded, however long it lives."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from trade.core.reference_exchange import SECOND, Bench
from trade.core.test_trader import open_bench, show

from kalshilab.kalshi.stream.events import Lifecycle
from kalshilab.market.model import Market
from kalshilab.market.position import Holding
from kalshilab.trade.core.messages import Tick
from kalshilab.trade.core.record.retention import KEEP_US

DAY = KEEP_US
CONTAINERS = (dict, set, list, deque, Counter)


BOUNDED = ("_forgotten", "decisions", "recent", "samples")
"""Containers that are limited, and reach the limit only in a long life."""


def sizes_of(thing: object, path: str, sizes: Counter[str], seen: set[int]) -> Counter[str]:
    """Count the entries of all containers that a trader's parts hold, by the path to them."""
    if id(thing) in seen or isinstance(thing, type):
        return sizes
    seen.add(id(thing))
    if isinstance(thing, CONTAINERS):
        inside: list[Any] = list(thing.values()) if isinstance(thing, dict) else list(thing)
        sizes[path] += len(inside)
        for part in inside:
            sizes_of(part, f"{path}[]", sizes, seen)
    elif type(thing).__module__.startswith("kalshilab.trade"):
        for name in [*getattr(thing, "__dict__", ()), *getattr(type(thing), "__slots__", ())]:
            sizes_of(getattr(thing, name, None), f"{path}.{name}", sizes, seen)
    return sizes


def live_a_day(bench: Bench, day: int, markets: int) -> None:
    """Open markets, trade in half of them and reject a quarter; all of them settle, and a day passes."""
    x = bench.exchange
    x.fill_of_new = 4
    for number in range(markets):
        ticker = f"D-{day}-{number}"
        category = "Politics" if number % 4 == 3 else "Sports"
        x.markets[ticker] = Market(ticker=ticker, event=f"D-{day}", category=category)
        x.holdings[ticker] = Holding()
        bench.give(Lifecycle("created", ticker, x.now, f"D-{day}", 0, 0, "", None))
        bench.settle_down()
        if number % 4 < 2:
            show(bench, ticker)
            bench.settle_down()
        x.settle(ticker, "yes")
        bench.settle_down()
    x.now += DAY
    x.mono += SECOND
    bench.give(Tick())
    bench.settle_down()


def test_a_long_life_needs_no_more_memory_than_its_last_days() -> None:
    bench = open_bench(discovery=False, categories=("Sports",))
    sizes = []
    for day in range(6):
        live_a_day(bench, day, markets=20)
        sizes.append(sizes_of(bench.trader, "trader", Counter(), set()))
    assert bench.trader.counts["settlements"] == 60 and bench.trader.counts["orders"] == 60
    grown = {path for path, size in sizes[-1].items() if size > sizes[2][path]}
    assert not {path for path in grown if not path.endswith(BOUNDED)}
    assert len(list(bench.trader.markets)) < 60
    bench.check_account()


def test_fills_of_a_forgotten_market_are_not_counted_again() -> None:
    bench = open_bench(discovery=False, categories=("Sports",))
    live_a_day(bench, 0, markets=4)
    x = bench.exchange
    x.now += DAY
    bench.give(Tick())
    bench.settle_down()
    assert bench.trader.markets.get("D-0-0") is None
    for fill in x.fills:
        bench.give(fill)
    bench.settle_down()
    bench.check_account()
    assert bench.trader.counts["fills"] == len(x.fills)
