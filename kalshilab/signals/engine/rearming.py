"""Counting and re-arming around a rule: the part of a step that most signals share.

A rule takes a market's state and one print and returns whether the signal fires.  `rearming_step` makes it a step.  The
step counts prints in `s.n` and, after a fire, does one of three things:

====================== ====================================================================================
`rearm` (in the rule)  after a fire
====================== ====================================================================================
0 or False             the market never fires again
1 or True              the market starts anew: its state is cleared before its next print
2                      the state is kept, and the market fires whenever the rule returns true
====================== ====================================================================================

`kalshilab.signal` and the built-in signals that fire once or start anew are made with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from kalshilab.errors import SignalError
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Fields, Record, Step, compiled

__all__ = ["RESERVED", "rearming_step", "state_fields"]

RESERVED: Final = ("n", "fired__")
"""Fields that every state has: the prints counted, and whether the market has fired."""


def state_fields(state: Mapping[str, npt.DTypeLike], n: npt.DTypeLike = "i4") -> Fields:
    """Return the fields of a state: the declared ones and the reserved ones.

    Args:
        state: names and numpy types.
        n: the type of the counter of prints.
    """
    return np.dtype([("n", n), *state.items(), ("fired__", "u1")], align=True)


def rearming_step(rule: Step, clears: Iterable[str], side: int | None, name: str) -> Step:
    """Make a compiled step from a compiled rule.

    The step takes `rearm` before the parameters of the rule.

    Args:
        rule: `(s, ts, price, size, taker_yes, *parameters)` -> whether the signal fires, or, if `side` is `None`, the
            outcome to buy.
        clears: the fields to set to zero when a market starts anew.
        side: the outcome that a fire buys, `BUY_YES` or `BUY_NO`; None: the rule returns it.
        name: the signal's name, for errors.
    """
    clear = _clearing(tuple(clears))

    def step(
        s: Record, ts: int, price: int, size: int, taker_yes: bool, rearm: int, *parameters: float
    ) -> int:
        if s.fired__:
            if rearm == 0:
                return NOTHING
            if rearm == 1:
                clear(s)
                s.n = 0
                s.fired__ = 0
        s.n += 1
        answer = rule(s, ts, price, size, taker_yes, *parameters)
        if answer:
            s.fired__ = 1
            if side is not None:
                return side
            if answer != BUY_YES and answer != BUY_NO:
                raise SignalError(name, "return", "another number", "kl.signals.BUY_YES, BUY_NO or NOTHING")
            return int(answer)
        return NOTHING

    return compiled(step)


def _clearing(fields: tuple[str, ...]) -> Step:
    """Return a compiled function that sets fields of a record to zero."""
    lines = "".join(f"    s.{field} = 0\n" for field in fields) or "    pass\n"
    scope: dict[str, Step] = {}
    # Compiled code can name the fields of a record but not iterate over them; the names were checked before.
    exec(f"def clear(s):\n{lines}", scope)
    return compiled(scope["clear"])
