"""The state machine: every transition, the time limits, and the states that may trade."""

from __future__ import annotations

import itertools

import pytest

from kalshilab.clock import SimClock
from kalshilab.errors import IllegalTransition
from kalshilab.trade.state_machine import ALLOWED, TIMEOUTS, Machine

PATHS = {
    "STARTUP": (),
    "INITIALIZING": ("INITIALIZING",),
    "ORDERBOOK_CONNECT": ("INITIALIZING", "ORDERBOOK_CONNECT"),
    "TRADING_CLIENT_CONNECT": ("INITIALIZING", "ORDERBOOK_CONNECT", "TRADING_CLIENT_CONNECT"),
    "KALSHI_DATA_SYNC": ("INITIALIZING", "ORDERBOOK_CONNECT", "TRADING_CLIENT_CONNECT", "KALSHI_DATA_SYNC"),
    "READY": ("INITIALIZING", "ORDERBOOK_CONNECT", "READY"),
    "ACTING": ("INITIALIZING", "ORDERBOOK_CONNECT", "READY", "ACTING"),
    "ERROR": ("ERROR",),
    "SHUTDOWN": ("SHUTDOWN",),
}


def machine_in(state: str, wall: SimClock | None = None) -> Machine:
    """Return a machine in a state."""
    machine = Machine(SimClock(7), wall or SimClock())
    for step in PATHS[state]:
        machine.to(step, "test")
    assert machine.state == state
    return machine


@pytest.mark.parametrize(("source", "target"), list(itertools.product(ALLOWED, ALLOWED)))
def test_a_transition_is_allowed_or_refused_as_in_the_table(source: str, target: str) -> None:
    machine = machine_in(source)
    if target == source:
        before = list(machine.history)
        machine.to(target, "again")
        assert list(machine.history) == before
    elif target in ALLOWED[source]:
        machine.to(target, "allowed")
        assert machine.state == target
        assert machine.history[-1].source == source
    else:
        with pytest.raises(IllegalTransition) as caught:
            machine.to(target, "no")
        assert machine.state == source
        assert caught.value.allowed == ALLOWED[source]


@pytest.mark.parametrize("state", list(ALLOWED))
def test_only_ready_and_acting_may_trade(state: str) -> None:
    assert machine_in(state).may_trade == (state in ("READY", "ACTING"))


@pytest.mark.parametrize(("state", "limit"), list(TIMEOUTS.items()))
def test_a_state_that_lasts_too_long_is_left(state: str, limit: float) -> None:
    wall = SimClock()
    machine = machine_in(state, wall)
    wall.advance(round(limit * 1e6))
    assert not machine.check_timeout()
    wall.advance(round(limit * 1e6) + 1)
    if state == "SHUTDOWN":
        assert not machine.check_timeout()
    else:
        assert machine.check_timeout()
        assert machine.state == ("SHUTDOWN" if state == "ERROR" else "ERROR")


def test_history_keeps_fifty_transitions_and_errors_are_counted() -> None:
    seen = []
    machine = Machine(SimClock(7), SimClock(), seen.append)
    for step in ("INITIALIZING", "ORDERBOOK_CONNECT", "READY"):
        machine.to(step, "up")
    for _ in range(40):
        machine.to("ACTING", "go")
        machine.to("READY", "done")
    machine.to("ERROR", "feed lost")
    assert (len(machine.history), len(seen)) == (50, 84)
    assert (machine.error_count, machine.last_error) == (1, "feed lost")
    assert {t.ts for t in seen} == {7}
