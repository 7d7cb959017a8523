"""The exchange's front: where requests and connections come in, whatever carries them.

`Front` is what every transport shares: signatures, faults, and the time an order takes to arrive.  `App` is the
ASGI application over it, for in-process transports and other people's servers; `kalshilab.exchange.server.http`
speaks HTTP and WebSocket itself.

An order that is under way takes `latency` of exchange time to arrive, and the tape goes on meanwhile: whatever
happens until then happens before the order.  Where the tape keeps wall time the answer waits for it; where it
runs as fast as it can, or as somebody paces it, the tape is played to that instant at once.  So an order never
waits for a tape that waits for the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from kalshilab.clock import Clock, WallClock
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults.faults import Faults
from kalshilab.exchange.faults.frame_faults import Event, FrameFaults
from kalshilab.exchange.rest.params import Answer, Request, nested
from kalshilab.exchange.rest.rate_limits import Limits
from kalshilab.exchange.rest.router import WINDOW_MS, RestSide
from kalshilab.kalshi.auth import Verifier
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH

__all__ = ["MAX_BODY", "MAX_COMMAND", "App", "Channel", "Front", "Reply", "make_app", "make_front"]

MAX_BODY: Final = 1_000_000
"""Bytes of a request's body."""
MAX_COMMAND: Final = 1_000_000
"""Bytes of a WebSocket message from a client."""

Scope = MutableMapping[str, Any]
Reply = Callable[[Answer | None], None]
"""Takes the answer to a request; None: the connection dies without one."""


class Channel:
    """One WebSocket client's frames: the hub's connection and the faults on the way.

    Args:
        notify: called when there is something to `take`.
    """

    def __init__(self, front: Front, notify: Callable[[], None]) -> None:
        self._front, self._notify = front, notify
        self._out: list[bytes | Event] = []
        faults = front.faults
        self._faults = None if faults is None else FrameFaults(faults, front.connections_made)
        self.connection: Final = front.exchange.hub.connect(notify if faults is None else self._heard)
        front.connections_made += 1
        front.channels.add(self)

    def _heard(self) -> None:
        # At once, so that faults depend on exchange time and on nothing else.
        assert self._faults is not None
        self._pass_on(self.connection.take())

    def _pass_on(self, frames: list[bytes]) -> None:
        assert self._faults is not None
        passed = self._faults.frames(frames, self._front.exchange.now)
        self._front.frames_added += len(passed) - len(frames)
        self._out += passed
        if passed:
            self._notify()

    def tick(self) -> None:
        """Exchange time has gone on: frames that were late may come."""
        if self._faults is not None:
            self._pass_on([])

    def finish(self) -> None:
        """The tape is over: nothing is late any more."""
        if self._faults is not None:
            late = self._faults.finish()
            self._front.frames_added += len(late)
            self._out += late
            self._notify()

    @property
    def waiting(self) -> int:
        """Frames not yet taken."""
        return len(self._out) if self._faults is not None else len(self.connection.outbox)

    def take(self) -> list[bytes] | list[bytes | Event]:
        """The frames since the last call, and what happens to the socket."""
        if self._faults is None:
            return self.connection.take()
        taken, self._out = self._out, []
        return taken

    def close(self) -> None:
        """The client is gone."""
        self.connection.close()
        self._front.channels.discard(self)


class Front:
    """Requests in, answers out, whatever carries them.

    Args:
        faults: what goes wrong; None: nothing.
        latency: microseconds of exchange time an order takes to arrive.

    Attributes:
        later: holds an order back until its time has come (`later(microseconds, callback)`); None where the
            tape is played on demand.
        frames_added: frames that faults have added, less those they have swallowed.
    """

    def __init__(self, exchange: Exchange, side: RestSide, faults: Faults | None, latency: int = 0) -> None:
        self.exchange, self.side, self.faults, self.latency = exchange, side, faults, latency
        self.later: Callable[[int, Callable[[], None]], None] | None = None
        self.channels: set[Channel] = set()
        self.connections_made = 0
        self.frames_added = 0
        if faults is not None:
            faults.attach(exchange)

    def take(self, request: Request, reply: Reply) -> None:
        """Answer a request, now or when it has arrived."""
        if not self.latency or request.method == "GET" or not request.path.startswith(PORTFOLIO):
            reply(self.answer(request))
            return
        due = self.exchange.now + self.latency

        def arrive() -> None:
            self._play(due)
            reply(self.answer(request))

        if self.later is None:
            arrive()
        else:
            self.later(self.latency, arrive)

    def _play(self, until: int) -> None:
        """Let happen whatever happens on the tape up to this instant."""
        exchange = self.exchange
        while (ts := exchange.next_ts()) is not None and ts <= until:
            self.step()

    def step(self) -> None:
        """Play the tape's next step."""
        faults = self.faults
        if faults is not None:
            faults.tick()
        self.exchange.step()
        if faults is not None:
            for channel in tuple(self.channels):
                channel.tick()

    def finish(self) -> None:
        """The tape is over, and with it whatever lasts."""
        if self.faults is not None:
            self.faults.finish()
            for channel in tuple(self.channels):
                channel.finish()

    def answer(self, request: Request) -> Answer | None:
        """Answer a request that has arrived; None: the connection dies without an answer."""
        if self.faults is None:
            return self.side.answer(request)
        action = self.faults.request(request)
        own = self.side.answer(request) if action.reaches else None
        if not action.answers:
            return None
        if action.answer is not None:
            return action.answer
        assert own is not None
        return self.faults.read(request, own)

    def refusal(self, request: Request) -> Answer | None:
        """None if this handshake may open a WebSocket, else the answer to it."""
        if request.path != WS_PATH:
            return nested(404, "not_found", "no such path")
        return self.side.check_signature(request)


PORTFOLIO: Final = REST_PATH + "/portfolio/"


def make_front(
    exchange: Exchange,
    keys: dict[str, rsa.RSAPublicKey | ed25519.Ed25519PublicKey],
    clock: Clock | None = None,
    *,
    faults: Faults | None = None,
    latency: int | None = None,
    window_ms: int = WINDOW_MS,
    tier: str | None = None,
) -> Front:
    """A front that knows these API keys; see `Front`.

    Args:
        keys: public keys by key id.
        clock: the machine's, for signatures.
        latency: microseconds of exchange time an order takes to arrive; None: as the exchange's fill model says.
        window_ms: how far a signature's time may be off, either way.
        tier: whose token buckets requests are counted against, in the machine's time; None: none.
    """
    clock = clock or WallClock()
    limits = None if tier is None else Limits(tier, clock.now)
    verifiers = {key_id: Verifier(key) for key_id, key in keys.items()}

    def now_ms() -> int:
        return clock.now() // 1000 + (0 if faults is None else faults.skew_ms())

    side = RestSide(exchange, verifiers, now_ms, window_ms=window_ms, limits=limits)
    return Front(exchange, side, faults, exchange.fills.latency_us if latency is None else latency)


class App:
    """The ASGI application over a front.  A connection that dies by a fault raises `ConnectionResetError`."""

    def __init__(self, front: Front) -> None:
        self.front = front

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
        body = bytearray()
        more = True
        while more and len(body) <= MAX_BODY:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if len(body) > MAX_BODY:
            answer: Answer | None = nested(413, "request_too_large")
        else:
            answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
            self.front.take(self._request(scope, bytes(body)), answered.set_result)
            answer = await answered
        if answer is None:
            raise ConnectionResetError("the connection died before the answer")
        length = str(len(answer.body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _websocket(self, scope: Scope, receive: Any, send: Any) -> None:
        await receive()
        refusal = self.front.refusal(self._request(scope))
        if refusal is not None:
            # The denial extension lets the client see the 401 and its body instead of a bare 403.
            if "websocket.http.response" in scope.get("extensions", {}):
                start = {"status": refusal.status, "headers": [(b"content-type", b"application/json")]}
                await send({"type": "websocket.http.response.start", **start})
                await send({"type": "websocket.http.response.body", "body": refusal.body})
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "websocket.accept"})
        ready = asyncio.Event()
        channel = Channel(self.front, ready.set)
        writer = asyncio.create_task(self._write(channel, ready, send))
        try:
            while not writer.done():
                hearing = asyncio.ensure_future(receive())
                await asyncio.wait((hearing, writer), return_when=asyncio.FIRST_COMPLETED)
                if not hearing.done():
                    hearing.cancel()
                    break
                message = hearing.result()
                if message["type"] != "websocket.receive":
                    break
                text = message.get("text")
                channel.connection.receive(text if text is not None else message.get("bytes") or b"")
        finally:
            writer.cancel()
            channel.close()
            (result,) = await asyncio.gather(writer, return_exceptions=True)
        if isinstance(result, Exception):
            raise result

    @staticmethod
    async def _write(channel: Channel, ready: asyncio.Event, send: Any) -> None:
        while True:
            await ready.wait()
            ready.clear()
            for frame in channel.take():
                if frame is Event.DISCONNECT:
                    raise ConnectionResetError("the connection died")
                if isinstance(frame, bytes):
                    await send({"type": "websocket.send", "text": frame.decode()})


def make_app(
    exchange: Exchange,
    keys: dict[str, rsa.RSAPublicKey | ed25519.Ed25519PublicKey],
    clock: Clock | None = None,
    *,
    faults: Faults | None = None,
    latency: int | None = None,
    window_ms: int = WINDOW_MS,
) -> App:
    """The ASGI application, for another server or an in-process transport; arguments as of `make_front`."""
    front = make_front(exchange, keys, clock, faults=faults, latency=latency, window_ms=window_ms)
    return App(front)
