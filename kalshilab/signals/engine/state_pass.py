"""A pass: the states of one signal on their way through a tape, chunk after chunk.

The states outlive the chunk, so files, chunks and live batches produce the fires that one long tape produces.  A
pass over part of the markets (a shard) produces the fires of those markets; row numbers are those of the tape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import polars as pl

from kalshilab.lazy import renamed
from kalshilab.signals.engine.kernel import (
    Array,
    Fields,
    Rule,
    Step,
    address_of,
    fresh_state,
    grown,
    loop_of,
    packed,
)

__all__ = [
    "CellPass",
    "CrossMarketFilter",
    "Fires",
    "PrintArrays",
    "SingleCellPass",
    "StatePass",
    "chunks_of",
    "columns_of",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

BUFFER = 16_384
"""Capacity of the compiled loop's buffers, in fires."""
EVERY = 2**32
"""A number above every market code."""


class PrintArrays(NamedTuple):
    """Prints as arrays of one length; a column that a signal does not read is empty."""

    market: Array
    """Market codes, UInt32."""
    ts: Array
    """Exchange times in microseconds, Int64."""
    price: Array
    """YES prices, Int16."""
    size: Array
    """Sizes, UInt32."""
    taker: Array
    """0 for a YES taker, 1 for a NO taker, UInt8."""


class Fires(NamedTuple):
    """Fires as arrays of one length, in the order of the tape."""

    row: Array
    market: Array
    price: Array
    side: Array
    seen: Array
    """State of the market as of each fire, the firing print included."""

    @staticmethod
    def joined(parts: list[Fires]) -> Fires:
        """Concatenate several batches of fires."""
        return Fires(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    @staticmethod
    def empty(fields: Fields) -> Fires:
        """Return a batch without fires, for states with these fields."""
        return Fires(
            np.zeros(0, np.int64),
            np.zeros(0, np.uint32),
            np.zeros(0, np.int16),
            np.zeros(0, np.uint8),
            np.zeros(0, fields),
        )

    def tape_order(self) -> Array:
        """Return the positions of the fires in the order of the tape."""
        return np.argsort(self.row, kind="stable")

    def take(self, at: Array) -> Fires:
        """Return the fires at these positions."""
        return Fires(*(column[at] for column in self))


_EMPTY = PrintArrays(
    np.zeros(0, np.uint32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int16),
    np.zeros(0, np.uint32),
    np.zeros(0, np.uint8),
)


def columns_of(frame: pl.DataFrame, reads: tuple[str, ...]) -> PrintArrays:
    """Return a tape's market codes, prices and the columns that a signal reads as arrays."""
    return PrintArrays(**_EMPTY._asdict() | {n: _values(n, frame[n]) for n in {"market", "price", *reads}})


def chunks_of(frame: pl.DataFrame, reads: tuple[str, ...]) -> Iterator[PrintArrays]:
    """Yield the arrays of `columns_of` for each chunk of the frame's memory; joining the chunks would copy them."""
    names = list({"market", "price", *reads})
    chunks = [frame[name].get_chunks() for name in names]
    if len({tuple(map(len, parts)) for parts in chunks}) > 1:
        yield columns_of(frame, reads)
        return
    for columns in zip(*chunks, strict=True):
        yield PrintArrays(
            **_EMPTY._asdict() | {n: _values(n, c) for n, c in zip(names, columns, strict=True)}
        )


def _values(name: str, column: pl.Series) -> Array:
    if name == "ts":
        return column.dt.epoch("us").to_numpy()
    if name == "taker":
        return column.to_physical().cast(pl.UInt8).to_numpy()
    return column.cast(pl.Int16 if name == "price" else pl.UInt32).to_numpy()


class CrossMarketFilter(Protocol):
    """A stateful filter of fires across markets: it decides by the fires it has seen before."""

    def keep(self, ts: Array, seen: Array) -> Array:
        """Return a mask of the fires to keep.

        Args:
            ts: times of the fires in microseconds, in the order of the tape.
            seen: the states of their markets at the fires.
        """
        ...


class StatePass:
    """The states of a step on their way through a tape.

    Args:
        step: the compiled step.
        reads: the columns that it reads.
        fields: the fields of its state.
        rule: its parameters, as the step takes them.
        low: the first market code to process.
        high: the end of the range of market codes, exclusive; None: all.
        markets: the expected number of codes; the state grows if there are more.
    """

    def __init__(
        self,
        step: Step,
        reads: tuple[str, ...],
        fields: Fields,
        rule: Rule,
        *,
        low: int = 0,
        high: int | None = None,
        markets: int = 0,
    ) -> None:
        self.rule = packed(rule)
        self._loop = loop_of(step, reads, fields, self.rule.dtype)
        self._low, self._high = low, EVERY if high is None else high
        self._rows = np.empty(BUFFER, np.int64)
        self._sides = np.empty(BUFFER, np.uint8)
        self._seen = np.empty(BUFFER, fields)
        self.rule_at, self._seen_at = address_of(self.rule), address_of(self._seen)
        self._keep(fresh_state(max(min(self._high, markets) - low, 0), fields))

    def _keep(self, state: Array) -> None:
        self.state, self.state_at, self.room = state, address_of(state), len(state)

    def reserve(self, markets: int) -> None:
        """Make room for the codes below `markets` that are in this pass's range."""
        self._keep(grown(self.state, min(markets, self._high) - self._low))

    def push(self, columns: PrintArrays, first_row: int = 0) -> Fires:
        """Process the next prints and return their fires; `first_row` is the tape row of the first print."""
        parts = list(self.pushing(columns, first_row))
        return Fires.joined(parts) if parts else self.nothing

    @cached_property
    def nothing(self) -> Fires:
        """A batch without fires."""
        return Fires.empty(self.state.dtype)

    def pushing(self, columns: PrintArrays, first_row: int) -> Iterator[Fires]:
        """Process the next prints and yield their fires, a buffer at a time; empty buffers are skipped."""
        market, ts, price, size, taker = columns
        rows, sides = self._rows, self._sides
        start: int | np.int64 = 0
        end = len(market)
        while start < end:
            start, count = self._loop(
                self.state_at, self.room, market, self._low, self._high, ts, price, size, taker, start, rows, sides,
                self._seen_at, self.rule_at,
            )  # fmt: skip
            if count:
                at = rows[:count].copy()
                yield Fires(
                    at + first_row, market[at], price[at], sides[:count].copy(), self._seen[:count].copy()
                )
            if start < end and count < BUFFER:
                # The loop stopped at a market beyond the room of the state.
                self.reserve(int(market[start:].max()) + 1)


class CellPass(Protocol):
    """A pass for several cells of a parameter grid."""

    @property
    def cells(self) -> Sequence[int]:
        """Positions of the cells in the grid."""
        ...

    def push(self, columns: PrintArrays, first_row: int = 0) -> Sequence[Fires]:
        """Process the next prints and return the fires of each cell."""
        ...


class SingleCellPass:
    """A pass for one cell of a grid, which shares no state with the others."""

    def __init__(self, cell: int, state_pass: StatePass) -> None:
        self.cells: Sequence[int] = (cell,)
        self._pass = state_pass

    def push(self, columns: PrintArrays, first_row: int = 0) -> Sequence[Fires]:
        """Process the next prints and return the fires of the one cell."""
        return (self._pass.push(columns, first_row),)
