"""Separate facts known while a market trades from facts known only after its settlement.

A market's outcome, its settlement time and its actual close are *settlement facts*: a feature made from them looks ahead.
The final volume, the last price and the number of trades look ahead too, but they follow from the tape, where
`kalshilab.edge.lookahead.audit` detects their use. A strategy that takes the markets receives a table without settlement
facts, and one whose code names them is refused before it runs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import polars as pl

from kalshilab.lazy import renamed
from kalshilab.tape.schema import MARKETS_SCHEMA

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["SETTLEMENT_FACTS", "facts_in_code", "point_in_time", "withheld_column"]

SETTLEMENT_FACTS: Final = ("result", "settlement", "settled_ts", "close_ts")
"""Columns of the markets table that are unknown while a market trades."""


def point_in_time(markets: pl.DataFrame | None) -> pl.DataFrame | None:
    """Return the markets without settlement facts, sorted by ticker.

    Columns outside `kalshilab.tape.schema.MARKETS_SCHEMA` are removed too, because their age is unknown. The order of the
    rows is replaced, because it can carry information.

    Args:
        markets: `kl.to_markets`; None is returned unchanged.

    >>> import kalshilab as kl
    >>> "result" in point_in_time(kl.sample()[1]).columns
    False
    """
    if markets is None:
        return None
    kept = [c for c in MARKETS_SCHEMA.names() if c in markets.columns and c not in SETTLEMENT_FACTS]
    return markets.select(kept).sort("ticker")


def withheld_column(error: Exception, markets: pl.DataFrame | None) -> str | None:
    """Return the message of an error caused by a column that `point_in_time` removes; None for any other error.

    Args:
        error: an exception raised by a strategy.
        markets: the markets table before the removal.

    >>> withheld_column(pl.exceptions.ColumnNotFoundError('"result" not found'), None)
    '"result" not found'
    >>> withheld_column(pl.exceptions.ColumnNotFoundError('"reslut" not found'), markets=None)
    """
    if not isinstance(error, pl.exceptions.ColumnNotFoundError):
        return None
    passed = point_in_time(markets)
    removed = set() if markets is None or passed is None else set(markets.columns) - set(passed.columns)
    message = str(error).splitlines()[0]
    # After the semicolon polars lists the columns that exist.
    missing = message.partition(";")[0]
    return message if any(f'"{column}"' in missing for column in removed | set(SETTLEMENT_FACTS)) else None


def facts_in_code(function: Callable[..., object]) -> tuple[str, ...]:
    """Return the settlement facts that a function's code names, in strings, attributes or variables.

    Functions defined inside it, and functions of its module that it calls by a global name, are searched too.

    Args:
        function: a function, a partial, or a compiled or decorated function.

    >>> facts_in_code(lambda tape, markets: markets.filter(markets["result"] == "no"))
    ('result',)
    """
    words = set(_words(function, set()))
    return tuple(fact for fact in SETTLEMENT_FACTS if fact in words)


def _words(function: object, seen: set[int]) -> Iterator[str]:
    """Yield the names and strings in a function's code, and in that of functions it calls."""
    for name in ("func", "py_func", "__wrapped__"):  # Of functools and numba.
        function = getattr(function, name, function)
    code = getattr(function, "__code__", None)
    if code is None:
        code = getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    if code is None or id(code) in seen:
        return
    seen.add(id(code))
    yield from _words_of_code(code)
    scope = getattr(function, "__globals__", {})
    for name in code.co_names:
        called = scope.get(name)
        called = getattr(called, "py_func", getattr(called, "__wrapped__", called))
        # Code of other modules is not searched.
        if isinstance(called, types.FunctionType) and called.__module__ == getattr(
            function, "__module__", None
        ):
            yield from _words(called, seen)


def _words_of_code(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _words_of_code(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from (c for c in constant if isinstance(c, str))
