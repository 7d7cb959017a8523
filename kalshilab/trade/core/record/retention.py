"""Retention of what is known about ended markets: a day, so that the memory of a session does not grow with its life."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["KEEP_US", "Retention"]

KEEP_US: Final = 86_400_000_000
"""Exchange microseconds after its settlement for which a market, its orders and its fills are kept in memory."""


class Retention:
    """The markets that have been settled, until they are forgotten.

    Args:
        forget: called with a market; returns False if something of it is still open, and is called again a day later.

    >>> gone = []
    >>> retention = Retention(lambda ticker: not gone.append(ticker))
    >>> retention.settled("A-B-1", 0); retention.tick(KEEP_US - 1); retention.tick(KEEP_US); gone
    ['A-B-1']
    """

    def __init__(self, forget: Callable[[str], bool]) -> None:
        self._forget = forget
        self._due: deque[tuple[int, str]] = deque()

    def settled(self, ticker: str, now: int) -> None:
        """Note a market that is settled at this exchange time."""
        self._due.append((now + KEEP_US, ticker))

    def tick(self, now: int) -> None:
        """Forget the markets whose time has come."""
        while self._due and self._due[0][0] <= now:
            _, ticker = self._due.popleft()
            if not self._forget(ticker):
                self.settled(ticker, now)
