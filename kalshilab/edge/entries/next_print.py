"""Find the next print at which a taker bought our side, in one compiled pass over the tape.

A YES taker prints the YES ask, whose complement is the NO *bid*. So a NO buyer is filled at the next print of a NO
taker, never at the print that fired. That print comes at a stopping time, so on a fair market the entry earns nothing
before fees, with missed fills counted (optional stopping: Doob 1953).

Fires wait in a linked list per market. A print fills the fires that wait for its side; fires whose window has ended
leave the list. Nothing is sorted or grouped, and a lake is read batch by batch.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.tape import Tape

__all__ = ["READS", "Found", "Wanted", "first_later"]

READS: Final = ("ts", "price", "taker")
"""Columns of the tape that are read, beside `market`."""
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class Wanted(NamedTuple):
    """Fires to fill, in the order of their rows; arrays of one length."""

    row: Ints
    """Row of the firing print."""
    ticker: pl.Series
    """Market of the fire."""
    no: Flags
    """True to buy NO, False to buy YES."""
    start: Ints
    """Time after which a print can fill, exclusive, in microseconds."""
    stop: Ints
    """Time until which a print can fill, inclusive, in microseconds."""


class Found(NamedTuple):
    """Prints found for fires: arrays in the order of `Wanted`, 0 where there was no print."""

    ts: Ints
    """Time of the print in microseconds."""
    price: Ints
    """YES price of the print in 1/10,000 dollar."""
    taker_no: Flags
    """True where the taker of the firing print bought NO."""


def first_later(wanted: Wanted, tape: Tape) -> Found:
    """Return, for each fire, the first print in its window whose taker bought its side.

    Args:
        wanted: the fires and their windows.
        tape: the tape the fires came from.

    Raises:
        EdgeError: a fire is in a market that is not on the tape, or at a row past its end.
    """
    n = len(wanted.row)
    found = Found(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.bool_))
    names = pl.DataFrame({"ticker": tape.tickers.cast(pl.String)}).with_row_index("market").drop_nulls()
    codes = pl.DataFrame({"ticker": wanted.ticker}).join(
        names, on="ticker", how="left", maintain_order="left"
    )["market"]
    if codes.null_count():
        raise EdgeError(
            f"fires must come from this tape, got a fire in {wanted.ticker.filter(codes.is_null())[0]}, "
            "which has no print on it"
        )
    if not n:
        return found
    code = codes.cast(pl.Int64).to_numpy()
    head = np.full(int(names["market"].max()) + 1, -1, np.int64)  # type: ignore[arg-type]
    after = np.full(n, -1, np.int64)
    done = 0
    for first, frame in tape.batches(("market", *READS)):
        done = _pass(
            frame["market"].to_numpy(), frame["ts"].dt.epoch("us").to_numpy(), frame["price"].to_numpy(),
            frame["taker"].to_physical().cast(pl.UInt8).to_numpy(), first, done,
            wanted.row, code, wanted.no, wanted.start, wanted.stop, head, after, *found,
        )  # fmt: skip
    if done < n:
        raise EdgeError(f"fires must come from this tape, got a fire at row {wanted.row[done]}, past its end")
    return found


@compiled
def _pass(
    market: Ints, ts: Ints, price: Ints, taker: Ints, first: int, done: int,
    row: Ints, code: Ints, no: Flags, start: Ints, stop: Ints, head: Ints, after: Ints, at: Ints, paid: Ints, taker_no: Flags,
) -> int:  # fmt: skip
    """Process consecutive prints, the first of them at row `first`, and return the number of fires seen so far.

    `done` is the number of fires before the first print.
    """
    for i in range(len(market)):
        m = market[i]
        if m < len(head) and head[m] >= 0:
            before, waiting = -1, head[m]
            while waiting >= 0:
                following = after[waiting]
                over = ts[i] > stop[waiting]
                if not over and ts[i] > start[waiting] and (taker[i] == 1) == no[waiting]:
                    at[waiting], paid[waiting] = ts[i], price[i]
                    over = True
                if not over:
                    before = waiting
                elif before < 0:
                    head[m] = following
                else:
                    after[before] = following
                waiting = following
        while done < len(row) and row[done] == first + i:
            taker_no[done] = taker[i] == 1
            after[done] = head[code[done]]
            head[code[done]] = done
            done += 1
    return done
