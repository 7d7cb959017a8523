"""What all REST bodies share."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec

from kalshilab.clock import from_datetime
from kalshilab.errors import ProtocolError

__all__ = [
    "REST_PATH",
    "UNREADABLE",
    "WS_PATH",
    "Wire",
    "instant",
]


REST_PATH: Final = "/trade-api/v2"
"""What every REST path begins with; it is part of what is signed."""
WS_PATH: Final = "/trade-api/ws/v2"
"""The path of the WebSocket."""
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading JSON of other people's raises: it is none, has another shape, is no text, or is nested without end."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base: keyword fields; a field at its default is left out, as the exchange leaves out what is absent."""


def instant(text: str | None) -> int:
    """An RFC 3339 time to microseconds since 1970 UTC; 0 for none.

    >>> instant("2026-11-22T06:30:00.900Z")
    1795329000900000
    """
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
        return from_datetime(moment)
    except ValueError as error:
        raise ProtocolError(f"not a time: {error}", text) from None
