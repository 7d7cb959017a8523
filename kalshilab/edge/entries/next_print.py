"""The first print after a fire at which somebody else bought our side: one compiled pass over the tape.

A YES taker prints the YES ask, whose complement is the NO *bid*; so a NO buyer is filled at the next print of a NO
taker, never at the print that fired.  That print comes at a stopping time, so on a fair market it earns nothing
before fees, missed fills counted (optional stopping: Doob 1953).

Fires wait in a list for each market; a print fills those that wait for its side, and those whose time is over leave.
Nothing is sorted or grouped, and a lake goes through batch by batch.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.tape import Tape

__all__ = ["READS", "Found", "Wanted", "first_later"]

READS: Final = ("ts", "price", "taker")
Ints = npt.NDArray[np.int64]


class Wanted(NamedTuple):
    """Fires to be filled, in the order of their rows: all arrays of one length."""

    row: Ints
    """Of the firing print."""
    ticker: pl.Series
    no: npt.NDArray[np.bool_]
    """Whether NO is to be bought."""
    start: Ints
    """Microseconds: a print has to come later than this."""
    stop: Ints
    """And not later than this."""


class Found(NamedTuple):
    """What came: arrays as of `Wanted`; 0 where nothing did."""

    ts: Ints
    """Microseconds."""
    price: Ints
    """YES price units."""
    taker_no: npt.NDArray[np.bool_]
    """Whether the firing print itself was a NO taker's."""


def first_later(wanted: Wanted, tape: Tape) -> Found:
    """For each fire the first print of its market, later than `start` and by `stop`, whose taker bought its side.

    Raises:
        EdgeError: a fire in a market that is not on the tape, or at a row past its end.
    """
    n = len(wanted.row)
    found = Found(np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.bool_))
    names = pl.DataFrame({"ticker": tape.tickers.cast(pl.String)}).with_row_index("market").drop_nulls()
    codes = pl.DataFrame({"ticker": wanted.ticker}).join(
        names, on="ticker", how="left", maintain_order="left"
    )["market"]
    if codes.null_count():
        raise EdgeError(
            f"a fire in {wanted.ticker.filter(codes.is_null())[0]}, of which there is no print on this tape"
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
        raise EdgeError(f"a fire at row {wanted.row[done]}, past the end of this tape")
    return found


@compiled
def _pass(
    market: Any, ts: Any, price: Any, taker: Any, first: int, done: int,
    row: Any, code: Any, no: Any, start: Any, stop: Any, head: Any, after: Any, at: Any, paid: Any, taker_no: Any,
) -> int:  # fmt: skip
    """Go over consecutive prints, the first of row `first`; `done` fires stand before it.  Returns those by its end."""
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
