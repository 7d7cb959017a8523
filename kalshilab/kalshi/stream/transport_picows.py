"""The WebSocket under a stream by `picows` (extra `fast`): frames are handled where they are read.

`websockets` wakes a task for every message.  Here the stream's handler runs inside the event loop's own read, once
for each frame that the read brought, which is about what a frame costs beyond its decoding.  All else is as with
`kalshilab.kalshi.stream.transport_websockets`, and so are the tests.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from picows import (
    WSCloseCode,
    WSError,
    WSFrame,
    WSHandshakeError,
    WSInvalidURL,
    WSListener,
    WSMsgType,
    WSParsedURL,
    WSTransport,
    ws_connect,
)

from kalshilab.kalshi.stream.transport_websockets import (
    CLOSING,
    LOGGER,
    MAX_FRAME,
    NO_ANSWER,
    OPENING,
    Socket,
    SocketImpossible,
    SocketLost,
    closed_with,
    redirected,
)

__all__ = ["open_fast_socket"]

READ: Final = 256 * 1024
"""Bytes that one read may bring."""


class _FastSocket(WSListener):
    """A `Socket` by `picows`; what it is told by the event loop comes through the `on_ws_…` methods."""

    def __init__(self) -> None:
        self._transport: WSTransport
        self._on_frame: Callable[[bytes], bool] | None = None
        self._early: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # By the event loop

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.TEXT and frame.fin and not self._parts:
            self._take(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._gather(kind == WSMsgType.CONTINUATION, frame.get_payload_as_bytes(), frame.fin)
        elif kind == WSMsgType.PONG:
            if self._pongs:
                _done(self._pongs.popleft())
        elif kind == WSMsgType.CLOSE:
            transport.send_close(WSCloseCode.OK)
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        lost = self._lost()
        for waiting in (self._ended, *self._pongs):
            if not waiting.done():
                waiting.set_exception(lost)
                # Nobody may be waiting; then nobody is told.
                waiting.exception()
        self._pongs.clear()

    def _gather(self, goes_on: bool, part: bytes, last: bool) -> None:
        """A message in pieces, or a binary one."""
        if goes_on != bool(self._parts):
            expected = "nothing to continue" if goes_on else "expected a continuation frame"
            self._refuse(WSCloseCode.PROTOCOL_ERROR, expected)
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > MAX_FRAME:
            self._refuse(WSCloseCode.MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAME} bytes")
        elif last:
            whole, self._parts, self._size = b"".join(self._parts), [], 0
            self._take(whole)

    def _refuse(self, code: WSCloseCode, why: str) -> None:
        """Close the connection over what came; what comes after it is not looked at."""
        self._transport.send_close(code, why)
        self._transport.disconnect()
        self.on_ws_disconnected(self._transport)

    def _take(self, frame: bytes) -> None:
        if self._ended.done():
            return
        if self._on_frame is None:
            self._early.append(frame)
            return
        try:
            enough = self._on_frame(frame)
        except Exception as error:  # noqa: BLE001 - raised by `read`, in whose name the frame is handled
            # The handler may have cancelled the reader.
            if not self._ended.done():
                self._ended.set_exception(error)
        else:
            if enough and not self._ended.done():
                self._ended.set_result(None)

    # By the stream

    async def read(self, on_frame: Callable[[bytes], bool], /) -> None:
        early, self._early = self._early, []
        for frame in early:
            # Also where the connection has ended since.
            if on_frame(frame):
                return
        self._on_frame = on_frame
        # A reader that is cancelled takes the future with it: no frame is handled after that.
        await self._ended

    async def send(self, command: bytes, /) -> None:
        self._check()
        self._transport.send(WSMsgType.TEXT, command)

    async def ping(self) -> Awaitable[Any]:
        self._check()
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._transport.send_ping()
        return pong

    def abort(self) -> None:
        self._transport.disconnect(False)

    def _check(self) -> None:
        if self._transport.is_disconnected:
            raise self._lost()

    def _lost(self) -> SocketLost:
        closing = self._transport.close_handshake
        close = None if closing is None else closing.recv or closing.sent
        if close is None:
            return SocketLost(closed_with(None))
        # A code that `picows` has no name for is a plain number, and 0 is none at all.
        code: Any = close.code
        return SocketLost(closed_with(getattr(code, "value", code) or 1005, close.reason))

    async def close(self) -> None:
        """Say goodbye, wait a moment for the answer, and leave nothing behind."""
        self._transport.send_close(WSCloseCode.OK)
        # Waiting raises what was wrong with a frame: `read` has said so, and unasked it would be logged.
        try:
            async with asyncio.timeout(CLOSING):
                with suppress(WSError):
                    await self._transport.wait_disconnected()
        except TimeoutError:
            self.abort()
            with suppress(WSError):
                await self._transport.wait_disconnected()
        finally:
            self.abort()


def _done(pong: asyncio.Future[None]) -> None:
    if not pong.done():
        pong.set_result(None)


async def _reached(url: WSParsedURL) -> socket.socket:
    """A connection to one of the host's addresses, tried in their order."""
    loop = asyncio.get_running_loop()
    failed = OSError(f"{url.host}: no address")
    for family, kind, proto, _, address in await loop.getaddrinfo(
        url.host, url.port, type=socket.SOCK_STREAM
    ):
        link = socket.socket(family, kind, proto)
        link.setblocking(False)
        try:
            await loop.sock_connect(link, address)
        except OSError as error:
            failed = error
            link.close()
        except BaseException:
            link.close()
            raise
        else:
            return link
    raise failed


async def _handshake(url: str, headers: Mapping[str, str]) -> _FastSocket:
    """Connect; an opening that fails, takes too long or is cancelled leaves no connection behind."""
    link: socket.socket | None = None

    async def reach(parsed: WSParsedURL) -> socket.socket:
        nonlocal link
        link = await _reached(parsed)
        return link

    try:
        async with asyncio.timeout(OPENING):
            _, listener = await ws_connect(
                _FastSocket,
                url,
                logger_name=LOGGER,
                extra_headers=dict(headers),
                max_redirects=0,
                max_frame_size=MAX_FRAME,
                websocket_handshake_timeout=None,
                read_buffer_init_size=READ,
                socket_factory=reach,
            )
    except BaseException:
        # `picows` waits on, and nobody else has a hold of the connection.
        if link is not None:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        raise
    if listener is None:
        raise SocketLost("closed during the handshake")
    assert isinstance(listener, _FastSocket)
    return listener


@asynccontextmanager
async def open_fast_socket(url: str, headers: Mapping[str, str]) -> AsyncIterator[Socket]:
    """A socket by `picows`; see `kalshilab.kalshi.stream.transport_websockets.Opener`."""
    try:
        opened = await _handshake(url, headers)
    except WSInvalidURL as error:
        raise SocketImpossible(str(error)) from None
    except TimeoutError:
        raise SocketLost(NO_ANSWER) from None
    except WSHandshakeError as error:
        answer = error.response
        if answer is not None and 300 <= answer.status < 400:
            raise redirected(answer.headers.get("Location", url)) from None
        said = "" if answer is None else f" (HTTP {int(answer.status)})"
        raise SocketLost(f"{error}{said}") from None
    except (OSError, WSError) as error:
        raise SocketLost(str(error) or type(error).__name__) from None
    try:
        yield opened
    finally:
        await opened.close()
