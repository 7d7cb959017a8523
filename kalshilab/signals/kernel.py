"""The compiled heart: for each signal a step over one market's state, and one loop that runs any of them.

State is one row a market, small enough to share a cache line.  The live driver calls a step for one print;
the loop calls the same step for each row of a stretch of tape.  The loop stops when its buffers of fires are
full and says where, so that the driver can hand it empty ones: no signal needs to know how many fires come.

A market that has fired keeps its numbers until its next print, which either does nothing (one fire a market)
or starts anew (re-arming).  `takers` holds 0 for a YES taker and 1 for a NO taker, the physical codes of the
tape's Enum; prices and sizes are in our units.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = [
    "BAND_WIDTH",
    "FIRST",
    "LAST",
    "RLM_WIDTH",
    "VARIANCE_WIDTH",
    "WHALE_WIDTH",
    "YES",
    "N",
    "band_step",
    "fresh_state",
    "grown",
    "loop_of",
    "rlm_step",
    "variance_step",
    "whale_step",
]  # fmt: skip

State = npt.NDArray[Any]

N: Final = 0
YES: Final = 1
FIRST: Final = 2
LAST: Final = 3
RLM_WIDTH: Final = 5
BAND_WIDTH: Final = 4
WHALE_WIDTH: Final = 4
VARIANCE_WIDTH: Final = 6


def fresh_state(markets: int, width: int, dtype: type = np.int32) -> State:
    """State of so many markets of which nothing was seen."""
    return np.zeros((markets, width), dtype=dtype)


def grown(state: State, markets: int) -> State:
    """`state` with room for at least `markets`; grows by half at least, so that growing costs little in all."""
    if markets <= len(state):
        return state
    bigger = np.zeros((max(markets, len(state) * 3 // 2, 64), state.shape[1]), dtype=state.dtype)
    bigger[: len(state)] = state
    return bigger


# Reverse line movement: [n, yes, first, last, fired]


@cache
def loop_of(step: Any) -> Any:
    """The compiled loop that runs a compiled step over a stretch of tape.

    It is made for each step and compiled at its first use (a tenth of a second; numba keeps no loop over
    another function on disk).  Its arguments: state, the four columns, the row to start at, two buffers for
    rows and states of fires, and the rule as a tuple; it returns the row where it stopped and how many fires
    are in the buffers.
    """

    @njit(nogil=True)
    def loop(
        state: State,
        markets: Any,
        prices: Any,
        sizes: Any,
        takers: Any,
        start: int,
        rows: Any,
        seen: Any,
        rule: Any,
    ) -> tuple[int, int]:
        count = 0
        for i in range(start, len(markets)):
            m = markets[i]
            if step(state, m, prices[i], sizes[i], takers[i] == 0, *rule):
                rows[count] = i
                seen[count] = state[m]
                count += 1
                if count == len(rows):
                    return i + 1, count
        return len(markets), count

    return loop


@njit(cache=True, nogil=True)
def rlm_step(
    state: State,
    market: int,
    price: int,
    size: int,
    taker_yes: bool,
    threshold: float,
    min_trades: int,
    min_drop: int,
    rearm: bool,
) -> bool:
    """One print; whether it fires."""
    row = state[market]
    if row[4]:
        if not rearm:
            return False
        row[0] = 0
        row[1] = 0
        row[4] = 0
    if row[0] == 0:
        row[2] = price
    row[0] += 1
    if taker_yes:
        row[1] += 1
    row[3] = price
    # The division is the correctly rounded one, so a share of exactly 0.7 is not above a threshold of 0.7.
    if row[0] >= min_trades and row[2] - price >= min_drop and row[1] / row[0] > threshold:
        row[4] = 1
        return True
    return False


# Price band: [n, inside, fired, last]


@njit(cache=True, nogil=True)
def band_step(
    state: State, market: int, price: int, size: int, taker_yes: bool, low: int, high: int, rearm: bool
) -> bool:
    """One print; fires when the price comes into [low, high] from outside, or begins inside."""
    row = state[market]
    row[0] += 1
    was_inside = row[1]
    row[1] = low <= price <= high
    row[3] = price
    if not row[1] or was_inside or (row[2] and not rearm):
        return False
    row[2] = 1
    return True


# Whales: [n, whales, value of the last print in money units, side of the last print (1 YES)]


@njit(cache=True, nogil=True)
def whale_step(
    state: State,
    market: int,
    price: int,
    size: int,
    taker_yes: bool,
    min_value: int,
    max_leverage: float,
    yes_only: bool,
    rearm: bool,
) -> bool:
    """One print; fires when what its taker paid is large and his leverage small."""
    row = state[market]
    row[0] += 1
    paid = price if taker_yes else 10_000 - price
    row[2] = paid * size
    row[3] = taker_yes
    if yes_only and not taker_yes:
        return False
    # Leverage is what a dollar of stake can win: (a dollar − price) / price, kept free of division by zero.
    if row[2] < min_value or 10_000 - paid >= max_leverage * paid:
        return False
    row[1] += 1
    return rearm or row[1] == 1


# Low leverage variance: [n, no, mean of leverage, sum of squares about it, fired, last]


@njit(cache=True, nogil=True)
def variance_step(
    state: State,
    market: int,
    price: int,
    size: int,
    taker_yes: bool,
    max_std: float,
    min_no_ratio: float,
    min_trades: int,
    rearm: bool,
) -> bool:
    """One print; fires when takers' leverage has varied little and most of them bought NO."""
    row = state[market]
    if row[4]:
        if not rearm:
            return False
        row[:] = 0
    paid = price if taker_yes else 10_000 - price
    # A print at nothing has no finite leverage; counted at the smallest price there is.
    paid = max(paid, 1)
    leverage = (10_000 - paid) / paid
    row[0] += 1
    if not taker_yes:
        row[1] += 1
    # Welford's recurrence: exact enough where summing squares would cancel.
    delta = leverage - row[2]
    row[2] += delta / row[0]
    row[3] += delta * (leverage - row[2])
    row[5] = price
    if row[0] < min_trades or row[0] < 2 or row[1] / row[0] <= min_no_ratio:
        return False
    if np.sqrt(row[3] / (row[0] - 1)) < max_std:
        row[4] = 1
        return True
    return False
