"""The journal is append-only, typed, unique by key, and readable while it grows and after a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

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
    with pytest.raises(JournalError, match="journal version must be 1, got 0"):
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
