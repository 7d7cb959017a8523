"""Unattended runs: their parameters, their environment, and every way they end.

Nothing here depends on the speed of the machine: kernels announce that they are ready, and the grace period passes on
a clock of the test.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import pytest

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError, UsageError
from kalshilab.notebook import runner
from kalshilab.notebook.results import read_results
from kalshilab.notebook.runner import PARAMETERS, LiveRun, live_notebook
from kalshilab.trade.status import read_status

HEAD = "venue = None\nminutes = None\ncategories = None"


def notebook(path: Path, *cells: str) -> Path:
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in (HEAD, *cells)])
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, path)
    return path


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings(env={}, env_file=None, out=str(tmp_path / "runs"), **changes)


WAITING = """
import asyncio, os
from pathlib import Path
import kalshilab as kl
stop = Path(os.environ["KALSHILAB_STOP_FILE"])
(Path(os.environ["KALSHILAB_OUT"]) / os.environ["KALSHILAB_RUN"] / "ready").touch()
try:
    for _ in range(2_000):
        if stop.exists() and not os.environ.get("DEAF"):
            break
        await asyncio.sleep(0.05)
except asyncio.CancelledError:
    asyncio.current_task().uncancel()
kl.record("ended", stop.read_text() if stop.exists() else "")
"""


def test_parameters_are_those_of_the_notebook() -> None:
    cell = next(
        c for c in nbformat.read(live_notebook(), 4).cells if "parameters" in c.metadata.get("tags", ())
    )
    names = [line.partition(":")[0] for line in cell.source.splitlines() if ":" in line and "=" in line]
    assert tuple(names) == PARAMETERS


def test_parameters_and_environment_reach_a_kernel_of_this_interpreter(tmp_path: Path) -> None:
    path = notebook(
        tmp_path / "n.ipynb",
        "import os, sys, kalshilab as kl\n"
        "kl.record('seen', {'venue': venue, 'minutes': minutes, 'categories': categories, 'python': sys.executable,"
        " 'tape': os.environ.get('KALSHILAB_TAPE'), 'run': os.environ.get('KALSHILAB_RUN')})",
    )
    run = LiveRun(
        settings(tmp_path, minutes=2, categories=("a", "b"), tape="t.parquet", key_id="secret-id"),
        notebook=path,
    )
    result = run.run()
    assert result.error == ""
    assert result.results["seen"] == {
        "venue": None, "minutes": 2.0, "categories": "a,b", "python": sys.executable, "tape": "t.parquet",
        "run": result.run_id,
    }  # fmt: skip
    saved = result.notebook.read_text()
    assert "secret-id" not in saved
    assert "widget-state" not in saved


def test_a_chosen_default_overrides_the_inherited_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"VENUE": "demo", "STRATEGY": "hold", "MIN_TRADES": "9", "MINUTES": "3"}.items():
        monkeypatch.setenv(f"KALSHILAB_{name}", value)
    (tmp_path / ".env").write_text("RLM_CONTRACTS=7\nKALSHILAB_TAPE=other.parquet\n")
    path = notebook(
        tmp_path / "n.ipynb",
        "import kalshilab as kl\n"
        "s = kl.Settings()\n"
        "kl.record('seen', [s.venue, s.strategy, s.min_trades, s.minutes, s.contracts, s.tape])",
    )
    result = LiveRun(settings(tmp_path, venue="embedded", min_trades=25), notebook=path).run()
    assert result.results == {"seen": ["embedded", "rlm_no", 25, None, 50.0, None]}


def test_a_failed_notebook_is_saved_and_reported(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", "1 / 0", "import kalshilab as kl; kl.record('later', 1)")
    result = LiveRun(settings(tmp_path), notebook=path).run()
    assert result.error.startswith("ZeroDivisionError: division by zero")
    assert result.results == {}
    assert result.notebook.is_file()
    status = read_status(result.run_dir / "status.json")
    assert status is not None and status.finished and status.stopped == result.error, (
        "a watcher would not end"
    )


def test_a_stop_request_creates_the_stop_file_and_later_cells_run(tmp_path: Path) -> None:
    path = notebook(tmp_path / "n.ipynb", WAITING, "kl.record('later', 1)")
    run = LiveRun(settings(tmp_path), notebook=path)
    ask_when_ready(run, "stop please")
    result = run.run()
    assert (result.error, result.results) == ("", {"ended": "stop please", "later": 1})
    assert not (run.run_dir / "stop").exists()


class OneGrace(WallClock):
    """A clock on which one grace period passes as soon as the stop file exists, and no time after that."""

    def __init__(self, stop_file: Path, grace_s: float) -> None:
        self._stop_file, self._grace_s = stop_file, grace_s

    def monotonic(self) -> float:
        return self._grace_s + 1 if self._stop_file.exists() else 0.0


def test_a_notebook_that_ignores_the_stop_file_is_interrupted_after_the_grace_period(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEAF", "1")
    path = notebook(tmp_path / "n.ipynb", WAITING, "kl.record('later', 1)")
    run = LiveRun(settings(tmp_path), notebook=path, grace_s=30.0)
    run._wall = OneGrace(run.run_dir / "stop", 30.0)
    ask_when_ready(run, "x")
    assert run.run().results == {"ended": "x", "later": 1}


def test_a_notebook_that_ignores_the_interrupt_is_killed(tmp_path: Path) -> None:
    ignore = "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    # Only a kill ends this cell within the time limit of the test.
    path = notebook(tmp_path / "n.ipynb", ignore + WAITING.split("try:")[0] + "time.sleep(600)")
    run = LiveRun(settings(tmp_path), notebook=path, grace_s=0.5)
    ask_when_ready(run, "x")
    with pytest.raises(SessionError, match="could not be run"):
        run.run()
    status = read_status(run.run_dir / "status.json")
    assert status is not None and status.finished and status.stopped == "Kernel died"


def test_the_former_keyword_of_the_grace_period_warns(tmp_path: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"LiveRun\(\): the keyword 'grace' is now 'grace_s'"):
        LiveRun(settings(tmp_path), grace=1.0)  # type: ignore[call-arg]


def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(source: str, target: str, **_: object) -> None:
        Path(target).write_text('{"cells": [')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.papermill, "execute_notebook", cut_off)
    with pytest.raises(SessionError, match=r"could not be run: .*No space left"):
        LiveRun(settings(tmp_path)).run()


def ask_when_ready(run: LiveRun, reason: str) -> None:
    """Request a stop, from another thread, as soon as the notebook has announced that it is running."""

    def ask() -> None:
        while not (run.run_dir / "ready").exists():
            time.sleep(0.05)
        run.ask_to_stop(reason)

    threading.Thread(target=ask, daemon=True).start()


LIVE = """
import sys
from pathlib import Path
from kalshilab.config.settings import Settings
from kalshilab.notebook.runner import LiveRun
run = LiveRun(Settings(env={}, env_file=None, out=sys.argv[1]), notebook=Path(sys.argv[2]))
print(run.run_dir, flush=True)
result = run.run()
sys.exit(1 if result.error else 0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_process_stops_the_run(tmp_path: Path, number: signal.Signals) -> None:
    path = notebook(tmp_path / "n.ipynb", WAITING, "kl.record('later', 1)")
    child = subprocess.Popen(
        [sys.executable, "-c", LIVE, str(tmp_path / "runs"), str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    assert child.stdout is not None
    run_dir = Path(child.stdout.readline().strip())
    while not (run_dir / "ready").exists():
        assert child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, number)
    assert child.wait(90) == 0
    child.stdout.close()
    assert read_results(run_dir / "live_paper.ipynb") == {"ended": number.name, "later": 1}


def test_a_missing_live_notebook_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "__file__", str(tmp_path / "kalshilab" / "notebook" / "runner.py"))
    with pytest.raises(UsageError, match="missing from this installation"):
        live_notebook()
