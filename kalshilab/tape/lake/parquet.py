"""Parquet files of a lake: written durably, with a note in the footer and timestamps in place."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import polars as pl

from kalshilab.fs import sync_path

__all__ = ["NOTE", "UNREADABLE", "digest", "note_of", "plain_at", "short", "write_frame"]

NOTE: Final = "kalshilab"
"""Key of the note in a Parquet footer."""
PAGE_BYTES: Final = 1 << 23
"""Maximum size of a page; the timestamps of a lake's row group take a quarter of it."""
UNREADABLE: Final = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""Errors that polars raises for a damaged file; some damage makes it panic."""


def write_frame(frame: pl.DataFrame, path: Path, *, note: str, row_group: int) -> None:
    """Write a Parquet file with statistics and a note in its footer, and sync it.

    Columns are compressed with zstd, except timestamps: those are written plain, eight bytes each, the values of a
    row group in one page.  `plain_at` finds them there, so the timestamps of single rows can be read without decoding.
    Every signal that fires needs a few of them.  Plain timestamps take less space than trade ids and half the time to
    read.

    Args:
        frame: the rows.
        path: the file to write.
        note: text for the footer.
        row_group: rows of a row group.
    """
    # Imported here: only writers need pyarrow, which allows an encoding for each column.
    import pyarrow.parquet as pq

    timestamps = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime)]
    ids = [name for name in frame.columns if name == "trade_id"]
    table = frame.to_arrow()
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), NOTE: note}),
        path,
        compression={name: "none" if name in timestamps else "zstd" for name in frame.columns},
        row_group_size=row_group,
        # A dictionary pays only where values repeat.
        use_dictionary=[name for name in frame.columns if name not in (*timestamps, *ids)],
        column_encoding=dict.fromkeys(timestamps, "PLAIN"),
        max_rows_per_page=row_group,
        data_page_size=PAGE_BYTES,
    )
    sync_path(path)


def plain_at(path: Path, column: str, width: int) -> tuple[int, ...]:
    """Return the byte offset of a column's values in each row group.

    The offsets are right only if the values of a row group are plain, `width` bytes each, and in one page, as
    `write_frame` writes timestamps.  The footer does not record that, so compare what you read there with what was
    written.
    """
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path)
    column_index = footer.schema.names.index(column)
    offsets = []
    for number in range(footer.num_row_groups):
        chunk = footer.row_group(number).column(column_index)
        # The values come last in a page, after its header and the definition levels that mark nulls.
        offsets.append(chunk.data_page_offset + chunk.total_compressed_size - width * chunk.num_values)
    return tuple(offsets)


def note_of(path: Path) -> str:
    """Return the note that `write_frame` put into a file's footer, or "" if there is no note."""
    return pl.read_parquet_metadata(path).get(NOTE, "")


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(error: BaseException) -> str:
    """Return the first line of an error, at most 200 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
