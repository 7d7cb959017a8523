"""Scanning a lake for fires: out of core, on one processor, many, or a cluster.

**One process** reads the lake batch by batch, and a thread reads ahead while the compiled loop runs.  Memory therefore
does not depend on the number of prints; it grows by the state of a market, 16 bytes for `rlm`, for each market of the
lake.

**Several processes** share the cells of a grid first: a worker reads the tape and runs its cells over it, on one
thread.  (In one process, two threads share the cells.)  With more workers than cells, or with a single signal, they
share the markets.  The unit of work is then a *shard*, a contiguous range of market codes, whose state is carried from
the first day on which one of its markets printed to the last.  Codes are assigned in the order of first appearance
and most markets live for days, so a range of codes covers a range of days, and a worker opens only those.  A worker
needs the lake's path and the signal, and returns fires.  It changes nothing, so a lost unit can be run again.  Fires
are merged into the order of the tape and are the same for every number of shards, by construction: the state of a
signal never spans markets, and a filter that does (a whale queue) is applied to the merged fires.

**Ten billion prints.**  Three columns of a print take about 4 bytes in Parquet and 7 in memory; a core decodes and
scans about 60 million prints a second (run `research/benchmarks/signals.py` for your machine).  One core takes
10^10 / 6·10^7 = 170 s for 40 GB.  Each of sixteen workers has a sixteenth of the markets and, since ranges of codes
overlap in time, about a fifth of the days; it reads 8 GB and takes about 35 s.  State is 16 bytes a market: 100
million markets take 1.6 GB in one process, and 100 MB in each of sixteen.  Workers return fires, not prints.
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
from kalshilab.signals.engine.sharding import (
    THREADS,
    PassGroup,
    Shard,
    TimedFires,
    frame_of,
    scan_shard,
    shards_of,
)
from kalshilab.signals.engine.state_pass import Fires, PrintArrays, columns_of
from kalshilab.signals.policy import RlModel
from kalshilab.tape.lake.opening import scan_tape, tape_of
from kalshilab.tape.lake.source import StoredTape, check_unaudited
from kalshilab.tape.tape import TapeLike, frame_in_memory

__all__ = ["scan", "scan_cells", "spawn_pool", "workers_of"]


@contextmanager
def spawn_pool(processes: int | None = None) -> Iterator[Executor]:
    """Start worker processes for `scan` and `grid`, as a context manager.

    They are spawned, not forked, because forking a process with threads is unsafe.  A script that uses them needs the
    usual `if __name__ == "__main__":`.

    Args:
        processes: the number of processes; None: one per processor.
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
    """Return all fires of a signal over a lake of any size, in the order of the tape, as its `run` returns them.

    Args:
        source: a `Lake`, the path of a lake, or a tape as a frame.
        signal: a signal with its parameters.  The policy of an `RlModel` sees all prints in this process.
        executor: None: this process, with reading and scanning overlapped.  A number: that many new worker processes.
            Or any `concurrent.futures.Executor`, including Dask's `Client.get_executor()`; its workers must see the
            lake under the same path.
        shards: the number of shards of the markets; default: one per worker, fewer for a grid (see above).

    >>> import kalshilab as kl
    >>> tape, _ = kl.sample()
    >>> sig = kl.signals.Rlm()
    >>> scan(tape, sig, shards=3).equals(sig.run(tape))
    True

    Raises:
        LakeError: a file is missing, damaged or differs from the manifest; nothing is left out silently.
        TapeError: the source is not a tape.
        UsageError: `executor` or `shards` is below 1, or `signal` is not a signal.
    """
    return like(scan_cells(source, [signal], executor, shards)[0], source)


def scan_cells(
    source: TapeLike,
    signals: Sequence[Any],
    executor: Executor | int | None = None,
    shards: int | None = None,
) -> list[pl.DataFrame]:
    """Return the fires of several signals of one class, as `scan` does for one, in a single reading.

    Raises:
        LakeError, TapeError, UsageError: as for `scan`.
    """
    for signal in signals:
        if not isinstance(signal, CompiledSignal | RlModel):
            shown = getattr(signal, "__name__", type(signal).__name__)
            raise UsageError(
                f"signal must be a signal with its parameters, such as Rlm(min_trades=25), got {shown}"
            )
    if isinstance(executor, int):
        if executor < 1:
            raise UsageError(f"executor must be >= 1 process, got {executor}")
        with spawn_pool(executor) as pool:
            return scan_cells(source, signals, pool, shards or executor)
    if shards is not None and shards < 1:
        raise UsageError(f"shards must be >= 1, got {shards}")
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
        results = [scan_shard(tape, signals, shard) for shard in plan]
    else:
        where = (str(tape.path), getattr(tape, "generation", None))
        tasks = [
            executor.submit(_task, cloudpickle.dumps((where, [signals[c] for c in cells], shard)))
            for cells, shard in units
        ]
        results = [task.result() for task in tasks]
        check_unaudited(tape, tape.files)
    by_cell: list[list[TimedFires]] = [[] for _ in signals]
    for (cells, _), result in zip(units, results, strict=True):
        for cell, fires in zip(cells, result, strict=True):
            by_cell[cell].append(fires)
    return [frame_of(tape, signal, parts) for signal, parts in zip(signals, by_cell, strict=True)]


def _task(payload: bytes) -> list[TimedFires]:
    """Run a unit of work in a worker."""
    (path, generation), signals, shard = cloudpickle.loads(payload)
    source = scan_tape(path)
    if getattr(source, "generation", None) != generation:
        raise LakeError(
            path, None, "was changed during the scan", run="the scan again when no process writes to the lake"
        )
    return scan_shard(source, signals, shard, threads=1)


def _groups(signals: Sequence[CompiledSignal], workers: int) -> list[list[int]]:
    """Divide the cells of a grid into at most `workers` groups; cells that share their state stay together."""
    sharing = [list(p.cells) for p in type(signals[0]).begin_cells(signals)]
    groups: list[list[int]] = [[] for _ in range(min(workers, len(sharing)))]
    for cells in sorted(sharing, key=len, reverse=True):
        min(groups, key=len).extend(cells)
    return groups


def workers_of(executor: Executor) -> int:
    """Return the number of an executor's workers, or that of this machine's processors if it is unknown."""
    return getattr(executor, "_max_workers", None) or os.cpu_count() or 1


# Frames


def _scan_frame(
    frame: pl.DataFrame, signals: Sequence[CompiledSignal], executor: Executor | None, count: int
) -> list[pl.DataFrame]:
    """Scan a tape in memory as `scan_cells` does; each worker gets the columns of its markets."""
    reads = tuple(dict.fromkeys(name for signal in signals for name in signal.reads))
    columns = columns_of(frame, reads)
    top = int(columns.market.max()) + 1 if len(columns.market) else 0
    edges = sorted({top * k // count for k in range(count + 1)})
    plan = [Shard(low, high) for low, high in pairwise(edges)] or [Shard(0, 0)]
    if executor is None:
        results = [_scan_columns(signals, shard, columns) for shard in plan]
    else:
        tasks = []
        for shard in plan:
            rows = np.flatnonzero((columns.market >= shard.low) & (columns.market < shard.high))
            part = PrintArrays(*(c[rows] if len(c) else c for c in columns))
            tasks.append(executor.submit(_frame_task, cloudpickle.dumps((signals, shard, part, rows))))
        results = [task.result() for task in tasks]
    frames = []
    for signal, parts in zip(signals, zip(*results, strict=True), strict=True):
        fires = Fires.joined(list(parts))
        fires = fires.take(fires.tape_order())
        frames.append(signal.framed(frame, fires, fires.row, signal.fire_filter()))
    return frames


def _scan_columns(
    signals: Sequence[CompiledSignal], shard: Shard, columns: PrintArrays, threads: int = THREADS
) -> list[Fires]:
    group = PassGroup(signals, shard, shard.high, threads)
    try:
        return group.push(columns, 0)
    finally:
        group.close()


def _frame_task(payload: bytes) -> list[Fires]:
    signals, shard, columns, rows = cloudpickle.loads(payload)
    return [f._replace(row=rows[f.row]) for f in _scan_columns(signals, shard, columns, threads=1)]
