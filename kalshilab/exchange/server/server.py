"""A served exchange: REST and WebSocket on one loopback port, and the playback of its tape.

A player moves the tape, at a multiple of its recorded speed or as fast as the slowest client reads. `HttpServer`
carries requests and frames. The server runs in an event loop that exists already, such as a notebook kernel's or a
test's. It leaves signal handlers alone and removes everything it started when it ends.
"""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, Protocol

from kalshilab.clock import Clock, WallClock
from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ExchangeError
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults.faults import Faults
from kalshilab.exchange.rest.router import WINDOW_MS
from kalshilab.exchange.server.gateway import Gateway, make_gateway
from kalshilab.exchange.server.http import HttpServer
from kalshilab.exchange.server.websocket import DEADLINES, Deadlines
from kalshilab.kalshi.auth import KeyKind, generate_key
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH

__all__ = ["Deadlines", "Pace", "Venue", "serve"]

TICK_S: Final = 1.0
BACKLOG: Final = 2_048
STEPS_PER_TURN: Final = 64
"""Steps of the tape between two turns of the event loop, at speed "max"."""


class Pace(Protocol):
    """A policy that decides when the tape may play its next step."""

    async def step(self, ts: int) -> None:
        """Return when the step at exchange time `ts`, in microseconds, may be played."""
        ...


More = Callable[[], Awaitable[bool]]
"""Coroutine function that waits until the flow has more to play, and returns False when the flow is over."""


class Venue:
    """A served exchange, as returned by `serve`.

    Attributes:
        rest: base URL of the REST API.
        ws: URL of the WebSocket.
        key_id: id of an API key that the exchange accepts.
        private_key_path: file with the key's private half, deleted when the exchange is no longer served.
        exchange: the exchange itself.
        finished: set when the tape is over or has failed.
    """

    def __init__(self, server: HttpServer, port: int, key_id: str, private_key_path: Path) -> None:
        self.exchange, self._server = server.gateway.exchange, server
        self.rest = f"http://127.0.0.1:{port}{REST_PATH}"
        self.ws = f"ws://127.0.0.1:{port}{WS_PATH}"
        self.key_id, self.private_key_path = key_id, private_key_path
        self.finished = asyncio.Event()

    @property
    def frames_sent(self) -> int:
        """Number of frames handed to connections so far, without those that faults have dropped."""
        return self.exchange.hub.frames + self._server.gateway.frames_added

    @property
    def connections(self) -> int:
        """Number of clients connected at the moment, over HTTP and WebSocket."""
        return len(self._server.connections) + len(self._server.websockets)

    def __repr__(self) -> str:
        return f"Venue({self.rest}, {self.exchange!r})"


async def _play_tape(
    gateway: Gateway,
    server: HttpServer,
    speed: float | Literal["max"],
    pace: Pace | None,
    more: More | None,
    clock: Clock,
) -> None:
    exchange = gateway.exchange
    first_ts, began_s = exchange.next_ts(), clock.monotonic()
    steps = 0
    while True:
        ts = exchange.next_ts()
        if ts is None:
            if more is None or not await more():
                break
            continue
        if speed != "max":
            if first_ts is None:
                first_ts, began_s = ts, clock.monotonic()
            due_s = began_s + (ts - first_ts) / 1e6 / speed
            wait_s = due_s - clock.monotonic()
            if wait_s > 0:
                await clock.sleep(wait_s)
        if pace is not None:
            await pace.step(ts)
        else:
            # Yield to the event loop regularly, so that commands and orders are handled while the tape runs.
            steps += 1
            if steps % STEPS_PER_TURN == 0:
                await asyncio.sleep(0)
                await server.wait_for_readers()
        # An order in flight may have played this step already; then the next step is due at its own time.
        if exchange.next_ts() == ts:
            gateway.step()
    gateway.finish()


async def _tick(server: HttpServer, clock: Clock) -> None:
    while True:
        await clock.sleep(TICK_S)
        server.tick()


@renamed_keywords(latency="latency_us")
@asynccontextmanager
async def serve(
    exchange: Exchange,
    *,
    port: int = 0,
    speed: float | Literal["max"] = "max",
    pace: Pace | None = None,
    more: More | None = None,
    key_kind: KeyKind = "rsa",
    clock: Clock | None = None,
    faults: Faults | None = None,
    latency_us: int | None = None,
    window_ms: int = WINDOW_MS,
    tier: str | None = None,
    deadlines: Deadlines = DEADLINES,
) -> AsyncIterator[Venue]:
    """Serve an exchange on loopback and play its tape.

    Args:
        exchange: the exchange to serve.
        port: TCP port; 0 takes a free one.
        speed: tape time per wall time, or "max".
        pace: awaited before each step; without it, at "max", the tape runs as fast as the slowest client reads.
        more: awaited when the flow has nothing to play; True means that it has more, False that it is over. Without
            it a flow is over as soon as it is empty, which is right for a tape and wrong for a `Mirror`.
        key_kind: kind of the API key to generate.
        clock: machine clock for the tape's speed, signatures and deadlines; None is the wall clock.
        faults: faults to inject; None injects nothing.
        latency_us: microseconds of exchange time that an order takes to arrive; None takes the latency of the
            exchange's fill model.
        window_ms: maximum milliseconds between a signature's time and the clock, in either direction.
        tier: rate-limit tier, a key of `kalshilab.exchange.rest.rate_limits.TIERS`; None disables rate limits.
        deadlines: time limits for clients, in seconds.

    Raises:
        ExchangeError: the port is in use.
    """
    clock = clock or WallClock()
    loop = asyncio.get_running_loop()
    pem, public = generate_key(key_kind)
    key_id = exchange.new_id()
    listener = _listen(port)
    with tempfile.TemporaryDirectory(prefix="kalshilab-") as folder:
        key_path = Path(folder) / "key.pem"
        key_path.touch(mode=0o600)
        key_path.write_bytes(pem)
        gateway = make_gateway(
            exchange,
            {key_id: public},
            clock,
            faults=faults,
            latency_us=latency_us,
            window_ms=window_ms,
            tier=tier,
        )
        if speed != "max" and pace is None:
            gateway.delay = _delay_at_speed(loop, speed)
        server = HttpServer(gateway, deadlines)
        venue = Venue(server, listener.getsockname()[1], key_id, key_path)
        tcp_server = await loop.create_server(server.accept, sock=listener, backlog=BACKLOG)
        tape = asyncio.create_task(
            _play_tape(gateway, server, speed, pace, more, clock), name="exchange tape"
        )
        # Set on failure too, so that nobody waits for ever; `serve` then raises the error.
        tape.add_done_callback(lambda _: venue.finished.set())
        tasks = (
            tape,
            asyncio.create_task(_tick(server, clock), name="exchange deadlines"),
        )
        try:
            yield venue
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            tcp_server.close()
            server.abort()
            # The sockets need one turn of the event loop to close.
            await asyncio.sleep(0)
        for result in results:
            if isinstance(result, Exception):
                raise result


def _delay_at_speed(
    loop: asyncio.AbstractEventLoop, speed: float
) -> Callable[[int, Callable[[], None]], None]:
    """Return a function that delays a callback by microseconds of a tape running at this speed."""

    def delay(microseconds: int, callback: Callable[[], None]) -> None:
        loop.call_later(microseconds / 1e6 / speed, callback)

    return delay


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio turns off Nagle's algorithm, which would cost 40 ms per call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OverflowError:
        listener.close()
        raise ExchangeError(f"port must be between 1 and 65535, got {port}; pass 0 for a free port") from None
    except OSError as error:
        listener.close()
        raise ExchangeError(
            f"port {port} cannot be used: {error.strerror}; pass another, or 0 for a free port"
        ) from None
    return listener
