"""Lockstep of a session with the embedded exchange: is anything that the exchange sent still unprocessed?"""

from __future__ import annotations

from kalshilab.clock import Clock
from kalshilab.kalshi.stream.client import Stream
from kalshilab.trade.health import Health
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.tasks import Tasks
from kalshilab.trade.venues.venue import VenueLink

__all__ = ["Pacing"]


class Pacing:
    """The pace at which the venue's tape may play; other venues have their own time, and never wait.

    Args:
        link: the open venue.
        stream: counts the frames that the session has processed.
        tasks: counts the work under way.
        execution: counts the requests in flight.
        wall: machine time.
        health: receives console lines.
    """

    def __init__(
        self,
        link: VenueLink,
        *,
        stream: Stream,
        tasks: Tasks,
        execution: Execution,
        wall: Clock,
        health: Health,
    ) -> None:
        self._link, self._stream, self._tasks = link, stream, tasks
        self._execution, self._wall, self._health = execution, wall, health

    def behind(self) -> bool:
        """Return whether a frame of the exchange, or the session's reaction to one, is unprocessed."""
        if self._tasks.working or self._execution.in_flight:
            return True
        frames = self._link.frames
        if frames is None:
            return False
        lost = frames.give_up_stalled(self._stream.frames_received, self._wall.monotonic())
        if lost:
            self._health.log(f"{lost} frames were lost with a connection")
        return frames.missing(self._stream.frames_received) > 0

    def start(self) -> None:
        """Let the tape play."""
        if self._link.pace is not None:
            self._link.pace.behind = self.behind
            self._link.pace.open()

    def hold(self) -> None:
        """Stop the tape before its next event."""
        if self._link.pace is not None:
            self._link.pace.hold()

    async def settle_frames(self) -> None:
        """Wait up to a second for frames under way, so that the last fills are counted from the stream."""
        for _ in range(20):
            if self.behind():
                await self._wall.sleep(0.05)

    async def tape_ended(self) -> None:
        """Wait until the tape has ended and everything it sent is processed."""
        assert self._link.finished is not None
        await self._link.finished.wait()
        while self.behind():
            await self._wall.sleep(0.01)
