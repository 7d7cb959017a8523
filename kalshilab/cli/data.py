"""The commands about trade data: `download`, `record`, `import`, and `doctor` for a lake.

What cannot be carried out is a `KalshilabError` with a sentence; `kalshilab.__main__` prints it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import warnings
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import msgspec

from kalshilab.clock import WallClock, from_datetime, isoformat
from kalshilab.config.settings import Settings
from kalshilab.errors import LakeError, StreamError, UsageError

__all__ = ["add_parsers", "doctor_lake", "instant_of"]

MOST_SAID: Final = 12
"""Findings of one severity that `doctor` prints."""


def add_parsers(commands: Any) -> None:
    """Add the data commands to the subparsers of the `kalshilab` command."""
    download = commands.add_parser(
        "download",
        help="download public prints into a lake",
        description="Download public prints into a lake. Killed at any moment, run it again: it goes on where it was.",
    )
    download.add_argument(
        "--since", required=True, help="first day or instant (UTC), as 2026-01-31 or 2026-01-31T12:00"
    )
    download.add_argument("--until", default="now", help="end, exclusive; default now")
    download.add_argument("--series", help="series tickers, with commas; default: all markets")
    download.add_argument("--out", default="lake", help="the lake's folder; default lake")
    download.add_argument(
        "--url", help="REST address up to /trade-api/v2; default: production, which is only read"
    )
    download.add_argument(
        "--window", type=float, default=3600, metavar="SECONDS", help="asked for at once; default 3600"
    )
    download.add_argument("--concurrency", type=int, default=4, help="windows in work at once; default 4")
    download.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    download.set_defaults(command=_download)

    record = commands.add_parser(
        "record",
        help="record the live feed into a lake",
        description="Record the live feed of public prints into a lake until Ctrl-C, SIGTERM or --minutes.",
    )
    record.add_argument("--out", default="lake", help="the lake's folder; default lake")
    record.add_argument("--tickers", help="markets, with commas; default: all")
    record.add_argument(
        "--ws-url", dest="ws_url", help="WebSocket address; default: production, which is only read"
    )
    record.add_argument("--minutes", type=float, help="stop after so long; default: never")
    record.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    record.set_defaults(command=_record)

    importer = commands.add_parser(
        "import",
        help="put archives of trades into a lake",
        description="Put Parquet, CSV or JSON files of trades (or folders of them) into a lake.",
    )
    importer.add_argument("paths", nargs="+", help="files or folders")
    importer.add_argument("--out", default="lake", help="the lake's folder; default lake")
    importer.add_argument("--markets", help="a table of the markets beside them, Parquet or CSV")
    importer.add_argument(
        "--result-column", dest="result_column", help="column of the markets that holds the result"
    )
    importer.add_argument(
        "--price-unit", choices=("cents", "dollars"), help="what plain numbers of yes_price are in"
    )
    importer.set_defaults(command=_import)


def instant_of(text: str, now: int) -> int:
    """An instant as people type it, microseconds; without an offset it is UTC.

    >>> instant_of("2026-01-05", 0), instant_of("now", 7)
    (1767571200000000, 7)

    Raises:
        UsageError: it is none.
    """
    if text == "now":
        return now
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text}: not an instant; write 2026-01-31, 2026-01-31T12:00 or now") from None
    return from_datetime(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _refuse_no_number(option: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise UsageError(f"{option} {value:g}: a number that is not below 0")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _interruptible(work: Coroutine[Any, Any, Any], stop: asyncio.Event | None = None) -> Any:
    """Run to the end; the first Ctrl-C or SIGTERM ends it in order, by `stop` or by cancelling."""

    async def run() -> Any:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, task.cancel if stop is None else stop.set)
        return await task

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        raise UsageError("interrupted; run it again to go on") from None


# download


def _download(options: argparse.Namespace) -> int:
    from kalshilab.kalshi.hosts import PRODUCTION
    from kalshilab.kalshi.rest.client import MarketData
    from kalshilab.tape.ingest.download import download
    from kalshilab.tape.lake.lake import Lake

    _refuse_no_number("--window", options.window)
    clock = WallClock()
    since, until = instant_of(options.since, clock.now()), instant_of(options.until, clock.now())
    own = Settings()
    settings = Settings(venue="demo", rest_url=options.url or own.rest_url or PRODUCTION[0])
    bar = _Bar(quiet=options.json)

    async def work(lake: Lake) -> Any:
        async with MarketData(settings) as client:
            return await download(
                client,
                lake,
                since,
                until,
                series=_names(options.series),
                clock=clock,
                window_us=round(options.window * 1e6),
                concurrency=options.concurrency,
                on_progress=bar.show,
            )

    try:
        with Lake.begun(options.out) as lake:
            done = _interruptible(work(lake))
    finally:
        bar.close()
    if options.json:
        print(
            json.dumps(
                msgspec.to_builtins(done) | {"lake": str(lake.path), "rows": Lake.open(lake.path).rows}
            )
        )
    else:
        print(
            f"{done.prints:,} prints listed, {done.added:,} new in {lake.path} ({done.duplicates:,} were there, "
            f"{done.unknown_taker:,} without a taker left out); {done.markets:,} markets described, "
            f"{done.undescribed:,} unknown"
        )
    return 0


class _Bar:
    """A progress bar on a terminal: windows done, prints a second, time left."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._phase = ""

    def show(self, progress: Any) -> None:
        """Draw how far a download is."""
        # Late: only who downloads needs it.
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
        """End the bar's line."""
        if self._bar is not None:
            self._bar.close()


# record


def _record(options: argparse.Namespace) -> int:
    from kalshilab.kalshi.hosts import PRODUCTION
    from kalshilab.kalshi.stream.feeds import TradeFeed
    from kalshilab.tape.ingest.record import record
    from kalshilab.tape.lake.lake import Lake

    if options.minutes is not None:
        _refuse_no_number("--minutes", options.minutes)
    own = Settings()
    settings = Settings(venue="demo", ws_url=options.ws_url or own.ws_url or PRODUCTION[1])
    if settings.lacking:
        raise UsageError(
            f"the feed of trades needs a key, and {' and '.join(settings.lacking)} is not set: in the environment or in "
            ".env; kalshilab download needs none"
        )
    lake, clock = Lake.create(options.out), WallClock()
    stop = asyncio.Event()

    def say(progress: Any) -> None:
        if sys.stderr.isatty():
            last = isoformat(progress.last_ts) if progress.last_ts else "none yet"
            print(
                f"\r\x1b[K{progress.prints:,} prints, {progress.breaks} breaks, last {last}",
                end="",
                file=sys.stderr,
            )

    async def listen(opened: asyncio.Event) -> Any:
        async with TradeFeed(settings, _names(options.tickers)) as feed:
            opened.set()
            return await record(feed, lake, clock=clock, stop=stop, on_progress=say)

    async def work() -> Any:
        if options.minutes is not None:
            asyncio.get_running_loop().call_later(options.minutes * 60, stop.set)
        opened = asyncio.Event()
        listening, stopping = asyncio.ensure_future(listen(opened)), asyncio.ensure_future(stop.wait())
        await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not opened.is_set():
            # A feed that does not open is tried again for minutes, and hears of no stop meanwhile.
            listening.cancel()
        stopping.cancel()
        try:
            return await listening
        except asyncio.CancelledError:
            raise StreamError("stopped before the feed was open; nothing was recorded") from None

    done = _interruptible(work(), stop)
    if options.json:
        print(
            json.dumps(
                msgspec.to_builtins(done) | {"lake": str(lake.path), "rows": Lake.open(lake.path).rows}
            )
        )
    else:
        print(f"{done.prints:,} prints heard, {done.added:,} new in {lake.path}; {done.breaks} breaks")
    return 0


# import, doctor


def _import(options: argparse.Namespace) -> int:
    import polars as pl

    from kalshilab.tape.ingest.archives import import_archive
    from kalshilab.tape.normalise import DroppedRows, to_markets

    for path in (*options.paths, *([options.markets] if options.markets else [])):
        if not Path(path).exists():
            raise UsageError(f"{path}: no such file or folder")
    markets = None
    if options.markets:
        table = Path(options.markets)
        if table.suffix in (".json", ".jsonl", ".ndjson"):
            raise UsageError(f"--markets {table}: Parquet or CSV")
        frame = (
            pl.read_parquet(table)
            if table.suffix == ".parquet"
            else pl.read_csv(table, infer_schema_length=None)
        )
        markets = to_markets(frame, result_column=options.result_column)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", DroppedRows)
        done = import_archive(options.out, options.paths, markets=markets, price_unit=options.price_unit)
    for warning in said:
        print(f"kalshilab import: {warning.message}", file=sys.stderr)
    print(
        f"{done.rows:,} prints read, {done.added:,} new in {Path(options.out).absolute()} ({done.duplicates:,} were there), "
        f"{done.days} days, {done.new_markets:,} new markets"
    )
    return 0


def doctor_lake(path: str, *, repair: bool) -> int:
    """Look over a lake, every byte of it, and say what is found; 1 if something is wrong."""
    from kalshilab.tape.lake.doctor import doctor
    from kalshilab.tape.lake.doctor import repair as repair_lake
    from kalshilab.tape.lake.lake import Lake

    if repair:
        # Not through `Lake`: a lake whose manifest is damaged cannot be opened, and needs it most.
        for sentence in repair_lake(path):
            print(sentence)
    findings = doctor(path)
    # What cannot be opened is among the findings.
    with suppress(LakeError):
        lake = Lake.open(path)
        print(
            f"{lake.path}: {lake.rows:,} prints of {len(lake.tickers):,} markets in {len(lake.files):,} days"
        )
    for severity, own in groupby(sorted(findings, key=lambda f: f.severity), key=lambda f: f.severity):
        found = list(own)
        for finding in found[:MOST_SAID]:
            where = "" if finding.file is None else f"{finding.file}: "
            print(f"  {severity}: {where}{finding.text}")
        if len(found) > MOST_SAID:
            print(f"  {severity}: … and {len(found) - MOST_SAID:,} more of the kind")
    wrong = [f for f in findings if f.severity == "error"]
    if wrong and not repair:
        print(f"run: kalshilab doctor {path} --repair")
    if not findings:
        print("  all is as it was written")
    return 1 if wrong else 0
