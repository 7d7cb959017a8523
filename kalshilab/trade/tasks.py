"""The tasks of a session: all in one group, all counted, none failing unheard."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["Tasks", "first_of"]


async def first_of(*waiters: Coroutine[Any, Any, Any], timeout: float) -> bool:
    """Wait until one of several is done; False if none is within `timeout` seconds.  The others are cancelled."""
    tasks = [asyncio.ensure_future(w) for w in waiters]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done)


class Tasks:
    """Starts tasks in a task group and tells whether work is under way.

    *Work* has an end and is waited for (a look-up, an order); *background* tasks run until they are told to
    stop.  A task that fails does not tear down the others in mid-order: its error goes to `on_error`, which
    decides.

    Args:
        group: the task group that owns every task.
        on_error: called with the task's name and its error.
    """

    def __init__(self, group: asyncio.TaskGroup, on_error: Callable[[str, Exception], None]) -> None:
        self._group, self._on_error = group, on_error
        self._background: set[asyncio.Task[None]] = set()
        self.working = 0
        self._idle = asyncio.Event()
        self._idle.set()

    def work(self, name: str, job: Coroutine[Any, Any, Any]) -> None:
        """Start a task that will end by itself; `working` counts it until then."""
        self.working += 1
        self._idle.clear()
        self._group.create_task(self._counted(name, job), name=name)

    def background(self, name: str, job: Coroutine[Any, Any, Any]) -> None:
        """Start a task that `stop_background` will cancel."""
        task = self._group.create_task(self._heard(name, job), name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def idle(self) -> None:
        """Return once no work is under way."""
        await self._idle.wait()

    async def stop_background(self) -> None:
        """Cancel the background tasks and wait for their end."""
        tasks = list(self._background)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _counted(self, name: str, job: Coroutine[Any, Any, Any]) -> None:
        try:
            await self._heard(name, job)
        finally:
            self.working -= 1
            if not self.working:
                self._idle.set()

    async def _heard(self, name: str, job: Coroutine[Any, Any, Any]) -> None:
        try:
            await job
        except Exception as error:  # noqa: BLE001 - handed on: the session stops cleanly and reports it
            self._on_error(name, error)
