"""Readers of settings: each converts a keyword or the text of a variable, and states what it accepts.

A `SettingReader` raises `ValueError` for a value that it does not accept; `kalshilab.config.settings` turns that into a
`ConfigError` with the variable, the value and where it came from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, Literal, NamedTuple, SupportsFloat

from kalshilab.config.secret import Secret

__all__ = [
    "BUDGETS", "FLAG", "NAMES", "SECRET", "SPEED", "TEXT", "TIERS", "SettingReader", "StrategyBudget", "choice", "choices",
    "empty_or", "number", "optional", "text_of", "whole", "zero_or",
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
    """Return a reader that accepts an empty text or list as an empty tuple, and else what `reader` accepts."""

    def convert(value: object) -> object:
        empty = isinstance(value, str | tuple | list) and not value
        return () if empty else reader.convert(value)

    return SettingReader(reader.allowed, convert)


def zero_or(reader: SettingReader) -> SettingReader:
    """Return a reader that accepts 0, where a limit does not apply, and else what `reader` accepts."""
    return SettingReader(
        f"0 or {reader.allowed}", lambda value: 0 if _decimal(value) == 0 else reader.convert(value)
    )


def choice(*options: str) -> SettingReader:
    """Return a reader that accepts one of `options`."""

    def convert(value: object) -> object:
        if value not in options:
            raise ValueError
        return value

    return SettingReader("one of " + ", ".join(options), convert)


def choices(*options: str) -> SettingReader:
    """Return a reader of names that differ, each one of `options`."""

    def convert(value: object) -> tuple[str, ...]:
        names = _names(value)
        if len(set(names)) < len(names) or not set(names) <= set(options):
            raise ValueError
        return names

    return SettingReader(f"different names out of {', '.join(options)}, separated by commas", convert)


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


class StrategyBudget(NamedTuple):
    """Limits of one strategy as people type them: dollars, contracts and markets; None means unlimited."""

    strategy: str
    cash: float | None = None
    contracts: float | None = None
    positions: int | None = None


def _budgets(value: object) -> tuple[StrategyBudget, ...]:
    if isinstance(value, str):
        parts = [part.strip().split(":") for part in value.split(",")]
        given = [(name, dict(pair.split("=") for pair in pairs)) for name, *pairs in parts]
    elif isinstance(value, Mapping):
        given = [(str(name), dict(limits)) for name, limits in value.items()]
    elif isinstance(value, Iterable):
        given = [(b.strategy, {k: v for k, v in b._asdict().items() if k != "strategy"}) for b in value]
    else:
        raise TypeError
    budgets = tuple(_budget(name.strip(), limits) for name, limits in given)
    if len({budget.strategy for budget in budgets}) < len(budgets):
        raise ValueError
    return budgets


def _budget(name: str, limits: Mapping[str, object]) -> StrategyBudget:
    if not name or not set(limits) <= set(_BUDGET):
        raise ValueError
    read = {limit: _BUDGET[limit].convert(value) for limit, value in limits.items()}
    if all(value is None for value in read.values()):
        raise ValueError
    return StrategyBudget(name, **read)  # type: ignore[arg-type]


_BUDGET: Final = {
    "cash": optional(number(0.01, 1e9)),
    "contracts": optional(number(0.01, 1e9)),
    "positions": optional(whole(1, 1e6)),
}


def text_of(value: object) -> str:
    """Return the text with which a variable gives a value; its reader returns the value again.

    >>> text_of(None), text_of(("A", "B")), text_of(((0.0, 1.0), (10.0, 1.5))), text_of(True)
    ('', 'A,B', '0.0:1.0,10.0:1.5', 'True')
    >>> text_of((StrategyBudget("rlm_no", cash=500.0), StrategyBudget("hold", positions=3)))
    'rlm_no:cash=500.0,hold:positions=3'
    """
    if isinstance(value, StrategyBudget):
        limits = (
            f"{name}={limit}"
            for name, limit in value._asdict().items()
            if name != "strategy" and limit is not None
        )
        return ":".join((value.strategy, *limits))
    if isinstance(value, tuple):
        joint = ":" if value and isinstance(value[0], float) else ","
        return joint.join(map(text_of, value))
    return "" if value is None else str(value)


BUDGETS: Final = SettingReader(
    'limits of strategies, as in "rlm_no:cash=500:contracts=1000,whale_fade:positions=5"', _budgets
)
FLAG: Final = SettingReader("true or false", _flag)
TEXT: Final = SettingReader("a text that is not empty", _text)
SECRET: Final = SettingReader("a private key as PEM text or bare base64", _secret)
NAMES: Final = SettingReader('names separated by commas, or "all"', _names)
SPEED: Final = SettingReader('"max" or a number above 0 and at most 1,000,000,000', _speed)
TIERS: Final = SettingReader('ascending pairs of drop in cents and factor, as in "0:1,10:1.5,20:2"', _tiers)
