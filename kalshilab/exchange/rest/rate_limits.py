"""Rate limits: the token buckets of an account, the cost of each call, and the 429 answer.

There are two buckets: **read** (GETs and all unlisted calls) and **write** (orders, order groups, upgrades of the
tier). Each refills evenly up to its capacity. A third bucket serves the balance alone and holds the calls of one
second. A call costs 10 tokens unless listed. A batch costs the sum of its items and is charged as a whole. A call
that exceeds its bucket is answered 429 and is not charged.

Tokens are counted in millionths, so the refill of one microsecond is an integer and no sum is rounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from kalshilab.errors import ConfigError
from kalshilab.exchange.rest.params import Answer, Request
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import REST_PATH, UNREADABLE

__all__ = ["COSTS", "DEFAULT_COST", "TIERS", "TOO_MANY", "Bucket", "Cost", "RateLimiter", "RateTier", "account_limits", "batch_size", "cost_of", "endpoint_costs"]  # fmt: skip

DEFAULT_COST: Final = 10
"""Tokens of an unlisted call."""
TOO_MANY: Final = Answer(429, b'{"error":"too many requests"}')
"""The answer to a call that exceeds its bucket; like the exchange's, it has no retry header."""
MICRO: Final = 1_000_000


class RateTier(NamedTuple):
    """The rate limits of one tier.

    Attributes:
        read_rate: tokens per second for reads.
        read_capacity: maximum of saved tokens for reads.
        write_rate: tokens per second for writes.
        write_capacity: maximum of saved tokens for writes.
        balances: balance reads per second.
    """

    read_rate: int
    read_capacity: int
    write_rate: int
    write_capacity: int
    balances: int


TIERS: Final = MappingProxyType(
    {
        "basic": RateTier(200, 600, 100, 100, 1),
        "advanced": RateTier(300, 900, 300, 900, 1),
        "expert": RateTier(600, 600, 600, 1_800, 5),
        "premier": RateTier(1_200, 1_200, 1_200, 3_600, 5),
        "paragon": RateTier(2_400, 2_400, 2_400, 7_200, 5),
        "prime": RateTier(4_800, 4_800, 4_800, 14_400, 5),
        "prestige": RateTier(12_000, 12_000, 9_600, 28_800, 5),
    }
)
"""The exchange's tiers as of October 2026."""


class Cost(NamedTuple):
    """The cost of a call: tokens per item of a batch, and the bucket that pays."""

    method: str
    path: str
    tokens: int
    bucket: str = "write"


COSTS: Final = (
    Cost("POST", "/portfolio/events/orders", 10),
    Cost("DELETE", "/portfolio/events/orders", 2),
    Cost("POST", "/portfolio/events/orders/batched", 10),
    Cost("DELETE", "/portfolio/events/orders/batched", 2),
    Cost("DELETE", "/portfolio/events/orders/{order_id}", 2),
    Cost("POST", "/portfolio/events/orders/{order_id}/amend", 10),
    Cost("POST", "/portfolio/events/orders/{order_id}/decrease", 10),
    Cost("GET", "/portfolio/orders/{order_id}", 2, "read"),
    Cost("POST", "/portfolio/order_groups/create", 10),
    Cost("DELETE", "/portfolio/order_groups/{order_group_id}", 10),
    Cost("PUT", "/portfolio/order_groups/{order_group_id}/reset", 10),
    Cost("PUT", "/portfolio/order_groups/{order_group_id}/trigger", 10),
    Cost("PUT", "/portfolio/order_groups/{order_group_id}/limit", 10),
    Cost("POST", "/account/api_usage_level/upgrade", 30),
    Cost("GET", "/portfolio/balance", 1, "balance"),
)
"""The calls that differ from reads at the default cost, in tokens or in bucket.

The disabled writes of API version 1 are not listed: they count as reads at the default cost and are answered 410.
"""

_FIXED_PATHS: Final = {(c.method, c.path): c for c in COSTS if "{" not in c.path}
_PATTERNS: Final = [
    (c.method, re.compile(re.sub(r"{\w+}", "[^/]+", c.path)), c) for c in COSTS if "{" in c.path
]
_READ: Final = Cost("", "", DEFAULT_COST, "read")


class Bucket:
    """Tokens that refill evenly with time.

    Args:
        rate: tokens per second.
        capacity: maximum number of tokens; the bucket starts full.
        now: present time in microseconds.

    >>> bucket = Bucket(rate=2, capacity=3, now=0)
    >>> [bucket.take(1, 0) for _ in range(4)]
    [True, True, True, False]
    >>> bucket.take(1, 499_999), bucket.take(1, 500_000)
    (False, True)
    """

    __slots__ = ("_capacity", "_micro_tokens", "_rate", "_refilled")

    def __init__(self, rate: int, capacity: int, now: int) -> None:
        self._rate, self._capacity = rate, capacity * MICRO
        self._micro_tokens, self._refilled = self._capacity, now

    def take(self, tokens: int, now: int) -> bool:
        """Take tokens if all are available; a clock that runs backwards refills nothing."""
        if now > self._refilled:
            refill = (now - self._refilled) * self._rate
            self._micro_tokens = min(self._capacity, self._micro_tokens + refill)
            self._refilled = now
        if self._micro_tokens < tokens * MICRO:
            return False
        self._micro_tokens -= tokens * MICRO
        return True


class RateLimiter:
    """The token buckets of one account.

    Args:
        tier: a key of `TIERS`.
        now: returns the time in microseconds: machine time for real clients, exchange time where the same calls
            and tape must give the same bytes.

    >>> limits = RateLimiter("basic", lambda: 0)
    >>> sum(limits.charge("POST", "/trade-api/v2/portfolio/events/orders") for _ in range(20))
    10
    >>> limits.charge("GET", "/trade-api/v2/markets")
    True

    Raises:
        ConfigError: the tier is unknown.
    """

    def __init__(self, tier: str, now: Callable[[], int]) -> None:
        if tier not in TIERS:
            raise ConfigError("tier", tier, "one of " + ", ".join(TIERS))
        self.tier: Final = tier
        self._now = now
        t, at = TIERS[tier], now()
        self._buckets = {
            "read": Bucket(t.read_rate, t.read_capacity, at),
            "write": Bucket(t.write_rate, t.write_capacity, at),
            "balance": Bucket(t.balances, t.balances, at),
        }

    def charge(self, method: str, path: str, items: int = 1) -> bool:
        """Charge a call; return False, without charging it, if it exceeds its bucket.

        Args:
            method: HTTP method, in upper case.
            path: path from the server's root or from the contract's, without the query.
            items: number of items of a batch; an empty batch costs as much as one item.
        """
        cost = cost_of(method, path.removeprefix(REST_PATH))
        return self._buckets[cost.bucket].take(cost.tokens * max(items, 1), self._now())

    def admits(self, request: Request) -> bool:
        """Charge a request as `charge` does, counting the items of its body."""
        return self.charge(request.method, request.path, batch_size(request))

    def body(self) -> wire.AccountLimitsBody:
        """Return the body of `GET /account/limits`."""
        return account_limits(self.tier)

    def __repr__(self) -> str:
        return f"RateLimiter({self.tier!r})"


def cost_of(method: str, path: str) -> Cost:
    """Return the cost of a call; `path` is relative to the contract's root.

    >>> cost_of("DELETE", "/portfolio/events/orders/an-id")[2:]
    (2, 'write')
    >>> cost_of("GET", "/markets")[2:]
    (10, 'read')
    """
    path = path.rstrip("/")
    cost = _FIXED_PATHS.get((method, path))
    if cost is None:
        cost = next((c for m, pattern, c in _PATTERNS if m == method and pattern.fullmatch(path)), _READ)
    return cost


class _BatchItems(msgspec.Struct):
    orders: list[msgspec.Raw] = []


def batch_size(request: Request) -> int:
    """Return the number of items of a batch; 1 for other requests and for an invalid body.

    >>> batch_size(Request("POST", "/trade-api/v2/portfolio/events/orders/batched", {}, {}, b'{"orders":[{},{}]}'))
    2
    """
    if not request.path.rstrip("/").endswith("/events/orders/batched"):
        return 1
    try:
        return max(len(msgspec.json.decode(request.body, type=_BatchItems).orders), 1)
    except UNREADABLE:
        return 1


def account_limits(tier: str) -> wire.AccountLimitsBody:
    """Return the body of `GET /account/limits`; a tier above the first is a permanent grant."""
    t = TIERS[tier]
    granted = {"exchange_instance": "event_contract", "level": tier, "source": "manual"}
    return wire.AccountLimitsBody(
        usage_tier=tier,
        read=wire.BucketLimit(refill_rate=t.read_rate, bucket_capacity=t.read_capacity),
        write=wire.BucketLimit(refill_rate=t.write_rate, bucket_capacity=t.write_capacity),
        grants=[] if tier == "basic" else [granted],
    )


def endpoint_costs() -> wire.EndpointCosts:
    """Return the body of `GET /account/endpoint_costs`: the calls that do not have the default cost."""
    listed = [
        wire.EndpointCost(method=c.method, path=c.path, cost=c.tokens)
        for c in COSTS
        if c.tokens != DEFAULT_COST and c.bucket != "balance"
    ]
    return wire.EndpointCosts(default_cost=DEFAULT_COST, endpoint_costs=listed)
