"""Clocks: the only module that reads the time.

Code that depends on time takes a `Clock`.  `WallClock` is the machine's clock.  `SimClock` moves only when it is
advanced, so a session over a recorded tape runs in the tape's time and a test never waits.

An instant is an `int` of microseconds since 1970-01-01 UTC (`now`), never a naive datetime.  `monotonic` measures
durations and never goes back.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

__all__ = ["Clock", "SimClock", "WallClock", "from_datetime", "isoformat", "to_datetime"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@runtime_checkable
class Clock(Protocol):
    """A source of time."""

    def now(self) -> int:
        """Return microseconds since 1970-01-01 UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; they never decrease."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait until `seconds` of this clock have passed."""
        ...


class WallClock:
    """The machine's clock."""

    def now(self) -> int:
        return time.time_ns() // 1000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def __repr__(self) -> str:
        return "WallClock()"


class SimClock:
    """A clock that stands still until `advance` moves it and wakes the sleepers it passes.

    >>> clock = SimClock(1_000_000)
    >>> clock.advance(2_500_000)
    >>> clock.now(), clock.monotonic()
    (2500000, 1.5)

    It never goes back: `advance` to an earlier instant has no effect, because frames of different subscriptions may
    arrive slightly out of order.

    Args:
        start: the first instant, in microseconds.
    """

    def __init__(self, start: int = 0) -> None:
        self._start = self._now = start
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return (self._now - self._start) / 1e6

    def advance(self, to: int) -> None:
        """Move to the instant `to` (microseconds) if it is later, and wake the sleepers that are due."""
        if to <= self._now:
            return
        self._now = to
        while self._sleepers and self._sleepers[0][0] <= to:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now + round(seconds * 1e6), next(self._order), future))
        await future

    def __repr__(self) -> str:
        return f"SimClock({isoformat(self._now)})"


def to_datetime(us: int) -> datetime:
    """Convert microseconds since the epoch to an aware UTC datetime.

    >>> to_datetime(1_000_000).isoformat()
    '1970-01-01T00:00:01+00:00'
    """
    return _EPOCH + timedelta(microseconds=us)


def from_datetime(moment: datetime) -> int:
    """Convert an aware datetime to microseconds since the epoch.

    >>> from_datetime(to_datetime(1_700_000_000_123_456))
    1700000000123456

    Raises:
        ValueError: the datetime has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"moment must have a time zone, got {moment!r}")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def isoformat(us: int) -> str:
    """Format an instant as RFC 3339 in UTC with microseconds, as the exchange does.

    >>> isoformat(1_795_329_000_900_000)
    '2026-11-22T06:30:00.900000Z'
    """
    return to_datetime(us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
