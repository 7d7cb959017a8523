"""The step of reverse line movement: its state and its conditions.

`kalshilab.signals.builtin.rlm` states the rule.  A single signal and a grid of signals
(`kalshilab.signals.builtin.rlm_grid`) use the same conditions, `share_if`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Fields, Record, Step, compiled

__all__ = ["fields_of", "rlm_step_of", "share_if"]

NEVER = 1 << 40
"""A number of prints that no market reaches."""
PARTS = 10
"""Bits of the first comparison of a share: in integers, in units of 2^-10, rounded down."""


def fields_of(by_contracts: bool, stronger: bool) -> Fields:
    """Return the fields of a market's state.

    They are: prints, first and last YES price, whether the market has fired, and the flow of the takers on the other
    side; the whole flow if it counts contracts; and the strength of the last fire if `stronger` needs it.

    The state is small on purpose: with a hundred thousand active markets, half the size takes a quarter of the time.
    """
    fields = [("n", "i4"), ("against", "i8" if by_contracts else "i4"), ("first", "i2"), ("last", "i2")]
    fields.append(("fired", "u1"))
    if by_contracts:
        fields.append(("flow", "i8"))
    if stronger:
        fields += [("last_drop", "i2"), ("last_share", "f8")]
    return np.dtype(fields, align=True)


@compiled
def share_if(
    n: int,
    drop: int,
    price: int,
    against: int,
    flow: int,
    threshold: float,
    min_trades: int,
    min_drop: int,
    low: int,
    high: int,
    large: bool,
) -> float:
    """Return the share of the flow if all conditions hold, else 0.0 (which exceeds no threshold).

    The flow is below 2^53, or, if `large`, below 2^63: two billion prints of the largest size.
    """
    # The margins of all conditions, and one branch on whether any is negative: with a branch for each condition the
    # processor mispredicts every other print, which costs more than the rest together.  The share is compared
    # without a division first, slightly too generously, and then exactly.
    parts = np.int64(threshold * (1 << PARTS))
    spare = against - (flow >> PARTS) * parts if large else (against << PARTS) - flow * parts
    if (n - min_trades) | (drop - min_drop) | (price - low) | (high - price) | spare < 0:
        return 0.0
    # The division rounds correctly, so a share of exactly 0.7 is not above a threshold of 0.7.
    share = against / flow
    return share if share > threshold else 0.0


@cache
def rlm_step_of(by_contracts: bool, stronger: bool) -> Step:
    """Return the compiled step for a kind of flow and a kind of re-arming."""

    @compiled
    def rlm_step(
        s: Record,
        ts: int,
        price: int,
        size: int,
        taker_yes: bool,
        buy_yes: bool,
        threshold: float,
        min_trades: int,
        min_drop: int,
        low: int,
        high: int,
        rearm: bool,
    ) -> int:
        if rearm and s.fired and not stronger:
            s.n = 0
            s.against = 0
            s.fired = 0
            if by_contracts:
                s.flow = 0
        n = s.n + 1
        first = price if n == 1 else s.first
        weight = size if by_contracts else 1
        against = s.against + weight * (taker_yes != buy_yes)
        s.n = n
        s.first = first
        s.last = price
        s.against = against
        # The branches below are constants of the step, so that it never names a field that its state lacks.
        if by_contracts:
            flow = s.flow + size
            s.flow = flow
        else:
            flow = n
        drop = price - first if buy_yes else first - price
        # A market that never fires again keeps counting and needs more prints than there can be.  An early return
        # would make the processor predict at each print whether the market has fired.
        least = min_trades if stronger else min_trades + s.fired * NEVER
        share = share_if(n, drop, price, against, flow, threshold, least, min_drop, low, high, by_contracts)
        if share == 0.0:
            return NOTHING
        if stronger:
            if s.fired and share <= s.last_share and drop <= s.last_drop:
                return NOTHING
            s.last_drop = drop
            s.last_share = share
        s.fired = 1
        return BUY_YES if buy_yes else BUY_NO

    return rlm_step
