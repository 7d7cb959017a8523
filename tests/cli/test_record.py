"""`kalshilab record` where the feed does not open."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalshilab.__main__ import main
from kalshilab.kalshi.auth import generate_key


def test_a_feed_that_does_not_open_ends_when_the_minutes_are_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_bytes(generate_key("ed25519")[0])
    monkeypatch.setenv("KALSHI_API_KEY_ID", "k")
    monkeypatch.setenv("KALSHI_PRIVATE_KEY_PATH", str(tmp_path / "key.pem"))
    record = ["record", "--out", str(tmp_path / "lake"), "--ws-url", "ws://127.0.0.1:1/ws", "--minutes"]
    assert main([*record, "0.002"]) == 1
    assert "stopped before the feed was open" in capsys.readouterr().err
    assert main([*record, "nan"]) == 2
    assert "--minutes must be a finite number >= 0" in capsys.readouterr().err


def test_recording_without_a_key_names_the_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["record"]) == 2
    error = capsys.readouterr().err
    assert "the trade feed needs a key; set KALSHI_API_KEY_ID" in error
