"""The gateway between the served port and the exchange: signatures, faults, and the latency of orders.

`Gateway` handles requests and the steps of the tape, and `ClientStream` carries the frames of one WebSocket client.
Neither touches a socket; `kalshilab.exchange.server.http` and `kalshilab.exchange.server.websocket` do.

An order takes `latency_us` of exchange time to arrive, and the tape goes on in that time: everything up to the
arrival happens before the order. If the tape keeps wall time, the answer waits for the arrival. If the tape runs at
full speed or is paced from outside, the gateway plays it up to the arrival at once. So an order never waits for a
tape that waits for the order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from kalshilab.clock import Clock, WallClock
from kalshilab.deprecation import renamed_keywords
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.faults.faults import Faults
from kalshilab.exchange.faults.frame_faults import FrameEvent, FrameFaults
from kalshilab.exchange.rest.params import Answer, Request, nested
from kalshilab.exchange.rest.rate_limits import RateLimiter
from kalshilab.exchange.rest.router import WINDOW_MS, RestRouter
from kalshilab.kalshi.auth import Verifier
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH

__all__ = ["MAX_BODY", "MAX_COMMAND", "ClientStream", "Gateway", "ReplyCallback", "make_gateway"]

MAX_BODY: Final = 1_000_000
"""Maximum size of a request's body, in bytes."""
MAX_COMMAND: Final = 1_000_000
"""Maximum size of a WebSocket message from a client, in bytes."""
PORTFOLIO: Final = REST_PATH + "/portfolio/"

ReplyCallback = Callable[[Answer | None], None]
"""Callback for the answer to a request; None means that the connection dies without an answer."""


class ClientStream:
    """The frames of one WebSocket client: the hub's connection, and the faults between it and the socket.

    Args:
        gateway: the gateway that the client connects to.
        notify: called when there are frames to `take`.
    """

    def __init__(self, gateway: Gateway, notify: Callable[[], None]) -> None:
        self._gateway, self._notify = gateway, notify
        self._out: list[bytes | FrameEvent] = []
        faults = gateway.faults
        self._faults = None if faults is None else FrameFaults(faults, gateway.connections_made)
        self.connection: Final = gateway.exchange.hub.connect(
            notify if faults is None else self._apply_faults
        )
        gateway.connections_made += 1
        gateway.streams.add(self)

    def _apply_faults(self) -> None:
        # At once, so that faults depend on exchange time alone.
        self._pass_on(self.connection.take())

    def _pass_on(self, frames: list[bytes]) -> None:
        assert self._faults is not None
        passed = self._faults.frames(frames, self._gateway.exchange.now)
        self._gateway.frames_added += len(passed) - len(frames)
        self._out += passed
        if passed:
            self._notify()

    def tick(self) -> None:
        """Release delayed frames that are due after exchange time has advanced."""
        if self._faults is not None:
            self._pass_on([])

    def finish(self) -> None:
        """Release all delayed frames at the end of the tape."""
        if self._faults is not None:
            delayed = self._faults.finish()
            self._gateway.frames_added += len(delayed)
            self._out += delayed
            self._notify()

    @property
    def waiting(self) -> int:
        """Number of frames not yet taken."""
        return len(self._out) if self._faults is not None else len(self.connection.outbox)

    def take(self) -> list[bytes] | list[bytes | FrameEvent]:
        """Return the frames since the last call, with changes of the socket's state in their place."""
        if self._faults is None:
            return self.connection.take()
        taken, self._out = self._out, []
        return taken

    def close(self) -> None:
        """End the client's subscriptions and forget the client."""
        self.connection.close()
        self._gateway.streams.discard(self)


class Gateway:
    """Requests in, answers out, independent of the transport.

    Args:
        exchange: the exchange to serve.
        router: answers REST requests.
        faults: faults to inject; None injects nothing.
        latency_us: microseconds of exchange time that an order takes to arrive.

    Attributes:
        delay: postpones an order by microseconds of exchange time, `delay(microseconds, callback)`; None where the
            tape is played on demand.
        streams: the WebSocket clients connected at the moment.
        connections_made: number of WebSocket clients so far.
        frames_added: number of frames that faults have added, less those they have dropped.
    """

    @renamed_keywords(latency="latency_us", side="router")
    def __init__(
        self, exchange: Exchange, router: RestRouter, faults: Faults | None, latency_us: int = 0
    ) -> None:
        self.exchange, self.router, self.faults, self.latency_us = exchange, router, faults, latency_us
        self.delay: Callable[[int, Callable[[], None]], None] | None = None
        self.streams: set[ClientStream] = set()
        self.connections_made = 0
        self.frames_added = 0
        if faults is not None:
            faults.attach(exchange)

    def handle(self, request: Request, reply: ReplyCallback) -> None:
        """Answer a request through `reply`: at once, or when an order has arrived."""
        if not self.latency_us or request.method == "GET" or not request.path.startswith(PORTFOLIO):
            reply(self.answer(request))
            return
        arrival = self.exchange.now + self.latency_us

        def arrive() -> None:
            self._play_until(arrival)
            reply(self.answer(request))

        if self.delay is None:
            arrive()
        else:
            self.delay(self.latency_us, arrive)

    def _play_until(self, until: int) -> None:
        """Play the tape up to exchange time `until`, inclusive."""
        exchange = self.exchange
        while (ts := exchange.next_ts()) is not None and ts <= until:
            self.step()

    def step(self) -> None:
        """Play the next step of the tape."""
        faults = self.faults
        if faults is not None:
            faults.tick()
        self.exchange.step()
        if faults is not None:
            for stream in tuple(self.streams):
                stream.tick()

    def finish(self) -> None:
        """End lasting faults and release delayed frames at the end of the tape."""
        if self.faults is not None:
            self.faults.finish()
            for stream in tuple(self.streams):
                stream.finish()

    def answer(self, request: Request) -> Answer | None:
        """Return the answer to a request that has arrived; None means that the connection dies instead."""
        if self.faults is None:
            return self.router.answer(request)
        effect = self.faults.request(request)
        regular = self.router.answer(request) if effect.reaches else None
        if not effect.answers:
            return None
        if effect.answer is not None:
            return effect.answer
        assert regular is not None
        return self.faults.read(request, regular)

    def handshake_refusal(self, request: Request) -> Answer | None:
        """Return the answer that refuses a WebSocket handshake; None if the handshake may proceed."""
        if request.path != WS_PATH:
            return nested(404, "not_found", "no such path")
        return self.router.check_signature(request)


@renamed_keywords(latency="latency_us")
def make_gateway(
    exchange: Exchange,
    keys: dict[str, rsa.RSAPublicKey | ed25519.Ed25519PublicKey],
    clock: Clock | None = None,
    *,
    faults: Faults | None = None,
    latency_us: int | None = None,
    window_ms: int = WINDOW_MS,
    tier: str | None = None,
) -> Gateway:
    """Return a gateway that accepts the given API keys.

    Args:
        exchange: the exchange to serve.
        keys: public keys by key id.
        clock: machine clock for signatures and rate limits; None is the wall clock.
        faults: faults to inject; None injects nothing.
        latency_us: microseconds of exchange time that an order takes to arrive; None takes the latency of the
            exchange's fill model.
        window_ms: maximum milliseconds between a signature's time and the clock, in either direction.
        tier: rate-limit tier whose token buckets apply, in machine time; None disables rate limits.
    """
    clock = clock or WallClock()
    limits = None if tier is None else RateLimiter(tier, clock.now)
    verifiers = {key_id: Verifier(key) for key_id, key in keys.items()}

    def now_ms() -> int:
        return clock.now() // 1000 + (0 if faults is None else faults.skew_ms())

    router = RestRouter(exchange, verifiers, now_ms, window_ms=window_ms, limits=limits)
    return Gateway(exchange, router, faults, exchange.fills.latency_us if latency_us is None else latency_us)
