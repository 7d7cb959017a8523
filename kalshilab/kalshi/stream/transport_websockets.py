"""WebSocket transport: its protocol, and the default implementation by `websockets`.

A stream needs frames in order, commands sent, pings answered, and one exception for every way in which a connection
ends.  `kalshilab.kalshi.stream.transport_picows` implements the same protocol with `picows` (extra `fast`).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from kalshilab.errors import HostRefused
from kalshilab.kalshi import hosts
from kalshilab.lazy import renamed

__all__ = [
    "LOGGER",
    "MAX_FRAME",
    "OPEN_TIMEOUT_S",
    "Opener",
    "Socket",
    "SocketImpossible",
    "SocketLost",
    "closed_with",
    "open_socket",
    "redirected",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

LOGGER: Final = logging.getLogger("kalshilab.socket")
"""Logger of the WebSocket libraries; debug messages stay off, because they show the key id and the signature."""
LOGGER.setLevel(logging.INFO)
MAX_FRAME: Final = 64 * 2**20
"""Bytes of a message at most."""
OPEN_TIMEOUT_S: Final = 10.0
"""Seconds of a handshake at most."""
CLOSE_TIMEOUT_S: Final = 2.0
"""Seconds of a close at most."""
NO_ANSWER: Final = "no answer to the handshake"


class SocketLost(Exception):
    """The connection failed or was lost, and another may succeed; the text is the reason."""


class SocketImpossible(Exception):
    """A connection to this address can never succeed."""


class Socket(Protocol):
    """An open WebSocket."""

    async def read(self, on_frame: Callable[[bytes], bool], /) -> None:
        """Pass the bytes of each message to `on_frame`, in order, until it returns True.

        Raises:
            SocketLost: the connection ended.
            Exception: an error of `on_frame`, which is not called again.
        """
        ...

    async def send(self, command: bytes, /) -> None:
        """Send a text message.

        Raises:
            SocketLost: the connection ended.
        """
        ...

    async def ping(self) -> Awaitable[None]:
        """Send a ping, and return an awaitable that completes when it is answered.

        Raises:
            SocketLost: the connection ended, here or while waiting.
        """
        ...

    def abort(self) -> None:
        """Drop the connection at once; `read` raises `SocketLost`."""
        ...


Opener = Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Socket]]
"""A function of address and handshake headers that opens a socket as an asynchronous context manager.

Entering it raises `SocketLost`, `SocketImpossible`, or, for a redirect, `HostRefused`: the headers are signed for one
host."""


def redirected(target: str) -> HostRefused:
    """Return the error for a redirect, which is never followed."""
    return HostRefused(hosts.shown(target), "data", "redirects are not followed")


def closed_with(code: int | None, reason: str = "") -> str:
    """Describe the end of a connection.

    Args:
        code: the close code; None for a connection that was lost without a close frame.
        reason: the reason of the side that closed it.
    """
    return "connection lost" if code is None else f"closed with code {code}{' ' + reason if reason else ''}"


class _Connect(connect):
    """Handshake that follows no redirect."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        if isinstance(exc, InvalidStatus) and 300 <= exc.response.status_code < 400:
            return redirected(exc.response.headers.get("Location", self.uri))
        return exc


class _WebSocket:
    """`Socket` by `websockets`."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def read(self, on_frame: Callable[[bytes], bool], /) -> None:
        next_frame = self._connection.recv
        while True:
            try:
                frame = await next_frame(decode=False)
            except ConnectionClosed as error:
                raise SocketLost(_closing(error)) from None
            if on_frame(frame):
                return

    async def send(self, command: bytes, /) -> None:
        try:
            await self._connection.send(command, text=True)
        except ConnectionClosed as error:
            raise SocketLost(_closing(error)) from None

    async def ping(self) -> Awaitable[None]:
        try:
            pong = await self._connection.ping()
        except ConnectionClosed as error:
            raise SocketLost(_closing(error)) from None
        return _answered(pong)

    def abort(self) -> None:
        self._connection.transport.abort()


async def _answered(pong: Awaitable[float]) -> None:
    try:
        await pong
    except ConnectionClosed as error:
        raise SocketLost(_closing(error)) from None


@asynccontextmanager
async def open_socket(url: str, headers: Mapping[str, str]) -> AsyncIterator[Socket]:
    """Open a socket with `websockets`; see `Opener`."""
    opening = _Connect(
        url,
        logger=LOGGER,
        additional_headers=dict(headers),
        proxy=None,
        max_size=MAX_FRAME,
        max_queue=(4096, 1024),
        ping_interval=None,
        open_timeout=OPEN_TIMEOUT_S,
        close_timeout=CLOSE_TIMEOUT_S,
        compression=None,
    )
    try:
        connection = await opening
    except InvalidURI as error:
        raise SocketImpossible(str(error)) from None
    except TimeoutError:
        raise SocketLost(NO_ANSWER) from None
    except (OSError, InvalidHandshake) as error:
        raise SocketLost(str(error) or type(error).__name__) from None
    try:
        yield _WebSocket(connection)
    finally:
        await connection.close()


def _closing(error: ConnectionClosed) -> str:
    close = error.rcvd or error.sent
    return closed_with(None) if close is None else closed_with(close.code, close.reason)
