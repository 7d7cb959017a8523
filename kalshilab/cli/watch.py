"""The command `watch`: follow a run from another terminal by its status file."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Final

from kalshilab.cli.options import Subparsers
from kalshilab.cli.progress import status_line
from kalshilab.clock import WallClock, to_datetime
from kalshilab.config.settings import Settings
from kalshilab.errors import UsageError

__all__ = ["add_parser"]

SILENT_AFTER_S: Final = 30.0
"""Age of the last status after which a run counts as silent: a session writes its status twice a second."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "watch",
        help="follow a run from another terminal",
        description="Print the status of a run each time it changes, until the run ends.",
    )
    parser.add_argument("run", metavar="RUN", help="the run's folder, or its name under runs/")
    parser.add_argument("--once", action="store_true", help="print the status once and exit")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Follow the run; return 0 when it has ended."""
    runs = Path(Settings().out)
    folder = Path(options.run)
    if not folder.is_dir():
        folder = runs / options.run
    if not folder.is_dir():
        known = sorted((path.name for path in runs.glob("*/") if path.is_dir()), reverse=True)
        where = f"the latest in {runs}: {', '.join(known[:5])}" if known else f"{runs} holds no runs"
        raise UsageError(f"{options.run}: no such run; {where}")
    return asyncio.run(_follow(folder / "status.json", once=options.once))


async def _follow(path: Path, *, once: bool) -> int:
    from kalshilab.trade.status import read_status

    printed = ""
    while True:
        status = read_status(path)
        line = "not started yet" if status is None else status_line(status)
        if status is None or not status.finished:
            line += _silence(path)
        if line != printed:
            print(line, flush=True)
            printed = line
        if once or (status is not None and status.finished):
            if status is not None and status.stopped:
                print(f"stopped: {status.stopped}")
            return 0
        await asyncio.sleep(1.0)


def _silence(path: Path) -> str:
    """Return a remark if the run has not written its status file `path` for 30 s, else ""."""
    try:
        written_s = (path if path.is_file() else path.parent).stat().st_mtime
    except FileNotFoundError:
        return "  (its folder no longer exists)"
    if WallClock().now() / 1e6 - written_s < SILENT_AFTER_S:
        return ""
    written = to_datetime(round(written_s * 1e6))
    return f"  (no news since {written:%Y-%m-%d %H:%M:%S} UTC: it may have been killed)"
