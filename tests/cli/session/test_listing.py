"""`kalshilab runs`: the list of runs, and the removal of old ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from cli.session.conftest import MakeRun

from kalshilab.__main__ import main
from kalshilab.clock import WallClock

DAY_S = 86_400


@pytest.fixture
def runs(make_run: MakeRun, tmp_path: Path) -> Path:
    """Make five runs, the last of which lives, and a folder that is not a run."""
    now_s = WallClock().now() / 1e6
    for day in range(1, 6):
        ended = {"state": "SHUTDOWN", "finished": True, "stopped": "tape ended", "alive": False}
        facts = {1: {"alive": False}, 5: {}}.get(day, ended)
        folder = make_run(f"2026120{day}T000000Z", **facts)
        if 1 < day < 5:
            (folder / "report.json").write_text("{}")
        age_s = (5 - day) * DAY_S + 60
        os.utime(folder / "status.json", (now_s - age_s, now_s - age_s))
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path / "runs"


def names(runs: Path) -> list[str]:
    return sorted(path.name[6:8] for path in runs.glob("2026*"))


def test_runs_are_listed_from_the_latest(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["20261205T000000Z", "running"],
        ["20261204T000000Z", "ended"],
        ["20261203T000000Z", "ended"],
        ["20261202T000000Z", "ended"],
        ["20261201T000000Z", "dead"],
    ]
    assert lines[1].endswith("tape ended")
    assert main(["runs", "list", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["life"] == "running" and first["venue"] == "demo"


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep", "2"], ["01", "04", "05"]),
        (["--keep", "0"], ["01", "05"]),
        (["--keep", "0", "--dead"], ["05"]),
        (["--older-than", "2.5"], ["01", "03", "04", "05"]),
        (["--older-than", "1.5"], ["01", "04", "05"]),
        (["--keep", "4", "--older-than", "0"], ["01", "02", "03", "04", "05"]),
        (["--keep", "0", "--dry-run"], ["01", "02", "03", "04", "05"]),
    ],
)
def test_prune_removes_ended_runs_only(options: list[str], left: list[str], runs: Path) -> None:
    assert main(["runs", "prune", *options]) == 0
    assert names(runs) == left and (runs / "notes").is_dir()


def test_a_run_that_ended_without_a_report_is_kept_like_one_that_died(runs: Path) -> None:
    (runs / "20261203T000000Z" / "report.json").unlink()
    assert main(["runs", "prune", "--keep", "0"]) == 0
    assert names(runs) == ["01", "03", "05"]
    assert main(["runs", "prune", "--keep", "0", "--dead"]) == 0
    assert names(runs) == ["05"]


def test_prune_needs_a_rule(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "prune"]) == 2
    assert main(["runs", "prune", "--keep", "-1"]) == 2
    assert main(["runs", "prune", "--older-than", "-1"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "runs prune needs --keep N, --older-than DAYS, or both" in lines[0]
    assert "--keep must be >= 0, got -1" in lines[1] and "--older-than must be" in lines[2]
    assert len(names(runs)) == 5


def test_a_damaged_status_is_listed_and_kept(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "20261203T000000Z" / "status.json").write_text("{")
    assert main(["runs"]) == 0
    assert "20261203T000000Z     damaged" in capsys.readouterr().out
    assert main(["runs", "prune", "--keep", "0"]) == 0
    assert names(runs) == ["01", "03", "05"]
