"""Tasks of a session: one task group owns them, work is counted, and every error is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from kalshilab.deprecation import renamed_keywords

__all__ = ["Tasks", "first_of"]


@renamed_keywords(timeout="timeout_s")
async def first_of(*waiters: Awaitable[object], timeout_s: float) -> bool:
    """Wait until one of several coroutines is done, then cancel the others.

    Args:
        waiters: the coroutines or other awaitables.
        timeout_s: seconds to wait.

    Returns:
        False if none was done in time.
    """
    tasks = [asyncio.ensure_future(w) for w in waiters]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done)


class Tasks:
    """Starter of tasks in a task group that knows whether work is under way.

    *Work* ends by itself and the session waits for it (a look-up, an order); *background* tasks run until
    `stop_background` cancels them.  A task that fails does not cancel the others in the middle of an order: its error
    goes to `on_error`, which decides.

    Args:
        group: the task group that owns every task.
        on_error: called with the task's name and its error.
    """

    def __init__(self, group: asyncio.TaskGroup, on_error: Callable[[str, Exception], None]) -> None:
        self._group, self._on_error = group, on_error
        self._background: set[asyncio.Task[None]] = set()
        self._work: set[asyncio.Task[None]] = set()
        self.working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def work(self, name: str, job: Awaitable[object]) -> None:
        """Start a task that ends by itself; `working` counts it until then."""
        self.working += 1
        self._idle.clear()
        task = self._group.create_task(self._counted(name, job), name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    def background(self, name: str, job: Awaitable[object]) -> None:
        """Start a task that `stop_background` will cancel."""
        task = self._group.create_task(self._guarded(name, job), name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def idle(self) -> None:
        """Return once no work is under way."""
        await self._idle.wait()

    async def stop_background(self) -> None:
        """Cancel the background tasks and wait for their end."""
        await _cancel(self._background)

    async def cancel_work(self) -> None:
        """Cancel the work that is still under way and wait for its end."""
        await _cancel(self._work)

    async def _counted(self, name: str, job: Awaitable[object]) -> None:
        try:
            await self._guarded(name, job)
        finally:
            self.working -= 1
            if not self.working:
                self._idle.set()

    async def _guarded(self, name: str, job: Awaitable[object]) -> None:
        try:
            await job
        except Exception as error:  # noqa: BLE001 - passed on: the session stops cleanly and reports it
            self._on_error(name, error)


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    own = asyncio.current_task()
    ended = [task for task in tasks if task is not own]
    for task in ended:
        task.cancel()
    await asyncio.gather(*ended, return_exceptions=True)
