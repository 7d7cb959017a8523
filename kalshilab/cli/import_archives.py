"""The command `import`: archives of trades into a lake."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from kalshilab.cli.terminal.options import Subparsers, add_result_column_option
from kalshilab.errors import UsageError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "import",
        help="import archives of trades into a lake",
        description="Import Parquet, CSV or JSON files of trades, or folders of them, into a lake. Trades that the "
        "lake already has are skipped.",
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="files or folders")
    parser.add_argument("--out", default="lake", metavar="FOLDER", help="the lake's folder; default lake")
    parser.add_argument(
        "--markets", metavar="FILE", help="Parquet or CSV file of the markets of these trades"
    )
    add_result_column_option(parser)
    parser.add_argument(
        "--price-unit", choices=("cents", "dollars"), help="unit of plain numbers in the column yes_price"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Import the files and print the totals."""
    from kalshilab.tape.ingest.archives import import_archive
    from kalshilab.tape.normalise import DroppedRows

    for path in (*options.paths, *([options.markets] if options.markets else [])):
        if not Path(path).exists():
            raise UsageError(f"{path}: no such file or folder")
    markets = _read_markets(options.markets, options.result_column) if options.markets else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DroppedRows)
        done = import_archive(options.out, options.paths, markets=markets, price_unit=options.price_unit)
    for warning in caught:
        print(f"kalshilab import: {warning.message}", file=sys.stderr)
    print(
        f"{done.rows:,} prints read, {done.added:,} new in {Path(options.out).absolute()} "
        f"({done.duplicates:,} already there), {done.days} days, {done.new_markets:,} new markets"
    )
    return 0


def _read_markets(file: str, result_column: str | None) -> pl.DataFrame:
    import polars as pl

    from kalshilab.tape.normalise import to_markets

    path = Path(file)
    if path.suffix in (".json", ".jsonl", ".ndjson"):
        raise UsageError(f"--markets must be a Parquet or CSV file, got {path}")
    if path.suffix == ".parquet":
        frame = pl.read_parquet(path)
    else:
        frame = pl.read_csv(path, infer_schema_length=None)
    return to_markets(frame, result_column=result_column)
