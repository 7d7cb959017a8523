"""Strategies side by side: each with its signal, pending fires, rate, budget, switch and counts.

A fire is consumed by an order or by its expiry only.  A temporary obstacle (a wide spread, no book, the rate limit, a
limit, a pause) leaves it pending with its latest reason.  It is decided again as soon as something that matters to this
reason has changed, never by polling.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from typing import Final, Literal, Protocol, TypeAlias

from kalshilab.config.settings import Settings
from kalshilab.signals import Fire
from kalshilab.trade.core.exposure import Budget, budgets_of
from kalshilab.trade.strategies.strategies import Exiting, Strategy, make_strategy

__all__ = ["FRESH_US", "FireQueue", "PendingFire", "StrategyRun", "strategies_of"]

FRESH_US: Final = 60_000_000
"""Microseconds of exchange time after its print for which a fire may lead to an order."""

Wait: TypeAlias = Literal["market", "limit", "freed", "time", "state"]


def strategies_of(settings: Settings) -> list[tuple[str, Strategy, Budget]]:
    """Return name, strategy and budget of each strategy that trades, in the order of the settings.

    >>> [name for name, _, _ in strategies_of(Settings(env={}, env_file=None, strategies="rlm_no,yes_80_90"))]
    ['rlm_no', 'yes_80_90']

    Raises:
        ConfigError, SignalError: a setting, a signal or a policy is unusable.
    """
    return [
        (name, make_strategy(settings.replace(strategy=name)), budget)
        for name, budget in budgets_of(settings).items()
    ]


class StrategyPast(Protocol):
    """The part of a run's history that concerns its strategies; see `kalshilab.trade.core.record.history.RunHistory`."""

    @property
    def off(self) -> set[str]:
        """The strategies that are switched off."""
        ...

    @property
    def counts_of(self) -> Mapping[str, Counter[str]]:
        """The counters of each strategy."""
        ...

    @property
    def bought(self) -> Mapping[str, Mapping[str, Fire]]:
        """For each strategy, the fire of its last order in each market."""
        ...

    @property
    def sent(self) -> Iterable[tuple[str, int]]:
        """Strategy and exchange time of the latest intents."""
        ...


class StrategyRun:
    """One strategy of a session.

    Args:
        name: its name, unique in the session.
        strategy: quotes and re-entry.
        budget: its limits.
        per_minute: orders per minute of exchange time, refilled evenly.

    Attributes:
        on: whether it may place orders; False while it is paused.
        exiting: the strategy, if it leaves its positions before their settlement, else None.
        failed: the error that stopped it, or "".
        update: passes a print to its signal, which may raise any error; None without a signal.
        entries: the fire of its last order in each market.
        counts: its counters.
    """

    def __init__(self, name: str, strategy: Strategy, budget: Budget, per_minute: float) -> None:
        self.name, self.strategy, self.budget = name, strategy, budget
        self.update = None if strategy.signal is None else strategy.signal.update
        self.exiting = strategy if isinstance(strategy, Exiting) else None
        self.on, self.failed = True, ""
        self.entries: dict[str, Fire] = {}
        self.counts: Counter[str] = Counter()
        # Whole microseconds, so that the answer does not depend on how often it is asked for.
        self._interval = round(60e6 / per_minute)
        self._burst = round((max(per_minute, 1.0) - 1.0) * self._interval)
        self._booked = 0

    def restore(self, past: StrategyPast, *, alone: bool) -> None:
        """Continue the counts, the entries, the switch and the rate of earlier lives of the run.

        Args:
            past: the journal of the run.
            alone: whether the session has one strategy, whose fires are recorded without its name.
        """
        names = {self.name, ""} if alone else {self.name}
        self.on = self.name not in past.off
        for name in names & past.counts_of.keys():
            self.counts.update(past.counts_of[name])
        self.entries.update(past.bought.get(self.name, {}))
        for name, ts in past.sent:
            if name == self.name:
                self.take_token(ts)

    @staticmethod
    def checked(fire: object) -> Fire:
        """Return what a signal has returned, if it is a fire.

        Raises:
            TypeError: it is not.
        """
        if not isinstance(fire, Fire) or fire.side not in ("yes", "no"):
            raise TypeError(f'a fire must be a signals.Fire with side "yes" or "no", got {fire!r}')
        return fire

    def reset(self, ticker: str) -> None:
        """Clear the signal's state of a market."""
        if self.strategy.signal is not None and not self.failed:
            self.strategy.signal.reset(ticker)

    def token_at(self, now: int) -> int:
        """Return the exchange time at which the next order may be sent: `now`, or later."""
        return max(now, self._booked - self._burst)

    def take_token(self, now: int) -> None:
        """Take the token of one order that is sent at this exchange time."""
        self._booked = max(self._booked, now) + self._interval

    def __repr__(self) -> str:
        return f"StrategyRun({self.name}, {'failed' if self.failed else 'on' if self.on else 'paused'})"


class PendingFire:
    """One fire that has not led to an order.

    `attempt` counts orders that certainly had no effect; `closes` is whether its order closes a position.
    """

    __slots__ = ("attempt", "closes", "fire", "number", "reason", "recorded", "run", "wait")

    def __init__(self, number: int, run: StrategyRun, fire: Fire) -> None:
        self.number, self.run, self.fire = number, run, fire
        self.attempt = 0
        self.reason = ""
        self.recorded = self.closes = False
        self.wait: Wait | None = None

    def __repr__(self) -> str:
        return f"PendingFire({self.run.name}, {self.fire.ticker}, {self.reason})"


class FireQueue:
    """The pending fires of all strategies, decided in the order in which they fired."""

    def __init__(self) -> None:
        self._number = 0
        self._pending: dict[int, PendingFire] = {}
        self._ready: list[int] = []
        self._is_ready: set[int] = set()
        self.by_market: dict[str, set[int]] = {}
        """Fires that wait for a change of their market, or of a limit, by ticker."""
        self._limited: set[int] = set()
        self._stopped: set[int] = set()
        self._times: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, run: StrategyRun, fire: Fire) -> None:
        """Add a new fire."""
        self._number += 1
        pending = PendingFire(self._number, run, fire)
        self._pending[pending.number] = pending
        heappush(self._times, (fire.ts + FRESH_US + 1, pending.number))
        self._make_ready(pending.number)

    def is_due(self, now: int) -> bool:
        """Return whether a fire is to be decided at this exchange time."""
        return bool(self._ready) or (bool(self._times) and self._times[0][0] <= now)

    @property
    def has_ready(self) -> bool:
        """Whether a fire is to be decided at any time."""
        return bool(self._ready)

    def first(self, now: int) -> PendingFire | None:
        """Return the first fire that is to be decided at this exchange time; it stays in the queue."""
        while self._times and self._times[0][0] <= now:
            number = heappop(self._times)[1]
            if number in self._pending:
                self._make_ready(number)
        while self._ready:
            pending = self._pending.get(self._ready[0])
            if pending is not None:
                return pending
            self._is_ready.discard(heappop(self._ready))
        return None

    def defer(self, pending: PendingFire, wait: Wait, reason: str, at: int = 0) -> None:
        """Leave a fire pending until something that matters to the reason changes.

        Args:
            pending: the fire.
            wait: "market": a print or a book of its market, "freed": a freed limit, "limit": either of them, "time": `at`,
                "state": a change of the session's state or of a switch.
            reason: the reason.
            at: exchange time, for "time".
        """
        self._unready(pending.number)
        pending.wait, pending.reason = wait, reason
        number = pending.number
        if wait == "time":
            heappush(self._times, (at, number))
        elif wait == "state":
            self._stopped.add(number)
        else:
            if wait != "freed":
                self.by_market.setdefault(pending.fire.ticker, set()).add(number)
            if wait != "market":
                self._limited.add(number)

    def take(self, pending: PendingFire) -> None:
        """Remove a fire from the queue."""
        self._unready(pending.number)
        self._forget_wait(pending)
        self._pending.pop(pending.number, None)

    def adopt(self, run: StrategyRun, fire: Fire) -> PendingFire:
        """Return a fire of an earlier life whose order has no outcome yet; it is not in the queue."""
        self._number += 1
        return PendingFire(self._number, run, fire)

    def put_back(self, pending: PendingFire) -> None:
        """Add a fire again whose order had no effect."""
        self._pending[pending.number] = pending
        heappush(self._times, (pending.fire.ts + FRESH_US + 1, pending.number))

    def all(self) -> list[PendingFire]:
        """Return all pending fires, in their order."""
        return [self._pending[number] for number in sorted(self._pending)]

    # Changes

    def market_changed(self, ticker: str) -> None:
        """Decide again about the fires that wait for a change of a market."""
        for number in sorted(self.by_market.get(ticker, ())):
            self._make_ready(number)

    def limits_changed(self) -> None:
        """Decide again about the fires that wait for a freed limit."""
        for number in sorted(self._limited):
            self._make_ready(number)

    def state_changed(self) -> None:
        """Decide again about the fires that wait for a state or a switch."""
        for number in sorted(self._stopped):
            self._make_ready(number)

    def _make_ready(self, number: int) -> None:
        pending = self._pending[number]
        self._forget_wait(pending)
        if number not in self._is_ready:
            self._is_ready.add(number)
            heappush(self._ready, number)

    def _unready(self, number: int) -> None:
        if number in self._is_ready:
            self._is_ready.discard(number)
            if self._ready[0] == number:
                heappop(self._ready)
            else:
                self._ready = sorted(self._is_ready)

    def _forget_wait(self, pending: PendingFire) -> None:
        wait, pending.wait = pending.wait, None
        if wait == "state":
            self._stopped.discard(pending.number)
        elif wait in ("market", "limit", "freed"):
            ticker = pending.fire.ticker
            waiting = self.by_market.get(ticker)
            if waiting is not None:
                waiting.discard(pending.number)
                if not waiting:
                    del self.by_market[ticker]
            self._limited.discard(pending.number)
