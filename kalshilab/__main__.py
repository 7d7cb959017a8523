"""The `kalshilab` command.

    kalshilab live       run the live notebook: paper orders on the embedded exchange or on demo
    kalshilab exchange   serve the local exchange on loopback
    kalshilab watch RUN  follow a run from another terminal
    kalshilab download   download public prints into a lake
    kalshilab record     record the live feed into a lake
    kalshilab import     put archives of trades into a lake
    kalshilab validate   judge a signal over a tape or a lake
    kalshilab doctor     look at this installation and its settings, or at a lake

What cannot be carried out is one sentence on standard error and exit code 2; a run that failed is exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from kalshilab.cli.data import add_parsers, doctor_lake
from kalshilab.cli.exchange import add_parser as add_exchange
from kalshilab.cli.validate import add_parser as add_validate
from kalshilab.clock import WallClock, to_datetime
from kalshilab.config.settings import RETIRED, STRATEGIES, VENUES, Settings
from kalshilab.errors import (
    ConfigError,
    EdgeError,
    ExchangeError,
    KalshilabError,
    KeyUnusable,
    LakeError,
    SessionError,
    SignalError,
    TapeError,
    UsageError,
)
from kalshilab.units import show_dollars


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit code: 2 for what was asked wrongly, 1 for what went wrong, 130 for an interrupt."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(options.command(options))
    except (
        ConfigError,
        EdgeError,
        ExchangeError,
        KeyUnusable,
        LakeError,
        SessionError,
        SignalError,
        TapeError,
        UsageError,
    ) as error:
        print(f"kalshilab {options.name}: {error}", file=sys.stderr)
        return 2
    except KalshilabError as error:
        print(f"kalshilab {options.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Who reads has seen enough; what is still in the buffer must not be tried again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"kalshilab {options.name}: {_words_of(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _words_of(error: OSError) -> str:
    """What a disk, or whatever else the system has to say, in one line: the file first, where it is named."""
    what = error.strerror or str(error).splitlines()[0] if str(error) else type(error).__name__
    return what if error.filename is None else f"{error.filename}: {what}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kalshilab",
        description="Paper trading and research on Kalshi's prediction markets.",
        epilog="Exit codes: 0 done; 1 failed, with the reason on standard error; 2 asked for something that cannot be "
        "carried out; 130 interrupted.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="say which version this is")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND")

    live = commands.add_parser("live", help="run the live notebook", description="Run the live notebook.")
    live.add_argument("--venue", help=f"one of {', '.join(VENUES)}; default embedded")
    _tape_options(live)
    live.add_argument("--strategy", help=f"one of {', '.join(STRATEGIES)}; default rlm_no")
    live.add_argument("--signal", help='"module:name" of the signal that --strategy custom trades')
    live.add_argument("--policy", help='"module:name" of the policy of --strategy rl_model')
    live.add_argument("--categories", help='categories to track, with commas, or "all"')
    live.add_argument(
        "--minutes", help="wall-clock minutes until a clean stop; default: to the end of the tape"
    )
    live.add_argument("--speed", help='tape time per wall time, or "max" (the default)')
    live.add_argument("--out", help="folder for the run's folder; default runs")
    live.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    live.set_defaults(command=_live)

    add_exchange(commands, _tape_options)
    add_validate(commands, _tape_options)

    watch = commands.add_parser("watch", help="follow a run", description="Follow a run until it ends.")
    watch.add_argument("run", help="the run's folder, or its name under runs/")
    watch.add_argument("--once", action="store_true", help="print its status once")
    watch.set_defaults(command=_watch)

    add_parsers(commands)

    doctor = commands.add_parser(
        "doctor",
        help="check this installation, or a lake",
        description="Check this installation, or a lake of trades.",
    )
    doctor.add_argument("lake", nargs="?", help="a lake's folder; default: the installation")
    doctor.add_argument("--repair", action="store_true", help="take damaged days out of the lake's manifest")
    doctor.set_defaults(command=_doctor)
    return parser


class _Version(argparse.Action):
    """Says the version of what is installed; looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import importlib.metadata

        print(f"kalshilab {importlib.metadata.version('kalshilab')}")
        parser.exit()


def _tape_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tape", help="Parquet of trades; default: the bundled sample")
    parser.add_argument("--markets", help="Parquet of the markets beside it")
    parser.add_argument(
        "--result-column", dest="result_column", help="column of the markets that holds the result"
    )


def _settings(options: argparse.Namespace, *names: str) -> Settings:
    given = {n: getattr(options, n) for n in names if getattr(options, n, None) is not None}
    return Settings(**given)


# live


def _live(options: argparse.Namespace) -> int:
    settings = _settings(
        options,
        "venue",
        "strategy",
        "signal",
        "policy",
        "categories",
        "minutes",
        "speed",
        "out",
        "tape",
        "markets",
        "result_column",
    )
    settings.require_credentials()
    if settings.venue != "embedded":
        # Read here, so that the place of a key that cannot be used does not end up in a saved notebook.
        from kalshilab.kalshi.auth import Signer

        Signer.from_settings(settings)
    _refuse_fast_without_its_extra(settings)
    _refuse_what_cannot_be_played(settings)
    _refuse_what_cannot_trade(settings)
    # Late: papermill and what it brings take most of a second.
    from kalshilab.notebook.runner import LiveResult, LiveRun
    from kalshilab.trade.session.report import Report

    progress = _Progress(quiet=options.json)
    run = LiveRun(settings, on_status=progress.show)
    progress.begin(run.run_dir)
    try:
        result = run.run()
        why = f"the notebook ended with {result.error}"
    except SessionError as error:
        # Nothing was asked wrongly: papermill or the kernel failed in mid-run.
        result = LiveResult(run.run_id, run.run_dir, {}, str(error))
        why = result.error
    progress.end()
    finished = (result.run_dir / "report.json").is_file()
    if finished and not options.json:
        _print_table(Report.load(result.run_dir).summary().rows())
    if not options.json:
        print(f"\nnotebook  {_shown(result.notebook)}\njournal   {_shown(result.journal)}")
    if result.error:
        print(f"kalshilab live: {why}", file=sys.stderr)
    if options.json:
        facts: dict[str, Any] = dict(result.results.get("live", {}))
        facts |= {"notebook": str(result.notebook), "journal": str(result.journal), "error": result.error}
        print(json.dumps(facts))
    return 1 if result.error else 0


def _fast_extra() -> str:
    """The packages of the extra `fast` and their versions, or an empty text if one is not there."""
    import importlib.metadata

    try:
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("aiohttp", "picows"))
    except importlib.metadata.PackageNotFoundError:
        return ""


def _refuse_fast_without_its_extra(settings: Settings) -> None:
    if settings.fast and not _fast_extra():
        # Late: a command that sends nothing has no need of it.
        from kalshilab.kalshi.rest.transport import FAST_EXTRA

        raise ConfigError("fast", True, FAST_EXTRA)


def _refuse_what_cannot_be_played(settings: Settings) -> None:
    """Look at the files of a tape, so that what is wrong with them is said before a kernel is started.

    The markets are few and are read; of the tape, which may be long, only what its footer says.
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
    # Late: a run of the sample has no need of them here.
    from kalshilab.tape import to_markets, to_tape
    from kalshilab.trade.venues.venue import read_parquet

    to_markets(read_parquet(settings.markets), result_column=settings.result_column)
    to_tape(read_parquet(settings.tape, rows=0))


def _refuse_what_cannot_trade(settings: Settings) -> None:
    """Make the strategy once, so that what is wrong with it is said here and not from inside a kernel."""
    # Late: it brings the signals and their compiler.
    from kalshilab.trade.strategies.strategies import make_strategy

    if settings.strategy in ("custom", "rl_model") and "" not in sys.path:
        # A module of the working folder counts, as it does in the notebook's kernel; an installed script has
        # its own folder there instead.
        sys.path.insert(0, "")
    try:
        strategy = make_strategy(settings)
    except SignalError as error:
        raise UsageError(str(error)) from error
    if strategy.why:
        print(f"kalshilab live: {strategy.why}", file=sys.stderr)


class _Progress:
    """One line on a terminal, replaced as it changes; a line now and then elsewhere."""

    def __init__(self, *, quiet: bool) -> None:
        self._tty = sys.stderr.isatty()
        self._quiet = quiet and not self._tty
        self._last = -100.0

    def begin(self, run_dir: Path) -> None:
        if not self._quiet:
            print(f"run {_shown(run_dir)}: starting the kernel", file=sys.stderr)

    def show(self, status: Any) -> None:
        if self._quiet or (not self._tty and status.elapsed - self._last < 10):
            return
        self._last = status.elapsed
        print(
            ("\r\x1b[K" if self._tty else "") + status_line(status),
            end="" if self._tty else "\n",
            file=sys.stderr,
        )
        sys.stderr.flush()

    def end(self) -> None:
        if self._tty:
            print(file=sys.stderr)


def status_line(status: Any) -> str:
    """A run's status in one line."""
    counts = status.counts
    share = "" if status.progress is None else f" {status.progress:4.0%}"
    return (
        f"{status.state:<10}{share} {status.elapsed:5.0f} s  {counts.get('trades', 0):,} trades  "
        f"{counts.get('signals', 0)} signals  {counts.get('orders', 0)} orders  {counts.get('fills', 0)} fills  "
        f"P&L {show_dollars(status.pnl_cents * 10_000)}"
    )


def _print_table(rows: Sequence[tuple[Any, ...]]) -> None:
    width = max(len(str(row[0])) for row in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


# watch, doctor


def _watch(options: argparse.Namespace) -> int:
    from kalshilab.trade.status import read_status

    runs = Path(Settings().out)
    folder = Path(options.run)
    if not folder.is_dir():
        folder = runs / options.run
    if not folder.is_dir():
        known = sorted((path.name for path in runs.glob("*/") if path.is_dir()), reverse=True)
        there = f"in {runs} the last are {', '.join(known[:5])}" if known else f"there is none in {runs}"
        raise UsageError(f"{options.run}: no such run; {there}")
    return asyncio.run(_follow(folder / "status.json", read_status, once=options.once))


SILENT = 30.0
"""Seconds without news after which a run is said to be silent: a session writes its status twice a second."""


def _silence(path: Path) -> str:
    """A remark on a run that says nothing more, of which the file `path` is the status."""
    try:
        told = (path if path.is_file() else path.parent).stat().st_mtime
    except FileNotFoundError:
        return "  (its folder is gone)"
    if WallClock().now() / 1e6 - told < SILENT:
        return ""
    return (
        f"  (no news since {to_datetime(round(told * 1e6)):%Y-%m-%d %H:%M:%S} UTC: it may have been killed)"
    )


async def _follow(path: Path, read: Any, *, once: bool) -> int:
    last = ""
    while True:
        status = read(path)
        line = "not started yet" if status is None else status_line(status)
        if status is None or not status.finished:
            line += _silence(path)
        if line != last:
            print(line, flush=True)
            last = line
        if once or (status is not None and status.finished):
            if status is not None and status.stopped:
                print(f"stopped: {status.stopped}")
            return 0
        await asyncio.sleep(1.0)


def _doctor(options: argparse.Namespace) -> int:
    if options.lake is not None:
        return doctor_lake(options.lake, repair=options.repair)
    if options.repair:
        raise UsageError("--repair: name a lake")
    import importlib.metadata
    import platform

    print(f"Python {platform.python_version()}, kalshilab {importlib.metadata.version('kalshilab')}")
    for name in ("polars", "numba", "websockets", "httpx", "papermill", "ipykernel", "ipywidgets", "plotly"):
        print(f"  {name} {importlib.metadata.version(name)}")
    print(f"  extra fast: {_fast_extra() or 'not installed; pip install kalshilab[fast]'}")
    for name, reason in RETIRED.items():
        if name in os.environ:
            print(f"  {name} is set and has no effect: {reason}")
    settings = Settings()
    print(f"settings: {settings!r}")
    _refuse_fast_without_its_extra(settings)
    if settings.key_id and (settings.private_key_path or settings.private_key):
        from kalshilab.kalshi.auth import Signer

        print(f"key: {Signer.from_settings(settings)!r}")
    else:
        print("key: none; the embedded venue needs none, demo and shadow do")
    out = Path(settings.out)
    probe = next(p for p in (out.resolve(), *out.resolve().parents) if p.exists())
    if not os.access(probe, os.W_OK):
        raise UsageError(f"{probe} cannot be written; choose another folder with KALSHILAB_OUT")
    print(f"runs go to {out.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
