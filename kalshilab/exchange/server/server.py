"""The exchange on a loopback port: REST and WebSocket under one address.

A player moves the tape, at a multiple of its own speed or as fast as whoever listens can take it; `Port` carries
what clients and exchange say to each other.  It runs inside an event loop that is there already (a notebook
kernel's, a test's), leaves signals alone, and takes all it started with it.
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
from kalshilab.errors import ExchangeError
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults.faults import Faults
from kalshilab.exchange.rest.router import WINDOW_MS
from kalshilab.exchange.server.gateway import App, Front, make_app, make_front
from kalshilab.exchange.server.http import Port
from kalshilab.exchange.server.websocket import DEADLINES, Deadlines
from kalshilab.kalshi.auth import KeyKind, generate_key
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH

__all__ = ["App", "Deadlines", "Pace", "Venue", "make_app", "serve"]

TICK: Final = 1.0
BACKLOG: Final = 2_048
TURN: Final = 64
"""Steps of the tape between two turns of the loop, at "max"."""


class Pace(Protocol):
    """Somebody who decides when the tape may go on."""

    async def step(self, ts: int) -> None:
        """Return when the step at exchange time `ts` may be played."""
        ...


More = Callable[[], Awaitable[bool]]
"""Waits until there is more to play; False when there never will be."""


class Venue:
    """A served exchange.

    Attributes:
        rest, ws: its addresses.
        key_id, private_key_path: an API key it accepts; the file goes when the venue does.
        exchange: the core.
        finished: set when the tape is over, or has broken off.
    """

    def __init__(self, port: Port, number: int, key_id: str, private_key_path: Path) -> None:
        self.exchange, self._port = port.front.exchange, port
        self.rest = f"http://127.0.0.1:{number}{REST_PATH}"
        self.ws = f"ws://127.0.0.1:{number}{WS_PATH}"
        self.key_id, self.private_key_path = key_id, private_key_path
        self.finished = asyncio.Event()

    @property
    def frames_sent(self) -> int:
        """Frames handed to connections so far, less those that faults have swallowed."""
        return self.exchange.hub.frames + self._port.front.frames_added

    @property
    def connections(self) -> int:
        """Clients connected at the moment, over HTTP and WebSocket."""
        return len(self._port.connections) + len(self._port.links)

    def __repr__(self) -> str:
        return f"Venue({self.rest}, {self.exchange!r})"


async def _play(
    front: Front,
    port: Port,
    speed: float | Literal["max"],
    pace: Pace | None,
    more: More | None,
    clock: Clock,
) -> None:
    exchange = front.exchange
    first, began = exchange.next_ts(), clock.monotonic()
    steps = 0
    while True:
        ts = exchange.next_ts()
        if ts is None:
            if more is None or not await more():
                break
            continue
        if speed != "max":
            if first is None:
                first, began = ts, clock.monotonic()
            due = began + (ts - first) / 1e6 / speed
            wait = due - clock.monotonic()
            if wait > 0:
                await clock.sleep(wait)
        if pace is not None:
            await pace.step(ts)
        else:
            # A turn of the loop now and then, so that commands and orders are heard while the tape runs.
            steps += 1
            if steps % TURN == 0:
                await asyncio.sleep(0)
                await port.room()
        # An order under way may have played this step already; then the next one has its own time.
        if exchange.next_ts() == ts:
            front.step()
    front.finish()


async def _tick(port: Port, clock: Clock) -> None:
    while True:
        await clock.sleep(TICK)
        port.tick()


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
    latency: int | None = None,
    window_ms: int = WINDOW_MS,
    tier: str | None = None,
    deadlines: Deadlines = DEADLINES,
) -> AsyncIterator[Venue]:
    """Serve an exchange on loopback and play its tape.

    Args:
        port: 0 takes a free one.
        speed: tape time per wall time, or "max".
        pace: asked before each step; without it, at "max", the tape runs as fast as the slowest listener.
        more: waited for when the flow has nothing to play: True once it has, False when it is over.  Without it
            a flow is over as soon as it is empty, which is right for a tape and wrong for a `Mirror`.
        key_kind: the kind of the API key made for it.
        clock: the machine's: for the tape's speed, signatures and deadlines.
        faults: what goes wrong; None: nothing.
        latency: microseconds of exchange time an order takes to arrive; None: as the exchange's fill model says.
        window_ms: how far a signature's time may be off, either way.
        tier: whose rate limits hold, a name of `kalshilab.exchange.rest.rate_limits.TIERS`; None: no limits.
        deadlines: how long clients may take.

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
        front = make_front(
            exchange, {key_id: public}, clock, faults=faults, latency=latency, window_ms=window_ms, tier=tier
        )
        if speed != "max" and pace is None:
            front.later = _later(loop, speed)
        inlet = Port(front, deadlines)
        venue = Venue(inlet, listener.getsockname()[1], key_id, key_path)
        server = await loop.create_server(inlet.accept, sock=listener, backlog=BACKLOG)
        tape = asyncio.create_task(_play(front, inlet, speed, pace, more, clock), name="exchange tape")
        # Also where it broke off: whoever waits for the end hears of it, and `serve` raises why.
        tape.add_done_callback(lambda _: venue.finished.set())
        tasks = (
            tape,
            asyncio.create_task(_tick(inlet, clock), name="exchange deadlines"),
        )
        try:
            yield venue
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            server.close()
            inlet.end()
            # One turn of the loop for the sockets to be closed in.
            await asyncio.sleep(0)
        for result in results:
            if isinstance(result, Exception):
                raise result


def _later(loop: asyncio.AbstractEventLoop, speed: float) -> Callable[[int, Callable[[], None]], None]:
    """Hold something back for microseconds of a tape that runs at this speed."""

    def later(microseconds: int, callback: Callable[[], None]) -> None:
        loop.call_later(microseconds / 1e6 / speed, callback)

    return later


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio turns Nagle's algorithm off, which would cost 40 ms a call.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        why = error.strerror if isinstance(error, OSError) else "there is none of that number"
        raise ExchangeError(f"port {port} cannot be used: {why}; give another, or 0 for a free one") from None
    return listener
