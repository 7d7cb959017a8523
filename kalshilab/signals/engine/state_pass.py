"""A pass: one signal's state on its way through a tape, chunk after chunk.

The state outlives the chunk, so files, chunks and live batches give the fires that one long tape gives.  A
pass over part of the markets (a shard) gives the fires of those markets; the rows are those of the tape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import polars as pl

from kalshilab.signals.engine.kernel import Array, address_of, fresh_state, grown, loop_of, packed

__all__ = ["CellPass", "Columns", "Fires", "OneCell", "Pass", "chunks_of", "columns_of"]

BUFFER = 16_384
"""Fires the compiled loop may find before it hands them over."""
EVERY = 2**32
"""Above every market code."""


class Columns(NamedTuple):
    """Prints as arrays of one length: market codes (UInt32), times (µs), YES prices, sizes, takers (0 YES, 1 NO).
    Those a signal does not read are empty.
    """

    market: Array
    ts: Array
    price: Array
    size: Array
    taker: Array


class Fires(NamedTuple):
    """Fires as arrays of one length, in the order of the tape."""

    row: Array
    market: Array
    price: Array
    side: Array
    seen: Array

    @staticmethod
    def joined(parts: list[Fires]) -> Fires:
        """Several lots of fires behind each other."""
        return Fires(*(np.concatenate(column) for column in zip(*parts, strict=True)))


_EMPTY = Columns(
    np.zeros(0, np.uint32),
    np.zeros(0, np.int64),
    np.zeros(0, np.int16),
    np.zeros(0, np.uint32),
    np.zeros(0, np.uint8),
)


def columns_of(frame: pl.DataFrame, reads: tuple[str, ...]) -> Columns:
    """The arrays of a tape's columns: the market code, the price and what the signal reads."""
    return Columns(**_EMPTY._asdict() | {n: _values(n, frame[n]) for n in {"market", "price", *reads}})


def chunks_of(frame: pl.DataFrame, reads: tuple[str, ...]) -> Iterator[Columns]:
    """As `columns_of`, in the pieces that the frame's memory is in anyway: putting them together would copy."""
    names = list({"market", "price", *reads})
    chunks = [frame[name].get_chunks() for name in names]
    if len({tuple(map(len, own)) for own in chunks}) > 1:
        yield columns_of(frame, reads)
        return
    for some in zip(*chunks, strict=True):
        yield Columns(**_EMPTY._asdict() | {n: _values(n, c) for n, c in zip(names, some, strict=True)})


def _values(name: str, column: pl.Series) -> Array:
    if name == "ts":
        return column.dt.epoch("us").to_numpy()
    if name == "taker":
        return column.to_physical().cast(pl.UInt8).to_numpy()
    return column.cast(pl.Int16 if name == "price" else pl.UInt32).to_numpy()


class Pass:
    """A step's state on its way through a tape.

    Args:
        step, reads, fields, rule: the signal's.
        low, high: the range of market codes looked at, `high` exclusive; None: all.
        markets: how many codes are expected; the state grows if there are more.
    """

    def __init__(
        self,
        step: Any,
        reads: tuple[str, ...],
        fields: np.dtype[Any],
        rule: tuple[Any, ...],
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
        """Make room for codes below `markets`, as far as they are in this pass's range."""
        self._keep(grown(self.state, min(markets, self._high) - self._low))

    def push(self, columns: Columns, first_row: int = 0) -> Fires:
        """The fires of the next prints; `first_row` is the row of the first of them in the tape."""
        parts = list(self.pushing(columns, first_row))
        return Fires.joined(parts) if parts else self.nothing

    @cached_property
    def nothing(self) -> Fires:
        """No fires, in the right types."""
        none = np.zeros(0, np.int64)
        return Fires(
            none,
            none.astype(np.uint32),
            none.astype(np.int16),
            none.astype(np.uint8),
            np.zeros(0, self.state.dtype),
        )

    def pushing(self, columns: Columns, first_row: int) -> Iterator[Fires]:
        """As `push`, a buffer of fires at a time, none of them empty."""
        market, ts, price, size, taker = columns
        rows, sides = self._rows, self._sides
        start, end = 0, len(market)
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
                # It stopped at a market there was no room for.
                self.reserve(int(market[start:].max()) + 1)


class CellPass(Protocol):
    """A pass for several cells of a grid of parameters."""

    @property
    def cells(self) -> Sequence[int]:
        """Their numbers in the grid."""
        ...

    def push(self, columns: Columns, first_row: int = 0) -> Sequence[Fires]:
        """The fires of the next prints, for each of `cells`."""
        ...


class OneCell:
    """A cell that has a pass of its own."""

    def __init__(self, cell: int, own: Pass) -> None:
        self.cells: Sequence[int] = (cell,)
        self._own = own

    def push(self, columns: Columns, first_row: int = 0) -> Sequence[Fires]:
        """The fires of the next prints, for the one cell."""
        return (self._own.push(columns, first_row),)
