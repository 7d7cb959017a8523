"""An endless seeded flow: markets of several categories that open, trade, resolve and retire.

Prices are fair: each is the probability of YES given everything revealed so far.  So no strategy has an edge
here, and a demonstration cannot suggest one.  An event's number is a Brownian motion, W(1) ~ N(0, 1), run on
the event's clock τ from opening (0) to close (1).  A market is YES if W(1) is in its interval, and its price
is Φ((high − W)/s) − Φ((low − W)/s) with s = √(1 − τ).  Prints are a Poisson process: a taker of YES pays half
a spread more than the fair price, a taker of NO half a spread less, on the market's grid.  At the close the
price converges to 0 or a dollar, and that is the result.

The same seed and settings give the same steps.  Memory is bounded: a market's facts are dropped when it
retires, a day after its settlement; only one number a market remains.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable
from typing import Final

from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError
from kalshilab.exchange.flows.synthetic_series import (
    SERIES,
    MarketInterval,
    SeriesPlan,
    event_ticker,
    market_intervals,
)
from kalshilab.exchange.flows.tape_flow import ORDER, FlowStep, MarketFacts, StepKind
from kalshilab.units import PRICE, TickGrid

__all__ = ["CATEGORIES", "Synthetic"]

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
DAY: Final = 86_400 * SECOND
START: Final = 1_767_225_600_000_000
"""2026-01-01 UTC in microseconds."""
LATEST: Final = 1 - 1e-9
CATEGORIES: Final = tuple(dict.fromkeys(plan.category for plan in SERIES))
"""The categories of `SERIES`."""


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


class _Event:
    """One open event: its markets' intervals, and the number that decides it as far as revealed."""

    __slots__ = ("close", "first", "intervals", "open", "plan", "tau", "ticker", "w")

    def __init__(
        self,
        plan: SeriesPlan,
        ticker: str,
        intervals: list[MarketInterval],
        opens: int,
        close: int,
        first: int,
    ) -> None:
        self.plan, self.ticker, self.intervals = plan, ticker, intervals
        self.open, self.close, self.first = opens, close, first
        self.tau = self.w = 0.0

    def reveal(self, rng: random.Random, ts: int) -> None:
        """Advance the number to an instant."""
        # More is revealed late than early: about half of it in the last third.
        share = min(max((ts - self.open) / (self.close - self.open), 0.0), 1.0)
        tau = share**1.7
        if tau > self.tau:
            self.w += math.sqrt(tau - self.tau) * rng.gauss(0.0, 1.0)
            self.tau = tau

    def chance(self, interval: MarketInterval) -> float:
        """Return the probability of YES given everything revealed so far."""
        s = math.sqrt(1.0 - min(self.tau, LATEST))
        return _phi((interval.high - self.w) / s) - _phi((interval.low - self.w) / s)

    def result(self, interval: MarketInterval) -> str:
        """Return the result, once everything is revealed."""
        return "yes" if interval.low <= self.w < interval.high else "no"


class Synthetic:
    """An endless flow of synthetic markets.

    Args:
        seed: the same seed and settings give the same flow.
        categories: categories to list; None lists all of `CATEGORIES`.
        markets: approximate number of open markets; whole events are listed, so there may be a few more.
        rate_per_s: prints a second of exchange time, over all markets.
        start_us: exchange time at which the flow begins, in microseconds.
        settle_after_us: microseconds from determination to settlement.
        retire_after_us: microseconds from settlement until a market is dropped.

    >>> flow = Synthetic(seed=1, categories=["Crypto"], markets=10, rate_per_s=5)
    >>> flow.take().kind, flow.facts[0].series, len(flow.facts) >= 10
    ('create', 'KXBTC15M', True)

    Raises:
        ExchangeError: an unknown category, or a number out of range.
    """

    @renamed_keywords(
        rate="rate_per_s", start="start_us", settle_after="settle_after_us", retire_after="retire_after_us"
    )
    def __init__(
        self,
        seed: int = 0,
        categories: Iterable[str] | None = None,
        *,
        markets: int = 50,
        rate_per_s: float = 2.0,
        start_us: int = START,
        settle_after_us: int = 10 * MINUTE,
        retire_after_us: int = DAY,
    ) -> None:
        chosen = CATEGORIES if categories is None else tuple(categories)
        if not chosen or not set(chosen) <= set(CATEGORIES):
            raise ExchangeError(f"categories must be some of {', '.join(CATEGORIES)}, got {list(chosen)}")
        if not 0 < rate_per_s <= 1_000_000:
            raise ExchangeError(f"rate_per_s must be > 0 and <= 1,000,000, got {rate_per_s}")
        for name, value in (
            ("markets", markets),
            ("settle_after_us", settle_after_us),
            ("retire_after_us", retire_after_us),
        ):
            if value < 1:
                raise ExchangeError(f"{name} must be >= 1, got {value}")
        self._plans = [p for p in SERIES if p.category in chosen]
        self._rng = random.Random(f"synthetic {seed}")
        self._target, self._rate = markets, rate_per_s
        self._settle_after_us, self._retire_after_us = settle_after_us, retire_after_us
        self.facts: list[MarketFacts] = []
        self.prints = 0
        """Prints generated so far."""
        self._now = start_us
        self._schedule: list[tuple[int, int, int, StepKind, int]] = []
        self._count = 0
        self._open: list[int] = []
        self._place: dict[int, int] = {}
        self._events: dict[int, tuple[_Event, int]] = {}
        self._used: dict[str, int] = {}
        self._most = max(p.weight for p in self._plans)
        self._planned = 0
        self._retired = -1
        plans = self._rng.sample(self._plans, len(self._plans))
        while self._planned < self._target:
            # Series in turn, so that every category has some markets.
            self._list(plans[len(self._used) % len(plans)], early=True)
        self._next_print = start_us + self._gap()

    # The flow

    @property
    def next_ts(self) -> int:
        """Exchange time of the next step in microseconds; the flow never ends."""
        return min(self._schedule[0][0], self._next_print)

    def take(self) -> FlowStep:
        """Remove and return the next step."""
        if self._retired >= 0:
            # Steps refer to markets by index, so the list keeps its length; a market's facts are dropped after
            # its last step has been played.
            self.facts[self._retired], self._retired = GONE, -1
        while True:
            if self._schedule and self._schedule[0][0] <= self._next_print:
                ts, _, _, kind, market = heapq.heappop(self._schedule)
                self._now = ts
                self._change(kind, market, ts)
                return FlowStep(ts, kind, market)
            ts = self._now = self._next_print
            self._next_print = ts + self._gap()
            if self._open:
                return self._print(ts)

    def _gap(self) -> int:
        return max(1, round(self._rng.expovariate(self._rate) * SECOND))

    def _push(self, ts: int, kind: StepKind, market: int) -> None:
        self._count += 1
        heapq.heappush(self._schedule, (ts, ORDER[kind], self._count, kind, market))

    def _change(self, kind: StepKind, market: int, ts: int) -> None:
        """Update the flow for a lifecycle step."""
        if kind == "open":
            self._place[market] = len(self._open)
            self._open.append(market)
        elif kind == "close":
            last = self._open.pop()
            place = self._place.pop(market)
            if last != market:
                self._open[place], self._place[last] = last, place
            event, interval = self._events.pop(market)
            event.reveal(self._rng, event.close)
            facts = self.facts[market]
            facts.result = event.result(event.intervals[interval])
            facts.settlement = PRICE if facts.result == "yes" else 0
            self._planned -= 1
            if self._planned < self._target:
                # The same series again; otherwise the longest events would crowd out the others.
                self._list(event.plan, early=False)
        elif kind == "retire":
            self._retired = market

    # Markets

    def _list(self, plan: SeriesPlan, *, early: bool) -> None:
        """List one event of a series; an `early` event may have opened before the flow begins."""
        rng, now = self._rng, self._now
        subject = plan.subjects[rng.randrange(len(plan.subjects))] if plan.subjects else ""
        duration_us = (
            plan.duration_us - round(rng.random() * (plan.duration_us - plan.duration_us // 8))
            if early
            else plan.duration_us
        )
        close = -(-(now + max(duration_us, 2 * MINUTE)) // plan.period_us) * plan.period_us
        while (ticker := event_ticker(plan, subject, close)) in self._used:
            close += plan.period_us
        if len(self._used) > 4 * self._target + 1000:
            self._used = {t: ts for t, ts in self._used.items() if ts > now - DAY}
        self._used[ticker] = close
        opens = now if not early else min(now, close - plan.duration_us)
        # Something is known before the opening, so that there are favourites and longshots.
        start = rng.gauss(0.0, 0.5)
        intervals = market_intervals(plan, subject, close, start)
        event = _Event(plan, ticker, intervals, opens, close, len(self.facts))
        settled = close + 30 * SECOND + self._settle_after_us
        for number, interval in enumerate(intervals):
            facts = self._facts(event, interval, settled)
            self.facts.append(facts)
            self._events[facts.index] = (event, number)
            self._push(now, "create", facts.index)
            self._push(max(now, opens) + (0 if early else SECOND), "open", facts.index)
            self._push(close, "close", facts.index)
            self._push(facts.determined, "determine", facts.index)
            self._push(settled, "settle", facts.index)
            self._push(settled + self._retire_after_us, "retire", facts.index)
        self._planned += len(intervals)

    def _facts(self, event: _Event, interval: MarketInterval, settled: int) -> MarketFacts:
        plan = event.plan
        f = MarketFacts()
        f.index = len(self.facts)
        f.ticker, f.event, f.series = f"{event.ticker}-{interval.suffix}", event.ticker, plan.series
        f.category, f.title, f.structure = plan.category, interval.title, plan.structure
        f.fee_type, f.fee_multiplier = plan.fee_type, plan.fee_multiplier
        f.grid = TickGrid.named(plan.structure)
        # The result does not exist anywhere before the close.
        f.result, f.settlement = "", 0
        f.open = event.open
        f.created = f.open - MINUTE
        f.close, f.announced_close = event.close, event.close + plan.slack_us
        f.determined, f.settled = event.close + 30 * SECOND, settled
        return f

    # Prints

    def _print(self, ts: int) -> FlowStep:
        rng = self._rng
        while True:
            # Draw by weight in constant time: rejection sampling.
            market = self._open[int(rng.random() * len(self._open))]
            event, number = self._events[market]
            if rng.random() * self._most <= event.plan.weight:
                break
        event.reveal(rng, ts)
        plan, grid = event.plan, self.facts[market].grid
        mid = event.chance(event.intervals[number]) * PRICE
        # Spreads are wide at mid prices and narrow near 0 and a dollar, like real ones.
        half = plan.spread_price_units * (0.35 + 2.6 * mid * (PRICE - mid) / PRICE / PRICE) / 2
        taker = "yes" if rng.random() < 0.55 else "no"
        price = grid.ceil(math.ceil(mid + half)) if taker == "yes" else grid.floor(math.floor(mid - half))
        size = max(1, round(plan.size * math.exp(rng.gauss(0.0, 1.1)))) * 100
        self.prints += 1
        return FlowStep(ts, "print", market, price, min(size, 10_000_000), taker)

    def __repr__(self) -> str:
        return f"Synthetic({len(self._open)} markets open, {self.prints:,} prints so far)"


GONE: Final = MarketFacts()
"""Placeholder for the facts of a retired market."""
GONE.ticker = ""
