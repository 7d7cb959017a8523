"""The protocol of a signal, its fires, and the check of its input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.schema import TAKER, first_bad, with_codes
from kalshilab.units import PRICE

__all__ = ["Dtypes", "Fire", "Frame", "Parameters", "Signal", "as_tape", "like"]

Frame = TypeVar("Frame")
"""A polars DataFrame or LazyFrame, or a pandas DataFrame, which returns a frame of the same kind; or a lake, which
returns a polars frame."""


Parameters: TypeAlias = dict[str, Any]
"""Parameters of a signal by name, in the units that people type."""
Dtypes: TypeAlias = dict[str, pl.DataType | type[pl.DataType]]
"""Columns of a frame by name."""


class Fire(msgspec.Struct, frozen=True):
    """A fire of a signal, as of the print that triggered it (inclusive); each signal adds further fields."""

    row: int
    """Prints that the signal had processed before, so that over a tape it is the row of the firing print."""
    ts: int
    """Exchange time of the firing print in microseconds."""
    ticker: str
    side: str
    """The outcome to buy, "yes" or "no"."""
    price: int
    """YES price of the firing print in 1/10,000 dollar."""
    n_trades: int
    """Prints of the market that the signal counted."""


class Signal(Protocol):
    """The methods of a signal that validation, sessions and scans use."""

    @property
    def name(self) -> str:
        """The signal's name, as in `kalshilab.signals`."""
        ...

    @property
    def parameters(self) -> Parameters:
        """Its parameters, in the units people type."""
        ...

    def run(self, tape: Frame) -> Frame:
        """Return all fires over a tape, from fresh state; live state is not touched."""
        ...

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Process one print (price in 1/10,000 dollar, size in 1/100 contract) and return its fire, or `None`."""
        ...

    def reset(self, ticker: str | None = None) -> None:
        """Clear the state of one market, or of all."""
        ...

    def state(self, ticker: str) -> object | None:
        """Return the live numbers of a market for display, or `None` without a print."""
        ...


def as_tape(data: Any, reads: Sequence[str] = ("price", "size", "taker")) -> pl.DataFrame:
    """Return the columns that a signal reads, with market codes, from a tape as any kind of frame.

    Of a lazy frame, only these columns are computed.  Without a column `market`, codes are derived from the tickers.

    Raises:
        TapeError: the frame is not a tape.  A column is missing, has another type, or has nulls; a price or size is out
            of range; the times of a market go back; or a code stands for several tickers, as after concatenating two
            tapes.  `kalshilab.to_tape` makes a tape.
    """
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        have = data.collect_schema()
    elif type(data).__module__.partition(".")[0] == "pandas":
        data = pl.from_pandas(data)
        have = data.schema
    elif isinstance(data, str | Path):
        raise TapeError(f"{str(data)!r} is a path; kalshilab.scan_tape opens what is there")
    else:
        raise TapeError(f"{type(data).__name__} is not a tape; kalshilab.to_tape makes one of it")
    needed = list(dict.fromkeys(("ts", "ticker", "price", *reads)))
    for name in needed:
        if name not in have:
            raise TapeError("is missing; kalshilab.to_tape makes a tape of other layouts", column=name)
    for name in ("price", "size", "market"):
        if name in (*needed, "market") and name in have and not have[name].is_integer():
            unit = {"price": "price units", "size": "size units", "market": "market codes"}[name]
            raise TapeError(f"is {have[name]}, not {unit}; kalshilab.to_tape converts", column=name)
    if not isinstance(have["ts"], pl.Datetime):
        raise TapeError(f"is {have['ts']}, not a time; kalshilab.to_tape converts", column="ts")
    chosen = data.select(*needed, *(["market"] if "market" in have else []))
    frame = chosen.collect() if isinstance(chosen, pl.LazyFrame) else chosen
    if "taker" in reads and frame.schema["taker"] != TAKER:
        # A round trip through pandas turns the enum into strings.
        try:
            frame = frame.with_columns(pl.col("taker").cast(pl.String).cast(TAKER))
        except pl.exceptions.InvalidOperationError:
            raise TapeError(
                "must be yes or no in each row; kalshilab.to_tape drops other rows", column="taker"
            ) from None
    for name in frame.columns:
        if frame[name].null_count():
            raise TapeError("has nulls; kalshilab.to_tape reports the rows", column=name)
    if not frame.height:
        return frame if "market" in frame.columns else with_codes(frame)
    for name, low, high, reason in _RANGES:
        if name in frame.columns and not low <= frame[name].min() <= frame[name].max() <= high:  # type: ignore[operator]
            first_bad(frame, ~pl.col(name).is_between(low, high), name, reason)
    return _in_order(_coded(frame))


_RANGES: Final = (
    ("price", 0, PRICE, "is outside 0 to 10,000 price units"),
    ("size", 1, 2**32 - 1, "is not a size in 1/100 contract"),
    ("market", 0, 2**32 - 1, "is not a market code"),
)


def _coded(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame with dense market codes, one per ticker; existing codes are checked and kept."""
    if "market" not in frame.columns:
        return with_codes(frame)
    market = frame["market"].to_numpy()
    top = int(market.max())
    if top > 2 * frame.height + 65_536:
        # Few prints of a lake with many markets: most of the states would stay empty.
        return with_codes(frame)
    # In a concatenation of two tapes a code can stand for two tickers, and a signal would merge two markets.
    # Hashes are compared because comparing the tickers costs more.
    hash_of_code = np.zeros(top + 1, np.uint64)
    consistent = _consistent(
        market.astype(np.uint32, copy=False), frame["ticker"].hash().to_numpy(), hash_of_code
    )
    known = pl.Series(hash_of_code[hash_of_code != 0])
    if not consistent or known.n_unique() != len(known):
        raise TapeError(
            "must stand for one ticker each, which fails for two concatenated tapes; drop the column, or let "
            "kalshilab.to_tape assign codes",
            column="market",
        )
    return frame


@compiled
def _consistent(
    market: npt.NDArray[np.uint32], hashes: npt.NDArray[np.uint64], hash_of_code: npt.NDArray[np.uint64]
) -> bool:
    """Record the hash of each code's ticker and return whether every print has the hash of its code."""
    for i in range(len(market)):
        ticker_hash = hashes[i] | np.uint64(1)
        recorded = hash_of_code[market[i]]
        if recorded == 0:
            hash_of_code[market[i]] = ticker_hash
        elif recorded != ticker_hash:
            return False
    return True


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the frame if no market's times go back, which would show a signal later prints first."""
    ts = frame["ts"].to_physical()
    if ts.is_sorted():
        return frame
    times, market = ts.to_numpy(), frame["market"].to_numpy()
    order = np.argsort(market, kind="stable")
    back = (np.diff(times[order]) < 0) & (np.diff(market[order].astype(np.int64)) == 0)
    if back.any():
        row = int(order[1:][back].min())
        raise TapeError(
            "goes back in time within a market; sort by ts or use kalshilab.to_tape",
            column="ts",
            row=row,
            value=frame["ts"][row],
        )
    return frame


def like(fires: pl.DataFrame, data: Any) -> Any:
    """Convert `fires` to the kind of frame that `data` is."""
    if isinstance(data, pl.LazyFrame):
        return fires.lazy()
    if isinstance(data, pl.DataFrame):
        return fires
    return fires.to_pandas()
