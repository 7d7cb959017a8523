"""A report made from a journal alone: that of a run that ended equals the session's, and a killed run has one too."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from made_tapes import leaning

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.errors import JournalError, SessionError
from kalshilab.trade.orders.journal import Entry, Journal
from kalshilab.trade.session.report import FRAMES, Report
from kalshilab.trade.session.session import PaperSession

NOT_RECORDED = ("account_differences",)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Return the report of a session that played a small tape to its end."""
    folder = tmp_path_factory.mktemp("ended")
    for name, table in zip(("tape", "markets"), leaning(12), strict=True):
        table.write_parquet(folder / f"{name}.parquet")
    settings = Settings(
        env={}, env_file=None, out=str(folder / "runs"), categories=("all",), tape=str(folder / "tape.parquet"),
        markets=str(folder / "markets.parquet"), min_trades=8, min_drop=1, close_min_minutes=0, attempts_per_minute=1e6,
    )  # fmt: skip

    async def session() -> Report:
        async with PaperSession(settings) as opened:
            return await opened.run()

    return asyncio.run(session())


def cut(journal: Path, folder: Path, rows: int | None = None) -> Path:
    """Write the first rows of a journal to a folder, as a killed run leaves them."""
    clock, wall = SimClock(), SimClock()
    with Journal.open(journal) as reader, Journal.create(folder / "journal.sqlite", clock, wall) as writer:
        for entry in list(reader)[:rows]:
            clock.advance(entry.ts)
            wall.advance(entry.wall)
            writer.write(entry.kind, entry.value, entry.key)
    return folder


def test_the_journal_of_a_run_gives_the_report_of_its_session(ended: Report) -> None:
    again = Report.from_journal(ended.run_dir)
    assert (again.run_id, again.state, again.stopped) == (ended.run_id, ended.state, ended.stopped)
    assert again.provenance == ended.provenance and ended.provenance
    expected = {name: count for name, count in ended.counts.items() if name not in NOT_RECORDED}
    assert again.counts == expected
    for name in set(FRAMES) - {"equity", "markets", "signals"}:
        assert getattr(again, name).equals(getattr(ended, name)), name
    assert again.signals.select(ended.signals.columns).equals(ended.signals)
    assert again.markets.sort("ticker").equals(ended.markets.sort("ticker"))


def test_the_equity_curve_of_a_journal_has_the_same_start_and_end(ended: Report) -> None:
    rebuilt, drawn = Report.from_journal(ended.run_dir).equity, ended.equity
    assert rebuilt.row(0) == drawn.row(0)
    assert rebuilt.row(-1)[1:] == drawn.row(-1)[1:]
    assert rebuilt["ts"].is_sorted() and rebuilt.height > ended.fills.height
    assert (rebuilt["cash"] - drawn["cash"][-1]).abs().min() == 0


def test_a_killed_run_has_a_report(ended: Report, tmp_path: Path) -> None:
    with Journal.open(ended.journal) as journal:
        entries: list[Entry] = list(journal)
    fills = [n for n, entry in enumerate(entries) if entry.kind == "fill"]
    killed = cut(ended.journal, tmp_path / "killed", fills[len(fills) // 2] + 1)
    report = Report.load(killed)
    assert report.stopped == "killed" and report.state in ("READY", "ACTING")
    assert report.counts["fills"] == report.fills.height == len(fills) // 2 + 1
    assert report.counts["orders"] <= report.orders.height <= report.counts["orders"] + 1
    assert report.counts["open_positions"] == report.positions.height > 0
    assert report.counts["cash_cents"] == round(report.equity["cash"][-1] * 100)
    assert dict(report.summary().rows())["fills"] == f"{report.counts['fills']:,}"


def test_the_report_of_a_killed_run_can_be_saved(ended: Report, tmp_path: Path) -> None:
    killed = cut(ended.journal, tmp_path / "killed", 100)
    report = Report.load(killed)
    report.save()
    again = Report.load(killed)
    assert again.counts == report.counts and again.stopped == report.stopped
    for name in FRAMES:
        assert again.raw(name).equals(report.raw(name)), name


def test_a_run_that_never_read_its_account_has_a_report_without_cash(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "journal.sqlite", SimClock(), SimClock()) as journal:
        journal.note("start", run="run-7")
        journal.note("error", error="SessionError", text="no feed")
    report = Report.load(tmp_path)
    assert (report.run_id, report.stopped) == ("run-7", "SessionError: no feed")
    assert "cash_cents" not in report.counts and report.equity.height == 0


def test_a_folder_without_a_run_and_a_damaged_journal_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match=r"no finished run here \(report.json is missing\)"):
        Report.load(tmp_path)
    with Journal.create(tmp_path / "journal.sqlite", SimClock(), SimClock()) as journal:
        journal.note("start", run="run-7")
    content = (tmp_path / "journal.sqlite").read_bytes()
    (tmp_path / "journal.sqlite").write_bytes(content.replace(b"run-7", b"run-8"))
    with pytest.raises(JournalError, match="row 1 "):
        Report.load(tmp_path)
