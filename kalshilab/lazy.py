"""Lazy public names: each package lists its names in `__init__.pyi` and imports them on first use.

The stub is the only list: type checkers read it, and `exports` reads it at run time with `lazy_loader`.  `dir()`,
attribute access and completion therefore agree in a new process, and `import kalshilab` stays fast.

Modules that moved and names that changed in version 0.2 still work, with a `DeprecationWarning`; `moved.py` has the
tables.
"""

from __future__ import annotations

import copyreg
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import lazy_loader

__all__ = ["exports", "install", "renamed"]


def exports(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return `__getattr__`, `__dir__` and `__all__` for a package whose stub is beside `file`.

    Args:
        package: the package's `__name__`.
        file: the package's `__file__`.
    """
    resolve, listing, names = lazy_loader.attach_stub(package, file)
    # If a function and a module of a package have the same name, lazy_loader gives the package a special class, which
    # cloudpickle does not recognise as a module; a signal that refers to `kl.signals` must reach a worker.
    if (kind := type(sys.modules[package])) is not ModuleType:
        copyreg.pickle(kind, _by_name)

    def __getattr__(name: str) -> object:
        if name in names:
            return resolve(name)
        old = f"{package}.{name}"
        if (new := _target(old)) is not None:
            warnings.warn(_moved(old, new), DeprecationWarning, stacklevel=2)
            return importlib.import_module(new)
        return _old_name(package, name)

    return __getattr__, listing, names


def renamed(module: str) -> Callable[[str], object]:
    """Return a `__getattr__` that resolves the old public names of a module, with a `DeprecationWarning`.

    Assign it under `if not TYPE_CHECKING`, so that type checkers still report unknown names.

    Args:
        module: the module's `__name__`; `moved.RENAMED` lists its old names.
    """

    def __getattr__(name: str) -> object:
        return _old_name(module, name)

    return __getattr__


def _old_name(module: str, name: str) -> object:
    """Return the object that had this name in version 0.1, with a warning at the caller of `__getattr__`."""
    old = f"{module}.{name}"
    if (new := _renamed(old)) is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    home, attribute = new
    warnings.warn(f"{old} is now {attribute} of {home}", DeprecationWarning, stacklevel=3)
    return getattr(importlib.import_module(home), attribute)


def _by_name(module: ModuleType) -> tuple[Callable[[str], ModuleType], tuple[str]]:
    return importlib.import_module, (module.__name__,)


def install() -> None:
    """Make the old module paths importable; repeated calls have no effect."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())


def _target(name: str) -> str | None:
    """Return the new path of a module that moved, else None."""
    if not name.startswith("kalshilab."):
        return None
    from kalshilab.moved import MOVED

    new = MOVED.get(name.removeprefix("kalshilab."))
    return None if new is None else f"kalshilab.{new}"


def _renamed(name: str) -> tuple[str, str] | None:
    """Return the new module and name of a public name that changed, else None."""
    from kalshilab.moved import RENAMED

    new = RENAMED.get(name.removeprefix("kalshilab."))
    if new is None:
        return None
    module, _, attribute = new.partition(":")
    return f"kalshilab.{module}", attribute


def _moved(old: str, new: str) -> str:
    return f"{old} has moved; import {new} instead"


class _MovedFinder(MetaPathFinder):
    """Find a module by the path it had before version 0.2."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        new = _target(fullname)
        return None if new is None else ModuleSpec(fullname, _MovedLoader(new))


class _MovedLoader(Loader):
    """Load the module from its new path, so that both paths name one module object."""

    def __init__(self, new: str) -> None:
        self._new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} has moved; import {self._new} instead", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._new)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The import system has set the old path's spec on the shared module; restore its original spec.
        module.__spec__ = self._spec
