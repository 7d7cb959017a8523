"""Download public prints into a lake: every one, once, from the live and the historical listings together.

Time is cut into **windows**, hours of UTC days, and only those the lake does not cover yet are asked for.  A
window that is complete is staged as a segment whose name claims it; when a day's windows are complete its
segments are committed, prints and claims in one swap.  So a download may be killed at any moment, and the
next one goes on with the windows that nobody has claimed.

**Live and archive.**  A print is in the live listing or, once older than the exchange's cutoff, in the
historical one; the cutoff moves while a download runs.  A window near it asks both, and then for the cutoff
again: what it has passed since is asked of the archive once more.  What comes twice is dropped by trade id,
and what an archive without ids brought gets its own.

**Some series only.**  The exchange lists prints of all markets or of one.  For `series` their markets are
found first and asked one by one; such a download claims nothing, because the lake's `covered` speaks of all
markets, so it is committed when it is complete and finds its own segments after a kill.

The exchange's documents do not say whether the ends of a listing's time filter belong to it: a second more is
asked for at both, and the instants are compared here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

import msgspec

from kalshilab.clock import Clock
from kalshilab.errors import ApiError, ConfigError, ConnectionFailed
from kalshilab.retry import RetryPolicy
from kalshilab.tape.ingest.market_metadata import Filter, MarketListings, refresh_markets
from kalshilab.tape.ingest.segments import Segment, commit_segments, in_thread, segments
from kalshilab.tape.ingest.trade_pages import Gathered, Pages
from kalshilab.tape.lake.intervals import Span, uncovered

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["DownloadProgress", "Downloaded", "HistoryClient", "download"]

T = TypeVar("T")
SECOND: Final = 1_000_000
HOUR: Final = 3600 * SECOND
DAY: Final = 24 * HOUR
SETTLE: Final = 60 * SECOND
"""How far behind the clock a listing is taken to be complete."""
RETRY: Final = RetryPolicy(attempts=8, first_wait_s=1.0, longest_wait_s=60.0)
"""Retries of a window while the exchange cannot be reached: about two minutes in all."""
TOGETHER: Final = 16
"""Markets of a series in one segment, and the days of a segment below."""
SERIES_WINDOW: Final = 30 * DAY


class CutoffFacts(Protocol):
    """Where the archive of prints begins, microseconds."""

    @property
    def trades(self) -> int: ...


class HistoryClient(MarketListings, Protocol):
    """What a download asks of the exchange; `kalshilab.kalshi.rest.client.MarketData` fits."""

    async def cutoff(self) -> CutoffFacts: ...
    def trade_columns(
        self, *, historical: bool = ..., **filters: Filter
    ) -> AsyncIterator[Mapping[str, Sequence[str | None]]]: ...


class DownloadProgress(msgspec.Struct, frozen=True):
    """How far a download is.

    `done` of `total` are windows of time, or batches of a series' markets (`phase` "prints"), then markets
    described ("markets"); windows the lake had already are not in `total`.  `rate` is prints a second since
    the start, `remaining` seconds to the end of the phase, None before anything is done.
    """

    phase: Literal["prints", "markets"]
    done: int
    total: int
    prints: int
    rate: float
    remaining: float | None


class Downloaded(msgspec.Struct, frozen=True):
    """What a download did.

    [since, until) is what was asked for, as far as it is past; of `windows` asked for now, `prints` were
    listed, `unknown_taker` of them named no taker and were left out, `duplicates` had come before;  `added`
    are new in the lake, those staged by a run that was killed included.  `markets` were described anew;
    `undescribed` are markets of the lake whose event is still not known.
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


async def download(
    client: HistoryClient,
    lake: Lake,
    since: int,
    until: int,
    *,
    series: Iterable[str] = (),
    clock: Clock,
    window: int = HOUR,
    concurrency: int = 4,
    on_progress: Callable[[DownloadProgress], None] | None = None,
) -> Downloaded:
    """Download the public prints of [since, until) that the lake does not have, and describe its markets.

    Args:
        since, until: exchange time, microseconds; `until` is taken back to a minute before now.
        series: only these series' markets; by default all markets.
        clock: machine time: where now is, and how fast it goes.
        window: microseconds asked for at once; windows end at its multiples and at UTC midnights.
        concurrency: windows in work at once.  How fast calls are made is up to the client.

    Raises:
        ConfigError: an empty stretch of time, a window or concurrency below one, a series without markets.
        ConnectionFailed, ApiError: the exchange cannot be reached, or refuses; run it again to go on.
        LakeError: the lake is damaged, or somebody else writes to it.
    """
    if window < SECOND or concurrency < 1:
        name, value = ("window", window) if window < SECOND else ("concurrency", concurrency)
        raise ConfigError(name, value, "at least a second" if name == "window" else "at least 1", "argument")
    ends = min(until, clock.now() - SETTLE)
    if not 0 <= since < ends:
        raise ConfigError("since", since, f"an instant from 0 to before {ends}, microseconds", "argument")
    job = _Job(client, lake, clock, on_progress)
    # For all of its length: a second download would ask for the same windows.
    with lake.writing():
        names = sorted(set(series))
        if names:
            await job.some(since, ends, names, concurrency)
        else:
            await job.everything(since, ends, window, concurrency)
        return await job.finish(since, ends, concurrency)


def windows(since: int, until: int, window: int, covered: Iterable[Span] = ()) -> Iterator[Span]:
    """What of [since, until) is not covered, cut at multiples of `window` and at UTC midnights.

    >>> list(windows(0, 10_000_000, 4_000_000, [(5_000_000, 6_000_000)]))
    [(0, 4000000), (4000000, 5000000), (6000000, 8000000), (8000000, 10000000)]
    """
    for low, high in uncovered(since, until, covered):
        at = low
        while at < high:
            end = min(high, at // window * window + window, at // DAY * DAY + DAY)
            yield at, end
            at = end


class _Job:
    """One download: its counts, and the order in which things reach the lake."""

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

    async def everything(self, since: int, until: int, window: int, concurrency: int) -> None:
        # What a run that was killed had complete, and whatever a recorder left.
        await self._commit(segments(self._lake, "download", "record"))
        work = list(windows(since, until, window, self._lake.covered))
        left = Counter(low // DAY for low, _ in work)

        async def one(span: Span) -> None:
            low, high = span
            await self._stage(Segment("download", low, high), [None])
            left[low // DAY] -= 1
            if not left[low // DAY]:
                done = segments(self._lake, "download")
                await self._commit([s for s in done if s.since // DAY == low // DAY])

        await self._each(work, one, concurrency)

    # Some series

    async def some(self, since: int, until: int, series: list[str], concurrency: int) -> None:
        lives = await self._lives(series)
        staged = {s.name for s in segments(self._lake, "series")}
        work: list[tuple[Segment, list[str]]] = []
        for low, high in uncovered(since, until, self._lake.covered):
            for at in range(low // SERIES_WINDOW * SERIES_WINDOW, high, SERIES_WINDOW):
                a, b = max(low, at), min(high, at + SERIES_WINDOW)
                alive = [t for t, opens, closes in lives if opens < b and closes >= a]
                for n in range(0, len(alive), TOGETHER):
                    tickers = alive[n : n + TOGETHER]
                    tag = hashlib.sha256(",".join(tickers).encode()).hexdigest()[:16]
                    segment = Segment("series", a, b, tag)
                    if segment.name not in staged:
                        work.append((segment, tickers))

        async def one(piece: tuple[Segment, list[str]]) -> None:
            await self._stage(*piece)

        await self._each(work, one, concurrency)
        await self._commit(segments(self._lake, "series"))

    async def _lives(self, series: list[str]) -> list[tuple[str, int, int]]:
        """Ticker, opening and closing of each market of the series, with a day to spare; in order of opening."""
        found: dict[str, tuple[str, int, int]] = {}
        for name in series:
            # Live first: a market that moves to the archive in between is found there.
            markets = await self._client.markets(series_ticker=name)
            markets += await self._client.historical_markets(series_ticker=name)
            if not markets:
                raise ConfigError("series", name, "the ticker of a series that has markets", "argument")
            for m in markets:
                found[m.ticker] = m.ticker, m.open_ts - DAY, m.close_ts + DAY if m.close_ts else 2**62
        return sorted(found.values(), key=lambda life: (life[1], life[0]))

    # Work

    async def _each(self, work: Sequence[T], one: Callable[[T], Awaitable[None]], concurrency: int) -> None:
        """Do the pieces of work in order, some at once; the first that fails stops the others."""
        self._total = len(work)
        self._cutoff = (await self._client.cutoff()).trades
        self._tell("prints", 0, self._total, self._began)
        pieces = iter(work)

        async def worker() -> None:
            for piece in pieces:
                await one(piece)

        workers = [asyncio.create_task(worker(), name="download") for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _stage(self, segment: Segment, tickers: Sequence[str | None]) -> None:
        """Ask for a segment's prints, all of them, and stage them."""
        attempt = 1
        while True:
            pages = Pages()
            try:
                await self._ask(pages, segment.since, segment.until, tickers)
                break
            except (ConnectionFailed, ApiError) as error:
                wait_s = RETRY.wait_s("GET", attempt, error)
                if wait_s is None:
                    raise
            await self._clock.sleep(wait_s)
            attempt += 1

        def write() -> Gathered:
            found = pages.gather(segment.since, segment.until)
            self._lake.stage(segment.name, found.tape)
            return found

        async with self._writing:
            found = await in_thread(write)
        self._prints += found.tape.height + found.unknown_taker
        self._unknown += found.unknown_taker
        self._duplicates += found.duplicates
        self._done += 1
        self._tell("prints", self._done, self._total, self._began)

    async def _ask(self, pages: Pages, low: int, high: int, tickers: Sequence[str | None]) -> None:
        """All prints of [low, high), some perhaps twice."""
        before = cutoff = self._cutoff
        if high > cutoff - SECOND:
            await self._list(pages, False, max(low, cutoff - SECOND), high, tickers)
            # Prints may have left the live listing before their page was asked for: those the cutoff has passed
            # since then are in the archive now.
            while (now := (await self._client.cutoff()).trades) > cutoff:
                await self._list(pages, True, max(low, cutoff - SECOND), min(high, now + SECOND), tickers)
                cutoff = now
        await self._list(pages, True, low, min(high, before + SECOND), tickers)
        self._cutoff = max(self._cutoff, cutoff)

    async def _list(
        self, pages: Pages, historical: bool, low: int, high: int, tickers: Sequence[str | None]
    ) -> None:
        """One listing's prints of [low, high), and a few around them."""
        if low >= high:
            return
        least, most = max(low // SECOND - 1, 0), -(-high // SECOND)
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
        """Describe the markets, and say what was done."""
        began = self._clock.monotonic()
        described = await refresh_markets(
            self._client,
            self._lake,
            concurrency=concurrency,
            on_progress=lambda done, total: self._tell("markets", done, total, began),
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

    def _tell(self, phase: Literal["prints", "markets"], done: int, total: int, began: float) -> None:
        if self._on_progress is None:
            return
        now = self._clock.monotonic()
        rate = self._prints / (now - self._began) if now > self._began else 0.0
        remaining = (now - began) / done * (total - done) if done else None
        self._on_progress(DownloadProgress(phase, done, total, self._prints, rate, remaining))
