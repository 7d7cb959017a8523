"""A change that fails or is killed at any step leaves the lake of before or the lake of after."""

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

from kalshilab.errors import LakeError
from kalshilab.tape import Lake, doctor, repair, sample
from kalshilab.tape.lake import fs

TAPE, MARKETS = sample()
PIECES = [TAPE.slice(k, 1500) for k in range(0, 6000, 1500)]
"""Each touches the day of the one before."""


def state(path: Path) -> tuple[Any, ...]:
    """Everything a lake says, once the doctor found nothing wrong with it."""
    assert not [f for f in doctor(path) if f.severity in ("error", "warning")]
    lake = Lake.open(path)
    frame = lake.read()
    assert frame.height == lake.rows == lake.listing["prints"].sum()
    return frame["trade_id"].to_list(), lake.covered, lake.listing["ticker"].to_list(), lake.unknown


def start(path: Path) -> None:
    """Two pieces in the lake, one staged, metadata of no market."""
    lake = Lake.create(path)
    lake.append(PIECES[0], covered=[(0, 5)])
    lake.append(PIECES[1])
    lake.stage("next", PIECES[2])


def append(path: Path) -> None:
    Lake.open(path).append(PIECES[2], MARKETS.head(9), covered=[(5, 9)])


def commit(path: Path) -> None:
    Lake.open(path).commit(covered=[(5, 9)])


def put_markets(path: Path) -> None:
    Lake.open(path).put_markets(MARKETS)


CHANGES = [append, commit, put_markets]
CALLS = [(os, "replace"), (os, "fsync"), (os, "unlink"), (fs, "write_frame")]


def fails_at(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, k: int, change: Callable[[], Any]
) -> bool:
    """Make a change whose k-th call of a function, and every later one, fails; whether there were so many."""
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
def test_an_error_at_any_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], where: Any, name: str
) -> None:
    begun, made = tmp_path / "begun", tmp_path / "made"
    start(begun)
    start(made)
    before = state(begun)
    change(made)
    after = state(made)
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
    raise AssertionError("it never got to the end")


@pytest.mark.parametrize(("where", "name"), CALLS[:3])
def test_an_error_while_a_lake_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    for k in range(20):
        path = tmp_path / f"lake-{k}"
        failed = fails_at(monkeypatch, where, name, k, lambda path=path: Lake.create(path))
        Lake.create(path).append(PIECES[0])
        assert state(path)[0] == PIECES[0]["trade_id"].to_list()
        if not failed:
            return
    raise AssertionError("it never got to the end")


@pytest.mark.parametrize(("where", "name"), CALLS)
def test_an_error_while_a_segment_is_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    """The segment of before, or the new one, whole."""
    for k in range(10):
        path = tmp_path / f"lake-{k}"
        lake = Lake.create(path)
        lake.stage("piece", PIECES[0])
        failed = fails_at(
            monkeypatch, where, name, k, lambda lake=lake: lake.stage("piece", PIECES[1].head(7))
        )
        assert not lake.doctor() or [f.severity for f in lake.doctor()] == ["note"]
        assert lake.commit().added in (7, 1500)
        if not failed:
            assert lake.rows == 7
            return
    raise AssertionError("it never got to the end")


@pytest.mark.parametrize(("where", "name"), [*CALLS, (Path, "rename")])
def test_an_error_while_it_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
) -> None:
    """A repair that failed is made again."""
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
        Lake.open(path).append(pl.concat(PIECES[:2]))
        assert Lake.open(path).read()["trade_id"].equals(pl.concat(PIECES[:2])["trade_id"])
        if not failed:
            return
    raise AssertionError("it never got to the end")


def test_killed_while_it_appends(tmp_path: Path) -> None:
    """A process that appends piece after piece is killed at eight moments: each piece is there or it is not."""
    path, code = tmp_path / "lake", (
        "import sys\n"
        "from kalshilab.tape import Lake, sample\n"
        "tape = sample()[0]\n"
        "lake = Lake.create(sys.argv[1])\n"
        "print('go', flush=True)\n"
        "for k in range(0, tape.height, 300):\n"
        "    lake.append(tape.slice(k, 300))\n"
    )  # fmt: skip
    chance = Random(5)
    seen = []
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            sleep(chance.uniform(0.05, 0.5))
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        ids = state(path)[0]
        rows = len(ids)
        assert rows % 300 == 0 or rows == TAPE.height
        assert ids == TAPE["trade_id"].head(rows).to_list()
        seen.append(rows)
    assert seen == sorted(seen) and seen[-1] > 0
    Lake.open(path).append(TAPE)
    assert state(path)[0] == TAPE["trade_id"].to_list()
