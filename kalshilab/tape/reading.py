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
    reader: ThreadPoolExecutor

    def times(self, at: Any) -> Future[Any]:
        """The exchange times, in microseconds, of the rows at these rising positions of the batch; for when
        only few rows' times are wanted.  The reading thread reads them when it has time."""
        return self.reader.submit(_times, self.pieces, at)


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
        columns: names of tape columns.  Names added to the list meanwhile are read from some later batch on.
        rows: of a batch, at most.

    Raises:
        LakeError: a file is missing, damaged, or not the one that was written; before any of its rows is given
            where its size or footer shows it, and after its last row where only the control totals do.
    """
    audit = _Audit(source.path, columns)
    thread = ThreadPoolExecutor(1, thread_name_prefix="kalshilab-read")
    done = False
    try:
        ahead: deque[Future[Batch]] = deque()
        for pieces in plan(source.files if files is None else files, rows):
            ahead.append(thread.submit(_read, source, pieces, tuple(columns), audit, thread))
            if len(ahead) > AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
        done = True
    finally:
        # What was read ahead for nobody is not read; times that were asked for are.
        thread.shutdown(wait=True, cancel_futures=not done)


def _read(
    source: Source, pieces: list[Piece], columns: tuple[str, ...], audit: _Audit, thread: ThreadPoolExecutor
) -> Batch:
    parts = []
    for piece in pieces:
        if piece.offset == 0:
            source.check_file(piece.file)
        try:
            part = _slice(piece.file, columns, piece.offset, piece.rows)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise LakeError(source.path, piece.file.path, f"cannot be read ({_short(error)})") from None
        audit.add(piece, part)
        parts.append(part)
    first = pieces[0]
    return Batch(
        first.file.first_row + first.offset,
        parts[0] if len(parts) == 1 else pl.concat(parts),
        pieces,
        thread,
    )


def _slice(file: Any, columns: Sequence[str], offset: int, rows: int) -> pl.DataFrame:
    return pl.scan_parquet(file.path, hive_partitioning=False).select(columns).slice(offset, rows).collect()


def _times(pieces: list[Piece], at: Any) -> Any:
    found = []
    begin = 0
    for piece in pieces:
        own = at[(at >= begin) & (at < begin + piece.rows)] - begin
        if len(own):
            low = int(own[0]) // ROW_GROUP * ROW_GROUP
            times = (
                pl.scan_parquet(piece.file.path, hive_partitioning=False)
                .select("ts")
                .slice(piece.offset + low, int(own[-1]) + 1 - low)
                .collect()
            )
            found.append(times["ts"].gather(own - low).dt.epoch("us").to_numpy())
        begin += piece.rows
    return np.concatenate(found)


class _Audit:
    """Sums of what was read of the current file, compared at its end."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = [c for c in AUDITED if c in columns]
        self._sums: dict[str, int] = {}
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
