"""The parser of the `kalshilab` command, and the exit code of each outcome.

    kalshilab live       run the live notebook: paper orders on the embedded exchange or on demo
    kalshilab exchange   serve the local exchange on loopback
    kalshilab validate   judge a signal over a tape or a lake
    kalshilab watch RUN  follow a run from another terminal
    kalshilab status     show the state of a run once
    kalshilab control    pause, resume, flatten, stop or kill a running session
    kalshilab runs       list runs, or remove old ones
    kalshilab report     print the numbers of a run, also of one that was killed
    kalshilab download   download public trades into a lake
    kalshilab record     record the live trade feed into a lake
    kalshilab import     import archives of trades into a lake
    kalshilab doctor     check this installation and its settings, a lake, or the journal of a run

An invalid request prints one sentence on standard error and returns 2; a run that failed returns 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from kalshilab.cli import doctor, download, exchange, import_archives, live, record, validate
from kalshilab.cli.session import control, listing, report, status, watch
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

__all__ = ["main"]

INVALID_REQUEST: Final = (
    ConfigError, EdgeError, ExchangeError, KeyUnusable, LakeError, SessionError, SignalError, TapeError, UsageError,
)  # fmt: skip
"""Errors that the request caused: exit code 2. Any other `KalshilabError` is a failure: exit code 1."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: the command line without the program's name; default `sys.argv[1:]`.

    Returns:
        0 for success, 1 for a failure, 2 for an invalid request, 130 for an interrupt.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.name is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(options.command(options))
    except INVALID_REQUEST as error:
        print(f"kalshilab {options.name}: {error}", file=sys.stderr)
        return 2
    except KalshilabError as error:
        print(f"kalshilab {options.name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Downstream closed the pipe; without this, the interpreter flushes the buffer again at exit and fails.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"kalshilab {options.name}: {_describe(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _describe(error: OSError) -> str:
    """Return an operating-system error as one line, the file first if it is known."""
    reason = error.strerror or str(error).splitlines()[0] if str(error) else type(error).__name__
    return reason if error.filename is None else f"{error.filename}: {reason}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kalshilab",
        description="Research and paper trading on Kalshi's prediction markets.",
        epilog="Exit codes: 0 success; 1 failure, with the reason on standard error; 2 invalid request; "
        "130 interrupted. 'kalshilab COMMAND --help' lists the options of a command.",
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", title="commands")
    for module in (
        live, exchange, validate, watch, status, control, listing, report, download, record, import_archives,
        doctor,
    ):  # fmt: skip
        module.add_parser(commands)
    return parser


class _PrintVersion(argparse.Action):
    """Print the installed version; the lookup costs time, so it waits until the option is used."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        import importlib.metadata

        print(f"kalshilab {importlib.metadata.version('kalshilab')}")
        parser.exit()
