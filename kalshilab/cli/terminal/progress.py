"""Lines about a run on a terminal: its status in one line, updated in place, and short paths."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kalshilab.units import show_dollars

if TYPE_CHECKING:
    from kalshilab.trade.status import RunStatus

__all__ = ["RunProgress", "overwrite_line", "relative_path", "status_line"]

LOG_INTERVAL_S: Final = 10.0
"""Seconds of a run between two status lines where standard error is not a terminal."""


def status_line(status: RunStatus) -> str:
    """Return a run's status as one line."""
    counts = status.counts
    share = "" if status.progress is None else f" {status.progress:4.0%}"
    return (
        f"{status.state:<10}{share} {status.elapsed:5.0f} s  {counts.get('trades', 0):,} trades  "
        f"{counts.get('signals', 0)} signals  {counts.get('orders', 0)} orders  {counts.get('fills', 0)} fills  "
        f"P&L {show_dollars(status.pnl_cents * 10_000)}"
    )


def overwrite_line(text: str) -> None:
    """Replace the current line of the terminal on standard error."""
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def relative_path(path: Path) -> str:
    """Return a path relative to the working folder if it lies below it, else the whole path."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


class RunProgress:
    """A run's status on standard error: one line updated in place on a terminal, a line every 10 s elsewhere.

    Args:
        quiet: print nothing unless standard error is a terminal.
    """

    def __init__(self, *, quiet: bool) -> None:
        self._tty = sys.stderr.isatty()
        self._quiet = quiet and not self._tty
        self._last_s = -float("inf")

    def begin(self, run_dir: Path) -> None:
        """Print the run's folder."""
        if not self._quiet:
            print(f"run {relative_path(run_dir)}: starting the kernel", file=sys.stderr)

    def show(self, status: RunStatus) -> None:
        """Print the status if a line is due."""
        if self._quiet or (not self._tty and status.elapsed - self._last_s < LOG_INTERVAL_S):
            return
        self._last_s = status.elapsed
        if self._tty:
            overwrite_line(status_line(status))
        else:
            print(status_line(status), file=sys.stderr, flush=True)

    def end(self) -> None:
        """End the line that was updated in place."""
        if self._tty:
            print(file=sys.stderr)
