"""Run coroutines from synchronous code, in a kernel whose event loop is already running.

A notebook cell can `await` and needs nothing from this module.  Synchronous code, such as a callback of another
library or a `%%time` cell, uses `run_sync`.  In a kernel, the first call patches the running event loop to be
re-entrant for the rest of the process.  Importing the module patches nothing.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

from kalshilab.errors import SessionError

__all__ = ["enable_sync", "run_sync"]

T = TypeVar("T")

PATCHES = ("nest_asyncio2", "nest_asyncio")
"""Packages that patch the loop, in order of preference.

The second is no longer maintained and breaks `asyncio` from Python 3.12 on.
"""


class _Patch(Protocol):
    def apply(self, loop: asyncio.AbstractEventLoop | None = None) -> object: ...


def enable_sync() -> bool:
    """Make the running event loop re-entrant, so that `run_sync` works in a notebook cell.

    Repeated calls have no effect, nor does a call without a running loop (in a script).

    Returns:
        True if the running loop is re-entrant now, False if no loop is running.

    Raises:
        SessionError: if the running loop is not asyncio's default loop (uvloop, for instance), or no patch is
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
        raise SessionError(
            f"a {kind} cannot be made re-entrant; use `await`, or asyncio's default event loop"
        )
    # A second patch of the same loop changes nothing, so no record is kept.
    _load_patch().apply(loop)
    return True


def run_sync(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to completion and return its result, from synchronous code.

    A script runs it with `asyncio.run`; a kernel calls `enable_sync` first.

    >>> import asyncio
    >>> run_sync(asyncio.sleep(0, "slept"))
    'slept'

    Raises:
        SessionError: as `enable_sync`.
    """
    try:
        nested = enable_sync()
    except SessionError:
        coro.close()
        raise
    if not nested:
        return asyncio.run(coro)
    return asyncio.get_running_loop().run_until_complete(coro)


def _load_patch() -> _Patch:
    for name in PATCHES:
        try:
            module: _Patch = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        return module
    raise SessionError(f"neither {' nor '.join(PATCHES)} is installed; install one of them, or use `await`")
