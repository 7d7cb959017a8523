"""One WebSocket client on its socket.

The handshake and the client's frames pass through the protocol object of the `websockets` library, which does no
I/O. The exchange sends many small frames at a time, so this module frames them itself: all frames that collect in
one turn of the event loop go out in one write.

The server stops reading from a client that does not read. Its frames stay in the hub, where the tape waits for the
client until its deadline passes and the connection is aborted. So no buffer grows without bound.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Final, NamedTuple, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from kalshilab.deprecation import renamed_keywords
from kalshilab.exchange.faults.frame_faults import FrameEvent
from kalshilab.exchange.server.gateway import MAX_COMMAND, ClientStream, Gateway

__all__ = ["DEADLINES", "LINGER_S", "OUTBOX_LIMIT", "Deadlines", "WebSocketConnection"]

OUTBOX_LIMIT: Final = 2_000
"""Number of pending frames above which the tape waits for a client, and the client's commands wait too."""
ABORT_LIMIT: Final = 200_000
"""Number of pending frames above which a stalled connection is aborted."""
LINGER_S: Final = 2
"""Seconds that a client has to close a connection after the server has ended it."""
WRITE_BUFFER: Final = 512 * 1024
HEARTBEAT: Final = b"heartbeat"

_silent_logger: Final = logging.getLogger("kalshilab.exchange.server.websocket")
_silent_logger.addHandler(logging.NullHandler())
_silent_logger.propagate = False


class _DeadlineFields(NamedTuple):
    request_s: int = 10
    idle_s: int = 120
    write_s: int = 30
    ping_s: int = 10


class Deadlines(_DeadlineFields):
    """Time limits for clients, in seconds; they are counted in ticks of one second.

    Args:
        request_s: time from the first byte of a request, or of a connection, to its last byte.
        idle_s: time between two requests.
        write_s: time in which a client must read some of the bytes that wait for it.
        ping_s: interval between two pings to a WebSocket client.
    """

    __slots__ = ()

    @renamed_keywords(request="request_s", idle="idle_s", write="write_s", ping="ping_s")
    def __new__(
        cls, request_s: int = 10, idle_s: int = 120, write_s: int = 30, ping_s: int = 10
    ) -> Deadlines:
        return super().__new__(cls, request_s, idle_s, write_s, ping_s)


DEADLINES: Final = Deadlines()


def _header(length: int) -> bytes:
    """Return the header of an unmasked text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return struct.pack("!BBH", 0x81, 126, length)
    return struct.pack("!BBQ", 0x81, 127, length)


_HEADERS: Final = tuple(_header(n) for n in range(2048))


def framed(frames: list[bytes]) -> bytes:
    r"""Return messages as WebSocket text frames, joined.

    >>> framed([b"{}", b"[]"])
    b'\x81\x02{}\x81\x02[]'
    """
    parts = []
    for frame in frames:
        length = len(frame)
        parts.append(_HEADERS[length] if length < 2048 else _header(length))
        parts.append(frame)
    return b"".join(parts)


class WebSocketConnection(asyncio.Protocol):
    """One WebSocket connection, from its handshake on.

    Args:
        gateway: the gateway that the client connects to.
        open_connections: the set of open connections, which this one joins while it is open.
        drained: set when a client has caught up with its frames.
        deadlines: time limits for the client.
    """

    def __init__(
        self,
        gateway: Gateway,
        open_connections: set[WebSocketConnection],
        drained: asyncio.Event,
        deadlines: Deadlines,
    ) -> None:
        self._gateway, self._open_connections = gateway, open_connections
        self._drained, self._deadlines = drained, deadlines
        self._loop = asyncio.get_running_loop()
        self._ws = ServerProtocol(max_size=MAX_COMMAND, logger=_silent_logger)
        self._stream: ClientStream | None = None
        self._transport: asyncio.Transport
        self._message = bytearray()
        self._scheduled = self._stalled = self._ending = self._reading_stopped = self._half_open = False
        self._ticks = self._stalled_ticks = 0

    def start(self, transport: asyncio.Transport, request: bytes) -> None:
        """Answer a handshake whose signature has been checked."""
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._open_connections.add(self)
        self._ws.receive_data(request)
        opening = next(iter(self._ws.events_received()), None)
        if not isinstance(opening, Request):
            self._close()
            return
        response = self._ws.accept(opening)
        self._ws.send_response(response)
        self._write_protocol()
        if response.status_code != 101:
            self._close()
            return
        self._stream = ClientStream(self._gateway, self._schedule_flush)

    def connection_lost(self, error: Exception | None) -> None:
        self._open_connections.discard(self)
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self._drained.set()

    # Frames out

    @property
    def pending_frames(self) -> int:
        """Number of frames that wait for this client; 0 if it gets no more frames."""
        return 0 if self._stream is None or self._half_open or self._ending else self._stream.waiting

    def _schedule_flush(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write all pending frames if the client reads."""
        self._scheduled = False
        stream = self._stream
        if stream is None or self._stalled or self._ending or self._transport.is_closing():
            return
        taken = stream.take()
        if self._half_open:
            return
        if self._gateway.faults is None:
            frames = cast("list[bytes]", taken)
        else:
            frames = []
            for item in taken:
                if isinstance(item, FrameEvent):
                    self._apply_event(item, frames)
                    return
                frames.append(item)
        if frames:
            self._transport.write(framed(frames))
        self._drained.set()

    def _apply_event(self, event: FrameEvent, frames: list[bytes]) -> None:
        """Write the frames before an event and change the state of the socket."""
        if frames:
            self._transport.write(framed(frames))
        if event is FrameEvent.HALF_OPEN:
            self._half_open = True
        elif self._transport.get_write_buffer_size():
            # The preceding frames must arrive, so the end must not overtake them.
            self._close()
        else:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._stalled, self._stalled_ticks = True, 0

    def resume_writing(self) -> None:
        self._stalled = False
        self.flush()
        self._update_reading()

    def _update_reading(self) -> None:
        """Read commands only from a client that reads its answers."""
        stop = self._stalled or self.pending_frames > OUTBOX_LIMIT
        if stop != self._reading_stopped and not self._transport.is_closing():
            self._reading_stopped = stop
            if stop:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # Commands in

    def data_received(self, data: bytes) -> None:
        if self._half_open:
            return
        if self._ending:
            return  # read and discard, so that a reset does not destroy the last frames
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Frame):
                self._frame(event)
        self._write_protocol()
        if self._ws.close_expected():
            self._close()
        else:
            self._update_reading()

    def eof_received(self) -> None:
        return None

    def _frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._message += frame.data
            if frame.fin:
                message, self._message = bytes(self._message), bytearray()
                if self._stream is not None:
                    self._stream.connection.receive(message)

    def _write_protocol(self) -> None:
        """Write the protocol's own bytes: handshake answers, pings, pongs and closing frames."""
        chunks = self._ws.data_to_send()
        data = b"".join(chunks)
        if data and not self._ending:
            # Pending frames are older, so they go first.
            self.flush()
            self._transport.write(data)

    def _close(self) -> None:
        """Send the remaining bytes and wait for the client to close."""
        if not self._ending and not self._transport.is_closing():
            self._ending, self._stalled_ticks = True, 0
            self._transport.write_eof()

    # Time

    def tick(self) -> None:
        """Count one second and apply the deadlines."""
        self._ticks += 1
        if self._ending or self._stalled or self._transport.is_closing():
            self._stalled_ticks += 1
            patience_s = LINGER_S if self._ending else self._deadlines.write_s
            if self._stalled_ticks > patience_s or self.pending_frames > ABORT_LIMIT:
                self._transport.abort()
            return
        if self._ticks % self._deadlines.ping_s == 0 and not self._half_open:
            self._ws.send_ping(HEARTBEAT)
            self._write_protocol()
        self._update_reading()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()
