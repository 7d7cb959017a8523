"""The step of reverse line movement: what it remembers of a market, and what it asks of a print.

The rule is in `kalshilab.signals.builtin.rlm`.  A single signal and a grid of them (`kalshilab.signals.builtin.rlm_grid`) stand on
the same conditions, `share_if`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, compiled

__all__ = ["fields_of", "rlm_step_of", "share_if"]

NEVER = 1 << 40
"""More prints than a market can have."""
PARTS = 10
"""A share is first compared in 2^-10, rounded down: in whole numbers."""


def fields_of(by_contracts: bool, stronger: bool) -> np.dtype[Any]:
    """State of a market: prints, first and last YES price, whether it has fired, and the flow of the takers we bet
    against; the whole flow where that is not the prints, and how strong the last fire was where that matters.

    Small on purpose: at a hundred thousand active markets half the size is a quarter of the time.
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
    """The share of the flow if all conditions hold, else 0.0 (which is above no threshold).

    The flow is below 2^53, or, if `large`, below 2^63: two billion prints of the largest size.
    """
    # What is missing to each condition, and one branch on whether any is below zero: with a branch a condition the
    # processor guesses wrong at every other print, which costs more than all the rest.  The share is compared
    # without its division first, a little too generously, and then exactly.
    parts = np.int64(threshold * (1 << PARTS))
    spare = against - (flow >> PARTS) * parts if large else (against << PARTS) - flow * parts
    if (n - min_trades) | (drop - min_drop) | (price - low) | (high - price) | spare < 0:
        return 0.0
    # The division is the correctly rounded one, so a share of exactly 0.7 is not above a threshold of 0.7.
    share = against / flow
    return share if share > threshold else 0.0


@cache
def rlm_step_of(by_contracts: bool, stronger: bool) -> Any:
    """The compiled step for a flow and a kind of re-arming; see the module for the rule."""

    @compiled
    def rlm_step(
        s: Any,
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
        # The conditions below are constants of the step: fields that it does not have are never named.
        if by_contracts:
            flow = s.flow + size
            s.flow = flow
        else:
            flow = n
        drop = price - first if buy_yes else first - price
        # A market that has fired for good goes on counting, and needs more prints than there can be: were it left
        # alone instead, the processor would have to guess at each print whether it has fired.
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
