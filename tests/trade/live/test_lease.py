"""The lock of a run and the lease of an account, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.trade.live.lease import AccountLease, RunLock, holder_of_run, lease_account, was_locked

OWNER = """
import sys
from pathlib import Path
from kalshilab.trade.live.lease import AccountLease, RunLock
run, leases = Path(sys.argv[1]), Path(sys.argv[2])
lock, lease = RunLock(run), AccountLease("my-key-id", run.name, leases)
lock.acquire()
print([other.run_id for other in lease.acquire()], flush=True)
sys.stdin.read()
"""


@contextmanager
def owner(run: Path, leases: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that owns a run and a lease; it is killed at the end."""
    run.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(run), str(leases)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.others = process.stdout.readline().strip()  # type: ignore[attr-defined]
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_a_second_session_is_refused_and_the_first_is_named(tmp_path: Path) -> None:
    with owner(tmp_path / "run-1", tmp_path / "leases") as process:
        holder = holder_of_run(tmp_path / "run-1")
        assert holder is not None and (holder.pid, holder.run_id) == (process.pid, "run-1")
        with pytest.raises(
            SessionError, match=f"another session writes to this run: run-1, process {process.pid} on"
        ):
            RunLock(tmp_path / "run-1").acquire()


def test_kill_9_frees_the_lock_of_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run-1"
    with owner(run, tmp_path / "leases") as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert holder_of_run(run) is None and was_locked(run)
        with RunLock(run):
            holder = holder_of_run(run)
            assert holder is not None and holder.pid == os.getpid()


def test_a_run_that_was_never_locked_has_no_holder(tmp_path: Path) -> None:
    assert holder_of_run(tmp_path) is None and not was_locked(tmp_path)


def test_readers_never_keep_a_session_from_its_lock(tmp_path: Path) -> None:
    reader = "import sys; from pathlib import Path; from kalshilab.trade.live.lease import holder_of_run\nprint(flush=True)\nwhile True: holder_of_run(Path(sys.argv[1]))"
    with subprocess.Popen([sys.executable, "-c", reader, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(200):
            with RunLock(tmp_path):
                pass
        process.kill()


def test_a_second_session_on_an_account_sees_the_first_until_it_dies(tmp_path: Path) -> None:
    leases = tmp_path / "leases"
    with owner(tmp_path / "run-1", leases) as first:
        assert first.others == "[]"  # type: ignore[attr-defined]
        with owner(tmp_path / "run-2", leases) as second:
            assert second.others == "['run-1']"  # type: ignore[attr-defined]
            first.send_signal(signal.SIGKILL)
            first.wait()
            mine = AccountLease("my-key-id", "run-3", leases)
            assert [other.pid for other in mine.acquire()] == [second.pid]
            mine.release()
        other = AccountLease("my-key-id", "run-4", leases)
        assert other.acquire() == []
        other.release()
    assert not list(leases.rglob("*.lease")) and not list(leases.rglob("*.tmp"))


def test_sessions_on_different_accounts_do_not_see_each_other(tmp_path: Path) -> None:
    one, two = AccountLease("key-1", "run-1", tmp_path), AccountLease("key-2", "run-2", tmp_path)
    assert one.acquire() == two.acquire() == []
    one.release()
    two.release()


def test_no_file_of_a_lease_holds_the_id_of_the_key(tmp_path: Path) -> None:
    lease = AccountLease("my-key-id", "run-1", tmp_path)
    lease.acquire()
    for path in tmp_path.rglob("*"):
        assert "my-key-id" not in str(path)
        assert path.is_dir() or b"my-key-id" not in path.read_bytes()
    lease.release()


def demo(**given: object) -> Settings:
    return Settings(env={}, env_file=None, venue="demo", key_id="my-key-id", **given)


def test_only_sessions_on_the_demo_venue_share_an_account(tmp_path: Path) -> None:
    lines: list[str] = []
    for changed in ({"venue": "embedded"}, {"venue": "shadow"}, {"key_id": None}):
        other = demo().replace(**changed)
        assert lease_account(other, "run-1", lines.append, tmp_path) is None
    assert not lines and not list(tmp_path.iterdir())


def test_another_session_is_named_and_allowed(tmp_path: Path) -> None:
    lines: list[str] = []
    first = lease_account(demo(), "run-1", lines.append, tmp_path)
    second = lease_account(demo(), "run-2", lines.append, tmp_path)
    assert first is not None and second is not None
    assert len(lines) == 1 and lines[0].startswith("another session trades on this account: run-1, process ")
    first.release()
    second.release()


def test_a_lease_that_cannot_be_written_is_reported_and_allowed(tmp_path: Path) -> None:
    blocked, lines = tmp_path / "file", list[str]()
    blocked.write_text("")
    assert lease_account(demo(), "run-1", lines.append, blocked) is None
    assert lines[0].startswith("other sessions on this account are not known: ")
