"""Pieces of files: a tape is read in batches of about a million rows, cut at the borders of row groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.durable import UNREADABLE, short

__all__ = ["ROW_GROUP", "Piece", "plan", "read_piece"]

ROW_GROUP: Final = 1 << 18
"""Rows of a row group of a lake's files."""


class Piece(NamedTuple):
    """Part of a file: `rows` rows from `offset`."""

    file: Any
    offset: int
    rows: int


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


def read_piece(lake: Path, piece: Piece, columns: Sequence[str]) -> pl.DataFrame:
    """Some columns of a piece.

    Raises:
        LakeError: the file is missing, or cannot be decoded.
    """
    frame = pl.scan_parquet(piece.file.path, hive_partitioning=False).select(columns)
    try:
        return frame.slice(piece.offset, piece.rows).collect()
    except UNREADABLE as error:
        raise LakeError(lake, piece.file.path, f"cannot be read ({short(error)})") from None
