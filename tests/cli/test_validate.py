"""`kalshilab validate`: a card in the terminal, as JSON, and as a file."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

import kalshilab as kl
from kalshilab.__main__ import main
from kalshilab.cli.validate import signal_of
from kalshilab.errors import UsageError
from kalshilab.tape.lake.lake import Lake


def test_a_card_in_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = main(
        [
            "validate",
            "--signal",
            "rlm",
            "--set",
            "min_trades=15",
            "--claim",
            "17.38",
            "--out",
            str(tmp_path),
            "--json",
        ]
    )
    out = capsys.readouterr().out
    assert said == 0 and out.startswith("RLM: claimed +17.4 c;")
    assert " 3 sample        FAIL" in out and "INSUFFICIENT" in out
    told = json.loads(out.splitlines()[-1])
    assert told["spec"]["parameters"]["min_trades"] == 15
    assert json.loads(next(tmp_path.glob("rlm-*.json")).read_text()) == told


def test_a_lake_and_a_grid(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.append(*kl.sample())
    assert main(["validate", "--lake", str(lake.path), "--grid", "min_trades=15,25", "--signal", "rlm"]) == 0
    alone = capsys.readouterr().out
    assert "INSUFFICIENT" in alone
    two = ["--grid", "min_trades=15,25", "--signal", "rlm", "--processes", "2"]
    assert main(["validate", "--lake", str(lake.path), *two]) == 0
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--signal", "nonsense"], "nonsense"),
        (["--set", "min_trades"], "NAME=VALUE"),
        (["--set", "flow_rate=3"], "flow_rate must be one of its parameters"),
        (["--lake", "nowhere"], "nowhere"),
        (["--processes", "0"], "at least 1"),
        (["--runs", "nowhere"], "no finished run"),
        (["--registry", "none.jsonl"], "is not registered"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", *arguments]) in (1, 2)
    assert said in capsys.readouterr().err


def test_paper_runs_decide_the_last_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def trade() -> Path:
        settings = kl.Settings(env={}, env_file=None, min_trades=15, out=str(tmp_path / "runs"))
        async with kl.PaperSession(settings) as session:
            return (await session.run()).run_dir

    run = asyncio.run(trade())
    for folder in (run, run.parent):
        assert main(["validate", "--set", "min_trades=15", "--runs", str(folder)]) == 0
        assert "13 live" in (said := capsys.readouterr().out) and "ACCRUING" in said


def test_a_signal_of_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lies_here.py").write_text("import kalshilab as kl\nmade = kl.signals.Rlm(min_trades=9)\n")
    monkeypatch.chdir(tmp_path)
    # As an installed script has it, and so that it is put back.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert main(["validate", "--signal", "lies_here:made"]) == 0
    assert capsys.readouterr().out.startswith("RLM: ")


def test_a_signal_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_to_judge.py").write_text(
        "import kalshilab as kl\nmade = kl.signals.Rlm(min_trades=9)\nkind = kl.signals.Burst\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert signal_of("mine_to_judge:made", {}).parameters["min_trades"] == 9
    assert signal_of("mine_to_judge:kind", {"min_trades": 4}).parameters["min_trades"] == 4
    with pytest.raises(UsageError, match="made already"):
        signal_of("mine_to_judge:made", {"min_trades": 4})
