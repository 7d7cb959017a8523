"""A survey finds every intact row of a damaged journal, and the numbers of the others."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trade.orders.test_journal import ROWS, VERSION_1, Written, facts, fill_with_rows

from kalshilab.clock import SimClock
from kalshilab.errors import JournalError
from kalshilab.market.model import Fill
from kalshilab.trade.orders.journal import Journal, StoredRow, entry_of
from kalshilab.trade.orders.journal_survey import AddedEntry, rebuild_journal, survey_journal

DAMAGES = settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Return a journal that was closed."""
    folder = tmp_path_factory.mktemp("written")
    with Journal.create(folder / "journal.sqlite", SimClock(3), SimClock(4)) as journal:
        fill_with_rows(journal)
        rows = facts(journal)
    return Written({p.name: p.read_bytes() for p in folder.iterdir()}, rows)


def shown(rows: list[StoredRow]) -> list[tuple[object, ...]]:
    return [(e.seq, e.ts, e.wall, e.kind, e.key, e.value) for e in map(entry_of, rows)]


def check_survey(written: Written, path: Path) -> list[int]:
    """Check that a survey invents nothing and names every row that it lacks; return the lost rows."""
    survey = survey_journal(path)
    lost = set(survey.lost)
    assert shown(survey.rows) == [row for row in written.rows if row[0] not in lost]
    assert lost <= set(range(1, ROWS + 1)) and survey.kinds.keys() <= lost
    return survey.lost


@DAMAGES
@given(data=st.data())
def test_a_changed_byte_costs_at_most_the_rows_of_its_page(
    written: Written, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(written.files["journal.sqlite"])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    lost = check_survey(written, written.put(tmp_path, **{"journal.sqlite": bytes(content)}))
    assert len(lost) <= ROWS // 4 or at // 4096 in interior(written), (at, lost)


def interior(written: Written) -> set[int]:
    """Return the pages of the database through which the rows are found: without one, its rows are lost."""
    content = written.files["journal.sqlite"]
    return {n for n in range(1, len(content) // 4096) if content[n * 4096] == 5}


@DAMAGES
@given(data=st.data())
def test_a_file_that_was_cut_off_keeps_its_first_rows(
    written: Written, tmp_path: Path, data: st.DataObject
) -> None:
    content = written.files["journal.sqlite"]
    size = data.draw(st.integers(0, len(content) - 1))
    check_survey(written, written.put(tmp_path, **{"journal.sqlite": content[:size]}))


@DAMAGES
@given(rows=st.sets(st.integers(1, ROWS), max_size=8))
def test_missing_rows_are_the_only_ones_that_are_lost(
    written: Written, tmp_path: Path, rows: set[int]
) -> None:
    path = written.put(tmp_path)
    other = sqlite3.connect(path)
    other.execute("DROP TRIGGER no_delete")
    other.executemany("DELETE FROM entries WHERE seq = ?", [(row,) for row in rows])
    other.commit()
    other.close()
    assert check_survey(written, path) == sorted(rows)


def test_a_journal_whose_first_page_is_gone_keeps_every_row(written: Written, tmp_path: Path) -> None:
    content = bytes(4096) + written.files["journal.sqlite"][4096:]
    assert check_survey(written, written.put(tmp_path, **{"journal.sqlite": content})) == []


def test_the_kind_of_a_damaged_row_is_named(written: Written, tmp_path: Path) -> None:
    path = written.put(tmp_path)
    other = sqlite3.connect(path)
    other.executescript("DROP TRIGGER no_update; UPDATE entries SET body = '{}' WHERE seq IN (2, 4)")
    other.close()
    survey = survey_journal(path)
    assert survey.lost == [2, 4] and survey.kinds == {2: "intent", 4: "note"}


def test_a_journal_of_version_1_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    old.close()
    with pytest.raises(JournalError, match="version 1 has no checksums"):
        survey_journal(path)


def test_a_rebuilt_journal_has_the_rows_and_the_added_entries_at_their_places(tmp_path: Path) -> None:
    clock, wall = SimClock(), SimClock()
    with Journal.create(tmp_path / "journal.sqlite", clock, wall) as journal:
        for ts in (10, 20, 30):
            clock.advance(ts)
            wall.advance(ts + 1)
            journal.note("row", ts=ts)
    rows = survey_journal(tmp_path / "journal.sqlite").rows
    fill = Fill(
        trade_id="t", order_id="o", ticker="A", side="bid", price=1, size=2, fee=3, is_taker=True, ts=25
    )
    added = [AddedEntry(3, 40, "note", {"what": "late"}), AddedEntry(2, 25, "fill", fill, "t|o")]
    for _ in range(2):
        rebuild_journal(tmp_path / "rebuilt.sqlite", [rows[0], rows[2]], added)
        with Journal.open(tmp_path / "rebuilt.sqlite") as journal:
            assert [(e.seq, e.ts, e.wall, e.kind) for e in journal] == [
                (1, 10, 11, "note"), (2, 25, 11, "fill"), (3, 30, 31, "note"), (4, 40, 31, "note"),
            ]  # fmt: skip
            assert journal.values("fill") == [fill]
