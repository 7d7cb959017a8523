"""Token buckets: rates and bursts of every tier, the cost of each call, batches, and the answers."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_day import NOW, Day

from kalshilab.errors import ConfigError
from kalshilab.exchange.rest.params import Request, encode
from kalshilab.exchange.rest.rate_limits import (
    COSTS,
    TIERS,
    TOO_MANY,
    Bucket,
    RateLimiter,
    account_limits,
    batch_size,
    cost_of,
    endpoint_costs,
)
from kalshilab.exchange.rest.router import RestRouter
from kalshilab.kalshi.auth import Signer, Verifier, generate_key
from kalshilab.kalshi.rest import rate_limits as client
from kalshilab.kalshi.wire.base import REST_PATH

SECOND = 1_000_000


class Machine:
    """A machine clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_795_329_000 * SECOND

    def __call__(self) -> int:
        return self.now


def spent(limits: RateLimiter, method: str, path: str, items: int = 1) -> int:
    """Return the number of calls that fit at this moment."""
    count = 0
    while limits.charge(method, REST_PATH + path, items):
        count += 1
    return count


CREATE = ("POST", "/portfolio/events/orders")
READ = ("GET", "/markets")


@pytest.mark.parametrize("tier", TIERS)
def test_a_tier_bursts_and_refills(tier: str) -> None:
    machine, t = Machine(), TIERS[tier]
    limits = RateLimiter(tier, machine)
    assert spent(limits, *READ) == t.read_capacity // 10
    assert spent(limits, *CREATE) == t.write_capacity // 10, "reads and writes are independent"
    assert spent(limits, "GET", "/portfolio/balance") == t.balances
    for seconds in (1, 3, 100):
        machine.now += seconds * SECOND
        assert spent(limits, *READ) == min(t.read_rate * seconds, t.read_capacity) // 10
        assert spent(limits, *CREATE) == min(t.write_rate * seconds, t.write_capacity) // 10
        assert spent(limits, "GET", "/portfolio/balance") == t.balances
    machine.now -= 50 * SECOND
    assert not limits.charge(*READ), "a clock that runs backwards refills nothing"
    assert repr(limits) == f"RateLimiter({tier!r})"


def test_refill_is_continuous() -> None:
    machine = Machine()
    limits = RateLimiter("basic", machine)
    spent(limits, *CREATE)
    machine.now += 99_999
    assert not limits.charge(*CREATE)
    machine.now += 1
    assert limits.charge(*CREATE) and not limits.charge(*CREATE)


@given(
    st.integers(1, 10_000),
    st.integers(1, 30_000),
    st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 300)), max_size=50),
)
def test_tokens_are_conserved(rate: int, capacity: int, calls: list[tuple[int, int]]) -> None:
    bucket, now, tokens_left = Bucket(rate, capacity, 0), 0, capacity * SECOND
    for after, tokens in calls:
        now += after
        tokens_left = min(tokens_left + after * rate, capacity * SECOND)
        fits = tokens * SECOND <= tokens_left
        assert bucket.take(tokens, now) is fits
        tokens_left -= tokens * SECOND * fits


ID = "3b23c1c7-f4ef-4f0d-8b9a-9e53c61f1a0d"
TABLE = [
    ("POST", "/portfolio/events/orders", 10, "write"),
    ("DELETE", "/portfolio/events/orders", 2, "write"),
    ("DELETE", f"/portfolio/events/orders/{ID}", 2, "write"),
    ("POST", f"/portfolio/events/orders/{ID}/amend", 10, "write"),
    ("POST", f"/portfolio/events/orders/{ID}/decrease", 10, "write"),
    ("POST", "/portfolio/events/orders/batched", 10, "write"),
    ("DELETE", "/portfolio/events/orders/batched", 2, "write"),
    ("GET", f"/portfolio/orders/{ID}", 2, "read"),
    ("GET", "/portfolio/orders", 10, "read"),
    ("GET", f"/portfolio/orders/{ID}/queue_position", 10, "read"),
    ("GET", "/portfolio/order_groups", 10, "read"),
    ("POST", "/portfolio/order_groups/create", 10, "write"),
    ("DELETE", f"/portfolio/order_groups/{ID}", 10, "write"),
    ("PUT", f"/portfolio/order_groups/{ID}/reset", 10, "write"),
    ("PUT", f"/portfolio/order_groups/{ID}/trigger", 10, "write"),
    ("PUT", f"/portfolio/order_groups/{ID}/limit", 10, "write"),
    ("POST", "/account/api_usage_level/upgrade", 30, "write"),
    ("GET", "/portfolio/balance", 1, "balance"),
    ("GET", "/markets/trades", 10, "read"),
    ("POST", "/portfolio/orders", 10, "read"),
    ("GET", "/nothing/of/the/kind", 10, "read"),
]


@pytest.mark.parametrize(("method", "path", "tokens", "bucket"), TABLE)
def test_a_call_has_its_listed_cost_and_bucket(method: str, path: str, tokens: int, bucket: str) -> None:
    for ending in ("", "/"):
        cost = cost_of(method, path + ending)
        assert (cost.tokens, cost.bucket) == (tokens, bucket)


def test_a_batch_is_charged_as_a_whole() -> None:
    limits = RateLimiter("basic", Machine())
    create, cancel = (
        ("POST", "/portfolio/events/orders/batched"),
        ("DELETE", "/portfolio/events/orders/batched"),
    )
    assert not limits.charge(*create, items=11), "110 of 100 tokens"
    assert limits.charge(*create, items=9), "a refused batch is not charged"
    assert not limits.charge(*cancel, items=6)
    assert limits.charge(*cancel, items=4) and limits.charge(*cancel, items=0)
    assert not limits.charge(*cancel, items=1)


@pytest.mark.parametrize(
    ("path", "body", "size"),
    [
        ("/portfolio/events/orders/batched", b'{"orders":[{},{},{"a":[1,2]}]}', 3),
        ("/portfolio/events/orders/batched/", b'{"orders":[1]}', 1),
        ("/portfolio/events/orders/batched", b'{"orders":[]}', 1),
        ("/portfolio/events/orders/batched", b"{}", 1),
        ("/portfolio/events/orders/batched", b'{"orders":5}', 1),
        ("/portfolio/events/orders/batched", b'{"orders":[', 1),
        ("/portfolio/events/orders/batched", b"\xff", 1),
        ("/portfolio/events/orders", b'{"orders":[1,2]}', 1),
    ],
)
def test_the_items_of_a_batch_are_counted(path: str, body: bytes, size: int) -> None:
    request = Request("POST", REST_PATH + path, {}, {}, body)
    assert batch_size(request) == size
    limits = RateLimiter("basic", Machine())
    assert limits.admits(request) and spent(limits, *CREATE) == 10 - size


def test_a_call_above_the_limit_is_answered_429_with_the_exchanges_body() -> None:
    assert TOO_MANY.status == 429 and TOO_MANY.body == b'{"error":"too many requests"}'


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(ConfigError, match="tier"):
        RateLimiter("gold", Machine())


def test_limits_and_costs_are_reported_by_the_contract(contract: Any) -> None:
    for tier, t in TIERS.items():
        body = json.loads(encode(account_limits(tier)))
        contract.body("GET", "/account/limits", 200, body)
        assert body["usage_tier"] == tier and bool(body["grants"]) == (tier != "basic")
        assert body["read"] == {"refill_rate": t.read_rate, "bucket_capacity": t.read_capacity}
        assert body["write"] == {"refill_rate": t.write_rate, "bucket_capacity": t.write_capacity}
    assert RateLimiter("prime", Machine()).body() == account_limits("prime")
    costs = json.loads(encode(endpoint_costs()))
    contract.body("GET", "/account/endpoint_costs", 200, costs)
    assert costs["default_cost"] == 10
    assert {(c["method"], c["path"], c["cost"]) for c in costs["endpoint_costs"]} == {
        (c.method, c.path, c.tokens) for c in COSTS if c.tokens not in (10, 1)
    }
    paths = contract.openapi["paths"]
    assert all(c.method.lower() in paths[c.path] for c in COSTS), "every path is in the contract"


def test_client_and_exchange_have_the_same_tiers() -> None:
    assert TIERS.keys() == client.TIERS.keys()
    for tier, t in client.TIERS.items():
        assert TIERS[tier][:4] == (t.read_rate, t.read_capacity, t.write_rate, t.write_capacity)


def test_the_router_charges_requests_after_checking_their_signature() -> None:
    day, machine = Day(), Machine()
    day.play(100)
    _, public = generate_key("ed25519")
    day.side = RestRouter(
        day.ex, {"key": Verifier(public)}, lambda: NOW, limits=RateLimiter("basic", machine)
    )
    answers = [day.side.answer(Request("GET", REST_PATH + "/exchange/status", {}, {})) for _ in range(61)]
    assert [a.status for a in answers] == [200] * 60 + [429] and answers[-1] == TOO_MANY
    unsigned = day.side.answer(Request("GET", REST_PATH + "/portfolio/balance", {}, {}))
    assert unsigned.status == 401, "an unsigned request is not charged"
    machine.now += SECOND // 20
    assert day.side.answer(Request("GET", REST_PATH + "/exchange/status", {}, {})).status == 200


def test_an_account_sees_its_tier_and_its_batches_are_charged_by_item() -> None:
    day, machine = Day(), Machine()
    pem, public = generate_key("ed25519")
    day.signer = Signer.from_pem("key", pem.decode())
    day.side = RestRouter(
        day.ex, {"key": Verifier(public)}, lambda: NOW, limits=RateLimiter("basic", machine)
    )
    assert day.call("GET", "/account/limits")[1]["usage_tier"] == "basic"
    path = "/portfolio/events/orders/batched"
    assert day.call("POST", path, {"orders": [{}] * 11}) == (429, {"error": "too many requests"})
    assert day.call("DELETE", path, {"orders": [{"order_id": "x"}] * 50})[0] == 200
    assert day.call("DELETE", path, {"orders": [{"order_id": "x"}]})[0] == 429
    assert [day.call("GET", "/portfolio/balance")[0] for _ in range(2)] == [200, 429]
    machine.now += SECOND
    assert day.call("GET", "/portfolio/balance")[0] == 200
