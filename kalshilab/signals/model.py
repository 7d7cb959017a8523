"""What a signal is: the values it gives and the protocol it follows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.tape.schema import TAKER, with_codes

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

    Of a lazy frame only these columns are computed.

    Raises:
        TapeError: not a tape; `kalshilab.to_tape` makes one.
    """
    if isinstance(data, pl.LazyFrame | pl.DataFrame):
        have = data.collect_schema()
    elif type(data).__module__.partition(".")[0] == "pandas":
        data = pl.from_pandas(data)
        have = data.schema
    else:
        raise TapeError(f"{type(data).__name__} is not a tape; kalshilab.to_tape makes one of it")
    needed = list(dict.fromkeys(("ts", "ticker", "price", *reads)))
    for name in needed:
        if name not in have:
            raise TapeError("is missing; kalshilab.to_tape makes a tape of other layouts", column=name)
    if not have["price"].is_integer():
        raise TapeError(f"is {have['price']}, not price units; kalshilab.to_tape converts", column="price")
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
    for name in needed:
        if frame[name].null_count():
            raise TapeError("has nulls; kalshilab.to_tape says where", column=name)
    return frame if "market" in frame.columns else with_codes(frame)


def like(fires: pl.DataFrame, data: Any) -> Any:
    """`fires` as the kind of frame that `data` is."""
    if isinstance(data, pl.LazyFrame):
        return fires.lazy()
    if isinstance(data, pl.DataFrame):
        return fires
    return fires.to_pandas()
