"""The rim: one port for both protocols, signed handshakes, a paced tape, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from kalshilab.errors import ExchangeError
from kalshilab.exchange import Exchange, serve
from kalshilab.exchange.server import make_app
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.wire.base import WS_PATH
from kalshilab.tape import sample


def signed(venue: object) -> dict[str, str]:
    from kalshilab.clock import WallClock

    signer = Signer.from_pem(venue.key_id, venue.private_key_path)
    return signer.headers("GET", WS_PATH, WallClock().now() // 1000)


class Gate:
    """A pace that counts and can be held."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.open = asyncio.Event()

    async def step(self, ts: int) -> None:
        await self.open.wait()
        self.times.append(ts)


async def test_handshakes_must_be_signed() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        for headers in ({}, {**signed(venue), "KALSHI-ACCESS-SIGNATURE": "AAAA"}):
            with pytest.raises(InvalidStatus) as caught:
                await connect(venue.ws, additional_headers=headers, proxy=None)
            assert caught.value.response.status_code == 401
        async with connect(venue.ws, additional_headers=signed(venue), proxy=None) as socket:
            await socket.send('{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
            assert json.loads(await socket.recv())["type"] == "subscribed"


async def test_two_listeners_hear_the_same_and_nothing_is_dropped() -> None:
    tape, markets = sample()
    gate = Gate()
    async with serve(Exchange(tape, markets), pace=gate, key_kind="ed25519") as venue:

        async def hear() -> list[str]:
            async with connect(
                venue.ws, additional_headers=signed(venue), proxy=None, max_queue=None
            ) as socket:
                await socket.send('{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
                assert json.loads(await socket.recv())["type"] == "subscribed"
                ready.release()
                return [json.loads(await socket.recv())["msg"]["trade_id"] for _ in range(tape.height)]

        ready = asyncio.Semaphore(0)
        listeners = [asyncio.ensure_future(hear()) for _ in range(2)]
        for _ in listeners:
            await ready.acquire()
        gate.open.set()
        one, two = await asyncio.wait_for(asyncio.gather(*listeners), 60)
        await asyncio.wait_for(venue.finished.wait(), 10)
        assert one == two == tape["trade_id"].to_list()
        assert gate.times == sorted(gate.times)
        assert venue.frames_sent == 2 * (tape.height + 1)


async def test_a_slow_listener_slows_the_tape_down_and_loses_nothing() -> None:
    tape, markets = sample()
    exchange = Exchange(tape, markets)
    channels = ["trade", "ticker", "market_lifecycle_v2"]
    async with serve(exchange, speed=300_000.0, key_kind="ed25519") as venue:
        connecting = connect(venue.ws, additional_headers=signed(venue), proxy=None, max_queue=4)
        async with connecting as socket:
            await socket.send(json.dumps({"id": 1, "cmd": "subscribe", "params": {"channels": channels}}))
            for _ in channels:
                assert json.loads(await socket.recv())["type"] == "subscribed"
            # Six days at this speed are two seconds; nobody reads for twice as long.
            await asyncio.sleep(4)
            stalled = exchange.prints_played
            assert stalled < tape.height
            heard = 0
            while heard < venue.frames_sent - len(channels) or not venue.finished.is_set():
                await asyncio.wait_for(socket.recv(), 10)
                heard += 1
            assert exchange.prints_played == tape.height


async def test_speed_is_tape_time_per_wall_time() -> None:
    tape, markets = sample()
    exchange = Exchange(tape, markets)
    begins = exchange.next_ts()
    async with serve(exchange, speed=50_000.0, key_kind="ed25519"):
        await asyncio.sleep(0.5)
        played = (exchange.now - begins) / 1e6
    assert 5_000 < played < 100_000


async def test_nothing_is_left_behind() -> None:
    before = asyncio.all_tasks()
    async with serve(Exchange(*sample()), speed=1.0) as venue:
        key = venue.private_key_path
        assert isinstance(key, Path) and key.stat().st_mode & 0o777 == 0o600
        assert "PRIVATE" not in repr(venue)
        socket = await connect(venue.ws, additional_headers=signed(venue), proxy=None)
    await socket.wait_closed()
    assert not key.exists()
    assert asyncio.all_tasks() == before


async def test_a_taken_port() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        port = int(venue.rest.split(":")[2].split("/")[0])
        with pytest.raises(ExchangeError, match=f"port {port} cannot be used"):
            async with serve(Exchange(*sample()), port=port, key_kind="ed25519"):
                pass


async def test_in_process_without_a_socket() -> None:
    exchange = Exchange(*sample())
    app = make_app(exchange, {"k": generate_key("ed25519")[1]})
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://exchange/trade-api/v2") as client:
        assert (await client.get("/exchange/status")).json()["exchange_active"] is True
        assert (await client.get("/portfolio/balance")).status_code == 401
        huge = await client.post("/portfolio/events/orders", content=b"x" * 1_100_000)
        assert huge.status_code == 413
    assert (
        await httpx.AsyncClient(transport=transport, base_url="http://x").get("/elsewhere")
    ).status_code == 404


async def test_garbage_does_not_stop_it() -> None:
    async with serve(Exchange(*sample()), speed=1.0, key_kind="ed25519") as venue:
        port = int(venue.rest.split(":")[2].split("/")[0])
        for rubbish in (b"\x00" * 100, b"GET / HTTP/9.9\r\n\r\n", b"POST " + b"a" * 10_000):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(rubbish)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        async with httpx.AsyncClient() as client:
            assert (await client.get(venue.rest + "/exchange/status")).status_code == 200
