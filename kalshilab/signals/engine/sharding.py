"""Shards of a lake's markets, and their fires: what one worker does of a scan.

A shard is a contiguous range of market codes on a carried state.  A lake is read once for all cells of a grid, and a
thread reads ahead; a signal that looks at no times has them read where something fired.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import polars as pl

from kalshilab.signals.engine.state_pass import CellPass, Columns, Fires, chunks_of
from kalshilab.tape.lake.source import StoredTape, batches

__all__ = ["THREADS", "Cells", "Found", "Scannable", "Shard", "frame_of", "scan_shard", "shards_of"]

THREADS: Final = 2
"""Threads that share the cells of a grid in one process."""


class Scannable(Protocol):
    """What a scan asks of a signal: `kalshilab.signals.engine.compiled_signal.CompiledSignal` is one."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns its step reads."""
        ...

    @property
    def fields(self) -> np.dtype[Any]:
        """Of its state."""
        ...

    @classmethod
    def begin_cells(
        cls, signals: Sequence[Any], *, low: int, high: int | None, markets: int
    ) -> list[CellPass]:
        """Fresh passes for signals of this class."""
        ...

    def sieve(self) -> Any:
        """What thins out its fires across markets."""
        ...

    def as_frame(self, fires: Fires, ts: pl.Series, tickers: pl.Series, sieve: Any) -> pl.DataFrame:
        """Fires as a frame."""
        ...


class Shard(NamedTuple):
    """Markets with codes in [`low`, `high`)."""

    low: int
    high: int


Found = tuple[Fires, Any]
"""Fires and their times in microseconds."""


class Cells:
    """The passes of several signals over the same columns; `threads` share them where there are more."""

    def __init__(self, signals: Sequence[Scannable], shard: Shard, markets: int, threads: int) -> None:
        kind = type(signals[0])
        self._passes = kind.begin_cells(signals, low=shard.low, high=shard.high, markets=markets)
        self._threads = ThreadPoolExecutor(threads) if min(threads, len(self._passes)) > 1 else None
        self.reads = tuple(dict.fromkeys(name for signal in signals for name in signal.reads))
        self._count = len(signals)

    def push(self, columns: Columns, first_row: int) -> list[Fires]:
        """The fires of the next prints, for each signal."""
        run: Any = map if self._threads is None else self._threads.map
        found: dict[int, Fires] = {}
        for own, fires in zip(
            self._passes, run(lambda p: p.push(columns, first_row), self._passes), strict=True
        ):
            found.update(zip(own.cells, fires, strict=True))
        return [found[cell] for cell in range(self._count)]

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()


def scan_shard(
    source: StoredTape, signals: Sequence[Scannable], shard: Shard, threads: int = THREADS
) -> list[Found]:
    """The fires of a shard's markets and their times, for each signal."""
    cells = Cells(signals, shard, len(source.tickers), threads)
    columns = list(dict.fromkeys(("market", "price", *cells.reads)))
    lots: list[list[tuple[Fires, Any]]] = [[] for _ in signals]
    try:
        for batch in batches(source, columns, files=days_of(source, shard)):
            row, found = batch.first_row, []
            for part in chunks_of(batch.frame, cells.reads):
                found += [
                    (lot, fires)
                    for lot, fires in zip(lots, cells.push(part, row), strict=True)
                    if len(fires.row)
                ]
                row += len(part.market)
            if not found:
                continue
            at = np.unique(np.concatenate([fires.row for _, fires in found])) - batch.first_row
            # Unless the signal reads times, they are read where something fired, by the reading thread.
            known: Any = (
                batch.frame["ts"].gather(at).dt.epoch("us").to_numpy() if "ts" in columns else batch.times(at)
            )
            for lot, fires in found:
                lot.append((fires, (known, np.searchsorted(at, fires.row - batch.first_row))))
        return [_joined(signal, lot) for signal, lot in zip(signals, lots, strict=True)]
    finally:
        cells.close()


def _joined(signal: Scannable, lot: list[tuple[Fires, Any]]) -> Found:
    """Fires of all batches behind each other, with their times, which may still be being read."""
    none = np.zeros(0, np.int64)
    parts = [
        Fires(
            none,
            none.astype(np.uint32),
            none.astype(np.int16),
            none.astype(np.uint8),
            np.zeros(0, signal.fields),
        )
    ]
    times = [none]
    for fires, (known, at) in lot:
        parts.append(fires)
        times.append((known.result() if isinstance(known, Future) else known)[at])
    return Fires.joined(parts), np.concatenate(times)


def frame_of(source: StoredTape, signal: Scannable, lots: Sequence[Found]) -> pl.DataFrame:
    """The fires of all shards as one frame, in the order of the tape."""
    fires, ts = Fires.joined([f for f, _ in lots]), np.concatenate([t for _, t in lots])
    order = np.argsort(fires.row, kind="stable")
    fires = Fires(*(column[order] for column in fires))
    times = pl.Series(ts[order], dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    tickers = source.tickers.cast(pl.String)
    return signal.as_frame(fires, times, tickers.gather(fires.market), signal.sieve())


def shards_of(source: StoredTape, count: int) -> list[Shard]:
    """The markets in at most `count` contiguous ranges of codes with about the same number of prints each."""
    prints = source.listing["prints"].cast(pl.Int64).fill_null(0).to_numpy()
    total = np.concatenate([[0], np.cumsum(prints)])
    cuts = np.searchsorted(total, np.linspace(0, total[-1], count + 1)[1:-1])
    edges = sorted({0, *(int(c) for c in cuts), len(prints)})
    return [Shard(low, high) for low, high in pairwise(edges)] or [Shard(0, 0)]


def days_of(source: StoredTape, shard: Shard) -> list[Any]:
    """The files between the first and the last print of the shard's markets."""
    own = source.listing.slice(shard.low, shard.high - shard.low)
    begin, end = own.select(
        pl.col("first_ts").dt.epoch("us").min(), pl.col("last_ts").dt.epoch("us").max()
    ).row(0)
    if begin is None:
        return []
    return [f for f in source.files if f.last_ts >= begin and f.first_ts <= end]
