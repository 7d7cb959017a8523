"""An append-only log: records as lines of JSON, each linked to the previous one by its hash.

Each line starts with the hash of the previous line and with its own hash: the SHA-256 of the previous hash and the rest
of the line (Haber & Stornetta 1991, "How to time-stamp a digital document"). A line that was edited, moved or deleted
is therefore refused, and the error names its number. Deleted lines at the very end cannot be detected: keep the file
under version control.

A record is on disk when `add` returns. The file is never rewritten: a line that a crash left incomplete stays, and the
next writer appends a record of the kind `torn` that names its hash. Any number of processes may write; a writer has
always read all earlier records.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final

from kalshilab.edge.canonical_json import canonical
from kalshilab.errors import RegistryError
from kalshilab.fs import lock, sync, sync_folder, write_all

__all__ = ["JsonRecord", "Ledger"]

JsonRecord = dict[str, Any]
"""A record as decoded from JSON."""
_START: Final = "0" * 64
_HEAD: Final = len('{"prev":"","hash":"",') + 128


class Ledger:
    """Records in the order in which they were added, in a file or in memory.

    >>> seen = []
    >>> ledger = Ledger(None, lambda record, line: seen.append((line, record["kind"])))
    >>> ledger.add(lambda: [{"kind": "note"}, {"kind": "note"}])
    >>> seen, ledger.lines
    ([(0, 'note'), (1, 'note')], 2)

    Args:
        path: the file, created with the first record; None: in memory.
        fold: callback that receives each record and its line number (from 0), in order and exactly once.

    Raises:
        RegistryError: the file is damaged or was edited.
    """

    def __init__(self, path: str | Path | None, fold: Callable[[JsonRecord, int], None]) -> None:
        self.path = None if path is None else Path(path)
        self.lines = 0
        self._fold = fold
        self._mutex = Lock()
        self._offset = 0  # Offset of the first unread byte.
        self._last = b""
        self._head = _START

    def add(self, records: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Append the records that `records` returns, under the lock of the only writer.

        Args:
            records: called after all earlier records were read; no other writer can append in between. Nothing is
                written if it raises.

        Raises:
            RegistryError: the file is damaged, or a record cannot be written as JSON.
            OSError: the write failed; the next read shows whether the records count.
        """
        with self._mutex:
            if self.path is None:
                self._take(self._sealed(records()))
                return
            fresh = not self.path.exists()
            if fresh:
                self._check_not_deleted()
            with _opened(self.path, write=True) as file:
                torn = self._read(file)
                if torn:
                    # Complete the line: if only its end was missing, the record counts; else mark it as torn.
                    write_all(file, b"\n")
                    if _record(torn + b"\n", self._head) is None:
                        note = {
                            "kind": "torn",
                            "bytes": len(torn),
                            "sha256": hashlib.sha256(torn).hexdigest(),
                        }
                        write_all(file, self._sealed([note]))
                    self._read(file)
                write_all(file, self._sealed(records()))
                sync(file)
                self._read(file)
            if fresh:
                sync_folder(self.path.parent)

    def refresh(self) -> None:
        """Read the records that other writers have added.

        Raises:
            RegistryError: the file is damaged, was edited or was deleted.
        """
        if self.path is None:
            return
        with self._mutex:
            if not self.path.exists():
                self._check_not_deleted()
                return
            with _opened(self.path, write=False) as file:
                self._read(file)

    def damage(self, line: int, what: str) -> RegistryError:
        """Return the error for a line (numbered from 0) of this log."""
        return RegistryError(
            f"{self.path or 'registry'}, line {line + 1}: {what}; the log is append-only: restore it from version control"
        )

    def _check_not_deleted(self) -> None:
        if self._offset:
            raise self.damage(0, "the file was deleted")

    def _sealed(self, bodies: Sequence[Mapping[str, Any]]) -> bytes:
        """Return the records as the next lines of the file."""
        lines, head = [], self._head
        for body in bodies:
            text = canonical(body)
            own = _digest(head, text)
            lines.append(f'{{"prev":"{head}","hash":"{own}",{text[1:]}\n')
            head = own
        return "".join(lines).encode()

    def _read(self, file: int) -> bytes:
        """Read the lines that were added; return the fragment at the end that lacks an end of line."""
        size = os.fstat(file).st_size
        known = os.pread(file, len(self._last), self._offset - len(self._last))
        if size < self._offset or known != self._last:
            raise self.damage(self.lines - 1, "the text that was read here earlier has changed")
        rest = os.pread(file, size - self._offset, self._offset)
        whole, newline, tail = rest.rpartition(b"\n")
        self._take(whole + newline)
        start = f'{{"prev":"{self._head}"'.encode()
        if not (tail.startswith(start) or start.startswith(tail)):
            raise self.damage(self.lines, "it is incomplete and was not written by this log")
        return tail

    def _take(self, text: bytes) -> None:
        """Fold complete lines into the state; a damaged line must be followed by a `torn` record with its hash."""
        torn: bytes | None = None
        for line in (part + b"\n" for part in text.split(b"\n")[:-1]):
            record = _record(line, self._head)
            if torn is not None:
                marked = None if record is None or record["kind"] != "torn" else record["sha256"]
                if marked != hashlib.sha256(torn[:-1]).hexdigest():
                    break
                self.lines, self._offset, torn = self.lines + 1, self._offset + len(torn), None
            if record is None:
                torn = line
                continue
            if record["kind"] != "torn":
                self._fold(record, self.lines)
            self._head, self._last = record["hash"], line
            self.lines, self._offset = self.lines + 1, self._offset + len(line)
        if torn is not None:
            raise self.damage(self.lines, "it was edited, or earlier lines were moved or deleted")


def _digest(head: str, text: str) -> str:
    return hashlib.sha256((head + text).encode()).hexdigest()


def _record(line: bytes, head: str) -> JsonRecord | None:
    """Return the record in a complete line; None if it does not follow the line with the hash `head`."""
    try:
        text = line.decode()
        record = json.loads(text)
    except ValueError:
        return None
    if not isinstance(record, dict) or record.get("prev") != head or "kind" not in record:
        return None
    own = _digest(head, "{" + text[_HEAD:-1])
    return record if text.startswith(f'{{"prev":"{head}","hash":"{own}",') else None


@contextmanager
def _opened(path: Path, *, write: bool) -> Iterator[int]:
    """Open a file and lock it: shared for a reader, exclusive for a writer."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY, 0o644)
    try:
        lock(file, shared=not write)
        yield file
    finally:
        os.close(file)
