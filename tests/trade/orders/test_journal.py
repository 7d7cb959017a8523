"""The journal is append-only, typed, unique by key, and readable while it grows and after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kalshilab.clock import SimClock
from kalshilab.errors import JournalError
from kalshilab.market.model import Fill
from kalshilab.signals import RlmFire
from kalshilab.trade.events import Decision, Fired, Intent, Outcome, client_order_id
from kalshilab.trade.orders.journal import Journal

FIRE = Fired.of(RlmFire(3, 5_000, "A-B-1", "no", 4_500, 25, 0.8, 500, 5_000))
FILL = Fill(
    trade_id="t", order_id="o", ticker="A-B-1", side="ask", price=4500, size=100, fee=1, is_taker=True, ts=9
)


def intent(n: int = 0) -> Intent:
    return Intent(
        client_order_id=client_order_id("run", FIRE, n),
        ts=1,
        ticker="A-B-1",
        side="ask",
        price=4500,
        size=100,
        fire=FIRE,
    )


def test_values_are_read_as_written(journal: Journal) -> None:
    decision = Decision(ts=1, ticker="A-B-1", action="placed", yes_ratio=0.1 + 0.2)
    journal.write("fire", FIRE)
    journal.write("decision", decision)
    journal.write("intent", intent(), intent().client_order_id)
    journal.note("start", run="x")
    assert journal.values("fire") == [FIRE]
    assert journal.values("decision") == [decision]
    assert journal.values("intent") == [intent()]
    assert [(e.kind, e.ts, e.wall) for e in journal][-1] == ("note", 1_000_000, 5)


def test_a_key_is_written_once(journal: Journal) -> None:
    assert journal.write("fill", FILL, "t|o")
    assert not journal.write("fill", FILL, "t|o")
    assert journal.write("decision", Decision(ts=1, ticker="x", action="skipped"))
    assert journal.write("decision", Decision(ts=1, ticker="x", action="skipped"))
    assert len(journal.values("fill")) == 1


def test_the_database_refuses_changes_and_deletions(journal: Journal, tmp_path: Path) -> None:
    journal.write("fire", FIRE)
    other = sqlite3.connect(tmp_path / "journal.sqlite")
    for statement in ("UPDATE entries SET body = '{}'", "DELETE FROM entries"):
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            other.execute(statement)
    other.close()


def test_intents_without_a_known_outcome_are_unresolved(journal: Journal) -> None:
    for n in range(3):
        journal.write("intent", intent(n), intent(n).client_order_id)
    journal.write("outcome", Outcome(client_order_id=intent(0).client_order_id, ts=1, kind="accepted"))
    journal.write("outcome", Outcome(client_order_id=intent(1).client_order_id, ts=1, kind="unknown"))
    assert [i.client_order_id for i in journal.unresolved()] == [
        intent(1).client_order_id,
        intent(2).client_order_id,
    ]


def test_each_fire_and_attempt_has_its_own_stable_id() -> None:
    ids = {client_order_id("run", FIRE, n) for n in range(50)} | {client_order_id("other", FIRE)}
    assert len(ids) == 51
    assert client_order_id("run", FIRE) == client_order_id("run", FIRE)
    assert all(len(i) <= 64 and i.isascii() for i in ids)


def test_a_reader_sees_rows_while_the_journal_grows(journal: Journal) -> None:
    with Journal.open(journal.path) as reader:
        assert list(reader) == []
        journal.write("fire", FIRE)
        assert reader.values("fire") == [FIRE]
        with pytest.raises(JournalError, match="open for reading only"):
            reader.write("fire", FIRE)


def test_a_file_that_is_not_a_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no such journal"):
        Journal.open(tmp_path / "missing.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("hello, this is not a database at all, but long enough to look at")
    with pytest.raises(JournalError, match="not a database"):
        Journal.open(text)
    other = sqlite3.connect(tmp_path / "other.sqlite")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with pytest.raises(JournalError, match="journal version must be 2, got 0"):
        Journal.create(tmp_path / "other.sqlite", SimClock(), SimClock())


KILLED = """
import os, sys
from pathlib import Path
from kalshilab.clock import SimClock
from kalshilab.trade.orders.journal import Journal
journal = Journal.create(Path(sys.argv[1]), SimClock(), SimClock())
n = 0
while True:
    journal.note("row", n=n)
    print(n, flush=True)
    n += 1
"""


def test_a_kill_loses_no_written_row(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    printed = -1
    for line in child.stdout:
        printed = int(line)
        if printed >= 200:
            os.kill(child.pid, signal.SIGKILL)
            break
    rest = child.stdout.read().split()
    child.stdout.close()
    child.wait()
    printed = int(rest[-1]) if rest else printed
    with Journal.open(path) as reader:
        rows = [e.value["n"] for e in reader]
    assert rows[: printed + 1] == list(range(printed + 1))


# Version 1

VERSION_1 = """
CREATE TABLE entries (seq INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, wall INTEGER NOT NULL,
    kind TEXT NOT NULL, key TEXT, body TEXT NOT NULL);
INSERT INTO entries VALUES (1, 5, 6, 'note', NULL, '{"what":"start"}'), (3, 7, 8, 'note', NULL, '{"what":"end"}');
PRAGMA user_version=1;
"""


def test_a_journal_without_checksums_is_read_but_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    old.close()
    with Journal.open(path) as reader:
        assert [(e.seq, e.value["what"]) for e in reader] == [(1, "start"), (3, "end")]
        assert reader.values("note") == [{"what": "start"}, {"what": "end"}]
    with pytest.raises(JournalError, match="must be 2 to be continued, got 1"):
        Journal.create(path, SimClock(), SimClock())


# Later lives and failures of the disk


def test_a_later_life_continues_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    for life in range(3):
        with Journal.create(path, SimClock(), SimClock()) as journal:
            assert journal.write("fill", FILL, "t|o") == (life == 0)
            journal.note("start", life=life)
    with Journal.open(path) as reader:
        assert [e.seq for e in reader] == [1, 2, 3, 4]
        assert [v["life"] for v in reader.values("note")] == [0, 1, 2]


def test_a_second_writer_is_refused(journal: Journal) -> None:
    with Journal.create(journal.path, SimClock(), SimClock()) as other:
        other.note("first")
        with pytest.raises(JournalError, match=r"row 1 cannot be written.*another session"):
            journal.note("second")


def test_a_full_disk_is_a_journal_error(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "journal.sqlite", SimClock(), SimClock()) as journal:
        journal.note("start")
        journal._db.execute("PRAGMA max_page_count = 1")
        with pytest.raises(JournalError, match="full"):
            for _ in range(100):
                journal.note("row", text="x" * 1000)
    with Journal.create(tmp_path / "journal.sqlite", SimClock(), SimClock()) as journal:
        rows = len(list(journal))
        journal.note("again")
        assert len(list(journal)) == len(journal) == rows + 1


# Damage

ROWS = 120


def facts(journal: Journal) -> list[tuple[object, ...]]:
    return [(e.seq, e.ts, e.wall, e.kind, e.key, e.value) for e in journal]


def fill_with_rows(journal: Journal) -> None:
    for n in range(ROWS // 4):
        journal.write("fire", FIRE)
        journal.write("intent", intent(n), intent(n).client_order_id)
        journal.write("decision", Decision(ts=n, ticker="A-B-1", action="placed", yes_ratio=n / 7))
        journal.note("row", n=n)


class Written(NamedTuple):
    """The files of a journal, and its rows."""

    files: dict[str, bytes]
    rows: list[tuple[object, ...]]

    def put(self, folder: Path, **changed: bytes | None) -> Path:
        """Write the files into a folder, some of them changed or left out; return the journal's path."""
        for name, content in (self.files | changed).items():
            (folder / name).unlink(missing_ok=True)
            if content is not None:
                (folder / name).write_bytes(content)
        return folder / "journal.sqlite"


@pytest.fixture(scope="module", params=["closed", "killed"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return a journal that was closed, or whose process was killed: its latest rows are in the write-ahead log."""
    folder = tmp_path_factory.mktemp("written")
    with Journal.create(folder / "journal.sqlite", SimClock(3), SimClock(4)) as journal:
        fill_with_rows(journal)
        if request.param == "killed":
            files = {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith("-shm")}
    if request.param == "closed":
        files = {p.name: p.read_bytes() for p in folder.iterdir()}
    with Journal.open(folder / "journal.sqlite") as journal:
        return Written(files, facts(journal))


def check_damaged(path: Path, rows: list[tuple[object, ...]]) -> bool:
    """Check that a damaged journal is refused or read unchanged; return whether it was refused."""
    try:
        with Journal.open(path) as journal:
            assert facts(journal) == rows
            assert journal.values("intent") == [row[-1] for row in rows if row[3] == "intent"]
    except JournalError as error:
        assert str(path) in str(error)
        return True
    return False


DAMAGES = settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@DAMAGES
@given(data=st.data())
def test_a_changed_byte_is_found_or_harmless(written: Written, tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(written.files)))
    content = bytearray(written.files[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    check_damaged(written.put(tmp_path, **{name: bytes(content)}), written.rows)


@DAMAGES
@given(data=st.data())
def test_a_file_that_was_cut_off_is_found_or_harmless(
    written: Written, tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(written.files)))
    content = written.files[name]
    size = data.draw(st.integers(0, len(content) - 1))
    check_damaged(written.put(tmp_path, **{name: content[:size]}), written.rows)


def test_a_missing_write_ahead_log_is_found(written: Written, tmp_path: Path) -> None:
    path = written.put(tmp_path, **{"journal.sqlite-wal": None})
    assert check_damaged(path, written.rows) == ("journal.sqlite-wal" in written.files)


def test_a_copy_without_its_head_is_read(written: Written, tmp_path: Path) -> None:
    assert not check_damaged(written.put(tmp_path, **{"journal.head": None}), written.rows)


CHANGES = {
    "ts": "ts + 1",
    "wall": "wall - 1",
    "kind": "'decision'",
    "key": "'other'",
    "body": "replace(body, 'A-B-1', 'A-B-2') || ' '",
    "sum": "sum + 1",
    "seq": "seq + 10000",
}


@DAMAGES
@given(row=st.integers(1, ROWS), column=st.sampled_from(["", *CHANGES]))
def test_a_changed_or_missing_row_is_named(written: Written, tmp_path: Path, row: int, column: str) -> None:
    path = written.put(tmp_path)
    other = sqlite3.connect(path)
    other.executescript("DROP TRIGGER no_update; DROP TRIGGER no_delete;")
    change = f"UPDATE entries SET {column} = {CHANGES[column]}" if column else "DELETE FROM entries"
    changed = other.execute(f"{change} WHERE seq = ? AND kind != 'decision'", (row,)).rowcount
    other.commit()
    other.close()
    if not changed:
        assert not check_damaged(path, written.rows)
        return
    for read in (list, lambda journal: journal.values("note")):
        with Journal.open(path) as journal, pytest.raises(JournalError, match=rf"row {row} "):
            read(journal)
    with pytest.raises(JournalError, match=rf"row {row} .*kalshilab doctor"):
        Journal.create(path, SimClock(), SimClock())


def test_an_index_that_was_changed_prevents_that_the_journal_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with Journal.create(path, SimClock(), SimClock()) as journal:
        fill_with_rows(journal)
    content = path.read_bytes()
    key = intent(3).client_order_id.encode()
    at = [n for n in range(len(content)) if content.startswith(b"intent" + key, n)]
    entries = [n for n in at if content[n + 6 + len(key)] != ord("{")]
    path.write_bytes(content[: entries[0] + 6] + b"K" + content[entries[0] + 7 :])
    with Journal.open(path) as journal:
        assert len(list(journal)) == ROWS
    with pytest.raises(JournalError, match="index once"):
        Journal.create(path, SimClock(), SimClock())


def test_missing_rows_at_the_end_are_named(written: Written, tmp_path: Path) -> None:
    path = written.put(tmp_path)
    other = sqlite3.connect(path)
    other.executescript("DROP TRIGGER no_delete; DELETE FROM entries WHERE seq > 100;")
    other.close()
    with Journal.open(path) as journal, pytest.raises(JournalError, match="rows 101 to 120 are missing"):
        list(journal)
