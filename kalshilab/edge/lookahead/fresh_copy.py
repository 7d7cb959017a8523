"""A function or an object as if it had never been called, with its tables as they were at some time.

What it remembers, in lists and dictionaries, caches, attributes and modules of the user's own, is copied, so that
nothing of a call lasts; functions that share something share its copy.
"""

from __future__ import annotations

import builtins
import copy
import functools
import types
from collections import deque
from datetime import datetime
from typing import Any

from kalshilab.edge.lookahead.captured_tables import cut, is_table
from kalshilab.edge.lookahead.closure_walk import (
    DEEP,
    MUTABLE,
    PLAIN,
    codes,
    is_empty,
    is_own,
    is_users,
    members,
    outside,
)

__all__ = ["anew"]


def anew(thing: Any, until: datetime | None = None) -> Any:
    """A copy of a function or an object as if it had never been called.

    Args:
        until: rows of the tables it holds that carry a later time are left out; None: they stay.

    >>> memory = []
    >>> def remembers():
    ...     memory.append(1)
    ...     return len(memory)
    >>> remembers(), anew(remembers)(), anew(remembers)(), remembers()
    (1, 2, 2, 2)
    """
    return _copy(thing, until, {}, 0)


def _copy(thing: Any, until: datetime | None, done: dict[Any, Any], depth: int) -> Any:
    if id(thing) in done:
        return done[id(thing)]
    if depth > 2 * DEEP:
        return thing
    # The thing is kept beside its copy, so that its number stays its own.
    done[id(thing), "kept"] = thing

    def again(value: Any) -> Any:
        return _copy(value, until, done, depth + 1)

    if isinstance(thing, types.FunctionType):
        # However many functions call each other: what is deep are containers.
        return (
            _function_anew(thing, done, lambda value: _copy(value, until, done, 0))
            if is_users(thing)
            else thing
        )
    if isinstance(thing, types.ModuleType):
        return _module_anew(thing, done, again) if is_own(thing.__name__) else thing
    if isinstance(thing, types.MethodType):
        return types.MethodType(again(thing.__func__), again(thing.__self__))
    if isinstance(thing, functools.partial):
        return functools.partial(
            again(thing.func), *map(again, thing.args), **{k: again(v) for k, v in thing.keywords.items()}
        )
    if hasattr(thing, "cache_clear") and hasattr(thing, "__wrapped__"):
        return functools.cache(again(thing.__wrapped__)) if is_users(thing.__wrapped__) else thing
    if is_table(thing):
        done[id(thing)] = cut(thing, until)
        return done[id(thing)]
    if isinstance(thing, MUTABLE):
        made: Any = copy.copy(thing)
        done[id(thing)] = made
        pairs = (
            thing.items()
            if isinstance(thing, dict)
            else enumerate(thing if isinstance(thing, list | deque) else ())
        )
        for key, value in pairs:
            if not isinstance(value, PLAIN):
                made[key] = again(value)
        return made
    if type(thing) is tuple:
        return tuple(map(again, thing))
    if not isinstance(thing, type) and hasattr(thing, "__dict__") and is_own(type(thing).__module__):
        try:
            made = copy.copy(thing)
        except (TypeError, ValueError, copy.Error):
            return thing
        if made is thing:
            return thing
        done[id(thing)] = made
        for key, value in vars(thing).items():
            made.__dict__[key] = again(value)
        try:
            made.__class__ = _class_anew(type(thing), done, again)
        except TypeError:
            # A class that does not allow it: its methods are as they were.
            return made
        return made
    return thing


def _module_anew(module: types.ModuleType, done: dict[Any, Any], again: Any) -> types.ModuleType:
    made = types.ModuleType(module.__name__)
    scope = vars(module)
    vars(made).update(done.get(id(scope), scope))
    done[id(module)] = made
    done.setdefault(id(scope), vars(made))
    for key, value in list(scope.items()):
        if not key.startswith("__"):
            vars(made)[key] = again(value)
    return made


def _importing(again: Any) -> dict[str, Any]:
    """What is built in, with imports that give copies of the user's own modules."""

    def imported(*what: Any, **more: Any) -> Any:
        return again(builtins.__import__(*what, **more))

    return {**vars(builtins), "__import__": imported}


def _class_anew(kind: type, done: dict[Any, Any], again: Any) -> type:
    """A class below `kind` whose methods, and tables of its own, are copies."""
    if (kind, "anew") not in done:
        own: dict[str, Any] = {}
        for key, value in members(kind).items():
            if isinstance(value, staticmethod | classmethod):
                own[key] = type(value)(again(value.__func__))
            elif isinstance(value, property):
                own[key] = property(*map(again, (value.fget, value.fset, value.fdel)))
            elif isinstance(value, types.FunctionType) or (
                not key.startswith("__") and (is_table(value) or isinstance(value, MUTABLE))
            ):
                own[key] = again(value)
        done[kind, "anew"] = type(kind)(kind.__name__, (kind,), own)
    return done[kind, "anew"]  # type: ignore[no-any-return]


def _function_anew(function: types.FunctionType, done: dict[Any, Any], again: Any) -> types.FunctionType:
    scope = function.__globals__
    fresh = done.setdefault(id(scope), dict(scope))
    fresh["__builtins__"] = _importing(again)
    cells = []
    for cell in function.__closure__ or ():
        if id(cell) not in done:
            done[id(cell)] = types.CellType()
            if not is_empty(cell):
                done[id(cell)].cell_contents = again(cell.cell_contents)
        cells.append(done[id(cell)])
    made = types.FunctionType(
        function.__code__, fresh, function.__name__, again(function.__defaults__), tuple(cells)
    )
    done[id(function)] = made
    made.__kwdefaults__ = again(function.__kwdefaults__)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    made.__dict__.update({key: again(value) for key, value in vars(function).items()})
    for code in codes(function.__code__):
        for name in outside(code):
            if name in scope:
                fresh[name] = again(scope[name])
    return made
