"""Rate limits: the token buckets of an account, what each call costs, and the answer to one too many.

There are two buckets, **read** (GETs, and whatever is not listed) and **write** (orders, order groups, upgrades
of the tier), each refilled evenly up to its capacity; and one for the balance alone, which holds a second's calls.
A call costs 10 tokens unless listed; a batch costs what its items cost, and fits as a whole or not at all.
A call that does not fit is answered 429 and takes nothing.

Tokens are kept in millionths, so that a microsecond's refill is a whole number and no sum is rounded.
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

__all__ = ["COSTS", "DEFAULT_COST", "TIERS", "TOO_MANY", "Bucket", "Cost", "Limits", "Tier", "account_limits", "batch_size", "cost_of", "endpoint_costs"]  # fmt: skip

DEFAULT_COST: Final = 10
"""Tokens of a call that is not listed."""
TOO_MANY: Final = Answer(429, b'{"error":"too many requests"}')
"""The answer to a call that does not fit, without a header that says when the next one would."""
MICRO: Final = 1_000_000


class Tier(NamedTuple):
    """Tokens a second and the most that are saved up, for reads and writes; and balance reads a second."""

    read_rate: int
    read_capacity: int
    write_rate: int
    write_capacity: int
    balances: int


TIERS: Final = MappingProxyType(
    {
        "basic": Tier(200, 600, 100, 100, 1),
        "advanced": Tier(300, 900, 300, 900, 1),
        "expert": Tier(600, 600, 600, 1_800, 5),
        "premier": Tier(1_200, 1_200, 1_200, 3_600, 5),
        "paragon": Tier(2_400, 2_400, 2_400, 7_200, 5),
        "prime": Tier(4_800, 4_800, 4_800, 14_400, 5),
        "prestige": Tier(12_000, 12_000, 9_600, 28_800, 5),
    }
)
"""The exchange's tiers, October 2026."""


class Cost(NamedTuple):
    """What a call costs: tokens, for each item of a batch, and from which bucket."""

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
"""The calls that cost something else or come out of another bucket than reads at the default cost.

Disabled writes of the old form are listed by nobody: they are reads at the default cost, and answered 410.
"""

_WHOLE: Final = {(c.method, c.path): c for c in COSTS if "{" not in c.path}
_NAMED: Final = [(c.method, re.compile(re.sub(r"{\w+}", "[^/]+", c.path)), c) for c in COSTS if "{" in c.path]
_READ: Final = Cost("", "", DEFAULT_COST, "read")


class Bucket:
    """Tokens that come back evenly with time.

    Args:
        rate: tokens a second.
        capacity: the most there can be; it begins full.
        now: the time in microseconds.

    >>> bucket = Bucket(rate=2, capacity=3, now=0)
    >>> [bucket.take(1, 0) for _ in range(4)]
    [True, True, True, False]
    >>> bucket.take(1, 499_999), bucket.take(1, 500_000)
    (False, True)
    """

    __slots__ = ("_at", "_capacity", "_held", "_rate")

    def __init__(self, rate: int, capacity: int, now: int) -> None:
        self._rate, self._capacity = rate, capacity * MICRO
        self._held, self._at = self._capacity, now

    def take(self, tokens: int, now: int) -> bool:
        """Take tokens if they are all there; a clock that goes back brings none."""
        if now > self._at:
            self._held = min(self._capacity, self._held + (now - self._at) * self._rate)
            self._at = now
        if self._held < tokens * MICRO:
            return False
        self._held -= tokens * MICRO
        return True


class Limits:
    """The buckets of one account.

    Args:
        tier: a name of `TIERS`.
        now: tells the time in microseconds: the machine's where clients are real, the exchange's where calls
            and tape must give the same bytes every time.

    >>> limits = Limits("basic", lambda: 0)
    >>> sum(limits.charge("POST", "/trade-api/v2/portfolio/events/orders") for _ in range(20))
    10
    >>> limits.charge("GET", "/trade-api/v2/markets")
    True

    Raises:
        ConfigError: no such tier.
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
        """Whether a call fits, which then has been paid for.

        Args:
            path: from the root of the server or of the contract, without query.
            items: of a batch; an empty one costs as much as one item.
        """
        cost = cost_of(method, path.removeprefix(REST_PATH))
        return self._buckets[cost.bucket].take(cost.tokens * max(items, 1), self._now())

    def admits(self, request: Request) -> bool:
        """As `charge`, with the items of its body counted."""
        return self.charge(request.method, request.path, batch_size(request))

    def body(self) -> wire.AccountLimitsBody:
        """What the account is told of its limits."""
        return account_limits(self.tier)

    def __repr__(self) -> str:
        return f"Limits({self.tier!r})"


def cost_of(method: str, path: str) -> Cost:
    """What a call costs; `path` is below the root of the contract.

    >>> cost_of("DELETE", "/portfolio/events/orders/an-id")[2:]
    (2, 'write')
    >>> cost_of("GET", "/markets")[2:]
    (10, 'read')
    """
    path = path.rstrip("/")
    found = _WHOLE.get((method, path))
    if found is None:
        found = next((c for m, pattern, c in _NAMED if m == method and pattern.fullmatch(path)), _READ)
    return found


class _Batch(msgspec.Struct):
    orders: list[msgspec.Raw] = []


def batch_size(request: Request) -> int:
    """Items of a batch; 1 for everything else, and for a body that is no batch (it will be refused).

    >>> batch_size(Request("POST", "/trade-api/v2/portfolio/events/orders/batched", {}, {}, b'{"orders":[{},{}]}'))
    2
    """
    if not request.path.rstrip("/").endswith("/events/orders/batched"):
        return 1
    try:
        return max(len(msgspec.json.decode(request.body, type=_Batch).orders), 1)
    except UNREADABLE:
        return 1


def account_limits(tier: str) -> wire.AccountLimitsBody:
    """The body of `GET /account/limits`; a tier above the first is a grant for ever."""
    t = TIERS[tier]
    granted = {"exchange_instance": "event_contract", "level": tier, "source": "manual"}
    return wire.AccountLimitsBody(
        usage_tier=tier,
        read=wire.BucketLimit(refill_rate=t.read_rate, bucket_capacity=t.read_capacity),
        write=wire.BucketLimit(refill_rate=t.write_rate, bucket_capacity=t.write_capacity),
        grants=[] if tier == "basic" else [granted],
    )


def endpoint_costs() -> wire.EndpointCosts:
    """The body of `GET /account/endpoint_costs`: what does not cost the default."""
    listed = [
        wire.EndpointCost(method=c.method, path=c.path, cost=c.tokens)
        for c in COSTS
        if c.tokens != DEFAULT_COST and c.bucket != "balance"
    ]
    return wire.EndpointCosts(default_cost=DEFAULT_COST, endpoint_costs=listed)
