"""Files of a tape, and slices of them for batches of about a million rows.

A lake's files are cut at row-group boundaries, so that no row group is decoded twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.lake.parquet import UNREADABLE, short
from kalshilab.tape.schema import TAPE_SCHEMA

__all__ = ["ROW_GROUP", "Checksums", "DayFile", "FileSlice", "plan", "read_slice", "read_slices"]

ROW_GROUP: Final = 1 << 18
"""Rows of a row group of a lake's files."""


class Checksums(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Control totals of a file, compared by readers (`kalshilab.tape.lake.checksums`).

    Attributes:
        market: the sum of market codes.
        price: the sum of prices.
        size: the sum of sizes.
        yes: the number of YES takers.
        ts: for each row group, the sum of its timestamps (microseconds, modulo 2^64); empty in older lakes.
    """

    market: int
    price: int
    size: int
    yes: int
    ts: tuple[int, ...] = ()

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Checksums:
        """Compute the checksums of a frame's prints.

        >>> import kalshilab as kl
        >>> Checksums.of(kl.sample()[0].head(2)).yes <= 2
        True
        """
        market, price, size = (
            int(frame[name].to_numpy().sum(dtype=np.int64)) for name in ("market", "price", "size")
        )
        times = frame["ts"].dt.epoch("us").to_numpy()
        groups = range(0, len(times), ROW_GROUP)
        return cls(
            market,
            price,
            size,
            int((frame["taker"] == "yes").sum()),
            tuple(int(times[at : at + ROW_GROUP].sum(dtype=np.int64)) for at in groups),
        )


class DayFile(msgspec.Struct, frozen=True):
    """One file of a tape, as readers see it.

    Attributes:
        day: the UTC day, as 2026-01-31.
        path: the file.
        rows: its rows.
        bytes: its size.
        sha256: the hash of its bytes, in hexadecimal.
        first_row: the position of its first row in the whole tape.
        first_ts: its first timestamp, microseconds.
        last_ts: its last timestamp, microseconds, inclusive.
        totals: its checksums; None in a file that a lake did not write.
        times_at: the byte offset of each row group's timestamps, eight bytes each; may be empty.
    """

    day: str
    path: Path
    rows: int
    bytes: int
    sha256: str
    first_row: int
    first_ts: int
    last_ts: int
    totals: Checksums | None
    times_at: tuple[int, ...] = ()


class FileSlice(NamedTuple):
    """Consecutive rows of a file: `rows` rows from row `offset`."""

    file: DayFile
    offset: int
    rows: int


def plan(files: Iterable[DayFile], rows: int) -> Iterator[list[FileSlice]]:
    """Yield the slices of each batch: long files are cut, short ones combined.

    A file is cut at multiples of `rows` only.  Choose a multiple of `ROW_GROUP`, so that no row group of a lake's
    file is decoded twice.

    Args:
        files: in order.
        rows: of a batch, at most.
    """
    batch: list[FileSlice] = []
    height = 0
    for file in files:
        for offset in range(0, file.rows, rows):
            part = FileSlice(file, offset, min(rows, file.rows - offset))
            if height + part.rows > rows:
                yield batch
                batch, height = [], 0
            batch.append(part)
            height += part.rows
    if batch:
        yield batch


def read_slice(lake: Path, part: FileSlice, columns: Sequence[str]) -> pl.DataFrame:
    """Read some columns of a slice.

    Raises:
        LakeError: the file is missing, cannot be decoded, has fewer rows, has more rows after the slice that should be
            its last, or has columns of other types.
    """
    file, end = part.file, part.offset + part.rows
    lazy = pl.scan_parquet(file.path, hive_partitioning=False).select(columns)
    try:
        # At the end of the file ask for one row more: it must not exist.
        frame = lazy.slice(part.offset, part.rows + (end == file.rows)).collect()
    except UNREADABLE as error:
        raise LakeError(lake, file.path, f"cannot be read ({short(error)})") from None
    if frame.height != part.rows:
        reason = f"gave {frame.height:,} rows where {part.rows:,} of its {file.rows:,} were due"
        raise LakeError(lake, file.path, reason)
    if other := _mistyped(frame):
        raise LakeError(lake, file.path, f"has another schema: {other}")
    return frame


def read_slices(lake: Path, parts: Sequence[FileSlice], columns: Sequence[str]) -> pl.DataFrame:
    """Read some columns of consecutive slices, concatenated.

    Raises:
        LakeError: as for `read_slice`.
    """
    frames = []
    for whole, some in groupby(parts, key=_is_whole_file):
        group = list(some)
        together = _read_files(group, columns) if whole and len(group) > 1 else None
        # If that fails, read one file at a time so that the error names the bad file.
        frames += [together] if together is not None else [read_slice(lake, p, columns) for p in group]
    return frames[0] if len(frames) == 1 else pl.concat(frames)


def _is_whole_file(part: FileSlice) -> bool:
    return part.rows == part.file.rows


def _read_files(parts: Sequence[FileSlice], columns: Sequence[str]) -> pl.DataFrame | None:
    """Read whole files in one call, in one chunk; return None if they do not match their slices.

    A call takes most of the time that a small file takes.
    """
    paths = [part.file.path for part in parts]
    try:
        frame = pl.scan_parquet(paths, hive_partitioning=False).select(columns).collect().rechunk()
    except UNREADABLE:
        return None
    if frame.height != sum(part.rows for part in parts) or _mistyped(frame):
        return None
    return frame


def _mistyped(frame: pl.DataFrame) -> str:
    """List the columns whose type is not a tape's, as text."""
    return ", ".join(f"{n} {t}" for n, t in frame.schema.items() if t != TAPE_SCHEMA[n])
