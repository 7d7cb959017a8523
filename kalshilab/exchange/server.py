"""The exchange on a loopback port: REST and WebSocket under one address.

A thin rim: requests go to `RestSide`, commands to the hub, and a player moves the tape, at a multiple of its
own speed or as fast as whoever listens can take it.  It runs inside an event loop that is there already (a
notebook kernel's, a test's) and leaves signals alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal, Protocol
from urllib.parse import parse_qsl

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from kalshilab.clock import Clock, WallClock
from kalshilab.errors import ExchangeError
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.hub import Connection
from kalshilab.exchange.query import Request, nested
from kalshilab.exchange.rest import RestSide
from kalshilab.kalshi.auth import KeyKind, Verifier, generate_key
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH

__all__ = ["App", "Pace", "Venue", "serve"]

OUTBOX_LIMIT: Final = 2_000
"""Frames a connection may lag behind before the tape waits for it."""
PING_EVERY: Final = 10.0
MAX_BODY: Final = 1_000_000

Scope = MutableMapping[str, Any]


class Pace(Protocol):
    """Somebody who decides when the tape may go on."""

    async def step(self, ts: int) -> None:
        """Return when the step at exchange time `ts` may be played."""
        ...


class Venue:
    """A served exchange.

    Attributes:
        rest, ws: its addresses.
        key_id, private_key_path: an API key it accepts; the file goes when the venue does.
        exchange: the core.
        finished: set when the tape is over.
    """

    def __init__(self, exchange: Exchange, port: int, key_id: str, private_key_path: Path) -> None:
        self.exchange = exchange
        self.rest = f"http://127.0.0.1:{port}{REST_PATH}"
        self.ws = f"ws://127.0.0.1:{port}{WS_PATH}"
        self.key_id, self.private_key_path = key_id, private_key_path
        self.finished = asyncio.Event()

    @property
    def frames_sent(self) -> int:
        """Frames handed to connections so far."""
        return self.exchange.hub.frames

    def __repr__(self) -> str:
        return f"Venue({self.rest}, {self.exchange!r})"


class App:
    """The ASGI application over an exchange; also usable with any in-process ASGI transport."""

    def __init__(self, exchange: Exchange, side: RestSide) -> None:
        self._ex, self._side = exchange, side
        self.connections: set[Connection] = set()
        self.drained = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)

    @staticmethod
    def _request(scope: Scope, body: bytes = b"") -> Request:
        headers = {
            name.decode("latin-1").upper(): value.decode("latin-1") for name, value in scope["headers"]
        }
        pairs = tuple(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        return Request(scope.get("method", "GET"), scope["path"], dict(pairs), headers, body, pairs)

    async def _http(self, scope: Scope, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > MAX_BODY:
                answer = nested(413, "request_too_large")
                break
            if not message.get("more_body"):
                answer = self._side.answer(self._request(scope, body))
                break
        length = str(len(answer.body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _websocket(self, scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        refusal = None if scope["path"] == WS_PATH else nested(404, "not_found", "no such path")
        refusal = refusal or self._side.check_signature(self._request(scope))
        if refusal is not None:
            # The denial extension lets the client see the 401 and its body instead of a bare 403.
            if "websocket.http.response" in scope.get("extensions", {}):
                headers = [(b"content-type", b"application/json")]
                await send(
                    {"type": "websocket.http.response.start", "status": refusal.status, "headers": headers}
                )
                await send({"type": "websocket.http.response.body", "body": refusal.body})
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        ready = asyncio.Event()
        connection = self._ex.hub.connect(ready.set)
        self.connections.add(connection)
        writer = asyncio.create_task(self._write(connection, ready, send))
        try:
            while True:
                message = await receive()
                if message["type"] != "websocket.receive":
                    break
                text = message.get("text")
                connection.receive(text if text is not None else message.get("bytes") or b"")
        finally:
            writer.cancel()
            connection.close()
            self.connections.discard(connection)
            self.drained.set()
            await asyncio.gather(writer, return_exceptions=True)

    async def _write(self, connection: Connection, ready: asyncio.Event, send: Any) -> None:
        while True:
            await ready.wait()
            ready.clear()
            for frame in connection.take():
                await send({"type": "websocket.send", "text": frame.decode()})
            self.drained.set()

    async def room(self) -> None:
        """Return when no connection lags too far behind."""
        while any(len(c.outbox) > OUTBOX_LIMIT for c in self.connections):
            self.drained.clear()
            await self.drained.wait()


class _Server(uvicorn.Server):
    """uvicorn inside a loop that belongs to somebody else: it takes no signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _play(
    exchange: Exchange, app: App, venue: Venue, speed: float | Literal["max"], pace: Pace | None, clock: Clock
) -> None:
    first = exchange.next_ts()
    began = clock.monotonic()
    while (ts := exchange.next_ts()) is not None:
        if speed != "max":
            assert first is not None
            due = began + (ts - first) / 1e6 / speed
            wait = due - clock.monotonic()
            if wait > 0:
                await clock.sleep(wait)
        if pace is not None:
            await pace.step(ts)
        else:
            await app.room()
            # A turn of the loop now and then, so that commands and orders are heard while the tape runs.
            if exchange.prints_played % 32 == 0:
                await asyncio.sleep(0)
        exchange.step()
    venue.finished.set()


@asynccontextmanager
async def serve(
    exchange: Exchange,
    *,
    port: int = 0,
    speed: float | Literal["max"] = "max",
    pace: Pace | None = None,
    key_kind: KeyKind = "rsa",
    clock: Clock | None = None,
) -> AsyncIterator[Venue]:
    """Serve an exchange on loopback and play its tape.

    Args:
        port: 0 takes a free one.
        speed: tape time per wall time, or "max".
        pace: asked before each step; without it, at "max", the tape runs as fast as the slowest listener.
        key_kind: the kind of the API key made for it.

    Raises:
        ExchangeError: the port is in use.
    """
    clock = clock or WallClock()
    pem, public = generate_key(key_kind)
    key_id = exchange.new_id()
    listener = _listen(port)
    with tempfile.TemporaryDirectory(prefix="kalshilab-") as folder:
        key_path = Path(folder) / "key.pem"
        key_path.touch(mode=0o600)
        key_path.write_bytes(pem)
        venue = Venue(exchange, listener.getsockname()[1], key_id, key_path)
        app = make_app(exchange, {key_id: public}, clock)
        server = _Server(_config(app))
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="exchange server")
        player: asyncio.Task[None] | None = None
        try:
            while not server.started:
                if serving.done():
                    await serving
                    raise ExchangeError("the server ended before it began")
                await asyncio.sleep(0.005)
            player = asyncio.create_task(
                _play(exchange, app, venue, speed, pace, clock), name="exchange tape"
            )
            yield venue
        finally:
            if player is not None:
                player.cancel()
                (result,) = await asyncio.gather(player, return_exceptions=True)
            server.should_exit = server.force_exit = True
            await asyncio.gather(serving, return_exceptions=True)
            listener.close()
        if isinstance(result, Exception):
            raise result


def make_app(
    exchange: Exchange,
    keys: dict[str, rsa.RSAPublicKey | ed25519.Ed25519PublicKey],
    clock: Clock | None = None,
) -> App:
    """The ASGI application, for a server or an in-process transport."""
    clock = clock or WallClock()
    verifiers = {key_id: Verifier(key) for key_id, key in keys.items()}
    return App(exchange, RestSide(exchange, verifiers, lambda: clock.now() // 1000))


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio turns Nagle's algorithm off, which would cost 40 ms a call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ExchangeError(
            f"port {port} cannot be used: {error.strerror}; give another, or 0 for a free one"
        ) from None
    return listener


def _config(app: App) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        http="httptools",
        ws="websockets-sansio",
        ws_ping_interval=PING_EVERY,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        ws_max_size=1_000_000,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
