"""Connections without a socket: the answers do not depend on how bytes are grouped, and no bytes stop the server."""

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
from kalshilab.exchange.server.gateway import MAX_BODY, make_gateway
from kalshilab.exchange.server.http import MAX_HEAD, HttpServer
from kalshilab.exchange.server.websocket import DEADLINES, Deadlines, WebSocketConnection
from kalshilab.kalshi.auth import Signer, generate_key
from kalshilab.kalshi.wire.base import WS_PATH
from kalshilab.tape import sample

PEM, PUBLIC = generate_key("ed25519")
SIGNER = Signer.from_pem("k", PEM.decode())
STATUS = b"GET /trade-api/v2/exchange/status HTTP/1.1\r\nHost: x\r\n\r\n"


class RecordingTransport(asyncio.Transport):
    """A transport that records the bytes written to it."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self.protocol, self.written = protocol, bytearray()
        self.reading, self.open, self.half = True, True, False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        assert not self.half, "written after the end of the stream"
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
        """Deliver bytes from the client."""
        if self.open:
            self.protocol.data_received(data)


EXCHANGE = Exchange(*sample())
EXCHANGE.step()


@pytest.fixture
async def server() -> AsyncIterator[HttpServer]:
    made = new_server()
    yield made
    made.abort()
    assert not (made.connections or made.websockets)


def new_server(deadlines: Deadlines = DEADLINES) -> HttpServer:
    return HttpServer(make_gateway(EXCHANGE, {"k": PUBLIC}), deadlines)


def connected(server: HttpServer) -> RecordingTransport:
    """Return the transport of a new connection."""
    connection = server.accept()
    transport = RecordingTransport(connection)
    connection.connection_made(transport)
    return transport


def statuses(data: bytes) -> list[int]:
    return [int(piece[:3]) for piece in bytes(data).split(b"HTTP/1.1 ")[1:]]


def handshake(extra: bytes = b"") -> bytes:
    signed = SIGNER.headers("GET", WS_PATH, WallClock().now() // 1000)
    lines = [f"GET {WS_PATH} HTTP/1.1", "Host: x", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    lines += [f"{name}: {value}" for name, value in signed.items()]
    return "\r\n".join([*lines, "", ""]).encode() + extra


def client_frame(payload: bytes, opcode: int = 1, fin: bool = True) -> bytes:
    """Return a client's frame, masked with zeros."""
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


async def test_answers_are_the_same_for_requests_in_one_piece_and_byte_by_byte(server: HttpServer) -> None:
    one, two = connected(server), connected(server)
    one.send(STATUS * 3)
    for byte in STATUS * 3:
        two.send(bytes([byte]))
    assert one.written == two.written
    assert statuses(one.written) == [200, 200, 200]


async def test_head_chunks_connection_close_and_http_1_0_are_supported(server: HttpServer) -> None:
    client = connected(server)
    client.send(STATUS.replace(b"GET", b"HEAD"))
    assert client.written.endswith(b"\r\n\r\n"), "no body"
    client.send(b"POST /trade-api/v2/portfolio/events/orders HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send(b"3\r\n{}x\r\n0\r\n\r\n")
    assert statuses(client.written) == [404, 401]
    assert not client.half
    client.send(STATUS.replace(b"Host", b"Connection: close\r\nHost"))
    assert b"connection: close" in client.written and client.half
    client.send(STATUS)
    assert len(statuses(client.written)) == 3, "no answer after the end"
    old = connected(server)
    old.send(b"GET /trade-api/v2/exchange/status HTTP/1.0\r\n\r\n")
    assert statuses(old.written) == [200] and old.half


async def test_expect_continue_is_answered(server: HttpServer) -> None:
    client = connected(server)
    client.send(b"POST /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert statuses(client.written) == [100]
    client.send(b"{}")
    assert statuses(client.written) == [100, 404]


async def test_oversized_requests_get_an_error_answer_and_are_disconnected(server: HttpServer) -> None:
    head = connected(server)
    head.send(b"GET / HTTP/1.1\r\n")
    for n in range(MAX_HEAD // 100 + 1):
        head.send(b"x-%06d: %b\r\n" % (n, b"a" * 100))
    assert statuses(head.written) == [431] and head.half
    body = connected(server)
    body.send(b"POST /x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY * 10))
    for _ in range(20):
        body.send(b"a" * 100_000)
    assert statuses(body.written) == [413] and body.half
    chunked = connected(server)
    chunked.send(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(20):
        chunked.send(b"186a0\r\n" + b"a" * 100_000 + b"\r\n")
    assert statuses(chunked.written) == [413]
    address = connected(server)
    address.send(b"GET /")
    for _ in range(10):
        address.send(b"a" * 5_000)
    assert statuses(address.written) == [431]


async def test_a_client_that_does_not_read_is_not_answered_and_not_read(server: HttpServer) -> None:
    client = connected(server)
    client.protocol.pause_writing()
    client.send(STATUS * 1000)
    assert not client.written and not client.reading
    client.protocol.resume_writing()
    assert statuses(client.written) == [200] * 1000 and client.reading


async def test_idle_slow_and_stalled_clients_are_disconnected() -> None:
    server = new_server(Deadlines(request_s=2, idle_s=5, write_s=3))
    idle, slow, stuck = connected(server), connected(server), connected(server)
    stuck.protocol.pause_writing()
    done = connected(server)
    done.send(STATUS)
    for _ in range(3):
        slow.send(b"GET /" if not slow.protocol._in_request else b"a")
        server.tick()
    assert statuses(slow.written) == [408] and slow.half
    assert stuck.open and idle.open and not idle.half
    for _ in range(9):
        server.tick()
    assert not (idle.open or slow.open or stuck.open or done.open)
    assert not server.connections


async def test_an_internal_error_ends_one_connection_and_is_reported(
    server: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
    monkeypatch.setattr(server.gateway.router, "answer", lambda request: 1 / 0)
    client = connected(server)
    client.send(STATUS)
    assert statuses(client.written) == [500] and client.half
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


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
async def test_random_bytes_do_not_stop_the_server(pieces: list[bytes]) -> None:
    server = new_server()
    client = connected(server)
    for piece in pieces:
        client.send(piece)
    assert all(status in (200, 400, 401, 404, 431) for status in statuses(client.written))
    fresh = connected(server)
    fresh.send(STATUS)
    assert statuses(fresh.written) == [200]


# WebSocket


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of the server's frames after its handshake."""
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


async def test_a_handshake_and_a_command_may_arrive_in_one_piece(server: HttpServer) -> None:
    client = connected(server)
    client.send(handshake(client_frame(b'{"id":1,"cmd":"list_subscriptions"}')))
    await asyncio.sleep(0)
    ((opcode, reply),) = frames(client.written)
    assert opcode == 1 and json.loads(reply)["id"] == 1
    assert isinstance(client.protocol, WebSocketConnection) and not server.connections


async def test_refused_handshakes_are_answered_over_http(server: HttpServer) -> None:
    for request, status in (
        (handshake().replace(b"ws/v2", b"ws/v3", 1), 404),
        (handshake().replace(b"KALSHI-ACCESS-KEY: k", b"KALSHI-ACCESS-KEY: z"), 401),
        (handshake().replace(b"Sec-WebSocket-Key", b"Sec-WebSocket-Nope"), 400),
        (handshake().replace(b"Version: 13", b"Version: 7"), 400),
    ):
        client = connected(server)
        client.send(request)
        assert statuses(client.written) == [status] and client.half
    other = connected(server)
    other.send(STATUS.replace(b"Host", b"Upgrade: h2c\r\nConnection: Upgrade\r\nHost"))
    assert statuses(other.written) == [200], "another protocol may be ignored"


async def test_an_oversized_message_closes_the_connection_with_1009(server: HttpServer) -> None:
    for large in (
        client_frame(b"a" * 1_000_001),
        client_frame(b"a" * 600_000, fin=False) + client_frame(b"a" * 600_000, opcode=0),
    ):
        client = connected(server)
        client.send(handshake())
        for at in range(0, len(large), 65_536):
            client.send(large[at : at + 65_536])
        opcode, reason = frames(client.written)[-1]
        assert opcode == 8 and int.from_bytes(reason[:2]) == 1009
        assert client.half, "the stream ends after the closing frame"


async def test_pings_and_closing_handshakes_are_answered(server: HttpServer) -> None:
    client = connected(server)
    client.send(handshake())
    client.send(client_frame(b"abc", opcode=9))
    for _ in range(DEADLINES.ping_s):
        server.tick()
    client.send(client_frame((1000).to_bytes(2), opcode=8))
    assert frames(client.written) == [(10, b"abc"), (9, b"heartbeat"), (8, (1000).to_bytes(2))]
    assert client.half
    for _ in range(4):
        server.tick()
    assert not client.open and not server.websockets


async def test_commands_wait_while_their_client_does_not_read(server: HttpServer) -> None:
    client = connected(server)
    client.send(handshake())
    client.protocol.pause_writing()
    client.send(client_frame(b'{"id":1,"cmd":"list_subscriptions"}') * 5)
    assert not client.reading
    client.protocol.resume_writing()
    assert client.reading and len(frames(client.written)) == 5
    client.protocol.pause_writing()
    for _ in range(DEADLINES.write_s + 1):
        server.tick()
    assert not client.open, "the write deadline has passed"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.builds(client_frame, st.binary(max_size=40), st.integers(0, 15), st.booleans()),
        ),
        max_size=8,
    )
)
async def test_random_bytes_after_a_handshake_leave_no_connection(pieces: list[bytes]) -> None:
    server = new_server()
    client = connected(server)
    client.send(handshake())
    for piece in pieces:
        client.send(piece)
        await asyncio.sleep(0)
    client.close()
    assert not server.websockets and not server.gateway.streams
