"""The compiled heart: a step over one market's state, and the loop that runs it over a tape.

State is one row of five int32 a market, `[n, yes, first, last, fired]`, 20 bytes that share a cache line.
The live driver calls `rlm_step` for one print; `rlm_run` calls the same function for each row of a tape.  A
market that has fired keeps its numbers until its next print, which either does nothing (one fire a market)
or starts anew with that print as its anchor (re-arming).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

__all__ = ["FIRED", "FIRST", "LAST", "WIDTH", "YES", "N", "fresh_state", "grown", "rlm_run", "rlm_step"]

N: Final = 0
YES: Final = 1
FIRST: Final = 2
LAST: Final = 3
FIRED: Final = 4
WIDTH: Final = 5

State = npt.NDArray[np.int32]


def fresh_state(markets: int) -> State:
    """State of so many markets of which nothing was seen."""
    return np.zeros((markets, WIDTH), dtype=np.int32)


def grown(state: State, markets: int) -> State:
    """`state` with room for at least `markets`; grows by half at least, so that growing costs little in all."""
    if markets <= len(state):
        return state
    bigger = fresh_state(max(markets, len(state) * 3 // 2, 64))
    bigger[: len(state)] = state
    return bigger


@njit(cache=True, nogil=True)
def rlm_step(
    state: State,
    market: int,
    price: int,
    taker_yes: bool,
    threshold: float,
    min_trades: int,
    min_drop: int,
    rearm: bool,
) -> bool:
    """One print of one market; whether it fires."""
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


@njit(cache=True, nogil=True)
def rlm_run(
    state: State,
    markets: npt.NDArray[np.uint32],
    prices: npt.NDArray[np.int16],
    takers: npt.NDArray[np.uint8],
    threshold: float,
    min_trades: int,
    min_drop: int,
    rearm: bool,
) -> tuple[npt.NDArray[np.int64], State]:
    """Every print of a stretch of tape in order; rows that fire, and each one's state at that moment.

    `takers` holds 0 for a YES taker and 1 for a NO taker (the physical codes of the tape's Enum).
    """
    rows = np.empty(1024, dtype=np.int64)
    seen = np.empty((1024, 5), dtype=np.int32)
    count = 0
    for i in range(len(markets)):
        m = markets[i]
        if rlm_step(state, m, prices[i], takers[i] == 0, threshold, min_trades, min_drop, rearm):
            if count == len(rows):
                more_rows = np.empty(2 * count, dtype=np.int64)
                more_rows[:count] = rows
                rows = more_rows
                more_seen = np.empty((2 * count, 5), dtype=np.int32)
                more_seen[:count] = seen
                seen = more_seen
            rows[count] = i
            seen[count] = state[m]
            count += 1
    return rows[:count], seen[:count]
