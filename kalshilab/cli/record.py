"""The command `record`: the live feed of public trades into a lake."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING

import msgspec

from kalshilab.cli.terminal.interrupt import run_interruptible
from kalshilab.cli.terminal.options import Subparsers, require_finite_non_negative, split_names
from kalshilab.cli.terminal.progress import overwrite_line
from kalshilab.clock import WallClock, isoformat
from kalshilab.config.settings import Settings
from kalshilab.errors import StreamError, UsageError

if TYPE_CHECKING:
    from kalshilab.tape.ingest.record import Recorded, RecordProgress
    from kalshilab.tape.lake.lake import Lake

__all__ = ["add_parser"]


def add_parser(commands: Subparsers) -> None:
    """Add the command to the subparsers of the `kalshilab` command."""
    parser = commands.add_parser(
        "record",
        help="record the live trade feed into a lake",
        description="Record the live feed of public trades into a lake until Ctrl-C, SIGTERM or --minutes.",
    )
    parser.add_argument("--out", default="lake", metavar="FOLDER", help="the lake's folder; default lake")
    parser.add_argument("--tickers", help="market tickers, comma-separated; default: all markets")
    parser.add_argument(
        "--ws-url", dest="ws_url", help="WebSocket address; default: production, which is only read"
    )
    parser.add_argument("--minutes", type=float, help="stop after this many minutes; default: never")
    parser.add_argument(
        "--json", action="store_true", help="print the results as one JSON object on the last line"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Record until a stop and print the totals."""
    from kalshilab.kalshi.hosts import PRODUCTION
    from kalshilab.tape.lake.lake import Lake

    if options.minutes is not None:
        require_finite_non_negative("--minutes", options.minutes)
    configured = Settings()
    settings = Settings(venue="demo", ws_url=options.ws_url or configured.ws_url or PRODUCTION[1])
    if settings.lacking:
        raise UsageError(
            f"the trade feed needs a key; set {' and '.join(settings.lacking)} in the environment or in .env "
            "(kalshilab download works without a key)"
        )
    lake, stop = Lake.create(options.out), asyncio.Event()
    work = _record(settings, lake, split_names(options.tickers), stop, options.minutes)
    done = run_interruptible(work, stop)
    if options.json:
        totals = msgspec.to_builtins(done) | {"lake": str(lake.path), "rows": Lake.open(lake.path).rows}
        print(json.dumps(totals))
    else:
        print(f"{done.prints:,} prints received, {done.added:,} new in {lake.path}; {done.breaks} breaks")
    return 0


async def _record(
    settings: Settings, lake: Lake, tickers: tuple[str, ...], stop: asyncio.Event, minutes: float | None
) -> Recorded:
    """Record until `stop` is set or the minutes are up.

    A feed that does not open retries for minutes and does not look at `stop`, so a stop cancels it.
    """
    from kalshilab.kalshi.stream.feeds import TradeFeed
    from kalshilab.tape.ingest.record import record

    opened = asyncio.Event()

    async def listen() -> Recorded:
        async with TradeFeed(settings, tickers) as feed:
            opened.set()
            return await record(feed, lake, clock=WallClock(), stop=stop, on_progress=_show)

    if minutes is not None:
        asyncio.get_running_loop().call_later(minutes * 60, stop.set)
    listening, stopping = asyncio.ensure_future(listen()), asyncio.ensure_future(stop.wait())
    await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not opened.is_set():
        listening.cancel()
    stopping.cancel()
    try:
        return await listening
    except asyncio.CancelledError:
        raise StreamError("stopped before the feed was open; nothing was recorded") from None


def _show(progress: RecordProgress) -> None:
    if sys.stderr.isatty():
        last = isoformat(progress.last_ts) if progress.last_ts else "-"
        overwrite_line(f"{progress.prints:,} prints, {progress.breaks} breaks, last {last}")
