"""The served exchange: both protocols on one port, signed handshakes, a paced tape, and a complete clean-up."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kalshilab.clock import SimClock, WallClock
from kalshilab.errors import ExchangeError
from kalshilab.exchange import Exchange, Venue, serve
from kalshilab.exchange.server.server import Deadlines
from kalshilab.exchange.server.websocket import OUTBOX_LIMIT
from kalshilab.kalshi.auth import Signer
from kalshilab.kalshi.wire.base import WS_PATH
from kalshilab.tape import sample


def signed(venue: Venue) -> dict[str, str]:
    signer = Signer.from_pem(venue.key_id, venue.private_key_path)
    return signer.headers("GET", WS_PATH, WallClock().now() // 1000)


class Gate:
    """A pace that records the time of each step and blocks until `open` is set."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.open = asyncio.Event()

    async def step(self, ts: int) -> None:
        await self.open.wait()
        self.times.append(ts)


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def test_handshakes_must_be_signed() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        for headers in ({}, {**signed(venue), "KALSHI-ACCESS-SIGNATURE": "AAAA"}):
            with pytest.raises(InvalidStatus) as caught:
                await connect(venue.ws, additional_headers=headers, proxy=None)
            assert caught.value.response.status_code == 401
        async with connect(venue.ws, additional_headers=signed(venue), proxy=None) as socket:
            await socket.send('{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
            assert json.loads(await socket.recv())["type"] == "subscribed"


async def test_two_clients_receive_every_frame_in_the_same_order() -> None:
    tape, markets = sample()
    gate = Gate()
    async with serve(Exchange(tape, markets), pace=gate, key_kind="ed25519") as venue:

        async def trade_ids() -> list[str]:
            async with connect(
                venue.ws, additional_headers=signed(venue), proxy=None, max_queue=None
            ) as socket:
                await socket.send('{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
                assert json.loads(await socket.recv())["type"] == "subscribed"
                ready.release()
                return [json.loads(await socket.recv())["msg"]["trade_id"] for _ in range(tape.height)]

        ready = asyncio.Semaphore(0)
        clients = [asyncio.ensure_future(trade_ids()) for _ in range(2)]
        for _ in clients:
            await ready.acquire()
        gate.open.set()
        one, two = await asyncio.wait_for(asyncio.gather(*clients), 60)
        await asyncio.wait_for(venue.finished.wait(), 60)
        assert one == two == tape["trade_id"].to_list()
        assert gate.times == sorted(gate.times)
        assert venue.frames_sent == 2 * (tape.height + 1)


async def test_a_slow_client_slows_the_tape_down_and_loses_nothing() -> None:
    tape, markets = sample()
    exchange = Exchange(tape, markets)
    channels = ["trade", "ticker", "market_lifecycle_v2"]
    async with serve(exchange, speed=900_000.0, key_kind="ed25519") as venue:
        connecting = connect(venue.ws, additional_headers=signed(venue), proxy=None, max_queue=4)
        async with connecting as socket:
            await socket.send(json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": channels}}))
            for _ in channels:
                assert json.loads(await socket.recv())["type"] == "subscribed"
            # The client does not read, so the tape stops at the outbox limit.
            websockets = venue._server.websockets
            await until(lambda: any(w.pending_frames > OUTBOX_LIMIT for w in websockets))
            assert exchange.prints_played < tape.height
            received = 0
            while received < venue.frames_sent - len(channels) or not venue.finished.is_set():
                await asyncio.wait_for(socket.recv(), 60)
                received += 1
            assert exchange.prints_played == tape.height


async def test_speed_is_tape_time_per_wall_time() -> None:
    tape, markets = sample()
    exchange = Exchange(tape, markets)
    begins, clock = exchange.next_ts(), SimClock()
    assert begins is not None
    async with serve(exchange, speed=50_000.0, key_kind="ed25519", clock=clock):
        await until(lambda: exchange.next_ts() > begins)
        for half_seconds in range(1, 5):
            clock.advance(half_seconds * 500_000)
            due = begins + half_seconds * 25_000 * 1_000_000
            await until(lambda due=due: exchange.next_ts() > due)
            assert begins < exchange.now <= due


async def test_the_end_of_serving_leaves_no_task_and_no_key_file() -> None:
    before = asyncio.all_tasks()
    async with serve(Exchange(*sample()), speed=1.0) as venue:
        key = venue.private_key_path
        assert isinstance(key, Path) and key.stat().st_mode & 0o777 == 0o600
        assert "PRIVATE" not in repr(venue)
        socket = await connect(venue.ws, additional_headers=signed(venue), proxy=None)
    await socket.wait_closed()
    assert not key.exists()
    assert asyncio.all_tasks() == before


async def test_a_port_in_use_is_refused() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        port = int(venue.rest.split(":")[2].split("/")[0])
        with pytest.raises(ExchangeError, match=f"port {port} cannot be used"):
            async with serve(Exchange(*sample()), port=port, key_kind="ed25519"):
                pass


async def test_a_port_out_of_range_is_refused() -> None:
    with pytest.raises(ExchangeError, match="port must be between 1 and 65535, got 65536"):
        async with serve(Exchange(*sample()), port=65_536, key_kind="ed25519"):
            pass


async def test_public_reads_need_no_signature_and_other_paths_are_unknown() -> None:
    async with (
        serve(Exchange(*sample()), pace=Gate(), key_kind="ed25519") as venue,
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(venue.rest + "/exchange/status")).json()["exchange_active"] is True
        assert (await client.get(venue.rest + "/portfolio/balance")).status_code == 401
        elsewhere = venue.rest.removesuffix("/trade-api/v2") + "/elsewhere"
        assert (await client.get(elsewhere)).status_code == 404


class Hurry(WallClock):
    """Machine time whose sleeps are a hundred times shorter."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 100)


def port_of(venue: Venue) -> int:
    return int(venue.rest.split(":")[2].split("/")[0])


async def assert_healthy(venue: Venue) -> None:
    async with httpx.AsyncClient() as client:
        assert (await client.get(venue.rest + "/exchange/status")).status_code == 200


# Clients that misbehave


async def test_invalid_bytes_do_not_stop_the_server() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        for garbage in (
            b"\x00" * 100,
            b"GET / HTTP/9.9\r\n\r\n",
            b"POST " + b"a" * 10_000,
            b"\x16\x03\x01" * 99,
        ):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(venue))
            writer.write(garbage)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        await assert_healthy(venue)
        await until(lambda: venue.connections == 0)


async def test_slow_requests_are_answered_408_and_disconnected() -> None:
    slow = Deadlines(request_s=3, idle_s=10**6)
    async with serve(
        Exchange(*sample()), pace=Gate(), key_kind="ed25519", clock=Hurry(), deadlines=slow
    ) as venue:
        clients = [await asyncio.open_connection("127.0.0.1", port_of(venue)) for _ in range(50)]
        for _, writer in clients:
            writer.write(b"POST /trade-api/v2/portfolio/events/orders HTTP/1.1\r\nContent-Length: 9\r\n\r\n{")
        for reader, writer in clients:
            assert (await asyncio.wait_for(reader.read(), 60)).startswith(b"HTTP/1.1 408 ")
            writer.close()
        await until(lambda: venue.connections == 0)
        await assert_healthy(venue)


async def test_a_thousand_idle_connections_need_little_memory() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        number = min(1_000, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 100) // 2)
        tracemalloc.start()
        try:
            idle = []
            for _ in range(number):
                one = socket.create_connection(("127.0.0.1", port_of(venue)))
                idle.append(one)
                if len(idle) % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: venue.connections == number)
            await assert_healthy(venue)
            assert tracemalloc.get_traced_memory()[0] < number * 20_000, "bytes, 20 kB each"
        finally:
            tracemalloc.stop()
            for one in idle:
                one.close()
        await until(lambda: venue.connections == 0)


async def test_oversized_bodies_and_messages_are_refused() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        async with httpx.AsyncClient() as client:
            huge = await client.post(venue.rest + "/portfolio/events/orders", content=b"x" * 3_000_000)
            assert huge.status_code == 413
        async with connect(venue.ws, additional_headers=signed(venue), proxy=None) as socket:
            with pytest.raises(ConnectionClosed) as caught:
                await socket.send("x" * 3_000_000)
                await asyncio.wait_for(socket.recv(), 60)
            assert caught.value.rcvd.code == 1009
        async with connect(venue.ws, additional_headers=signed(venue), proxy=None) as socket:
            for garbage in ("", "[", "{}", '{"id":1}', b"\xff\xfe", '{"id":1,"cmd":5}'):
                await socket.send(garbage)
                assert json.loads(await socket.recv())["type"] == "error"
            await socket.send('{"id":1,"cmd":"list_subscriptions"}')
            assert json.loads(await socket.recv())["type"] == "ok"


async def test_a_client_that_never_reads_is_disconnected_and_the_tape_goes_on() -> None:
    tape, markets = sample()
    impatient = Deadlines(write_s=20)
    async with serve(
        Exchange(tape, markets), speed=10**9, key_kind="ed25519", clock=Hurry(), deadlines=impatient
    ) as venue:
        _, writer = await asyncio.open_connection("127.0.0.1", port_of(venue), limit=1024)
        lines = [f"GET {WS_PATH} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Host: x"]
        lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        lines += [f"{name}: {value}" for name, value in signed(venue).items()]
        command = b'{"id":1,"cmd":"subscribe","params":{"channels":["trade","ticker"]}}'
        frame = bytes([0x81, 0x80 | len(command)]) + b"\0\0\0\0" + command
        writer.write("\r\n".join([*lines, "", ""]).encode() + frame)
        await asyncio.wait_for(venue.finished.wait(), 60)
        await until(lambda: venue.connections == 0)
        assert venue.exchange.prints_played == tape.height
        writer.close()


# Time


async def test_the_signature_window_can_be_set() -> None:
    for window_ms, age_ms, status in ((1_000, 5_000, 401), (60_000, 30_000, 200), (20_000, 30_000, 401)):
        async with (
            serve(Exchange(*sample()), pace=Gate(), key_kind="ed25519", window_ms=window_ms) as venue,
            httpx.AsyncClient() as client,
        ):
            signer = Signer.from_pem(venue.key_id, venue.private_key_path)
            path = "/trade-api/v2/portfolio/balance"
            headers = signer.headers("GET", path, WallClock().now() // 1000 - age_ms)
            answer = await client.get(venue.rest + "/portfolio/balance", headers=headers)
            assert answer.status_code == status


HOUR_US = 3_600_000_000


async def send_order(venue: Venue, name: str) -> httpx.Response:
    path = "/trade-api/v2/portfolio/events/orders"
    ticker = next(x.facts.ticker for x in venue.exchange.listings if x.status == "active")
    body = {
        "ticker": ticker, "side": "bid", "count": "1.00", "price": "0.0100", "client_order_id": name,
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip
    signer = Signer.from_pem(venue.key_id, venue.private_key_path)
    headers = signer.headers("POST", path, WallClock().now() // 1000)
    async with httpx.AsyncClient() as client:
        return await client.post(venue.rest + "/portfolio/events/orders", json=body, headers=headers)


def opened() -> Exchange:
    """Return an exchange whose first market is active."""
    exchange = Exchange(*sample())
    while exchange.prints_played < 3:
        exchange.step()
    return exchange


async def test_a_paced_tape_is_played_until_an_order_in_flight_arrives() -> None:
    exchange = opened()
    gate = Gate()
    async with serve(exchange, pace=gate, key_kind="ed25519", latency_us=HOUR_US) as venue:
        before, played = exchange.now, exchange.prints_played
        answer = await send_order(venue, "c1")
        assert answer.status_code == 201, "although the pace blocks the tape"
        assert exchange.prints_played > played
        assert exchange.next_ts() > before + HOUR_US >= exchange.now
        assert answer.json()["ts_ms"] * 1000 <= before + HOUR_US
        paced = exchange.prints_played
        gate.open.set()
        await asyncio.wait_for(venue.finished.wait(), 60)
        assert gate.times == sorted(gate.times)
        assert exchange.prints_played == sample()[0].height > paced


async def test_an_order_waits_in_wall_time_when_the_tape_keeps_wall_time() -> None:
    exchange = opened()
    async with serve(exchange, speed=3_600.0, key_kind="ed25519", latency_us=HOUR_US // 2) as venue:
        clock = WallClock()
        began = clock.monotonic()
        answer = await send_order(venue, "c1")
        assert answer.status_code == 201
        assert 0.4 < clock.monotonic() - began < 100, "half an hour of tape time is half a second"


async def test_an_order_after_the_end_of_the_tape_is_answered() -> None:
    exchange = opened()
    async with serve(exchange, key_kind="ed25519", latency_us=HOUR_US) as venue:
        await asyncio.wait_for(venue.finished.wait(), 60)
        path = "/trade-api/v2/portfolio/events/orders"
        headers = Signer.from_pem(venue.key_id, venue.private_key_path).headers(
            "DELETE", path, WallClock().now() // 1000
        )
        async with httpx.AsyncClient() as client:
            assert (await client.delete(venue.rest + "/portfolio/events/orders", headers=headers)).is_success


async def test_the_old_names_of_times_still_work_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match="is now '(request|idle|write|ping)_s'"):
        deadlines = Deadlines(request=1, idle=2, write=3, ping=4)
    assert deadlines == Deadlines(request_s=1, idle_s=2, write_s=3, ping_s=4)
    with pytest.warns(DeprecationWarning, match="'latency' is now 'latency_us'"):
        serving = serve(opened(), pace=Gate(), key_kind="ed25519", latency=HOUR_US)
    async with serving as venue:
        assert venue._server.gateway.latency_us == HOUR_US


# The command


def test_the_command_prints_one_line_and_ends_cleanly_on_an_interrupt() -> None:
    command = [sys.executable, "-m", "kalshilab", "exchange", "--speed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        facts = json.loads(process.stdout.readline())
        assert set(facts) == {"rest", "ws", "key_id", "private_key_path"}
        assert httpx.get(facts["rest"] + "/exchange/status").status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
        assert not Path(facts["private_key_path"]).exists()
