"""The command `live`: run the live notebook unattended and print its numbers."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kalshilab.cli.terminal.options import Subparsers, add_tape_options, settings_from
from kalshilab.cli.terminal.progress import RunProgress, relative_path
from kalshilab.clock import WallClock
from kalshilab.config.contradictions import check_limits
from kalshilab.config.settings import STRATEGIES, VENUES, Settings
from kalshilab.errors import ConfigError, SessionError, SignalError, UsageError

if TYPE_CHECKING:
    from kalshilab.notebook.runner import LiveResult

__all__ = ["add_parser", "installed_fast_packages", "require_fast_extra"]

DIFFERS: Final = 4
"""Exit code of a run whose record differs from the exchange's account at the end."""
RESTART_AFTER_S: Final = (5, 10, 20, 40, 80, 160, 300)
"""Seconds before each new life of a run that crashed; the last repeats."""
SETTINGS = (
    "venue", "strategy", "strategies", "budgets", "signal", "policy", "categories", "minutes", "speed", "out", "tape",
    "markets", "result_column", "log_level", "log_format", "metrics",
)  # fmt: skip
"""The options that are settings."""


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "live",
        help="run the live notebook: paper orders on the embedded exchange or on demo",
        description="Run the live notebook until the tape ends, --minutes are up, or Ctrl-C or SIGTERM stops it. "
        "The run's folder keeps the notebook, the journal and the report.",
    )
    parser.add_argument("--venue", help=f"one of {', '.join(VENUES)}; default embedded")
    add_tape_options(parser)
    parser.add_argument("--strategy", help=f"one of {', '.join(STRATEGIES)}; default rlm_no")
    parser.add_argument(
        "--strategies", metavar="NAMES", help="several strategies on one account, comma-separated"
    )
    parser.add_argument(
        "--budgets",
        metavar="LIMITS",
        help="limits of strategies in dollars, contracts and markets, as in rlm_no:cash=500:contracts=1000:positions=5",
    )
    parser.add_argument(
        "--signal", metavar="MODULE:NAME", help="signal that --strategy custom trades, as module:name"
    )
    parser.add_argument(
        "--policy", metavar="MODULE:NAME", help="policy that --strategy rl_model follows, as module:name"
    )
    parser.add_argument("--categories", help='categories to trade, comma-separated, or "all"')
    parser.add_argument(
        "--minutes", help="wall-clock minutes until a clean stop; default: run to the end of the tape"
    )
    parser.add_argument("--speed", help='seconds of tape per wall-clock second, or "max"; default max')
    parser.add_argument(
        "--out", metavar="FOLDER", help="folder in which the run gets its own folder; default runs"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as one JSON object on the last line"
    )
    parser.add_argument(
        "--resume", metavar="RUN", help="continue a run that was killed, by its folder or its id"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="after a crash, continue the run, with growing pauses of up to five minutes",
    )
    parser.add_argument(
        "--log-level", help="lowest level in session.log: DEBUG, INFO, WARNING or ERROR; default INFO"
    )
    parser.add_argument("--log-format", help="form of the lines in session.log: text or json; default text")
    parser.add_argument(
        "--metrics",
        action="store_true",
        default=None,
        help="keep metrics.prom in the run's folder, in the text format of Prometheus",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Run the notebook; return 1 if it failed, and 4 if its account differs from the exchange's at the end."""
    settings = settings_from(options, *SETTINGS)
    check_limits(settings)
    settings.require_credentials()
    if settings.venue != "embedded":
        # Load the key before the notebook does: the path of an unusable key must not end up in a saved notebook.
        from kalshilab.kalshi.auth import Signer

        Signer.from_settings(settings)
    require_fast_extra(settings)
    _check_tape(settings)
    _check_strategies(settings)
    if options.restart and settings.venue != "demo":
        raise UsageError(
            f"--restart goes with --venue demo; the exchange of {settings.venue} ends with its session"
        )
    # Imported late: papermill takes most of a second to load.
    from kalshilab.trade.session.report import Report

    progress = RunProgress(quiet=options.json)
    result, reason, again = _life(settings, progress, options.resume)
    pauses = iter(RESTART_AFTER_S)
    while options.restart and again:
        pause_s = next(pauses, RESTART_AFTER_S[-1])
        print(f"kalshilab live: {reason}; the run goes on in {pause_s} s", file=sys.stderr)
        asyncio.run(WallClock().sleep(pause_s))
        result, reason, again = _life(settings, progress, result.run_dir)
    differences = 0
    if (result.run_dir / "report.json").is_file():
        differences = Report.load(result.run_dir).counts.get("account_differences", 0)
    if not options.json:
        if (result.run_dir / "report.json").is_file():
            _print_table(Report.load(result.run_dir).summary().rows())
        print(f"\nnotebook  {relative_path(result.notebook)}\njournal   {relative_path(result.journal)}")
    if result.error:
        print(f"kalshilab live: {reason}", file=sys.stderr)
    if options.json:
        facts: dict[str, object] = dict(result.results.get("live", {}))
        facts |= {"notebook": str(result.notebook), "journal": str(result.journal), "error": result.error}
        print(json.dumps(facts))
    if differences:
        print(
            f"kalshilab live: the record differs from the exchange's account ({differences})", file=sys.stderr
        )
        return DIFFERS
    return 1 if result.error else 0


def _life(
    settings: Settings, progress: RunProgress, resume: str | Path | None
) -> tuple[LiveResult, str, bool]:
    """Run the notebook once; return the result, the reason for its end, and whether the run can go on."""
    from kalshilab.notebook.runner import LiveResult, LiveRun

    live = LiveRun(settings, on_status=progress.show, resume=resume)
    progress.begin(live.run_dir)
    try:
        result = live.run()
        reason = f"the notebook ended with {result.error}"
    except SessionError as error:
        # The request was valid: papermill or the kernel failed during the run.
        result = LiveResult(live.run_id, live.run_dir, {}, str(error))
        reason = result.error
    progress.end()
    ended = live.stop_requested or (live.run_dir / "report.json").is_file()
    return result, reason, bool(result.error) and not ended and result.journal.is_file()


def installed_fast_packages() -> str:
    """Return the packages of the extra `fast` with their versions, or "" if one of them is missing."""
    import importlib.metadata

    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "picows"))
    except importlib.metadata.PackageNotFoundError:
        return ""


def require_fast_extra(settings: Settings) -> None:
    """Check that the extra `fast` is installed if the settings ask for it.

    Raises:
        ConfigError: a package of the extra is missing.
    """
    if settings.fast and not installed_fast_packages():
        # Imported late: most commands send no request.
        from kalshilab.kalshi.rest.transport import FAST_EXTRA

        raise ConfigError("fast", True, FAST_EXTRA)


def _check_tape(settings: Settings) -> None:
    """Check the files of a tape before a kernel starts.

    The markets are few and are read whole; the tape may be long, so only its schema is read.
    """
    for name in ("tape", "markets"):
        path = getattr(settings, name)
        if path is not None and not Path(path).expanduser().is_file():
            raise UsageError(f"--{name} {path}: no such file")
    if settings.tape is None and settings.markets is None:
        if settings.result_column is not None:
            raise UsageError("--result-column goes with --tape and --markets")
        return
    if settings.tape is None or settings.markets is None:
        raise UsageError("--tape and --markets go together")
    # Imported late: a run of the bundled sample does not need them.
    from kalshilab.tape import to_markets, to_tape
    from kalshilab.trade.venues.venue import read_parquet

    to_markets(read_parquet(settings.markets), result_column=settings.result_column)
    to_tape(read_parquet(settings.tape, rows=0))


def _check_strategies(settings: Settings) -> None:
    """Build the strategies once, so that their errors appear here and not inside a kernel."""
    # Imported late: it loads the signals and their compiler.
    from kalshilab.trade.strategies.strategies import make_strategy

    names = settings.strategy_names
    if not {"custom", "rl_model"}.isdisjoint(names) and "" not in sys.path:
        # Modules of the working folder are importable, as in the notebook's kernel.  An installed script has its
        # own folder at the head of the path instead.
        sys.path.insert(0, "")
    try:
        strategies = [make_strategy(settings.replace(strategy=name)) for name in names]
    except SignalError as error:
        raise UsageError(str(error)) from error
    for strategy in strategies:
        if strategy.why:
            print(f"kalshilab live: {strategy.why}", file=sys.stderr)


def _print_table(rows: Sequence[tuple[object, ...]]) -> None:
    width = max(len(str(row[0])) for row in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
