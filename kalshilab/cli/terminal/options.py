"""Options and option values that several commands share.

A module of this package adds its parser with `add_parser(commands: Subparsers)`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from kalshilab.clock import from_datetime
from kalshilab.config.settings import Settings
from kalshilab.errors import UsageError

__all__ = [
    "Subparsers",
    "add_result_column_option",
    "add_tape_options",
    "hidden_alias",
    "parse_instant",
    "require_finite_non_negative",
    "settings_from",
    "split_names",
]

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""The object to which a command adds its parser."""


def add_tape_options(parser: argparse.ArgumentParser) -> None:
    """Add `--tape`, `--markets` and `--result-column`."""
    parser.add_argument("--tape", metavar="FILE", help="Parquet file of trades; default: the bundled sample")
    parser.add_argument("--markets", metavar="FILE", help="Parquet file of the markets of --tape")
    add_result_column_option(parser)


def add_result_column_option(parser: argparse.ArgumentParser) -> None:
    """Add `--result-column`."""
    parser.add_argument(
        "--result-column",
        dest="result_column",
        metavar="COLUMN",
        help="column of --markets that holds the result; default: found by name",
    )


def hidden_alias(
    parser: argparse.ArgumentParser, old: str, dest: str, type: Callable[[str], object] = str
) -> None:
    """Accept the former name of an option, which the help no longer lists.

    Args:
        parser: the command's parser, which has the option under its new name already.
        old: the former name, with its dashes.
        dest: the attribute that holds the option's value.
        type: the conversion of the option's value.
    """
    parser.add_argument(old, dest=dest, type=type, default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def settings_from(options: argparse.Namespace, *names: str) -> Settings:
    """Return the settings that these options give; an option that was not given keeps its default."""
    return Settings(**{name: v for name in names if (v := getattr(options, name, None)) is not None})


def split_names(text: str | None) -> tuple[str, ...]:
    """Return the names of a comma-separated list.

    >>> split_names("KXNFL, KXNBA,"), split_names(None)
    (('KXNFL', 'KXNBA'), ())
    """
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def parse_instant(text: str, now: int) -> int:
    """Return an instant as people type it, in microseconds since 1970; without an offset it is UTC.

    Args:
        text: a day, a day and a time in ISO 8601, or `now`.
        now: the value of `now`, in microseconds since 1970.

    Raises:
        UsageError: the text is not an instant.

    >>> parse_instant("2026-01-05", 0), parse_instant("now", 7)
    (1767571200000000, 7)
    """
    if text == "now":
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text}: not an instant; write 2026-01-31, 2026-01-31T12:00 or now") from None
    return from_datetime(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def require_finite_non_negative(option: str, value: float) -> None:
    """Refuse a negative or infinite number, or NaN.

    Raises:
        UsageError: the value is out of range.
    """
    if not 0 <= value < float("inf"):
        raise UsageError(f"{option} must be a finite number >= 0, got {value:g}")
