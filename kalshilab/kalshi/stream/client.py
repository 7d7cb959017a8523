"""WebSocket client: one signed connection that reconnects.

Each attempt signs a new handshake, because a signature contains the time.  After a lost connection the stream waits 1,
2, 4, … up to 60 seconds and subscribes again to everything requested.  The count of failures is reset only when the
exchange confirms a subscription, so a host that accepts connections and drops them cannot keep the stream busy for
ever.  Silence is a failure too: a connection without data is pinged, and dropped if it does not answer.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterable
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

import msgspec

from kalshilab.clock import Clock, WallClock
from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ConfigError, FeedLost, HostRefused, ProtocolError, StreamError
from kalshilab.kalshi import hosts
from kalshilab.kalshi.auth import HasCredentials, Signer
from kalshilab.kalshi.rest.transport import FAST_EXTRA
from kalshilab.kalshi.stream.events import ProtocolEvent, Rejected, Subscribed
from kalshilab.kalshi.stream.protocol import TERMINAL, StreamProtocol
from kalshilab.kalshi.stream.transport_websockets import (
    Opener,
    Socket,
    SocketImpossible,
    SocketLost,
    open_socket,
)

__all__ = ["Connected", "Disconnected", "Stream", "StreamEvent", "StreamSettings", "backoff"]

GOOD_FRAMES_TO_RECOVER: Final = 1_000
"""Valid frames after which an invalid one is forgotten."""
MAX_INVALID_FRAMES: Final = 3
"""Invalid frames, with fewer valid ones between them, that end a stream."""


class Connected(msgspec.Struct, frozen=True):
    """The connection is open; `attempt` counts from 1 over the life of the stream."""

    attempt: int


class Disconnected(msgspec.Struct, frozen=True):
    """The connection was lost; the next attempt follows after `delay_s` seconds."""

    reason: str
    delay_s: float

    @property
    def delay(self) -> float:
        """Old name of `delay_s`."""
        warnings.warn("Disconnected.delay is now Disconnected.delay_s", DeprecationWarning, stacklevel=2)
        return self.delay_s


def backoff(failures: int) -> float:
    """Return the seconds to wait after a number of consecutive failures: 1, 2, 4, … 60.

    >>> [backoff(n) for n in range(1, 9)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    """
    return min(2.0 ** (failures - 1), 60.0)


StreamEvent = ProtocolEvent | Connected | Disconnected
"""The events that `Stream.run` passes to its handler."""


class _HandlerFailed(Exception):
    """Carrier of a handler's error past the code that handles errors of the connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class StreamSettings(HasCredentials, Protocol):
    """The settings that a stream reads."""

    @property
    def ws_url(self) -> str | None: ...
    @property
    def reconnect_attempts(self) -> int: ...
    @property
    def fast(self) -> bool: ...


class Stream:
    """A source of events that reconnects.

    Args:
        url: WebSocket address.
        signer: signs the handshake; the exchange requires it even for public channels.
        clock: machine time for signatures and waits; by default the wall clock.
        max_attempts: consecutive failures before `FeedLost`; None never gives up.
        silence_s: seconds without a frame after which the connection is pinged, and dropped without an answer.
        fast: read with `picows` (extra `fast`) instead of `websockets`; the events are the same.

    Raises:
        HostRefused: the host belongs neither to the exchange nor to loopback.
        ConfigError: `fast` is requested and the extra is not installed.
    """

    @renamed_keywords(silence="silence_s")
    def __init__(
        self,
        url: str,
        signer: Signer | None,
        *,
        clock: Clock | None = None,
        max_attempts: int | None = 10,
        silence_s: float = 30.0,
        fast: bool = False,
    ) -> None:
        self._url = hosts.check(url, "data")
        self._path = urlsplit(self._url).path
        self._signer, self._clock = signer, clock or WallClock()
        self._max_attempts, self._silence_s = max_attempts, silence_s
        self._open: Opener = _fast_opener() if fast else open_socket
        self._channels: list[str] = []
        self._markets: dict[str, dict[str, None]] = {}
        self._protocol: StreamProtocol | None = None
        self._socket: Socket | None = None
        self._end_reason = ""
        self.frames_received = 0
        """Frames whose events have all been handled, over all connections."""
        self.attempts = 0
        self.failures = 0
        self._undirected = 0
        self._invalid_frames = self._frames_at_invalid = 0
        self.last_frame = 0
        """Machine time of the last frame, in microseconds; 0 before the first."""
        self._heard_s = 0.0

    @classmethod
    def of(cls, settings: StreamSettings, *, clock: Clock | None = None) -> Self:
        """Return the stream for the address of the settings, or else of their venue.

        Raises:
            CredentialsMissing: the settings have no key.
            KeyUnusable: the key cannot be used.
            HostRefused: as for the constructor.
            ConfigError: as for the constructor.
        """
        return cls(
            settings.ws_url or hosts.defaults(settings.venue)[1],
            Signer.from_settings(settings),
            clock=clock,
            max_attempts=settings.reconnect_attempts or None,
            fast=settings.fast,
        )

    # Subscriptions: these methods may be called at any time, before and during `run`.

    def subscribe(self, *channels: str) -> None:
        """Subscribe to channels for all markets."""
        new = [c for c in channels if c not in self._channels]
        self._channels += new
        if self._protocol is not None and new:
            self._protocol.subscribe(new)

    def add_markets(self, channel: str, tickers: Iterable[str]) -> None:
        """Add markets to the subscription of a channel."""
        wanted = self._markets.setdefault(channel, {})
        new = [t for t in tickers if t not in wanted]
        wanted.update(dict.fromkeys(new))
        if self._protocol is not None and new:
            self._protocol.add_markets(channel, new)

    def delete_markets(self, channel: str, tickers: Iterable[str]) -> None:
        """Remove markets from the subscription of a channel."""
        wanted = self._markets.get(channel, {})
        removed = [t for t in tickers if wanted.pop(t, 0) is None]
        if self._protocol is not None and removed:
            self._protocol.delete_markets(channel, removed)

    def get_snapshot(self, tickers: Iterable[str]) -> None:
        """Request new snapshots of these order books."""
        if self._protocol is not None:
            self._protocol.get_snapshot(tickers)

    # Running

    async def run(self, handler: Callable[[StreamEvent], None]) -> None:
        """Connect and pass each event to `handler`, synchronously and in order, until cancelled.

        Beside the protocol's events, `handler` receives `Connected` and `Disconnected`.

        Args:
            handler: called with each event.

        Raises:
            FeedLost: there were `max_attempts` consecutive failures.
            ProtocolError: there were too many invalid frames.  The first ones cost only a reconnection, but several
                with few valid frames between them mean that the exchange speaks another protocol.
            Exception: an error of `handler`, unchanged.
        """
        while True:
            self.attempts += 1
            self._end_reason = ""
            try:
                await self._connection(handler)
                reason = "closed by the exchange"
            except _HandlerFailed as failed:
                raise failed.error from None
            except (SocketLost, HostRefused) as error:
                # A redirect is not followed: maintenance pages answer with one, and the exchange returns later.
                reason = str(error)
            except ProtocolError as error:
                if self._too_many_invalid():
                    raise
                reason = f"invalid frame: {error}"
            except SocketImpossible as error:
                # A proxy in maintenance redirects too; a stream that never gives up waits for its end.
                if self._max_attempts is not None:
                    raise FeedLost(self._url, self.attempts, str(error)) from None
                reason = str(error)
            reason = self._end_reason or reason
            self._undirected = self.undirected
            self._socket = self._protocol = None
            self.failures += 1
            if self._max_attempts is not None and self.failures >= self._max_attempts:
                raise FeedLost(self._url, self.failures, reason)
            delay_s = backoff(self.failures)
            handler(Disconnected(reason, delay_s))
            await self._clock.sleep(delay_s)

    def _too_many_invalid(self) -> bool:
        """Count an invalid frame, and return whether there are too many."""
        good, self._frames_at_invalid = self.frames_received - self._frames_at_invalid, self.frames_received
        self._invalid_frames = self._invalid_frames + 1 if good < GOOD_FRAMES_TO_RECOVER else 1
        return self._invalid_frames >= MAX_INVALID_FRAMES

    async def _connection(self, handler: Callable[[StreamEvent], None]) -> None:
        headers = {}
        if self._signer is not None:
            headers = self._signer.headers("GET", self._path, self._clock.now() // 1000)

        def answered(event: Subscribed | Rejected) -> None:
            if isinstance(event, Subscribed):
                self.failures = 0
            elif event.code in TERMINAL:
                self._end_reason = f"{event.message} (code {event.code})"

        wake = asyncio.Event()
        async with self._open(self._url, headers) as socket:
            self._socket, self._protocol = socket, StreamProtocol(handler, answered, wake.set)
            handler(Connected(self.attempts))
            if self._channels:
                self._protocol.subscribe(self._channels)
            for channel, tickers in self._markets.items():
                self._protocol.add_markets(channel, tickers)
            sender = asyncio.create_task(self._send(socket, self._protocol, wake))
            watcher = asyncio.create_task(self._watch(socket))
            try:
                await self._receive(socket, self._protocol)
            finally:
                sender.cancel()
                watcher.cancel()
                await asyncio.gather(sender, watcher, return_exceptions=True)

    async def _receive(self, socket: Socket, protocol: StreamProtocol) -> None:
        receive, now, monotonic = protocol.receive, self._clock.now, self._clock.monotonic
        self._heard_s = monotonic()

        def on_frame(frame: bytes) -> bool:
            self.last_frame, self._heard_s = now(), monotonic()
            try:
                receive(frame)
            except StreamError:
                raise
            except Exception as error:
                raise _HandlerFailed(error) from error
            self.frames_received += 1
            # The exchange has ended the subscription: a new connection subscribes again.
            return self._end_reason != ""

        await socket.read(on_frame)

    async def _send(self, socket: Socket, protocol: StreamProtocol, wake: asyncio.Event) -> None:
        while True:
            await wake.wait()
            wake.clear()
            for command in protocol.take_commands():
                await socket.send(command)

    async def _watch(self, socket: Socket) -> None:
        """Drop a connection that does not answer a ping: it is half open, or the exchange hangs."""
        while True:
            await self._clock.sleep(self._silence_s / 2)
            quiet_s = self._clock.monotonic() - self._heard_s
            if quiet_s < self._silence_s:
                continue
            # An idle connection is not dead: it answers a ping.
            try:
                pong = await socket.ping()
                # Not `wait_for`: in Python 3.11 it loses a cancellation that arrives together with the pong.
                async with asyncio.timeout(self._silence_s / 2):
                    await pong
            except (TimeoutError, SocketLost):
                self._end_reason = f"silent for {self._silence_s:g} s"
                socket.abort()
                return

    @property
    def undirected(self) -> int:
        """Trades without a taker, over all connections."""
        return self._undirected + (self._protocol.undirected if self._protocol is not None else 0)

    def __repr__(self) -> str:
        state = "open" if self._socket is not None else "closed"
        return f"Stream({urlsplit(self._url).hostname}, {state}, {self.frames_received} frames)"


def _fast_opener() -> Opener:
    try:
        from kalshilab.kalshi.stream.transport_picows import open_fast_socket
    except ImportError as error:
        raise ConfigError("fast", True, FAST_EXTRA) from error
    return open_fast_socket
