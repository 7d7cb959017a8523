"""Token buckets: how fast calls may be made.

The exchange keeps two buckets for an account, one for reads and one for writes, each refilled continuously;
a call costs tokens (10 by default).  A client that waits for its own copy of them is not answered 429.
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
    """A bucket of tokens that refills evenly with time.

    Args:
        rate: tokens a second.
        capacity: the most it holds; it starts full.
        clock: whose seconds count.

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
            raise ValueError(f"rate {rate} and capacity {capacity} must be above zero")
        self.rate, self.capacity, self._clock = rate, capacity, clock
        self._tokens = float(capacity)
        self._at = clock.monotonic()

    @property
    def tokens(self) -> float:
        """Tokens there now."""
        now = self._clock.monotonic()
        self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.rate)
        self._at = now
        return self._tokens

    def try_acquire(self, cost: float = 1.0) -> bool:
        """Take `cost` tokens if they are there."""
        # A millionth of slack: ten refills of a tenth must make one.
        if self.tokens + 1e-6 < cost:
            return False
        self._tokens -= cost
        return True

    async def acquire(self, cost: float = 1.0) -> None:
        """Take `cost` tokens, waiting until they are there.

        Raises:
            ValueError: more than the bucket can ever hold.
        """
        if cost > self.capacity:
            raise ValueError(f"{cost} tokens from a bucket of {self.capacity}")
        while not self.try_acquire(cost):
            await self._clock.sleep((cost - self._tokens) / self.rate)


class AccountTier(msgspec.Struct, frozen=True):
    """Tokens a second and the most held, for reads and writes."""

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
"""The exchange's tiers, October 2026."""

COSTS: Final = MappingProxyType({"default": 10, "cancel": 2, "get_order": 2})
"""Tokens a call costs."""


class AccountLimits:
    """The two buckets of an account."""

    def __init__(self, clock: Clock, tier: str = "basic") -> None:
        t = TIERS[tier]
        self.read = TokenBucket(t.read_rate, t.read_capacity, clock)
        self.write = TokenBucket(t.write_rate, t.write_capacity, clock)
