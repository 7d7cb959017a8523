"""States and health of a trader, with their time limits on monotonic time.

    STARTUP → INITIALIZING → ORDERBOOK_CONNECT → TRADING_CLIENT_CONNECT → KALSHI_DATA_SYNC → READY ⇄ ACTING

Each state may also change to ERROR or SHUTDOWN.  A trader is in ERROR while a critical part has failed, and leaves it as
soon as every critical part is healthy again.  An outage of the venue is waited out; a fault of the trader's side that
lasts `FAULT_US` ends the session.  SHUTDOWN is final: the session is closing, then closed.
"""

from __future__ import annotations

from collections import deque
from types import MappingProxyType
from typing import Final

from kalshilab.errors import IllegalTransition
from kalshilab.trade.core.messages import Outbox
from kalshilab.trade.events import Transition

__all__ = ["ALLOWED", "CRITICAL", "FAULT_US", "TIMEOUTS", "TRADING", "PartHealth", "Patience", "States"]

ALLOWED: Final = MappingProxyType(
    {
        "STARTUP": ("INITIALIZING", "ERROR", "SHUTDOWN"),
        "INITIALIZING": ("ORDERBOOK_CONNECT", "ERROR", "SHUTDOWN"),
        "ORDERBOOK_CONNECT": ("TRADING_CLIENT_CONNECT", "READY", "ERROR", "SHUTDOWN"),
        "TRADING_CLIENT_CONNECT": ("KALSHI_DATA_SYNC", "ERROR", "SHUTDOWN"),
        "KALSHI_DATA_SYNC": ("READY", "ERROR", "SHUTDOWN"),
        "READY": ("ACTING", "ORDERBOOK_CONNECT", "ERROR", "SHUTDOWN"),
        "ACTING": ("READY", "ERROR", "SHUTDOWN"),
        "ERROR": ("STARTUP", "READY", "ORDERBOOK_CONNECT", "SHUTDOWN"),
        "SHUTDOWN": (),
    }
)
"""The states that may follow each state."""

TIMEOUTS: Final = MappingProxyType(
    {
        "STARTUP": 30.0,
        "INITIALIZING": 60.0,
        "ORDERBOOK_CONNECT": 120.0,
        "TRADING_CLIENT_CONNECT": 60.0,
        "KALSHI_DATA_SYNC": 60.0,
        "ACTING": 60.0,
        "ERROR": 300.0,
        "SHUTDOWN": 30.0,
    }
)
"""Time limit of each state, in seconds of the monotonic clock; READY has no limit.  A state that exceeds it changes to ERROR."""

TRADING: Final = frozenset({"READY", "ACTING"})
"""The states in which orders may be placed."""

CRITICAL: Final = ("feed", "account", "orders")
"""Parts without which no order may be placed."""
FAULT_US: Final = 300_000_000
"""Monotonic microseconds for which a fault that is not an outage of the venue may last."""


class PartHealth:
    """Status of each part of a session: healthy, or degraded with a reason.

    Attributes:
        parts: "healthy" or "degraded: " and the reason, by part.

    >>> health = PartHealth(Outbox())
    >>> health.degrade("feed", "silent"); health.parts["feed"], health.failed
    ('degraded: silent', ['feed'])
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.parts: dict[str, str] = {}
        self._failed: set[str] = set()

    @property
    def failed(self) -> list[str]:
        """The critical parts that have failed."""
        return [part for part in CRITICAL if part in self._failed]

    def is_healthy(self, part: str) -> bool:
        """Return whether a part is healthy; a part without a status is."""
        return self.parts.get(part, "healthy") == "healthy"

    def heal(self, part: str) -> None:
        """Mark a part as healthy; a recovery is shown to the operator."""
        if self.parts.get(part, "healthy") != "healthy":
            self._outbox.say(f"{part}: recovered")
        self.parts[part] = "healthy"
        self._failed.discard(part)

    def degrade(self, part: str, why: str, *, failed: bool = True) -> None:
        """Mark a part as degraded; the first reason is shown to the operator.

        Args:
            part: the part.
            why: the reason.
            failed: whether the part has failed; False: it is limited, and the session may trade on.
        """
        text = f"degraded: {why}"
        if not self.parts.get(part, "").startswith("degraded"):
            self._outbox.say(f"{part}: degraded, {why}")
        self.parts[part] = text
        if failed:
            self._failed.add(part)
        else:
            self._failed.discard(part)


class States:
    """The state of a session.

    Attributes:
        state: the current state.
        history: the latest transitions.
        errors: number of changes to ERROR.
        last_error: the reason of the last one.

    >>> states = States(Outbox())
    >>> states.to("INITIALIZING", "start"); states.state, states.may_trade
    ('INITIALIZING', False)
    """

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.state = "STARTUP"
        self.may_trade = False
        self.entered: int | None = None
        self.history: deque[Transition] = deque(maxlen=50)
        self.errors, self.last_error = 0, ""

    def to(self, target: str, reason: str) -> None:
        """Change state; the current state as target changes nothing.

        Raises:
            IllegalTransition: `target` may not follow the current state.
        """
        if target == self.state:
            return
        if target not in ALLOWED[self.state]:
            raise IllegalTransition(self.state, target, ALLOWED[self.state])
        out = self._outbox
        change = Transition(ts=out.now, wall=out.mono, source=self.state, target=target, reason=reason)
        if target == "ERROR":
            self.errors += 1
            self.last_error = reason
        self.state, self.entered, self.may_trade = target, out.mono, target in TRADING
        self.history.append(change)
        out.record("transition", change)

    def lasted_us(self) -> int:
        """Return the monotonic microseconds since the last transition."""
        if self.entered is None:
            self.entered = self._outbox.mono
        return self._outbox.mono - self.entered

    def overdue(self) -> str | None:
        """Return the reason if the current state, other than ERROR and SHUTDOWN, has exceeded its limit."""
        limit = TIMEOUTS.get(self.state)
        if limit is None or self.state in ("ERROR", "SHUTDOWN") or self.lasted_us() <= limit * 1e6:
            return None
        return f"{self.state} lasted more than {limit:g} s"

    def __repr__(self) -> str:
        return f"States({self.state})"


class Patience:
    """Limits of the time that a session spends outside READY: for an outage of the venue, and for a fault of the session.

    Args:
        outbox: the time.
        max_outage_us: monotonic microseconds for which an outage of the venue is waited out; None: without limit.
    """

    def __init__(self, outbox: Outbox, max_outage_us: int | None) -> None:
        self._outbox, self._max_outage_us = outbox, max_outage_us
        self._outage: int | None = None
        self._fault: int | None = None

    def rest(self) -> None:
        """Forget what has been waited for: the session trades again."""
        self._outage = self._fault = None

    def exhausted(self, *, outage: bool) -> str | None:
        """Return the reason to end the session, or None while it may wait.

        Args:
            outage: whether the venue is away, rather than something on the session's side at fault.
        """
        mono = self._outbox.mono
        if outage:
            self._fault = None
            self._outage = mono if self._outage is None else self._outage
            limit = self._max_outage_us
            over = limit is not None and mono - self._outage >= limit
            return f"the venue was away for {limit / 1e6:g} s" if over and limit is not None else None
        self._outage = None
        self._fault = mono if self._fault is None else self._fault
        return f"ERROR lasted more than {FAULT_US / 1e6:g} s" if mono - self._fault >= FAULT_US else None
