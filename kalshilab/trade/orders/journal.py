"""The journal: an append-only record of a run in one SQLite file.

An intent is written *before* its order is sent; outcomes, fills and settlements are written as soon as they are known.
Each row is one transaction, so after `kill -9` the file shows which orders were intended and which of them need a
look-up at the exchange.  The database refuses changes and deletions.  Positions, cash and results are folds over these
rows (`kalshilab.trade.orders.portfolio`).

The only table is `entries(seq, ts, wall, kind, key, body)`.  `ts` is exchange time and `wall` machine time, both in
microseconds; `body` is the value as JSON.  `key` is unique within a kind (a fill's trade and order, an intent's client
order id), so a fill that both the stream and REST report is one row.

The file uses write-ahead logging with `synchronous=NORMAL`.  A row survives a killed process at once; a crash of the
machine may lose the last moments, which the reconciliation at the next start fetches from the exchange.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kalshilab.clock import Clock
from kalshilab.errors import JournalError
from kalshilab.market.model import Fill, Order, Settlement
from kalshilab.trade.events import Decision, Fired, Intent, Outcome, Transition

__all__ = ["KINDS", "Entry", "Journal"]

VERSION = 1

KINDS: dict[str, type[msgspec.Struct]] = {
    "decision": Decision,
    "fill": Fill,
    "fire": Fired,
    "intent": Intent,
    "order": Order,
    "outcome": Outcome,
    "settlement": Settlement,
    "transition": Transition,
}
"""The kinds of entry and the value each holds; "note" entries hold a plain JSON object."""

_SCHEMA = """
CREATE TABLE entries (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    ts   INTEGER NOT NULL,
    wall INTEGER NOT NULL,
    kind TEXT NOT NULL,
    key  TEXT,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX once ON entries (kind, key) WHERE key IS NOT NULL;
CREATE TRIGGER no_update BEFORE UPDATE ON entries BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER no_delete BEFORE DELETE ON entries BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
"""

T = TypeVar("T", bound=msgspec.Struct)


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

    @classmethod
    def create(cls, path: Path, clock: Clock, wall: Clock) -> Journal:
        """Create a journal, or open an existing one to continue it.

        Args:
            path: the file; missing folders are created.
            clock: exchange time.
            wall: machine time.

        Raises:
            JournalError: the file is not a journal, has another version, or is not writable.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        db = _connect(path, f"file:{path.as_posix()}?mode=rwc")
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={VERSION}; COMMIT;")
            _check_version(path, db)
        except sqlite3.Error as error:
            db.close()
            raise JournalError(f"{path}: {error}") from None
        return cls(path, db, clock, wall)

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
            _check_version(path, db)
        except sqlite3.Error as error:
            db.close()
            raise JournalError(f"{path}: {error}") from None
        return cls(path, db, None, None)

    def write(self, kind: str, value: msgspec.Struct, key: str | None = None) -> bool:
        """Append one value durably.

        Args:
            kind: one of `KINDS`.
            value: the value.
            key: makes the value unique within its kind.

        Returns:
            False if the key exists already; the journal is then unchanged.
        """
        return self._append(kind, msgspec.json.encode(value).decode(), key)

    def note(self, what: str, **facts: object) -> None:
        """Append a note: its name and its facts."""
        self._append("note", msgspec.json.encode({"what": what, **facts}).decode(), None)

    def _append(self, kind: str, body: str, key: str | None) -> bool:
        if self._clock is None or self._wall is None:
            raise JournalError(f"{self.path}: the journal is open for reading only")
        try:
            done = self._db.execute(
                "INSERT OR IGNORE INTO entries (ts, wall, kind, key, body) VALUES (?, ?, ?, ?, ?)",
                (self._clock.now(), self._wall.now(), kind, key, body),
            )
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: {error}") from None
        return done.rowcount == 1

    def __iter__(self) -> Iterator[Entry]:
        """Yield all entries in the order of writing."""
        yield from self._select("SELECT seq, ts, wall, kind, key, body FROM entries ORDER BY seq")

    def values(self, kind: str) -> list[Any]:
        """Return the values of one kind, in the order of writing."""
        query = "SELECT seq, ts, wall, kind, key, body FROM entries WHERE kind = ? ORDER BY seq"
        return [entry.value for entry in self._select(query, kind)]

    def _select(self, query: str, *arguments: object) -> Iterator[Entry]:
        try:
            for seq, ts, wall, kind, key, body in self._db.execute(query, arguments):
                target: Any = KINDS.get(kind, dict)
                yield Entry(seq, ts, wall, kind, key, msgspec.json.decode(body, type=target))
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise JournalError(f"{self.path}: {error}") from None

    def unresolved(self) -> list[Intent]:
        """Return the intents without a known outcome, which a restart must look up at the exchange."""
        resolved = {o.client_order_id for o in self.values("outcome") if o.kind != "unknown"}
        return [i for i in self.values("intent") if i.client_order_id not in resolved]

    def close(self) -> None:
        """Close the file; further calls raise an error."""
        self._db.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Journal({self.path.name})"


def _connect(path: Path, uri: str) -> sqlite3.Connection:
    try:
        # Autocommit: each append is one transaction.  The session's thread is the only writer.
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=5.0)
    except sqlite3.Error as error:
        raise JournalError(f"{path}: {error}") from None


def _check_version(path: Path, db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version != VERSION:
        raise JournalError(f"{path}: journal version must be {VERSION}, got {version}")
