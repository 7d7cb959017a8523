"""Tapes on disk, read in batches and ahead of their reader.

A stored tape is a lake or a single Parquet file. It is read in the order of time, about a million rows at a time, so that
memory does not depend on its length. A thread reads the next batches while the last one is processed; decoding Parquet
releases the interpreter lock, so on two processors reading costs next to nothing.

What is read is compared with the control totals taken when the file was written: a file that decodes without an error
into other values is detected.
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
from typing import Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.clock import to_datetime
from kalshilab.errors import LakeError
from kalshilab.tape.lake.row_groups import ROW_GROUP, DayFile, FileSlice, plan, read_slices
from kalshilab.tape.lake.timestamps import TimestampAudit, TimestampReader
from kalshilab.tape.tape import FrameTape, TapeBatch

__all__ = ["BATCH", "Batch", "StoredTape", "batches", "check_unaudited"]

T = TypeVar("T")
Positions = npt.NDArray[np.int64]
Times = npt.NDArray[np.int64]

BATCH: Final = 4 * ROW_GROUP
"""Approximate number of rows in a batch."""
AUDITED: Final = ("market", "price", "size", "taker")
AHEAD: Final = 2
"""Number of batches read ahead."""


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
        """The markets table stored beside the prints, or None without one."""
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
        """Feed a hash with the hashes of the files; or with the name and rows of a file without a hash."""
        for file in self.files:
            digest.update(str(file.sha256 or (file.path.name, file.rows)).encode())


class Batch(NamedTuple):
    """Consecutive rows of a stored tape, from `first_row` on, and the slices of files they come from."""

    first_row: int
    frame: pl.DataFrame
    slices: list[FileSlice]
    read_times: Callable[[list[FileSlice], Positions], Future[Times]]

    def times(self, at: Positions) -> Future[Times]:
        """Request the exchange times of a few rows, which is cheaper than reading the column.

        The reading thread reads them after the batches it has already started; they are complete when the iteration
        ends.

        Args:
            at: increasing positions within the batch.

        Returns:
            Times in microseconds.
        """
        return self.read_times(self.slices, at)


def batches(
    source: StoredTape,
    columns: Sequence[str],
    *,
    files: Sequence[DayFile] | None = None,
    rows: int = BATCH,
) -> Iterator[Batch]:
    """Read the rows of a stored tape in order; a thread reads ahead.

    Args:
        source: a lake or a tape file.
        columns: names of tape columns.
        files: some of its files, in order; None: all.
        rows: maximum number of rows in a batch.

    Raises:
        LakeError: a file is missing, damaged, or not the one that was written. If its size or footer shows that, none
            of its rows has been returned; if only its control totals do, all of them have. A file without totals has
            changed while it was read.
    """
    files = source.files if files is None else files
    audit = _Audit(source.path, columns)
    thread = ThreadPoolExecutor(1, thread_name_prefix="kalshilab-read")
    reader = TimestampReader(source.path)

    def read_times(slices: list[FileSlice], at: Positions) -> Future[Times]:
        return thread.submit(_explained, source, slices, lambda: reader.of(slices, at))

    done = False
    try:
        ahead: deque[tuple[list[FileSlice], Future[pl.DataFrame]]] = deque()
        planned = plan(files, rows)
        while True:
            for slices in islice(planned, AHEAD + 1 - len(ahead)):
                ahead.append((slices, thread.submit(_read, source, slices, tuple(columns))))
            if not ahead:
                break
            slices, reading = ahead.popleft()
            frame = reading.result()
            # Audited in this thread, which has more time to spare than the reading thread.
            audit.add(slices, frame)
            first = slices[0].file.first_row + slices[0].offset
            yield Batch(first, frame, slices, read_times)
        done = True
    finally:
        # After an early exit the batches read ahead are cancelled; after a complete one, requested times are still read.
        thread.shutdown(wait=True, cancel_futures=not done)
    check_unaudited(source, files)


def check_unaudited(source: StoredTape, files: Sequence[DayFile]) -> None:
    """Check, after reading, that files without control totals did not change while they were read.

    Raises:
        LakeError: a file changed.
    """
    for file in files:
        if file.totals is None:
            source.check_origin(file)


def _read(source: StoredTape, slices: list[FileSlice], columns: tuple[str, ...]) -> pl.DataFrame:
    for part in slices:
        if part.offset == 0:
            source.check_origin(part.file)
    return _explained(source, slices, lambda: read_slices(source.path, slices, columns))


def _explained(source: StoredTape, slices: Sequence[FileSlice], read: Callable[[], T]) -> T:
    """Call `read`; if it fails because a file was replaced, raise the error that explains why.

    A lake that another process has just changed is not damaged.
    """
    try:
        return read()
    except LakeError:
        for part in slices:
            source.check_origin(part.file)
        raise


class _Audit:
    """Control totals of the rows read, compared at the end of each file; those of times, at the end of a row group."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path = path
        self._columns = [c for c in AUDITED if c in columns]
        self._sums: dict[str, int] = {}
        self._times: TimestampAudit | None = None
        self._with_times = "ts" in columns
        # Imported late: numba takes a third of a second, and a lake can be opened without it.
        from kalshilab.tape.lake.checksums import total_of

        self._total_of = total_of

    def add(self, slices: Sequence[FileSlice], frame: pl.DataFrame) -> None:
        """Add the rows of some slices.

        Raises:
            LakeError: a file has nulls, or values other than those written.
        """
        at = 0
        for part in slices:
            self._add(part, frame.slice(at, part.rows) if len(slices) > 1 else frame)
            at += part.rows

    def _add(self, where: FileSlice, rows: pl.DataFrame) -> None:
        file = where.file
        if where.offset == 0:
            self._sums = dict.fromkeys(self._columns, 0)
            self._times = TimestampAudit(self._path, file, 0) if self._with_times else None
        if self._times is not None:
            self._times.add(rows["ts"])
        for name in self._columns:
            column = rows[name]
            if column.null_count():
                raise LakeError(self._path, file.path, f"has nulls in {name}")
            for chunk in column.get_chunks():
                values = chunk.to_physical() if name == "taker" else chunk
                self._sums[name] += self._total_of(name, values.to_numpy())
        if where.offset + where.rows == file.rows and file.totals is not None:
            for name in self._columns:
                written = getattr(file.totals, "yes" if name == "taker" else name)
                if self._sums[name] != written:
                    raise LakeError(
                        self._path,
                        file.path,
                        f"column {name} adds up to {self._sums[name]:,}, but {written:,} was written",
                    )
