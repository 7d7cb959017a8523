"""Clone a callable with its state reset and its captured tables truncated.

Lists, dictionaries, caches, attributes and the user's modules are copied, so that a call of the clone leaves no trace in
the original or in other clones. Functions that share a variable share its copy.
"""

from __future__ import annotations

import builtins
import copy
import functools
import types
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar, cast

from kalshilab.edge.lookahead.captured_tables import is_table, truncate
from kalshilab.edge.lookahead.closure_walk import (
    MAX_DEPTH,
    MUTABLE,
    PLAIN,
    global_names,
    is_empty_cell,
    is_user_function,
    is_user_module,
    members,
    nested_codes,
)
from kalshilab.lazy import renamed

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["clone"]

ClonedT = TypeVar("ClonedT")
Scope = dict[str, object]
"""The global variables of a function, or those of a module."""


def clone(thing: ClonedT, until: datetime | None = None) -> ClonedT:
    """Return a copy of a function or an object, in the state before its first call.

    Args:
        thing: a function, an object, or a container of them.
        until: last instant, inclusive, of which captured tables keep rows; None: tables stay whole.

    >>> memory = []
    >>> def remembers():
    ...     memory.append(1)
    ...     return len(memory)
    >>> remembers(), clone(remembers)(), clone(remembers)(), remembers()
    (1, 2, 2, 2)
    """
    return cast(ClonedT, _Cloner(until).copy(thing))


class _Cloner:
    """Copies of what one object reaches; a thing reached twice is copied once."""

    def __init__(self, until: datetime | None) -> None:
        self._until = until
        self._copies: dict[int, object] = {}
        """Copies by the id of their original."""
        self._originals: dict[int, object] = {}
        """Originals by id, referenced so that no other object can get the same id."""
        self._classes: dict[type, type] = {}

    def copy(self, thing: object, depth: int = 0) -> object:
        """Return the copy of `thing`, or `thing` itself where a copy is not needed.

        Args:
            thing: any object.
            depth: number of containers around it; below `2 * MAX_DEPTH` levels, objects are shared.
        """
        if id(thing) in self._copies:
            return self._copies[id(thing)]
        if depth > 2 * MAX_DEPTH:
            return thing
        self._originals[id(thing)] = thing
        if isinstance(thing, types.FunctionType):
            return self._function(thing) if is_user_function(thing) else thing
        if isinstance(thing, types.ModuleType):
            return self._module(thing, depth + 1) if is_user_module(thing.__name__) else thing
        if isinstance(thing, types.MethodType | functools.partial):
            return self._bound(thing, depth + 1)
        if hasattr(thing, "cache_clear") and hasattr(thing, "__wrapped__"):
            inner = thing.__wrapped__
            return functools.cache(self._callable(inner, depth + 1)) if is_user_function(inner) else thing
        if is_table(thing):
            self._copies[id(thing)] = truncate(thing, self._until)
            return self._copies[id(thing)]
        if isinstance(thing, MUTABLE):
            return self._container(thing, depth + 1)
        if type(thing) is tuple:
            return tuple(self.copy(value, depth + 1) for value in thing)
        if (
            not isinstance(thing, type)
            and hasattr(thing, "__dict__")
            and is_user_module(type(thing).__module__)
        ):
            return self._instance(thing, depth + 1)
        return thing

    def _bound(self, thing: types.MethodType | functools.partial[object], depth: int) -> object:
        """Return the copy of a method or a partial."""
        if isinstance(thing, types.MethodType):
            return types.MethodType(self._callable(thing.__func__, depth), self.copy(thing.__self__, depth))
        function = self._callable(thing.func, depth)
        arguments = [self.copy(value, depth) for value in thing.args]
        keywords = {key: self.copy(value, depth) for key, value in thing.keywords.items()}
        return functools.partial(function, *arguments, **keywords)

    def _callable(self, function: Callable[..., object], depth: int) -> Callable[..., object]:
        return cast("Callable[..., object]", self.copy(function, depth))

    def _container(self, thing: dict | list | set | deque | bytearray, depth: int) -> object:  # type: ignore[type-arg]
        """Return the copy of a mutable container, with copies of the values that can hold state."""
        made = copy.copy(thing)
        self._copies[id(thing)] = made
        if isinstance(made, dict | list | deque):
            pairs = thing.items() if isinstance(thing, dict) else enumerate(thing)
            for key, value in pairs:
                if not isinstance(value, PLAIN):
                    made[key] = self.copy(value, depth)
        return made

    def _instance(self, thing: object, depth: int) -> object:
        """Return the copy of an object, of a class whose methods are copies."""
        try:
            made = copy.copy(thing)
        except (TypeError, ValueError, copy.Error):
            return thing
        if made is thing:
            return thing
        self._copies[id(thing)] = made
        for key, value in vars(thing).items():
            made.__dict__[key] = self.copy(value, depth)
        try:
            made.__class__ = self._class(type(thing), depth)
        except TypeError:
            # A class that cannot be replaced keeps its methods.
            return made
        return made

    def _class(self, kind: type, depth: int) -> type:
        """Return a subclass of `kind` with copies of its methods, tables and mutable attributes."""
        if kind not in self._classes:
            namespace: Scope = {}
            for key, value in members(kind).items():
                if isinstance(value, staticmethod | classmethod):
                    namespace[key] = type(value)(self._callable(value.__func__, depth))
                elif isinstance(value, property):
                    accessors = (value.fget, value.fset, value.fdel)
                    namespace[key] = property(*(self.copy(f, depth) for f in accessors))  # type: ignore[arg-type]
                elif isinstance(value, types.FunctionType) or (
                    not key.startswith("__") and (is_table(value) or isinstance(value, MUTABLE))
                ):
                    namespace[key] = self.copy(value, depth)
            self._classes[kind] = type(kind)(kind.__name__, (kind,), namespace)
        return self._classes[kind]

    def _module(self, module: types.ModuleType, depth: int) -> types.ModuleType:
        made = types.ModuleType(module.__name__)
        scope = vars(module)
        vars(made).update(cast(Scope, self._copies.get(id(scope), scope)))
        self._copies[id(module)] = made
        self._copies.setdefault(id(scope), vars(made))
        for key, value in list(scope.items()):
            if not key.startswith("__"):
                vars(made)[key] = self.copy(value, depth)
        return made

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        """Return a function with copies of its globals, closure, defaults and attributes.

        Depth counts from 0 here: only nested containers are limited, chains of functions are not.
        """
        scope = function.__globals__
        fresh = cast(Scope, self._copies.setdefault(id(scope), dict(scope)))
        fresh["__builtins__"] = {**vars(builtins), "__import__": self._import}
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        defaults = cast("tuple[object, ...] | None", self.copy(function.__defaults__))
        made = types.FunctionType(function.__code__, fresh, function.__name__, defaults, cells)
        self._copies[id(function)] = made
        made.__kwdefaults__ = cast("dict[str, object]", self.copy(function.__kwdefaults__))
        made.__module__, made.__qualname__ = function.__module__, function.__qualname__
        made.__dict__.update({key: self.copy(value) for key, value in vars(function).items()})
        for code in nested_codes(function.__code__):
            for name in global_names(code):
                if name in scope:
                    fresh[name] = self.copy(scope[name])
        return made

    def _cell(self, cell: types.CellType) -> types.CellType:
        """Return the copy of a closure's variable."""
        if id(cell) in self._copies:
            return cast(types.CellType, self._copies[id(cell)])
        made = types.CellType()
        self._copies[id(cell)] = made
        if not is_empty_cell(cell):
            made.cell_contents = self.copy(cell.cell_contents)
        return made

    def _import(
        self,
        name: str,
        globals: Mapping[str, object] | None = None,
        locals: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> object:
        """Import a module for a cloned function: a copy of it, if the module is the user's."""
        return self.copy(builtins.__import__(name, globals, locals, fromlist, level))
