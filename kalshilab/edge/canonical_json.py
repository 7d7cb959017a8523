"""Canonical JSON: the same text, and so the same hash, for the same value."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import numpy as np

from kalshilab.errors import RegistryError

__all__ = ["canonical", "hash_of"]


def canonical(value: Any) -> str:
    """A value as JSON that is the same for the same thing: keys sorted, numbers by value, not by their type.

    Floats are rounded to twelve significant digits, and whole ones are written as integers: 0.1 + 0.6 is 0.7, and 15
    is 15.0.  Tuples, arrays and sets become lists (sets sorted), instants ISO 8601.

    >>> canonical({"b": (1.0, 0.1 + 0.6), "a": None})
    '{"a":null,"b":[1,0.7]}'

    Raises:
        RegistryError: something JSON has no word for, as NaN or a function; a key that is no text.
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RegistryError(f"a record holds text that is no Unicode: {error}") from None
    return text


def hash_of(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise RegistryError(f"{value} has no place in a registry; leave it out, or give None")
        short = float(f"{value:.12g}")
        return int(short) if short.is_integer() and abs(short) < 1e15 else short
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise RegistryError(f"the key {key!r} is no text")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=canonical)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise RegistryError(
        f"{value!r} ({type(value).__name__}) cannot be written down; give text, numbers or lists of them"
    )
