"""Reading a source of trades piece by piece, ahead of who uses it.

A source is a lake or a single tape file: Parquet files in the order of time, read in batches of half a
million rows so that memory does not depend on length.  A thread reads the next batches while the last one is
worked on; decoding Parquet holds no interpreter lock, so on two processors reading costs next to nothing.

What is read is compared with the control totals that were taken when the file was written: a file that
decodes without complaint into something else is found out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import numpy as np
import polars as pl

from kalshilab.errors import LakeError

__all__ = ["BATCH", "ROW_GROUP", "Batch", "Piece", "Source", "batches"]

ROW_GROUP: Final = 1 << 18
"""Rows of a row group of a lake's files."""
BATCH: Final = 2 * ROW_GROUP
"""Rows of a batch, about."""
AUDITED: Final = ("market", "price", "size", "taker")
AHEAD: Final = 3
"""Batches read ahead."""
SPAN: Final = 8 * ROW_GROUP
"""Rows whose times are read together."""


@runtime_checkable
class Source(Protocol):
    """What is read: a `Lake`, or a single file behind the same face."""

    @property
    def path(self) -> Path: ...
    @property
    def files(self) -> Sequence[Any]:
        """`DayFile`s in the order of time."""
        ...

    @property
    def rows(self) -> int: ...
    @property
    def tickers(self) -> pl.Series:
        """Tickers by market code."""
        ...

    @property
    def listing(self) -> pl.DataFrame:
        """A row a market, by code, with at least `prints`, `first_ts` and `last_ts`."""
        ...

    def check_file(self, file: Any) -> None:
        """Raise `LakeError` if the file is not what was written."""
        ...


class Piece(NamedTuple):
    """Part of a file: `rows` rows from `offset`."""

    file: Any
    offset: int
    rows: int


class Batch(NamedTuple):
    """Consecutive rows of a source, from `first_row` on, and the pieces they come from."""

    first_row: int
    frame: pl.DataFrame
    pieces: list[Piece]
    late: _LateTimes

    def times(self, at: Any) -> Future[Any]:
        """The exchange times, in microseconds, of the rows at these rising positions of the batch; for when
        only few rows' times are wanted.  The reading thread reads them later, those of several batches at
        once; they are there when the batches have come to their end."""
        return self.late.of(self.pieces, at)


class _LateTimes:
    """Times that are asked for batch by batch, and read for some batches together: the `ts` column takes as long
    to decode as all that a signal usually reads, and half as long again in small portions."""

    def __init__(self, lake: Path, thread: ThreadPoolExecutor) -> None:
        self._lake, self._thread = lake, thread
        self._waiting: list[tuple[Future[Any], list[Piece], Any]] = []
        self._rows = 0

    def of(self, pieces: list[Piece], at: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._waiting.append((future, pieces, at))
        self._rows += sum(piece.rows for piece in pieces)
        if self._rows >= SPAN:
            self.flush()
        return future

    def flush(self) -> None:
        """Have what waits read."""
        if self._waiting:
            self._thread.submit(_answer, self._lake, self._waiting)
        self._waiting, self._rows = [], 0


def plan(files: Iterable[Any], rows: int) -> Iterator[list[Piece]]:
    """The pieces of each batch: long files are cut, short ones put together.

    A file is cut at multiples of `rows` only, which are borders of its row groups: none is decoded twice.
    """
    waiting: list[Piece] = []
    have = 0
    for file in files:
        for offset in range(0, file.rows, rows):
            piece = Piece(file, offset, min(rows, file.rows - offset))
            if have + piece.rows > rows:
                yield waiting
                waiting, have = [], 0
            waiting.append(piece)
            have += piece.rows
    if waiting:
        yield waiting


def batches(
    source: Source,
    columns: Sequence[str],
    *,
    files: Sequence[Any] | None = None,
    rows: int = BATCH,
) -> Iterator[Batch]:
    """The rows of a source (or of some of its files) in order, read ahead by a thread.

    Args:
        columns: names of tape columns.
        rows: of a batch, at most.

    Raises:
        LakeError: a file is missing, damaged, or not the one that was written; before any of its rows is given
            where its size or footer shows it, and after its last row where only the control totals do.
    """
    audit = _Audit(source.path, columns)
    thread = ThreadPoolExecutor(1, thread_name_prefix="kalshilab-read")
    late = _LateTimes(source.path, thread)
    done = False
    try:
        ahead: deque[tuple[list[Piece], Future[list[pl.DataFrame]]]] = deque()
        lots = plan(source.files if files is None else files, rows)
        while True:
            for pieces in islice(lots, AHEAD + 1 - len(ahead)):
                ahead.append((pieces, thread.submit(_read, source, pieces, tuple(columns))))
            if not ahead:
                break
            pieces, reading = ahead.popleft()
            parts = reading.result()
            # By this thread, which has more time than the one that reads.
            for piece, part in zip(pieces, parts, strict=True):
                audit.add(piece, part)
            first = pieces[0].file.first_row + pieces[0].offset
            yield Batch(first, parts[0] if len(parts) == 1 else pl.concat(parts), pieces, late)
        late.flush()
        done = True
    finally:
        # What was read ahead for nobody is not read; times that were asked for are.
        thread.shutdown(wait=True, cancel_futures=not done)


def _read(source: Source, pieces: list[Piece], columns: tuple[str, ...]) -> list[pl.DataFrame]:
    parts = []
    for piece in pieces:
        if piece.offset == 0:
            source.check_file(piece.file)
        parts.append(_slice(source.path, piece.file, columns, piece.offset, piece.rows))
    return parts


def _slice(lake: Path, file: Any, columns: Sequence[str], offset: int, rows: int) -> pl.DataFrame:
    try:
        return (
            pl.scan_parquet(file.path, hive_partitioning=False).select(columns).slice(offset, rows).collect()
        )
    except (OSError, pl.exceptions.PolarsError) as error:
        raise LakeError(lake, file.path, f"cannot be read ({_short(error)})") from None


def _answer(lake: Path, waiting: list[tuple[Future[Any], list[Piece], Any]]) -> None:
    """Read the times of rows of several batches, file by file, and give them to who asked."""
    try:
        # Positions in files: (request, file, rows in it), in the order of the tape.
        wanted: list[tuple[int, Any, Any]] = []
        for request, (_, pieces, at) in enumerate(waiting):
            begin = 0
            for piece in pieces:
                own = at[np.searchsorted(at, begin) : np.searchsorted(at, begin + piece.rows)]
                if len(own):
                    wanted.append((request, piece.file, own - begin + piece.offset))
                begin += piece.rows
        found: list[list[Any]] = [[] for _ in waiting]
        for file, group in groupby(wanted, key=lambda w: w[1]):
            parts = list(group)
            # Whole row groups: their times have control totals, and what is decoded is compared.
            low = int(parts[0][2][0]) // ROW_GROUP * ROW_GROUP
            high = min(-(-(int(parts[-1][2][-1]) + 1) // ROW_GROUP) * ROW_GROUP, file.rows)
            times = _slice(lake, file, ("ts",), low, high - low)["ts"]
            check = _Times(lake, file, low)
            check.add(times)
            for request, _, rows in parts:
                found[request].append(times.gather(rows - low).dt.epoch("us").to_numpy())
        for (future, _, _), some in zip(waiting, found, strict=True):
            future.set_result(np.concatenate(some))
    except BaseException as error:
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(error)
        raise


class _Times:
    """Sums of a file's times from a row on, which begins a row group; each is compared when its group is whole."""

    def __init__(self, path: Path, file: Any, row: int) -> None:
        self._path, self._file, self._row, self._sum = path, file, row, 0
        self._written: tuple[int, ...] = () if file.totals is None else file.totals.ts

    def add(self, times: pl.Series) -> None:
        """Take the next rows' times."""
        if not self._written:
            return
        if times.null_count():
            raise LakeError(self._path, self._file.path, "has nulls in ts")
        # Chunk by chunk, as they lie in memory: put together they would be copied.
        for chunk in times.get_chunks():
            self._add(chunk.to_physical().to_numpy())

    def _add(self, values: Any) -> None:
        at = 0
        while at < len(values):
            group = self._row // ROW_GROUP
            end = min((group + 1) * ROW_GROUP, self._file.rows)
            part = values[at : at + end - self._row]
            # Modulo 2^64, as it was written.
            self._sum = (self._sum + int(part.sum(dtype=np.int64)) + 2**63) % 2**64 - 2**63
            at, self._row = at + len(part), self._row + len(part)
            if self._row == end:
                if self._sum != self._written[group]:
                    raise LakeError(
                        self._path, self._file.path, "has other times than were written (column ts)"
                    )
                self._sum = 0


class _Audit:
    """Sums of what was read of the current file, compared at its end; of times, at the end of a row group."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = [c for c in AUDITED if c in columns]
        self._sums: dict[str, int] = {}
        self._times: _Times | None = None
        self._with_times = "ts" in columns
        # Late: numba takes a third of a second, and a lake can be opened without it.
        from kalshilab.tape.totals import total_of

        self._total_of = total_of

    def add(self, piece: Piece, part: pl.DataFrame) -> None:
        file = piece.file
        if part.height != piece.rows:
            raise LakeError(
                self._path,
                file.path,
                f"gave {part.height:,} rows where {piece.rows:,} of its {file.rows:,} were due",
            )
        if piece.offset == 0:
            self._sums = dict.fromkeys(self._columns, 0)
            self._times = _Times(self._path, file, 0) if self._with_times else None
        if self._times is not None:
            self._times.add(part["ts"])
        for name in self._columns:
            column = part[name]
            if column.null_count():
                raise LakeError(self._path, file.path, f"has nulls in {name}")
            for chunk in column.get_chunks():
                values = chunk.to_physical() if name == "taker" else chunk
                self._sums[name] += self._total_of(name, values.to_numpy())
        if piece.offset + piece.rows == file.rows and file.totals is not None:
            for name in self._columns:
                written = getattr(file.totals, "yes" if name == "taker" else name)
                if self._sums[name] != written:
                    raise LakeError(
                        self._path,
                        file.path,
                        f"column {name} adds up to {self._sums[name]:,}, {written:,} was written",
                    )


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
