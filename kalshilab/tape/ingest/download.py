"""Download every public print into a lake once, from the live and the historical listings.

Time is divided into **windows**, hours of UTC days, and only windows that the lake does not cover are requested.  A
complete window is staged as a segment whose name claims it.  When the windows of a day are complete, their segments are
committed, prints and claims in one transaction.  So a download may be killed at any moment, and the next one continues
with the unclaimed windows.

**Live and archive.**  A print is in the live listing or, once it is older than the exchange's cutoff, in the historical
one; the cutoff moves while a download runs.  A window near it is requested from both.  Then the cutoff is requested
again, and prints that it has passed are requested from the archive once more.  Repeated prints are dropped by trade id,
and prints imported from an archive without ids receive theirs.

**Some series only.**  The exchange lists the prints of all markets or of one.  For `series`, their markets are listed
first and requested one by one.  Such a download claims nothing, because the lake's `covered` concerns all markets.  It
is committed when it is complete, and after a kill the next run uses the segments that are staged.

The exchange does not document whether a listing's time filter includes its ends.  Requests extend one second beyond
both, and the times are compared here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import msgspec

from kalshilab.clock import Clock
from kalshilab.deprecation import renamed_keywords
from kalshilab.errors import ApiError, ConfigError, ConnectionFailed
from kalshilab.retry import RetryPolicy
from kalshilab.tape.ingest.market_metadata import Filter, MarketListings, refresh_markets
from kalshilab.tape.ingest.segments import Segment, commit_segments, in_thread, segments
from kalshilab.tape.ingest.trade_pages import Gathered, Pages
from kalshilab.tape.intervals import Interval, uncovered
from kalshilab.tape.schema import DAY_US, HOUR_US, SECOND_US

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["DownloadProgress", "Downloaded", "HistoryClient", "download"]

T = TypeVar("T")
LISTING_LAG_US: Final = 60 * SECOND_US
"""Age at which a listing is considered complete."""
RETRY: Final = RetryPolicy(attempts=8, first_wait_s=1.0, longest_wait_s=60.0)
"""Retries of a window while the exchange cannot be reached; they wait about two minutes in all."""
SERIES_MARKETS: Final = 16
"""Maximum number of a series' markets in a segment."""
SERIES_WINDOW_US: Final = 30 * DAY_US
"""Length of the windows in which a series is requested."""


class CutoffFacts(Protocol):
    """The exchange's cutoff between the live listings and the archive."""

    @property
    def trades(self) -> int:
        """Cutoff of prints, microseconds: earlier prints are in the archive."""
        ...


class HistoryClient(MarketListings, Protocol):
    """The exchange's listings of prints and markets, such as `kalshilab.kalshi.rest.client.MarketData`."""

    async def cutoff(self) -> CutoffFacts: ...
    def trade_columns(
        self, *, historical: bool = ..., **filters: Filter
    ) -> AsyncIterator[Mapping[str, Sequence[str | None]]]: ...


class DownloadProgress(msgspec.Struct, frozen=True):
    """Progress of a download.

    Attributes:
        phase: "prints", then "markets".
        done: windows (for a series: batches of its markets) or markets finished in this phase.
        total: windows or markets of this phase, without the windows that the lake covered before.
        prints: prints downloaded so far.
        rate: prints a second since the start.
        remaining: estimated seconds to the end of the phase; None while `done` is 0.
    """

    phase: Literal["prints", "markets"]
    done: int
    total: int
    prints: int
    rate: float
    remaining: float | None


class Downloaded(msgspec.Struct, frozen=True):
    """Result of a download.

    Attributes:
        since: start of the interval, microseconds.
        until: end of the interval, exclusive, microseconds; at most a minute before the time of the call.
        windows: windows requested.
        prints: prints listed.
        added: prints that are new in the lake, including those staged by a killed run.
        duplicates: prints that the lake had already.
        unknown_taker: prints left out because their taker side is unknown.
        markets: markets whose metadata were fetched.
        undescribed: markets of the lake whose metadata are still unknown.
        seconds: duration of the download.
    """

    since: int
    until: int
    windows: int
    prints: int
    added: int
    duplicates: int
    unknown_taker: int
    markets: int
    undescribed: int
    seconds: float


@renamed_keywords(since="since_us", until="until_us", window="window_us")
async def download(
    client: HistoryClient,
    lake: Lake,
    since_us: int,
    until_us: int,
    *,
    series: Iterable[str] = (),
    clock: Clock,
    window_us: int = HOUR_US,
    concurrency: int = 4,
    on_progress: Callable[[DownloadProgress], None] | None = None,
) -> Downloaded:
    """Download the public prints of an interval that the lake lacks, and fetch its markets' metadata.

    Args:
        client: the exchange's listings.
        lake: the lake.
        since_us: start of the interval, exchange time in microseconds.
        until_us: end of the interval, exclusive; at most a minute before now is downloaded.
        series: download only these series' markets; by default all markets.
        clock: the clock for the current time and for waiting.
        window_us: length of a window, microseconds; windows end at its multiples and at UTC midnights.
        concurrency: maximum number of windows in progress.  The client limits the rate of requests.
        on_progress: called after each window and each batch of markets.

    Raises:
        ConfigError: the interval is empty, `window_us` is below a second, `concurrency` is below 1, or a series has no
            markets.
        ConnectionFailed, ApiError: the exchange cannot be reached or refuses; call again to continue.
        LakeError: the lake is damaged, or another process writes to it.
    """
    if window_us < SECOND_US:
        raise ConfigError("window_us", window_us, f"at least {SECOND_US:_} (one second)", "argument")
    if concurrency < 1:
        raise ConfigError("concurrency", concurrency, "at least 1", "argument")
    end_us = min(until_us, clock.now() - LISTING_LAG_US)
    if not 0 <= since_us < end_us:
        raise ConfigError("since_us", since_us, f"from 0 to below {end_us} (microseconds)", "argument")
    job = _DownloadJob(client, lake, clock, on_progress)
    # Keep the lock throughout: a second download would request the same windows.
    with lake.writing():
        names = sorted(set(series))
        if names:
            await job.download_series(since_us, end_us, names, concurrency)
        else:
            await job.download_all(since_us, end_us, window_us, concurrency)
        return await job.finish(since_us, end_us, concurrency)


def windows(since: int, until: int, window_us: int, covered: Iterable[Interval] = ()) -> Iterator[Interval]:
    """Yield the uncovered parts of [since, until), cut at multiples of `window_us` and at UTC midnights.

    >>> list(windows(0, 10_000_000, 4_000_000, [(5_000_000, 6_000_000)]))
    [(0, 4000000), (4000000, 5000000), (6000000, 8000000), (8000000, 10000000)]
    """
    for low, high in uncovered(since, until, covered):
        at = low
        while at < high:
            end = min(high, at // window_us * window_us + window_us, at // DAY_US * DAY_US + DAY_US)
            yield at, end
            at = end


class _DownloadJob:
    """State of one download: its counts, and the lock that orders its writes to the lake."""

    def __init__(
        self,
        client: HistoryClient,
        lake: Lake,
        clock: Clock,
        on_progress: Callable[[DownloadProgress], None] | None,
    ) -> None:
        self._client, self._lake, self._clock, self._on_progress = client, lake, clock, on_progress
        self._began = clock.monotonic()
        self._writing = asyncio.Lock()
        self._cutoff = 0
        self._done = self._total = 0
        self._prints = self._added = self._duplicates = self._unknown = 0

    # All markets

    async def download_all(self, since: int, until: int, window_us: int, concurrency: int) -> None:
        # Complete windows of a killed run, and segments that a recorder left.
        await self._commit(segments(self._lake, "download", "record"))
        work = list(windows(since, until, window_us, self._lake.covered))
        pending = Counter(low // DAY_US for low, _ in work)

        async def download_window(window: Interval) -> None:
            low, high = window
            day = low // DAY_US
            await self._stage(Segment("download", low, high), [None])
            pending[day] -= 1
            if not pending[day]:
                await self._commit([s for s in segments(self._lake, "download") if s.since // DAY_US == day])

        await self._each(work, download_window, concurrency)

    # Some series

    async def download_series(self, since: int, until: int, series: list[str], concurrency: int) -> None:
        lifetimes = await self._market_lifetimes(series)
        staged = {s.name for s in segments(self._lake, "series")}
        work: list[tuple[Segment, list[str]]] = []
        for low, high in uncovered(since, until, self._lake.covered):
            for at in range(low // SERIES_WINDOW_US * SERIES_WINDOW_US, high, SERIES_WINDOW_US):
                begin, end = max(low, at), min(high, at + SERIES_WINDOW_US)
                alive = [ticker for ticker, opens, closes in lifetimes if opens < end and closes >= begin]
                for n in range(0, len(alive), SERIES_MARKETS):
                    tickers = alive[n : n + SERIES_MARKETS]
                    tag = hashlib.sha256(",".join(tickers).encode()).hexdigest()[:16]
                    segment = Segment("series", begin, end, tag)
                    if segment.name not in staged:
                        work.append((segment, tickers))

        async def download_batch(batch: tuple[Segment, list[str]]) -> None:
            await self._stage(*batch)

        await self._each(work, download_batch, concurrency)
        await self._commit(segments(self._lake, "series"))

    async def _market_lifetimes(self, series: list[str]) -> list[tuple[str, int, int]]:
        """Return ticker, opening and close of the series' markets, a day wider on both sides, by opening."""
        lifetimes: dict[str, tuple[str, int, int]] = {}
        for name in series:
            # Live first: a market that moves to the archive in between is in the second answer.
            markets = await self._client.markets(series_ticker=name)
            markets += await self._client.historical_markets(series_ticker=name)
            if not markets:
                raise ConfigError("series", name, "the ticker of a series that has markets", "argument")
            for m in markets:
                close = m.close_ts + DAY_US if m.close_ts else 2**62
                lifetimes[m.ticker] = m.ticker, m.open_ts - DAY_US, close
        return sorted(lifetimes.values(), key=lambda lifetime: (lifetime[1], lifetime[0]))

    # Work

    async def _each(
        self, work: Sequence[T], process: Callable[[T], Awaitable[None]], concurrency: int
    ) -> None:
        """Process items in order, `concurrency` at once; the first failure cancels the others."""
        self._total = len(work)
        self._cutoff = (await self._client.cutoff()).trades
        self._report("prints", 0, self._total, self._began)
        items = iter(work)

        async def worker() -> None:
            for item in items:
                await process(item)

        workers = [asyncio.create_task(worker(), name="download") for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _stage(self, segment: Segment, tickers: Sequence[str | None]) -> None:
        """Fetch all prints of a segment, with retries, and stage it."""
        attempt = 1
        while True:
            pages = Pages()
            try:
                await self._fetch(pages, segment.since, segment.until, tickers)
                break
            except (ConnectionFailed, ApiError) as error:
                wait_s = RETRY.wait_s("GET", attempt, error)
                if wait_s is None:
                    raise
            await self._clock.sleep(wait_s)
            attempt += 1

        def write() -> Gathered:
            gathered = pages.gather(segment.since, segment.until)
            self._lake.stage(segment.name, gathered.tape)
            return gathered

        async with self._writing:
            gathered = await in_thread(write)
        self._prints += gathered.tape.height + gathered.unknown_taker
        self._unknown += gathered.unknown_taker
        self._duplicates += gathered.duplicates
        self._done += 1
        self._report("prints", self._done, self._total, self._began)

    async def _fetch(self, pages: Pages, low: int, high: int, tickers: Sequence[str | None]) -> None:
        """Add all prints of [low, high) to the pages; some may be repeated."""
        before = cutoff = self._cutoff
        if high > cutoff - SECOND_US:
            await self._fetch_listing(pages, False, max(low, cutoff - SECOND_US), high, tickers)
            # Prints may have left the live listing before their page was requested.  Those that the cutoff has passed
            # since are in the archive now.
            while (now := (await self._client.cutoff()).trades) > cutoff:
                begin, end = max(low, cutoff - SECOND_US), min(high, now + SECOND_US)
                await self._fetch_listing(pages, True, begin, end, tickers)
                cutoff = now
        await self._fetch_listing(pages, True, low, min(high, before + SECOND_US), tickers)
        self._cutoff = max(self._cutoff, cutoff)

    async def _fetch_listing(
        self, pages: Pages, historical: bool, low: int, high: int, tickers: Sequence[str | None]
    ) -> None:
        """Add one listing's prints of [low, high) to the pages, and a few around the interval."""
        if low >= high:
            return
        least, most = max(low // SECOND_US - 1, 0), -(-high // SECOND_US)
        for ticker in tickers:
            async for page in self._client.trade_columns(
                historical=historical, ticker=ticker, min_ts=least, max_ts=most
            ):
                pages.add(page)

    async def _commit(self, chosen: Sequence[Segment]) -> None:
        async with self._writing:
            done = await in_thread(commit_segments, self._lake, chosen)
        if done is not None:
            self._added += done.added
            self._duplicates += done.duplicates

    async def finish(self, since: int, until: int, concurrency: int) -> Downloaded:
        """Fetch the markets' metadata and return the result."""
        began = self._clock.monotonic()
        described = await refresh_markets(
            self._client,
            self._lake,
            concurrency=concurrency,
            on_progress=lambda done, total: self._report("markets", done, total, began),
        )
        return Downloaded(
            since=since,
            until=until,
            windows=self._done,
            prints=self._prints,
            added=self._added,
            duplicates=self._duplicates,
            unknown_taker=self._unknown,
            markets=described,
            undescribed=self._lake.unknown,
            seconds=self._clock.monotonic() - self._began,
        )

    def _report(self, phase: Literal["prints", "markets"], done: int, total: int, began: float) -> None:
        if self._on_progress is None:
            return
        now = self._clock.monotonic()
        rate = self._prints / (now - self._began) if now > self._began else 0.0
        remaining = (now - began) / done * (total - done) if done else None
        self._on_progress(DownloadProgress(phase, done, total, self._prints, rate, remaining))
