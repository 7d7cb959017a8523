"""The command `control`: pause, resume, flatten, stop or kill a running session from another terminal."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Final

from kalshilab.cli.terminal.options import Subparsers, require_finite_non_negative
from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import UsageError

__all__ = ["add_parser"]

POLL_S: Final = 0.1
WAIT_S: Final = 10.0
"""Seconds for which the command waits for the session by default: a session looks for requests four times a second."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    from kalshilab.trade.live.control_file import ACTIONS

    parser = commands.add_parser(
        "control",
        help="pause, resume, flatten, stop or kill a running session",
        description="Leave a request for the session of a run, and wait until it has taken it. "
        "pause: place no orders, and let resting orders rest; resume: end a pause; flatten: pause, and cancel every "
        "resting order; stop: end the session cleanly; kill: as stop, and place nothing even if it could not end. "
        "Returns 1 if the session did not take the request in time.",
    )
    parser.add_argument("run", metavar="RUN", help='the run\'s folder, its name under runs/, or "latest"')
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("--strategy", metavar="NAME", default="", help="pause or resume this strategy only")
    parser.add_argument("--reason", metavar="TEXT", default="", help="the reason, for the record")
    parser.add_argument("--wait-s", metavar="SECONDS", type=float, default=WAIT_S, help=f"default {WAIT_S:g}")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Leave the request; return 0 if the session took it, and 1 if it did not."""
    # Imported late: the modules of a session load the signals.
    from kalshilab.trade.live.control_file import make_request, send_request
    from kalshilab.trade.session.run_folder import find_run

    require_finite_non_negative("--wait-s", options.wait_s)
    request = make_request(options.action, options.reason, options.strategy)
    folder = find_run(options.run, Path(Settings().out))
    _require_session(folder, options.strategy)
    file = send_request(folder, request)
    if _is_taken(file, options.wait_s):
        target = f" for {options.strategy}" if options.strategy else ""
        print(f"{folder.name}: {options.action}{target} taken")
        return 0
    print(
        f"kalshilab control: {folder.name} did not take the request within {options.wait_s:g} s; "
        f"it is left in {file}, and acts when the session reads it",
        file=sys.stderr,
    )
    return 1


def _require_session(folder: Path, strategy: str) -> None:
    """Check that the session of a run can take a request, and that it has the strategy.

    Raises:
        UsageError: it cannot, or has not.
    """
    from kalshilab.trade.session.run_folder import life_of_run
    from kalshilab.trade.status import read_status

    status = read_status(folder / "status.json")
    life = life_of_run(folder, status, WallClock().now())
    if life == "ended" and status is not None:
        raise UsageError(f"{folder.name}: the run has ended ({status.stopped or 'without a reason'})")
    if life == "dead":
        raise UsageError(
            f"{folder.name}: its session is dead: the process is gone, and the run has not ended"
        )
    if strategy and status is not None and status.strategies and strategy not in status.strategies:
        raise UsageError(f"--strategy must be one of {', '.join(status.strategies)}, got {strategy!r}")


def _is_taken(file: Path, wait_s: float) -> bool:
    """Wait until a request's file is gone; return False if it is still there at the end."""
    clock = WallClock()
    until = clock.monotonic() + wait_s
    while file.exists():
        if clock.monotonic() >= until:
            return False
        asyncio.run(clock.sleep(POLL_S))
    return True
