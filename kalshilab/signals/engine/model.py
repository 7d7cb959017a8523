"""What a signal is: the values it gives and the protocol it follows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import msgspec
import numpy as np
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.signals.engine.kernel import compiled
from kalshilab.tape.schema import TAKER, first_bad, with_codes
from kalshilab.units import PRICE

__all__ = ["Fire", "Frame", "Signal", "as_tape", "like"]

Frame = TypeVar("Frame")
"""A polars DataFrame or LazyFrame, or a pandas DataFrame: the same kind comes back.  Or a lake: a polars frame
comes back."""


class Fire(msgspec.Struct, frozen=True):
    """A signal fired, as of the print that made it (inclusive).

    `row` counts the prints the signal has seen, from 0: over a tape it is the row of the firing print.
    `ts` is that print's exchange time in microseconds, `price` its YES price, `side` the outcome to buy,
    `n_trades` the prints of the market counted for it.  Each signal adds its own fields.
    """

    row: int
    ts: int
    ticker: str
    side: str
    price: int
    n_trades: int


class Signal(Protocol):
    """What validation, sessions and scans ask of a signal."""

    @property
    def name(self) -> str:
        """The signal's name, as in `kalshilab.signals`."""
        ...

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters it was made with, in the units people type."""
        ...

    def run(self, tape: Frame) -> Frame:
        """All fires over a tape, from fresh state; live state is not touched."""
        ...

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Take one print (integers in our units, `ts` in microseconds); a fire if it made one."""
        ...

    def reset(self, ticker: str | None = None) -> None:
        """Forget one market, or all."""
        ...

    def state(self, ticker: str) -> Any | None:
        """The live numbers of a market for display, or None if no print of it was seen."""
        ...


def as_tape(data: Any, reads: Sequence[str] = ("price", "size", "taker")) -> pl.DataFrame:
    """The columns a signal reads, from a tape of any frame kind, with market codes.

    Of a lazy frame only these columns are computed.  Without `market`, codes are made of the tickers.

    Raises:
        TapeError: not a tape: a column is missing, of another type, or has nulls; a price or size out of range; a
            market whose times go back; codes that do not stand for one ticker each, as in two tapes put
            together.  `kalshilab.to_tape` makes one.
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
        # A tape that went through pandas comes back with its words as text.
        try:
            frame = frame.with_columns(pl.col("taker").cast(pl.String).cast(TAKER))
        except pl.exceptions.InvalidOperationError:
            raise TapeError(
                "is not yes or no everywhere; kalshilab.to_tape drops the rest", column="taker"
            ) from None
    for name in frame.columns:
        if frame[name].null_count():
            raise TapeError("has nulls; kalshilab.to_tape says where", column=name)
    if not frame.height:
        return frame if "market" in frame.columns else with_codes(frame)
    for name, low, high, reason in _RANGES:
        if name in frame.columns and not low <= frame[name].min() <= frame[name].max() <= high:  # type: ignore[operator]
            first_bad(frame, ~pl.col(name).is_between(low, high), name, reason)
    return _in_order(_coded(frame))


_RANGES: Final = (
    ("price", 0, PRICE, "is outside 0 to 10,000 price units"),
    ("size", 1, 2**32 - 1, "is no size in 1/100 contract"),
    ("market", 0, 2**32 - 1, "is no market code"),
)


def _coded(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with dense codes that stand for one ticker each: its own, if it has such."""
    if "market" not in frame.columns:
        return with_codes(frame)
    market = frame["market"].to_numpy()
    top = int(market.max())
    if top > 2 * frame.height + 65_536:
        # Few prints of a lake with many markets: a state for each code would be mostly for nothing.
        return with_codes(frame)
    # Two tapes put together have codes that mean two things, and a signal would take two markets for one.
    # Hashes of names are compared, which costs less than the names.
    of_code = np.zeros(top + 1, np.uint64)
    alike = _named(market.astype(np.uint32, copy=False), frame["ticker"].hash().to_numpy(), of_code)
    known = pl.Series(of_code[of_code != 0])
    if not alike or known.n_unique() != len(known):
        raise TapeError(
            "does not stand for one ticker each, as in two tapes put together; leave the column out, or "
            "kalshilab.to_tape assigns codes",
            column="market",
        )
    return frame


@compiled
def _named(market: Any, hashes: Any, of_code: Any) -> bool:
    """Note the hash of each code's name; whether every print has that of its code."""
    for i in range(len(market)):
        own = hashes[i] | np.uint64(1)
        noted = of_code[market[i]]
        if noted == 0:
            of_code[market[i]] = own
        elif noted != own:
            return False
    return True


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame, if no market's times go back: a signal would see later prints first."""
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
    """`fires` as the kind of frame that `data` is."""
    if isinstance(data, pl.LazyFrame):
        return fires.lazy()
    if isinstance(data, pl.DataFrame):
        return fires
    return fires.to_pandas()
