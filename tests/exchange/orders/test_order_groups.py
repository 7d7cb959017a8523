"""Order groups: the rolling window and the latch that only a reset opens, over REST and on the stream."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_bench import Bench

from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.orders.order_groups import WINDOW_US, OrderGroup, OrderGroups
from kalshilab.kalshi.wire.stream import OrderGroupUpdate

PATH = "/portfolio/order_groups"
SECOND = 1_000_000


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.command(id=1, cmd="subscribe", params={"channels": ["order_group_updates", "user_orders"]})
    return made


def updates(bench: Bench) -> list[tuple[str, str | None]]:
    return [(m["event_type"], m.get("contracts_limit_fp")) for m in bench.received("order_group_updates")]


def test_groups_are_created_listed_read_and_deleted(bench: Bench) -> None:
    first = bench.group("150.00")
    status, answer = bench.call("POST", f"{PATH}/create", {"contracts_limit": 7, "contracts_limit_fp": "7"})
    assert status == 201
    assert answer == {"order_group_id": answer["order_group_id"], "subaccount": 0, "exchange_index": 0}
    second = answer["order_group_id"]
    assert bench.call("GET", PATH) == (200, {"order_groups": [
        {"id": first, "contracts_limit_fp": "150.00", "is_auto_cancel_enabled": True, "exchange_index": 0},
        {"id": second, "contracts_limit_fp": "7.00", "is_auto_cancel_enabled": True, "exchange_index": 0},
    ]})  # fmt: skip
    ids = [bench.made(order_group_id=first, price=p) for p in ("0.3900", "0.3800")]
    stranger = bench.made(price="0.3700")
    assert bench.one(ids[0])["order_group_id"] == first
    assert "order_group_id" not in bench.one(stranger)
    status, answer = bench.call("GET", f"{PATH}/{first}")
    assert (status, answer["orders"], answer["contracts_limit_fp"]) == (200, ids, "150.00")
    assert bench.call("DELETE", f"{PATH}/{first}", subaccount="0", exchange_index="0") == (200, {})
    assert [bench.one(i)["status"] for i in [*ids, stranger]] == ["canceled", "canceled", "resting"]
    assert bench.call("GET", f"{PATH}/{first}")[0] == 404
    assert bench.make(order_group_id=first)[1]["error"]["code"] == "order_group_not_found"
    assert updates(bench) == [("created", "150.00"), ("created", "7.00"), ("deleted", None)]
    assert [o.get("order_group_id") for o in bench.received("user_order")][:2] == [first, first]


def test_makers_and_takers_count_and_the_latch_holds_until_a_reset(bench: Bench) -> None:
    group = bench.group("10.00")
    waiting = bench.made(order_group_id=group, price="0.4100")
    far = bench.made(order_group_id=group, price="0.1000")
    bench.made(order_group_id=group, price="0.4400", count="4.00")
    bench.prints(4_100, 500, "no")
    assert bench.one(waiting)["fill_count_fp"] == "5.00"
    assert bench.one(far)["status"] == "resting", "nine are below ten"
    bench.prints(4_100, 100, "no", after_us=14 * SECOND)
    assert [bench.one(i)["status"] for i in (waiting, far)] == ["canceled", "canceled"]
    assert bench.one(waiting)["fill_count_fp"] == "6.00"
    bench.ex.now += 3600 * SECOND
    refused = bench.make(order_group_id=group)
    assert (refused[0], refused[1]["error"]["code"]) == (400, "exceeded_order_group_risk_limit")
    assert bench.call("PUT", f"{PATH}/{group}/reset", {}) == (200, {})
    bench.made(order_group_id=group)
    assert updates(bench) == [("created", "10.00"), ("triggered", None), ("reset", None)]


def test_fills_older_than_fifteen_seconds_do_not_count(bench: Bench) -> None:
    group = bench.group("10.00")
    waiting = bench.made(order_group_id=group, price="0.4100", count="30.00")
    bench.prints(4_100, 900, "no")
    bench.prints(4_100, 900, "no", after_us=15 * SECOND)
    assert bench.one(waiting)["status"] == "resting"
    bench.prints(4_100, 100, "no", after_us=15 * SECOND - 1)
    assert bench.one(waiting)["status"] == "canceled"


def test_a_taker_that_hits_the_limit_does_not_rest(bench: Bench) -> None:
    group = bench.group("4.00")
    status, answer = bench.make(order_group_id=group, price="0.4400", count="9.00")
    assert (status, answer["fill_count"], answer["remaining_count"]) == (201, "4.00", "0.00")
    assert bench.one(answer["order_id"])["status"] == "canceled"


def test_one_print_fills_every_order_it_reaches_before_the_group_triggers(bench: Bench) -> None:
    group = bench.group("5.00")
    ids = [bench.made(order_group_id=group, price="0.4100", count="5.00") for _ in range(3)]
    bench.prints(4_100, 1_200, "no")
    assert [bench.one(i)["fill_count_fp"] for i in ids] == ["5.00", "5.00", "2.00"]
    assert [bench.one(i)["status"] for i in ids] == ["executed", "executed", "canceled"]


def test_a_group_is_triggered_by_request_and_by_a_lower_limit(bench: Bench) -> None:
    group, other = bench.group("50.00"), bench.group("50.00")
    mine, theirs = bench.made(order_group_id=group), bench.made(order_group_id=other)
    for _ in range(2):
        assert bench.call("PUT", f"{PATH}/{group}/trigger", {}) == (200, {})
    assert [bench.one(i)["status"] for i in (mine, theirs)] == ["canceled", "resting"]
    bench.made(order_group_id=other, price="0.4400", count="4.00")
    assert bench.call("PUT", f"{PATH}/{other}/limit", {"contracts_limit": 5}) == (200, {})
    assert bench.one(theirs)["status"] == "resting"
    assert bench.call("PUT", f"{PATH}/{other}/limit", {"contracts_limit_fp": "4.00"}) == (200, {})
    assert bench.one(theirs)["status"] == "canceled"
    assert updates(bench)[2:] == [
        ("triggered", None), ("limit_updated", "5.00"), ("limit_updated", "4.00"), ("triggered", None),
    ]  # fmt: skip


def test_a_missing_body_equals_an_empty_one(bench: Bench) -> None:
    group = bench.group()
    for action in ("trigger", "reset"):
        assert bench.call("PUT", f"{PATH}/{group}/{action}") == (200, {})


def test_the_number_of_groups_is_limited() -> None:
    received: list[OrderGroupUpdate] = []
    groups = OrderGroups(received.append, most=2)
    for name in "ab":
        groups.create(name, 100, 0)
    with pytest.raises(Refused, match="no more than 2"):
        groups.create("c", 100, 0)
    groups.delete(groups.get("a"), 0)
    groups.create("c", 100, 0)
    assert [g.group_id for g in groups.listed()] == ["b", "c"]
    assert repr(groups) == "OrderGroups(2 groups, 0 triggered)"
    assert repr(groups.get("c")) == "OrderGroup(c, 0.00 of 1.00)"


@pytest.mark.parametrize(("boundary", "fills"), [("reached", 1), ("exceeded", 2)])
def test_the_boundary_decides_when_a_group_triggers(boundary: Any, fills: int) -> None:
    groups = OrderGroups(lambda _: None, boundary=boundary)
    group = groups.create("g", 100, 0)
    for n in range(1, 3):
        groups.filled("g", 100 if n == 1 else 1, n)
        groups.due(n)
        assert group.triggered == (n >= fills)


@given(
    st.lists(st.tuples(st.integers(0, 20 * SECOND), st.integers(1, 5_000)), max_size=40),
    st.integers(1, 20_000),
)
def test_a_group_triggers_when_the_fills_of_its_window_reach_the_limit(
    steps: list[tuple[int, int]], limit: int
) -> None:
    groups = OrderGroups(lambda _: None)
    group = groups.create("g", limit, 0)
    fills: list[tuple[int, int]] = []
    now, latched = 0, False
    for after, size in steps:
        now += after
        fills.append((now, size))
        groups.filled("g", size, now)
        groups.due(now)
        latched = latched or sum(s for t, s in fills if now - WINDOW_US < t <= now) >= limit
        assert group.triggered == latched
        assert group.within(now) == sum(s for t, s in fills if now - WINDOW_US < t <= now)
    assert isinstance(group, OrderGroup)
