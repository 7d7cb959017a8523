"""The money side of orders: fees to the millionth, netting, settlement, and account reads."""

from __future__ import annotations

from typing import Any

import pytest
from order_bench import ASKS, Bench

from kalshilab.errors import ConfigError
from kalshilab.kalshi.wire import stream
from kalshilab.kalshi.wire.base import instant

ORDERS = "/portfolio/events/orders"


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.command(
        id=1, cmd="subscribe", params={"channels": ["fill", "user_orders", "market_positions", "market_lifecycle_v2"]}
    )  # fmt: skip
    return made


# Fees


@pytest.mark.parametrize(
    ("price", "count", "fee"),
    [
        (5_200, "1.00", "0.017500"), (9_900, "1.00", "0.000700"), (5_600, "10.00", "0.172500"),
        (4_400, "4.00", "0.069000"),
    ],
)  # fmt: skip
def test_taker_fees_equal_the_published_ones(price: int, count: str, fee: str) -> None:
    bench = Bench(fee_type="quadratic")
    bench.command(id=1, cmd="subscribe", params={"channels": ["fill"]})
    bench.set_book({}, {price: 5_000})
    cash = bench.ex.account.cash
    _, answer = bench.make(price=f"{price / 10_000:.4f}", count=count)
    assert bench.one(answer["order_id"])["taker_fees_dollars"] == fee
    assert bench.received("fill")[0]["fee_cost"] == fee
    (filled,) = bench.call("GET", "/portfolio/fills")[1]["fills"]
    assert filled["fee_cost"] == fee
    paid = round(float(count) * price * 100) + round(float(fee) * 1e6)
    assert bench.ex.account.cash == cash - paid


@pytest.mark.parametrize(
    ("fee_type", "maker"),
    [
        ("quadratic", "0.000000"), ("quadratic_with_maker_fees", "0.043200"),
        ("quadratic_with_combo_maker_fees", "0.086300"),
    ],
)  # fmt: skip
def test_maker_fees_depend_on_the_fee_type(fee_type: str, maker: str) -> None:
    bench = Bench(fee_type=fee_type)
    order_id = bench.made(price="0.4400", count="14.00")
    assert bench.one(order_id)["taker_fees_dollars"] == "0.069000"
    bench.prints(4_400, 1_000, "no")
    order = bench.one(order_id)
    assert order["status"] == "executed"
    # 10 at 0.44: 0.04312 and 0.08624, rounded to the grid together with the remainder of the taker's fill.
    assert order["maker_fees_dollars"] == maker


def test_the_rounding_account_follows_an_order_from_taker_to_maker(bench: Bench) -> None:
    order_id = bench.made(price="0.4400", count="4.80")
    for _ in range(80):
        bench.prints(4_400, 1, "no")
    order = bench.one(order_id)
    assert order["status"] == "executed"
    whole = 68_992 + 80 * -(-175 * 4_400 * 5_600 * 1 // 100_000_000)
    total = round((float(order["taker_fees_dollars"]) + float(order["maker_fees_dollars"])) * 1e6)
    assert 0 <= total - whole < 200, "small fills cost as much as one, up to a grid unit and the ceilings"


def test_multiplier_override_and_waiver_change_the_fee(bench: Bench) -> None:
    tariff, facts = bench.ex.desk.tariff, bench.listing.facts

    def fee() -> str:
        bench.set_book()
        _, answer = bench.make(price="0.4400", count="4.00", time_in_force="immediate_or_cancel")
        return str(bench.one(answer["order_id"])["taker_fees_dollars"])

    facts.fee_multiplier = 0.5
    assert fee() == "0.034500"
    tariff.override(facts.event, multiplier=2)
    assert fee() == "0.138000"
    tariff.override(facts.event, fee_type="quadratic")
    assert (fee(), tariff.overridden(facts.event)) == ("0.034500", ("quadratic", None))
    tariff.override(facts.event)
    assert tariff.overridden(facts.event) == (None, None)
    tariff.waive(facts.ticker, bench.ex.now + 1)
    assert fee() == "0.000000"
    bench.ex.now += 1
    assert fee() == "0.034500"
    assert tariff.waived_until(facts.ticker) == bench.ex.now
    assert instant(
        bench.call("GET", f"/markets/{bench.ticker}")[1]["market"]["fee_waiver_expiration_time"]
    ) == (bench.ex.now)
    tariff.waive(facts.ticker, 0)
    assert "fee_waiver_expiration_time" not in bench.call("GET", f"/markets/{bench.ticker}")[1]["market"]
    assert [tuple(m.values()) for m in bench.received("event_fee_update")] == [
        (facts.event, None, 2.0), (facts.event, "quadratic", None), (facts.event, None, None),
    ]  # fmt: skip
    assert stream.EventFeeUpdate(event_ticker="E").fee_type_override is None
    for wrong in ({"fee_type": "flat"}, {"multiplier": -1.0}):
        with pytest.raises(ConfigError):
            tariff.override(facts.event, **wrong)  # type: ignore[arg-type]


# Netting, settlement, reads


def test_yes_and_no_positions_net(bench: Bench) -> None:
    bench.made(price="0.4400", count="4.00")
    bench.made(side="ask", price="0.4000", count="6.00")
    (position,) = bench.call("GET", "/portfolio/positions")[1]["market_positions"]
    assert (position["position_fp"], position["market_exposure_dollars"]) == ("-2.00", "1.200000")
    assert position["realized_pnl_dollars"] == "-0.160000"
    assert position["total_traded_dollars"] == "5.360000"
    assert bench.ex.account.drift() == 0


@pytest.mark.parametrize(
    ("result", "settlement", "side", "revenue", "remainder"),
    [
        ("yes", 10_000, "bid", 400, 0), ("no", 0, "bid", 0, 0), ("no", 0, "ask", 400, 0), ("yes", 10_000, "ask", 0, 0),
        ("scalar", 3_333, "bid", 133, 3_200), ("scalar", 3_333, "ask", 266, 6_800),
    ],
)  # fmt: skip
def test_settlement_pays_out_a_position(
    bench: Bench, result: str, settlement: int, side: str, revenue: int, remainder: int
) -> None:
    bench.made(side=side, price="0.4400" if side == "bid" else "0.4000", count="4.00")
    account, facts = bench.ex.account, bench.listing.facts
    fees, cash = account.holding(bench.ticker).fees, account.cash
    bench.listing.status = "finalized"
    facts.settled = bench.ex.now
    account.settle(bench.ticker, facts.event, result, settlement, bench.ex.now)
    assert account.cash == cash + revenue * 10_000
    assert account.drift() == 0
    (paid,) = bench.call("GET", "/portfolio/settlements", ticker=bench.ticker)[1]["settlements"]
    assert (paid["market_result"], paid["revenue"], paid["value"]) == (result, revenue, settlement // 100)
    assert paid["fee_cost"] == f"{(fees + remainder) / 1e6:.6f}", "the remainder below a cent is a fee"
    assert paid["yes_count_fp" if side == "bid" else "no_count_fp"] == "4.00"
    assert bench.call("GET", "/portfolio/positions")[1]["market_positions"] == []
    for wanted in ("settled", "all"):
        page = bench.call("GET", "/portfolio/positions", settlement_status=wanted)[1]
        assert [p["position_fp"] for p in page["market_positions"]] == ["0.00"]
        assert [e["event_ticker"] for e in page["event_positions"]] == [facts.event]


def test_positions_are_filtered(bench: Bench) -> None:
    bench.made(price="0.4400", count="4.00")
    event = bench.listing.facts.event

    def seen(**query: str) -> int:
        return len(bench.call("GET", "/portfolio/positions", **query)[1]["market_positions"])

    page = bench.call("GET", "/portfolio/positions")[1]
    (of_event,) = page["event_positions"]
    assert of_event == {
        "event_ticker": event, "total_cost_dollars": "1.760000", "total_cost_shares_fp": "4.00",
        "event_exposure_dollars": "1.760000", "realized_pnl_dollars": "0.000000", "fees_paid_dollars": "0.069000",
    }  # fmt: skip
    assert (
        seen(ticker=bench.ticker),
        seen(ticker="X"),
        seen(event_ticker=event),
        seen(event_ticker="X"),
    ) == (1, 0, 1, 0)
    assert (seen(exchange_index="1"), seen(settlement_status="settled")) == (0, 0)
    bench.made(side="ask", price="0.4000", count="4.00")
    assert (seen(), seen(count_filter="position"), seen(count_filter="position,total_traded")) == (1, 0, 1)


def test_the_balance_is_in_whole_cents(bench: Bench) -> None:
    bench.made(price="0.4400", count="4.00")
    bench.listing.last_price = 9_900
    answer = bench.call("GET", "/portfolio/balance")[1]
    assert (answer["balance"], answer["balance_dollars"]) == (999_817, "9998.171000"), (
        "truncated, not rounded"
    )
    assert answer["portfolio_value"] == 396
    assert answer["balance_breakdown"] == [{"exchange_index": 0, "balance": "9998.171000"}]
    bench.made()
    assert bench.call("GET", "/portfolio/balance")[1]["balance"] == 999_817, (
        "resting orders do not reduce the balance"
    )
    assert bench.call("GET", "/portfolio/balance", exchange_index="2")[1]["balance"] == 0


def test_new_rows_neither_repeat_nor_hide_rows_of_later_pages(bench: Bench) -> None:
    ids = [bench.made(count="1.00") for _ in range(7)]

    def walk(path: str, key: str, between: Any, **query: str) -> list[str]:
        collected: list[str] = []
        cursor = ""
        while True:
            page = bench.call("GET", path, limit="3", cursor=cursor, **query)[1]
            collected += [row["order_id"] for row in page[key]]
            cursor = page["cursor"]
            if not cursor:
                return collected
            between()

    for status in ("", "resting"):
        assert walk("/portfolio/orders", "orders", bench.made, status=status)[-7:] == ids[::-1]
    bench.call("DELETE", ORDERS)
    assert bench.call("GET", "/portfolio/orders", status="resting")[1]["orders"] == []
    bench.set_book(asks=ASKS | {4_400: 100_000})
    taken = [bench.made(count="1.00", price="0.4400") for _ in range(7)]
    assert walk(
        "/portfolio/fills", "fills", lambda: bench.made(count="1.00", price="0.4400")
    ) == taken[::-1]  # fmt: skip


def test_orders_and_fills_are_filtered(bench: Bench) -> None:
    first = bench.made(price="0.4400", count="4.00")
    second = bench.ex.now // 1_000_000
    bench.ex.now += 5_000_000
    bench.made()

    def orders(**query: str) -> int:
        return len(bench.call("GET", "/portfolio/orders", **query)[1]["orders"])

    event = bench.listing.facts.event
    assert (orders(), orders(status="executed"), orders(status="canceled")) == (2, 1, 0)
    assert (orders(event_ticker=f"X,{event}"), orders(event_ticker="X"), orders(ticker="X")) == (2, 0, 0)
    assert (orders(max_ts=str(second)), orders(min_ts=str(second + 1)), orders(exchange_index="1")) == (
        1,
        1,
        0,
    )

    def fills(**query: str) -> int:
        return len(bench.call("GET", "/portfolio/fills", **query)[1]["fills"])

    assert (fills(ticker=f"A,{bench.ticker}"), fills(ticker="A"), fills(order_id=first)) == (1, 0, 1)
    assert (fills(order_id="x"), fills(max_ts=str(second)), fills(min_ts=str(second + 1))) == (0, 1, 0)
    assert bench.call("GET", "/historical/fills")[1]["fills"] == []
    assert bench.call("GET", "/historical/orders")[1]["orders"] == []
