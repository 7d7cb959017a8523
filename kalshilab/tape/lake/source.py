"""Reading a source of trades piece by piece, ahead of who uses it.

A source is a lake or a single tape file: Parquet files in the order of time, read in batches of a
million rows so that memory does not depend on length.  A thread reads the next batches while the last one is
worked on; decoding Parquet holds no interpreter lock, so on two processors reading costs next to nothing.

What is read is compared with the control totals that were taken when the file was written: a file that
decodes without complaint into something else is found out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar, runtime_checkable

import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.lake.row_groups import ROW_GROUP, Piece, plan, read_pieces
from kalshilab.tape.lake.timestamps import TimesAt, TimesAudit

__all__ = ["BATCH", "Batch", "Source", "batches", "check_unaudited"]

T = TypeVar("T")

BATCH: Final = 4 * ROW_GROUP
"""Rows of a batch, about."""
AUDITED: Final = ("market", "price", "size", "taker")
AHEAD: Final = 2
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

    def check_origin(self, file: Any) -> None:
        """Raise `LakeError` if the file is not the one that was written, as far as that is seen at a glance: rows,
        types and totals of what is read are compared by who reads."""
        ...


class Batch(NamedTuple):
    """Consecutive rows of a source, from `first_row` on, and the pieces they come from."""

    first_row: int
    frame: pl.DataFrame
    pieces: list[Piece]
    later: Callable[[list[Piece], Any], Future[Any]]

    def times(self, at: Any) -> Future[Any]:
        """The exchange times, in microseconds, of the rows at these rising positions of the batch; for when
        only few rows' times are wanted.  The reading thread reads them when it has read ahead; they are there
        when the batches have come to their end."""
        return self.later(self.pieces, at)


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
            where its size or footer shows it, and after its last row where only the control totals do; or it has no
            totals and was changed meanwhile.
    """
    files = source.files if files is None else files
    audit = _Audit(source.path, columns)
    thread = ThreadPoolExecutor(1, thread_name_prefix="kalshilab-read")
    times = TimesAt(source.path)

    def later(pieces: list[Piece], at: Any) -> Future[Any]:
        return thread.submit(_named, source, pieces, lambda: times.of(pieces, at))

    done = False
    try:
        ahead: deque[tuple[list[Piece], Future[pl.DataFrame]]] = deque()
        lots = plan(files, rows)
        while True:
            for pieces in islice(lots, AHEAD + 1 - len(ahead)):
                ahead.append((pieces, thread.submit(_read, source, pieces, tuple(columns))))
            if not ahead:
                break
            pieces, reading = ahead.popleft()
            frame = reading.result()
            # By this thread, which has more time than the one that reads.
            audit.add(pieces, frame)
            first = pieces[0].file.first_row + pieces[0].offset
            yield Batch(first, frame, pieces, later)
        done = True
    finally:
        # What was read ahead for nobody is not read; times that were asked for are.
        thread.shutdown(wait=True, cancel_futures=not done)
    check_unaudited(source, files)


def check_unaudited(source: Source, files: Sequence[Any]) -> None:
    """Called once all of the files was read: no totals would find that one without them was changed meanwhile.

    Raises:
        LakeError: one was.
    """
    for file in files:
        if file.totals is None:
            source.check_origin(file)


def _read(source: Source, pieces: list[Piece], columns: tuple[str, ...]) -> pl.DataFrame:
    for piece in pieces:
        if piece.offset == 0:
            source.check_origin(piece.file)
    return _named(source, pieces, lambda: read_pieces(source.path, pieces, columns))


def _named(source: Source, pieces: Sequence[Piece], read: Callable[[], T]) -> T:
    """What `read` returns.  Where it fails because a file went away under it, it says why the file did: a lake that is
    changed meanwhile is not damaged."""
    try:
        return read()
    except LakeError:
        for piece in pieces:
            source.check_origin(piece.file)
        raise


class _Audit:
    """Sums of what was read of the current file, compared at its end; of times, at the end of a row group."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = [c for c in AUDITED if c in columns]
        self._sums: dict[str, int] = {}
        self._times: TimesAudit | None = None
        self._with_times = "ts" in columns
        # Late: numba takes a third of a second, and a lake can be opened without it.
        from kalshilab.tape.lake.checksums import total_of

        self._total_of = total_of

    def add(self, pieces: Sequence[Piece], frame: pl.DataFrame) -> None:
        """Take the rows of some pieces.

        Raises:
            LakeError: a file has nulls, or other values than were written.
        """
        at = 0
        for piece in pieces:
            self._add(piece, frame.slice(at, piece.rows) if len(pieces) > 1 else frame)
            at += piece.rows

    def _add(self, piece: Piece, part: pl.DataFrame) -> None:
        file = piece.file
        if piece.offset == 0:
            self._sums = dict.fromkeys(self._columns, 0)
            self._times = TimesAudit(self._path, file, 0) if self._with_times else None
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
