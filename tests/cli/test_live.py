"""`kalshilab live`: a whole run, SIGTERM in the middle of one, and runs that cannot start."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from kalshilab.__main__ import main
from kalshilab.errors import SessionError
from kalshilab.notebook.runner import LiveRun
from kalshilab.trade.session.report import Report
from kalshilab.trade.status import read_status


def test_a_run_of_the_sample_ends_with_its_numbers(
    tmp_path: Path, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_command("live", "--categories", "all", "--json")
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    expected = {
        "trades",
        "signals",
        "orders",
        "fills",
        "settlements",
        "pnl_cents",
        "state",
        "stopped",
        "notebook",
        "journal",
    }
    assert expected <= facts.keys()
    assert min(facts[k] for k in ("trades", "signals", "orders", "fills", "settlements")) > 0
    assert (facts["state"], facts["stopped"], facts["error"]) == ("SHUTDOWN", "tape ended", "")
    saved = Path(facts["notebook"])
    assert saved.is_file() and saved.stat().st_size < 300_000
    assert str(tmp_path) not in saved.read_text(), "the notebook holds no path of this machine"
    assert Report.load(saved.parent).counts["orders"] == facts["orders"]
    followed = run_command("watch", str(saved.parent))
    assert followed.returncode == 0 and "stopped: tape ended" in followed.stdout


@pytest.mark.timeout(300)
def test_sigterm_in_mid_run_leaves_no_resting_order(
    tmp_path: Path, start_command: Callable[..., subprocess.Popen[str]]
) -> None:
    child = start_command("live", "--categories", "all", "--speed", "40000", "--json")
    assert child.stdout is not None
    status = None
    while status is None or status.counts["orders"] < 3:
        assert child.poll() is None
        time.sleep(0.2)
        for path in (tmp_path / "runs").glob("*/status.json"):
            status = read_status(path)
    os.kill(child.pid, signal.SIGTERM)
    out = child.stdout.read()
    child.stdout.close()
    assert child.wait(100) == 0
    facts = json.loads(out.splitlines()[-1])
    assert (facts["state"], facts["stopped"], facts["left_resting"]) == ("SHUTDOWN", "SIGTERM", 0)
    cells = [c for c in nbformat.read(facts["notebook"], 4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells), "the summary cells ran"
    report = Report.load(Path(facts["notebook"]).parent)
    assert not (report.orders["status"] == "resting").any()
    assert 0 < report.counts["trades"] < 15_000


def test_missing_credentials_are_named_with_the_venue_that_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["live", "--venue", "demo"]) == 2
    error = capsys.readouterr().err
    for word in ("KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH", "--venue embedded"):
        assert word in error


def test_fast_without_its_extra_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> str:
        if name == "picows":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert main(["doctor"]) == 0
    assert "extra fast: not installed" in capsys.readouterr().out
    monkeypatch.setenv("KALSHILAB_FAST", "1")
    for command in ("doctor", "live"):
        assert main([command]) == 2
        assert "pip install 'kalshilab[fast]'" in capsys.readouterr().err


def test_a_kernel_that_dies_is_a_failed_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def died(run: LiveRun) -> None:
        raise SessionError("the notebook could not be run: Kernel died")

    monkeypatch.setattr(LiveRun, "run", died)
    assert main(["live", "--out", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "the notebook could not be run: Kernel died"
    assert err == "kalshilab live: the notebook could not be run: Kernel died\n"
