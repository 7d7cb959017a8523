"""The files that a running session keeps: written at their interval, and never the end of the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.trade.core.messages import JournalRecord
from kalshilab.trade.health import Health
from kalshilab.trade.live.run_files import RunFiles
from kalshilab.trade.status import Snapshot, empty_snapshot, read_status

SECOND = 1_000_000


def shot(run_id: str = "run-1") -> Snapshot:
    return empty_snapshot(
        run_id=run_id, venue="demo", strategy="hold", state="READY", stopped="", finished=False, started=0, elapsed=1.0
    )  # fmt: skip


def files_of(folder: Path, **given: object) -> tuple[RunFiles, Health, SimClock]:
    clock = SimClock(10 * SECOND)
    health = Health(clock)
    return RunFiles(folder, Settings(env={}, env_file=None, **given), health, clock), health, clock


def test_status_and_metrics_are_written_at_their_interval(tmp_path: Path) -> None:
    files, _, clock = files_of(tmp_path, health_interval_s=2, metrics=True)
    files.addresses = ("http://127.0.0.1:1", "ws://127.0.0.1:1")
    made: list[int] = []

    def make() -> Snapshot:
        made.append(clock.now())
        return shot()

    with files:
        for step in range(5):
            clock.advance((10 + step) * SECOND)
            files.keep(make)
    assert made == [10 * SECOND, 12 * SECOND, 14 * SECOND]
    status = read_status(tmp_path / "status.json")
    assert status is not None and (status.heartbeat, status.interval_s) == (14 * SECOND, 2.0)
    assert (status.api_url, status.ws_url) == ("http://127.0.0.1:1", "ws://127.0.0.1:1")
    assert "kalshilab_session" in (tmp_path / "metrics.prom").read_text()


def test_metrics_are_kept_on_request_only(tmp_path: Path) -> None:
    files, _, _ = files_of(tmp_path)
    with files:
        files.write(shot())
    assert {path.name for path in tmp_path.iterdir()} == {"status.json"}


def test_the_console_and_the_record_are_logged_until_the_end(tmp_path: Path) -> None:
    files, health, _ = files_of(tmp_path)
    with files:
        health.log("strategy rlm_no")
        files.record(JournalRecord("note", {"what": "stop", "reason": "deadline"}))
    health.log("after the end")
    lines = (tmp_path / "session.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "INFO strategy rlm_no",
        "INFO note stop reason=deadline",
    ]


def test_a_folder_that_cannot_be_written_degrades_a_part_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    files, health, clock = files_of(folder)
    with files:
        health.log("a line")
        files.keep(shot)
        assert health.parts == {
            "log": "degraded: No such file or directory",
            "status file": "degraded: No such file or directory",
        }
        with pytest.raises(FileNotFoundError):
            files.write(shot())
        folder.mkdir()
        health.log("another line")
        clock.advance(20 * SECOND)
        files.keep(shot)
        assert health.parts == {"log": "healthy", "status file": "healthy"}
