"""Durable writes replace a file atomically; locks exclude other processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kalshilab import fs


def test_a_failed_write_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    fs.write_durably(path, b"old")
    for name in ("fsync", "replace"):

        def failing(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, name, failing)
            with pytest.raises(OSError, match="No space left"):
                fs.write_durably(path, b"new")
        assert path.read_bytes() == b"old"
    fs.write_durably(path, b"new")
    assert path.read_bytes() == b"new"


def test_write_all_repeats_short_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:3]))
    with (tmp_path / "data").open("wb") as file:
        fs.write_all(file.fileno(), b"0123456789")
    assert (tmp_path / "data").read_bytes() == b"0123456789"


def test_shared_locks_exclude_exclusive_ones(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.touch()
    with path.open("rb") as one, path.open("rb") as two, path.open("rb") as three:
        assert fs.lock(one, shared=True)
        assert fs.lock(two, shared=True, wait=False)
        assert not fs.lock(three, wait=False)
        two.close()
        one.close()
        assert fs.lock(three, wait=False)


def test_a_killed_process_releases_its_lock(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = (
        "import sys; from pathlib import Path; from kalshilab.fs import FileLock\n"
        "lock = FileLock(Path(sys.argv[1])); lock.acquire(); print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        own = fs.FileLock(path)
        assert not own.acquire()
        assert own.holder() == process.pid
        process.kill()
        process.wait(60)
    assert own.acquire(wait=True)
    assert own.holder() == os.getpid()
    own.release()
