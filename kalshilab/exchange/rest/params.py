"""Requests and answers of the REST routes, and the parsing of query parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

__all__ = [
    "FOREVER", "Answer", "BadQuery", "Request", "choice", "cursor_position", "encode", "flag", "integer", "names",
    "nested", "not_found", "ok", "page_size", "paged",
]  # fmt: skip

T = TypeVar("T")
FOREVER: Final = 2**53
"""The latest time that a query can express, in seconds."""
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,30}")
encode: Final = msgspec.json.Encoder().encode


class Request(NamedTuple):
    """An HTTP request.

    Attributes:
        method: HTTP method, in upper case.
        path: path from the server's root, without the query.
        query: the last value of each query key.
        headers: header values by name, with names in upper case.
        body: the raw body.
        pairs: every pair of the query in order, for keys that may be repeated.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""
    pairs: tuple[tuple[str, str], ...] = ()


class Answer(NamedTuple):
    """An HTTP response: status code and JSON body."""

    status: int
    body: bytes = b""


class BadQuery(Exception):
    """A query parameter is invalid; the message names it."""


def nested(status: int, code: str, message: str = "", details: str = "") -> Answer:
    """Return an error answer in the exchange's usual shape."""
    error = {"code": code, "message": message or code} | ({"details": details} if details else {})
    return Answer(status, encode({"error": error}))


def ok(body: msgspec.Struct) -> Answer:
    """Return a 200 answer with a body."""
    return Answer(200, encode(body))


def not_found(what: str) -> Answer:
    """Return the 404 answer for a missing object, named by `what`."""
    return nested(404, "not_found", f"{what} not found")


def integer(query: Mapping[str, str], name: str, absent: int, low: int, high: int) -> int:
    """Return an integer parameter within [low, high]; `absent` if the query does not give it."""
    text = query.get(name)
    if not text:
        return absent
    if not _INTEGER.fullmatch(text):
        raise BadQuery(f"{name} must be an integer, got {text[:40]}")
    value = int(text)
    if not low <= value <= high:
        raise BadQuery(f"{name} must be between {low} and {high}, got {value}")
    return value


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """Return a boolean parameter, in any spelling the exchange accepts; None if the query does not give it."""
    text = query.get(name)
    if not text:
        return None
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise BadQuery(f"{name} must be true or false, got {text}")


def choice(query: Mapping[str, str], name: str, known: Iterable[str]) -> str:
    """Return a parameter that must be one of `known`; empty if the query does not give it."""
    text = query.get(name, "")
    if text and text not in known:
        raise BadQuery(f"{name} must be one of {', '.join(known)}, got {text[:40]}")
    return text


def names(query: Mapping[str, str], name: str) -> list[str] | None:
    """Return the distinct names of a comma-separated parameter; None for an empty list."""
    return list(dict.fromkeys(filter(None, query.get(name, "").split(",")))) or None


def page_size(query: Mapping[str, str], usual: int, most: int, least: int = 0) -> int:
    """Return the page size from `limit`, which is rejected above `most`; 0 means the usual size if `least` allows."""
    return integer(query, "limit", usual, least, most) or usual


def cursor_position(query: Mapping[str, str]) -> int | None:
    """Return the position that a cursor names; None, the start, for an invalid cursor, as on the exchange."""
    cursor = query.get("cursor", "")
    if not cursor.startswith("p"):
        return None
    try:
        return int(cursor[1:], 16)
    except ValueError:
        return None


def paged(
    rows: Sequence[T], query: Mapping[str, str], usual: int, most: int, least: int = 0
) -> tuple[Sequence[T], str]:
    """Return a page of rows and the cursor of the next page.

    An invalid cursor means the first page, as on the exchange.
    """
    size = page_size(query, usual, most, least)
    cursor = query.get("cursor", "")
    start = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 19 else 0
    end = start + size
    return rows[start:end], str(end) if end < len(rows) else ""
