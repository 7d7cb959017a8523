"""Shards of a lake's markets and their fires: the work of one process in a scan.

A shard is a contiguous range of market codes whose state is carried from file to file.  A lake is read once for all
cells of a grid, and a thread reads ahead.  If a signal does not read times, only the times of its fires are read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, Self, TypeAlias

import numpy as np
import polars as pl

from kalshilab.lazy import renamed
from kalshilab.signals.engine.kernel import Array, Fields
from kalshilab.signals.engine.state_pass import CellPass, CrossMarketFilter, Fires, PrintArrays, chunks_of
from kalshilab.tape.lake.manifest import DayFile
from kalshilab.tape.lake.source import StoredTape, batches

__all__ = ["THREADS", "PassGroup", "Scannable", "Shard", "TimedFires", "frame_of", "scan_shard", "shards_of"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

THREADS: Final = 2
"""Threads that share the cells of a grid in one process."""


class Scannable(Protocol):
    """Requirements of a scan on a signal, as `kalshilab.signals.engine.compiled_signal.CompiledSignal` meets them."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Columns that its step reads."""
        ...

    @property
    def fields(self) -> Fields:
        """Fields of its state."""
        ...

    @classmethod
    def begin_cells(
        cls, signals: Sequence[Self], *, low: int, high: int | None, markets: int
    ) -> list[CellPass]:
        """Return fresh passes for signals of this class."""
        ...

    def fire_filter(self) -> CrossMarketFilter | None:
        """Return a fresh filter of its fires across markets, or `None`."""
        ...

    def as_frame(
        self, fires: Fires, ts: pl.Series, tickers: pl.Series, fire_filter: CrossMarketFilter | None
    ) -> pl.DataFrame:
        """Return fires as a frame."""
        ...


class Shard(NamedTuple):
    """Markets with codes in [`low`, `high`)."""

    low: int
    high: int


class TimedFires(NamedTuple):
    """Fires and their exchange times in microseconds."""

    fires: Fires
    ts: Array


_LateTimes: TypeAlias = tuple[Array | Future[Array], Array]
"""Times that a thread may still be reading, and the position of each fire's time in them."""


class PassGroup:
    """The passes of several signals over the same columns.

    Args:
        signals: signals of one class.
        shard: the markets to process.
        markets: the number of market codes.
        threads: threads that share the passes if there are several.
    """

    def __init__(self, signals: Sequence[Scannable], shard: Shard, markets: int, threads: int) -> None:
        kind = type(signals[0])
        self._passes = kind.begin_cells(signals, low=shard.low, high=shard.high, markets=markets)
        self._threads = ThreadPoolExecutor(threads) if min(threads, len(self._passes)) > 1 else None
        self.reads = tuple(dict.fromkeys(name for signal in signals for name in signal.reads))
        self._count = len(signals)

    def push(self, columns: PrintArrays, first_row: int) -> list[Fires]:
        """Process the next prints and return the fires of each signal."""

        def push_one(cell_pass: CellPass) -> Sequence[Fires]:
            return cell_pass.push(columns, first_row)

        run: Callable[..., Iterable[Sequence[Fires]]] = map if self._threads is None else self._threads.map
        by_cell: dict[int, Fires] = {}
        for cell_pass, fires in zip(self._passes, run(push_one, self._passes), strict=True):
            by_cell.update(zip(cell_pass.cells, fires, strict=True))
        return [by_cell[cell] for cell in range(self._count)]

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()


def scan_shard(
    source: StoredTape, signals: Sequence[Scannable], shard: Shard, threads: int = THREADS
) -> list[TimedFires]:
    """Return the fires of a shard's markets and their times, for each signal."""
    group = PassGroup(signals, shard, len(source.tickers), threads)
    columns = list(dict.fromkeys(("market", "price", *group.reads)))
    by_signal: list[list[tuple[Fires, _LateTimes]]] = [[] for _ in signals]
    try:
        for batch in batches(source, columns, files=days_of(source, shard)):
            row = batch.first_row
            fired: list[tuple[int, Fires]] = []
            for chunk in chunks_of(batch.frame, group.reads):
                fired += [(i, fires) for i, fires in enumerate(group.push(chunk, row)) if len(fires.row)]
                row += len(chunk.market)
            if not fired:
                continue
            at = np.unique(np.concatenate([fires.row for _, fires in fired])) - batch.first_row
            # If the signal does not read times, the reading thread reads those of the fires.
            times: Array | Future[Array] = (
                batch.frame["ts"].gather(at).dt.epoch("us").to_numpy() if "ts" in columns else batch.times(at)
            )
            for i, fires in fired:
                by_signal[i].append((fires, (times, np.searchsorted(at, fires.row - batch.first_row))))
        return [_joined(signal, parts) for signal, parts in zip(signals, by_signal, strict=True)]
    finally:
        group.close()


def _joined(signal: Scannable, parts: list[tuple[Fires, _LateTimes]]) -> TimedFires:
    """Concatenate the fires of all batches and wait for their times."""
    all_fires, all_times = [Fires.empty(signal.fields)], [np.zeros(0, np.int64)]
    for fires, (times, at) in parts:
        all_fires.append(fires)
        all_times.append((times.result() if isinstance(times, Future) else times)[at])
    return TimedFires(Fires.joined(all_fires), np.concatenate(all_times))


def frame_of(source: StoredTape, signal: Scannable, shards: Sequence[TimedFires]) -> pl.DataFrame:
    """Return the fires of all shards as one frame, in the order of the tape."""
    fires, ts = Fires.joined([s.fires for s in shards]), np.concatenate([s.ts for s in shards])
    order = fires.tape_order()
    fires = fires.take(order)
    times = pl.Series(ts[order], dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    tickers = source.tickers.cast(pl.String)
    return signal.as_frame(fires, times, tickers.gather(fires.market), signal.fire_filter())


def shards_of(source: StoredTape, count: int) -> list[Shard]:
    """Divide the markets into at most `count` contiguous ranges of codes with about equal numbers of prints."""
    prints = source.listing["prints"].cast(pl.Int64).fill_null(0).to_numpy()
    total = np.concatenate([[0], np.cumsum(prints)])
    cuts = np.searchsorted(total, np.linspace(0, total[-1], count + 1)[1:-1])
    edges = sorted({0, *(int(c) for c in cuts), len(prints)})
    return [Shard(low, high) for low, high in pairwise(edges)] or [Shard(0, 0)]


def days_of(source: StoredTape, shard: Shard) -> list[DayFile]:
    """Return the files between the first and the last print of the shard's markets."""
    listing = source.listing.slice(shard.low, shard.high - shard.low)
    begin, end = listing.select(
        pl.col("first_ts").dt.epoch("us").min(), pl.col("last_ts").dt.epoch("us").max()
    ).row(0)
    if begin is None:
        return []
    return [f for f in source.files if f.last_ts >= begin and f.first_ts <= end]
