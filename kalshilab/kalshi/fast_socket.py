"""The WebSocket under a stream by `picows` (extra `fast`): frames are handled where they are read.

`websockets` wakes a task for every message.  Here the stream's handler runs inside the event loop's own read, once
for each frame that the read brought, which is about what a frame costs beyond its decoding.  All else is as with
`kalshilab.kalshi.sockets`, and so are the tests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from picows import (
    WSError,
    WSFrame,
    WSHandshakeError,
    WSInvalidURL,
    WSListener,
    WSMsgType,
    WSTransport,
    ws_connect,
)

from kalshilab.kalshi.sockets import (
    CLOSING,
    MAX_FRAME,
    NO_ANSWER,
    OPENING,
    Socket,
    SocketImpossible,
    SocketLost,
    redirected,
)

__all__ = ["open_fast_socket"]

READ: Final = 256 * 1024
"""Bytes that one read may bring."""
LOST: Final = "connection lost"


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
        self._reason = ""

    # By the event loop

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        if kind == WSMsgType.TEXT and frame.fin:
            self._take(frame.get_payload_as_bytes())
        elif kind in (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.CONTINUATION):
            self._gather(frame.get_payload_as_bytes(), frame.fin)
        elif kind == WSMsgType.PONG:
            if self._pongs:
                _done(self._pongs.popleft())
        elif kind == WSMsgType.CLOSE:
            code, reason = frame.get_close_code(), frame.get_close_reason()
            number = getattr(code, "value", code)
            self._reason = f"closed with code {number or 1005}{' ' + reason if reason else ''}"
            transport.send_close()
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        if not self._ended.done():
            self._ended.set_exception(SocketLost(self._reason or LOST))
            # Nobody may be reading; then nobody is told.
            self._ended.exception()
        while self._pongs:
            pong = self._pongs.popleft()
            if not pong.done():
                pong.set_exception(SocketLost(self._reason or LOST))
                pong.exception()

    def _gather(self, part: bytes, last: bool) -> None:
        """A message in pieces."""
        self._parts.append(part)
        self._size += len(part)
        if self._size > MAX_FRAME:
            self._reason = f"a message of more than {MAX_FRAME:,} bytes"
            self._transport.disconnect(False)
        elif last:
            whole, self._parts, self._size = b"".join(self._parts), [], 0
            self._take(whole)

    def _take(self, frame: bytes) -> None:
        if self._ended.done():
            return
        if self._on_frame is None:
            self._early.append(frame)
            return
        try:
            if self._on_frame(frame):
                self._ended.set_result(None)
        except Exception as error:  # noqa: BLE001 - raised by `read`, in whose name the frame is handled
            self._ended.set_exception(error)

    # By the stream

    async def read(self, on_frame: Callable[[bytes], bool], /) -> None:
        self._on_frame = on_frame
        early, self._early = self._early, []
        for frame in early:
            self._take(frame)
        await asyncio.shield(self._ended)

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
            raise SocketLost(self._reason or LOST)

    async def close(self) -> None:
        """Say goodbye, and wait a moment for the answer."""
        if self._transport.is_disconnected:
            return
        with suppress(WSError):
            self._transport.send_close()
        try:
            async with asyncio.timeout(CLOSING):
                await self._transport.wait_disconnected()
        except TimeoutError:
            self.abort()


def _done(pong: asyncio.Future[None]) -> None:
    if not pong.done():
        pong.set_result(None)


@asynccontextmanager
async def open_fast_socket(url: str, headers: Mapping[str, str]) -> AsyncIterator[Socket]:
    """A socket by `picows`; see `kalshilab.kalshi.sockets.Opener`."""
    try:
        async with asyncio.timeout(OPENING):
            _, listener = await ws_connect(
                _FastSocket,
                url,
                extra_headers=dict(headers),
                max_redirects=0,
                max_frame_size=MAX_FRAME,
                websocket_handshake_timeout=OPENING,
                read_buffer_init_size=READ,
            )
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
    assert isinstance(listener, _FastSocket)
    try:
        yield listener
    finally:
        await listener.close()
