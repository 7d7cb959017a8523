"""A change that fails or is killed at any step leaves the old lake or the new one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import polars as pl
import pytest

from kalshilab import fs
from kalshilab.errors import LakeError
from kalshilab.tape import Lake, doctor, repair, sample
from kalshilab.tape.lake import parquet

TAPE, MARKETS = sample()
PARTS = [TAPE.slice(k, 1500) for k in range(0, 6000, 1500)]
"""Parts of the tape; each contains prints of its predecessor's last day."""


def state(path: Path) -> tuple[Any, ...]:
    """Return the visible state of a lake, after the doctor found no damage."""
    assert not [f for f in doctor(path) if f.severity in ("error", "warning")]
    lake = Lake.open(path)
    frame = lake.read()
    assert frame.height == lake.rows == lake.listing["prints"].sum()
    return frame["trade_id"].to_list(), lake.covered, lake.listing["ticker"].to_list(), lake.unknown


def start(path: Path) -> None:
    """Create a lake of two parts, with a third one staged and without metadata."""
    lake = Lake.create(path)
    lake.append(PARTS[0], covered=[(0, 5)])
    lake.append(PARTS[1])
    lake.stage("next", PARTS[2])


def append(path: Path) -> None:
    Lake.open(path).append(PARTS[2], MARKETS.head(9), covered=[(5, 9)])


def commit(path: Path) -> None:
    Lake.open(path).commit(covered=[(5, 9)])


def put_markets(path: Path) -> None:
    Lake.open(path).put_markets(MARKETS)


CHANGES = [append, commit, put_markets]
CALLS = [(os, "replace"), (os, "fsync"), (os, "unlink"), (parquet, "write_frame")]


def fails_at(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, k: int, change: Callable[[], Any]
) -> bool:
    """Make a change in which a function fails from its (k+1)-th call on; return whether it was called that often."""
    real, calls = getattr(where, name), 0

    def failing(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > k:
            raise OSError(28, "No space left on device")
        return real(*arguments, **more)

    with monkeypatch.context() as patched:
        patched.setattr(where, name, failing)
        try:
            change()
        except (OSError, LakeError):
            assert calls > k
    return calls > k


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("where", "name"), CALLS)
def test_an_error_at_any_step_leaves_the_old_or_the_new_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], where: Any, name: str
) -> None:
    unchanged, changed = tmp_path / "unchanged", tmp_path / "changed"
    start(unchanged)
    start(changed)
    before = state(unchanged)
    change(changed)
    after = state(changed)
    assert before != after
    for k in range(60):
        path = tmp_path / f"lake-{k}"
        start(path)
        failed = fails_at(monkeypatch, where, name, k, lambda path=path: change(path))
        assert state(path) in (before, after)
        change(path)
        assert state(path) == after, "the next change succeeds"
        left = [p.name for p in path.rglob("*") if p.suffix == fs.TEMPORARY]
        assert not left and len(list(path.glob("trades/*/*"))) == len(Lake.open(path).files)
        if not failed:
            assert k > 0 or name == "unlink", f"{name} is never called"
            return
    raise AssertionError("the change never succeeded")


@pytest.mark.parametrize(("where", "name"), CALLS[:3])
def test_a_lake_can_be_created_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    for k in range(20):
        path = tmp_path / f"lake-{k}"
        failed = fails_at(monkeypatch, where, name, k, lambda path=path: Lake.create(path))
        Lake.create(path).append(PARTS[0])
        assert state(path)[0] == PARTS[0]["trade_id"].to_list()
        if not failed:
            return
    raise AssertionError("the change never succeeded")


@pytest.mark.parametrize(("where", "name"), CALLS)
def test_an_error_while_staging_leaves_the_old_or_the_new_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    for k in range(10):
        path = tmp_path / f"lake-{k}"
        lake = Lake.create(path)
        lake.stage("part", PARTS[0])
        failed = fails_at(monkeypatch, where, name, k, lambda lake=lake: lake.stage("part", PARTS[1].head(7)))
        assert not lake.doctor() or [f.severity for f in lake.doctor()] == ["note"]
        assert lake.commit().added in (7, 1500)
        if not failed:
            assert lake.rows == 7
            return
    raise AssertionError("the change never succeeded")


@pytest.mark.parametrize(("where", "name"), [*CALLS, (Path, "rename")])
def test_a_failed_repair_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    for k in range(40):
        path = tmp_path / f"lake-{k}"
        start(path)
        lake = Lake.open(path)
        damaged = lake.files[0].path
        damaged.write_bytes(damaged.read_bytes()[:-50])
        (path / "manifest.json").write_text("{")
        failed = fails_at(monkeypatch, where, name, k, lambda path=path: repair(path))
        repair(path)
        assert not [f for f in doctor(path) if f.severity == "error"]
        assert [p.name for p in (path / "damaged").iterdir()] == [f"{lake.files[0].day}.{damaged.name}"]
        Lake.open(path).append(pl.concat(PARTS[:2]))
        assert Lake.open(path).read()["trade_id"].equals(pl.concat(PARTS[:2])["trade_id"])
        if not failed:
            return
    raise AssertionError("the change never succeeded")


def test_a_killed_process_leaves_whole_appends(tmp_path: Path) -> None:
    """A process that appends in portions is killed eight times: each portion is there or it is not."""
    path, code = tmp_path / "lake", (
        "import sys\n"
        "from kalshilab.tape import Lake, sample\n"
        "tape = sample()[0]\n"
        "lake = Lake.create(sys.argv[1])\n"
        "for k in range(0, tape.height, 300):\n"
        "    print('appending', flush=True)\n"
        "    lake.append(tape.slice(k, 300))\n"
    )  # fmt: skip
    chance = Random(5)
    seen = []
    for attempt in range(8):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            # Progress does not depend on the machine's speed: later attempts wait for more portions.
            for _ in range(1 + 3 * attempt + chance.randint(0, 2)):
                assert process.stdout.readline()
            sleep(chance.uniform(0.0, 0.03))
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        ids = state(path)[0]
        rows = len(ids)
        assert rows % 300 == 0 or rows == TAPE.height
        assert ids == TAPE["trade_id"].head(rows).to_list()
        seen.append(rows)
    assert seen == sorted(seen) and seen[-1] > 0
    Lake.open(path).append(TAPE)
    assert state(path)[0] == TAPE["trade_id"].to_list()
