"""The parser and the exit codes: help, the version, invalid requests, interrupts."""

from __future__ import annotations

from pathlib import Path

import pytest

import kalshilab as kl
from kalshilab.__main__ import main

COMMANDS = (
    "live", "exchange", "validate", "watch", "status", "control", "runs", "download", "record", "import", "doctor",
)  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (["live", "--strategy", "moon"], ["strategy", "'moon'", "hold, rlm_no"]),
        (["live", "--venue", "mars"], ["venue", "'mars'"]),
        (["live", "--strategy", "custom"], ['"module:name"', "custom"]),
        (["live", "--strategy", "custom", "--signal", "no_such:x"], ["no_such"]),
        (["live", "--strategy", "rl_model", "--policy", "math:pi"], ["math:pi", "act(observation)"]),
        (["live", "--minutes", "soon"], ["minutes", "'soon'"]),
        (
            ["live", "--tape", "missing.parquet", "--markets", "missing.parquet"],
            ["missing.parquet: no such file"],
        ),
        (["live", "--tape", "here.parquet"], ["--tape and --markets go together"]),
        (["live", "--venue", "demo"], ["KALSHI_API_KEY_ID"]),
        (
            ["live", "--tape", "here.parquet", "--markets", "here.parquet"],
            ["here.parquet: not a Parquet file"],
        ),
        (["live", "--result-column", "result"], ["--result-column goes with --tape and --markets"]),
        (["exchange", "--speed", "0"], ["speed", "'0'"]),
        (["exchange", "--port", "65536"], ["--port must be from 1 to 65535", "got 65536"]),
        (
            ["exchange", "--faults", "disconnect", "--fault-every-s", "0"],
            ["--fault-every-s must be > 0, got 0"],
        ),
        (
            ["exchange", "--faults", "disconnect", "--fault-every", "0"],
            ["--fault-every-s must be > 0, got 0"],
        ),
        (["exchange", "--warm-up-hours", "-1"], ["--warm-up-hours must be >= 0, got -1"]),
        (["exchange", "--warm-up-hours", "nan"], ["--warm-up-hours must be finite, got nan"]),
        (["exchange", "--latency-ms", "inf"], ["--latency-ms must be finite, got inf"]),
        (["exchange", "--latency", "inf"], ["--latency-ms must be finite, got inf"]),
        (["exchange", "--balance-dollars", "much"], ["balance", "'much'"]),
        (["exchange", "--balance", "much"], ["balance", "'much'"]),
        (["exchange", "--faults", "gremlins"], ["'gremlins'"]),
        (["exchange", "--tape", "here.parquet", "--markets", "here.parquet"], ["not a Parquet file"]),
        (["watch", "nothing"], ["nothing: no such run; runs holds no runs"]),
        (
            ["validate", "--signal", "moon"],
            ["--signal must be MODULE:NAME or one of burst, buy_back", "got moon"],
        ),
        (["validate", "--set", "moon=1"], ["rlm", "moon", "yes_threshold"]),
        (["validate", "--set", "min_trades=few"], ["min_trades", "'few'"]),
        (["validate", "--trials", "0"], ["--trials must be >= 1, got 0"]),
        (["validate", "--latency-s", "-1"], ["--latency-s must be >= 0, got -1"]),
        (["validate", "--latency", "-1"], ["--latency-s must be >= 0, got -1"]),
    ],
)
def test_an_invalid_request_is_one_sentence_and_exit_code_two(
    arguments: list[str],
    facts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.parquet").write_text("not parquet")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    for fact in facts:
        assert fact in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_without_a_command_the_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr().err
    for command in COMMANDS:
        assert command in printed


def test_version_prints_the_package_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"kalshilab {kl.__version__}\n"


def test_help_explains_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "0 success; 1 failure" in printed
    assert "2 invalid request; 130 interrupted" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_describes_itself_in_a_sentence(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    paragraphs = capsys.readouterr().out.split("\n\n")
    assert paragraphs[1].rstrip().endswith(".")


@pytest.mark.parametrize(
    ("command", "former"),
    [
        ("validate", "--latency SECONDS"),
        ("exchange", "--latency MS"),
        ("exchange", "--warm-up HOURS"),
        ("download", "--window SECONDS"),
    ],
)
def test_help_lists_options_by_the_name_with_the_unit(
    command: str, former: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert former not in capsys.readouterr().out


@pytest.mark.parametrize(("name", "code"), [("exchange", 0), ("watch", 130)])
def test_an_interrupt_during_start_up_is_not_a_traceback(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kalshilab.exchange.Exchange.step", interrupted)
    monkeypatch.setattr("kalshilab.trade.status.read_status", interrupted)
    assert main([name, *([str(tmp_path)] if name == "watch" else [])]) == code
    assert capsys.readouterr() == ("", "")
