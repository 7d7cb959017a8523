"""The command `runs`: list the runs of a folder, or remove old ones."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from kalshilab.cli.terminal.options import Subparsers, require_finite_non_negative
from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError, UsageError
from kalshilab.units import show_dollars

__all__ = ["add_parser"]

DAY_S: Final = 86_400.0


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "runs",
        help="list runs, or remove old ones",
        description="List the runs of a folder, the latest first; or remove the folders of runs that have ended with a "
        "report. A folder is kept while a session writes to it.",
    )
    parser.add_argument("action", nargs="?", choices=("list", "prune"), default="list")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the runs; default runs")
    parser.add_argument("--json", action="store_true", help="list: print one JSON object a line")
    parser.add_argument("--keep", metavar="N", type=int, help="prune: keep the latest N runs")
    parser.add_argument(
        "--older-than", metavar="DAYS", type=float, help="prune: keep runs that ended within so many days"
    )
    parser.add_argument(
        "--dead",
        action="store_true",
        help="prune: also runs without a report, although their journal may be the only record of an order",
    )
    parser.add_argument("--dry-run", action="store_true", help="prune: only list what would be removed")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """List or prune; return 1 if a folder could not be removed."""
    out = Path(Settings().out if options.out is None else options.out)
    if options.action == "prune":
        return _prune(out, options)
    for facts in _runs(out):
        print(json.dumps(facts) if options.json else _line(facts))
    return 0


def _runs(out: Path) -> Iterator[dict[str, Any]]:
    """Yield the facts of each run of a folder, the latest first."""
    # Imported late: the modules of a session load the signals.
    from kalshilab.trade.session.run_folder import life_of_run, runs_in
    from kalshilab.trade.status import read_status

    now = WallClock().now()
    for folder in runs_in(out):
        try:
            status = read_status(folder / "status.json")
        except SessionError as error:
            yield {"run_id": folder.name, "life": "damaged", "error": str(error), "age_days": None}
            continue
        last = folder / "status.json" if status is not None else folder
        facts: dict[str, Any] = {
            "run_id": folder.name,
            "life": life_of_run(folder, status, now),
            "reported": (folder / "report.json").is_file(),
            "age_days": (now / 1e6 - last.stat().st_mtime) / DAY_S,
        }
        if status is not None:
            facts |= {
                "state": status.state,
                "venue": status.venue,
                "strategy": status.strategy,
                "elapsed_s": status.elapsed,
                "orders": status.counts.get("orders", 0),
                "fills": status.counts.get("fills", 0),
                "pnl_cents": status.pnl_cents,
                "stopped": status.stopped,
                "error": status.error,
            }
        yield facts


def _line(facts: dict[str, Any]) -> str:
    head = f"{facts['run_id']:<20} {facts['life']:<8}"
    if "state" not in facts:
        return f"{head} {facts.get('error', 'no status yet')}"
    return (
        f"{head} {facts['venue']:<8} {facts['strategy']:<12} {facts['elapsed_s']:7.0f} s "
        f"{facts['orders']:5} orders {facts['fills']:5} fills {show_dollars(facts['pnl_cents'] * 10_000):>12}  "
        f"{facts['error'] or facts['stopped']}"
    ).rstrip()


def _prune(out: Path, options: argparse.Namespace) -> int:
    if options.keep is None and options.older_than is None:
        raise UsageError("runs prune needs --keep N, --older-than DAYS, or both")
    if options.keep is not None and options.keep < 0:
        raise UsageError(f"--keep must be >= 0, got {options.keep}")
    if options.older_than is not None:
        require_finite_non_negative("--older-than", options.older_than)
    failed = False
    for place, facts in enumerate(_runs(out)):
        old = options.older_than is None or (facts["age_days"] or 0) > options.older_than
        over = (
            facts["life"] in ("ended", "dead")
            if options.dead
            else facts["life"] == "ended" and facts["reported"]
        )
        if over and old and place >= (options.keep or 0):
            failed = not _remove(out / facts["run_id"], only_show=options.dry_run) or failed
    return 1 if failed else 0


def _remove(folder: Path, *, only_show: bool) -> bool:
    """Remove the folder of a run, unless a session has started to write to it again; return whether it is gone."""
    from kalshilab.trade.live.lease import RunLock

    if only_show:
        print(f"would remove {folder}")
        return True
    try:
        with RunLock(folder):
            shutil.rmtree(folder)
    except (OSError, SessionError) as error:
        print(f"kept {folder}: {error}")
        return False
    print(f"removed {folder}")
    return True
