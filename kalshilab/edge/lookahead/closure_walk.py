"""Walk the variables that a function or an object can reach: globals, closures, defaults, attributes, modules.

Only code of the user is entered; libraries and this package are not.
"""

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
from typing import TYPE_CHECKING, Final, NamedTuple

from kalshilab.edge.lookahead.captured_tables import is_table
from kalshilab.lazy import renamed

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = [
    "MAX_DEPTH",
    "MUTABLE",
    "PLAIN",
    "Capture",
    "DataReader",
    "global_names",
    "is_empty_cell",
    "is_user_function",
    "is_user_module",
    "members",
    "nested_codes",
    "reachable",
    "wrapped_parts",
]

_GLOBAL_INSTRUCTIONS: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME"})
"""Instructions that name a variable or a module, as opposed to an attribute."""
_READERS: Final = """
    read_parquet scan_parquet read_csv scan_csv read_ipc scan_ipc read_json read_ndjson scan_ndjson read_pickle
    read_feather read_hdf read_excel read_database read_sql loadtxt genfromtxt fromfile memmap scan_tape urlopen
"""
READERS: Final = frozenset(_READERS.split())
"""Functions that read data whose age is unknown."""
MAX_DEPTH: Final = 4
"""Levels of nested containers that are searched."""
_MAX_ITEMS: Final = 1_000
"""Items of a container that are searched."""
_LIBRARIES: Final = tuple({p for k, p in sysconfig.get_paths().items() if k.endswith(("lib", "stdlib"))})
_PACKAGE: Final = str(Path(__file__).resolve().parents[2])
_METHODS: Final = (types.FunctionType, staticmethod, classmethod, property)
PLAIN: Final = (str, bytes, int, float, bool, type(None), datetime)
"""Types of immutable values that hold nothing else."""
MUTABLE: Final = (dict, list, set, deque, bytearray)
"""Types of containers that can keep data between calls."""


class DataReader(str):
    """The name of a function that reads data."""


class Capture(NamedTuple):
    """A value that a strategy can reach."""

    name: str
    """Variable or attribute path under which it was found, as `DATED.SEEN`."""
    value: object
    """A table, a container, or the `DataReader` that is called."""


def reachable(thing: object) -> list[Capture]:
    """Return the tables, containers and data readers that a function or an object can reach.

    Of modules and objects only the names used somewhere in the code are searched. A walk can discover further names, so it
    repeats until there are no new ones.
    """
    used = {"run", "__call__"}
    while True:
        before = len(used)
        found = list(_walk(thing, _display_name(thing), set(), used, 0))
        if len(used) == before:
            return found


def _walk(thing: object, name: str, seen: set[int], used: set[str], depth: int) -> Iterator[Capture]:
    """Yield what can be reached from `thing`, and add the names that functions on the way use to `used`.

    Of a module, and of the methods of an object, only `used` names count. A strategy does not read data merely because
    its module has a function that loads a tape.
    """
    if id(thing) in seen or depth > 2 * MAX_DEPTH:
        return
    seen.add(id(thing))
    parts = wrapped_parts(thing)
    if parts is not None:
        for part in parts:
            yield from _walk(part, name, seen, used, depth + 1)
    elif isinstance(thing, types.FunctionType):
        if is_user_function(thing):
            yield from _walk_function(thing, seen, used)
    elif isinstance(thing, types.ModuleType):
        if is_user_module(thing.__name__):
            for key, value in list(vars(thing).items()):
                if key in used and not key.startswith("__"):
                    yield from _walk(value, f"{name}.{key}", seen, used, depth + 1)
    elif is_table(thing):
        yield Capture(name, thing)
    elif isinstance(thing, Mapping | list | tuple | set | frozenset | deque):
        yield Capture(name, thing)
        for value in list(thing.values() if isinstance(thing, Mapping) else thing)[:_MAX_ITEMS]:
            if not isinstance(value, PLAIN):
                yield from _walk(value, name, seen, used, depth + 1)
    elif is_user_module(thing.__module__ if isinstance(thing, type) else type(thing).__module__):
        for key, value in members(thing).items():
            if key in used or not (key.startswith("__") or isinstance(value, _METHODS)):
                yield from _walk(value, f"{name}.{key}", seen, used, depth + 1)


def _walk_function(function: types.FunctionType, seen: set[int], used: set[str]) -> Iterator[Capture]:
    """Yield what a function reaches through its constants, globals, closure, defaults and attributes."""
    scope = function.__globals__
    for code in nested_codes(function.__code__):
        used.update(code.co_names)
        for constant in code.co_consts:
            if isinstance(constant, tuple | frozenset):
                yield Capture(f"a list in {function.__name__}", constant)
        names = global_names(code)
        for name in code.co_names:
            if name in READERS or (name == "open" and name in names and name not in scope):
                yield Capture(name, DataReader(name))
        for name in names:
            # A name without a variable can be a module imported inside the function.
            value = scope.get(name, sys.modules.get(name))
            if value is not None:
                yield from _walk(value, name, seen, used, 0)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not is_empty_cell(cell):
            yield from _walk(cell.cell_contents, name, seen, used, 0)
    attached = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *vars(function).values(),
    ]
    for value in attached:
        yield from _walk(value, f"a default of {function.__name__}", seen, used, 0)


def members(thing: object) -> dict[str, object]:
    """Return the attributes of an object or a class, including those of its user-defined base classes."""
    found: dict[str, object] = {}
    kind = thing if isinstance(thing, type) else type(thing)
    for each in reversed(kind.__mro__):
        if is_user_module(each.__module__):
            found |= vars(each)
    if isinstance(thing, type):
        return found
    slots = {
        k: getattr(thing, k, None) for k, v in found.items() if isinstance(v, types.MemberDescriptorType)
    }
    return found | slots | getattr(thing, "__dict__", {})


def global_names(code: types.CodeType) -> dict[str, None]:
    """Return the names of variables and modules that code uses, in its order."""
    instructions = dis.get_instructions(code)
    return dict.fromkeys(str(i.argval) for i in instructions if i.opname in _GLOBAL_INSTRUCTIONS)


def nested_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield a code object and those of the functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_codes(constant)


def is_user_function(function: object) -> bool:
    """Return whether the user wrote a function, by the file of its text, or by its module where there is no file."""
    file = function.__code__.co_filename if isinstance(function, types.FunctionType) else ""
    if not file or file.startswith(("<string", "<frozen")):
        return is_user_module(getattr(function, "__module__", None))
    return not file.startswith((*_LIBRARIES, _PACKAGE))


def is_user_module(module: str | None) -> bool:
    """Return whether a module is the user's: a notebook, or a file outside of the libraries and of this package."""
    if module is None or module.partition(".")[0] in ("kalshilab", "builtins", *sys.builtin_module_names):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not file.startswith(_LIBRARIES)


def wrapped_parts(thing: object) -> tuple[object, ...] | None:
    """Return the parts of a partial, method, decorated or compiled callable; None for other objects."""
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


def is_empty_cell(cell: types.CellType) -> bool:
    """Return whether a closure's variable has no value yet, or is the cell itself."""
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _display_name(thing: object) -> str:
    thing = getattr(thing, "func", thing)
    return str(getattr(thing, "__name__", type(thing).__name__))
