"""Requests, answers and what both sides of the REST routes read from a query."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

__all__ = [
    "FOREVER", "Answer", "BadQuery", "Request", "encode", "flag", "integer", "missing", "names", "nested", "ok",
    "page_size", "paged", "place", "word",
]  # fmt: skip

T = TypeVar("T")
FOREVER: Final = 2**53
"""Seconds: the end of time as a query can say it."""
WHOLE: Final = re.compile(r"[+-]?[0-9]{1,30}")
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
    if not WHOLE.fullmatch(text):
        raise BadQuery(f"{name}: {text[:40]} is not a whole number")
    value = int(text)
    if not low <= value <= high:
        raise BadQuery(f"{name}: {value} is not between {low} and {high}")
    return value


def flag(query: Mapping[str, str], name: str) -> bool | None:
    """A yes or no of the query, in any of the words the exchange's parser takes; None where it is not given."""
    text = query.get(name)
    if not text:
        return None
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise BadQuery(f"{name}: {text} is neither true nor false")


def word(query: Mapping[str, str], name: str, known: Iterable[str]) -> str:
    """One of the known words; empty where it is not given."""
    text = query.get(name, "")
    if text and text not in known:
        raise BadQuery(f"{name}: one of {', '.join(known)}")
    return text


def names(query: Mapping[str, str], name: str) -> list[str] | None:
    """Names between commas, each once; None where there are none."""
    return list(dict.fromkeys(filter(None, query.get(name, "").split(",")))) or None


def page_size(query: Mapping[str, str], usual: int, most: int, least: int = 0) -> int:
    """Rows a page: above `most` is refused, not clamped; 0, where it is not too few, is the usual number."""
    return integer(query, "limit", usual, least, most) or usual


def place(query: Mapping[str, str]) -> int | None:
    """The place a cursor of trades or markets names; one that names none is taken for the start, as there."""
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
    """A page of rows and the cursor of the next; a cursor that is none is taken for the start, as there."""
    size = page_size(query, usual, most, least)
    cursor = query.get("cursor", "")
    start = int(cursor) if cursor.isascii() and cursor.isdigit() and len(cursor) < 19 else 0
    end = start + size
    return rows[start:end], str(end) if end < len(rows) else ""
