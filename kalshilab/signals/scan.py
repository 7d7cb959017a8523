"""Scanning a lake for fires: out of core, on one processor, many, or a cluster.

**One process** reads the lake batch by batch, a thread reading ahead while the compiled loop runs, so memory
does not depend on the number of prints (it grows by the state of a market, 16 bytes for `rlm`, for each market
the lake has).

**Several** share the cells of a grid first: a worker reads the tape and runs its cells over it, on one thread.
(In one process two threads share them.)  Where there are more workers than cells, or one signal only, they share the
markets: the unit of work is a *shard*, a contiguous range of market codes, on a carried
state from the first day on which one of its markets printed to the last.  Codes are given out in the order of
first appearance and most markets live for days, so a range of codes is a stretch of time, and a worker opens
only the days of its own.  A worker needs the lake's path and the signal, and returns fires; it changes nothing,
so a lost unit can be run again.  Fires are put back into the order of the tape and are the same for every
number of shards, by construction: no signal's state spans markets, and what does (a whale queue) is applied to
the merged fires.

**Ten billion prints.**  Three columns of a print take about 4 bytes in Parquet and 7 in memory; a core decodes
and scans about 60 million of them a second (`research/benchmarks/signals.py` measures yours).  One core
takes 10^10 / 6·10^7 = 170 s for 40 GB; sixteen workers, each with a sixteenth of the markets and, since ranges
of codes overlap in time, about a fifth of the days, read 8 GB each and take about 35 s.  State is 16 bytes a market:
100 million markets are 1.6 GB for one process, 100 MB for each of sixteen.  What comes back is fires, not prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from typing import Any

import cloudpickle
import numpy as np
import polars as pl

from kalshilab.errors import LakeError, UsageError
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.signals.engine.model import Frame, like
from kalshilab.signals.engine.sharding import THREADS, Cells, Found, Shard, frame_of, scan_shard, shards_of
from kalshilab.signals.engine.state_pass import Columns, Fires, columns_of
from kalshilab.signals.policy import RlModel
from kalshilab.tape.lake.opening import scan_tape, tape_of
from kalshilab.tape.lake.source import StoredTape, check_unaudited
from kalshilab.tape.tape import TapeLike, frame_in_memory

__all__ = ["scan", "scan_cells", "spawn_pool", "workers_of"]


@contextmanager
def spawn_pool(processes: int | None = None) -> Iterator[Executor]:
    """Worker processes for `scan` and `grid`, started afresh (not forked: threads and forks do not mix).

    A script that uses it needs the usual `if __name__ == "__main__":`.

    Args:
        processes: how many; None: one a processor.
    """
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield pool


def scan(
    source: Frame,
    signal: CompiledSignal | RlModel,
    executor: Executor | int | None = None,
    *,
    shards: int | None = None,
) -> Frame:
    """All fires of a signal over a lake of any size, in the order of the tape; columns as those of its `run`.

    Args:
        source: a `Lake`, the path of one, or a tape as a frame.
        signal: a signal with its parameters.  The policy of an `RlModel` sees all prints in this process.
        executor: None: this process, with reading and scanning overlapped.  A number: that many processes of
            our own.  Or any `concurrent.futures.Executor`, Dask's `Client.get_executor()` included; its
            workers must see the lake under the same path.
        shards: into how many shares the markets are divided; default: one a worker, less for a grid (see above).

    >>> import kalshilab as kl
    >>> tape, _ = kl.sample()
    >>> sig = kl.signals.Rlm()
    >>> scan(tape, sig, shards=3).equals(sig.run(tape))
    True

    Raises:
        LakeError: a file is missing, damaged or not what the manifest says; nothing is left out silently.
        TapeError: the source is not a tape.
        UsageError: fewer than one process or shard, or `signal` is none.
    """
    return like(scan_cells(source, [signal], executor, shards)[0], source)


def scan_cells(
    source: TapeLike,
    signals: Sequence[Any],
    executor: Executor | int | None = None,
    shards: int | None = None,
) -> list[pl.DataFrame]:
    """The fires of several signals of one kind, as `scan` gives them for one, in one reading.

    Raises:
        LakeError, TapeError, UsageError: as for `scan`.
    """
    for signal in signals:
        if not isinstance(signal, CompiledSignal | RlModel):
            shown = getattr(signal, "__name__", type(signal).__name__)
            raise UsageError(
                f"{shown} is not a signal: give a class with its parameters, such as Rlm(min_trades=25)"
            )
    if isinstance(executor, int):
        if executor < 1:
            raise UsageError(f"executor={executor}: at least one process")
        with spawn_pool(executor) as pool:
            return scan_cells(source, signals, pool, shards or executor)
    if shards is not None and shards < 1:
        raise UsageError(f"shards={shards}: at least one")
    count = shards or (1 if executor is None else workers_of(executor))
    if isinstance(signals[0], RlModel):
        tape = tape_of(source)
        return [signal.fires(tape) for signal in signals]
    tape = tape_of(source, tuple(dict.fromkeys(name for signal in signals for name in signal.reads)))
    if not isinstance(tape, StoredTape):
        return _scan_frame(frame_in_memory(tape), signals, executor, count)
    groups = [range(len(signals))] if executor is None or shards else _groups(signals, count)
    count = -(-count // len(groups))
    plan = [Shard(0, len(tape.tickers))] if count == 1 else shards_of(tape, count)
    units = [(cells, shard) for cells in groups for shard in plan]
    if executor is None:
        lots = [scan_shard(tape, signals, shard) for shard in plan]
    else:
        where = (str(tape.path), getattr(tape, "generation", None))
        tasks = [
            executor.submit(_task, cloudpickle.dumps((where, [signals[c] for c in cells], shard)))
            for cells, shard in units
        ]
        lots = [task.result() for task in tasks]
        check_unaudited(tape, tape.files)
    of_cells: list[list[Found]] = [[] for _ in signals]
    for (cells, _), lot in zip(units, lots, strict=True):
        for cell, found in zip(cells, lot, strict=True):
            of_cells[cell].append(found)
    return [frame_of(tape, *one) for one in zip(signals, of_cells, strict=True)]


def _task(payload: bytes) -> list[Found]:
    """A unit of work in a worker."""
    (path, generation), signals, shard = cloudpickle.loads(payload)
    source = scan_tape(path)
    if getattr(source, "generation", None) != generation:
        raise LakeError(
            path, None, "was changed while it was scanned", run="the scan again once nobody writes to it"
        )
    return scan_shard(source, signals, shard, threads=1)


def _groups(signals: Sequence[CompiledSignal], workers: int) -> list[list[int]]:
    """The cells of a grid in at most so many groups; those that share their counting stay together."""
    alike = [list(p.cells) for p in type(signals[0]).begin_cells(signals)]
    groups: list[list[int]] = [[] for _ in range(min(workers, len(alike)))]
    for cells in sorted(alike, key=len, reverse=True):
        min(groups, key=len).extend(cells)
    return groups


def workers_of(executor: Executor) -> int:
    """How many workers an executor has; as many as this machine has processors, where it does not say."""
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1


# Frames


def _scan_frame(
    frame: pl.DataFrame, signals: Sequence[CompiledSignal], executor: Executor | None, count: int
) -> list[pl.DataFrame]:
    """As `scan_cells`, over a tape in memory: workers are given the columns of their markets."""
    reads = tuple(dict.fromkeys(name for signal in signals for name in signal.reads))
    columns = columns_of(frame, reads)
    top = int(columns.market.max()) + 1 if len(columns.market) else 0
    edges = sorted({top * k // count for k in range(count + 1)})
    plan = [Shard(low, high) for low, high in pairwise(edges)] or [Shard(0, 0)]
    if executor is None:
        lots = [_scan_columns(signals, shard, columns) for shard in plan]
    else:
        tasks = []
        for shard in plan:
            rows = np.flatnonzero((columns.market >= shard.low) & (columns.market < shard.high))
            part = Columns(*(c[rows] if len(c) else c for c in columns))
            tasks.append(executor.submit(_frame_task, cloudpickle.dumps((signals, shard, part, rows))))
        lots = [task.result() for task in tasks]
    frames = []
    for signal, of_cell in zip(signals, zip(*lots, strict=True), strict=True):
        fires = Fires.joined(list(of_cell))
        order = np.argsort(fires.row, kind="stable")
        fires = Fires(*(column[order] for column in fires))
        frames.append(signal.framed(frame, fires, fires.row, signal.sieve()))
    return frames


def _scan_columns(
    signals: Sequence[CompiledSignal], shard: Shard, columns: Columns, threads: int = THREADS
) -> list[Fires]:
    cells = Cells(signals, shard, shard.high, threads)
    try:
        return cells.push(columns, 0)
    finally:
        cells.close()


def _frame_task(payload: bytes) -> list[Fires]:
    signals, shard, columns, rows = cloudpickle.loads(payload)
    return [f._replace(row=rows[f.row]) for f in _scan_columns(signals, shard, columns, threads=1)]
