"""Each fault by its exact symptom: its effect in process, and the client's view on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from faulty_venue import Steps
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kalshilab.clock import WallClock
from kalshilab.exchange import Exchange, Venue, serve
from kalshilab.exchange.faults.faults import Fault, Faults, random_schedule
from kalshilab.exchange.rest.params import Answer, Request
from kalshilab.exchange.server.gateway import ClientStream, make_gateway
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH
from kalshilab.tape import sample

ORDERS = REST_PATH + "/portfolio/events/orders"
PEM, PUBLIC = generate_key("ed25519")
SIGNER = Signer.from_pem("k", PEM.decode())


def opened() -> Exchange:
    """Return an exchange whose first market is active."""
    exchange = Exchange(*sample())
    while exchange.prints_played < 3:
        exchange.step()
    return exchange


def ticker_of(exchange: Exchange) -> str:
    return next(x.facts.ticker for x in exchange.listings if x.status == "active")


def once(name: str, at_us: int = 0, length_us: int = 10_000_000) -> Faults:
    return Faults(schedule=[Fault(at_us, name, length_us)])


class Client:
    """A signed HTTP and WebSocket client of one venue."""

    def __init__(self, venue: Venue, http: httpx.AsyncClient) -> None:
        self.venue, self.http = venue, http
        self.signer = Signer.from_pem(venue.key_id, venue.private_key_path)
        self.ticker = ticker_of(venue.exchange)

    def headers(self, method: str, path: str) -> dict[str, str]:
        return self.signer.headers(method, path, WallClock().now() // 1000)

    async def call(self, method: str, path: str, body: object = None) -> httpx.Response:
        path = REST_PATH + path
        signed = self.headers(method, path.split("?")[0])
        return await self.http.request(method, path, json=body, headers=signed)

    async def order(self, name: str, price: str = "0.0100") -> httpx.Response:
        return await self.call("POST", "/portfolio/events/orders", order(self.ticker, name, price))

    @asynccontextmanager
    async def socket(self, *channels: str) -> AsyncIterator[ClientConnection]:
        async with connect(
            self.venue.ws,
            additional_headers=self.headers("GET", WS_PATH),
            proxy=None,
            ping_interval=None,
            close_timeout=0.2,
        ) as socket:
            command = {"id": 1, "cmd": "subscribe", "params": {"channels": list(channels)}}
            await socket.send(json.dumps(command))
            for _ in channels:
                assert json.loads(await socket.recv())["type"] == "subscribed"
            yield socket


def order(ticker: str, name: str, price: str = "0.0100", side: str = "bid") -> dict[str, object]:
    return {
        "ticker": ticker, "side": side, "count": "1.00", "price": price, "client_order_id": name,
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip


@asynccontextmanager
async def venue(faults: Faults | None) -> AsyncIterator[tuple[Client, Steps]]:
    steps = Steps()
    async with serve(opened(), pace=steps, key_kind="ed25519", faults=faults) as served:
        base = served.rest.removesuffix(REST_PATH)
        async with httpx.AsyncClient(base_url=base, timeout=60) as http:
            yield Client(served, http), steps


async def received(socket: ClientConnection, n: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(60):
        return [json.loads(await socket.recv()) for _ in range(n)]


def names(exchange: Exchange) -> list[str]:
    return [o.client_order_id for o in exchange.desk.orders.values()]


# In process


def test_a_scheduled_fault_strikes_at_its_time_and_once() -> None:
    exchange = opened()
    faults = once("error_5xx_before", at_us=60_000_000)
    faults.attach(exchange)
    begin = exchange.now
    request = Request("POST", ORDERS, {}, {})
    assert faults.request(request).answer is None
    while exchange.now < begin + 60_000_000:
        assert not faults.struck
        exchange.step()
    assert faults.request(request).answer.status == 503
    assert faults.request(request).answer is None, "a scheduled fault strikes once"
    assert faults.struck[0].at_us == exchange.now


def test_a_run_in_process_gives_the_same_bytes_twice() -> None:
    """Tape, seed, faults and calls are the same; frames are taken after each step or all at the end."""

    def run(often: bool) -> tuple[list[Any], list[Any], list[Fault]]:
        exchange = opened()
        schedule = random_schedule(5, 40, over_us=40 * 3_600_000_000, names=IN_PROCESS)
        faults = Faults(["storm_429", "duplicate_frames"], 3, schedule=schedule, every_us=3_600_000_000)
        gateway = make_gateway(exchange, {"k": PUBLIC}, faults=faults)
        stream = ClientStream(gateway, lambda: None)
        stream.connection.receive(b'{"id":1,"cmd":"subscribe","params":{"channels":["trade","ticker"]}}')
        out: list[Any] = []
        answers: list[Answer | None] = []
        ticker = ticker_of(exchange)
        for n in range(400):
            gateway.step()
            if n % 10 == 0:
                body = json.dumps(order(ticker, f"c{n}")).encode()
                headers = SIGNER.headers("POST", ORDERS, WallClock().now() // 1000)
                gateway.handle(Request("POST", ORDERS, {}, headers, body), answers.append)
            if often:
                out += stream.take()
        return out + stream.take(), answers, list(faults.struck)

    one, two = run(True), run(False)
    assert one == two
    assert len({f.name for f in one[2]}) > 5, "otherwise the test proves nothing"
    assert None in one[1] and any(a and a.status == 429 for a in one[1])


IN_PROCESS = [
    "answer_lost_before", "answer_lost_after", "error_5xx_before", "error_5xx_after", "drop_frames", "reorder_frames",
    "sequence_gap", "malformed_frame",
]  # fmt: skip


# On loopback: the socket


async def test_disconnect_kills_the_connection_without_a_closing_frame() -> None:
    async with venue(once("disconnect")) as (client, steps):
        async with client.socket("trade") as socket:
            await steps.play(1)
            with pytest.raises(ConnectionClosed) as caught:
                await asyncio.wait_for(socket.recv(), 60)
            assert caught.value.rcvd is None, "no closing frame"
        async with client.socket("trade") as socket:
            await steps.play(2)
            assert [f["seq"] for f in await received(socket, 2)] == [1, 2]


async def test_half_open_is_silent_and_answers_no_ping() -> None:
    async with venue(once("half_open")) as (client, steps), client.socket("trade") as socket:
        await steps.play(5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await socket.ping(), 0.2)
        assert (await client.call("GET", "/portfolio/balance")).status_code == 200


async def test_slow_consumer_ends_one_subscription() -> None:
    async with venue(once("slow_consumer")) as (client, steps), client.socket("trade", "ticker") as socket:
        await steps.play(3)
        first, *rest = await received(socket, 4)
        assert (first["type"], first["msg"]["code"]) == ("error", 25)
        assert len({f["sid"] for f in rest} - {first["sid"]}) == 1
        assert first["sid"] not in {f["sid"] for f in rest}


@pytest.mark.parametrize("name", ["drop_frames", "duplicate_frames", "reorder_frames", "sequence_gap"])
async def test_faulty_sequences_differ_as_documented(name: str) -> None:
    async with venue(once(name)) as (client, steps), client.socket("trade") as socket:
        await steps.play(6)
        numbers = [f["seq"] for f in await received(socket, client.venue.frames_sent - 1)]
        plain = list(range(1, 7))
        assert numbers != plain
        if name == "drop_frames":
            assert numbers == plain[-len(numbers) :]
        elif name == "duplicate_frames":
            assert numbers == [1, *plain]
        elif name == "reorder_frames":
            assert numbers == [2, 1, 3, 4, 5, 6]
        else:
            assert numbers == [n + numbers[0] - 1 for n in plain]


async def test_a_malformed_frame_is_not_valid_json() -> None:
    async with venue(once("malformed_frame")) as (client, steps), client.socket("trade") as socket:
        await steps.play(2)
        with pytest.raises(json.JSONDecodeError):
            json.loads(await socket.recv())
        assert json.loads(await socket.recv())["seq"] == 2


async def test_fills_are_delayed_on_the_socket_but_not_over_rest() -> None:
    async with venue(once("delayed_fills", length_us=1)) as (client, steps), client.socket("fill") as socket:
        assert (await client.order("c1", "0.9900")).json()["fill_count"] == "1.00"
        assert len((await client.call("GET", "/portfolio/fills")).json()["fills"]) == 1
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.2)
        await steps.play(1)
        (fill,) = await received(socket, 1)
        assert fill["type"] == "fill"


# On loopback: requests


async def test_an_order_with_answer_lost_before_does_not_arrive() -> None:
    async with venue(once("answer_lost_before")) as (client, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.order("c1")
        assert names(client.venue.exchange) == []
        assert (await client.order("c1")).status_code == 201


async def test_an_order_with_answer_lost_after_is_accepted_once() -> None:
    async with venue(once("answer_lost_after")) as (client, _):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.order("c1")
        assert names(client.venue.exchange) == ["c1"]
        again = await client.order("c1")
        assert (again.status_code, again.json()["error"]["code"]) == (409, "order_already_exists")


@pytest.mark.parametrize(("name", "there"), [("error_5xx_before", []), ("error_5xx_after", ["c1"])])
async def test_a_503_is_answered_with_and_without_accepting_the_order(name: str, there: list[str]) -> None:
    async with venue(once(name)) as (client, _):
        assert (await client.call("GET", "/portfolio/balance")).status_code == 200, "reads are not affected"
        refused = await client.order("c1")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "service_unavailable")
        assert names(client.venue.exchange) == there


async def test_a_storm_of_429_ends() -> None:
    async with venue(once("storm_429")) as (client, _):
        storm = 0
        while (answer := await client.order("c1")).status_code == 429:
            assert answer.json() == {"error": "too many requests"}
            storm += 1
        assert 3 <= storm <= 20 and answer.status_code == 201


async def test_stale_reads_show_a_cancelled_order_as_resting_for_a_while() -> None:
    async with venue(once("stale_reads")) as (client, _):
        order_id = (await client.order("c1")).json()["order_id"]
        other = (await client.order("c2")).json()["order_id"]
        assert (await client.call("DELETE", f"/portfolio/events/orders/{order_id}")).status_code == 200
        path = f"/portfolio/orders/{order_id}"
        one = (await client.call("GET", path)).json()["order"]
        assert (one["status"], one["remaining_count_fp"]) == ("resting", "1.00")
        page = (await client.call("GET", "/portfolio/orders?status=resting")).json()["orders"]
        assert sorted(o["order_id"] for o in page) == sorted([order_id, other])
        for _ in range(20):
            one = (await client.call("GET", path)).json()["order"]
        assert one["status"] == "canceled"
        page = (await client.call("GET", "/portfolio/orders?status=canceled")).json()["orders"]
        assert [o["order_id"] for o in page] == [order_id]


async def test_a_stale_order_is_missing_from_the_list_of_cancelled_orders() -> None:
    async with venue(Faults(["stale_reads"], every_us=0)) as (client, _):
        order_id = (await client.order("c1")).json()["order_id"]
        await client.call("DELETE", f"/portfolio/events/orders/{order_id}")
        page = (await client.call("GET", "/portfolio/orders?status=canceled")).json()["orders"]
        assert page == []
        (seen,) = (await client.call("GET", "/portfolio/orders")).json()["orders"]
        assert seen["status"] == "resting"


async def test_a_skewed_clock_refuses_signatures_and_handshakes() -> None:
    async with venue(once("clock_skew")) as (client, _):
        answer = await client.call("GET", "/portfolio/balance")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "header_timestamp_expired")
        with pytest.raises(InvalidStatus) as caught:
            async with client.socket("trade"):
                pytest.fail("a handshake was accepted")
        assert caught.value.response.status_code == 401
        assert (await client.call("GET", "/exchange/status")).status_code == 200, (
            "unsigned reads are not affected"
        )
        for _ in range(20):
            answer = await client.call("GET", "/portfolio/balance")
        assert answer.status_code == 200


class RecordingLife:
    """A market lifecycle that records the calls made on it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


@pytest.mark.parametrize("name", ["exchange_pause", "trading_pause"])
def test_a_pause_is_started_and_ended_at_its_times(name: str) -> None:
    exchange, life = opened(), RecordingLife()
    exchange.life = life
    faults = once(name, at_us=1, length_us=10)
    faults.attach(exchange)
    what = name.split("_")[0]
    for elapsed_us, expected in (
        (0, []),
        (1, ["pause"]),
        (9, ["pause"]),
        (2, ["pause", "resume"]),
        (99, ["pause", "resume"]),
    ):
        exchange.now += elapsed_us
        faults.tick()
        assert life.calls == [(f"{word}_{what}",) for word in expected]
    again = once(name, length_us=10**12)
    again.attach(exchange)
    again.tick()
    again.finish()
    assert [word for (word,) in life.calls[2:]] == [f"pause_{what}", f"resume_{what}"], "the tape is over"


def test_only_an_active_market_closes_in_flight() -> None:
    exchange, life = opened(), RecordingLife()
    exchange.life = life
    faults = once("close_in_flight")
    faults.attach(exchange)
    ticker = ticker_of(exchange)
    for body in (
        b"",
        b"[",
        b"\xff",
        b"{}",
        b'{"ticker":"NONE"}',
        json.dumps(order(ticker, "c")).encode(),
        b"{}",
    ):
        faults.request(Request("POST", ORDERS, {}, {}, body))
    assert life.calls == [("close_early", ticker)]


@pytest.mark.parametrize(("name", "cancel"), [("trading_pause", 200), ("exchange_pause", 409)])
async def test_a_pause_rejects_orders_until_it_ends(name: str, cancel: int) -> None:
    faults = once(name, at_us=1, length_us=1)
    async with venue(faults) as (client, steps):
        order_id = (await client.order("c1")).json()["order_id"]
        await steps.play(1)
        refused = await client.order("c2")
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            409,
            f"{name.split('_')[0]}_is_paused",
        )
        status = (await client.call("GET", "/exchange/status")).json()
        assert status["trading_active"] is False
        assert (await client.call("DELETE", f"/portfolio/events/orders/{order_id}")).status_code == cancel
        await steps.play(2)
        assert (await client.order("c3")).status_code == 201


async def test_a_market_closes_while_an_order_is_in_flight() -> None:
    async with (
        venue(once("close_in_flight")) as (client, _),
        client.socket("market_lifecycle_v2") as socket,
    ):
        refused = await client.order("c1")
        assert refused.status_code in (400, 409) and "market" in refused.text.lower()
        assert names(client.venue.exchange) == []
        (closed,) = await received(socket, 1)
        assert closed["msg"]["market_ticker"] == client.ticker
