"""Rate limits: token buckets that pace a client's calls.

The exchange has two buckets per account, one for reads and one for writes, both refilled continuously.  A call costs
tokens (10 by default).  A client that waits for its own copy of the buckets does not receive a 429.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from kalshilab.clock import Clock
from kalshilab.lazy import renamed

__all__ = ["COSTS", "TIERS", "AccountLimits", "TokenBucket"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)


class TokenBucket:
    """A bucket of tokens that refills evenly with time and starts full.

    Args:
        rate: tokens per second.
        capacity: tokens at most.
        clock: the clock that measures the seconds.

    Raises:
        ValueError: the rate or the capacity is not above 0.

    >>> from kalshilab.clock import SimClock
    >>> clock = SimClock()
    >>> bucket = TokenBucket(rate=2, capacity=3, clock=clock)
    >>> [bucket.try_acquire() for _ in range(4)]
    [True, True, True, False]
    >>> clock.advance(500_000); bucket.try_acquire()
    True
    """

    def __init__(self, rate: float, capacity: float, clock: Clock) -> None:
        if rate <= 0 or capacity <= 0:
            raise ValueError(f"rate and capacity must be above 0, got {rate} and {capacity}")
        self.rate, self.capacity, self._clock = rate, capacity, clock
        self._tokens = float(capacity)
        self._at = clock.monotonic()

    @property
    def tokens(self) -> float:
        """Tokens available now."""
        now = self._clock.monotonic()
        self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
        self._at = now
        return self._tokens

    def try_acquire(self, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are available, and return whether they were."""
        # A tolerance of a millionth: ten refills of 0.1 must add up to one token.
        if self.tokens + 1e-6 < cost:
            return False
        self._tokens -= cost
        return True

    async def acquire(self, cost: float = 1.0) -> None:
        """Wait until `cost` tokens are available, and take them.

        Raises:
            ValueError: `cost` exceeds the capacity.
        """
        if cost > self.capacity:
            raise ValueError(f"cost must be at most the capacity {self.capacity:g}, got {cost:g}")
        while not self.try_acquire(cost):
            await self._clock.sleep((cost - self._tokens) / self.rate)


class AccountTier(msgspec.Struct, frozen=True):
    """Rates (tokens per second) and capacities (tokens) of a usage tier, for reads and writes."""

    read_rate: float
    read_capacity: float
    write_rate: float
    write_capacity: float


TIERS: Final = MappingProxyType(
    {
        "basic": AccountTier(200, 600, 100, 100),
        "advanced": AccountTier(300, 900, 300, 900),
        "expert": AccountTier(600, 600, 600, 1800),
        "premier": AccountTier(1200, 1200, 1200, 3600),
        "paragon": AccountTier(2400, 2400, 2400, 7200),
        "prime": AccountTier(4800, 4800, 4800, 14_400),
        "prestige": AccountTier(12_000, 12_000, 9600, 28_800),
    }
)
"""The exchange's usage tiers, October 2026."""

COSTS: Final = MappingProxyType({"default": 10, "cancel": 2, "get_order": 2})
"""Tokens per call."""


class AccountLimits:
    """The read bucket and the write bucket of an account.

    Args:
        clock: the clock that measures the seconds.
        tier: a usage tier of `TIERS`.
    """

    def __init__(self, clock: Clock, tier: str = "basic") -> None:
        t = TIERS[tier]
        self.read = TokenBucket(t.read_rate, t.read_capacity, clock)
        self.write = TokenBucket(t.write_rate, t.write_capacity, clock)
