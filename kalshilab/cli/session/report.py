"""The command `report`: the numbers of a run, also of one that was killed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from kalshilab.cli.terminal.options import Subparsers
from kalshilab.cli.terminal.progress import relative_path
from kalshilab.config.settings import Settings

if TYPE_CHECKING:
    from kalshilab.trade.session.report import Report

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "report",
        help="print the numbers of a run, also of one that was killed",
        description="Print the numbers of a run. Those of a run that was killed are made from its journal.",
    )
    parser.add_argument(
        "run", metavar="RUN", nargs="?", default="latest", help='the run\'s folder, its name, or "latest" (default)'
    )  # fmt: skip
    parser.add_argument(
        "--save",
        action="store_true",
        help="write report.json and the Parquet files of a killed run; it counts as ended then, and cannot be resumed",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the numbers of the run."""
    # Imported late: the modules of a session load the signals.
    from kalshilab.trade.session.report import Report
    from kalshilab.trade.session.run_folder import find_run

    folder = find_run(options.run, Path(Settings().out))
    report = Report.load(folder)
    rows = report.summary().rows()
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    if options.save:
        print(f"\n{_save(report)}")
    return 0


def _save(report: Report) -> str:
    """Write the report of a run that has no session, and return a sentence about it."""
    from kalshilab.trade.live.lease import RunLock

    path = report.run_dir / "report.json"
    if path.is_file():
        return f"{relative_path(path)} is there already"
    with RunLock(report.run_dir):
        report.save()
    return f"written: {relative_path(path)} and the Parquet files beside it"
