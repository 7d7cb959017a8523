"""The contract's table of errors, row by row, and the rules that refuse an order: exact status and body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from order_bench import Bench

from kalshilab.units import dollars

Calls = Callable[[Bench], tuple[int, Any]]


class Row(NamedTuple):
    """A case: the calls, the status, and code and details of the nested error (details None: any)."""

    call: Calls
    status: int
    code: str
    details: str | None = ""


def create(**changes: Any) -> Calls:
    return lambda b: b.make(**changes)


def twice(**changes: Any) -> Calls:
    """Return calls that use the same client order id twice."""

    def call(b: Bench) -> tuple[int, Any]:
        b.made(client_order_id="a")
        return b.make(client_order_id="a", **changes)

    return call


def id_of_an_ended_order(b: Bench) -> tuple[int, Any]:
    b.cancel(b.made(client_order_id="a"))
    return b.make(client_order_id="a")


def amending(first: dict[str, Any], **changes: Any) -> Calls:
    return lambda b: b.amend(b.made(**first), **changes)


def decreasing(**body: Any) -> Calls:
    return lambda b: b.decrease(b.made(), **body)


def renamed_onto_another(b: Bench) -> tuple[int, Any]:
    b.made(client_order_id="taken")
    return b.amend(b.made(), updated_client_order_id="taken")


def old_name_again(b: Bench) -> tuple[int, Any]:
    assert b.amend(b.made(client_order_id="old"), updated_client_order_id="new")[0] == 200
    return b.make(client_order_id="old")


def below_filled(b: Bench) -> tuple[int, Any]:
    return b.amend(b.made(price="0.4400"), count="3.99")


def paused(what: str, then: Calls) -> Calls:
    def call(b: Bench) -> tuple[int, Any]:
        setattr(b.ex, what, False)
        return then(b)

    return call


def while_resting(what: str, then: Callable[[Bench, str], tuple[int, Any]]) -> Calls:
    def call(b: Bench) -> tuple[int, Any]:
        order_id = b.made()
        setattr(b.ex, what, False)
        return then(b, order_id)

    return call


def market(status: str, then: Calls) -> Calls:
    def call(b: Bench) -> tuple[int, Any]:
        b.listing.status = status
        return then(b)

    return call


def amend_when(status: str) -> Calls:
    def call(b: Bench) -> tuple[int, Any]:
        order_id = b.made()
        b.listing.status = status
        return b.amend(order_id, count="5.00")

    return call


def cancelled_twice(b: Bench) -> tuple[int, Any]:
    order_id = b.made()
    assert b.cancel(order_id)[0] == 200
    return b.cancel(order_id)


def cancel_executed(b: Bench) -> tuple[int, Any]:
    return b.cancel(b.made(price="0.4400", count="4.00"))


def triggered(b: Bench) -> tuple[int, Any]:
    group = b.group()
    assert b.call("PUT", f"/portfolio/order_groups/{group}/trigger", {}) == (200, {})
    return b.make(order_group_id=group)


def on_group(method: str, tail: str = "", body: dict[str, Any] | None = None) -> Calls:
    return lambda b: b.call(method, f"/portfolio/order_groups/{b.group()}{tail}", body)


def call(method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Calls:
    return lambda b: b.call(method, path, body, **query)


ORDERS = "/portfolio/events/orders"
LATE = 4_000_000_000
ROWS: dict[str, Row] = {
    # The table of errors.
    "insufficient balance": Row(create(count="1000000.00"), 400, "insufficient_balance"),
    "insufficient beside resting orders": Row(
        lambda b: (b.made(count="20000.00"), b.make(count="20000.00"))[1], 400, "insufficient_balance"
    ),
    "amend beyond the balance": Row(amending({}, count="1000000.00"), 400, "insufficient_balance"),
    "price off the grid": Row(create(price="0.4050"), 400, "invalid_price", None),
    "price zero": Row(create(price="0.0000"), 400, "invalid_price", None),
    "price one": Row(create(price="1.0000"), 400, "invalid_price", None),
    "price above one": Row(create(price="1.0100"), 400, "invalid_price", None),
    "price below zero": Row(create(price="-0.4000"), 400, "invalid_price", None),
    "price not a number": Row(create(price="forty"), 400, "invalid_price", None),
    "price too fine": Row(create(price="0.40001"), 400, "invalid_price", None),
    "price too long": Row(create(price="0.4" + "0" * 50), 400, "invalid_price", None),
    "amend off the grid": Row(amending({}, price="0.4050"), 400, "invalid_price", None),
    "size zero": Row(create(count="0.00"), 400, "invalid_order_size", "count 0.00"),
    "size below zero": Row(create(count="-1.00"), 400, "invalid_order_size", "count -1.00"),
    "size too fine": Row(create(count="0.001"), 400, "invalid_order_size", "count 0.001"),
    "size not a number": Row(create(count="ten"), 400, "invalid_order_size", "count ten"),
    "size of ten thousand digits": Row(create(count="9" * 10_000), 400, "invalid_order_size", None),
    "size above the maximum": Row(create(count="9" * 20), 400, "invalid_order_size", None),
    "amend below the filled size": Row(below_filled, 400, "invalid_order_size", None),
    **{
        f"no {field}": Row(create(**{field: None}), 400, "invalid_order", f"{field} is required")
        for field in ("ticker", "side", "count", "price", "time_in_force", "self_trade_prevention_type")
    },
    "side in the legacy form": Row(create(side="yes"), 400, "invalid_order", "side yes"),
    "unknown time in force": Row(create(time_in_force="GTT"), 400, "invalid_order", "time_in_force GTT"),
    "unknown prevention": Row(create(self_trade_prevention_type="none"), 400, "invalid_order", None),
    "client id too long": Row(create(client_order_id="x" * 65), 400, "invalid_order", None),
    "expiration with IOC": Row(
        create(expiration_time=LATE, time_in_force="immediate_or_cancel"), 400, "invalid_order", None
    ),
    "expiration with FOK": Row(
        create(expiration_time=LATE, time_in_force="fill_or_kill"), 400, "invalid_order", None
    ),
    "expiration in the past": Row(
        create(expiration_time=1), 400, "invalid_order", "expiration_time is in the past"
    ),
    "expiration beyond calendars": Row(create(expiration_time=10**15), 400, "invalid_order", None),
    "amend to an expiration in the past": Row(amending({}, expiration_time=1), 400, "invalid_order", None),
    "post only that would trade": Row(
        create(post_only=True, price="0.4400"), 400, "invalid_order", "post only cross"
    ),
    "post only amended across": Row(
        amending({"post_only": True}, price="0.4400"), 400, "invalid_order", "post only cross"
    ),
    "post only IOC": Row(
        create(post_only=True, time_in_force="immediate_or_cancel"), 400, "invalid_order", None
    ),
    "post only FOK": Row(create(post_only=True, time_in_force="fill_or_kill"), 400, "invalid_order", None),
    "reduce only that rests": Row(create(reduce_only=True), 400, "invalid_order", None),
    "reduce only FOK": Row(
        create(reduce_only=True, time_in_force="fill_or_kill"), 400, "invalid_order", None
    ),
    "reduce only without a position": Row(
        create(reduce_only=True, time_in_force="immediate_or_cancel"), 400, "invalid_order", None
    ),
    "routing asked for without a ticker": Row(
        lambda b: b.cancel(b.made(), exchange_index="-1"), 400, "invalid_order", None
    ),
    "decrease without an amount": Row(decreasing(), 400, "invalid_order", None),
    "decrease both ways": Row(
        decreasing(reduce_by="1.00", reduce_to="1.00"), 400, "invalid_order",
        "exactly one of reduce_by and reduce_to is required",
    ),
    "decrease by zero": Row(decreasing(reduce_by="0.00"), 400, "invalid_order_size", "reduce_by 0.00"),
    "decrease to more": Row(decreasing(reduce_to="10.01"), 400, "invalid_order_size", None),
    "amend of another client id": Row(
        amending({}, client_order_id="not-mine"), 400, "order_id_and_client_order_id_mismatch"
    ),
    "amend of another side": Row(amending({}, side="ask"), 400, "order_side_mismatch", None),
    "amend of another market": Row(amending({}, ticker="ELSEWHERE"), 400, "order_ticker_mismatch", None),
    "amend without a count": Row(amending({}, count=None), 400, "invalid_order", "count is required"),
    "cancel in another market": Row(
        lambda b: b.cancel(b.made(), market_ticker="ELSEWHERE"), 400, "order_ticker_mismatch", None
    ),
    "client id again": Row(twice(), 409, "order_already_exists", "client_order_id a"),
    "client id again, otherwise": Row(twice(side="ask", price="0.9000"), 409, "order_already_exists", None),
    "client id of an ended order": Row(id_of_an_ended_order, 409, "order_already_exists", None),
    "client id released by an amend": Row(old_name_again, 409, "order_already_exists", None),
    "amended to a taken client id": Row(renamed_onto_another, 409, "order_already_exists", None),
    "FOK above the resting volume": Row(
        create(time_in_force="fill_or_kill", price="0.4400", count="4.01"),
        409, "fill_or_kill_insufficient_resting_volume",
    ),
    "FOK without a match": Row(
        create(time_in_force="fill_or_kill"), 409, "fill_or_kill_insufficient_resting_volume"
    ),
    "create while trading is paused": Row(paused("trading_active", create()), 409, "trading_is_paused"),
    "amend while trading is paused": Row(
        while_resting("trading_active", lambda b, i: b.amend(i, count="1.00")), 409, "trading_is_paused"
    ),
    "decrease while trading is paused": Row(
        while_resting("trading_active", lambda b, i: b.decrease(i, reduce_to="1.00")), 409, "trading_is_paused"
    ),
    "create while the exchange is paused": Row(
        paused("exchange_active", create()), 409, "exchange_is_paused"
    ),
    "cancel while the exchange is paused": Row(
        while_resting("exchange_active", lambda b, i: b.cancel(i)), 409, "exchange_is_paused"
    ),
    "cancel all while the exchange is paused": Row(
        paused("exchange_active", call("DELETE", ORDERS)), 409, "exchange_is_paused"
    ),
    **{
        f"create when {status}": Row(
            market(status, create()), 400, "market_inactive", f"market is {status}"
        )
        for status in ("initialized", "inactive", "closed", "determined", "disputed", "amended", "finalized")
    },
    "amend when inactive": Row(amend_when("inactive"), 400, "market_inactive", "market is inactive"),
    "no such market": Row(create(ticker="NOPE"), 404, "not_found", "market not found"),
    "no such shard": Row(create(exchange_index=2), 404, "not_found", None),
    "cancel of an unknown order": Row(lambda b: b.cancel("no-such-order"), 404, "not_found", "order not found"),
    "cancel of a cancelled order": Row(cancelled_twice, 404, "not_found", "order not found"),
    "cancel of an executed order": Row(cancel_executed, 404, "not_found", "order not found"),
    "amend of an unknown order": Row(
        call("POST", f"{ORDERS}/x/amend", {"ticker": "A", "side": "bid", "price": "0.5", "count": "1"}),
        404, "not_found", "order not found",
    ),
    "decrease of an unknown order": Row(call("POST", f"{ORDERS}/x/decrease", {"reduce_by": "1"}), 404, "not_found", None),
    "read of an unknown order": Row(call("GET", "/portfolio/orders/x"), 404, "not_found", None),
    "queue position of an unknown order": Row(
        call("GET", "/portfolio/orders/x/queue_position"), 404, "not_found", None
    ),
    **{
        f"legacy {method} {path}": Row(
            call(method, f"/portfolio/orders{path}", {}), 410, "deprecated_v1_order_endpoint", None
        )
        for method, path in (
            ("POST", ""), ("DELETE", "/x"), ("POST", "/batched"), ("DELETE", "/batched"), ("POST", "/x/amend"),
            ("POST", "/x/decrease"),
        )
    },
    "create for another subaccount": Row(create(subaccount=1), 403, "forbidden", None),
    "cancel for another subaccount": Row(lambda b: b.cancel(b.made(), subaccount="5"), 403, "forbidden", None),
    "balance of another subaccount": Row(
        call("GET", "/portfolio/balance", subaccount="63"), 403, "forbidden", None
    ),
    "an invalid subaccount": Row(create(subaccount=64), 400, "invalid_order", None),
    # Batches.
    "empty batch": Row(call("POST", f"{ORDERS}/batched", {"orders": []}), 400, "invalid_order", None),
    "batch without orders": Row(
        call("DELETE", f"{ORDERS}/batched", {}), 400, "invalid_order", "orders is required"
    ),
    # Order groups.
    "order of an unknown group": Row(create(order_group_id="x"), 400, "order_group_not_found", None),
    "order of a triggered group": Row(triggered, 400, "exceeded_order_group_risk_limit", None),
    **{
        f"{method} unknown group{tail}": Row(
            call(method, f"/portfolio/order_groups/x{tail}", {"contracts_limit": 1}),
            404, "not_found", "order group not found",
        )
        for method, tail in (("GET", ""), ("DELETE", ""), ("PUT", "/reset"), ("PUT", "/trigger"), ("PUT", "/limit"))
    },
    **{
        f"group limit {limit}": Row(call("POST", "/portfolio/order_groups/create", limit), 400, "invalid_order", None)
        for limit in (
            {}, {"contracts_limit": 0}, {"contracts_limit": 1_000_001}, {"contracts_limit_fp": "0.00"},
            {"contracts_limit_fp": "-1.00"}, {"contracts_limit_fp": "1e3"}, {"contracts_limit_fp": "1.001"},
            {"contracts_limit_fp": "1000000.01"}, {"contracts_limit": 5, "contracts_limit_fp": "6.00"},
        )
    },
    "group limit changed to nothing": Row(on_group("PUT", "/limit", {}), 400, "invalid_order", None),
    "group on another shard": Row(
        call("POST", "/portfolio/order_groups/create", {"contracts_limit": 1, "exchange_index": 2}),
        404, "not_found", None,
    ),
    "group of another subaccount": Row(call("GET", "/portfolio/order_groups", subaccount="2"), 403, "forbidden", None),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_each_refused_request_has_its_status_code_and_details(name: str) -> None:
    row = ROWS[name]
    bench = Bench(balance_money_units=dollars(10_000))
    status, answer = row.call(bench)
    assert status == row.status, answer
    assert set(answer) == {"error"}, "the nested form"
    error = answer["error"]
    assert error["code"] == row.code
    assert error["message"]
    if row.details is None:
        assert error.get("details"), "details are missing"
    else:
        assert error.get("details", "") == row.details
    assert bench.ex.account.drift() == 0


def test_a_refused_order_leaves_no_trace() -> None:
    bench = Bench()
    cash, frames = bench.ex.account.cash, bench.ex.hub.frames
    bench.command(
        id=1, cmd="subscribe", params={"channels": ["user_orders", "fill", "trade", "order_group_updates"]}
    )
    frames = bench.ex.hub.frames
    for changes in (
        {"price": "0.4050"}, {"count": "0"}, {"post_only": True, "price": "0.4400"}, {"count": "1000000"},
        {"time_in_force": "fill_or_kill", "count": "500"}, {"order_group_id": "x"},
    ):  # fmt: skip
        assert bench.make(client_order_id="again", **changes)[0] >= 400
    assert (bench.ex.account.cash, bench.ex.hub.frames) == (cash, frames)
    assert bench.call("GET", "/portfolio/orders")[1] == {"orders": [], "cursor": ""}
    assert bench.make(client_order_id="again")[0] == 201, "its id is still free"


@pytest.mark.parametrize(
    "body",
    [
        {"count": 10}, {"price": 0.44}, {"post_only": "true"}, {"ticker": 5}, {"expiration_time": "soon"},
        {"side": None, "count": 1}, {"subaccount": 0.5},
    ],
)  # fmt: skip
def test_a_wrong_type_gives_the_flat_error(body: dict[str, Any]) -> None:
    bench = Bench()
    status, answer = bench.make(**body)
    assert status == 400
    assert set(answer) == {"code", "message", "details"}
    assert answer["code"] == "bad_request"


DEEP = b'{"orders":[{"a":' + b'{"a":' * 100_000


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b'{"orders":{}}', b"[" * 100_000, DEEP]
)
def test_invalid_json_is_refused(body: bytes) -> None:
    bench = Bench()
    for method, path in (
        ("POST", ORDERS), ("POST", f"{ORDERS}/batched"), ("DELETE", f"{ORDERS}/batched"),
        ("POST", f"{ORDERS}/x/amend"), ("POST", f"{ORDERS}/x/decrease"), ("POST", "/portfolio/order_groups/create"),
    ):  # fmt: skip
        status, answer = bench.send(method, path, (), body)
        assert status in (400, 404), (path, answer)
        assert answer.get("code", answer.get("error", {}).get("code")) in (
            "bad_request", "invalid_order", "not_found",
        )  # fmt: skip


@pytest.mark.parametrize("path", ["orders", "fills", "settlements", "positions"])
@pytest.mark.parametrize(
    "query",
    [{"limit": "1001"}, {"limit": "-1"}, {"limit": "ten"}, {"subaccount": "x"}, {"exchange_index": "-1"}],
)
def test_a_bad_query_gives_the_msg_error(path: str, query: dict[str, str]) -> None:
    bench = Bench()
    status, answer = bench.call("GET", f"/portfolio/{path}", **query)
    assert status == 400
    assert set(answer) == {"msg"} and answer["msg"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("orders", {"status": "pending"}), ("orders", {"event_ticker": ",".join(f"E{n}" for n in range(101))}),
        ("fills", {"ticker": ",".join(f"T{n}" for n in range(101))}), ("fills", {"min_ts": "yesterday"}),
        ("positions", {"settlement_status": "open"}), ("positions", {"count_filter": "size"}),
    ],
)  # fmt: skip
def test_invalid_filters_are_refused(path: str, query: dict[str, str]) -> None:
    bench = Bench()
    status, answer = bench.call("GET", f"/portfolio/{path}", **query)
    assert (status, set(answer)) == (400, {"msg"})


def test_cancels_are_accepted_while_trading_is_paused() -> None:
    bench = Bench()
    order_id, other = bench.made(), bench.made()
    bench.ex.trading_active = False
    assert bench.cancel(order_id)[0] == 200
    assert bench.call("DELETE", ORDERS) == (204, None)
    assert bench.one(other)["status"] == "canceled"


def test_a_batch_response_lists_one_item_per_order_in_order() -> None:
    bench = Bench()
    good = {
        "ticker": bench.ticker, "side": "bid", "count": "4.00", "price": "0.4400",
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip
    orders = [
        good | {"client_order_id": "a"}, good | {"price": "0.4450", "client_order_id": "b"}, {"ticker": bench.ticker},
        good | {"client_order_id": "a"}, good | {"price": "0.3000", "client_order_id": "d"},
    ]  # fmt: skip
    status, answer = bench.call("POST", f"{ORDERS}/batched", {"orders": orders})
    assert status == 201
    first, *failed, last = answer["orders"]
    assert (first["client_order_id"], first["fill_count"], first["average_fill_price"]) == (
        "a",
        "4.00",
        "0.4400",
    )
    assert [f["error"]["code"] for f in failed] == ["invalid_price", "invalid_order", "order_already_exists"]
    assert failed[0]["client_order_id"] == "b"
    assert not any("order_id" in f for f in failed)
    assert (last["remaining_count"], "error" in last) == ("4.00", False)
    items = [{"order_id": x} for x in (first["order_id"], last["order_id"], "x")]
    status, answer = bench.call("DELETE", f"{ORDERS}/batched", {"orders": items})
    assert status == 200
    assert [(r["reduced_by"], r.get("error", {}).get("code")) for r in answer["orders"]] == [
        ("0.00", "not_found"), ("4.00", None), ("0.00", "not_found"),
    ]  # fmt: skip
    assert [r["order_id"] for r in answer["orders"]] == [i["order_id"] for i in items]


def test_one_wrong_type_refuses_the_whole_batch() -> None:
    bench = Bench()
    orders = [{"ticker": bench.ticker, "side": "bid", "count": "1.00", "price": "0.1000",
               "time_in_force": "good_till_canceled", "self_trade_prevention_type": "maker"}, {"count": 5}]  # fmt: skip
    status, answer = bench.call("POST", f"{ORDERS}/batched", {"orders": orders})
    assert (status, answer["code"]) == (400, "bad_request")
    assert not bench.ex.desk.orders


def test_null_fields_equal_missing_ones() -> None:
    bench = Bench()
    body = {
        "ticker": bench.ticker, "side": "bid", "count": "1", "price": "0.4", "time_in_force": "good_till_canceled",
        "self_trade_prevention_type": "maker", "post_only": None, "reduce_only": None, "client_order_id": None,
        "cancel_order_on_pause": None, "order_group_id": None, "subaccount": None, "exchange_index": None,
        "expiration_time": None, "a_field_of_tomorrow": {"x": 1},
    }  # fmt: skip
    status, answer = bench.send("POST", ORDERS, (), json.dumps(body).encode())
    assert (status, answer["remaining_count"]) == (201, "1.00")
