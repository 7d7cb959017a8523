"""Health of a session's parts: one status per part, and a console message when it changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from kalshilab.clock import Clock
from kalshilab.errors import ApiError, ConnectionFailed, HostRefused, ProtocolError

__all__ = ["INCONCLUSIVE_ERRORS", "NO_WORD", "Health"]

INCONCLUSIVE_ERRORS: Final = (ApiError, ConnectionFailed, HostRefused, ProtocolError)
"""Errors that leave the exchange's answer unknown (maintenance page, redirect, time-out).  The part of the session that
made the request is degraded, and retries."""

NO_WORD: Final = INCONCLUSIVE_ERRORS
"""The former name of `INCONCLUSIVE_ERRORS`."""


class Health:
    """The status of each part of a session, and the lines of its console.

    Args:
        wall: machine time.

    Attributes:
        on_message: called with each line of the console.
        parts: status by part: "healthy", or "degraded: " and the reason.
        messages: the console's lines with their machine time in microseconds, newest last (the latest 200).

    >>> from kalshilab.clock import SimClock
    >>> health = Health(SimClock())
    >>> health.degraded("feed", "silent for 61 s"); health.degraded("feed", "silent for 62 s")
    >>> health.healthy("feed"); health.parts, [text for _, text in health.messages]
    ({'feed': 'healthy'}, ['feed: degraded, silent for 61 s', 'feed: recovered'])
    """

    def __init__(self, wall: Clock) -> None:
        self._wall = wall
        self.parts: dict[str, str] = {}
        self.messages: deque[tuple[int, str]] = deque(maxlen=200)
        self.on_message: Callable[[str], None] = lambda text: None

    def log(self, text: str) -> None:
        """Add a line to the console, stamped with machine time."""
        self.messages.append((self._wall.now(), text))
        self.on_message(text)

    def healthy(self, part: str) -> None:
        """Mark a part as healthy; the console shows a recovery only."""
        if self.parts.get(part, "healthy") != "healthy":
            self.log(f"{part}: recovered")
        self.parts[part] = "healthy"

    def degraded(self, part: str, why: str) -> None:
        """Mark a part as degraded; the console shows the first reason only."""
        if not self.parts.get(part, "").startswith("degraded"):
            self.log(f"{part}: degraded, {why}")
        self.parts[part] = f"degraded: {why}"

    def is_healthy(self, part: str) -> bool:
        """Return whether a part is healthy; a part without a status is."""
        return self.parts.get(part, "healthy") == "healthy"
