"""Times of prints in a lake's files, compared with what was written.

A signal that fires needs the times of the prints at which it fired, a few of each row group.  A lake writes times as
they are, eight bytes each, and its manifest says where in the file those of a row group begin: they are read from
there, which takes half as long as decoding the column.  Only control totals make that safe: without them (files of
others, lakes of before) the column is decoded, and with them what they do not vouch for is never used, wherever it
was read from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.lake.fs import short
from kalshilab.tape.lake.row_groups import ROW_GROUP, Piece, read_piece

__all__ = ["TIME_BYTES", "TimesAt", "TimesAudit", "lie_at"]

STORED: Final = np.dtype("<i8")
TIME_BYTES: Final = STORED.itemsize
"""Bytes of a time in a file."""


class TimesAudit:
    """Sums of a file's times from a row on, which begins a row group; each is compared when its group is whole."""

    def __init__(self, lake: Path, file: Any, row: int) -> None:
        self._lake, self._file, self._row, self._sum = lake, file, row, 0
        self._written: tuple[int, ...] = () if file.totals is None else file.totals.ts

    @property
    def knows(self) -> bool:
        """Whether there is something to compare with."""
        return bool(self._written)

    def add(self, times: pl.Series) -> None:
        """Take the next rows' times.

        Raises:
            LakeError: a lake's file has nulls, or a row group does not add up to what was written.
        """
        # A lake's own files never have any; those of others are looked at with their markets.
        if self._file.totals is not None and times.null_count():
            raise LakeError(self._lake, self._file.path, "has nulls in ts")
        if not self._written:
            return
        # Chunk by chunk, as they lie in memory: put together they would be copied.
        for chunk in times.get_chunks():
            self.add_values(chunk.to_physical().to_numpy())

    def add_values(self, values: Any) -> None:
        """As `add`, with microseconds as an array (Int64)."""
        at = 0
        while at < len(values) and self._written:
            group = self._row // ROW_GROUP
            end = min((group + 1) * ROW_GROUP, self._file.rows)
            part = values[at : at + end - self._row]
            # Modulo 2^64, as it was written.
            self._sum = (self._sum + int(part.sum(dtype=np.int64)) + 2**63) % 2**64 - 2**63
            at, self._row = at + len(part), self._row + len(part)
            if self._row == end:
                if self._sum != self._written[group]:
                    raise LakeError(
                        self._lake, self._file.path, "has other times than were written (column ts)"
                    )
                self._sum = 0


class TimesAt:
    """Reads the times of single rows; for one thread, which it serves with one piece of memory."""

    def __init__(self, lake: Path) -> None:
        self._lake = lake
        self._room = np.empty(0, STORED)

    def of(self, pieces: Sequence[Piece], at: Any) -> Any:
        """The exchange times, in microseconds (Int64), of the rows at these rising positions in the pieces one
        behind the other.

        Raises:
            LakeError: a file is missing or damaged, or its times are not those that were written.
        """
        found = [np.zeros(0, np.int64)]
        begin = 0
        for piece in pieces:
            low, high = np.searchsorted(at, (begin, begin + piece.rows))
            if low < high:
                found += self._of_file(piece.file, at[low:high] - begin + piece.offset)
            begin += piece.rows
        return np.concatenate(found)

    def _of_file(self, file: Any, rows: Any) -> Iterator[Any]:
        # Whole row groups, because these have control totals.
        groups = np.unique(rows // ROW_GROUP).tolist()
        if len(file.times_at) <= groups[-1] or not TimesAudit(self._lake, file, 0).knows:
            yield self._decoded(file, groups[0] * ROW_GROUP, (groups[-1] + 1) * ROW_GROUP, rows)
            return
        for group in groups:
            first = group * ROW_GROUP
            own = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + ROW_GROUP)]
            piece = Piece(file, first, min(ROW_GROUP, file.rows - first))
            values = self._values(piece, file.times_at[group])
            TimesAudit(self._lake, file, first).add_values(values)
            yield values[own - first]

    def _decoded(self, file: Any, first: int, end: int, rows: Any) -> Any:
        # At once: in small portions it takes half as long again, and row groups of others may be larger than ours.
        piece = Piece(file, first, min(end, file.rows) - first)
        times = read_piece(self._lake, piece, ["ts"])["ts"]
        TimesAudit(self._lake, file, first).add(times)
        return times.to_physical().to_numpy()[rows - first]

    def _values(self, piece: Piece, begin: int) -> Any:
        if len(self._room) < piece.rows:
            self._room = np.empty(ROW_GROUP, STORED)
        values = self._room[: piece.rows]
        try:
            # Buffered, because it asks again where a file system hands over less than it was asked for.
            with piece.file.path.open("rb") as file:
                file.seek(begin)
                got = file.readinto(values.view(np.uint8))
        except OSError as error:
            raise LakeError(self._lake, piece.file.path, f"cannot be read ({short(error)})") from None
        if got != values.nbytes:
            raise LakeError(self._lake, piece.file.path, "ends before its times do")
        return values


def lie_at(path: Path, begins: Sequence[int], times: Any) -> bool:
    """Whether these times (Int64, microseconds) lie in a file as `TimesAt` reads them, row group by row group."""
    for group, begin in enumerate(begins):
        own = times[group * ROW_GROUP : (group + 1) * ROW_GROUP]
        if begin < 0 or not np.array_equal(np.fromfile(path, STORED, len(own), offset=begin), own):
            return False
    return len(begins) == -(-len(times) // ROW_GROUP)
