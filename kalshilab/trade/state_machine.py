"""The session's states, which of them may follow which, and how long each may last.

    STARTUP → INITIALIZING → ORDERBOOK_CONNECT → TRADING_CLIENT_CONNECT → KALSHI_DATA_SYNC → READY ⇄ ACTING

From each of them the way leads to ERROR and SHUTDOWN as well; ERROR can be left again once what failed has
healed, and SHUTDOWN is the end.  Orders are placed in READY and ACTING only: the machine itself is asked
before each one, never a copy of its state.
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
"""From each state, the states that may follow."""

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
"""Wall seconds a state may last; READY may last for ever.  Past it: ERROR, and from ERROR: SHUTDOWN."""

TRADING: Final = frozenset({"READY", "ACTING"})


class Machine:
    """The one owner of a session's state.

    Args:
        clock: exchange time, stamped on each transition.
        wall: the machine's clock, for time-outs.
        on_change: called with each `Transition` after it has happened; it must not raise.

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
        """The state now."""
        return self._state

    @property
    def may_trade(self) -> bool:
        """Whether an order may be placed now."""
        return self._state in TRADING

    @property
    def time_in_state(self) -> float:
        """Wall seconds since the state was entered."""
        return self._wall.monotonic() - self._entered

    def to(self, target: str, reason: str) -> None:
        """Change state.  The same state again is no change.

        Raises:
            IllegalTransition: `target` may not follow the state now.
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
        """Leave a state that has lasted too long, for ERROR, or from ERROR for SHUTDOWN.  True if so."""
        limit = TIMEOUTS.get(self._state)
        if limit is None or self.time_in_state <= limit or self._state == "SHUTDOWN":
            return False
        target = "SHUTDOWN" if self._state == "ERROR" else "ERROR"
        self.to(target, f"{self._state} lasted more than {limit:g} s")
        return True

    def __repr__(self) -> str:
        return f"Machine({self._state})"
