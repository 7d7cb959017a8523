"""`kalshilab exchange`: its first line, its end, and the time it plays before it opens."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

import kalshilab as kl

StartCommand = Callable[..., subprocess.Popen[str]]


@pytest.mark.timeout(300)
def test_a_tape_from_a_file_is_served_from_its_beginning(tmp_path: Path, start_command: StartCommand) -> None:
    tape, markets = kl.sample()
    tape.write_parquet(tmp_path / "tape.parquet")
    markets.write_parquet(tmp_path / "markets.parquet")
    files = ["--tape", "tape.parquet", "--markets", "markets.parquet"]

    def count_prints(*options: str) -> int:
        """Return the number of prints when the exchange opens, at most ten."""
        child = start_command("exchange", "--speed", "0.001", *options)
        assert child.stdout is not None
        try:
            rest = json.loads(child.stdout.readline())["rest"]
            with urllib.request.urlopen(f"{rest}/markets/trades?limit=10", timeout=60) as answer:
                return len(json.load(answer)["trades"])
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(60)
            child.stdout.close()

    assert count_prints(*files) == 0
    assert count_prints(*files, "--warm-up-hours", "24") == count_prints() == 10
    assert count_prints(*files, "--warm-up", "24") == 10, "the former name of the option"


def test_the_first_line_is_json_and_ctrl_c_ends_the_exchange(
    start_command: StartCommand, run_command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    child = start_command("exchange", "--speed", "1000")
    assert child.stdout is not None
    facts = json.loads(child.stdout.readline())
    assert facts["rest"].startswith("http://127.0.0.1:") and facts["ws"].startswith("ws://127.0.0.1:")
    key = Path(facts["private_key_path"])
    assert key.stat().st_mode & 0o077 == 0
    port = int(facts["rest"].split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), 60) as probe:
        probe.sendall(b"GET /trade-api/v2/exchange/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b'"exchange_active":true' in b"".join(iter(lambda: probe.recv(4096), b""))
    second = run_command("exchange", "--port", str(port))
    assert second.returncode == 2
    assert str(port) in second.stderr
    assert "Traceback" not in second.stderr
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(60) == 0
    child.stdout.close()
    assert not key.exists()
