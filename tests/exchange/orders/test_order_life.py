"""The life of an accepted order: matching, queueing, changes and cost."""

from __future__ import annotations

import pytest
from order_bench import BIDS, Bench

ORDERS = "/portfolio/events/orders"


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.command(
        id=1, cmd="subscribe", params={"channels": ["fill", "user_orders", "market_positions", "market_lifecycle_v2"]}
    )  # fmt: skip
    return made


def reasons(bench: Bench, order_id: str) -> list[str | None]:
    return [o.get("last_update_reason") for o in bench.received("user_order") if o["order_id"] == order_id]


# Times in force and matching


def test_a_taker_pays_the_resting_prices_and_rests_the_remainder(bench: Bench) -> None:
    status, answer = bench.make(price="0.4600", count="20.00")
    assert status == 201
    assert (answer["fill_count"], answer["remaining_count"]) == ("14.00", "6.00")
    assert answer["average_fill_price"] == "0.4471", "4 at 0.44 and 10 at 0.45"
    assert answer["ts_ms"] == bench.ex.now_ms()
    order = bench.one(answer["order_id"])
    assert (order["status"], order["taker_fill_cost_dollars"]) == ("resting", "6.260000")
    fills = bench.call("GET", "/portfolio/fills", order_id=answer["order_id"])[1]["fills"]
    assert [(f["yes_price_dollars"], f["count_fp"], f["is_taker"]) for f in fills] == [
        ("0.4500", "10.00", True), ("0.4400", "4.00", True),
    ]  # fmt: skip


def test_selling_yes_opens_a_no_position(bench: Bench) -> None:
    _, answer = bench.make(side="ask", price="0.4000", count="5.00")
    assert (answer["fill_count"], answer["average_fill_price"]) == ("5.00", "0.4000")
    order = bench.one(answer["order_id"])
    assert (order["outcome_side"], order["book_side"], order["no_price_dollars"]) == ("no", "ask", "0.6000")
    assert (order["side"], order["action"], order["taker_fill_cost_dollars"]) == ("yes", "sell", "3.000000")
    assert bench.received("market_position")[-1]["position_fp"] == "-5.00"


def test_immediate_or_cancel_never_rests(bench: Bench) -> None:
    _, answer = bench.make(price="0.4400", count="6.00", time_in_force="immediate_or_cancel")
    assert (answer["fill_count"], answer["remaining_count"]) == ("4.00", "0.00")
    assert bench.one(answer["order_id"])["status"] == "canceled"
    status, nothing = bench.make(time_in_force="immediate_or_cancel")
    assert (status, nothing["fill_count"], nothing["remaining_count"]) == (201, "0.00", "0.00")
    assert "average_fill_price" not in nothing and "average_fee_paid" not in nothing


def test_fill_or_kill_fills_completely(bench: Bench) -> None:
    _, answer = bench.make(price="0.4500", count="14.00", time_in_force="fill_or_kill")
    assert (answer["fill_count"], bench.one(answer["order_id"])["status"]) == ("14.00", "executed")


def test_taker_prevention_keeps_earlier_fills_and_the_resting_order(bench: Bench) -> None:
    own = bench.made(side="ask", price="0.4500")
    _, answer = bench.make(price="0.4500", count="30.00")
    assert (answer["fill_count"], answer["remaining_count"]) == ("14.00", "0.00"), "10 stand before our order"
    assert bench.one(own)["status"] == "resting"
    assert bench.one(answer["order_id"])["status"] == "canceled"
    assert reasons(bench, answer["order_id"])[-1] == "SelfTradeCancel"
    bench.set_book(asks={})
    _, first = bench.make(price="0.4500", count="1.00")
    assert (first["fill_count"], first["remaining_count"]) == ("0.00", "0.00")


def test_maker_prevention_cancels_the_resting_order_and_goes_on(bench: Bench) -> None:
    own = bench.made(side="ask", price="0.4300")
    _, answer = bench.make(price="0.4400", count="4.00", self_trade_prevention_type="maker")
    assert (answer["fill_count"], answer["average_fill_price"]) == ("4.00", "0.4400")
    assert bench.one(own)["status"] == "canceled"
    assert reasons(bench, own)[-1] == "SelfTradeCancel"


@pytest.mark.parametrize(("prevention", "filled"), [("taker_at_cross", "4.00"), ("maker", "14.00")])
def test_a_fill_or_kill_that_would_self_trade_is_immediate_or_cancel(
    bench: Bench, prevention: str, filled: str
) -> None:
    bench.made(side="ask", price="0.4400", count="1.00")
    status, answer = bench.make(
        price="0.4500", count="40.00", time_in_force="fill_or_kill", self_trade_prevention_type=prevention
    )
    assert (status, answer["fill_count"], answer["remaining_count"]) == (201, filled, "0.00")


def test_a_fill_or_kill_that_fills_before_reaching_our_order_is_filled_completely(bench: Bench) -> None:
    bench.made(side="ask", price="0.4500", count="1.00")
    _, answer = bench.make(price="0.4500", count="4.00", time_in_force="fill_or_kill")
    assert (answer["fill_count"], bench.one(answer["order_id"])["status"]) == ("4.00", "executed")


def test_post_only_rests_unless_it_crosses(bench: Bench) -> None:
    assert bench.make(price="0.4300", post_only=True)[1]["remaining_count"] == "10.00"
    own = bench.make(side="ask", price="0.4300", post_only=True)
    assert own[1]["error"]["details"] == "post only cross", "our resting order counts too"


def test_reduce_only_is_capped_at_the_position(bench: Bench) -> None:
    bench.made(price="0.4400", count="4.00")
    status, answer = bench.make(
        side="ask", price="0.3900", count="9.00", reduce_only=True, time_in_force="immediate_or_cancel"
    )
    assert (status, answer["fill_count"], answer["remaining_count"]) == (201, "4.00", "0.00")
    assert bench.one(answer["order_id"])["initial_count_fp"] == "4.00"
    assert bench.received("market_position")[-1]["position_fp"] == "0.00"
    with_it = bench.make(side="bid", price="0.4500", reduce_only=True, time_in_force="immediate_or_cancel")
    assert with_it[0] == 400


def test_an_order_expires_at_its_expiration(bench: Bench) -> None:
    second = bench.ex.now // 1_000_000
    order_id = bench.made(expiration_time=second + 2)
    assert bench.one(order_id)["expiration_time"].endswith("Z")
    bench.ex.now = (second + 2) * 1_000_000 - 1
    bench.ex.desk.expire()
    assert bench.one(order_id)["status"] == "resting"
    bench.ex.now += 1
    bench.ex.desk.expire()
    assert bench.one(order_id)["status"] == "canceled"
    assert reasons(bench, order_id)[-1] == "ExpiryCancel"


def test_a_halt_cancels_orders_with_cancel_order_on_pause(bench: Bench) -> None:
    stays, goes = bench.made(), bench.made(cancel_order_on_pause=True)
    bench.ex.desk.halt(bench.listing)
    assert [bench.one(i)["status"] for i in (stays, goes)] == ["resting", "canceled"]
    assert reasons(bench, goes)[-1] == "HaltCancel"


def test_cancel_and_cancel_all_end_resting_orders(bench: Bench) -> None:
    order_id = bench.made(client_order_id="mine")
    status, answer = bench.cancel(order_id, market_ticker=bench.ticker, exchange_index="-1", subaccount="0")
    assert status == 200
    assert answer == {
        "order_id": order_id, "client_order_id": "mine", "reduced_by": "10.00", "ts_ms": bench.ex.now_ms(),
    }  # fmt: skip
    order = bench.one(order_id)
    assert (order["status"], order["initial_count_fp"], order["remaining_count_fp"]) == (
        "canceled", "10.00", "0.00",
    )  # fmt: skip
    ids = [bench.made() for _ in range(3)]
    assert bench.call("DELETE", ORDERS) == (204, None)
    assert {bench.one(i)["status"] for i in ids} == {"canceled"}
    assert bench.call("DELETE", ORDERS) == (204, None), "a cancel without orders succeeds"


# Queue, amend, decrease


def test_queue_positions_are_by_price_then_time(bench: Bench) -> None:
    first, second, lower = bench.made(), bench.made(count="3.00"), bench.made(price="0.3900")
    assert [bench.queue(i) for i in (first, second, lower)] == ["10.00", "20.00", "73.00"]
    bench.set_book(bids=BIDS | {4_000: 250})
    better = bench.made(price="0.4100", count="1.00")
    assert [bench.queue(i) for i in (better, first, second)] == ["0.00", "3.50", "13.50"]
    elsewhere = bench.call("GET", "/portfolio/orders/queue_positions", market_tickers="A,B")[1]
    assert elsewhere == {"queue_positions": []}
    event = bench.listing.facts.event
    positions = bench.call("GET", "/portfolio/orders/queue_positions", event_ticker=event)[1][
        "queue_positions"
    ]
    assert {q["order_id"]: q["queue_position_fp"] for q in positions}[second] == "13.50"
    assert {q["market_ticker"] for q in positions} == {bench.ticker}
    bench.cancel(first)
    assert bench.call("GET", f"/portfolio/orders/{first}/queue_position")[0] == 404


def test_an_amend_to_less_keeps_the_place(bench: Bench) -> None:
    first, second = bench.made(), bench.made()
    status, answer = bench.amend(first, count="6.00")
    assert status == 200
    assert answer == {
        "order_id": first, "client_order_id": bench.one(first)["client_order_id"], "remaining_count": "6.00",
        "fill_count": "0.00", "ts_ms": bench.ex.now_ms(),
    }  # fmt: skip
    assert [bench.queue(i) for i in (first, second)] == ["10.00", "16.00"]
    assert bench.one(first)["initial_count_fp"] == "6.00"
    assert reasons(bench, first)[-1] == "Amend"


@pytest.mark.parametrize("change", [{"count": "10.01"}, {"price": "0.4100"}])
def test_an_amend_to_more_or_to_another_price_goes_to_the_back(bench: Bench, change: dict[str, str]) -> None:
    first, second = bench.made(), bench.made()
    status, answer = bench.amend(first, **change)
    assert status == 200
    assert ("remaining_count" in answer) == ("count" in change), (
        "counts appear only if the resting size changed"
    )
    bench.amend(first, price="0.4000")
    assert bench.queue(second) == "10.00"
    assert float(bench.queue(first)) == 20.0


def test_an_amend_of_the_expiration_keeps_the_place(bench: Bench) -> None:
    first, second = bench.made(), bench.made()
    later = bench.ex.now // 1_000_000 + 100
    status, answer = bench.amend(first, expiration_time=later)
    assert (status, set(answer)) == (200, {"order_id", "client_order_id", "ts_ms"})
    assert bench.queue(first) == "10.00"
    assert "expiration_time" in bench.one(first)
    bench.amend(first, count="9.00")
    assert "expiration_time" in bench.one(first), "an omitted expiration is kept"
    bench.amend(first, expiration_time=0)
    assert "expiration_time" not in bench.one(first)
    bench.amend(second, expiration_time=later, price="0.4100")
    bench.ex.now += 101_000_000
    bench.ex.desk.expire()
    assert [bench.one(i)["status"] for i in (first, second)] == ["resting", "canceled"]


def test_an_amend_that_crosses_trades(bench: Bench) -> None:
    order_id = bench.made()
    status, answer = bench.amend(order_id, price="0.4500", count="16.00")
    assert status == 200
    assert (answer["fill_count"], answer["remaining_count"]) == ("14.00", "2.00")
    assert answer["average_fill_price"] == "0.4471"
    assert answer["average_fee_paid"] == average_fee(bench, order_id)
    order = bench.one(order_id)
    assert (order["yes_price_dollars"], order["initial_count_fp"], order["status"]) == (
        "0.4500",
        "16.00",
        "resting",
    )
    assert [f["order_id"] for f in bench.received("fill")] == [order_id, order_id]


def average_fee(bench: Bench, order_id: str) -> str:
    """Return the fees over the contracts of an order's fills."""
    fills = bench.call("GET", "/portfolio/fills", order_id=order_id)[1]["fills"]
    return f"{sum(float(f['fee_cost']) for f in fills) / sum(float(f['count_fp']) for f in fills):.4f}"


def test_an_amend_count_includes_the_filled_size(bench: Bench) -> None:
    order_id = bench.made(price="0.4400")
    assert bench.amend(order_id, count="5.00")[1]["remaining_count"] == "1.00"
    assert bench.amend(order_id, count="4.00")[1]["remaining_count"] == "0.00", "the filled count is a cancel"
    order = bench.one(order_id)
    assert (order["status"], order["fill_count_fp"]) == ("canceled", "4.00")
    assert bench.amend(order_id, count="9.00")[0] == 404


def test_an_amend_may_rename_an_order(bench: Bench) -> None:
    order_id = bench.made(client_order_id="old")
    status, answer = bench.amend(order_id, client_order_id="old", updated_client_order_id="new")
    assert (status, answer["client_order_id"], bench.one(order_id)["client_order_id"]) == (200, "new", "new")
    assert bench.amend(order_id, client_order_id="new", updated_client_order_id="new")[0] == 200


def test_a_refused_amend_changes_nothing(bench: Bench) -> None:
    order_id = bench.made(client_order_id="a")
    before = bench.one(order_id)
    for change in ({"price": "0.4050"}, {"count": "1000000"}, {"expiration_time": 1, "count": "5.00"}):
        assert bench.amend(order_id, updated_client_order_id="b", **change)[0] == 400
    assert bench.one(order_id) == before
    assert bench.make(client_order_id="b")[0] == 201


def test_decrease_keeps_the_place(bench: Bench) -> None:
    first, second = bench.made(), bench.made()
    status, answer = bench.decrease(first, reduce_by="2.50", market_ticker=bench.ticker)
    assert (status, answer["remaining_count"]) == (200, "7.50")
    assert bench.decrease(first, reduce_to="7.00")[1]["remaining_count"] == "7.00"
    assert [bench.queue(i) for i in (first, second)] == ["10.00", "17.00"]
    assert reasons(bench, first)[-1] == "Decrease"
    assert bench.one(first)["initial_count_fp"] == "10.00"
    assert bench.decrease(first, reduce_to="7.00")[0] == 200, "an unchanged size succeeds"
    assert bench.decrease(first, reduce_by="99.00")[1]["remaining_count"] == "0.00"
    assert bench.one(first)["status"] == "canceled"
    assert bench.decrease(second, reduce_to="0.00")[1]["remaining_count"] == "0.00"


def test_reserved_cash_is_released(bench: Bench) -> None:
    order_id = bench.made(count="15000.00")
    assert bench.make(count="15000.00")[0] == 400
    bench.decrease(order_id, reduce_to="5000.00")
    assert bench.make(count="15000.00")[0] == 201
    bench.call("DELETE", ORDERS)
    assert bench.make(count="24000.00", price="0.3500")[0] == 201


# Grids and sizes


@pytest.mark.parametrize(
    ("structure", "good", "bad"),
    [
        ("linear_cent", ["0.0100", "0.9900", "0.37"], ["0.0050", "0.3750", "0.9950"]),
        ("deci_cent", ["0.0010", "0.0350", "0.3990"], ["0.0005", "0.3995"]),
        ("tapered_deci_cent", ["0.0010", "0.0990", "0.3700"], ["0.3750", "0.1010", "0.0995"]),
        ("center_deci_edge_centi_cent", ["0.0001", "0.0099", "0.0110"], ["0.0101", "0.3705"]),
    ],
)
def test_prices_must_be_on_the_grid(structure: str, good: list[str], bad: list[str]) -> None:
    bench = Bench(structure)
    bench.set_book({}, {})
    for price in good:
        assert bench.make(price=price, count="0.01")[0] == 201, price
    for price in bad:
        status, answer = bench.make(price=price, count="0.01")
        assert (status, answer["error"]["code"]) == (400, "invalid_price"), price


def test_a_hundredth_of_a_contract_trades(bench: Bench) -> None:
    _, answer = bench.make(price="0.4400", count="0.01")
    assert (answer["fill_count"], answer["average_fill_price"]) == ("0.01", "0.4400")
    order = bench.one(answer["order_id"])
    assert (order["taker_fill_cost_dollars"], order["taker_fees_dollars"]) == ("0.004400", "0.000200")
