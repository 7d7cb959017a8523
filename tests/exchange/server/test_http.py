"""Connections without a socket: whatever bytes come, in whatever pieces, the answers are the same and it lives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kalshilab.clock import WallClock
from kalshilab.exchange import Exchange
from kalshilab.exchange.server.gateway import MAX_BODY, make_front
from kalshilab.exchange.server.http import MAX_HEAD, Port
from kalshilab.exchange.server.websocket import DEADLINES, Deadlines, Link
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.wire.base import WS_PATH
from kalshilab.tape import sample

PEM, PUBLIC = generate_key("ed25519")
SIGNER = Signer.from_pem("k", PEM.decode())
STATUS = b"GET /trade-api/v2/exchange/status HTTP/1.1\r\nHost: x\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol, self.written = protocol, bytearray()
        self.reading, self.open, self.half = True, True, False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        assert not self.half, "written after the end"
        self.written += data

    def write_eof(self) -> None:
        self.half = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return not self.open

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.close()

    def close(self) -> None:
        if self.open:
            self.open = False
            self.protocol.connection_lost(None)

    def send(self, data: bytes) -> None:
        """What the client sends."""
        if self.open:
            self.protocol.data_received(data)


EXCHANGE = Exchange(*sample())
EXCHANGE.step()


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    made = Port(make_front(EXCHANGE, {"k": PUBLIC}), DEADLINES)
    yield made
    made.end()
    assert not (made.connections or made.links)


def joined(port: Port) -> Wire:
    connection = port.accept()
    wire = Wire(connection)
    connection.connection_made(wire)
    return wire


def statuses(data: bytes) -> list[int]:
    return [int(piece[:3]) for piece in bytes(data).split(b"HTTP/1.1 ")[1:]]


def opening(extra: bytes = b"") -> bytes:
    signed = SIGNER.headers("GET", WS_PATH, WallClock().now() // 1000)
    lines = [f"GET {WS_PATH} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in signed.items()]
    return "\r\n".join([*lines, "", ""]).encode() + extra


def said(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """A client's frame."""
    head = bytes([0x80 * fin | opcode])
    size = len(payload)
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65_536:
        head += bytes([0x80 | 126]) + size.to_bytes(2)
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8)
    return head + b"\0\0\0\0" + payload


# HTTP


async def test_requests_in_one_piece_or_byte_by_byte(port: Port) -> None:
    one, two = joined(port), joined(port)
    one.send(STATUS * 3)
    for byte in STATUS * 3:
        two.send(bytes([byte]))
    assert one.written == two.written
    assert statuses(one.written) == [200, 200, 200]


async def test_head_connection_close_http_1_0_and_chunks(port: Port) -> None:
    wire = joined(port)
    wire.send(STATUS.replace(b"GET", b"HEAD"))
    assert wire.written.endswith(b"\r\n\r\n"), "no body"
    wire.send(b"POST /trade-api/v2/portfolio/events/orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    wire.send(b"3\r\n{}x\r\n0\r\n\r\n")
    assert statuses(wire.written) == [404, 401]
    assert not wire.half
    wire.send(STATUS.replace(b"Host", b"Connection: close\r\nHost"))
    assert b"connection: close" in wire.written and wire.half
    wire.send(STATUS)
    assert len(statuses(wire.written)) == 3, "nothing after the end"
    old = joined(port)
    old.send(b"GET /trade-api/v2/exchange/status HTTP/1.0\r\n\r\n")
    assert statuses(old.written) == [200] and old.half


async def test_a_body_is_asked_for(port: Port) -> None:
    wire = joined(port)
    wire.send(b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert statuses(wire.written) == [100]
    wire.send(b"{}")
    assert statuses(wire.written) == [100, 404]


async def test_too_much_is_told_so_and_hung_up_on(port: Port) -> None:
    head = joined(port)
    head.send(b"GET / HTTP/1.1\r\n")
    for n in range(MAX_HEAD // 100 + 1):
        head.send(b"x-%06d: %b\r\n" % (n, b"a" * 100))
    assert statuses(head.written) == [431] and head.half
    body = joined(port)
    body.send(b"POST /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY * 10))
    for _ in range(20):
        body.send(b"a" * 100_000)
    assert statuses(body.written) == [413] and body.half
    chunked = joined(port)
    chunked.send(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20):
        chunked.send(b"186a0\r\n" + b"a" * 100_000 + b"\r\n")
    assert statuses(chunked.written) == [413]
    address = joined(port)
    address.send(b"GET /")
    for _ in range(10):
        address.send(b"a" * 5_000)
    assert statuses(address.written) == [431]


async def test_a_client_that_does_not_read_is_not_answered_and_not_read(port: Port) -> None:
    wire = joined(port)
    wire.protocol.pause_writing()
    wire.send(STATUS * 1000)
    assert not wire.written and not wire.reading
    wire.protocol.resume_writing()
    assert statuses(wire.written) == [200] * 1000 and wire.reading


async def test_deadlines() -> None:
    port = Port(make_front(EXCHANGE, {"k": PUBLIC}), Deadlines(request=2, idle=5, write=3))
    idle, slow, stuck = joined(port), joined(port), joined(port)
    stuck.protocol.pause_writing()
    done = joined(port)
    done.send(STATUS)
    for _ in range(3):
        slow.send(b"GET /" if not slow.protocol._in_request else b"a")
        port.tick()
    assert statuses(slow.written) == [408] and slow.half
    assert stuck.open and idle.open and not idle.half
    for _ in range(9):
        port.tick()
    assert not (idle.open or slow.open or stuck.open or done.open)
    assert not port.connections


async def test_an_error_of_ours_costs_one_connection_and_is_told(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    monkeypatch.setattr(port.front.side, "answer", lambda request: 1 / 0)
    wire = joined(port)
    wire.send(STATUS)
    assert statuses(wire.written) == [500] and wire.half
    assert isinstance(told[0]["exception"], ZeroDivisionError)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from([STATUS, b"GET ", b"\r\n\r\n", b"HTTP/1.1\r\n", b"Content-Length: -1\r\n"]),
        ),
        max_size=8,
    )
)
async def test_any_bytes(pieces: list[bytes]) -> None:
    port = Port(make_front(EXCHANGE, {"k": PUBLIC}), DEADLINES)
    wire = joined(port)
    for piece in pieces:
        wire.send(piece)
    assert all(status in (200, 400, 401, 404, 431) for status in statuses(wire.written))
    fresh = joined(port)
    fresh.send(STATUS)
    assert statuses(fresh.written) == [200]


# WebSocket


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """A server's frames after its handshake."""
    at, out = data.index(b"\r\n\r\n") + 4, []
    while at < len(data):
        opcode, size = data[at] & 15, data[at + 1]
        at += 2
        if size > 125:
            width = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + width])
            at += width
        out.append((opcode, bytes(data[at : at + size])))
        at += size
    return out


async def test_a_handshake_and_a_command_in_one_piece(port: Port) -> None:
    wire = joined(port)
    wire.send(opening(said(b'{"id":1,"cmd":"list_subscriptions"}')))
    await asyncio.sleep(0)
    ((opcode, reply),) = frames(wire.written)
    assert opcode == 1 and json.loads(reply)["id"] == 1
    assert isinstance(wire.protocol, Link) and not port.connections


async def test_refused_handshakes_are_answered_over_http(port: Port) -> None:
    for request, status in (
        (opening().replace(b"ws/v2", b"ws/v3", 1), 404),
        (opening().replace(b"KALSHI-ACCESS-KEY: k", b"KALSHI-ACCESS-KEY: z"), 401),
        (opening().replace(b"Sec-WebSocket-Key", b"Sec-WebSocket-Nope"), 400),
        (opening().replace(b"Version: 13", b"Version: 7"), 400),
    ):
        wire = joined(port)
        wire.send(request)
        assert statuses(wire.written) == [status] and wire.half
    other = joined(port)
    other.send(STATUS.replace(b"Host", b"Upgrade: h2c\r\nConnection: Upgrade\r\nHost"))
    assert statuses(other.written) == [200], "another protocol may be ignored"


async def test_too_large_a_message_is_closed_with_1009(port: Port) -> None:
    for large in (said(b"a" * 1_000_001), said(b"a" * 600_000, fin=False) + said(b"a" * 600_000, opcode=0)):
        wire = joined(port)
        wire.send(opening())
        for at in range(0, len(large), 65_536):
            wire.send(large[at : at + 65_536])
        opcode, reason = frames(wire.written)[-1]
        assert opcode == 8 and int.from_bytes(reason[:2]) == 1009
        assert wire.half, "and then the end"


async def test_pings_both_ways_and_a_closing_handshake(port: Port) -> None:
    wire = joined(port)
    wire.send(opening())
    wire.send(said(b"abc", opcode=9))
    for _ in range(DEADLINES.ping):
        port.tick()
    wire.send(said((1000).to_bytes(2), opcode=8))
    assert frames(wire.written) == [(10, b"abc"), (9, b"heartbeat"), (8, (1000).to_bytes(2))]
    assert wire.half
    for _ in range(4):
        port.tick()
    assert not wire.open and not port.links


async def test_commands_of_a_client_that_does_not_read_wait(port: Port) -> None:
    wire = joined(port)
    wire.send(opening())
    wire.protocol.pause_writing()
    wire.send(said(b'{"id":1,"cmd":"list_subscriptions"}') * 5)
    assert not wire.reading
    wire.protocol.resume_writing()
    assert wire.reading and len(frames(wire.written)) == 5
    wire.protocol.pause_writing()
    for _ in range(DEADLINES.write + 1):
        port.tick()
    assert not wire.open, "given up"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(said, st.binary(max_size=40), st.integers(0, 15), st.booleans()),
        ),
        max_size=8,
    )
)
async def test_any_bytes_after_a_handshake(pieces: list[bytes]) -> None:
    port = Port(make_front(EXCHANGE, {"k": PUBLIC}), DEADLINES)
    wire = joined(port)
    wire.send(opening())
    for piece in pieces:
        wire.send(piece)
        await asyncio.sleep(0)
    wire.close()
    assert not port.links and not port.front.channels
