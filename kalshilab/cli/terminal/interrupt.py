"""Ctrl-C and SIGTERM for commands that run an event loop."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kalshilab.errors import UsageError

__all__ = ["on_interrupt", "run_interruptible"]

T = TypeVar("T")


def on_interrupt(callback: Callable[[], object]) -> None:
    """Call a function on SIGINT or SIGTERM, in the running event loop, instead of raising KeyboardInterrupt."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, callback)


def run_interruptible(work: Coroutine[Any, Any, T], stop: asyncio.Event | None = None) -> T:
    """Run a coroutine to its end; SIGINT or SIGTERM ends it in an orderly way.

    Args:
        work: the coroutine.
        stop: set on an interrupt, for work that ends by itself then; default: cancel the work.

    Raises:
        UsageError: the work was cancelled; it can be resumed.
    """

    async def run() -> T:
        task = asyncio.ensure_future(work)
        on_interrupt(task.cancel if stop is None else stop.set)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise UsageError("interrupted; run the same command again to resume") from None
