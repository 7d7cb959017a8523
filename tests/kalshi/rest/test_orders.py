"""Order client: bodies match the exchange's specification, answers are in our units, and writes are sent once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    CredentialsMissing,
    OutcomeUnknown,
    UnitError,
)
from kalshilab.kalshi.auth import Verifier, generate_key
from kalshilab.kalshi.rest.orders import CancelAck, DemoOrders, OrderAck, OrderRequest
from kalshilab.market.model import Balance
from kalshilab.units import PRICE, format_price, format_size, parse_price, parse_size

PEM, PUBLIC = generate_key("ed25519")
REQUEST = OrderRequest(ticker="T-1", side="bid", price=4400, size=1000, client_order_id="c-1")
ROOT = "/trade-api/v2"


class NoWait(WallClock):
    """A machine clock on which sleeping takes no time."""

    async def sleep(self, seconds: float) -> None:
        return


class Script(httpx.AsyncBaseTransport):
    """Answers from a list; every request is recorded."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers, self.seen = list(answers), list[httpx.Request]()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        answer = self.answers[min(len(self.seen), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, content=answer.content)


def answer(status: int = 200, **body: object) -> httpx.Response:
    return httpx.Response(status, content=msgspec.json.encode(body))


def client(*answers: httpx.Response | Exception) -> tuple[DemoOrders, Script]:
    script = Script(*answers)
    settings = Settings(
        env={}, env_file=None, rest_url=f"http://127.0.0.1:9{ROOT}", key_id="k", private_key=PEM.decode()
    )
    return DemoOrders(settings, clock=NoWait(), transport=script), script


def order(order_id: str, client_order_id: str = "c-1", **more: object) -> dict[str, object]:
    return {
        "order_id": order_id, "client_order_id": client_order_id, "ticker": "T-1", "status": "resting", "book_side": "ask",
        "outcome_side": "no", "yes_price_dollars": "0.5800", "initial_count_fp": "10.00", "fill_count_fp": "4.00",
        "remaining_count_fp": "6.00", "taker_fees_dollars": "0.068300", "maker_fees_dollars": "0.000100",
        "created_time": "2026-11-22T06:29:20.866753Z", **more,
    }  # fmt: skip


# The body


@pytest.fixture(scope="module")
def schema(shared: Path) -> Draft202012Validator:
    yaml = pytest.importorskip("yaml")
    with (shared / "specs" / "openapi.yaml").open(encoding="utf-8") as file:
        spec = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    body = {"$ref": "#/components/schemas/CreateOrderV2Request", "components": spec["components"]}
    known = spec["components"]["schemas"]["CreateOrderV2Request"]["properties"].keys()
    # The document permits unknown fields, so a misspelt one would be ignored silently; forbid them here.
    return Draft202012Validator(
        {"allOf": [body], "propertyNames": {"enum": sorted(known)}, "components": spec["components"]}
    )


REQUESTS = st.builds(
    OrderRequest,
    ticker=st.just("KXHIGHNY-26NOV22-B52.5"),
    side=st.sampled_from(["bid", "ask"]),
    price=st.integers(1, PRICE - 1),
    size=st.integers(1, 10**9),
    client_order_id=st.text("abcdefghij0123456789-_:", min_size=1, max_size=64),
    time_in_force=st.sampled_from(["good_till_canceled", "immediate_or_cancel", "fill_or_kill"]),
    post_only=st.booleans(),
    reduce_only=st.booleans(),
    expiration_ts=st.none() | st.integers(10**15, 2 * 10**15),
    self_trade_prevention=st.sampled_from(["taker_at_cross", "maker"]),
).map(
    # Only a good-till-canceled order may expire.
    lambda r: r if r.time_in_force == "good_till_canceled" else msgspec.structs.replace(r, expiration_ts=None)
)


@given(request_=REQUESTS)
def test_the_body_matches_the_specification(schema: Draft202012Validator, request_: OrderRequest) -> None:
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(request_.body()))
    schema.validate(body)
    assert parse_price(body["price"]) == request_.price and parse_size(body["count"]) == request_.size
    assert body["price"] == format_price(request_.price) and body["count"] == format_size(request_.size)
    assert body["client_order_id"] == request_.client_order_id and body["side"] == request_.side
    assert (
        body.get("post_only", False) == request_.post_only
        and body.get("reduce_only", False) == request_.reduce_only
    )
    if request_.expiration_ts is None:
        assert "expiration_time" not in body
    else:
        assert body["expiration_time"] == request_.expiration_ts // 1_000_000


def test_the_specification_rejects_invalid_bodies(schema: Draft202012Validator) -> None:
    body: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(REQUEST.body()))
    for wrong in ({"side": "yes"}, {"price": 0.44}, {"time_in_force": "gtc"}, {"typo": 1}):
        assert not schema.is_valid(body | wrong)


@pytest.mark.parametrize(
    ("change", "error"),
    [({"price": 0}, UnitError), ({"price": PRICE}, UnitError), ({"price": -1}, UnitError), ({"size": 0}, UnitError),
     ({"size": -100}, UnitError), ({"client_order_id": ""}, ConfigError)],
)  # fmt: skip
async def test_an_invalid_order_is_not_sent(change: dict[str, Any], error: type[Exception]) -> None:
    orders, script = client(answer())
    async with orders:
        with pytest.raises(error):
            await orders.create(msgspec.structs.replace(REQUEST, **change))
    assert script.seen == []


@pytest.mark.parametrize(
    "change",
    [{"side": "yes"}, {"time_in_force": "gtc"}, {"client_order_id": "x" * 65},
     {"time_in_force": "immediate_or_cancel", "expiration_ts": 10**15}],
)  # fmt: skip
def test_a_malformed_order_is_rejected_before_it_is_sent(change: dict[str, Any]) -> None:
    with pytest.raises((UnitError, ConfigError)):
        msgspec.structs.replace(REQUEST, **change).body()


# Answers


async def test_a_partly_filled_order_reports_average_price_and_fee() -> None:
    orders, script = client(
        answer(201, order_id="o-1", client_order_id="c-1", fill_count="4.00", remaining_count="6.00",
               average_fill_price="0.4400", average_fee_paid="0.0173", ts_ms=1795329000123)
    )  # fmt: skip
    async with orders:
        ack = await orders.create(REQUEST)
    assert ack == OrderAck(
        order_id="o-1", client_order_id="c-1", filled=400, remaining=600, ts=1_795_329_000_123_000,
        average_price=4400.0, fee_paid=17_300,
    )  # fmt: skip
    sent = script.seen[0]
    assert (sent.method, sent.url.path) == ("POST", f"{ROOT}/portfolio/events/orders")
    assert Verifier(PUBLIC).verify({k.upper(): v for k, v in sent.headers.items()}, "POST", sent.url.path)
    assert msgspec.json.decode(sent.content)["client_order_id"] == "c-1"


async def test_a_resting_order_has_no_average_price() -> None:
    orders, _ = client(
        answer(201, order_id="o-1", fill_count="0.00", remaining_count="10.00", ts_ms=1, new_field={})
    )
    async with orders:
        ack = await orders.create(REQUEST)
    assert (ack.filled, ack.remaining, ack.average_price, ack.fee_paid) == (0, 1000, None, None)
    assert ack.client_order_id == "c-1"


async def test_a_cancel_sends_its_market() -> None:
    orders, script = client(answer(order_id="o-1", reduced_by="6.00", ts_ms=1795329000123))
    async with orders:
        assert await orders.cancel("o-1", ticker="T-1") == CancelAck(
            order_id="o-1", reduced_by=600, ts=1_795_329_000_123_000
        )
    sent = script.seen[0]
    assert (sent.method, sent.url.path) == ("DELETE", f"{ROOT}/portfolio/events/orders/o-1")
    assert dict(sent.url.params) == {"market_ticker": "T-1"}


async def test_cancel_all_accepts_an_empty_answer() -> None:
    orders, script = client(httpx.Response(204))
    async with orders:
        assert await orders.cancel_all() is None
    assert (script.seen[0].method, script.seen[0].url.path) == ("DELETE", f"{ROOT}/portfolio/events/orders")


PLACED = {
    "order_id": "o-1",
    "client_order_id": "c-1",
    "fill_count": "0.00",
    "remaining_count": "10.00",
    "ts_ms": 1,
}


@pytest.mark.parametrize(
    "body",
    [
        PLACED | {"client_order_id": "c-0"},
        PLACED | {"fill_count": "ten"},
        PLACED | {"average_fill_price": "cheap"},
        {"order": {}},
    ],
)
async def test_an_accepted_order_whose_answer_cannot_be_used_has_an_unknown_outcome(
    body: dict[str, object],
) -> None:
    orders, _ = client(answer(201, **body))
    async with orders:
        with pytest.raises(OutcomeUnknown):
            await orders.create(REQUEST)


async def test_an_answer_to_another_request_is_refused() -> None:
    other = answer(order_id="o-2", reduced_by="1.00", ts_ms=1)
    orders, script = client(
        other, answer(order=order("o-2")), answer(order_id="o-1", reduced_by="1.00", ts_ms=1)
    )
    async with orders:
        with pytest.raises(OutcomeUnknown, match="belongs to another request"):
            await orders.cancel("o-1")
        with pytest.raises(ApiError, match="belongs to another request"):
            await orders.get("o-1")
        assert (await orders.cancel("o-1")).reduced_by == 100
    assert len(script.seen) == 3


@pytest.mark.parametrize("order_id", ["", ".", "..", "?x", "#", "a/.."])
async def test_an_invalid_order_id_never_turns_a_cancel_into_cancel_all(order_id: str) -> None:
    orders, script = client(answer(order_id=order_id, reduced_by="0.00", ts_ms=1))
    async with orders:
        try:
            await orders.cancel(order_id)
        except (ConfigError, UnitError, ValueError):
            return
    assert script.seen[0].url.path.rstrip("/") not in (
        f"{ROOT}/portfolio/events/orders",
        f"{ROOT}/portfolio/events",
    )


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "insufficient_balance"),
        (400, "invalid_price"),
        (409, "order_already_exists"),
        (404, "not_found"),
    ],
)
async def test_a_refused_order_raises_the_exchanges_code(status: int, code: str) -> None:
    orders, script = client(answer(status, error={"code": code, "message": code}))
    async with orders:
        with pytest.raises(ApiError) as caught:
            await orders.create(REQUEST)
    assert (caught.value.code, caught.value.status) == (code, status) and len(script.seen) == 1
    assert not isinstance(caught.value, OutcomeUnknown)


@pytest.mark.parametrize(
    "trouble", [answer(500), answer(503), httpx.ReadTimeout("slow"), httpx.ReadError("reset")], ids=repr
)
async def test_an_order_with_a_lost_answer_is_found_by_its_client_order_id(
    trouble: httpx.Response | Exception,
) -> None:
    orders, script = client(trouble, answer(orders=[order("o-9", "other"), order("o-1")], cursor=""))
    async with orders:
        with pytest.raises(OutcomeUnknown):
            await orders.create(REQUEST)
        assert [r.method for r in script.seen] == ["POST"]
        found = await orders.find("c-1", "T-1")
    assert found is not None and found.order_id == "o-1"
    assert script.seen[1].url.params["ticker"] == "T-1"


async def test_an_order_that_was_not_sent_raises_connection_failed() -> None:
    orders, script = client(httpx.ConnectError("refused"))
    async with orders:
        with pytest.raises(ConnectionFailed):
            await orders.create(REQUEST)
    assert len(script.seen) == 1


async def test_find_reads_pages_until_the_order_is_found() -> None:
    first = answer(orders=[order("o-1", "a"), order("o-2", "b")], cursor="p2")
    second = answer(orders=[order("o-3", "c-1"), order("o-4", "d")], cursor="p3")
    orders, script = client(first, second, answer(orders=[], cursor=""))
    async with orders:
        found = await orders.find("c-1", "T-1")
        assert found is not None and found.order_id == "o-3" and len(script.seen) == 2
        assert await orders.find("none", "T-1") is None


async def test_an_order_is_read_in_our_units() -> None:
    orders, script = client(answer(order=order("o-1")))
    async with orders:
        got = await orders.get("o-1")
    assert (got.side, got.outcome, got.price, got.initial, got.filled, got.remaining) == (
        "ask",
        "no",
        5800,
        1000,
        400,
        600,
    )
    assert got.fees == 68_400 and got.created_ts == got.updated_ts == 1_795_328_960_866_753
    assert script.seen[0].url.path == f"{ROOT}/portfolio/orders/o-1"


async def test_the_account_is_read_in_our_units() -> None:
    position = {"ticker": "T-1", "position_fp": "-3.00", "total_traded_dollars": "2.500000", "market_exposure_dollars": "2.500000",
                "realized_pnl_dollars": "-0.100000", "fees_paid_dollars": "0.018900", "last_updated_ts": "2026-11-22T06:29:30Z"}  # fmt: skip
    fill = {"trade_id": "t", "order_id": "o", "ticker": "T-1", "book_side": "bid", "outcome_side": "yes", "count_fp": "1.00",
            "yes_price_dollars": "0.5200", "no_price_dollars": "0.4800", "is_taker": True, "fee_cost": "0.017500",
            "created_time": "2026-11-22T06:29:30.164956Z"}  # fmt: skip
    settlement = {"ticker": "T-1", "event_ticker": "E", "market_result": "yes", "yes_count_fp": "3.00",
                  "yes_total_cost_dollars": "2.500000", "no_count_fp": "0.00", "no_total_cost_dollars": "0.000000", "revenue": 300,
                  "value": 100, "settled_time": "2026-11-23T16:10:45Z", "fee_cost": "0.018900"}  # fmt: skip
    orders, script = client(
        answer(balance=9801, balance_dollars="98.0186", portfolio_value=198, updated_ts=1781159348),
        answer(market_positions=[position], cursor=""),
        answer(fills=[fill], cursor=""),
        answer(settlements=[settlement], cursor=""),
        answer(orders=[order("o-1")], cursor=""),
    )
    async with orders:
        assert await orders.balance() == Balance(
            cash=98_018_600, portfolio_value=1_980_000, ts=1_781_159_348_000_000
        )
        (p,) = await orders.positions(ticker="T-1")
        assert (p.size, p.cost, p.realized, p.fees) == (-300, 2_500_000, -100_000, 18_900)
        (f,) = await orders.fills(min_ts=1_795_328_970_999_999)
        assert (f.side, f.price, f.size, f.fee, f.ts, f.position) == (
            "bid",
            5200,
            100,
            17_500,
            1_795_328_970_164_956,
            None,
        )
        (s,) = await orders.settlements()
        assert (s.revenue, s.settlement, s.pnl) == (3_000_000, PRICE, 3_000_000 - 2_500_000 - 18_900)
        assert [o.order_id for o in await orders.list(ticker="T-1", status="resting")] == ["o-1"]
    assert script.seen[2].url.params["min_ts"] == "1795328970"
    assert script.seen[4].url.params["status"] == "resting"


def test_an_order_client_without_a_key_raises_credentials_missing() -> None:
    with pytest.raises(CredentialsMissing):
        DemoOrders(Settings(env={}, env_file=None, rest_url=f"http://127.0.0.1:9{ROOT}"))
