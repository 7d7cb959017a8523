"""The exchange's listening side: HTTP on its sockets, one object a connection.

Requests are parsed as they come and answered in order, each before the next is looked at.  A client that sends
more than it reads is not read from; one that is slow to finish what it has begun, sends what is no HTTP, or
sends more than a request may hold, is told so and hung up on.  So a connection holds at most one read's worth
of requests and one answer, whatever it does.

Time comes in ticks of a second from whoever serves; see `Deadlines`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote

import httptools

from kalshilab.exchange.rest.params import Answer, Request, nested
from kalshilab.exchange.server.gateway import MAX_BODY, Front
from kalshilab.exchange.server.websocket import LINGER, OUTBOX_LIMIT, Deadlines, Link

__all__ = ["Port"]

MAX_HEAD: Final = 32_768
"""Bytes of a request before its body."""
MAX_CONNECTIONS: Final = 16_384

_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_TYPE: Final = b"content-type: application/json\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Port:
    """All connections of a served exchange.

    Args:
        deadlines: how long clients may take.
    """

    def __init__(self, front: Front, deadlines: Deadlines) -> None:
        self.front, self.deadlines = front, deadlines
        self.connections: set[Connection] = set()
        self.links: set[Link] = set()
        self.drained = asyncio.Event()

    def accept(self) -> Connection:
        """A protocol for a connection that has been made."""
        return Connection(self)

    @property
    def full(self) -> bool:
        """Whether there are as many connections as there may be."""
        return len(self.connections) + len(self.links) >= MAX_CONNECTIONS

    def tick(self) -> None:
        """A second has gone by."""
        for connection in tuple(self.connections):
            connection.tick()
        for link in tuple(self.links):
            link.tick()

    async def room(self) -> None:
        """Return when no WebSocket client lags too far behind."""
        while any(link.behind > OUTBOX_LIMIT for link in self.links):
            self.drained.clear()
            await self.drained.wait()

    def end(self) -> None:
        """Hang up on everybody."""
        for connection in tuple(self.connections):
            connection.end()
        for link in tuple(self.links):
            link.end()


class Connection(asyncio.Protocol):
    """One client over HTTP, until it goes or asks for a WebSocket."""

    def __init__(self, port: Port) -> None:
        self._port, self._front = port, port.front
        self._parser = httptools.HttpRequestParser(self)
        self._inbox: deque[tuple[Request, bool]] = deque()
        self._transport: asyncio.Transport
        self._stalled = self._busy = self._ending = self._in_request = self._reading_stopped = False
        self._ticks = self._head = 0
        self._url, self._body = b"", bytearray()
        self._headers: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._port.full:
            transport.abort()
        else:
            self._port.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._port.connections.discard(self)
        self._inbox.clear()
        self._ending = True

    # In

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return  # read, so that the answer is not lost to a reset, and forgotten
        if not self._in_request:
            # A request may begin with this; the time for it does.
            self._in_request, self._ticks, self._head = True, 0, 0
        self._head += len(data)
        upgrade: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as asked:
            upgrade = asked.args[0]
        except httptools.HttpParserError:
            self._refuse(nested(400, "bad_request", "not an HTTP request"))
            return
        if self._head > MAX_HEAD and not self._ending:
            self._refuse(nested(431, "request_header_fields_too_large"))
            return
        self._serve()
        if upgrade is not None and not self._ending:
            self._upgrade(data[upgrade:])

    # The parser's callbacks

    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", [], bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._head = 0
        for name, value in self._headers:
            lowered = name.lower()
            waits = lowered == b"expect" and value.lower() == b"100-continue"
            if waits and not (self._inbox or self._busy or self._ending):
                self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._head = 0
        if len(self._body) + len(body) > MAX_BODY:
            self._body = bytearray()
            self._refuse(nested(413, "request_too_large"))
        elif not self._ending:
            self._body += body

    def on_message_complete(self) -> None:
        self._head, self._in_request, self._ticks = 0, False, 0
        if not self._ending and not self._wants_socket():
            self._inbox.append((self._request(), self._parser.should_keep_alive()))

    def _wants_socket(self) -> bool:
        return self._parser.should_upgrade() and any(
            name.lower() == b"upgrade" and value.lower() == b"websocket" for name, value in self._headers
        )

    def _request(self) -> Request:
        raw, _, query = self._url.decode("latin-1").partition("?")
        path = unquote(raw.partition("#")[0])
        headers = {name.decode("latin-1").upper(): value.decode("latin-1") for name, value in self._headers}
        pairs = tuple(parse_qsl(query, keep_blank_values=True)) if query else ()
        method = self._parser.get_method().decode("ascii")
        return Request(method, path, dict(pairs), headers, bytes(self._body), pairs)

    # Out

    def _serve(self) -> None:
        """Answer what has come, as long as the client reads."""
        while self._inbox and not (self._busy or self._stalled or self._ending):
            request, keep = self._inbox.popleft()
            self._busy = True

            def reply(answer: Answer | None, request: Request = request, keep: bool = keep) -> None:
                self._reply(request, answer, keep)

            try:
                self._front.take(request, reply)
            except Exception as error:  # noqa: BLE001 - one request must not end the exchange
                told = {"message": f"{request.method} {request.path} failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(told)
                self._reply(request, nested(500, "internal_server_error"), keep=False)
        stop = self._stalled or bool(self._inbox)
        if stop != self._reading_stopped and not self._transport.is_closing():
            self._reading_stopped = stop
            if stop:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _reply(self, request: Request, answer: Answer | None, keep: bool) -> None:
        self._busy, self._ticks = False, 0
        if self._ending or self._transport.is_closing():
            return
        if answer is None:
            self._transport.abort()
            return
        self._write(answer, keep, bodiless=request.method == "HEAD")
        if not keep:
            self._close()
        elif self._inbox:
            # Others have waited for this one, which was held back.
            asyncio.get_running_loop().call_soon(self._serve)

    def _write(self, answer: Answer, keep: bool, bodiless: bool = False) -> None:
        body = answer.body
        length = b"" if answer.status == 204 else b"content-length: %d\r\n" % len(body)
        kept = b"\r\n" if keep else b"connection: close\r\n\r\n"
        head = _LINES[answer.status] + (_TYPE if body else b"") + length + kept
        self._transport.write(head if bodiless else head + body)

    def _refuse(self, answer: Answer) -> None:
        if not self._ending and not self._transport.is_closing():
            self._inbox.clear()
            self._write(answer, keep=False)
            self._close()

    def _close(self) -> None:
        """Write what is to be written, and end when the client does."""
        self._ending, self._ticks = True, 0
        self._transport.write_eof()

    def pause_writing(self) -> None:
        self._stalled, self._ticks = True, 0

    def resume_writing(self) -> None:
        self._stalled, self._ticks = False, 0
        self._serve()

    def tick(self) -> None:
        """A second has gone by."""
        self._ticks += 1
        limits = self._port.deadlines
        if self._ending or self._stalled:
            if self._ticks > (LINGER if self._ending else limits.write):
                self._transport.abort()
        elif self._busy:
            return  # an order under way: we are the slow ones
        elif self._in_request:
            if self._ticks > limits.request:
                self._refuse(nested(408, "request_timeout", "the request took too long to arrive"))
        elif self._ticks > limits.idle:
            self._close()

    def end(self) -> None:
        """The server ends."""
        self._transport.abort()

    # WebSocket

    def _upgrade(self, rest: bytes) -> None:
        request = self._request()
        if not self._wants_socket():
            return  # some other protocol, which HTTP lets us ignore; the request has been answered
        refusal = self._front.refusal(request)
        if refusal is not None:
            self._refuse(refusal)
            return
        lines = [b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._url)]
        lines += [b"%b: %b\r\n" % header for header in self._headers]
        link = Link(self._front, self._port.links, self._port.drained, self._port.deadlines)
        self._port.connections.discard(self)
        self._transport.set_protocol(link)
        link.begin(self._transport, b"".join([*lines, b"\r\n"]))
        if rest:
            link.data_received(rest)
