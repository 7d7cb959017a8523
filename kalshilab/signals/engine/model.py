"""What a signal is: the values it gives and the protocol it follows."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec
import polars as pl

from kalshilab.tape.tape import TapeLike

__all__ = ["Fire", "Frame", "Signal", "like"]

Frame = TypeVar("Frame", bound=TapeLike)
"""Trades as a signal takes them. A frame comes back as its own kind of frame; a tape or a path gives a polars frame."""


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


def like(fires: pl.DataFrame, data: Frame) -> Frame:
    """Return fires as the kind of frame that `data` is; as a polars frame for a tape or a path."""
    if isinstance(data, pl.LazyFrame):
        return fires.lazy()  # type: ignore[return-value]
    if type(data).__module__.partition(".")[0] == "pandas":
        return fires.to_pandas()  # type: ignore[return-value]
    return fires  # type: ignore[return-value]
