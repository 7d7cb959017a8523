"""Run folders: the id and the folder of a run, the state of its session, and the conditions under which it ends by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Literal, TypeAlias

from kalshilab.clock import Clock, to_datetime
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError, UsageError
from kalshilab.trade.live.lease import holder_of_run, was_locked
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.status import RunStatus

__all__ = [
    "LATEST",
    "RUN_VARIABLE",
    "Ending",
    "RunLife",
    "claim_run",
    "find_run",
    "life_of_run",
    "name_run",
    "resumable",
    "runs_in",
]

LATEST: Final = "latest"
"""The name with which a command means the run that was started last."""
SILENT_S: Final = 30.0
"""Seconds without a new status after which a session that holds no lock counts as dead."""
START_S: Final = 120.0
"""Seconds that a kernel may take before the first status of its session."""
TRACES: Final = ("status.json", "journal.sqlite", "lock", "report.json")
"""Files of which a run's folder has at least one."""

RunLife: TypeAlias = Literal["starting", "running", "ended", "dead"]
"""The state of a run's session: dead means that its process is gone and it has not ended."""

RUN_VARIABLE: Final = "KALSHILAB_RUN"
"""The environment variable through which a runner passes the run id to the session in its kernel."""


def claim_run(out: Path, now: int) -> tuple[str, Path]:
    """Create the folder of a new run and return the run id and the folder.

    The id is the time of the start.  Creating the folder is the lock, so two runs never share one.

    Args:
        out: the folder for all runs.
        now: machine time in microseconds.

    Raises:
        UsageError: the folder cannot be created.
    """
    base = to_datetime(now).strftime("%Y%m%dT%H%M%SZ")
    for n in range(1, 1000):
        run_id = base if n == 1 else f"{base}-{n}"
        try:
            (out / run_id).mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UsageError(
                f"no run folder can be created in {out}: {error.strerror}; choose another folder with --out"
            ) from None
        return run_id, out / run_id
    raise UsageError(f"{out}: a thousand runs started in this second; try again")


def name_run(settings: Settings, run_dir: Path | None, now: int) -> tuple[str, Path]:
    """Return the id and folder of a session.

    Args:
        settings: name the folder for all runs.
        run_dir: the folder to use; default: the folder that the runner claimed, else a new one.
        now: machine time in microseconds.
    """
    if run_dir is not None:
        run_dir.mkdir(parents=True, exist_ok=True)
        return run_dir.name, run_dir
    run_id = os.environ.get(RUN_VARIABLE)
    if run_id:
        return run_id, Path(settings.out) / run_id
    return claim_run(Path(settings.out), now)


def resumable(run: str | Path, settings: Settings) -> Path:
    """Return the folder of a run that a new session may continue.

    Args:
        run: the folder, the run's id in `settings.out`, or "latest".
        settings: the settings of the new session.

    Raises:
        UsageError: there is no such run.
        SessionError: it has no journal, it has ended, or its exchange ended with the session.
        JournalError: its journal is damaged.
    """
    folder = find_run(str(run), Path(settings.out))
    if not (folder / "journal.sqlite").is_file():
        raise SessionError(f"{folder}: this run has no journal, so there is nothing to continue")
    if settings.venue != "demo":
        raise SessionError(
            f"a run on the venue {settings.venue} cannot be resumed: its exchange ended with its session"
        )
    with Journal.open(folder / "journal.sqlite") as journal:
        notes = journal.values("note")
    started: dict[str, object] = next((note for note in notes if note.get("what") == "start"), {})
    if started.get("venue", settings.venue) != settings.venue:
        raise SessionError(
            f"{folder}: a run on the venue {started['venue']} cannot be resumed on {settings.venue}"
        )
    if (folder / "report.json").is_file():
        raise SessionError(f"{folder}: this run has ended, and its report is written; start a new one")
    return folder


def runs_in(out: Path) -> list[Path]:
    """Return the folders of runs in a folder, the latest first; other folders are left out."""
    if not out.is_dir():
        return []
    found = [path for path in out.iterdir() if any((path / name).is_file() for name in TRACES)]
    return sorted(found, key=_start_order, reverse=True)


def _start_order(run: Path) -> tuple[str, int, str]:
    # Ids are times, with a number for further runs of one second.
    base, _, number = run.name.partition("-")
    return base, int(number) if number.isascii() and number.isdigit() else 1, run.name


def find_run(name: str, out: Path) -> Path:
    """Return the folder of a run.

    Args:
        name: the folder, the id of a run in `out`, or "latest".
        out: the folder for all runs.

    Raises:
        UsageError: there is no such run; the latest ones are named.
    """
    runs = runs_in(out)
    if name == LATEST and runs:
        return runs[0]
    for folder in (Path(name), out / name):
        if folder.is_dir() and name != LATEST:
            return folder
    known = ", ".join(run.name for run in runs[:5])
    where = f"the latest in {out}: {known}" if known else f"{out} holds no runs"
    raise UsageError(f"{name}: no such run; {where}")


def life_of_run(run_dir: Path, status: RunStatus | None, now: int) -> RunLife:
    """Return the state of a run's session.

    Args:
        run_dir: the folder of the run.
        status: its latest status, or None before the first.
        now: machine time in microseconds.
    """
    if status is not None and status.finished:
        return "ended"
    if holder_of_run(run_dir) is not None:
        return "starting" if status is None else "running"
    if status is not None and was_locked(run_dir):
        return "dead"
    # A session that takes no lock, or whose kernel is starting: its files are as old as its last sign of life.
    path = run_dir if status is None else run_dir / "status.json"
    age_s = now / 1e6 - path.stat().st_mtime
    if status is None:
        return "starting" if age_s < START_S else "dead"
    return "running" if age_s < max(SILENT_S, 3 * status.interval_s) else "dead"


class Ending:
    """The conditions under which a run ends by itself: its minutes, or the stop file.

    Args:
        settings: the minutes and the stop file.
        wall: machine time.
        began: `wall.monotonic()` at the start of the run.
    """

    def __init__(self, settings: Settings, wall: Clock, began: float) -> None:
        self._minutes, self._wall = settings.minutes, wall
        self._deadline = None if settings.minutes is None else began + settings.minutes * 60
        self._stop_file = None if settings.stop_file is None else Path(settings.stop_file)

    def due(self) -> str:
        """Return the reason for which the run should end now, or ""."""
        if self._deadline is not None and self._wall.monotonic() >= self._deadline:
            return f"{self._minutes:g} minutes are up"
        if self._stop_file is not None and self._stop_file.exists():
            # The content of the file may give the reason.
            return self._stop_file.read_text(errors="replace").strip()[:80] or "stop file"
        return ""
