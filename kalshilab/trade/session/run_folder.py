"""Runs: each has an id, a folder of its own, and conditions under which it ends by itself."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from kalshilab.clock import Clock, to_datetime
from kalshilab.config.settings import Settings
from kalshilab.errors import UsageError

__all__ = ["RUN_VARIABLE", "Ending", "claim_run", "name_run"]

RUN_VARIABLE: Final = "KALSHILAB_RUN"
"""The environment variable by which a runner tells the session in its kernel which run it is."""


def claim_run(out: Path, now: int) -> tuple[str, Path]:
    """Make a folder for a run that starts at `now` (microseconds); its id and the folder.

    The id is the time; making the folder is the lock, so two runs never share one.

    Raises:
        UsageError: the folder cannot be made.
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
                f"{out} cannot hold runs: {error.strerror}; choose another folder with --out"
            ) from None
        return run_id, out / run_id
    raise UsageError(f"{out}: a thousand runs began in this second")


def name_run(settings: Settings, run_dir: Path | None, now: int) -> tuple[str, Path]:
    """The id and folder of a session: the folder given, the one its runner claimed, or a new one."""
    if run_dir is not None:
        run_dir.mkdir(parents=True, exist_ok=True)
        return run_dir.name, run_dir
    run_id = os.environ.get(RUN_VARIABLE)
    if run_id:
        return run_id, Path(settings.out) / run_id
    return claim_run(Path(settings.out), now)


class Ending:
    """The conditions under which a run ends by itself: its minutes, or the stop file.

    Args:
        began: `wall.monotonic()` when the run began.
    """

    def __init__(self, settings: Settings, wall: Clock, began: float) -> None:
        self._minutes, self._wall = settings.minutes, wall
        self._deadline = None if settings.minutes is None else began + settings.minutes * 60
        self._stop_file = None if settings.stop_file is None else Path(settings.stop_file)

    def due(self) -> str:
        """Why the run should end now; "" if it should not."""
        if self._deadline is not None and self._wall.monotonic() >= self._deadline:
            return f"{self._minutes:g} minutes are up"
        if self._stop_file is not None and self._stop_file.exists():
            # Whoever made the file may have said why.
            return self._stop_file.read_text(errors="replace").strip()[:80] or "stop file"
        return ""
