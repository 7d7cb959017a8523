"""The listening side of a served exchange: HTTP over asyncio transports, one protocol object per connection.

Requests are parsed as they arrive and answered in order, each before the next is handled. The server stops reading
from a client that sends more than it reads. A client gets an error answer and is disconnected if it is too slow,
exceeds the size limits or does not speak HTTP. So a connection holds at most one read's worth of
requests and one answer.

The owner of the server calls `HttpServer.tick` once a second; see `Deadlines`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote

import httptools

from kalshilab.exchange.rest.params import Answer, Request, nested
from kalshilab.exchange.server.gateway import MAX_BODY, Gateway
from kalshilab.exchange.server.websocket import LINGER_S, OUTBOX_LIMIT, Deadlines, WebSocketConnection

__all__ = ["HttpConnection", "HttpServer"]

MAX_HEAD: Final = 32_768
"""Maximum size of a request before its body, in bytes."""
MAX_CONNECTIONS: Final = 16_384

_LINES: Final = {s.value: f"HTTP/1.1 {s.value} {s.phrase}\r\n".encode() for s in HTTPStatus}
_TYPE: Final = b"content-type: application/json\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class HttpServer:
    """All connections of a served exchange.

    Args:
        gateway: handles the requests.
        deadlines: time limits for clients.

    Attributes:
        connections: clients connected over HTTP.
        websockets: clients connected over WebSocket.
        drained: set when a WebSocket client has caught up with its frames.
    """

    def __init__(self, gateway: Gateway, deadlines: Deadlines) -> None:
        self.gateway, self.deadlines = gateway, deadlines
        self.connections: set[HttpConnection] = set()
        self.websockets: set[WebSocketConnection] = set()
        self.drained = asyncio.Event()

    def accept(self) -> HttpConnection:
        """Return the protocol object for a new connection."""
        return HttpConnection(self)

    @property
    def full(self) -> bool:
        """Whether the maximum number of connections is reached."""
        return len(self.connections) + len(self.websockets) >= MAX_CONNECTIONS

    def tick(self) -> None:
        """Count one second on every connection and apply the deadlines."""
        for connection in tuple(self.connections):
            connection.tick()
        for websocket in tuple(self.websockets):
            websocket.tick()

    async def wait_for_readers(self) -> None:
        """Return when no WebSocket client lags more than `OUTBOX_LIMIT` frames."""
        while any(websocket.pending_frames > OUTBOX_LIMIT for websocket in self.websockets):
            self.drained.clear()
            await self.drained.wait()

    def abort(self) -> None:
        """Close all connections at once."""
        for connection in tuple(self.connections):
            connection.abort()
        for websocket in tuple(self.websockets):
            websocket.abort()


class HttpConnection(asyncio.Protocol):
    """One client over HTTP, until it disconnects or upgrades to WebSocket."""

    def __init__(self, server: HttpServer) -> None:
        self._server, self._gateway = server, server.gateway
        self._parser = httptools.HttpRequestParser(self)
        self._inbox: deque[tuple[Request, bool]] = deque()
        self._transport: asyncio.Transport
        self._stalled = self._busy = self._ending = self._in_request = self._reading_stopped = False
        self._ticks = self._head_bytes = 0
        self._url, self._body = b"", bytearray()
        self._headers: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._server.full:
            transport.abort()
        else:
            self._server.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        self._inbox.clear()
        self._ending = True

    # Requests

    def data_received(self, data: bytes) -> None:
        if self._ending:
            return  # read and discard, so that a reset does not destroy the answer
        if not self._in_request:
            # A request may begin with these bytes, and with it the time it may take.
            self._in_request, self._ticks, self._head_bytes = True, 0, 0
        self._head_bytes += len(data)
        upgrade: int | None = None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgraded:
            upgrade = upgraded.args[0]
        except httptools.HttpParserError:
            self._refuse(nested(400, "bad_request", "not an HTTP request"))
            return
        if self._head_bytes > MAX_HEAD and not self._ending:
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
        self._head_bytes = 0
        for name, value in self._headers:
            lowered = name.lower()
            expects = lowered == b"expect" and value.lower() == b"100-continue"
            if expects and not (self._inbox or self._busy or self._ending):
                self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        self._head_bytes = 0
        if len(self._body) + len(body) > MAX_BODY:
            self._body = bytearray()
            self._refuse(nested(413, "request_too_large"))
        elif not self._ending:
            self._body += body

    def on_message_complete(self) -> None:
        self._head_bytes, self._in_request, self._ticks = 0, False, 0
        if not self._ending and not self._wants_websocket():
            self._inbox.append((self._request(), self._parser.should_keep_alive()))

    def _wants_websocket(self) -> bool:
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

    # Responses

    def _serve(self) -> None:
        """Answer the requests received so far, as long as the client reads."""
        while self._inbox and not (self._busy or self._stalled or self._ending):
            request, keep = self._inbox.popleft()
            self._busy = True

            def reply(answer: Answer | None, request: Request = request, keep: bool = keep) -> None:
                self._reply(request, answer, keep)

            try:
                self._gateway.handle(request, reply)
            except Exception as error:  # noqa: BLE001 - one request must not end the exchange
                context = {"message": f"{request.method} {request.path} failed", "exception": error}
                asyncio.get_running_loop().call_exception_handler(context)
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
            # Later requests have waited for this answer, which was delayed.
            asyncio.get_running_loop().call_soon(self._serve)

    def _write(self, answer: Answer, keep: bool, bodiless: bool = False) -> None:
        body = answer.body
        length = b"" if answer.status == 204 else b"content-length: %d\r\n" % len(body)
        ending = b"\r\n" if keep else b"connection: close\r\n\r\n"
        head = _LINES[answer.status] + (_TYPE if body else b"") + length + ending
        self._transport.write(head if bodiless else head + body)

    def _refuse(self, answer: Answer) -> None:
        if not self._ending and not self._transport.is_closing():
            self._inbox.clear()
            self._write(answer, keep=False)
            self._close()

    def _close(self) -> None:
        """Send the remaining bytes and wait for the client to close."""
        self._ending, self._ticks = True, 0
        self._transport.write_eof()

    def pause_writing(self) -> None:
        self._stalled, self._ticks = True, 0

    def resume_writing(self) -> None:
        self._stalled, self._ticks = False, 0
        self._serve()

    def tick(self) -> None:
        """Count one second and apply the deadlines."""
        self._ticks += 1
        deadlines = self._server.deadlines
        if self._ending or self._stalled:
            if self._ticks > (LINGER_S if self._ending else deadlines.write_s):
                self._transport.abort()
        elif self._busy:
            return  # an order is in flight: the exchange is the slow side
        elif self._in_request:
            if self._ticks > deadlines.request_s:
                self._refuse(nested(408, "request_timeout", "the request took too long to arrive"))
        elif self._ticks > deadlines.idle_s:
            self._close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    # WebSocket

    def _upgrade(self, rest: bytes) -> None:
        request = self._request()
        if not self._wants_websocket():
            return  # HTTP allows ignoring other protocols; the request has been answered
        refusal = self._gateway.handshake_refusal(request)
        if refusal is not None:
            self._refuse(refusal)
            return
        lines = [b"%b %b HTTP/1.1\r\n" % (self._parser.get_method(), self._url)]
        lines += [b"%b: %b\r\n" % header for header in self._headers]
        websocket = WebSocketConnection(
            self._gateway, self._server.websockets, self._server.drained, self._server.deadlines
        )
        self._server.connections.discard(self)
        self._transport.set_protocol(websocket)
        websocket.start(self._transport, b"".join([*lines, b"\r\n"]))
        if rest:
            websocket.data_received(rest)
