"""What can be reached from a function or an object: the variables that it names, and those that these name in turn."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from kalshilab.edge.lookahead.captured_tables import is_table

__all__ = ["DEEP", "MUTABLE", "PLAIN", "Reader", "codes", "is_empty", "is_own", "is_users", "members", "outside", "reached", "unwrapped"]  # fmt: skip

_OUTSIDE: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"})
"""Instructions that name a variable or a module, not an attribute."""
_READERS: Final = """
    read_parquet scan_parquet read_csv scan_csv read_ipc scan_ipc read_json read_ndjson scan_ndjson read_pickle
    read_feather read_hdf read_excel read_database read_sql loadtxt genfromtxt fromfile memmap scan_tape urlopen
"""
READERS: Final = frozenset(_READERS.split())
"""Functions that fetch data of which nobody knows since when it was there."""
DEEP: Final = 4
"""Containers in containers that are looked into."""
_LIBRARIES: Final = tuple({p for k, p in sysconfig.get_paths().items() if k.endswith(("lib", "stdlib"))})
_PACKAGE: Final = str(Path(__file__).resolve().parents[2])
PLAIN: Final = (str, bytes, int, float, bool, type(None), datetime)
MUTABLE: Final = (dict, list, set, deque, bytearray)


class Reader(str):
    """The name of a function that fetches data."""


def reached(thing: Any) -> list[tuple[str, Any]]:
    """All that `_held` finds, when every name that is used anywhere in it is known."""
    used = {"run", "__call__"}
    while True:
        before = len(used)
        found = list(_held(thing, _name(thing), set(), used, 0))
        if len(used) == before:
            return found


def _held(thing: Any, name: str, seen: set[int], used: set[str], depth: int) -> Iterator[tuple[str, Any]]:
    """Tables and containers that can be reached from a function or an object, with the names they go by.

    Of a module, and of the methods of an object, only what is `used`: a file with a function that loads a tape is no
    strategy that reads data.  The names that the functions on the way use are added to it.
    """
    if id(thing) in seen or depth > 2 * DEEP:
        return
    seen.add(id(thing))
    inner = unwrapped(thing)
    if inner is not None:
        for each in inner:
            yield from _held(each, name, seen, used, depth + 1)
    elif isinstance(thing, types.FunctionType):
        if is_users(thing):
            yield from _of_function(thing, seen, used)
    elif isinstance(thing, types.ModuleType):
        if is_own(thing.__name__):
            for key, value in list(vars(thing).items()):
                if key in used and not key.startswith("__"):
                    yield from _held(value, f"{name}.{key}", seen, used, depth + 1)
    elif is_table(thing):
        yield name, thing
    elif isinstance(thing, Mapping | list | tuple | set | frozenset | deque):
        yield name, thing
        for value in list(thing.values() if isinstance(thing, Mapping) else thing)[:1000]:
            if not isinstance(value, PLAIN):
                yield from _held(value, name, seen, used, depth + 1)
    elif is_own(type(thing).__module__ if not isinstance(thing, type) else thing.__module__):
        for key, value in members(thing).items():
            if key in used or not (key.startswith("__") or isinstance(value, _METHODS)):
                yield from _held(value, f"{name}.{key}", seen, used, depth + 1)


_METHODS: Final = (types.FunctionType, staticmethod, classmethod, property)


def members(thing: Any) -> dict[str, Any]:
    """The attributes of an object or a class, those of the user's own classes above it included."""
    found: dict[str, Any] = {}
    kind = thing if isinstance(thing, type) else type(thing)
    for each in reversed(kind.__mro__):
        if is_own(each.__module__):
            found |= vars(each)
    if isinstance(thing, type):
        return found
    slots = {
        k: getattr(thing, k, None) for k, v in found.items() if isinstance(v, types.MemberDescriptorType)
    }
    return found | slots | getattr(thing, "__dict__", {})


def _of_function(function: types.FunctionType, seen: set[int], used: set[str]) -> Iterator[tuple[str, Any]]:
    scope = function.__globals__
    for code in codes(function.__code__):
        used.update(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, tuple | frozenset):
                yield f"a list in {function.__name__}", constant
        named = outside(code)
        for name in code.co_names:
            if name in READERS or (name == "open" and name in named and name not in scope):
                yield name, Reader(name)
        for name in named:
            # A name that is no variable may be a module that is imported in the function.
            value = scope.get(name, sys.modules.get(name))
            if value is not None:
                yield from _held(value, name, seen, used, 0)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not is_empty(cell):
            yield from _held(cell.cell_contents, name, seen, used, 0)
    given = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *vars(function).values(),
    ]
    for value in given:
        yield from _held(value, f"a default of {function.__name__}", seen, used, 0)


def outside(code: types.CodeType) -> dict[str, None]:
    """The variables and modules that code names, in its order."""
    return dict.fromkeys(str(i.argval) for i in dis.get_instructions(code) if i.opname in _OUTSIDE)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def is_users(function: Any) -> bool:
    """Whether a function was written by the user: by where its text is, or by its module where it has none."""
    file = function.__code__.co_filename if isinstance(function, types.FunctionType) else ""
    if not file or file.startswith(("<string", "<frozen")):
        return is_own(getattr(function, "__module__", None))
    return not file.startswith((*_LIBRARIES, _PACKAGE))


def is_own(module: str | None) -> bool:
    """Whether a module is the user's: a notebook's, or a file outside of the libraries and of this package."""
    if module is None or module.partition(".")[0] in ("kalshilab", "builtins", *sys.builtin_module_names):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not file.startswith(_LIBRARIES)


def unwrapped(thing: Any) -> tuple[Any, ...] | None:
    """What a callable that is no plain function is made of."""
    if isinstance(thing, functools.partial):
        return (thing.func, thing.args, thing.keywords)
    if isinstance(thing, types.MethodType):
        return (thing.__func__, thing.__self__)
    if isinstance(thing, staticmethod | classmethod):
        return (thing.__func__,)
    for name in ("py_func", "__wrapped__"):  # Of numba, and of functools.
        if not isinstance(thing, type | types.FunctionType | types.ModuleType) and hasattr(thing, name):
            return (getattr(thing, name),)
    if isinstance(thing, property):
        return (thing.fget,)
    return None


def is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _name(thing: Any) -> str:
    thing = getattr(thing, "func", thing)
    return str(getattr(thing, "__name__", type(thing).__name__))
