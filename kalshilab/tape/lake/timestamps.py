"""Timestamps of single prints, read from a lake's files and verified.

A signal that fires needs the timestamps of the prints at which it fired, a few in each row group.  A lake writes
timestamps plain, eight bytes each, and its manifest holds the byte offset of each row group's timestamps.  Reading them
there takes half as long as decoding the column.

Only checksums make that safe.  Without them (files of other programs, older lakes) the column is
decoded.  With them, timestamps that do not match are never used, wherever they were read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.lake.parquet import short
from kalshilab.tape.lake.row_groups import ROW_GROUP, DayFile, FileSlice, read_slice

__all__ = ["TIME_BYTES", "TimestampAudit", "TimestampReader", "timestamps_lie_at"]

Integers = npt.NDArray[np.integer[Any]]
Microseconds = npt.NDArray[np.int64]

STORED: Final = np.dtype("<i8")
TIME_BYTES: Final = STORED.itemsize
"""Bytes of a timestamp in a file."""


class TimestampAudit:
    """Compare the timestamps of a file with its checksums, row group by row group.

    Args:
        lake: the folder, for errors.
        file: the file.
        row: the row at which reading begins; it must begin a row group.
    """

    def __init__(self, lake: Path, file: DayFile, row: int) -> None:
        self._lake, self._file, self._row, self._sum = lake, file, row, 0
        self._written: tuple[int, ...] = () if file.totals is None else file.totals.ts

    @property
    def has_checksums(self) -> bool:
        """Whether the file has checksums of its timestamps."""
        return bool(self._written)

    def add(self, times: pl.Series) -> None:
        """Add the timestamps of the next rows.

        Raises:
            LakeError: a lake's file has nulls, or a row group's sum differs from its checksum.
        """
        # A lake's files never have nulls; `TapeFile` checks other files when it reads their markets.
        if self._file.totals is not None and times.null_count():
            raise LakeError(self._lake, self._file.path, "has nulls in ts")
        if not self._written:
            return
        # Chunk by chunk: concatenating them would copy.
        for chunk in times.get_chunks():
            self.add_values(chunk.to_physical().to_numpy())

    def add_values(self, values: Microseconds) -> None:
        """Add the timestamps of the next rows, given in microseconds.

        Raises:
            LakeError: a row group's sum differs from its checksum.
        """
        at = 0
        while at < len(values) and self._written:
            group = self._row // ROW_GROUP
            end = min((group + 1) * ROW_GROUP, self._file.rows)
            part = values[at : at + end - self._row]
            # Modulo 2^64, as the checksum was computed.
            self._sum = (self._sum + int(part.sum(dtype=np.int64)) + 2**63) % 2**64 - 2**63
            at, self._row = at + len(part), self._row + len(part)
            if self._row == end:
                if self._sum != self._written[group]:
                    raise LakeError(
                        self._lake, self._file.path, "has other times than were written (column ts)"
                    )
                self._sum = 0


class TimestampReader:
    """Read the timestamps of single rows.  Use it in one thread: it reuses one buffer."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._buffer = np.empty(0, STORED)

    def of(self, parts: Sequence[FileSlice], at: Integers) -> Microseconds:
        """Return the exchange times, in microseconds, of some rows of concatenated slices.

        Args:
            parts: the slices.
            at: positions of the rows in the concatenation, ascending.

        Raises:
            LakeError: a file is missing or damaged, or its timestamps do not match their checksums.
        """
        found = [np.zeros(0, np.int64)]
        begin = 0
        for part in parts:
            low, high = np.searchsorted(at, (begin, begin + part.rows))
            if low < high:
                found += self._of_file(part.file, at[low:high] - begin + part.offset)
            begin += part.rows
        return np.concatenate(found)

    def _of_file(self, file: DayFile, rows: Integers) -> Iterator[Microseconds]:
        # Read whole row groups: each has one checksum.
        groups = np.unique(rows // ROW_GROUP).tolist()
        if len(file.times_at) <= groups[-1] or not TimestampAudit(self._lake, file, 0).has_checksums:
            yield self._decoded(file, groups[0] * ROW_GROUP, (groups[-1] + 1) * ROW_GROUP, rows)
            return
        for group in groups:
            first = group * ROW_GROUP
            own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + ROW_GROUP)]
            part = FileSlice(file, first, min(ROW_GROUP, file.rows - first))
            values = self._values(part, file.times_at[group])
            TimestampAudit(self._lake, file, first).add_values(values)
            yield values[own - first]

    def _decoded(self, file: DayFile, first: int, end: int, rows: Integers) -> Microseconds:
        # In one call: small portions take half as long again, and other programs' row groups may be larger.
        part = FileSlice(file, first, min(end, file.rows) - first)
        times = read_slice(self._lake, part, ["ts"])["ts"]
        TimestampAudit(self._lake, file, first).add(times)
        values: Microseconds = times.to_physical().to_numpy()
        return values[rows - first]

    def _values(self, part: FileSlice, begin: int) -> Microseconds:
        if len(self._buffer) < part.rows:
            self._buffer = np.empty(ROW_GROUP, STORED)
        values = self._buffer[: part.rows]
        try:
            # Buffered, because a buffered file repeats short reads.
            with part.file.path.open("rb") as file:
                file.seek(begin)
                got = file.readinto(values.view(np.uint8).data)
        except OSError as error:
            raise LakeError(self._lake, part.file.path, f"cannot be read ({short(error)})") from None
        if got != values.nbytes:
            raise LakeError(self._lake, part.file.path, "ends before its times do")
        return values


def timestamps_lie_at(path: Path, offsets: Sequence[int], times: Microseconds) -> bool:
    """Return whether a file has these timestamps where `TimestampReader` would read them.

    Args:
        path: the file.
        offsets: the byte offset of each row group's timestamps.
        times: all timestamps of the file, microseconds.
    """
    for group, begin in enumerate(offsets):
        own = times[group * ROW_GROUP : (group + 1) * ROW_GROUP]
        if begin < 0 or not np.array_equal(np.fromfile(path, STORED, len(own), offset=begin), own):
            return False
    return len(offsets) == -(-len(times) // ROW_GROUP)
