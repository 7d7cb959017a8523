"""How the parts of a session are doing, each in a word, with a message only when that changes."""

from __future__ import annotations

from collections import deque
from typing import Final

from kalshilab.clock import Clock
from kalshilab.errors import ApiError, ConnectionFailed, HostRefused, ProtocolError

__all__ = ["NO_WORD", "Health"]

NO_WORD: Final = (ApiError, ConnectionFailed, HostRefused, ProtocolError)
"""What a question to the exchange raises where nothing is learnt from it: a page that says it is being repaired is
unreadable, or a redirect.  A part of a session is degraded by it, and asks again."""


class Health:
    """The one owner of what is healthy and what is degraded, and of the console's lines.

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

    def say(self, text: str) -> None:
        """Add a line to the console, stamped with machine time."""
        self.messages.append((self._wall.now(), text))

    def healthy(self, part: str) -> None:
        """Note that a part works; said only if it did not before."""
        if self.parts.get(part, "healthy") != "healthy":
            self.say(f"{part}: recovered")
        self.parts[part] = "healthy"

    def degraded(self, part: str, why: str) -> None:
        """Note that a part does not work; said only when it begins."""
        if not self.parts.get(part, "").startswith("degraded"):
            self.say(f"{part}: degraded, {why}")
        self.parts[part] = f"degraded: {why}"

    def is_healthy(self, part: str) -> bool:
        """Whether a part works, as far as is known."""
        return self.parts.get(part, "healthy") == "healthy"
