"""What may be known of a market while it trades, and what is known only afterwards.

How a market settled, when, and when it really closed are *settlement facts*: a feature made of them looks ahead.  (So
are its final volume, its last price and the number of its trades; those are on the tape, where
`kalshilab.edge.lookahead.audit` finds their use.)  A strategy that asks for the markets is given a table without these facts,
and one whose text names them is refused before it runs.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, Final

import polars as pl

from kalshilab.tape.schema import MARKETS_SCHEMA

__all__ = ["SETTLEMENT_FACTS", "asked_for", "named_facts", "point_in_time"]

SETTLEMENT_FACTS: Final = ("result", "settlement", "settled_ts", "close_ts")
"""Columns of the markets that nobody knew while they traded."""


def point_in_time(markets: pl.DataFrame | None) -> pl.DataFrame | None:
    """The markets without settlement facts, in the order of their tickers.

    Columns that are none of `kalshilab.tape.schema.MARKETS_SCHEMA` are left out too: nobody can say since when they
    were known.  Nor does the order of the rows say anything.

    >>> import kalshilab as kl
    >>> "result" in point_in_time(kl.sample()[1]).columns
    False
    """
    if markets is None:
        return None
    kept = [c for c in MARKETS_SCHEMA.names() if c in markets.columns and c not in SETTLEMENT_FACTS]
    return markets.select(kept).sort("ticker")


def asked_for(error: Exception, markets: pl.DataFrame | None) -> str | None:
    """What an error says, if it is that of asking for a settlement fact, or for another column that `point_in_time`
    leaves out; None if it is a mistake like any other.

    >>> asked_for(pl.exceptions.ColumnNotFoundError('"result" not found'), None)
    '"result" not found'
    >>> asked_for(pl.exceptions.ColumnNotFoundError('"reslut" not found'), None) is None
    True
    """
    if not isinstance(error, pl.exceptions.ColumnNotFoundError):
        return None
    given = point_in_time(markets)
    others = set() if markets is None or given is None else set(markets.columns) - set(given.columns)
    said = str(error).splitlines()[0]
    # After it stand the columns that there are.
    missing = said.partition(";")[0]
    return said if any(f'"{column}"' in missing for column in others | set(SETTLEMENT_FACTS)) else None


def named_facts(function: Callable[..., Any]) -> tuple[str, ...]:
    """The settlement facts that a function's text names, in strings, attributes or variables, those of functions
    inside it and of functions that it calls by a global name included.

    >>> named_facts(lambda tape, markets: markets.filter(markets["result"] == "no"))
    ('result',)
    """
    words = set(_words(function, set()))
    return tuple(fact for fact in SETTLEMENT_FACTS if fact in words)


def _words(function: Any, seen: set[int]) -> Iterator[str]:
    for name in ("func", "py_func", "__wrapped__"):  # Of functools and numba.
        function = getattr(function, name, function)
    code = getattr(function, "__code__", None)
    if code is None:
        code = getattr(getattr(function, "__call__", None), "__code__", None)  # noqa: B004
    if code is None or id(code) in seen:
        return
    seen.add(id(code))
    yield from _of_code(code)
    scope = getattr(function, "__globals__", {})
    for name in code.co_names:
        called = scope.get(name)
        called = getattr(called, "py_func", getattr(called, "__wrapped__", called))
        # What other packages name is theirs.
        if isinstance(called, types.FunctionType) and called.__module__ == function.__module__:
            yield from _words(called, seen)


def _of_code(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names

    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _of_code(constant)
        elif isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple | frozenset):
            yield from (c for c in constant if isinstance(c, str))
