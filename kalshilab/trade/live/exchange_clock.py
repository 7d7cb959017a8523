"""Exchange time of a live session, taken from the exchange's own messages rather than from this machine's clock."""

from __future__ import annotations

from kalshilab.clock import Clock

__all__ = ["ExchangeClock"]


class ExchangeClock:
    """The exchange's clock, as the latest of its messages shows it.

    A message takes time to arrive, so exchange time is at least the time in it.  The clock follows the largest
    difference between a message's time and this machine's monotonic time.  Before the first message, it is the machine's
    wall clock.  A machine whose clock is wrong, or is set while the session runs, changes nothing after that.

    Args:
        wall: the machine's clock.

    >>> from kalshilab.clock import SimClock
    >>> machine = SimClock(1_000_000)
    >>> clock = ExchangeClock(machine)
    >>> clock.now()
    1000000
    >>> clock.observe(500_000_000); machine.advance(3_000_000); clock.now()
    502000000
    """

    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self._offset = wall.now() - _mono(wall)
        self._observed = False

    def observe(self, ts: int) -> None:
        """Note the time of a message that has just arrived, in microseconds; 0 means that its time is unknown."""
        if not ts:
            return
        offset = ts - _mono(self._wall)
        if not self._observed or offset > self._offset:
            self._offset, self._observed = offset, True

    def now(self) -> int:
        """Return exchange time in microseconds since 1970-01-01 UTC."""
        return _mono(self._wall) + self._offset

    def monotonic(self) -> float:
        """Return seconds of the machine's monotonic clock."""
        return self._wall.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait on the machine's clock."""
        await self._wall.sleep(seconds)

    def __repr__(self) -> str:
        return f"ExchangeClock({'observed' if self._observed else 'wall'})"


def _mono(wall: Clock) -> int:
    return round(wall.monotonic() * 1e6)
