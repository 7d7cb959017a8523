"""The gateway in process: handshakes, faults, frames of a client, and orders in flight."""

from __future__ import annotations

import json
from typing import Any

import pytest

import kalshilab.exchange.server
from kalshilab.clock import WallClock
from kalshilab.exchange import Exchange
from kalshilab.exchange.faults.faults import Fault, Faults
from kalshilab.exchange.faults.frame_faults import FrameEvent
from kalshilab.exchange.rest.params import Answer, Request
from kalshilab.exchange.server.gateway import ClientStream, Gateway, make_gateway
from kalshilab.exchange.state.fill_model import FillModel
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH
from kalshilab.tape import sample

PEM, PUBLIC = generate_key("ed25519")
SIGNER = Signer.from_pem("k", PEM.decode())
ORDERS = REST_PATH + "/portfolio/events/orders"
HOUR_US = 3_600_000_000
SUBSCRIBE = b'{"id":1,"cmd":"subscribe","params":{"channels":["trade"]}}'


def opened(**options: Any) -> Exchange:
    """Return an exchange whose first market is active."""
    exchange = Exchange(*sample(), **options)
    while exchange.prints_played < 3:
        exchange.step()
    return exchange


def signed(method: str, path: str, body: bytes = b"") -> Request:
    return Request(method, path, {}, SIGNER.headers(method, path, WallClock().now() // 1000), body)


def order(gateway: Gateway, name: str) -> list[Answer | None]:
    """Send an order and return the answers to it."""
    ticker = next(x.facts.ticker for x in gateway.exchange.listings if x.status == "active")
    body = {
        "ticker": ticker, "side": "bid", "count": "1.00", "price": "0.0100", "client_order_id": name,
        "time_in_force": "good_till_canceled", "self_trade_prevention_type": "taker_at_cross",
    }  # fmt: skip
    answers: list[Answer | None] = []
    gateway.handle(signed("POST", ORDERS, json.dumps(body).encode()), answers.append)
    return answers


def kinds(frames: list[Any]) -> list[str]:
    return [json.loads(frame)["type"] for frame in frames]


def test_a_client_receives_its_frames_and_is_removed_when_it_closes() -> None:
    gateway = make_gateway(opened(), {"k": PUBLIC})
    notified: list[int] = []
    stream = ClientStream(gateway, lambda: notified.append(stream.waiting))
    stream.connection.receive(SUBSCRIBE)
    gateway.step()
    assert notified == [1, 2] and stream.waiting == 2
    assert kinds(stream.take()) == ["subscribed", "trade"] and stream.take() == []
    stream.close()
    gateway.step()
    assert stream.take() == [] and not gateway.streams


def test_a_handshake_needs_the_right_path_and_a_signature() -> None:
    gateway = make_gateway(opened(), {"k": PUBLIC})
    assert gateway.handshake_refusal(signed("GET", WS_PATH)) is None
    for request, status in (
        (Request("GET", WS_PATH, {}, {}), 401),
        (signed("GET", WS_PATH + "/elsewhere"), 404),
    ):
        refusal = gateway.handshake_refusal(request)
        assert refusal is not None and refusal.status == status and b"error" in refusal.body


def test_faults_drop_connections_after_the_order_was_accepted() -> None:
    faults = Faults(schedule=[Fault(0, "answer_lost_after"), Fault(0, "disconnect")])
    gateway = make_gateway(opened(), {"k": PUBLIC}, faults=faults)
    assert order(gateway, "c1") == [None]
    assert len(gateway.exchange.desk.orders) == 1
    stream = ClientStream(gateway, lambda: None)
    stream.connection.receive(SUBSCRIBE)
    assert kinds(stream.take()) == ["subscribed"]
    gateway.step()
    assert stream.take() == [FrameEvent.DISCONNECT]


@pytest.mark.parametrize("from_the_fill_model", [False, True])
def test_the_tape_goes_on_until_an_order_in_flight_arrives(from_the_fill_model: bool) -> None:
    exchange = opened(fills=FillModel(latency_us=HOUR_US if from_the_fill_model else 0))
    gateway = make_gateway(exchange, {"k": PUBLIC}, latency_us=None if from_the_fill_model else HOUR_US)
    before, played = exchange.now, exchange.prints_played
    (answer,) = order(gateway, "c1")
    assert answer is not None and answer.status == 201
    assert exchange.prints_played > played
    following = exchange.next_ts()
    assert following is not None and exchange.now <= before + HOUR_US < following


def test_the_old_names_still_work_and_warn() -> None:
    exchange = opened()
    with pytest.warns(DeprecationWarning, match="make_front is now make_gateway"):
        make_front = kalshilab.exchange.server.make_front  # type: ignore[attr-defined]
    with pytest.warns(DeprecationWarning, match="'latency' is now 'latency_us'"):
        gateway = make_front(exchange, {"k": PUBLIC}, latency=5)
    assert gateway.latency_us == 5
    with pytest.warns(DeprecationWarning, match="'latency' is now 'latency_us'"):
        assert Gateway(exchange, gateway.router, None, latency=6).latency_us == 6  # type: ignore[call-arg]
