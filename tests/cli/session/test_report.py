"""`kalshilab report` on runs that were killed, that have ended, and that still have a session."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalshilab.__main__ import main
from kalshilab.clock import SimClock
from kalshilab.market.model import Fill
from kalshilab.trade.live.lease import RunLock
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report

FILL = Fill(
    trade_id="t",
    order_id="o",
    ticker="A-B-1",
    side="bid",
    price=4000,
    size=500,
    fee=10_000,
    is_taker=True,
    ts=9,
)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Return the folder of a run that was killed after one fill of another program."""
    with Journal.create(tmp_path / "run-7" / "journal.sqlite", SimClock(5), SimClock(6)) as journal:
        journal.note("start", run="run-7")
        journal.note("account", cash=5_000_000, positions=[])
        journal.write("fill", FILL, "t|o")
    return tmp_path / "run-7"


def test_the_numbers_of_a_killed_run_are_printed(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(killed)]) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {name.strip(): value.strip() for name, value in shown.items()}
    assert shown["stopped"] == "killed"
    assert (shown["foreign fills"], shown["open positions"], shown["cash"]) == ("1", "1", "$2.99")
    assert not (killed / "report.json").exists()


def test_the_report_of_a_killed_run_is_saved_once(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(killed), "--save"]) == 0
    assert "written: " in capsys.readouterr().out
    assert Report.load(killed).fills.height == 1 and (killed / "fills.parquet").is_file()
    assert main(["report", str(killed), "--save"]) == 0
    assert "report.json is there already" in capsys.readouterr().out


def test_the_report_of_a_running_session_is_not_saved(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLock(killed):
        assert main(["report", str(killed)]) == 0
        assert "stopped            running\n" in capsys.readouterr().out
        assert main(["report", str(killed), "--save"]) == 2
    assert "another session writes to this run" in capsys.readouterr().err
    assert not (killed / "report.json").exists()


def test_a_damaged_journal_is_refused_with_its_row(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = killed / "journal.sqlite"
    path.write_bytes(path.read_bytes().replace(b"A-B-1", b"A-B-2"))
    assert main(["report", str(killed)]) == 2
    error = capsys.readouterr().err
    assert "row 3 cannot be read" in error and f"run: kalshilab doctor {killed}" in error
