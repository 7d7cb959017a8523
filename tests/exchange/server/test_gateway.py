"""The ASGI application: the same front without a socket of ours."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from kalshilab.clock import WallClock
from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import Fault, Faults
from kalshilab.exchange.server.gateway import App, make_app
from kalshilab.exchange.state.fill_model import FillModel
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.wire.base import WS_PATH
from kalshilab.tape import sample

PEM, PUBLIC = generate_key("ed25519")
SIGNER = Signer.from_pem("k", PEM.decode())
ORDERS = "/trade-api/v2/portfolio/events/orders"
HOUR = 3_600_000_000


def opened(**options: Any) -> Exchange:
    exchange = Exchange(*sample(), **options)
    while exchange.prints_played < 3:
        exchange.step()
    return exchange


def order(exchange: Exchange, name: str) -> dict[str, str]:
    ticker = next(x.facts.ticker for x in exchange.listings if x.status == "active")
    return {
        "ticker": ticker, "side": "bid", "count": "1.00", "price": "0.0100", "client_order_id": name,
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip


async def post(app: App, body: object) -> httpx.Response:
    headers = SIGNER.headers("POST", ORDERS, WallClock().now() // 1000)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://exchange") as client:
        return await client.post(ORDERS, json=body, headers=headers)


class Socket:
    """A WebSocket client of an ASGI application."""

    def __init__(self, app: App, path: str = WS_PATH, signed: bool = True, denial: bool = True) -> None:
        headers = SIGNER.headers("GET", WS_PATH, WallClock().now() // 1000) if signed else {}
        scope = {
            "type": "websocket",
            "path": path,
            "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
            "extensions": {"websocket.http.response": {}} if denial else {},
        }
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.sent.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.ensure_future(app(scope, self.sent.get, self.heard.put))

    def say(self, **message: Any) -> None:
        self.sent.put_nowait({"type": "websocket.receive", **message})

    async def hear(self) -> Any:
        return await asyncio.wait_for(self.heard.get(), 5)


async def test_a_websocket() -> None:
    exchange = opened()
    app = make_app(exchange, {"k": PUBLIC})
    socket = Socket(app)
    assert (await socket.hear())["type"] == "websocket.accept"
    socket.say(text='{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
    assert json.loads((await socket.hear())["text"])["type"] == "subscribed"
    exchange.step()
    assert json.loads((await socket.hear())["text"])["type"] == "trade"
    socket.say(bytes=b'{"id":2,"cmd":"list_subscriptions"}')
    assert json.loads((await socket.hear())["text"])["id"] == 2
    socket.sent.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await asyncio.wait_for(socket.task, 5)
    assert not app.front.channels


async def test_refused_handshakes() -> None:
    app = make_app(opened(), {"k": PUBLIC})
    for socket, status in ((Socket(app, signed=False), 401), (Socket(app, path="/elsewhere"), 404)):
        assert (await socket.hear())["status"] == status
        assert b"error" in (await socket.hear())["body"]
    bare = Socket(app, signed=False, denial=False)
    assert await bare.hear() == {"type": "websocket.close", "code": 1008}


async def test_connections_that_die_raise() -> None:
    exchange = opened()
    faults = Faults(schedule=[Fault(0, "answer_lost_after"), Fault(0, "disconnect")])
    app = make_app(exchange, {"k": PUBLIC}, faults=faults)
    with pytest.raises(ConnectionResetError):
        await post(app, order(exchange, "c1"))
    assert len(exchange.desk.orders) == 1
    socket = Socket(app)
    await socket.hear()
    socket.say(text='{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}')
    await socket.hear()
    exchange.step()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(socket.task, 5)
    assert not app.front.channels


@pytest.mark.parametrize("said_by_the_model", [False, True])
async def test_an_order_under_way_lets_the_tape_go_on(said_by_the_model: bool) -> None:
    exchange = opened(fills=FillModel(latency_us=HOUR if said_by_the_model else 0))
    app = make_app(exchange, {"k": PUBLIC}, latency=None if said_by_the_model else HOUR)
    before, played = exchange.now, exchange.prints_played
    assert (await post(app, order(exchange, "c1"))).status_code == 201
    assert exchange.prints_played > played
    assert exchange.now <= before + HOUR < exchange.next_ts()
