"""Requests, answers and what both sides of the REST routes read from a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

__all__ = [
    "FOREVER", "Answer", "BadQuery", "Request", "encode", "integer", "missing", "nested", "ok", "page_size",
    "paged", "place",
]  # fmt: skip

T = TypeVar("T")
FOREVER: Final = 2**53
"""Seconds: the end of time as a query can say it."""
encode: Final = msgspec.json.Encoder().encode


class Request(NamedTuple):
    """A request: `path` from the root without query; header names in upper case.

    `query` holds the last value of each key, `pairs` every pair in order, for keys that may be repeated.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    pairs: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""


class BadQuery(Exception):
    """A query parameter that cannot be used."""


def nested(status: int, code: str, message: str = "", details: str = "") -> Answer:
    """An error in the exchange's usual shape."""
    error = {"code": code, "message": message or code} | ({"details": details} if details else {})
    return Answer(status, encode({"error": error}))


def ok(body: msgspec.Struct) -> Answer:
    """A success with a body."""
    return Answer(200, encode(body))


def missing(what: str) -> Answer:
    """The answer for what is not there."""
    return nested(404, "not_found", f"{what} not found")


def integer(query: Mapping[str, str], name: str, absent: int, low: int, high: int) -> int:
    """A whole number of the query within [low, high]; `absent` where it is not given."""
    text = query.get(name)
    if not text:
        return absent
    try:
        value = int(text)
    except ValueError:
        raise BadQuery(f"{name}: {text} is not a whole number") from None
    if not low <= value <= high:
        raise BadQuery(f"{name}: {value} is not between {low} and {high}")
    return value


def page_size(query: Mapping[str, str], usual: int, most: int) -> int:
    """Rows a page: above `most` is refused, not clamped; 0 is the usual number."""
    return integer(query, "limit", usual, 0, most) or usual


def place(query: Mapping[str, str]) -> int | None:
    """The place a cursor of trades or markets names; one that names none is taken for the start, as there."""
    cursor = query.get("cursor", "")
    if not cursor.startswith("p"):
        return None
    try:
        return int(cursor[1:], 16)
    except ValueError:
        return None


def paged(rows: Sequence[T], query: Mapping[str, str], usual: int, most: int) -> tuple[Sequence[T], str]:
    """A page of rows and the cursor of the next; a cursor that is none is taken for the start, as there."""
    size = page_size(query, usual, most)
    cursor = query.get("cursor", "")
    start = int(cursor) if cursor.isdigit() else 0
    end = start + size
    return rows[start:end], str(end) if end < len(rows) else ""
