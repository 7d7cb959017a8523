"""The lock of a run's folder and the lease of an account: which sessions are alive.

Both are `flock` locks on files that name their owner.  The system releases them when the process ends, also after
`kill -9`, so the owner of a free lock has ended, however it ended.

One session at a time may write to the folder of a run (`RunLock`).  Several sessions may share an account, because each
order carries the tag of its run, but the console of the second one names the first (`AccountLease`).  The files of the
leases name the account by a hash of the key's id, and hold no key.
"""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BufferedRandom
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from kalshilab.clock import WallClock, to_datetime
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.fs import TEMPORARY, lock

__all__ = ["AccountLease", "Holder", "RunLock", "holder_of_run", "lease_account", "state_folder"]

LOCK_FILE: Final = "lock"
"""Name of the lock file in the folder of a run."""
SUFFIX: Final = ".lease"
PROBES: Final = 20
"""Attempts to lock a file: a reader that looks whether it is locked holds it for some microseconds."""
PROBE_S: Final = 0.005


class Holder(msgspec.Struct, frozen=True):
    """The owner of a lock: process id, host, run, and the start of the ownership in microseconds."""

    pid: int
    host: str
    run_id: str
    since: int

    def __str__(self) -> str:
        return f"{self.run_id}, process {self.pid} on {self.host} since {to_datetime(self.since):%Y-%m-%d %H:%M:%S} UTC"


class _OwnedFile:
    """A file that is locked while this process owns it."""

    def __init__(self, path: Path, owner: Holder) -> None:
        self._file: BufferedRandom | None = path.open("a+b")
        try:
            if not self._acquire(self._file):
                raise BlockingIOError
            self._file.truncate(0)
            self._file.write(msgspec.json.encode(owner))
            self._file.flush()
        except BaseException:
            self.close()
            raise

    @staticmethod
    def _acquire(file: BufferedRandom) -> bool:
        pause = threading.Event()
        for _ in range(PROBES):
            if lock(file, wait=False):
                return True
            pause.wait(PROBE_S)
        return False

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _owner_of(path: Path) -> Holder | None:
    """Return the owner of a locked file; None if the file is free or missing."""
    try:
        with path.open("rb") as file:
            if lock(file, shared=True, wait=False):
                return None
            return msgspec.json.decode(file.read(), type=Holder)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError:
        # The owner has locked the file and is about to write its name.
        return Holder(0, "an unknown host", path.stem, 0)


def _myself(run_id: str) -> Holder:
    return Holder(os.getpid(), socket.gethostname(), run_id, WallClock().now())


class RunLock:
    """The right to write to the folder of a run; it ends with the process at the latest.

    Args:
        run_dir: the folder.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with RunLock(folder):
    ...     holder_of_run(folder).pid == os.getpid()
    True
    >>> holder_of_run(folder) is None
    True
    """

    def __init__(self, run_dir: Path) -> None:
        self._path, self._run_id = run_dir / LOCK_FILE, run_dir.name
        self._owned: _OwnedFile | None = None

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            SessionError: another session has it.
            OSError: the lock file cannot be written.
        """
        try:
            self._owned = _OwnedFile(self._path, _myself(self._run_id))
        except BlockingIOError:
            raise SessionError(
                f"{self._path.parent}: another session writes to this run: {_owner_of(self._path)}"
            ) from None

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._owned is not None:
            self._owned.close()
            self._owned = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def holder_of_run(run_dir: Path) -> Holder | None:
    """Return the session that writes to the folder of a run, or None if no process does."""
    return _owner_of(run_dir / LOCK_FILE)


def was_locked(run_dir: Path) -> bool:
    """Return whether a session ever locked the folder of a run; sessions before version 0.2 did not."""
    return (run_dir / LOCK_FILE).is_file()


class AccountLease:
    """A note that a session uses an account, beside the notes of other sessions on it.

    Args:
        key_id: the id of the API key; only its hash is written.
        run_id: the run of the session.
        folder: the folder of all leases.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> one, two = AccountLease("key", "run-1", folder), AccountLease("key", "run-2", folder)
    >>> one.acquire(), [other.run_id for other in two.acquire()]
    ([], ['run-1'])
    >>> one.release(); two.release()
    """

    def __init__(self, key_id: str, run_id: str, folder: Path) -> None:
        account = hashlib.sha256(f"kalshilab account {key_id}".encode()).hexdigest()[:16]
        self._folder, self._run_id = folder / account, run_id
        self._path = self._folder / f"{run_id}-{os.getpid()}{SUFFIX}"
        self._owned: _OwnedFile | None = None

    def acquire(self) -> list[Holder]:
        """Leave the note, and return the owners of the others that are alive, the oldest first.

        Raises:
            OSError: the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Locked before it has its name: a file with a lease's name and no lock belongs to a session that has ended.
        temporary = self._path.with_suffix(TEMPORARY)
        self._owned = _OwnedFile(temporary, _myself(self._run_id))
        temporary.rename(self._path)
        others = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            owner = None if path == self._path else _owner_of(path)
            if owner is not None:
                others.append(owner)
            elif path != self._path:
                path.unlink(missing_ok=True)
        return sorted(others, key=lambda owner: owner.since)

    def release(self) -> None:
        """Remove the note, if there is one."""
        if self._owned is not None:
            self._path.unlink(missing_ok=True)
            self._owned.close()
            self._owned = None


def state_folder(env: Mapping[str, str] | None = None) -> Path:
    """Return the folder in which this user's sessions keep what is common to them.

    Args:
        env: variables; default those of the process.  `KALSHILAB_HOME` names the folder; else it is `kalshilab` below
            `XDG_STATE_HOME`, or below `~/.local/state`.

    >>> state_folder({"KALSHILAB_HOME": "/srv/kalshilab"}), state_folder({"XDG_STATE_HOME": "/state"})
    (PosixPath('/srv/kalshilab'), PosixPath('/state/kalshilab'))
    """
    env = os.environ if env is None else env
    if env.get("KALSHILAB_HOME"):
        return Path(env["KALSHILAB_HOME"])
    if env.get("XDG_STATE_HOME"):
        return Path(env["XDG_STATE_HOME"]) / "kalshilab"
    with suppress(RuntimeError):
        return Path.home() / ".local" / "state" / "kalshilab"
    return Path(".kalshilab")


def lease_account(
    settings: Settings, run_id: str, report: Callable[[str], object], folder: Path | None = None
) -> AccountLease | None:
    """Leave a note that a session uses the account of its key, and report the other sessions on it.

    Args:
        settings: the settings of the session; only on the demo venue do sessions share an account.
        run_id: its run.
        report: called with a line for each other session, or with the reason for which none could be found.
        folder: the folder of all leases; default below `state_folder`.

    Returns:
        The lease; None if there is nothing to share, or no note could be left.
    """
    if settings.venue != "demo" or settings.key_id is None:
        return None
    lease = AccountLease(settings.key_id, run_id, folder or state_folder() / "leases")
    try:
        others = lease.acquire()
    except OSError as error:
        report(f"other sessions on this account are not known: {error}")
        return None
    for other in others:
        report(f"another session trades on this account: {other}")
    return lease
