"""`kalshilab doctor` on the installation; lakes are in `test_import_archives`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kalshilab.__main__ import main


def test_doctor_lists_packages_and_hides_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KALSHI_API_KEY_ID", "very-secret-id")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "polars" in out and "runs go to" in out
    assert "very-secret-id" not in out
    assert re.search(r"extra fast: aiohttp \d.*, picows \d", out)


def test_doctor_states_where_each_setting_comes_from_and_refuses_contradictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLM_CONTRACTS", "7")
    (tmp_path / ".env").write_text("\nKALSHILAB_MAX_POSITION=70\n")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  contracts from environment variable RLM_CONTRACTS" in lines
    assert "  max_position from .env, line 2 (KALSHILAB_MAX_POSITION)" in lines
    assert not any("min_trades from" in line for line in lines)
    monkeypatch.setenv("RLM_CONTRACTS", "71")
    assert main(["doctor"]) == 2
    assert (
        "contracts must be at most max_position (70), or no order could be placed" in capsys.readouterr().err
    )


def test_a_broken_line_of_an_env_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("# fine\nRLM_MIN_TRADES=25\nthis line is broken\n")
    assert main(["doctor"]) == 2
    assert ".env, line 3" in capsys.readouterr().err
