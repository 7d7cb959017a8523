"""Base of the REST bodies: paths, decoding errors and times."""

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
"""Prefix of every REST path; it is part of the signed text."""
WS_PATH: Final = "/trade-api/ws/v2"
"""Path of the WebSocket."""
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of decoding foreign JSON: it is invalid, has another shape, is not UTF-8, or is nested too deeply."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of the bodies: keyword fields, and fields at their default are omitted, as the exchange does."""


def instant(text: str | None) -> int:
    """Convert an RFC 3339 time to microseconds since 1970 UTC; None and "" become 0.

    >>> instant("2026-11-22T06:30:00.900Z")
    1795329000900000

    Raises:
        ProtocolError: the text is not a time with a time zone.
    """
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text)
        return from_datetime(moment)
    except ValueError as error:
        raise ProtocolError(f"invalid time: {error}", text) from None
