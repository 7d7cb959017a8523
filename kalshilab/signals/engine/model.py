"""The protocol of a signal, and its fires."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias, TypeVar

import msgspec
import polars as pl

from kalshilab.tape.tape import TapeLike

__all__ = ["Dtypes", "Fire", "Frame", "Parameters", "Signal", "like"]

Frame = TypeVar("Frame", bound=TapeLike)
"""Trades as a signal accepts them; a frame returns its own kind of frame, a tape or a path a polars frame."""
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


def like(fires: pl.DataFrame, data: Frame) -> Frame:
    """Return fires as the kind of frame that `data` is; as a polars frame for a tape or a path."""
    if isinstance(data, pl.LazyFrame):
        return fires.lazy()  # type: ignore[return-value]
    if type(data).__module__.partition(".")[0] == "pandas":
        return fires.to_pandas()  # type: ignore[return-value]
    return fires  # type: ignore[return-value]
