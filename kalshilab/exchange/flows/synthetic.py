"""A flow that makes itself: seeded markets of several categories that come, trade, resolve and go, for ever.

Prices are fair: each is the chance of YES given everything revealed so far, so nobody has an edge here, and a
demonstration teaches nobody that he has one.  An event's number is a Brownian motion, W(1) ~ N(0, 1), run on
the event's own clock from opening (0) to close (1); YES of a market is W(1) in its interval, and its price
Φ((high − W)/s) − Φ((low − W)/s) with s = √(1 − τ).  Prints are a Poisson process; a taker of YES pays half a
spread more than that, a taker of NO half a spread less, on the market's grid.  At the close the price goes to
0 or a dollar by itself, and that is the result.

The same seed and settings give the same steps.  Memory is bounded: a market's facts go when it retires, a day
after its settlement; what stays is a number a market.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterable
from typing import Final

from kalshilab.errors import ExchangeError
from kalshilab.exchange.flows.synthetic_series import SERIES, Leg, SeriesPlan, event_ticker, legs
from kalshilab.exchange.flows.tape_flow import ORDER, MarketFacts, Step, StepKind
from kalshilab.units import PRICE, TickGrid

__all__ = ["CATEGORIES", "Synthetic"]

SECOND: Final = 1_000_000
MINUTE: Final = 60 * SECOND
DAY: Final = 86_400 * SECOND
START: Final = 1_767_225_600_000_000
"""2026-01-01 UTC in microseconds."""
LATEST: Final = 1 - 1e-9
CATEGORIES: Final = tuple(dict.fromkeys(plan.category for plan in SERIES))
"""The categories there are."""


def _phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


class _Event:
    """One event under way: its markets' intervals and the number that decides it, as far as revealed."""

    __slots__ = ("close", "first", "legs", "open", "plan", "tau", "ticker", "w")

    def __init__(
        self, plan: SeriesPlan, ticker: str, parts: list[Leg], opens: int, close: int, first: int
    ) -> None:
        self.plan, self.ticker, self.legs = plan, ticker, parts
        self.open, self.close, self.first = opens, close, first
        self.tau = self.w = 0.0

    def reveal(self, rng: random.Random, ts: int) -> None:
        """Move the number on to an instant."""
        # More is told late than early: half of it in the last third or so.
        share = min(max((ts - self.open) / (self.close - self.open), 0.0), 1.0)
        tau = share**1.7
        if tau > self.tau:
            self.w += math.sqrt(tau - self.tau) * rng.gauss(0.0, 1.0)
            self.tau = tau

    def chance(self, leg: Leg) -> float:
        """The chance of YES, given what is revealed."""
        s = math.sqrt(1.0 - min(self.tau, LATEST))
        return _phi((leg.high - self.w) / s) - _phi((leg.low - self.w) / s)

    def result(self, leg: Leg) -> str:
        """What it has come to, once all is revealed."""
        return "yes" if leg.low <= self.w < leg.high else "no"


class Synthetic:
    """An endless flow.

    Args:
        seed: the same seed and settings give the same flow.
        categories: which to list; None: all of `CATEGORIES`.
        markets: about how many are open at once; whole events are listed, so it may be a few more.
        rate: prints a second of exchange time, over all of them.
        start: exchange time at which it begins, microseconds.
        settle_after: microseconds from determination to settlement.
        retire_after: microseconds from settlement until a market is forgotten.

    >>> flow = Synthetic(seed=1, categories=["Crypto"], markets=10, rate=5)
    >>> flow.take().kind, flow.facts[0].series, len(flow.facts) >= 10
    ('create', 'KXBTC15M', True)

    Raises:
        ExchangeError: an unknown category, or a number out of range.
    """

    def __init__(
        self,
        seed: int = 0,
        categories: Iterable[str] | None = None,
        *,
        markets: int = 50,
        rate: float = 2.0,
        start: int = START,
        settle_after: int = 10 * MINUTE,
        retire_after: int = DAY,
    ) -> None:
        wanted = CATEGORIES if categories is None else tuple(categories)
        unknown = [c for c in wanted if c not in CATEGORIES]
        if unknown or not wanted:
            raise ExchangeError(f"categories {unknown or 'none'}: some of {', '.join(CATEGORIES)}")
        if markets < 1 or not 0 < rate <= 1_000_000 or min(settle_after, retire_after) < 1:
            raise ExchangeError(f"markets {markets}, rate {rate} and the delays must be above zero")
        self._plans = [p for p in SERIES if p.category in wanted]
        self._rng = random.Random(f"synthetic {seed}")
        self._want, self._rate = markets, rate
        self._settle_after, self._retire_after = settle_after, retire_after
        self.facts: list[MarketFacts] = []
        self.prints = 0
        """Prints made so far."""
        self._now = start
        self._due: list[tuple[int, int, int, StepKind, int]] = []
        self._count = 0
        self._live: list[int] = []
        self._place: dict[int, int] = {}
        self._events: dict[int, tuple[_Event, int]] = {}
        self._used: dict[str, int] = {}
        self._most = max(p.weight for p in self._plans)
        self._planned = 0
        self._retired = -1
        plans = self._rng.sample(self._plans, len(self._plans))
        while self._planned < self._want:
            # In turn, so that every category has some.
            self._list(plans[len(self._used) % len(plans)], early=True)
        self._next_print = start + self._gap()

    # The flow

    @property
    def next_ts(self) -> int:
        """When the next step happens, in microseconds; there always is one."""
        return min(self._due[0][0], self._next_print)

    def take(self) -> Step:
        """The next step, taken."""
        if self._retired >= 0:
            # The list keeps its length, for steps name markets by place; a market's facts go, once its last
            # step has been played.
            self.facts[self._retired], self._retired = GONE, -1
        while True:
            if self._due and self._due[0][0] <= self._next_print:
                ts, _, _, kind, market = heapq.heappop(self._due)
                self._now = ts
                self._change(kind, market, ts)
                return Step(ts, kind, market)
            ts = self._now = self._next_print
            self._next_print = ts + self._gap()
            if self._live:
                return self._print(ts)

    def _gap(self) -> int:
        return max(1, round(self._rng.expovariate(self._rate) * SECOND))

    def _push(self, ts: int, kind: StepKind, market: int) -> None:
        self._count += 1
        heapq.heappush(self._due, (ts, ORDER[kind], self._count, kind, market))

    def _change(self, kind: StepKind, market: int, ts: int) -> None:
        """What a step in a market's life means for what follows."""
        if kind == "open":
            self._place[market] = len(self._live)
            self._live.append(market)
        elif kind == "close":
            last = self._live.pop()
            place = self._place.pop(market)
            if last != market:
                self._live[place], self._place[last] = last, place
            event, leg = self._events.pop(market)
            event.reveal(self._rng, event.close)
            facts = self.facts[market]
            facts.result = event.result(event.legs[leg])
            facts.settlement = PRICE if facts.result == "yes" else 0
            self._planned -= 1
            if self._planned < self._want:
                # Of its own kind, or what lasts longest would be all there is in the end.
                self._list(event.plan, early=False)
        elif kind == "retire":
            self._retired = market

    # Markets

    def _list(self, plan: SeriesPlan, *, early: bool) -> None:
        """List one event of a series; `early`: one that may have been open for a while when the flow begins."""
        rng, now = self._rng, self._now
        subject = plan.subjects[rng.randrange(len(plan.subjects))] if plan.subjects else ""
        lasts = plan.lasts - round(rng.random() * (plan.lasts - plan.lasts // 8)) if early else plan.lasts
        close = -(-(now + max(lasts, 2 * MINUTE)) // plan.period) * plan.period
        while (ticker := event_ticker(plan, subject, close)) in self._used:
            close += plan.period
        if len(self._used) > 4 * self._want + 1000:
            self._used = {t: ts for t, ts in self._used.items() if ts > now - DAY}
        self._used[ticker] = close
        opens = now if not early else min(now, close - plan.lasts)
        # Before it opens something is known already: a favourite and a longshot, not two coins.
        start = rng.gauss(0.0, 0.5)
        parts = legs(plan, subject, close, start)
        event = _Event(plan, ticker, parts, opens, close, len(self.facts))
        settled = close + 30 * SECOND + self._settle_after
        for number, leg in enumerate(parts):
            facts = self._facts(event, leg, settled)
            self.facts.append(facts)
            self._events[facts.index] = (event, number)
            self._push(now, "create", facts.index)
            self._push(max(now, opens) + (0 if early else SECOND), "open", facts.index)
            self._push(close, "close", facts.index)
            self._push(facts.determined, "determine", facts.index)
            self._push(settled, "settle", facts.index)
            self._push(settled + self._retire_after, "retire", facts.index)
        self._planned += len(parts)

    def _facts(self, event: _Event, leg: Leg, settled: int) -> MarketFacts:
        plan = event.plan
        f = MarketFacts()
        f.index = len(self.facts)
        f.ticker, f.event, f.series = f"{event.ticker}-{leg.suffix}", event.ticker, plan.series
        f.category, f.title, f.structure = plan.category, leg.title, plan.structure
        f.fee_type, f.fee_multiplier = plan.fee_type, plan.fee_multiplier
        f.grid = TickGrid.named(plan.structure)
        # What it comes to is not known, here or anywhere, before it closes.
        f.result, f.settlement = "", 0
        f.open = event.open
        f.created = f.open - MINUTE
        f.close, f.announced_close = event.close, event.close + plan.slack
        f.determined, f.settled = event.close + 30 * SECOND, settled
        return f

    # Prints

    def _print(self, ts: int) -> Step:
        rng = self._rng
        while True:
            # By weight, in constant time whatever is listed.
            market = self._live[int(rng.random() * len(self._live))]
            event, number = self._events[market]
            if rng.random() * self._most <= event.plan.weight:
                break
        event.reveal(rng, ts)
        plan, grid = event.plan, self.facts[market].grid
        mid = event.chance(event.legs[number]) * PRICE
        # Spreads are wide in the middle and narrow at the edges, as real ones are.
        half = plan.spread * (0.35 + 2.6 * mid * (PRICE - mid) / PRICE / PRICE) / 2
        taker = "yes" if rng.random() < 0.55 else "no"
        price = grid.ceil(math.ceil(mid + half)) if taker == "yes" else grid.floor(math.floor(mid - half))
        size = max(1, round(plan.size * math.exp(rng.gauss(0.0, 1.1)))) * 100
        self.prints += 1
        return Step(ts, "print", market, price, min(size, 10_000_000), taker)

    def __repr__(self) -> str:
        return f"Synthetic({len(self._live)} markets open, {self.prints:,} prints so far)"


GONE: Final = MarketFacts()
"""In the place of a market that has retired."""
GONE.ticker = ""
