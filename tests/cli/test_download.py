"""`kalshilab download` and `kalshilab record` against `kalshilab exchange` in another process."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import kalshilab as kl
from kalshilab.__main__ import main


@pytest.mark.timeout(300)
def test_download_and_record_of_the_local_exchange(
    tmp_path: Path,
    run_command: Callable[..., subprocess.CompletedProcess[str]],
    start_command: Callable[..., subprocess.Popen[str]],
) -> None:
    with start_command("exchange", "--speed", "max", "--warm-up-hours", "100000") as exchange:
        try:
            assert exchange.stdout is not None
            facts: dict[str, Any] = json.loads(exchange.stdout.readline())
            check_download(facts, tmp_path / "lake", run_command)
            check_record(facts, tmp_path / "recorded", run_command)
        finally:
            exchange.terminate()
            exchange.wait(60)


def check_download(
    facts: dict[str, Any], lake: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Download the tape that the exchange has played, and compare."""
    tape, _ = kl.sample()
    first, until = tape["ts"][0].isoformat(), (tape["ts"][-1] + timedelta(days=1)).isoformat()
    done = run_command(
        "download", "--since", first, "--until", until, "--out", str(lake), "--url", facts["rest"],
        "--window-s", "86400", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    totals = json.loads(done.stdout.splitlines()[-1])
    assert (totals["added"], totals["rows"]) == (tape.height, tape.height)
    downloaded = kl.scan_tape(lake).lazy().collect()
    columns = ["ts", "ticker", "price", "size", "taker"]
    assert downloaded.select(columns).equals(tape.select(columns))


def check_record(
    facts: dict[str, Any], lake: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """Record for a second or so; the exchange has played its tape already."""
    key = {"KALSHI_API_KEY_ID": facts["key_id"], "KALSHI_PRIVATE_KEY_PATH": facts["private_key_path"]}
    # The minutes count from the start of the command, and a busy machine needs seconds to open the feed.
    done = run_command(
        "record", "--out", str(lake), "--ws-url", facts["ws"], "--minutes", "0.1", "--json", env=os.environ | key
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["prints"] == 0


@pytest.mark.parametrize("option", ["--window-s", "--window"])
def test_a_window_that_is_not_a_number_is_refused(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = str(tmp_path / "lake")
    assert main(["download", "--since", "2026-01-01", option, "nan", "--out", lake]) == 2
    assert "--window-s must be a finite number >= 0, got nan" in capsys.readouterr().err
