"""Files that are on the disk when we say so, and the lock of a folder's one writer.

A file that others may see under its name is first written beside it under a temporary name, brought to the
disk (`fsync`), and then renamed, which the system does in one step; then its folder is brought to the disk too.
Whoever is killed in between leaves a file with a temporary name, which nobody reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import polars as pl

__all__ = ["NOTE", "TEMPORARY", "UNREADABLE", "Lock", "digest", "held", "note_of", "plain_at", "publish", "short",
           "sync_folder", "write_bytes", "write_frame"]  # fmt: skip

NOTE: Final = "kalshilab"
"""The key of our note in the footer of a Parquet file."""
TEMPORARY: Final = ".tmp"
"""How temporary names end; readers that look for *.parquet do not find them."""
PAGE: Final = 1 << 23
"""Bytes of a page, at most: a lake's row group of times is a quarter of it."""
UNREADABLE: Final = (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises for a file that is damaged: some damage it meets with a panic."""


def write_frame(frame: pl.DataFrame, path: Path, *, note: str, row_group: int) -> None:
    """Write a Parquet file (zstd but for times, with statistics), with a note in its footer, and bring it to the disk.

    Times are written as they are, neither packed nor compressed: eight bytes each, where trade ids take more, and
    half the time to read them in.  Every signal that fires needs times, of a few rows; those of a row group are
    in one page, so that they can be read from where they lie (`plain_at`).

    Args:
        row_group: rows of a row group.
    """
    # Late: pyarrow, which can be told the encodings, is needed by those who write only.
    import pyarrow.parquet as pq

    times = [name for name, dtype in frame.schema.items() if isinstance(dtype, pl.Datetime)]
    ids = [name for name in frame.columns if name == "trade_id"]
    table = frame.to_arrow()
    pq.write_table(
        table.replace_schema_metadata({**(table.schema.metadata or {}), NOTE: note}),
        path,
        compression={name: "none" if name in times else "zstd" for name in frame.columns},
        row_group_size=row_group,
        # A dictionary helps where values come again.
        use_dictionary=[name for name in frame.columns if name not in (*times, *ids)],
        column_encoding=dict.fromkeys(times, "PLAIN"),
        max_rows_per_page=row_group,
        data_page_size=PAGE,
    )
    _sync(path)


def plain_at(path: Path, column: str, width: int) -> tuple[int, ...]:
    """Where in a Parquet file the values of a column begin, row group by row group, if they are in one page each,
    `width` bytes a value, as `write_frame` writes times.  Who reads them compares them with what was written:
    that they are in one page is the writer's doing, and the footer does not say so.
    """
    import pyarrow.parquet as pq

    footer = pq.read_metadata(path)
    place = footer.schema.names.index(column)
    begins = []
    for number in range(footer.num_row_groups):
        chunk = footer.row_group(number).column(place)
        # Values come last in a page, after its header and the levels, which say that there are no nulls.
        begins.append(chunk.data_page_offset + chunk.total_compressed_size - width * chunk.num_values)
    return tuple(begins)


def note_of(path: Path) -> str:
    """The note that `write_frame` put into a file's footer; "" in the files of others."""
    return pl.read_parquet_metadata(path).get(NOTE, "")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file and bring it to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def publish(temporary: Path, path: Path) -> None:
    """Give a file its name, in one step; a file that had it is gone.  `sync_folder` makes it last."""
    os.replace(temporary, path)  # noqa: PTH105 (one step, and one place for the tests to break)


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def short(error: BaseException) -> str:
    """The first line of an error, which says what is wrong; the rest is for developers."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


class Lock:
    """The lock of a folder: a file that one process at a time holds, and that a dead process holds no more.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, two = Lock(Path(folder, ".lock")), Lock(Path(folder, ".lock"))
    ...     print(one.acquire(), two.acquire(), two.holder() == os.getpid())
    ...     one.release()
    ...     print(two.acquire())
    ...     two.release()
    True False True
    True
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Take the lock; False if somebody else has it and `wait` is false."""
        file = self._path.open("a+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
        except BlockingIOError:
            file.close()
            return False
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def holder(self) -> int | None:
        """The process that took the lock last."""
        text = self._path.read_text("ascii", "replace") if self._path.exists() else ""
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Give the lock back."""
        self._file.close()
        self._file = None


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait for a lock, hold it for the length of a `with` block, and give it back."""
    lock = Lock(path)
    lock.acquire(wait=True)
    try:
        yield
    finally:
        lock.release()
