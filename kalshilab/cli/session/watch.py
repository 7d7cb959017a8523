"""The command `watch`: follow a run from another terminal by its status file."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kalshilab.cli.terminal.options import Subparsers
from kalshilab.cli.terminal.progress import status_line
from kalshilab.clock import WallClock, to_datetime
from kalshilab.config.settings import Settings

if TYPE_CHECKING:
    from kalshilab.trade.status import RunStatus

__all__ = ["add_parser"]

POLL_S: Final = 1.0


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "watch",
        help="follow a run from another terminal",
        description="Print the status of a run each time it changes, until the run ends. "
        "Returns 1 if it ended with an error, or if its session is dead.",
    )
    parser.add_argument("run", metavar="RUN", help='the run\'s folder, its name under runs/, or "latest"')
    parser.add_argument("--once", action="store_true", help="print the status once and exit")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Follow the run; return 0 when it has ended, and 1 if it ended with an error or died."""
    # Imported late: the modules of a session load the signals.
    from kalshilab.trade.session.run_folder import find_run

    return asyncio.run(_follow(find_run(options.run, Path(Settings().out)), once=options.once))


async def _follow(folder: Path, *, once: bool) -> int:
    from kalshilab.trade.session.run_folder import life_of_run
    from kalshilab.trade.status import read_status

    clock, path = WallClock(), folder / "status.json"
    printed = ""
    while True:
        status = read_status(path)
        life = life_of_run(folder, status, clock.now())
        line = "not started yet" if status is None else _line(status)
        if life == "dead":
            line += _last_news(path)
        if line != printed:
            print(line, flush=True)
            printed = line
        if once or life in ("ended", "dead"):
            if status is not None and status.stopped:
                print(f"stopped: {status.stopped}")
            return 1 if life == "dead" or (status is not None and status.error) else 0
        await clock.sleep(POLL_S)


def _line(status: RunStatus) -> str:
    """Return the status with what keeps the session from trading, if anything does."""
    remarks = [f"paused: {status.paused}"] if status.paused else []
    remarks += [f"{part}: {text}" for part, text in status.unhealthy.items()]
    return "  ".join([status_line(status), *remarks])


def _last_news(path: Path) -> str:
    """Return a remark about the last sign of life of a dead session."""
    try:
        written_s = (path if path.is_file() else path.parent).stat().st_mtime
    except FileNotFoundError:
        return "  (its folder no longer exists)"
    written = to_datetime(round(written_s * 1e6))
    return f"  (its session is dead: no news since {written:%Y-%m-%d %H:%M:%S} UTC)"
