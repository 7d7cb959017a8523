"""One WebSocket client on its socket.

The handshake and whatever the client sends go through the `websockets` library's protocol, which has no I/O.
What the exchange sends is many small frames at a time, so it is framed here: all that has gathered in a turn
of the loop goes out in one write.

A client that does not read is not read from either, and its frames stay with the hub, where the tape waits
for them or, in the end, the link is given up; nothing here grows without bound.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Final, NamedTuple, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from kalshilab.exchange.faults.frame_faults import Event
from kalshilab.exchange.server.gateway import MAX_COMMAND, Channel, Front

__all__ = ["DEADLINES", "LINGER", "OUTBOX_LIMIT", "Deadlines", "Link"]

OUTBOX_LIMIT: Final = 2_000
"""Frames a connection may lag behind before the tape waits for it, and before its commands do."""
OVERFLOW: Final = 200_000
"""Frames behind at which a connection is given up."""
LINGER: Final = 2
"""Seconds a connection that we have ended may take to end."""
WRITE_BUFFER: Final = 512 * 1024
HEARTBEAT: Final = b"heartbeat"

_quiet: Final = logging.getLogger("kalshilab.exchange.server.websocket")
_quiet.addHandler(logging.NullHandler())
_quiet.propagate = False


class Deadlines(NamedTuple):
    """Seconds, counted in ticks of one second.

    Attributes:
        request: from the first byte of a request, or of a connection, to the last of it.
        idle: between requests.
        write: for a client to read anything of what waits for it.
        ping: between pings to a WebSocket client.
    """

    request: int = 10
    idle: int = 120
    write: int = 30
    ping: int = 10


DEADLINES: Final = Deadlines()


def _header(length: int) -> bytes:
    """The head of an unmasked text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65_536:
        return struct.pack("!BBH", 0x81, 126, length)
    return struct.pack("!BBQ", 0x81, 127, length)


_HEADERS: Final = tuple(_header(n) for n in range(2048))


def framed(frames: list[bytes]) -> bytes:
    """Messages as bytes for the wire.

    >>> framed([b"{}", b"[]"])
    b'\\x81\\x02{}\\x81\\x02[]'
    """
    parts = []
    for frame in frames:
        length = len(frame)
        parts.append(_HEADERS[length] if length < 2048 else _header(length))
        parts.append(frame)
    return b"".join(parts)


class Link(asyncio.Protocol):
    """One WebSocket connection, from its handshake on.

    Args:
        links: all links there are; this one is among them while it lives.
        drained: set when a link has taken what waited for it.
    """

    def __init__(self, front: Front, links: set[Link], drained: asyncio.Event, deadlines: Deadlines) -> None:
        self._front, self._links, self._drained, self._deadlines = front, links, drained, deadlines
        self._loop = asyncio.get_running_loop()
        self._ws = ServerProtocol(max_size=MAX_COMMAND, logger=_quiet)
        self._channel: Channel | None = None
        self._transport: asyncio.Transport
        self._message = bytearray()
        self._scheduled = self._stalled = self._ending = self._reading_stopped = self._silent = False
        self._ticks = self._stalled_ticks = 0

    def begin(self, transport: asyncio.Transport, request: bytes) -> None:
        """Answer the handshake, which has been found to be allowed."""
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._links.add(self)
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
        self._channel = Channel(self._front, self._heard)

    def connection_lost(self, error: Exception | None) -> None:
        self._links.discard(self)
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        self._drained.set()

    # Frames out

    @property
    def behind(self) -> int:
        """Frames that wait for this client."""
        return 0 if self._channel is None or self._silent or self._ending else self._channel.waiting

    def _heard(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write whatever waits, if the client reads."""
        self._scheduled = False
        channel = self._channel
        if channel is None or self._stalled or self._ending or self._transport.is_closing():
            return
        taken = channel.take()
        if self._silent:
            return
        if self._front.faults is None:
            frames = cast("list[bytes]", taken)
        else:
            frames = []
            for item in taken:
                if isinstance(item, Event):
                    self._befall(item, frames)
                    return
                frames.append(item)
        if frames:
            self._transport.write(framed(frames))
        self._drained.set()

    def _befall(self, event: Event, frames: list[bytes]) -> None:
        if frames:
            self._transport.write(framed(frames))
        if event is Event.HALF_OPEN:
            self._silent = True
        elif self._transport.get_write_buffer_size():
            # The frames before it are to arrive, so the end must not overtake them.
            self._close()
        else:
            self._transport.abort()

    def pause_writing(self) -> None:
        self._stalled, self._stalled_ticks = True, 0

    def resume_writing(self) -> None:
        self._stalled = False
        self.flush()
        self._choose_reading()

    def _choose_reading(self) -> None:
        """Read commands only of a client that reads the answers."""
        stop = self._stalled or self.behind > OUTBOX_LIMIT
        if stop != self._reading_stopped and not self._transport.is_closing():
            self._reading_stopped = stop
            if stop:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # Commands in

    def data_received(self, data: bytes) -> None:
        if self._silent:
            return
        if self._ending:
            return  # read, so that what was written last is not lost to a reset, and forgotten
        self._ws.receive_data(data)
        for event in self._ws.events_received():
            if isinstance(event, Frame):
                self._frame(event)
        self._write_protocol()
        if self._ws.close_expected():
            self._close()
        else:
            self._choose_reading()

    def eof_received(self) -> None:
        return None

    def _frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._message += frame.data
            if frame.fin:
                message, self._message = bytes(self._message), bytearray()
                if self._channel is not None:
                    self._channel.connection.receive(message)

    def _write_protocol(self) -> None:
        """Write what the protocol itself has to say: the handshake's answer, pongs, the closing frame."""
        chunks = self._ws.data_to_send()
        data = b"".join(chunks)
        if data and not self._ending:
            # What waits was said before.
            self.flush()
            self._transport.write(data)

    def _close(self) -> None:
        """Write what is to be written, and end when the client does."""
        if not self._ending and not self._transport.is_closing():
            self._ending, self._stalled_ticks = True, 0
            self._transport.write_eof()

    # Time

    def tick(self) -> None:
        """A second has gone by."""
        self._ticks += 1
        if self._ending or self._stalled or self._transport.is_closing():
            self._stalled_ticks += 1
            patience = LINGER if self._ending else self._deadlines.write
            if self._stalled_ticks > patience or self.behind > OVERFLOW:
                self._transport.abort()
            return
        if self._ticks % self._deadlines.ping == 0 and not self._silent:
            self._ws.send_ping(HEARTBEAT)
            self._write_protocol()
        self._choose_reading()

    def end(self) -> None:
        """The server ends."""
        self._transport.abort()
