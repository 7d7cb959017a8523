"""The commands about a run against a session in another process, from its start to `kill -9`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kalshilab.__main__ import main
from kalshilab.clock import WallClock

SESSION = """
import asyncio
import kalshilab as kl

async def trade():
    async with kl.PaperSession(kl.Settings(env_file=None, speed=1.0, categories="all", log_level="DEBUG", metrics=True)) as session:
        await session.run()

asyncio.run(trade())
"""


def until(condition: Callable[[], bool]) -> None:
    """Wait at most 90 seconds for a condition."""
    pause, clock = threading.Event(), WallClock()
    end = clock.monotonic() + 90
    while not condition():
        assert clock.monotonic() < end
        pause.wait(0.1)


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[bytes]]:
    """Start a session of the local exchange in real time; its run is the only one below `runs`."""
    monkeypatch.chdir(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KALSHILAB_")}
    process = subprocess.Popen([sys.executable, "-c", SESSION], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def status(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, object]]:
    capsys.readouterr()
    code = main(["status", "latest", "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.timeout(300)
def test_a_session_is_watched_controlled_and_found_dead_after_kill_9(
    session: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    until(lambda: any((tmp_path / "runs").glob("*/status.json")))
    until(lambda: status(capsys)[1]["state"] == "READY")
    code, payload = status(capsys)
    assert code == 0 and payload["pid"] == session.pid and payload["status"] == "healthy"
    assert payload["strategies"] == {"rlm_no": "on"}
    assert main(["control", "latest", "pause", "--reason", "lunch"]) == 0
    until(lambda: status(capsys)[1]["paused"] == "lunch")
    assert main(["control", "latest", "resume"]) == 0
    assert main(["control", "latest", "pause", "--strategy", "rlm_no"]) == 0
    until(lambda: status(capsys)[1]["strategies"] == {"rlm_no": "paused"})
    assert status(capsys)[1]["paused"] == ""
    session.send_signal(signal.SIGKILL)
    session.wait()
    code, payload = status(capsys)
    assert (code, payload["status"], payload["running"], payload["pid"]) == (1, "dead", False, None)
    assert main(["watch", "latest"]) == 1
    assert main(["control", "latest", "stop"]) == 2
    assert "its session is dead" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_a_session_stops_on_request(
    session: subprocess.Popen[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    until(lambda: any((tmp_path / "runs").glob("*/status.json")))
    assert main(["control", "latest", "stop", "--reason", "the end", "--wait-s", "60"]) == 0
    assert session.wait(90) == 0
    code, payload = status(capsys)
    assert (code, payload["status"], payload["stopped"]) == (0, "ended", "the end")
