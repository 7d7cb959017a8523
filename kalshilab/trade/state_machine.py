"""State machine of a session: its states, the allowed transitions, and a time limit for each state.

    STARTUP → INITIALIZING → ORDERBOOK_CONNECT → TRADING_CLIENT_CONNECT → KALSHI_DATA_SYNC → READY ⇄ ACTING

Each state may also change to ERROR or SHUTDOWN.  A session leaves ERROR once the failed part has recovered; SHUTDOWN is
final.  Orders are placed in READY and ACTING only, and the desk checks the machine itself before each order, never a
copy of its state.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from kalshilab.clock import Clock
from kalshilab.errors import IllegalTransition
from kalshilab.trade.events import Transition

__all__ = ["ALLOWED", "TIMEOUTS", "Machine"]

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
"""Time limit of each state, in wall seconds; READY has no limit.  A state that exceeds it changes to ERROR, and ERROR to
SHUTDOWN."""

TRADING: Final = frozenset({"READY", "ACTING"})


class Machine:
    """The state of a session.

    Args:
        clock: exchange time, which stamps each transition.
        wall: machine time, for the limits.
        on_change: called after each transition; it must not raise.

    >>> from kalshilab.clock import SimClock
    >>> machine = Machine(SimClock(), SimClock())
    >>> machine.to("INITIALIZING", "start")
    >>> machine.state, machine.may_trade
    ('INITIALIZING', False)
    >>> machine.to("READY", "too soon")
    Traceback (most recent call last):
    kalshilab.errors.IllegalTransition: INITIALIZING -> READY is not allowed; from INITIALIZING the session may enter: ORDERBOOK_CONNECT, ERROR, SHUTDOWN
    """

    def __init__(
        self, clock: Clock, wall: Clock, on_change: Callable[[Transition], None] | None = None
    ) -> None:
        self._clock, self._wall, self._on_change = clock, wall, on_change
        self._state = "STARTUP"
        self._entered = wall.monotonic()
        self.error_count = 0
        self.last_error = ""
        self.history: deque[Transition] = deque(maxlen=50)

    @property
    def state(self) -> str:
        """The current state."""
        return self._state

    @property
    def may_trade(self) -> bool:
        """Whether an order may be placed."""
        return self._state in TRADING

    @property
    def time_in_state(self) -> float:
        """Wall seconds since the last transition."""
        return self._wall.monotonic() - self._entered

    def to(self, target: str, reason: str) -> None:
        """Change state; the current state as target changes nothing.

        Args:
            target: the new state.
            reason: the reason, for the journal and the console.

        Raises:
            IllegalTransition: `target` may not follow the current state.
        """
        if target == self._state:
            return
        if target not in ALLOWED[self._state]:
            raise IllegalTransition(self._state, target, ALLOWED[self._state])
        change = Transition(
            ts=self._clock.now(), wall=self._wall.now(), source=self._state, target=target, reason=reason
        )
        if target == "ERROR":
            self.error_count += 1
            self.last_error = reason
        self._state, self._entered = target, self._wall.monotonic()
        self.history.append(change)
        if self._on_change is not None:
            self._on_change(change)

    def check_timeout(self) -> bool:
        """Change to ERROR, or from ERROR to SHUTDOWN, if the time limit is exceeded; return whether it was."""
        limit = TIMEOUTS.get(self._state)
        if limit is None or self.time_in_state <= limit or self._state == "SHUTDOWN":
            return False
        target = "SHUTDOWN" if self._state == "ERROR" else "ERROR"
        self.to(target, f"{self._state} lasted more than {limit:g} s")
        return True

    def __repr__(self) -> str:
        return f"Machine({self._state})"
