"""`kalshilab validate`: a card on the terminal, as JSON and as a file; signals by name."""

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


def test_a_card_is_printed_and_saved(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--set", "min_trades=15", "--claim", "17.38", "--out", str(tmp_path), "--json"]
    assert main(["validate", "--signal", "rlm", *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("RLM: claimed +17.4 c;")
    assert " 3 sample        FAIL" in out and "INSUFFICIENT" in out
    card = json.loads(out.splitlines()[-1])
    assert card["spec"]["parameters"]["min_trades"] == 15
    assert json.loads(next(tmp_path.glob("rlm-*.json")).read_text()) == card


@pytest.mark.soak
def test_two_processes_give_the_same_card_of_a_lake(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.append(*kl.sample())
    assert main(["validate", "--lake", str(lake.path), "--grid", "min_trades=15,25", "--signal", "rlm"]) == 0
    one_process = capsys.readouterr().out
    assert "INSUFFICIENT" in one_process
    two_processes = ["--grid", "min_trades=15,25", "--signal", "rlm", "--processes", "2"]
    assert main(["validate", "--lake", str(lake.path), *two_processes]) == 0
    assert capsys.readouterr().out == one_process


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["--signal", "nonsense"], "nonsense"),
        (["--set", "min_trades"], "--set must be NAME=VALUE, got min_trades"),
        (["--set", "flow_rate=3"], "flow_rate"),
        (["--lake", "nowhere"], "nowhere"),
        (["--processes", "0"], "--processes must be >= 1, got 0"),
        (["--runs", "nowhere"], "no finished run"),
        (["--registry", "none.jsonl"], "regist"),
    ],
)
def test_an_invalid_request_names_its_cause(
    arguments: list[str],
    fact: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["validate", *arguments]) in (1, 2)
    assert fact in capsys.readouterr().err


def test_paper_runs_decide_the_last_criterion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def trade() -> Path:
        settings = kl.Settings(env={}, env_file=None, min_trades=15, out=str(tmp_path / "runs"))
        async with kl.PaperSession(settings) as session:
            return (await session.run()).run_dir

    run = asyncio.run(trade())
    for folder in (run, run.parent):
        assert main(["validate", "--set", "min_trades=15", "--runs", str(folder)]) == 0
        out = capsys.readouterr().out
        assert "13 live" in out and "ACCRUING" in out


def test_a_module_of_the_working_folder_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "local_signal.py").write_text("import kalshilab as kl\nmade = kl.signals.Rlm(min_trades=9)\n")
    monkeypatch.chdir(tmp_path)
    # The path of an installed script, which lacks the working folder; monkeypatch restores it.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    assert main(["validate", "--signal", "local_signal:made"]) == 0
    assert capsys.readouterr().out.startswith("RLM: ")


def test_a_class_takes_parameters_and_an_instance_refuses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "importable_signal.py").write_text(
        "import kalshilab as kl\nmade = kl.signals.Rlm(min_trades=9)\nkind = kl.signals.Burst\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert signal_of("importable_signal:made", {}).parameters["min_trades"] == 9
    assert signal_of("importable_signal:kind", {"min_trades": 4}).parameters["min_trades"] == 4
    with pytest.raises(UsageError, match="which is an instance"):
        signal_of("importable_signal:made", {"min_trades": 4})
