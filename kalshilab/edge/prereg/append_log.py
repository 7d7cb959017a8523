"""A file that is only ever added to: records as lines of JSON, each bound to the one before by its hash.

Each line begins with the hash of the line before and with its own: the SHA-256 of that hash and the rest of the line
(Haber & Stornetta 1991, "How to time-stamp a digital document").  So a line that was edited, moved or lost is refused,
and where.  Lines cut off at the very end look like lines never written: keep the file under version control.

A record is on the disk when `add` returns.  Nothing is ever rewritten: a line that a crash left half-written stays,
and the next writer puts a record of the kind `torn` behind it that names its hash.  Any number of processes may
write; whoever adds has seen all that stands before.
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

__all__ = ["Ledger"]

_START: Final = "0" * 64
_HEAD: Final = len('{"prev":"","hash":"",') + 128


class Ledger:
    """Records in the order they were added, in a file or in memory.

    >>> seen = []
    >>> ledger = Ledger(None, lambda record, line: seen.append((line, record["kind"])))
    >>> ledger.add(lambda: [{"kind": "note"}, {"kind": "note"}])
    >>> seen, ledger.lines
    ([(0, 'note'), (1, 'note')], 2)

    Args:
        path: the file; created with the first record.  None: in memory.
        fold: called with each record and the number of its line (from 0), in order, once.

    Raises:
        RegistryError: the file is damaged or was edited.
    """

    def __init__(self, path: str | Path | None, fold: Callable[[dict[str, Any], int], None]) -> None:
        self.path = None if path is None else Path(path)
        self.lines = 0
        self._fold = fold
        self._mutex = Lock()
        self._offset = 0  # Of the first byte not read.
        self._last = b""
        self._head = _START

    def add(self, records: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Add what `records` makes of the state; no other writer comes between.  Nothing is written if it raises.

        Raises:
            RegistryError: the file is damaged, or a record is no JSON.
            OSError: it could not be brought to the disk; whether it counts is seen at the next reading.
        """
        with self._mutex:
            if self.path is None:
                self._take(self._sealed(records()))
                return
            fresh = not self.path.exists()
            if fresh:
                self._not_lost()
            with _opened(self.path, write=True) as file:
                torn = self._read(file)
                if torn:
                    # Nothing is rewritten.  If the fragment was whole but for its end of line, it counts now.
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
        """Read what others have added.

        Raises:
            RegistryError: the file is damaged, was edited, or is gone.
        """
        if self.path is None:
            return
        with self._mutex:
            if not self.path.exists():
                self._not_lost()
                return
            with _opened(self.path, write=False) as file:
                self._read(file)

    def damage(self, line: int, what: str) -> RegistryError:
        """The error for a line (from 0)."""
        return RegistryError(
            f"{self.path or 'registry'}, line {line + 1}: {what}; it is only ever added to: restore it from version "
            "control"
        )

    def _not_lost(self) -> None:
        if self._offset:
            raise self.damage(0, "the file is gone")

    def _sealed(self, bodies: Sequence[Mapping[str, Any]]) -> bytes:
        """Records as the lines that come next."""
        lines, head = [], self._head
        for body in bodies:
            text = canonical(body)
            own = _digest(head, text)
            lines.append(f'{{"prev":"{head}","hash":"{own}",{text[1:]}\n')
            head = own
        return "".join(lines).encode()

    def _read(self, file: int) -> bytes:
        """Take in what was added; returns the fragment at the end that has no end of line."""
        size = os.fstat(file).st_size
        known = os.pread(file, len(self._last), self._offset - len(self._last))
        if size < self._offset or known != self._last:
            raise self.damage(self.lines - 1, "what was read here before is not here any more")
        rest = os.pread(file, size - self._offset, self._offset)
        whole, newline, tail = rest.rpartition(b"\n")
        self._take(whole + newline)
        start = f'{{"prev":"{self._head}"'.encode()
        if not (tail.startswith(start) or start.startswith(tail)):
            raise self.damage(self.lines, "it is none of ours, and has no end")
        return tail

    def _take(self, text: bytes) -> None:
        """Fold complete lines into the state; what is no record must be followed by the one that says so."""
        torn: bytes | None = None
        for line in (part + b"\n" for part in text.split(b"\n")[:-1]):
            record = _record(line, self._head)
            if torn is not None:
                told = None if record is None or record["kind"] != "torn" else record["sha256"]
                if told != hashlib.sha256(torn[:-1]).hexdigest():
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
            raise self.damage(self.lines, "it was edited, or lines before it were moved or lost")


def _digest(head: str, text: str) -> str:
    return hashlib.sha256((head + text).encode()).hexdigest()


def _record(line: bytes, head: str) -> dict[str, Any] | None:
    """The record of a line with its end, if it is one and comes after the line with the hash `head`."""
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
    """A file, locked against other writers, and for a writer against readers too."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND if write else os.O_RDONLY, 0o644)
    try:
        lock(file, shared=not write)
        yield file
    finally:
        os.close(file)
