"""Accepted requests for orders and order groups: the exact status and body of each response.

Refusals are in `test_refused_orders`.  Ids and times are only checked to be present.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from order_bench import Bench

from kalshilab.exchange.rest.params import Request
from kalshilab.exchange.rest.rate_limits import RateLimiter
from kalshilab.exchange.rest.router import RestRouter
from kalshilab.kalshi.auth import Verifier, generate_key
from kalshilab.kalshi.hosts import REST_PATH

Calls = Callable[[Bench], tuple[int, Any]]
ORDERS = "/portfolio/events/orders"
GROUPS = "/portfolio/order_groups"
LATE = 4_000_000_000
MARKET = "<market of the order>"
NAMED = ("order_id", "client_order_id", "ts_ms", "order_group_id", "id")
"""Fields that differ from run to run."""


class Row(NamedTuple):
    """A case: the calls, and the status and body of the last response; `named` are the ids and times it must carry."""

    call: Calls
    status: int
    body: Any
    named: tuple[str, ...] = ("order_id", "client_order_id", "ts_ms")


def create(**changes: Any) -> Calls:
    return lambda b: b.make(**changes)


def after(*first: dict[str, Any], then: dict[str, Any]) -> Calls:
    """Return calls that place accepted orders and then the order under test."""

    def call(b: Bench) -> tuple[int, Any]:
        for changes in first:
            b.made(**changes)
        return b.make(**then)

    return call


def amending(first: dict[str, Any], **changes: Any) -> Calls:
    return lambda b: b.amend(b.made(**first), **changes)


def cancelling(first: dict[str, Any], **query: str) -> Calls:
    def call(b: Bench) -> tuple[int, Any]:
        more = {k: b.ticker if v == MARKET else v for k, v in query.items()}
        return b.cancel(b.made(**first), **more)

    return call


def decreasing(**body: Any) -> Calls:
    return lambda b: b.decrease(b.made(), **body)


def group(method: str, tail: str = "", body: Any = None, *, orders: int = 0, spent: str = "") -> Calls:
    """Return a call on a group of limit 10, with resting orders and some of the limit filled."""

    def call(b: Bench) -> tuple[int, Any]:
        made = b.group()
        for _ in range(orders):
            b.made(order_group_id=made)
        if spent:
            b.made(order_group_id=made, price="0.4500", count=spent)
        return b.call(method, f"{GROUPS}/{made}{tail}", body)

    return call


def in_group(*calls: tuple[str, str, Any], first: dict[str, Any] | None = None, **last: Any) -> Calls:
    """Return calls that place an order in a group after actions on the group."""

    def call(b: Bench) -> tuple[int, Any]:
        made = b.group()
        if first is not None:
            b.made(order_group_id=made, **first)
        for method, tail, body in calls:
            assert b.call(method, f"{GROUPS}/{made}{tail}", body)[0] == 200
        return b.make(order_group_id=made, **last)

    return call


def posted(body: dict[str, Any]) -> Calls:
    return lambda b: b.call("POST", f"{GROUPS}/create", body)


def made(filled: str, left: str, price: str = "", fee: str = "") -> dict[str, str]:
    traded = {"average_fill_price": price, "average_fee_paid": fee} if price else {}
    return {"fill_count": filled, "remaining_count": left} | traded


IOC, FOK = {"time_in_force": "immediate_or_cancel"}, {"time_in_force": "fill_or_kill"}
OURS = {"price": "0.4300", "side": "ask", "count": "3.00"}
"""One of our offers, which is the best ask."""
GROUP = {"is_auto_cancel_enabled": True, "contracts_limit_fp": "10.00", "exchange_index": 0}
ROWS: dict[str, Row] = {
    # Create.
    "order rests": Row(create(), 201, made("0.00", "10.00")),
    "bid takes asks up to its price and pays their prices": Row(
        create(price="0.4500", count="16.00"), 201, made("14.00", "2.00", "0.4471", "0.0173")
    ),
    "ask takes bids down to its price and receives their prices": Row(
        create(side="ask", price="0.3900", count="12.00"), 201, made("12.00", "0.00", "0.3983", "0.0168")
    ),
    "price of two decimals, count without decimals": Row(create(price="0.40", count="10"), 201, made("0.00", "10.00")),
    "a hundredth of a contract": Row(create(count="0.01"), 201, made("0.00", "0.01")),
    "without a client order id": Row(create(client_order_id=None), 201, made("0.00", "10.00")),
    "expires later": Row(create(expiration_time=LATE), 201, made("0.00", "10.00")),
    "the primary subaccount": Row(create(subaccount=0), 201, made("0.00", "10.00")),
    "on shard 0": Row(create(exchange_index=0), 201, made("0.00", "10.00")),
    "routed by ticker": Row(create(exchange_index=-1), 201, made("0.00", "10.00")),
    "legacy fields are ignored": Row(
        create(type="limit", action="sell", yes_price=99, buy_max_cost=1), 201, made("0.00", "10.00")
    ),
    "IOC without a match": Row(create(**IOC), 201, made("0.00", "0.00")),
    "IOC with a partial match": Row(create(price="0.4400", **IOC), 201, made("4.00", "0.00", "0.4400", "0.0173")),
    "FOK with a full match": Row(
        create(price="0.4500", count="5.00", **FOK), 201, made("5.00", "0.00", "0.4420", "0.0173")
    ),
    "post only that does not cross": Row(create(price="0.4300", post_only=True), 201, made("0.00", "10.00")),
    "reduce only is capped at the position": Row(
        after({"price": "0.4400", "count": "4.00"}, then={"side": "ask", "price": "0.3900", "reduce_only": True, **IOC}),
        201, made("4.00", "0.00", "0.4000", "0.0168"),
    ),
    # Self-trade prevention.
    "taker_at_cross stops at our order": Row(
        after(OURS, then={"price": "0.4400"}), 201, made("0.00", "0.00")
    ),
    "taker_at_cross keeps the fills before it": Row(
        after({"price": "0.4500", "side": "ask"}, then={"price": "0.4500", "count": "20.00"}),
        201, made("14.00", "0.00", "0.4471", "0.0173"),
    ),
    "maker prevention cancels our order and goes on": Row(
        after(OURS, then={"price": "0.4400", "self_trade_prevention_type": "maker"}),
        201, made("4.00", "6.00", "0.4400", "0.0173"),
    ),
    "FOK that would self-trade is IOC": Row(
        after(OURS, then={"price": "0.4400", "count": "90.00", **FOK}), 201, made("0.00", "0.00")
    ),
    # Cancel.
    "cancel": Row(cancelling({}), 200, {"reduced_by": "10.00"}),
    "cancel the rest of a partly filled order": Row(cancelling({"price": "0.4400"}), 200, {"reduced_by": "6.00"}),
    "cancel with its market": Row(cancelling({}, market_ticker=MARKET), 200, {"reduced_by": "10.00"}),
    "cancel routed by its market": Row(
        cancelling({}, market_ticker=MARKET, exchange_index="-1"), 200, {"reduced_by": "10.00"}
    ),
    "cancel all": Row(lambda b: (b.made(), b.call("DELETE", ORDERS))[1], 204, None, ()),
    "cancel all without orders": Row(lambda b: b.call("DELETE", ORDERS, subaccount="0"), 204, None, ()),
    # Amend.
    "amend to less": Row(amending({}, count="7.00"), 200, made("0.00", "7.00")),
    "amend to more": Row(amending({}, count="12.00"), 200, made("0.00", "12.00")),
    "amend of the price returns no counts": Row(amending({}, price="0.3900"), 200, {}),
    "amend without a change returns no counts": Row(amending({}), 200, {}),
    "amend of the expiration alone returns no counts": Row(amending({}, expiration_time=LATE), 200, {}),
    "amend that clears the expiration": Row(amending({"expiration_time": LATE}, expiration_time=0), 200, {}),
    "amend that crosses trades": Row(amending({}, price="0.4400"), 200, made("4.00", "6.00", "0.4400", "0.0173")),
    "amend counts the filled size": Row(amending({"price": "0.4400"}, count="5.00"), 200, made("0.00", "1.00")),
    "amend to the filled size cancels": Row(amending({"price": "0.4400"}, count="4.00"), 200, made("0.00", "0.00")),
    "amend renames": Row(amending({}, updated_client_order_id="new"), 200, {}),
    # Decrease.
    "decrease by": Row(decreasing(reduce_by="2.50"), 200, {"remaining_count": "7.50"}),
    "decrease by more than the rest": Row(decreasing(reduce_by="99.00"), 200, {"remaining_count": "0.00"}),
    "decrease to": Row(decreasing(reduce_to="2.50"), 200, {"remaining_count": "2.50"}),
    "decrease to nothing": Row(decreasing(reduce_to="0.00"), 200, {"remaining_count": "0.00"}),
    # Groups.
    "group of whole contracts": Row(
        posted({"contracts_limit": 1}), 201, {"subaccount": 0, "exchange_index": 0}, ("order_group_id",)
    ),
    "group of a fraction of a contract": Row(
        posted({"contracts_limit_fp": "0.01"}), 201, {"subaccount": 0, "exchange_index": 0}, ("order_group_id",)
    ),
    "group with both limits equal": Row(
        posted({"contracts_limit": 1_000_000, "contracts_limit_fp": "1000000.00", "subaccount": 0, "exchange_index": 0}),
        201, {"subaccount": 0, "exchange_index": 0}, ("order_group_id",),
    ),
    "group read": Row(group("GET"), 200, GROUP | {"orders": []}, ()),
    "groups listed": Row(
        lambda b: (b.group(), b.call("GET", GROUPS))[1], 200, {"order_groups": [GROUP]}, ("order_groups",)
    ),
    **{
        f"group {word}": Row(group(method, tail, body, orders=2), 200, {}, ())
        for word, method, tail, body in (
            ("deleted", "DELETE", "", None), ("reset", "PUT", "/reset", {}), ("reset without a body", "PUT", "/reset", None),
            ("triggered", "PUT", "/trigger", {}), ("triggered without a body", "PUT", "/trigger", None),
            ("limited", "PUT", "/limit", {"contracts_limit": 3}), ("limited to a fraction", "PUT", "/limit", {"contracts_limit_fp": "2.5"}),
        )
    },
    "order in a group": Row(in_group(), 201, made("0.00", "10.00")),
    "order in a group that has filled less than its limit": Row(
        in_group(first={"price": "0.4400", "count": "4.00"}), 201, made("0.00", "10.00")
    ),
    "a taker that hits its group's limit fills and does not rest": Row(
        in_group(price="0.4500", count="30.00"), 201, made("14.00", "0.00", "0.4471", "0.0173")
    ),
    "order in a group that was triggered and reset": Row(
        in_group(("PUT", "/trigger", {}), ("PUT", "/reset", {})), 201, made("0.00", "10.00")
    ),
    "order in a group that was raised in time": Row(
        in_group(("PUT", "/limit", {"contracts_limit": 100}), price="0.4500", count="30.00"),
        201, made("14.00", "16.00", "0.4471", "0.0173"),
    ),
}  # fmt: skip


def stripped(value: Any, named: tuple[str, ...]) -> Any:
    """Return a body without the fields that differ from run to run, which must be present."""
    if not isinstance(value, dict):
        return value
    assert all(value[name] for name in named)
    kept = {k: v for k, v in value.items() if k not in NAMED}
    if "order_groups" in kept:
        kept["order_groups"] = [stripped(g, ("id",)) for g in kept["order_groups"]]
    return kept


@pytest.mark.parametrize("name", ROWS)
def test_each_accepted_request_has_its_status_and_body(name: str) -> None:
    row = ROWS[name]
    bench = Bench()
    status, answer = row.call(bench)
    assert (status, stripped(answer, row.named)) == (row.status, row.body)
    assert bench.ex.account.drift() == 0


@pytest.mark.parametrize(
    ("tail", "body", "left"),
    [("", None, 0), ("/trigger", None, 0), ("/reset", None, 2), ("/limit", {"contracts_limit": 9}, 2)],
)
def test_a_call_on_a_group_leaves_the_expected_orders(tail: str, body: Any, left: int) -> None:
    bench = Bench()
    assert group("PUT" if tail else "DELETE", tail, body, orders=2)(bench)[0] == 200
    assert len(bench.ex.desk.resting()) == left


def test_a_limit_below_the_filled_size_triggers_at_once() -> None:
    bench = Bench()
    assert group("PUT", "/limit", {"contracts_limit": 5}, orders=2, spent="5.00")(bench) == (200, {})
    assert not bench.ex.desk.resting()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", ORDERS, b"{}"), ("DELETE", f"{ORDERS}/x", b""), ("DELETE", ORDERS, b""), ("POST", f"{GROUPS}/create", b"{}"),
        ("POST", f"{ORDERS}/batched", b'{"orders":[' + b",".join([b"{}"] * 11) + b"]}"),
        ("DELETE", f"{ORDERS}/batched", b'{"orders":[' + b",".join([b"{}"] * 51) + b"]}"),
    ],
)  # fmt: skip
def test_a_write_above_the_rate_limit_is_refused(method: str, path: str, body: bytes) -> None:
    """Check the last row of the table of errors: exactly these bytes, and no effect."""
    bench = Bench()
    side = RestRouter(
        bench.ex,
        {"key": Verifier(generate_key("ed25519")[1])},
        lambda: 0,
        limits=RateLimiter("basic", lambda: 0),
    )
    side.check_signature = lambda request: None  # type: ignore[method-assign]
    request = Request(method, REST_PATH + path, {}, {}, body)
    answers = [side.answer(request) for _ in range(60)]
    assert answers[-1] == (429, b'{"error":"too many requests"}')
    if path.endswith("batched"):
        assert {a.status for a in answers} == {429}, "a batch above the bucket size is always refused"
