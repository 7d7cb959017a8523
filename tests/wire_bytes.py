"""The bytes of HTTP/1.1 and WebSocket, as far as a proxy must know them."""

from __future__ import annotations

import asyncio
import re
from http import HTTPStatus
from typing import Final, NamedTuple

__all__ = ["Request", "frame_type", "page", "read_answer", "read_frame", "read_request", "unreadable"]

NUMBER: Final = re.compile(rb'(":"?)[0-9](?=[0-9.]*[",}])')
TYPE: Final = re.compile(rb'"type":"(\w+)"')
REASONS: Final = {status.value: status.phrase for status in HTTPStatus}


class Request(NamedTuple):
    """An HTTP request: its method and target, and all of its bytes."""

    method: str
    target: str
    raw: bytes
    upgrades: bool

    @property
    def line(self) -> str:
        """Method and target, as faults match them."""
        return f"{self.method} {self.target}"


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Read one request; return None if the connection ended before it began."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            return None
        raise
    method, target, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
    body = await reader.readexactly(int(header(head, b"content-length") or 0))
    return Request(method, target, head + body, header(head, b"upgrade").lower() == b"websocket")


async def read_answer(reader: asyncio.StreamReader, method: str = "GET") -> bytes:
    """Read one answer that states its length, and return its bytes."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    length = 0 if status in (204, 304) or method == "HEAD" else int(header(head, b"content-length") or 0)
    return head + await reader.readexactly(length)


def header(head: bytes, name: bytes) -> bytes:
    """Return the value of a header, or b""."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Read one unmasked WebSocket frame and return its bytes."""
    head = await reader.readexactly(2)
    length = head[1] & 0x7F
    if length >= 126:
        more = await reader.readexactly(2 if length == 126 else 8)
        head, length = head + more, int.from_bytes(more, "big")
    return head + await reader.readexactly(length)


def frame_type(frame: bytes) -> str:
    """Return the "type" of the JSON message in a text frame, or "".

    >>> frame_type(bytes([0x81, 15]) + b'{"type":"fill"}')
    'fill'
    """
    if frame[0] & 0x0F != 1:
        return ""
    found = TYPE.search(frame, 2, 200)
    return "" if found is None else found[1].decode()


def page(status: int, location: str = "") -> bytes:
    """Return the answer of a maintenance proxy: a page of HTML with a status."""
    body = f"<html><body><h1>{status} {REASONS[status]}</h1><p>Back soon.</p></body></html>".encode()
    extra = f"Location: {location}\r\n" if location else ""
    head = f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: text/html\r\n{extra}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def unreadable(answer: bytes) -> bytes:
    r"""Return an answer in which the first number of the body is not a number, with the same length.

    >>> unreadable(b'HTTP/1.1 200 OK\r\n\r\n{"count":"12.00"}').rpartition(b'{')[2]
    b'"count":"?2.00"}'
    """
    head, body = answer.split(b"\r\n\r\n", 1)
    return head + b"\r\n\r\n" + NUMBER.sub(rb"\1?", body, count=1)
