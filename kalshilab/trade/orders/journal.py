"""The journal: an append-only record of a run in one SQLite file.

An intent is written *before* its order is sent; outcomes, fills and settlements are written as soon as they are known.
Each row is one transaction, so after `kill -9` the file shows which orders were intended and which of them need a
look-up at the exchange.  The database refuses changes and deletions.  Positions, cash and results are folds over these
rows (`kalshilab.trade.core.record`).

The only table is `entries(seq, ts, wall, kind, key, body, sum)`.  `seq` counts 1, 2, 3, … without a gap.  `ts` is
exchange time and `wall` machine time, both in microseconds; `body` is the value as JSON.  `key` is unique within a kind
(a fill's trade and order, an intent's client order id), so a fill that both the stream and REST report is one row.

Every reading checks the rows.  `sum` is a checksum of the other columns, so a row that was changed is found; a row that
is missing leaves a gap in `seq`.  The last `seq` is in the database (`sqlite_sequence`) and in the file
`<journal>.head` beside it, so rows missing at the end are found too, even if the write-ahead log was cut off.  A damaged
journal is refused with the number of the first bad row; `kalshilab doctor RUN` saves the others.  Journals of version 1
have no checksums: they can be read, but not continued.

The file uses write-ahead logging with `synchronous=NORMAL`.  A row survives a killed process at once.  A crash of the
machine may lose the last moments: the journal is then refused, because the lost rows may have been intents.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec

from kalshilab.clock import Clock
from kalshilab.errors import JournalError
from kalshilab.market.model import Fill, Market, Order, Settlement
from kalshilab.trade.events import Decision, Fired, Intent, Outcome, Sampled, Transition

__all__ = [
    "JOURNAL_SCHEMA",
    "KINDS",
    "UNREADABLE",
    "Entry",
    "Journal",
    "StoredRow",
    "entry_of",
    "head_path",
    "is_intact",
    "last_in_head",
    "last_written",
]

VERSION: Final = 2
READABLE: Final = (1, 2)

KINDS: dict[str, type[msgspec.Struct]] = {
    "decision": Decision,
    "fill": Fill,
    "fire": Fired,
    "intent": Intent,
    "market": Market,
    "order": Order,
    "outcome": Outcome,
    "sample": Sampled,
    "settlement": Settlement,
    "transition": Transition,
}
"""The kinds of entry and the value each holds; "note" entries hold a plain JSON object."""

UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)
"""Errors of a damaged database; where its schema is damaged, not even the message may be text."""

JOURNAL_SCHEMA = """
CREATE TABLE entries (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    ts   INTEGER NOT NULL,
    wall INTEGER NOT NULL,
    kind TEXT NOT NULL,
    key  TEXT,
    body TEXT NOT NULL,
    sum  INTEGER NOT NULL
);
CREATE UNIQUE INDEX once ON entries (kind, key) WHERE key IS NOT NULL;
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""

StoredRow: TypeAlias = tuple[int, int, int, bytes, bytes | None, bytes, int]
"""A row as stored: seq, ts, wall, kind, key, body and checksum; text is UTF-8."""


class Entry(msgspec.Struct, frozen=True):
    """One decoded row; `ts` is exchange time and `wall` machine time, in microseconds."""

    seq: int
    ts: int
    wall: int
    kind: str
    key: str | None
    value: Any


class Journal:
    """An open journal: `Journal.create` to write one, `Journal.open` to read one, also while it grows.

    >>> import tempfile
    >>> from kalshilab.clock import SimClock
    >>> folder = Path(tempfile.mkdtemp())
    >>> with Journal.create(folder / "journal.sqlite", SimClock(7), SimClock(9)) as journal:
    ...     journal.note("start", run="demo")
    >>> with Journal.open(folder / "journal.sqlite") as journal:
    ...     [(e.ts, e.wall, e.kind, e.value) for e in journal]
    [(7, 9, 'note', {'what': 'start', 'run': 'demo'})]
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, clock: Clock | None, wall: Clock | None
    ) -> None:
        self.path = path
        self._db, self._clock, self._wall = connection, clock, wall
        self._db.text_factory = bytes
        self._version = _check_version(path, connection)
        self._columns = "seq, ts, wall, kind, key, body, " + ("0" if self._version == 1 else "sum")
        self._checked = 0
        self._head: FileIO | None = None

    @classmethod
    def create(cls, path: Path, clock: Clock, wall: Clock) -> Journal:
        """Create a journal, or check an existing one and continue it, as a later life of the same run does.

        Args:
            path: the file; missing folders are created.
            clock: exchange time.
            wall: machine time.

        Raises:
            JournalError: the file is not a journal, has another version, is damaged, or is not writable.
        """
        db = _connect(path, f"file:{path.as_posix()}?mode=rwc")
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                db.executescript(f"BEGIN; {JOURNAL_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            journal = cls(path, db, clock, wall)
            journal._continue()
        except (*UNREADABLE, OSError) as error:
            db.close()
            raise JournalError(f"{path}: {error}") from None
        except JournalError:
            db.close()
            raise
        return journal

    @classmethod
    def open(cls, path: Path) -> Journal:
        """Open an existing journal for reading.

        Raises:
            JournalError: the file is missing, is not a journal, or has another version.
        """
        if not path.is_file():
            raise JournalError(f"{path}: no such journal")
        db = _connect(path, f"file:{path.as_posix()}?mode=ro")
        try:
            return cls(path, db, None, None)
        except UNREADABLE as error:
            db.close()
            raise JournalError(f"{path}: {error}") from None
        except JournalError:
            db.close()
            raise

    def _continue(self) -> None:
        """Check every row and the index of the keys, then open the head for writing."""
        if self._version != VERSION:
            raise JournalError(
                f"{self.path}: journal version must be {VERSION} to be continued, got {self._version}"
            )
        self.check()
        found = self._db.execute("PRAGMA integrity_check(1)").fetchone()[0].decode()
        if found != "ok":
            raise JournalError(f"{self.path}: {found.splitlines()[0]}; {_advice(self.path)}")
        self._head = FileIO(os.open(head_path(self.path), os.O_RDWR | os.O_CREAT, 0o644), "r+")

    # Writing

    def write(self, kind: str, value: msgspec.Struct | dict[str, object], key: str | None = None) -> bool:
        """Append one value durably: it survives `kill -9` from the return on.

        Args:
            kind: one of `KINDS`, or "note".
            value: the value; for a note, a JSON object with its name as `what`.
            key: makes the value unique within its kind.

        Returns:
            False if the key exists already; the journal is then unchanged.

        Raises:
            JournalError: the row could not be written, for instance because the disk is full.
        """
        return self._append(kind, msgspec.json.encode(value), key)

    def note(self, what: str, **facts: object) -> None:
        """Append a note: its name and its facts."""
        self._append("note", msgspec.json.encode({"what": what, **facts}), None)

    def copy(self, row: StoredRow) -> bool:
        """Append a row of another journal, with its times; return False if its key exists already."""
        _, ts, wall, kind, key, body, _ = row
        return self._append(kind.decode(), body, None if key is None else key.decode(), (ts, wall))

    def _append(self, kind: str, body: bytes, key: str | None, times: tuple[int, int] | None = None) -> bool:
        if self._clock is None or self._wall is None or self._head is None:
            raise JournalError(f"{self.path}: the journal is open for reading only")
        seq, (ts, wall) = self._checked + 1, times or (self._clock.now(), self._wall.now())
        total = _checksum(seq, ts, wall, kind.encode(), None if key is None else key.encode(), body)
        try:
            self._db.execute(
                "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)",
                (seq, ts, wall, kind, key, body.decode(), total),
            )
            self._checked = seq
            # After the row: the head never promises a row that is not there.
            self._head.seek(0)
            self._head.write(_head_of(seq))
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE":
                return False
            raise JournalError(
                f"{self.path}: row {seq} cannot be written ({error}); is another session writing?"
            ) from None
        except (sqlite3.Error, OSError) as error:
            raise JournalError(f"{self.path}: {error}") from None
        return True

    # Reading

    def __len__(self) -> int:
        return self._last()

    def __iter__(self) -> Iterator[Entry]:
        """Yield all entries in the order of writing.

        Raises:
            JournalError: a row is damaged or missing; it is raised in the place of that row.
        """
        return map(self._decoded, self._in_order(0))

    def check(self) -> None:
        """Check the rows that were not checked before.

        Raises:
            JournalError: a row is damaged or missing; the first is named.
        """
        for row in self._in_order(self._checked):
            self._checked = row[0]

    def values(self, kind: str) -> list[Any]:
        """Return the values of one kind, in the order of writing.

        Raises:
            JournalError: a row of any kind is damaged or missing.
        """
        self.check()
        query = f"SELECT {self._columns} FROM entries WHERE kind = ? AND seq <= ? ORDER BY seq"
        try:
            rows = self._db.execute(query, (kind, self._checked)).fetchall()
        except UNREADABLE as error:
            raise JournalError(f"{self.path}: {error}") from None
        return [self._decoded(row).value for row in rows]

    def _in_order(self, after: int) -> Iterator[StoredRow]:
        """Yield the stored rows after a number, checked."""
        last, expected = self._last(), after + 1
        query = f"SELECT {self._columns} FROM entries WHERE seq > ? ORDER BY seq"
        try:
            for row in self._db.execute(query, (after,)):
                if self._version > 1 and not is_intact(row):
                    raise self._damaged(expected, "its checksum differs")
                if self._version > 1 and row[0] != expected:
                    raise self._missing(expected, row[0] - 1)
                yield row
                expected = row[0] + 1
        except UNREADABLE as error:
            raise self._damaged(expected, str(error)) from None
        if expected <= last:
            raise self._missing(expected, last)

    def _decoded(self, row: StoredRow) -> Entry:
        try:
            return entry_of(row)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._damaged(row[0], str(error)) from None

    def _last(self) -> int:
        """Return the number of the last row that was ever written, as far as this is recorded."""
        if self._version == 1:
            return 0
        try:
            return max(last_written(self._db), last_in_head(head_path(self.path)))
        except UNREADABLE as error:
            raise self._damaged(1, str(error)) from None

    def _damaged(self, seq: int, why: str) -> JournalError:
        return JournalError(f"{self.path}: row {seq} cannot be read ({why}); {_advice(self.path)}")

    def _missing(self, first: int, last: int) -> JournalError:
        rows = f"row {first} is" if first == last else f"rows {first} to {last} are"
        return JournalError(f"{self.path}: {rows} missing; {_advice(self.path)}")

    def unresolved(self) -> list[Intent]:
        """Return the intents without a known outcome, which a restart must look up at the exchange."""
        resolved = {o.client_order_id for o in self.values("outcome") if o.kind != "unknown"}
        return [i for i in self.values("intent") if i.client_order_id not in resolved]

    def close(self) -> None:
        """Close the file; further calls raise an error."""
        self._db.close()
        if self._head is not None:
            self._head.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Journal({self.path.name})"


def entry_of(row: StoredRow) -> Entry:
    """Return a stored row decoded.

    Raises:
        msgspec.DecodeError: the body is not a value of the row's kind.
    """
    seq, ts, wall, kind, key, body, _ = row
    name = kind.decode()
    target: Any = KINDS.get(name, dict)
    value = msgspec.json.decode(body, type=target)
    return Entry(seq, ts, wall, name, None if key is None else key.decode(), value)


def is_intact(row: StoredRow) -> bool:
    """Return whether the checksum of a stored row is that of its other columns."""
    try:
        return _checksum(*row[:6]) == row[6]
    except (TypeError, ValueError):
        # Damage may give a column another type.
        return False


def _checksum(seq: int, ts: int, wall: int, kind: bytes, key: bytes | None, body: bytes) -> int:
    text = b"%d\0%d\0%d\0%b\0%b\0%b" % (seq, ts, wall, kind, b"" if key is None else b"=" + key, body)
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)


def last_written(db: sqlite3.Connection) -> int:
    """Return the number of the last row that a database has ever held, 0 for none.

    Raises:
        sqlite3.Error: the database cannot be read.
    """
    found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entries'").fetchone()
    return int(found[0]) if found else 0


# The head: the number of the last row, and a checksum of this number.


def head_path(path: Path) -> Path:
    """Return the path of a journal's head."""
    return path.with_suffix(".head")


def _head_of(seq: int) -> bytes:
    number = seq.to_bytes(8, "big")
    return number + hashlib.blake2b(number, digest_size=8).digest()


def last_in_head(path: Path) -> int:
    """Return the number in a head, or 0 if there is no head, or a damaged one: the rows are checked all the same."""
    try:
        stored = path.read_bytes()
    except FileNotFoundError:
        return 0
    seq = int.from_bytes(stored[:8], "big")
    return seq if stored == _head_of(seq) else 0


def _advice(path: Path) -> str:
    return f"run: kalshilab doctor {path.parent}"


def _connect(path: Path, uri: str) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Autocommit: each append is one transaction.  The session's thread is the only writer.
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{path}: {error}") from None


def _check_version(path: Path, db: sqlite3.Connection) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version not in READABLE:
        raise JournalError(f"{path}: journal version must be {VERSION}, got {version}")
    has_sums = any(column[1] == b"sum" for column in db.execute("PRAGMA table_info(entries)"))
    if has_sums != (version > 1):
        raise JournalError(f"{path}: the columns are not those of version {version}; {_advice(path)}")
    return version
