"""The WebSocket under a stream: what a stream asks of one, and the one that is always there.

A stream wants frames handed to it one after the other, commands sent, a ping answered, and one word for every way
in which a connection ends.  `websockets` does that; `kalshilab.kalshi.stream.transport_picows` does it with `picows`, where the
extra `fast` is installed and asked for.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from kalshilab.errors import HostRefused
from kalshilab.kalshi import hosts

__all__ = [
    "LOGGER",
    "MAX_FRAME",
    "OPENING",
    "Opener",
    "Socket",
    "SocketImpossible",
    "SocketLost",
    "closed_with",
    "open_socket",
    "redirected",
]

LOGGER: Final = logging.getLogger("kalshilab.socket")
"""What a library says of a connection.  Its debugging stays off: it would show a handshake's key and signature."""
LOGGER.setLevel(logging.INFO)
MAX_FRAME: Final = 64 * 2**20
"""Bytes of a message."""
OPENING: Final = 10.0
"""Seconds that a handshake may take."""
CLOSING: Final = 2.0
"""Seconds that a close may take."""
NO_ANSWER: Final = "no answer to the handshake"


class SocketLost(Exception):
    """The connection could not be made or is gone; another may be tried.  Its text is the reason."""


class SocketImpossible(Exception):
    """No connection can ever be made to this address."""


class Socket(Protocol):
    """An open WebSocket."""

    async def read(self, on_frame: Callable[[bytes], bool], /) -> None:
        """Hand each message's bytes to `on_frame`, in order, until it returns True.

        Raises:
            SocketLost: the connection ended.
            Exception: whatever `on_frame` raises; it is called no more then.
        """
        ...

    async def send(self, command: bytes, /) -> None:
        """Send a text message.

        Raises:
            SocketLost: the connection ended.
        """
        ...

    async def ping(self) -> Awaitable[Any]:
        """Send a ping; what comes back is done once it is answered.

        Raises:
            SocketLost: the connection ended, here or while waiting.
        """
        ...

    def abort(self) -> None:
        """Drop the connection at once; `read` ends with `SocketLost`."""
        ...


Opener = Callable[[str, Mapping[str, str]], AbstractAsyncContextManager[Socket]]
"""Opens a socket: address and headers of the handshake.  On entering it raises `SocketLost`, `SocketImpossible`, or
`HostRefused` where the exchange answers with a redirect: the headers are signed for one host."""


def redirected(target: str) -> HostRefused:
    """The refusal to follow a redirect."""
    return HostRefused(hosts.shown(target), "data", "redirects are not followed")


def closed_with(code: int | None, reason: str = "") -> str:
    """How a connection ended: the code and the reason of the side that closed it, or None where no side said any."""
    return "connection lost" if code is None else f"closed with code {code}{' ' + reason if reason else ''}"


class _Connect(connect):
    """A handshake that follows no redirect."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        if isinstance(exc, InvalidStatus) and 300 <= exc.response.status_code < 400:
            return redirected(exc.response.headers.get("Location", self.uri))
        return exc


class _WebSocket:
    """A `Socket` by `websockets`."""

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

    async def ping(self) -> Awaitable[Any]:
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
    """A socket by `websockets`; see `Opener`."""
    opening = _Connect(
        url,
        logger=LOGGER,
        additional_headers=dict(headers),
        proxy=None,
        max_size=MAX_FRAME,
        max_queue=(4096, 1024),
        ping_interval=None,
        open_timeout=OPENING,
        close_timeout=CLOSING,
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
