"""WebSocket transport by `picows` (extra `fast`): frames are handled where they are read.

`websockets` wakes a task for every message.  Here the stream's handler runs inside the event loop's read, once per
frame, so a frame costs little more than its decoding.  Otherwise the transport behaves as
`kalshilab.kalshi.stream.transport_websockets` does, and the same tests run on both.
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
    CLOSE_TIMEOUT_S,
    LOGGER,
    MAX_FRAME,
    NO_ANSWER,
    OPEN_TIMEOUT_S,
    Socket,
    SocketImpossible,
    SocketLost,
    closed_with,
    redirected,
)

__all__ = ["open_fast_socket"]

READ_BUFFER_BYTES: Final = 256 * 1024
"""Bytes of one read at most."""


class _FastSocket(WSListener):
    """`Socket` by `picows`; the event loop calls the `on_ws_…` methods."""

    def __init__(self) -> None:
        self._transport: WSTransport
        self._on_frame: Callable[[bytes], bool] | None = None
        self._early: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    # Called by the event loop

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
                # Mark the exception as retrieved: nothing may be waiting.
                waiting.exception()
        self._pongs.clear()

    def _gather(self, continues: bool, part: bytes, last: bool) -> None:
        """Assemble a fragmented or binary message."""
        if continues != bool(self._parts):
            reason = "nothing to continue" if continues else "expected a continuation frame"
            self._refuse(WSCloseCode.PROTOCOL_ERROR, reason)
            return
        self._parts.append(part)
        self._size += len(part)
        if self._size > MAX_FRAME:
            self._refuse(WSCloseCode.MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAME} bytes")
        elif last:
            message, self._parts, self._size = b"".join(self._parts), [], 0
            self._take(message)

    def _refuse(self, code: WSCloseCode, reason: str) -> None:
        """Close the connection because of an invalid message; later frames are ignored."""
        self._transport.send_close(code, reason)
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
        except Exception as error:  # noqa: BLE001 - `read` raises it
            # The handler may have cancelled the reader.
            if not self._ended.done():
                self._ended.set_exception(error)
        else:
            if enough and not self._ended.done():
                self._ended.set_result(None)

    # Called by the stream

    async def read(self, on_frame: Callable[[bytes], bool], /) -> None:
        early, self._early = self._early, []
        for frame in early:
            # Even if the connection has ended since.
            if on_frame(frame):
                return
        self._on_frame = on_frame
        # Cancelling the reader cancels the future, so no frame is handled afterwards.
        await self._ended

    async def send(self, command: bytes, /) -> None:
        self._check()
        self._transport.send(WSMsgType.TEXT, command)

    async def ping(self) -> Awaitable[None]:
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
        # `picows` has names for some codes only; the others are plain numbers, and 0 means no code.
        code: Any = close.code
        return SocketLost(closed_with(getattr(code, "value", code) or 1005, close.reason))

    async def close(self) -> None:
        """Close the connection: send a close frame, wait briefly for the answer, and release the transport."""
        self._transport.send_close(WSCloseCode.OK)
        # Waiting raises the error of an invalid frame, which `read` has raised already.
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
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


async def _connect(url: WSParsedURL) -> socket.socket:
    """Connect to the first of the host's addresses that accepts."""
    loop = asyncio.get_running_loop()
    failure = OSError(f"{url.host}: no address")
    for family, kind, proto, _, address in await loop.getaddrinfo(
        url.host, url.port, type=socket.SOCK_STREAM
    ):
        link = socket.socket(family, kind, proto)
        link.setblocking(False)
        try:
            await loop.sock_connect(link, address)
        except OSError as error:
            failure = error
            link.close()
        except BaseException:
            link.close()
            raise
        else:
            return link
    raise failure


async def _handshake(url: str, headers: Mapping[str, str]) -> _FastSocket:
    """Connect and shake hands; a failure, a time-out or a cancellation leaves no connection open."""
    link: socket.socket | None = None

    async def reach(parsed: WSParsedURL) -> socket.socket:
        nonlocal link
        link = await _connect(parsed)
        return link

    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            _, listener = await ws_connect(
                _FastSocket,
                url,
                logger_name=LOGGER,
                extra_headers=dict(headers),
                max_redirects=0,
                max_frame_size=MAX_FRAME,
                websocket_handshake_timeout=None,
                read_buffer_init_size=READ_BUFFER_BYTES,
                socket_factory=reach,
            )
    except BaseException:
        # `picows` would wait on, and nothing else owns the connection.
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
    """Open a socket with `picows`; see `kalshilab.kalshi.stream.transport_websockets.Opener`."""
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
        status = "" if answer is None else f" (HTTP {int(answer.status)})"
        raise SocketLost(f"{error}{status}") from None
    except (OSError, WSError) as error:
        raise SocketLost(str(error) or type(error).__name__) from None
    try:
        yield opened
    finally:
        await opened.close()
