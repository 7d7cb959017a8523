"""A live notebook whose kernel was killed is continued as the same run."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faulty_session import falling

from kalshilab.exchange import Exchange, serve
from kalshilab.trade.session.report import Report


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_supervised_run_goes_on_after_its_kernel_was_killed(tmp_path: Path) -> None:
    tape, table = falling(3, over_s=60.0, markets=30, start_us=time.time_ns() // 1000 + 10_000_000)
    exchange = Exchange(tape, table, seed=3)
    exchange.advance(time.time_ns() // 1000)
    async with serve(exchange, speed=1.0, key_kind="ed25519") as venue:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("KALSHILAB_", "RLM_"))
        } | {
            "KALSHILAB_REST_URL": venue.rest, "KALSHILAB_WS_URL": venue.ws,
            "KALSHILAB_KEY_ID": venue.key_id, "KALSHILAB_PRIVATE_KEY_PATH": str(venue.private_key_path),
            "KALSHILAB_CLOSE_MIN_MINUTES": "0", "KALSHILAB_MIN_TRADES": "4", "KALSHILAB_MIN_DROP": "1",
            "KALSHILAB_CATEGORIES": "sports",
        }  # fmt: skip
        command = ["live", "--venue", "demo", "--restart", "--out", str(tmp_path)]
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "kalshilab", *command, env=environment, cwd=tmp_path,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while len(exchange.desk.log) < 3:
            await asyncio.sleep(0.1)
        (kernel,) = kernels_below(child.pid)
        os.kill(kernel, signal.SIGKILL)
        orders = len(exchange.desk.log)
        while len(exchange.desk.log) < orders + 2:
            await asyncio.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        out, errors = await child.communicate()
    assert child.returncode == 0, errors.decode()
    run = only_run(tmp_path)
    report = Report.load(run)
    assert report.orders.height == len(exchange.desk.log)
    assert report.counts["account_differences"] == report.counts["left_resting"] == 0
    assert (run / "live_paper-1.ipynb").is_file() and b"SIGTERM" in out + errors


def only_run(out: Path) -> Path:
    """Return the folder of the only run."""
    (run,) = out.iterdir()
    return run


def kernels_below(pid: int) -> list[int]:
    """Return the processes of kernels whose parent is a process."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words = (folder / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == pid and b"ipykernel_launcher" in words:
                found.append(int(folder.name))
    return found
