"""The command: what it prints, what it returns, and one sentence for what it cannot do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import nbformat
import pytest

import kalshilab as kl
from kalshilab.__main__ import main
from kalshilab.errors import SessionError
from kalshilab.notebook.runner import LiveRun
from kalshilab.trade.session.report import Report
from kalshilab.trade.status import read_status


def command(*arguments: str, timeout: float = 90, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kalshilab", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        **options,
    )


def test_live_from_start_to_numbers(tmp_path: Path) -> None:
    done = command("live", "--categories", "all", "--json", cwd=tmp_path)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    wanted = {
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
    assert wanted <= facts.keys()
    assert min(facts[k] for k in ("trades", "signals", "orders", "fills", "settlements")) > 0
    assert (facts["state"], facts["stopped"], facts["error"]) == ("SHUTDOWN", "tape ended", "")
    saved = Path(facts["notebook"])
    assert saved.is_file() and saved.stat().st_size < 300_000
    assert str(tmp_path) not in saved.read_text(), "no path of this machine in the notebook"
    assert Report.load(saved.parent).counts["orders"] == facts["orders"]
    followed = command("watch", str(saved.parent), cwd=tmp_path)
    assert followed.returncode == 0 and "stopped: tape ended" in followed.stdout


def test_sigterm_in_mid_run_leaves_nothing_resting(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "kalshilab", "live", "--categories", "all", "--speed", "40000", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert child.stdout is not None
    status = None
    while status is None or status.counts["orders"] < 3:
        assert child.poll() is None
        time.sleep(0.2)
        for found in (tmp_path / "runs").glob("*/status.json"):
            status = read_status(found)
    os.kill(child.pid, signal.SIGTERM)
    out = child.stdout.read()
    child.stdout.close()
    assert child.wait(60) == 0
    facts = json.loads(out.splitlines()[-1])
    assert (facts["state"], facts["stopped"], facts["left_resting"]) == ("SHUTDOWN", "SIGTERM", 0)
    cells = [c for c in nbformat.read(facts["notebook"], 4).cells if c.cell_type == "code"]
    assert all(c.execution_count for c in cells), "the summary cells ran"
    report = Report.load(Path(facts["notebook"]).parent)
    assert not (report.orders["status"] == "resting").any()
    assert 0 < report.counts["trades"] < 15_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["live", "--strategy", "moon"], "strategy='moon' (keyword): allowed is one of hold, rlm_no"),
        (["live", "--venue", "mars"], "venue='mars'"),
        (["live", "--strategy", "custom"], '"module:name" of a signal, for strategy=custom'),
        (["live", "--strategy", "custom", "--signal", "no_such:x"], "a module that can be imported"),
        (["live", "--strategy", "rl_model", "--policy", "math:pi"], "an object with act(observation)"),
        (["live", "--minutes", "soon"], "minutes='soon'"),
        (
            ["live", "--tape", "missing.parquet", "--markets", "missing.parquet"],
            "missing.parquet: no such file",
        ),
        (["live", "--tape", "here.parquet"], "--tape and --markets go together"),
        (["live", "--venue", "demo"], "KALSHI_API_KEY_ID"),
        (["exchange", "--speed", "0"], "speed='0'"),
        (["exchange", "--port", "65536"], "--port 65536:"),
        (["exchange", "--faults", "disconnect", "--fault-every", "0"], "--fault-every 0:"),
        (["exchange", "--warm-up", "-1"], "--warm-up -1:"),
        (["exchange", "--warm-up", "nan"], "--warm-up nan:"),
        (["exchange", "--latency", "inf"], "--latency inf:"),
        (["exchange", "--faults", "gremlins"], "unknown fault 'gremlins'"),
        (["exchange", "--tape", "here.parquet", "--markets", "here.parquet"], "not a Parquet file"),
        (["watch", "nothing"], "nothing: no such run; there is none in runs"),
        (["live", "--tape", "here.parquet", "--markets", "here.parquet"], "here.parquet: not a Parquet file"),
        (["live", "--result-column", "result"], "--result-column goes with --tape and --markets"),
        (["exchange", "--port", "99999"], "--port 99999: from 1 to 65535"),
        (["record"], "the feed of trades needs a key, and KALSHI_API_KEY_ID"),
        (["validate", "--signal", "moon"], "--signal moon: burst, buy_back"),
        (["validate", "--set", "moon=1"], "rlm: moon must be one of its parameters yes_threshold"),
        (["validate", "--set", "min_trades=few"], "rlm: min_trades must be a whole number >= 1, got 'few'"),
        (["validate", "--trials", "0"], "--trials 0: at least 1"),
        (["validate", "--latency", "-1"], "--latency -1: seconds, from 0"),
    ],
)
def test_one_sentence_and_exit_code_two(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.parquet").write_text("not parquet")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert "Traceback" not in error


def test_without_a_command_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "validate" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == f"kalshilab {kl.__version__}\n"


def test_missing_credentials_say_which_and_that_embedded_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["live", "--venue", "demo"])
    error = capsys.readouterr().err
    for word in ("KALSHI_API_KEY_ID", "KALSHI_PRIVATE_KEY_PATH", "--venue embedded"):
        assert word in error


def test_a_bad_env_line_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("# fine\nRLM_MIN_TRADES=25\nthis line is broken\n")
    assert main(["doctor"]) == 2
    assert ".env, line 3" in capsys.readouterr().err


def test_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KALSHI_API_KEY_ID", "very-secret-id")
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "polars" in out and "runs go to" in out
    assert "very-secret-id" not in out
    assert re.search(r"extra fast: aiohttp \d.*, picows \d", out)


def test_fast_without_its_extra_is_said_at_once(
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


def test_a_tape_of_ones_own_is_served_from_its_beginning(tmp_path: Path) -> None:
    tape, markets = kl.sample()
    tape.write_parquet(tmp_path / "tape.parquet")
    markets.write_parquet(tmp_path / "markets.parquet")
    own = ["--tape", "tape.parquet", "--markets", "markets.parquet"]

    def served(*options: str) -> int:
        """How many prints there are when it opens."""
        child = subprocess.Popen(
            [sys.executable, "-m", "kalshilab", "exchange", "--speed", "0.001", *options],
            stdout=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        assert child.stdout is not None
        try:
            rest = json.loads(child.stdout.readline())["rest"]
            with urllib.request.urlopen(f"{rest}/markets/trades?limit=10", timeout=5) as answer:
                return len(json.load(answer)["trades"])
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(10)
            child.stdout.close()

    assert served(*own) == 0
    assert served(*own, "--warm-up", "24") == served() == 10


@pytest.mark.parametrize(("name", "code"), [("exchange", 0), ("watch", 130)])
def test_an_interrupt_while_it_starts_is_no_traceback(
    name: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kalshilab.exchange.Exchange.step", interrupted)
    monkeypatch.setattr("kalshilab.trade.status.read_status", interrupted)
    assert main([name, *([str(tmp_path)] if name == "watch" else [])]) == code
    assert capsys.readouterr() == ("", "")


def test_exchange_prints_its_line_and_ends_on_ctrl_c(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "kalshilab", "exchange", "--speed", "1000"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert child.stdout is not None
    facts = json.loads(child.stdout.readline())
    assert facts["rest"].startswith("http://127.0.0.1:") and facts["ws"].startswith("ws://127.0.0.1:")
    key = Path(facts["private_key_path"])
    assert key.stat().st_mode & 0o077 == 0
    port = int(facts["rest"].split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), 5) as probe:
        probe.sendall(b"GET /trade-api/v2/exchange/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b'"exchange_active":true' in b"".join(iter(lambda: probe.recv(4096), b""))
    taken = command("exchange", "--port", str(port), cwd=tmp_path)
    assert (
        taken.returncode == 2
        and f"port {port} cannot be used" in taken.stderr
        and "Traceback" not in taken.stderr
    )
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(10) == 0
    child.stdout.close()
    assert not key.exists()


def test_a_run_that_says_nothing_more_is_said_to_be_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert capsys.readouterr().out == "not started yet\n"
    os.utime(tmp_path, (1e9, 1e9))
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert capsys.readouterr().out == (
        "not started yet  (no news since 2001-09-09 01:46:40 UTC: it may have been killed)\n"
    )


def test_a_kernel_that_dies_is_a_run_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def died(run: LiveRun) -> None:
        raise SessionError("the notebook could not be run: Kernel died")

    monkeypatch.setattr(LiveRun, "run", died)
    assert main(["live", "--out", str(tmp_path), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"] == "the notebook could not be run: Kernel died"
    assert err == "kalshilab live: the notebook could not be run: Kernel died\n"


def test_help_says_what_exit_codes_mean(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "0 done; 1 failed" in said
    assert "2 asked for something that cannot be carried out; 130 interrupted" in said
