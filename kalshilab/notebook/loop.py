"""For cells without `await`: run a coroutine to its end inside a kernel whose event loop already runs.

kalshilab is asynchronous at its rims, and the honest spelling in a notebook is `await`: it needs nothing from
here.  Who must call from synchronous code (a callback of another library, a `%%time` cell) uses `run_sync`.
In a kernel that patches the running event loop to be re-entrant, for the rest of the process; it happens on
that call and never at import.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from kalshilab.errors import SessionError

__all__ = ["enable_sync", "run_sync"]

T = TypeVar("T")

PATCHES = ("nest_asyncio2", "nest_asyncio")
"""Tried in this order: the second is no longer maintained and breaks `asyncio` from Python 3.12 on."""


def enable_sync() -> bool:
    """Make the running event loop re-entrant, so that `run_sync` works in a notebook cell.

    May be called any number of times.  Without a running loop (a script) there is nothing to do.

    Returns:
        True if the running loop is re-entrant now, False if no loop is running.

    Raises:
        SessionError: the running loop is not one of asyncio's own (uvloop, for instance), or no patch is
            installed; `await` works in both cases.

    >>> enable_sync()
    False
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    if not isinstance(loop, asyncio.BaseEventLoop):
        kind = f"{type(loop).__module__}.{type(loop).__qualname__}"
        raise SessionError(f"a {kind} cannot be made re-entrant: use `await`, or asyncio's own event loop")
    # Patching what is patched already changes nothing, so no record of it is needed here.
    _load_patch().apply(loop)
    return True


def run_sync(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end and return its result, from synchronous code.

    In a script this is `asyncio.run`; in a kernel it calls `enable_sync` first.

    >>> import asyncio
    >>> run_sync(asyncio.sleep(0, "slept"))
    'slept'

    Raises:
        SessionError: see `enable_sync`.
    """
    try:
        nested = enable_sync()
    except SessionError:
        coro.close()
        raise
    if not nested:
        return asyncio.run(coro)
    return asyncio.get_running_loop().run_until_complete(coro)


def _load_patch() -> Any:
    for name in PATCHES:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise SessionError(f"neither {' nor '.join(PATCHES)} is installed: install one of them, or use `await`")
