"""Reading a source of trades piece by piece, ahead of who uses it.

A source is a lake or a single tape file: Parquet files in the order of time, read in batches of a
million rows so that memory does not depend on length.  A thread reads the next batches while the last one is
worked on; decoding Parquet holds no interpreter lock, so on two processors reading costs next to nothing.

What is read is compared with the control totals that were taken when the file was written: a file that
decodes without complaint into something else is found out.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import polars as pl

from kalshilab.clock import to_datetime
from kalshilab.errors import LakeError
from kalshilab.tape.lake.manifest import DayFile
from kalshilab.tape.lake.row_groups import ROW_GROUP, Piece, plan, read_pieces
from kalshilab.tape.lake.timestamps import TimesAt, TimesAudit
from kalshilab.tape.tape import FrameTape, TapeBatch

__all__ = ["BATCH", "Batch", "StoredTape", "batches", "check_unaudited"]

T = TypeVar("T")

BATCH: Final = 4 * ROW_GROUP
"""Rows of a batch, about."""
AUDITED: Final = ("market", "price", "size", "taker")
AHEAD: Final = 2
"""Batches read ahead."""


class StoredTape(ABC):
    """Base of the tapes that are read from disk: `Lake` and `TapeFile`."""

    in_memory = False

    @property
    @abstractmethod
    def path(self) -> Path:
        """The folder or the file, absolute."""

    @property
    @abstractmethod
    def files(self) -> Sequence[DayFile]:
        """The files in the order of time."""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number of prints."""

    @property
    @abstractmethod
    def listing(self) -> pl.DataFrame:
        """One row per market, by code, with at least `ticker`, `prints`, `first_ts` and `last_ts`."""

    @abstractmethod
    def check_origin(self, file: DayFile) -> None:
        """Check size and origin of a file; its rows, types and totals are compared while it is read.

        Raises:
            LakeError: the file is not the one that was written.
        """

    @abstractmethod
    def lazy(self) -> pl.LazyFrame:
        """Return the prints as a lazy frame, in order, after a quick check of the files.

        Raises:
            LakeError: a file is missing, or is not the one that was written.
        """

    @property
    def tickers(self) -> pl.Series:
        """Tickers by market code; null for a code without prints."""
        return self.listing["ticker"]

    @property
    def markets(self) -> pl.DataFrame | None:
        """The markets table stored beside the prints, or None if there is none."""
        return None

    def batches(self, columns: Sequence[str]) -> Iterator[TapeBatch]:
        """Iterate over the prints in order, read ahead by a thread, with the columns given.

        Raises:
            LakeError: as for the function `batches`.
        """
        for batch in batches(self, columns):
            yield TapeBatch(batch.first_row, batch.frame)

    def excerpt(self, rows: int) -> FrameTape:
        """Return the first `rows` prints in memory."""
        return FrameTape(self.lazy().head(rows).collect())

    def prefix(self, until: datetime) -> FrameTape:
        """Return the prints up to `until`, inclusive, in memory."""
        return FrameTape(self.lazy().filter(pl.col("ts") <= until).collect())

    def with_future(self, end: int, future: pl.DataFrame) -> FrameTape:
        """Return the first `end` prints followed by `future`, in memory."""
        return self.excerpt(end).with_future(end, future)

    def first_prints(self) -> pl.DataFrame:
        """Return the time of each market's first print: `ticker, ts`."""
        return self.listing.select(pl.col("ticker").cast(pl.String), ts="first_ts")

    def ends(self) -> tuple[datetime, datetime] | None:
        """Return the times of the first and the last print, or None for an empty tape."""
        if not self.files:
            return None
        return to_datetime(self.files[0].first_ts), to_datetime(self.files[-1].last_ts)

    def unverified(self) -> Sequence[tuple[int, int, str]] | None:
        """Return the stretches that may lack prints: `(since, until, reason)` in microseconds; None if unknown."""
        return None

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Feed a hash with the hashes of the files; with the name and rows of a file that has none."""
        for file in self.files:
            digest.update(str(file.sha256 or (file.path.name, file.rows)).encode())


class Batch(NamedTuple):
    """Consecutive rows of a source, from `first_row` on, and the pieces they come from."""

    first_row: int
    frame: pl.DataFrame
    pieces: list[Piece]
    later: Callable[[list[Piece], Any], Future[Any]]

    def times(self, at: Any) -> Future[Any]:
        """The exchange times, in microseconds, of the rows at these rising positions of the batch; for when
        only few rows' times are wanted.  The reading thread reads them when it has read ahead; they are there
        when the batches have come to their end.
        """
        return self.later(self.pieces, at)


def batches(
    source: StoredTape,
    columns: Sequence[str],
    *,
    files: Sequence[DayFile] | None = None,
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


def check_unaudited(source: StoredTape, files: Sequence[DayFile]) -> None:
    """Called once all of the files was read: no totals would find that one without them was changed meanwhile.

    Raises:
        LakeError: one was.
    """
    for file in files:
        if file.totals is None:
            source.check_origin(file)


def _read(source: StoredTape, pieces: list[Piece], columns: tuple[str, ...]) -> pl.DataFrame:
    for piece in pieces:
        if piece.offset == 0:
            source.check_origin(piece.file)
    return _named(source, pieces, lambda: read_pieces(source.path, pieces, columns))


def _named(source: StoredTape, pieces: Sequence[Piece], read: Callable[[], T]) -> T:
    """What `read` returns.  Where it fails because a file went away under it, it says why the file did: a lake that is
    changed meanwhile is not damaged.
    """
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
