"""Readers of settings: each converts a keyword or the text of a variable, and states what it accepts.

A `SettingReader` raises `ValueError` for a value that it does not accept; `kalshilab.config.settings` turns that into a
`ConfigError` with the variable, the value and where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, SupportsFloat

from kalshilab.config.secret import Secret

__all__ = [
    "FLAG", "NAMES", "SECRET", "SPEED", "TEXT", "TIERS", "SettingReader", "choice", "empty_or", "number", "optional", "whole",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class SettingReader:
    """A conversion of a setting's value.

    Attributes:
        allowed: the accepted values, as a phrase that follows "must be".
        convert: converts a value; raises `ValueError` or `TypeError` for one that is not allowed.
    """

    allowed: str
    convert: Callable[[object], object]


def number(low: float, high: float, unit: str = "", *, scale: float = 1) -> SettingReader:
    """Return a reader of numbers from `low` to `high`.

    Args:
        low: the least value, in the setting's unit.
        high: the largest value, in the setting's unit.
        unit: the unit, for the sentence of an error; "" for a plain number.
        scale: units of the setting in one unit of the value given (0.01 for cents where the setting is in dollars).
    """

    def convert(value: object) -> float:
        # In decimals: a limit of 35 cents is 0.35 dollars and not the nearest binary fraction.
        converted = float(_decimal(value) * Decimal(str(scale)))
        # `not (… <= …)` also rejects NaN, which compares false with everything.
        if not low <= converted <= high:
            raise ValueError
        return converted

    return SettingReader(f"a number{_of(unit)} from {low:,.10g} to {high:,.10g}", convert)


def whole(low: float, high: float, unit: str = "") -> SettingReader:
    """Return a reader of whole numbers from `low` to `high`, inclusive."""

    def convert(value: object) -> int:
        exact = _decimal(value)
        if not exact.is_finite() or not low <= exact <= high or exact != int(exact):
            raise ValueError
        return int(exact)

    return SettingReader(f"a whole number{_of(unit)} from {low:,.10g} to {high:,.10g}", convert)


def _of(unit: str) -> str:
    return f" of {unit}" if unit else ""


def _decimal(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, str | SupportsFloat):
        raise TypeError
    try:
        return Decimal(str(value).strip())
    except InvalidOperation:
        raise ValueError from None


def optional(reader: SettingReader) -> SettingReader:
    """Return a reader that accepts None and an empty text as None, and else what `reader` accepts."""

    def convert(value: object) -> object:
        empty = value is None or (isinstance(value, str) and not value)
        return None if empty else reader.convert(value)

    return SettingReader(reader.allowed, convert)


def empty_or(reader: SettingReader) -> SettingReader:
    """Return a reader that accepts an empty text as an empty tuple, and else what `reader` accepts."""
    return SettingReader(reader.allowed, lambda value: () if value in ("", ()) else reader.convert(value))


def choice(*options: str) -> SettingReader:
    """Return a reader that accepts one of `options`."""

    def convert(value: object) -> object:
        if value not in options:
            raise ValueError
        return value

    return SettingReader("one of " + ", ".join(options), convert)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in {"true", "1", "yes", "on"}:
        return True
    if text in {"false", "0", "no", "off"}:
        return False
    raise ValueError


def _text(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def _secret(value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(_unstripped(value))


def _unstripped(value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value


def _names(value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable):
        raise TypeError
    names = tuple(str(p).strip() for p in parts if str(p).strip())
    if not names:
        raise ValueError
    return names


def _speed(value: object) -> float | Literal["max"]:
    if value == "max":
        return "max"
    factor = float(_decimal(value))
    if not 0 < factor <= 1e9:
        raise ValueError
    return factor


def _tiers(value: object) -> tuple[tuple[float, float], ...]:
    if isinstance(value, str):
        pairs = [p.split(":") for p in value.split(",")]
    elif isinstance(value, Iterable):
        pairs = list(value)
    else:
        raise TypeError
    tiers = tuple((float(drop), float(factor)) for drop, factor in pairs)
    drops = [drop for drop, _ in tiers]
    if not tiers or drops[0] != 0 or drops != sorted(set(drops)) or any(not 0 < f <= 100 for _, f in tiers):
        raise ValueError
    return tiers


FLAG: Final = SettingReader("true or false", _flag)
TEXT: Final = SettingReader("a text that is not empty", _text)
SECRET: Final = SettingReader("a private key as PEM text or bare base64", _secret)
NAMES: Final = SettingReader('names separated by commas, or "all"', _names)
SPEED: Final = SettingReader('"max" or a number above 0 and at most 1,000,000,000', _speed)
TIERS: Final = SettingReader('ascending pairs of drop in cents and factor, as in "0:1,10:1.5,20:2"', _tiers)
