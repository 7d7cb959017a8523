"""The socket under the protocol: one signed connection that comes back.

Each attempt signs a fresh handshake, because a signature holds the time.  After a lost connection the stream
waits 1, 2, 4, … up to 60 seconds and subscribes anew to all that was asked for; the count of failures starts
again only when the exchange has confirmed a subscription, so a host that accepts connections and drops them
does not keep it busy for ever.  Silence is a failure too: the exchange sends a ping every ten seconds, and a
connection that brings neither ping nor data for `silence` seconds is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import msgspec

from kalshilab.clock import Clock, WallClock
from kalshilab.errors import ConfigError, FeedLost, ProtocolError, StreamError
from kalshilab.kalshi import hosts
from kalshilab.kalshi.auth import HasCredentials, Signer
from kalshilab.kalshi.rest.transport import FAST_EXTRA
from kalshilab.kalshi.stream.events import Rejected, Subscribed
from kalshilab.kalshi.stream.protocol import TERMINAL, StreamProtocol
from kalshilab.kalshi.stream.transport_websockets import (
    Opener,
    Socket,
    SocketImpossible,
    SocketLost,
    open_socket,
)

__all__ = ["Connected", "Disconnected", "Stream", "StreamSettings", "backoff"]

GOOD_BETWEEN: Final = 1_000
"""Frames after which one that could not be understood is forgotten."""
MOST_SPOILT: Final = 3
"""Frames that cannot be understood, hardly a good one between them, that end a stream."""


class Connected(msgspec.Struct, frozen=True):
    """The socket is open; `attempt` counts from 1 over the life of the stream."""

    attempt: int


class Disconnected(msgspec.Struct, frozen=True):
    """The socket is gone; the next attempt comes after `delay` seconds."""

    reason: str
    delay: float


def backoff(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 1, 2, 4, … 60.

    >>> [backoff(n) for n in range(1, 9)]
    [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    """
    return min(2.0 ** (failures - 1), 60.0)


class _HandlerFailed(Exception):
    """Carries an error of the handler past what looks for errors of the connection."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class StreamSettings(HasCredentials, Protocol):
    """What a stream reads of `kalshilab.config.settings.Settings`."""

    @property
    def ws_url(self) -> str | None: ...
    @property
    def reconnect_attempts(self) -> int: ...
    @property
    def fast(self) -> bool: ...


class Stream:
    """A feed of events that survives its connections.

    Args:
        url: WebSocket address.
        signer: signs the handshake; the exchange wants it even for public channels.
        clock: machine time, for signatures and waiting.
        max_attempts: failures in a row before `FeedLost`; None: never give up.
        silence: seconds without any frame or ping before the connection is dropped.
        fast: read with `picows` (extra `fast`) instead of `websockets`; the events are the same.

    Raises:
        HostRefused: the host is neither the exchange's nor loopback.
        ConfigError: `fast`, and the extra is not installed.
    """

    def __init__(
        self,
        url: str,
        signer: Signer | None,
        *,
        clock: Clock | None = None,
        max_attempts: int | None = 10,
        silence: float = 30.0,
        fast: bool = False,
    ) -> None:
        self._url = hosts.check(url, "data")
        self._path = urlsplit(self._url).path
        self._signer, self._clock = signer, clock or WallClock()
        self._max_attempts, self._silence = max_attempts, silence
        self._open: Opener = _fast_opener() if fast else open_socket
        self._channels: list[str] = []
        self._markets: dict[str, dict[str, None]] = {}
        self._protocol: StreamProtocol | None = None
        self._socket: Socket | None = None
        self._doomed = ""
        self.frames_received = 0
        """Frames whose events have all been handled, over all connections."""
        self.attempts = 0
        self.failures = 0
        self._undirected = 0
        self._spoilt = self._good = 0
        self.last_frame = 0
        """Machine time of the last frame in microseconds; 0 before the first."""

    @classmethod
    def of(cls, settings: StreamSettings, *, clock: Clock | None = None) -> Self:
        """The stream that `settings` ask for: the address given, or that of their venue.

        Raises:
            CredentialsMissing, KeyUnusable: no key, or none that can be used.
            HostRefused, ConfigError: as when it is made.
        """
        return cls(
            settings.ws_url or hosts.defaults(settings.venue)[1],
            Signer.from_settings(settings),
            clock=clock,
            max_attempts=settings.reconnect_attempts,
            fast=settings.fast,
        )

    # What to listen to; may be called at any time, before and while it runs.

    def subscribe(self, *channels: str) -> None:
        """Listen to channels for all markets."""
        new = [c for c in channels if c not in self._channels]
        self._channels += new
        if self._protocol is not None and new:
            self._protocol.subscribe(new)

    def add_markets(self, channel: str, tickers: Iterable[str]) -> None:
        """Listen to a channel for these markets too."""
        wanted = self._markets.setdefault(channel, {})
        new = [t for t in tickers if t not in wanted]
        wanted.update(dict.fromkeys(new))
        if self._protocol is not None and new:
            self._protocol.add_markets(channel, new)

    def delete_markets(self, channel: str, tickers: Iterable[str]) -> None:
        """Listen to a channel no more for these markets."""
        wanted = self._markets.get(channel, {})
        gone = [t for t in tickers if wanted.pop(t, 0) is None]
        if self._protocol is not None and gone:
            self._protocol.delete_markets(channel, gone)

    def get_snapshot(self, tickers: Iterable[str]) -> None:
        """Ask for these books anew."""
        if self._protocol is not None:
            self._protocol.get_snapshot(tickers)

    # Running

    async def run(self, handler: Callable[[Any], None]) -> None:
        """Connect and hand each event to `handler`, synchronously and in order, until cancelled.

        Besides the protocol's events `handler` gets `Connected` and `Disconnected`.

        Raises:
            FeedLost: `max_attempts` failures in a row.
            ProtocolError: a frame that cannot be understood; once or twice costs a new connection, but when
                hardly a good one comes between them, the exchange speaks another language.
            HostRefused: the exchange answers with a redirect.
            Exception: whatever `handler` raises.
        """
        while True:
            self.attempts += 1
            self._doomed = ""
            try:
                await self._connection(handler)
                reason = "closed by the exchange"
            except _HandlerFailed as failed:
                raise failed.error from None
            except SocketLost as error:
                reason = str(error)
            except ProtocolError as error:
                if self._spoilt_again():
                    raise
                reason = f"a frame that cannot be understood: {error}"
            except SocketImpossible as error:
                raise FeedLost(self._url, self.attempts, str(error)) from None
            reason = self._doomed or reason
            self._undirected = self.undirected
            self._socket = self._protocol = None
            self.failures += 1
            if self._max_attempts is not None and self.failures >= self._max_attempts:
                raise FeedLost(self._url, self.failures, reason)
            delay = backoff(self.failures)
            handler(Disconnected(reason, delay))
            await self._clock.sleep(delay)

    def _spoilt_again(self) -> bool:
        """Count a frame that cannot be understood; whether it is one too many."""
        good, self._good = self.frames_received - self._good, self.frames_received
        self._spoilt = self._spoilt + 1 if good < GOOD_BETWEEN else 1
        return self._spoilt >= MOST_SPOILT

    async def _connection(self, handler: Callable[[Any], None]) -> None:
        headers = {}
        if self._signer is not None:
            headers = self._signer.headers("GET", self._path, self._clock.now() // 1000)

        def answered(event: Subscribed | Rejected) -> None:
            if isinstance(event, Subscribed):
                self.failures = 0
            elif event.code in TERMINAL:
                self._doomed = f"{event.message} (code {event.code})"

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
        receive, now = protocol.receive, self._clock.now

        def on_frame(frame: bytes) -> bool:
            self.last_frame = now()
            try:
                receive(frame)
            except StreamError:
                raise
            except Exception as error:
                raise _HandlerFailed(error) from error
            self.frames_received += 1
            # Once the exchange has given the subscription up, a new connection subscribes anew.
            return self._doomed != ""

        await socket.read(on_frame)

    async def _send(self, socket: Socket, protocol: StreamProtocol, wake: asyncio.Event) -> None:
        while True:
            await wake.wait()
            wake.clear()
            for command in protocol.take_commands():
                await socket.send(command)

    async def _watch(self, socket: Socket) -> None:
        """Drop a connection that is silent although pinged: half open, or an exchange that hangs."""
        while True:
            await self._clock.sleep(self._silence / 2)
            quiet = (self._clock.now() - self.last_frame) / 1e6
            if quiet < self._silence:
                continue
            # Nothing to say is not the same as dead: an answered ping shows that it lives.
            try:
                pong = await socket.ping()
                # Not `wait_for`: in Python 3.11 it swallows a cancellation that comes together with the pong.
                async with asyncio.timeout(self._silence / 2):
                    await pong
            except (TimeoutError, SocketLost):
                self._doomed = f"silent for {self._silence:g} s"
                socket.abort()
                return

    @property
    def undirected(self) -> int:
        """Prints that named no taker, over all connections."""
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
