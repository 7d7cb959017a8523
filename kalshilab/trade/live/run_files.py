"""Files that a running session keeps for other programs: its status, its log, and its metrics.

A file that cannot be written degrades the part "status file" or "log", and never ends the session: the record that must not
be lost is the journal.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from kalshilab.clock import Clock
from kalshilab.config.settings import Settings
from kalshilab.trade.core.messages import JournalRecord
from kalshilab.trade.health import Health
from kalshilab.trade.live.metrics import write_metrics
from kalshilab.trade.live.session_log import SessionLog
from kalshilab.trade.status import Snapshot, write_status

__all__ = ["RunFiles"]


class RunFiles:
    """The files of one session, between `with` and its end.

    Args:
        run_dir: the folder of the run.
        settings: the interval, the log's level and format, and whether metrics are kept.
        health: its console is logged, and it receives the parts "status file" and "log".
        wall: machine time.

    Attributes:
        addresses: the addresses of REST and of the WebSocket, for the status.
    """

    def __init__(self, run_dir: Path, settings: Settings, health: Health, wall: Clock) -> None:
        self._run_dir, self._settings, self._health, self._wall = run_dir, settings, health, wall
        self._log = SessionLog(run_dir, settings)
        self._stack = ExitStack()
        self._due = 0.0
        self.addresses = ("", "")

    def __enter__(self) -> Self:
        self._stack.enter_context(self._log)
        self._health.on_message = self._log.console
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._health.on_message = lambda text: None
        self._stack.close()

    def record(self, record: JournalRecord) -> None:
        """Log what the trader records."""
        self._log.record(record)

    def keep(self, snapshot: Callable[[], Snapshot]) -> None:
        """Write status and metrics if it is time.

        Args:
            snapshot: returns the session at this moment; called only if it is time.
        """
        if self._wall.monotonic() < self._due:
            return
        self._due = self._wall.monotonic() + self._settings.health_interval_s
        self._note("log", self._log.trouble)
        try:
            self.write(snapshot())
        except OSError as error:
            self._note("status file", error.strerror or str(error))
        else:
            self._note("status file", "")

    def write(self, shot: Snapshot) -> None:
        """Write status and metrics now.

        Raises:
            OSError: a file cannot be written.
        """
        rest, ws = self.addresses
        write_status(
            self._run_dir / "status.json",
            shot,
            heartbeat=self._wall.now(),
            interval_s=self._settings.health_interval_s,
            api_url=rest,
            ws_url=ws,
        )
        if self._settings.metrics:
            write_metrics(self._run_dir, shot)

    def _note(self, part: str, trouble: str) -> None:
        if trouble:
            self._health.degraded(part, trouble)
        elif not self._health.is_healthy(part):
            self._health.healthy(part)
