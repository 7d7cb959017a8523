"""Survey of a damaged journal: the rows that are intact, and the numbers of those that are lost.

The survey works on a copy, and reads around the damage: forwards to the first page that cannot be read, backwards from the
end, and row by row between the two.  Where the first page is damaged, which holds the schema, the copy gets that of a new
journal: every journal has the same schema.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import msgspec

from kalshilab.clock import SimClock
from kalshilab.errors import JournalError
from kalshilab.trade.orders.journal import (
    JOURNAL_SCHEMA,
    KINDS,
    UNREADABLE,
    Journal,
    StoredRow,
    head_path,
    is_intact,
    last_in_head,
    last_written,
)

__all__ = ["AddedEntry", "JournalSurvey", "rebuild_journal", "survey_journal"]

COLUMNS: Final = "SELECT seq, ts, wall, kind, key, body, sum FROM entries"
MOST_LOST: Final = 1_000_000
"""Rows that may be missing at the end; a larger number in a database is itself damaged."""
PROBED: Final = 1000
"""Rows that are looked for one by one after the last that could be read, if the head is lost too."""
PAGE_SIZE_AT: Final = 16
PAGE_COUNT_AT: Final = 28
MODE_AT: Final = 18
WAL_MODE: Final = b"\x02\x02"


class JournalSurvey(msgspec.Struct, frozen=True):
    """The rows of a journal.

    Attributes:
        rows: the intact rows, in order.
        lost: the numbers of the rows that are damaged or missing.
        kinds: the kind of each damaged row where that can still be read, by number.
    """

    rows: list[StoredRow]
    lost: list[int]
    kinds: dict[int, str]


class AddedEntry(msgspec.Struct, frozen=True):
    """An entry that a rebuilt journal gets beside the intact rows.

    It stands behind the row with the number `after` (0: at the start); `ts` is exchange time in microseconds.
    """

    after: int
    ts: int
    kind: str
    value: msgspec.Struct | dict[str, object]
    key: str | None = None


def survey_journal(path: Path) -> JournalSurvey:
    """Return the intact rows of a damaged journal of the current version; the file is not changed.

    Args:
        path: the journal.

    Raises:
        JournalError: the journal is of version 1.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = _copy(path, Path(scratch))
        head = last_in_head(head_path(path))
        found = _read(copy, head)
        if found is None:
            _renew_first_page(copy)
            found = _read(copy, head) or ({}, {}, 0)
    rows, kinds, written = found
    newest = max(rows, default=0)
    last = max(newest, head, written if written - newest < MOST_LOST else 0)
    lost = [seq for seq in range(1, last + 1) if seq not in rows]
    return JournalSurvey(
        [rows[seq] for seq in sorted(rows)], lost, {n: k for n, k in kinds.items() if n in lost}
    )


def _copy(path: Path, folder: Path) -> Path:
    for name in (path.name, f"{path.name}-wal"):
        if (path.parent / name).is_file():
            shutil.copyfile(path.parent / name, folder / name)
    return folder / path.name


def _read(path: Path, head: int) -> tuple[dict[int, StoredRow], dict[int, str], int] | None:
    """Return intact rows and the kinds of damaged ones by number, and the last number; None if there is no table."""
    with closing(sqlite3.connect(path)) as db:
        db.text_factory = bytes
        try:
            db.execute(f"{COLUMNS} LIMIT 0")
        except UNREADABLE:
            _refuse_version_1(path, db)
            return None
        rows: dict[int, StoredRow] = {}
        kinds: dict[int, str] = {}
        complete = _collect(db, f"{COLUMNS} ORDER BY seq", rows, kinds)
        if not complete:
            first = max(rows, default=0)
            _collect(db, f"{COLUMNS} ORDER BY seq DESC", rows, kinds)
            after = min((seq for seq in rows if seq > first), default=max(head, first + PROBED) + 1)
            for seq in range(first + 1, after):
                _collect(db, f"{COLUMNS} WHERE seq = {seq}", rows, kinds)
        try:
            return rows, kinds, last_written(db)
        except UNREADABLE:
            return rows, kinds, 0


def _refuse_version_1(path: Path, db: sqlite3.Connection) -> None:
    with suppress(*UNREADABLE):
        db.execute("SELECT seq, body FROM entries LIMIT 0")
        raise JournalError(
            f"{path.name}: a damaged journal of version 1 has no checksums, so no row can be trusted"
        )


def _collect(db: sqlite3.Connection, query: str, rows: dict[int, StoredRow], kinds: dict[int, str]) -> bool:
    """Add the rows of a query up to the first that cannot be read; return whether all were read."""
    try:
        for row in db.execute(query):
            if is_intact(row):
                rows[row[0]] = row
            elif isinstance(row[3], bytes) and row[3].decode(errors="replace") in (*KINDS, "note"):
                kinds[row[0]] = row[3].decode()
    except UNREADABLE:
        return False
    return True


def _renew_first_page(path: Path) -> None:
    """Replace the first page of a database, with the schema, by that of a new journal."""
    fresh = path.with_name("fresh.sqlite")
    with closing(sqlite3.connect(fresh)) as db:
        db.executescript(JOURNAL_SCHEMA)
    page = bytearray(fresh.read_bytes())
    size = int.from_bytes(page[PAGE_SIZE_AT : PAGE_SIZE_AT + 2], "big")
    content = path.read_bytes() if path.is_file() else b""
    page[MODE_AT : MODE_AT + 2] = WAL_MODE
    page[PAGE_COUNT_AT : PAGE_COUNT_AT + 4] = (len(content) // size).to_bytes(4, "big")
    path.write_bytes(bytes(page[:size]) + content[size:])


def rebuild_journal(path: Path, rows: Sequence[StoredRow], added: Sequence[AddedEntry]) -> None:
    """Write a new journal from intact rows and further entries at their places.

    Args:
        path: the new file; an older one is replaced.
        rows: the intact rows, in order.
        added: the further entries; those behind one row keep their order.
    """
    for old in (path, head_path(path)):
        old.unlink(missing_ok=True)
    pending = deque(sorted(added, key=lambda entry: entry.after))
    wall = rows[0][2] if rows else 0
    with Journal.create(path, SimClock(), SimClock()) as journal:
        for row in rows:
            while pending and pending[0].after < row[0]:
                journal.copy(_stored(pending.popleft(), wall))
            wall = row[2]
            journal.copy(row)
        for entry in pending:
            journal.copy(_stored(entry, wall))


def _stored(entry: AddedEntry, wall: int) -> StoredRow:
    key = None if entry.key is None else entry.key.encode()
    return 0, entry.ts, wall, entry.kind.encode(), key, msgspec.json.encode(entry.value), 0
