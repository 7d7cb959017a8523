"""Tests of the walk over the variables that a function or an object can reach."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable

import polars as pl

from kalshilab.edge.lookahead.closure_walk import (
    DataReader,
    is_empty_cell,
    is_user_function,
    is_user_module,
    members,
    nested_codes,
    reachable,
    wrapped_parts,
)

SCORES = [1.0, 2.0]
UNUSED = [3.0]


def names_of(thing: object) -> set[str]:
    return {capture.name for capture in reachable(thing)}


def uses_scores() -> float:
    return sum(SCORES)


def reads() -> pl.DataFrame:
    return pl.read_csv("scores.csv")


class Base:
    """A base class with a list."""

    weights = [1]  # noqa: RUF012


class Strategy(Base):
    """A strategy that keeps a list, and has a method that reads."""

    __slots__ = ("scores",)

    def __init__(self) -> None:
        self.scores = SCORES

    def load(self) -> pl.DataFrame:
        return reads()

    def run(self) -> float:
        return sum(self.scores)


def test_globals_closures_defaults_and_called_functions_are_reached() -> None:
    local = {"a": 1}

    def function(limit: list[int] = [5]) -> float:  # noqa: B006
        return uses_scores() + local["a"] + limit[0]

    assert names_of(function) == {"SCORES", "local", "a default of function"}


def test_a_name_that_no_code_uses_is_not_reached() -> None:
    assert "UNUSED" not in names_of(uses_scores)


def test_partials_methods_and_decorated_functions_are_unwrapped() -> None:
    for thing in (functools.partial(uses_scores), functools.cache(uses_scores), staticmethod(uses_scores)):
        assert wrapped_parts(thing) is not None and "SCORES" in names_of(thing)
    assert wrapped_parts(uses_scores) is None and wrapped_parts(3) is None


def test_a_method_that_is_not_called_does_not_count() -> None:
    assert names_of(Strategy()) == {"Strategy.scores", "Strategy.weights"}
    assert set(members(Strategy())) >= {"scores", "weights", "run"}


def test_a_function_that_reads_data_is_reported() -> None:
    (reader,) = [c.value for c in reachable(reads) if isinstance(c.value, DataReader)]
    assert reader == "read_csv"


def test_user_code_is_distinguished_from_libraries() -> None:
    assert is_user_function(uses_scores) and not is_user_function(functools.reduce)
    assert not is_user_function(pl.concat) and not is_user_function(reachable)
    assert is_user_module(__name__) and is_user_module("a_module_without_a_file")
    assert not any(map(is_user_module, ("polars", "math", "builtins", "kalshilab.edge", None)))
    assert names_of(math) == set()


def test_the_code_of_inner_functions_is_nested() -> None:
    def outer() -> Callable[[], int]:
        return lambda: 1

    assert [code.co_name for code in nested_codes(outer.__code__)] == ["outer", "<lambda>"]


def test_a_cell_without_a_value_is_empty() -> None:
    assert is_empty_cell(types.CellType()) and not is_empty_cell(types.CellType(1))
