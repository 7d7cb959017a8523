"""Pieces of files: a tape is read in batches of about a million rows; a lake's files are cut at the borders of their
row groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.lake.fs import UNREADABLE, short
from kalshilab.tape.schema import TAPE_SCHEMA

__all__ = ["ROW_GROUP", "Piece", "plan", "read_piece", "read_pieces"]

ROW_GROUP: Final = 1 << 18
"""Rows of a row group of a lake's files."""


class Piece(NamedTuple):
    """Part of a file: `rows` rows from `offset`."""

    file: Any
    offset: int
    rows: int


def plan(files: Iterable[Any], rows: int) -> Iterator[list[Piece]]:
    """The pieces of each batch: long files are cut, short ones put together.

    A file is cut at multiples of `rows` only, which in a lake's are borders of row groups: none is decoded twice.
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


def read_piece(lake: Path, piece: Piece, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a piece.

    Raises:
        LakeError: the file is missing, cannot be decoded, has other rows than these where they are its last, or
            columns of other types.
    """
    file, end = piece.file, piece.offset + piece.rows
    frame = pl.scan_parquet(file.path, hive_partitioning=False).select(columns)
    try:
        # One row more where there should be none.
        part = frame.slice(piece.offset, piece.rows + (end == file.rows)).collect()
    except UNREADABLE as error:
        raise LakeError(lake, file.path, f"cannot be read ({short(error)})") from None
    if part.height != piece.rows:
        found = f"gave {part.height:,} rows where {piece.rows:,} of its {file.rows:,} were due"
        raise LakeError(lake, file.path, found)
    if other := _mistyped(part):
        raise LakeError(lake, file.path, f"has another schema: {other}")
    return part


def read_pieces(lake: Path, pieces: Sequence[Piece], columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of consecutive pieces, one behind the other.

    Raises:
        LakeError: as for `read_piece`.
    """
    parts = []
    for whole, some in groupby(pieces, key=_is_whole):
        group = list(some)
        together = _together(group, columns) if whole and len(group) > 1 else None
        # Whatever was wrong with many: one by one it has a name.
        parts += [together] if together is not None else [read_piece(lake, p, columns) for p in group]
    return parts[0] if len(parts) == 1 else pl.concat(parts)


def _is_whole(piece: Piece) -> bool:
    return bool(piece.rows == piece.file.rows)


def _together(pieces: Sequence[Piece], columns: Sequence[str]) -> pl.DataFrame | None:
    """Whole files in one call, in one chunk: most of the time that a small file takes is the call's.  None if it is
    not what was expected.
    """
    paths = [piece.file.path for piece in pieces]
    try:
        frame = pl.scan_parquet(paths, hive_partitioning=False).select(columns).collect().rechunk()
    except UNREADABLE:
        return None
    if frame.height != sum(piece.rows for piece in pieces) or _mistyped(frame):
        return None
    return frame


def _mistyped(frame: pl.DataFrame) -> str:
    """The columns that do not have a tape's types."""
    return ", ".join(f"{n} {t}" for n, t in frame.schema.items() if t != TAPE_SCHEMA[n])
