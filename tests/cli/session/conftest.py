"""Run folders in every state of their session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kalshilab.clock import WallClock
from kalshilab.trade.live.lease import RunLock
from kalshilab.trade.status import RunStatus, Snapshot, empty_snapshot, read_status, write_status

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeRun]:
    """Return a function that makes the folder of a run below `runs`; its session lives if `alive` is set."""
    monkeypatch.chdir(tmp_path)
    locks: list[RunLock] = []

    def make(
        name: str = "20261201T000000Z", *, alive: bool = True, heartbeat_age_s: float = 0.0, **facts: object
    ) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        lock = RunLock(folder)
        lock.acquire()
        if alive:
            locks.append(lock)
        else:
            lock.release()
        write_status(
            folder / "status.json",
            snapshot(name, **facts),
            heartbeat=WallClock().now() - round(heartbeat_age_s * 1e6),
            api_url="http://127.0.0.1:1/trade-api/v2",
        )
        return folder

    yield make
    for lock in locks:
        lock.release()


def snapshot(run_id: str, **facts: object) -> Snapshot:
    """Return a snapshot of a running session, with some facts changed."""
    import msgspec

    given = {"state": "READY", "stopped": "", "finished": False} | facts
    basis = empty_snapshot(
        run_id=run_id, venue="demo", strategy="rlm_no", state="READY", stopped="", finished=False, started=0, elapsed=9.0
    )  # fmt: skip
    return msgspec.structs.replace(basis, **given)


def status_of(folder: Path) -> RunStatus:
    """Return the status of a run."""
    status = read_status(folder / "status.json")
    assert status is not None
    return status
