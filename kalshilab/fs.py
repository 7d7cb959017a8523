"""Durable file writes (fsync, rename) and advisory file locks.

To replace a file that others may read, write a temporary file beside it, sync it (`fsync`), rename it over the target
in one atomic step, and sync the folder.  `write_durably` does all four.  A process killed in between leaves a file with
a temporary name, which readers ignore.

Locks are `flock` locks: they belong to the open file, and the system releases them when the process ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path
from typing import Final, Protocol

__all__ = [
    "TEMPORARY",
    "FileLock",
    "lock",
    "locked",
    "publish",
    "sync",
    "sync_folder",
    "sync_path",
    "write_all",
    "write_bytes",
    "write_durably",
]

TEMPORARY: Final = ".tmp"
"""Suffix of temporary names; readers that look for `*.parquet` do not match it."""


class HasDescriptor(Protocol):
    """An open file."""

    def fileno(self) -> int: ...


def write_all(descriptor: int, data: bytes) -> None:
    """Write all bytes to an open file, however many calls that takes.

    Raises:
        OSError: the disk is full or the file cannot be written; some bytes may have been written.
    """
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file and sync it.  Its name is durable only after `sync_folder`."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        sync(file)


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file atomically: after a crash it has its old content or the new one, never a part of it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "state.json")
    ...     write_durably(path, b"{}")
    ...     write_durably(path, b"[]")
    ...     print(path.read_bytes(), [p.name for p in Path(folder).iterdir()])
    b'[]' ['state.json']
    """
    temporary = path.with_name(path.name + TEMPORARY)
    write_bytes(temporary, data)
    publish(temporary, path)
    sync_folder(path.parent)


def publish(temporary: Path, path: Path) -> None:
    """Rename a file over another in one atomic step.  The name is durable only after `sync_folder`."""
    os.replace(temporary, path)  # noqa: PTH105 (tests inject faults here)


def sync(file: int | HasDescriptor) -> None:
    """Flush an open file's bytes to the disk.

    Raises:
        OSError: the disk is full or failed; which bytes are durable is unknown.
    """
    os.fsync(file)


def sync_path(path: Path) -> None:
    """Flush a closed file's bytes, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's names to the disk, so that files created, renamed or removed there stay so."""
    sync_path(path)


def lock(file: int | HasDescriptor, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock an open file until it is closed.

    Args:
        file: the open file or its descriptor.
        shared: allow other shared locks; by default the lock is exclusive.
        wait: block until the lock is free.

    Returns:
        False if another process has the lock and `wait` is false.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


class FileLock:
    """An exclusive lock between processes.  The lock file holds the process id of its last owner.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, two = FileLock(Path(folder, ".lock")), FileLock(Path(folder, ".lock"))
    ...     print(one.acquire(), two.acquire(), two.holder() == os.getpid())
    ...     one.release()
    ...     print(two.acquire())
    ...     two.release()
    True False True
    True
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BufferedRandom | None = None

    def acquire(self, *, wait: bool = False) -> bool:
        """Acquire the lock; return False if another owner has it and `wait` is false."""
        file = self._path.open("a+b")
        try:
            if not lock(file, wait=wait):
                file.close()
                return False
            file.truncate(0)
            file.write(str(os.getpid()).encode())
            file.flush()
        except BaseException:
            file.close()
            raise
        self._file = file
        return True

    def holder(self) -> int | None:
        """Return the id of the process that acquired the lock last."""
        text = self._path.read_text("ascii", "replace") if self._path.exists() else ""
        return int(text) if text.isdigit() else None

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._file is not None:
            self._file.close()
            self._file = None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file's lock for the length of a `with` block, after waiting for it."""
    held = FileLock(path)
    held.acquire(wait=True)
    try:
        yield
    finally:
        held.release()
