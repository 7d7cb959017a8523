"""Canonical JSON: equal values give equal text and therefore equal hashes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date, datetime

import numpy as np

from kalshilab.errors import RegistryError

__all__ = ["canonical", "hash_of"]


def canonical(value: object) -> str:
    """Return a value as JSON with sorted keys and with numbers written by value, not by type.

    Floats are rounded to twelve significant digits, and whole numbers are written as integers: 0.1 + 0.6 becomes 0.7
    and 15.0 becomes 15. Tuples, arrays and sets become lists (sets sorted), instants ISO 8601 text.

    >>> canonical({"b": (1.0, 0.1 + 0.6), "a": None})
    '{"a":null,"b":[1,0.7]}'

    Raises:
        RegistryError: the value has no JSON form (NaN, infinity, a function), or a key or a text is not Unicode text.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RegistryError(f"text in a record must be valid Unicode: {error}") from None
    return text


def hash_of(value: object) -> str:
    """Return the SHA-256 hash of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RegistryError(f"NaN and infinity cannot be stored, got {value}; pass None")
        rounded = float(f"{value:.12g}")
        return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RegistryError(f"keys of a record must be text, got {key!r}")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=canonical)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise RegistryError(
        f"values of a record must be text, numbers, dates or lists of them, got {value!r} ({type(value).__name__})"
    )
