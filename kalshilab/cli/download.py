"""The command `download`: public trades from the REST API into a lake."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

import msgspec

from kalshilab.cli.terminal.interrupt import run_interruptible
from kalshilab.cli.terminal.options import (
    Subparsers,
    hidden_alias,
    parse_instant,
    require_finite_non_negative,
    split_names,
)
from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings

if TYPE_CHECKING:
    from kalshilab.tape.ingest.download import Downloaded, DownloadProgress
    from kalshilab.tape.lake.lake import Lake

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "download",
        help="download public trades into a lake",
        description="Download public trades into a lake. An interrupted download resumes where it stopped when the "
        "same command runs again.",
    )
    parser.add_argument(
        "--since", required=True, help="first day or instant (UTC), as 2026-01-31 or 2026-01-31T12:00"
    )
    parser.add_argument("--until", default="now", help="end, exclusive, in the same form; default now")
    parser.add_argument("--series", help="series tickers, comma-separated; default: all markets")
    parser.add_argument("--out", default="lake", metavar="FOLDER", help="the lake's folder; default lake")
    parser.add_argument(
        "--url", help="REST address up to /trade-api/v2; default: production, which is only read"
    )
    parser.add_argument(
        "--window-s",
        type=float,
        default=3600,
        metavar="SECONDS",
        help="span of exchange time per request sequence; default 3600",
    )
    hidden_alias(parser, "--window", "window_s", float)
    parser.add_argument(
        "--concurrency", type=int, default=4, metavar="N", help="windows downloaded at once; default 4"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the results as one JSON object on the last line"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Download the trades and print the totals."""
    from kalshilab.kalshi.hosts import PRODUCTION
    from kalshilab.kalshi.rest.client import MarketData
    from kalshilab.tape.ingest.download import download
    from kalshilab.tape.lake.lake import Lake

    require_finite_non_negative("--window-s", options.window_s)
    clock = WallClock()
    since, until = parse_instant(options.since, clock.now()), parse_instant(options.until, clock.now())
    configured = Settings()
    settings = Settings(venue="demo", rest_url=options.url or configured.rest_url or PRODUCTION[0])
    bar = _Bar(quiet=options.json)

    async def work(lake: Lake) -> Downloaded:
        async with MarketData(settings) as client:
            return await download(
                client,
                lake,
                since,
                until,
                series=split_names(options.series),
                clock=clock,
                window_us=round(options.window_s * 1e6),
                concurrency=options.concurrency,
                on_progress=bar.show,
            )

    try:
        with Lake.begun(options.out) as lake:
            done = run_interruptible(work(lake))
    finally:
        bar.close()
    if options.json:
        totals = msgspec.to_builtins(done) | {"lake": str(lake.path), "rows": Lake.open(lake.path).rows}
        print(json.dumps(totals))
    else:
        print(
            f"{done.prints:,} prints listed, {done.added:,} new in {lake.path} ({done.duplicates:,} already there, "
            f"{done.unknown_taker:,} skipped without a taker side); {done.markets:,} markets described, "
            f"{done.undescribed:,} unknown"
        )
    return 0


class _Bar:
    """A progress bar on a terminal: windows done, prints per second, time left."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None  # tqdm ships no types
        self._phase = ""

    def show(self, progress: DownloadProgress) -> None:
        """Draw the progress of a download."""
        # Imported late: no other command draws a bar.
        from tqdm import tqdm

        if progress.phase != self._phase:
            self.close()
            self._phase = progress.phase
            unit = " windows" if progress.phase == "prints" else " markets"
            self._bar = tqdm(
                total=progress.total, unit=unit, desc=progress.phase, disable=self._quiet or None
            )
        bar = self._bar
        bar.total = progress.total
        bar.update(progress.done - bar.n)
        left = "" if progress.remaining is None else f", {progress.remaining:,.0f} s left"
        bar.set_postfix_str(f"{progress.prints:,} prints, {progress.rate:,.0f}/s{left}")

    def close(self) -> None:
        """End the line of the bar."""
        if self._bar is not None:
            self._bar.close()
