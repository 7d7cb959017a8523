"""A download from a small fake exchange with faults gives every print exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.clock import SimClock, isoformat
from kalshilab.errors import ApiError, ConfigError, ConnectionFailed, RateLimited
from kalshilab.market.model import Market, Trade
from kalshilab.tape.ingest.download import Downloaded, DownloadProgress, download, windows
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.schema import DAY_US, HOUR_US
from kalshilab.units import format_price, format_size

T0 = 20_000 * DAY_US
UNTIL = T0 + 4 * DAY_US


class Cutoff(NamedTuple):
    """The cutoff between live listing and archive."""

    trades: int


class Described(NamedTuple):
    """A series or an event."""

    ticker: str = ""
    category: str = ""
    fee_type: str = "quadratic"
    fee_multiplier: float = 1.0
    event_ticker: str = ""
    series_ticker: str = ""


class Venue:
    """Listings of `prints`, divided by a cutoff.

    Args:
        prints: in time order.
        cutoff: earlier prints are in the archive; microseconds.
        size: maximum number of prints on a page.

    Attributes:
        rule: whether a time filter includes a print.
        overlap: microseconds around the cutoff in which prints are in both listings.
        on_page: called after each page.
        errors: raised by the next requests.
    """

    def __init__(self, prints: list[Trade], cutoff: int = T0 + 2 * DAY_US, *, size: int = 25) -> None:
        self.prints, self.at, self.size = prints, cutoff, size
        self.rule: Callable[[int, int, int], bool] = lambda ts, low, high: low * 10**6 <= ts <= high * 10**6
        self.overlap = 0
        self.calls: list[tuple[bool, int, int, str | None]] = []
        self.on_page: Callable[[Venue], None] = lambda venue: None
        self.errors: list[Exception] = []
        self.results: dict[str, str] = {}
        self.events_asked: list[str] = []

    async def cutoff(self) -> Cutoff:
        await asyncio.sleep(0)
        return Cutoff(self.at)

    def visible(self, t: Trade, historical: bool) -> bool:
        return t.ts < self.at + self.overlap if historical else t.ts >= self.at - self.overlap

    async def trade_columns(self, *, historical: bool = False, **filters: Any) -> AsyncIterator[dict[str, list[Any]]]:  # fmt: skip
        low, high, ticker = filters["min_ts"], filters["max_ts"], filters.get("ticker")
        self.calls.append((historical, low, high, ticker))
        below = len(self.prints)
        while True:
            await asyncio.sleep(0)
            if self.errors:
                raise self.errors.pop()
            rows = []
            while below and len(rows) < self.size:
                below -= 1
                t = self.prints[below]
                if self.rule(t.ts, low, high) and self.visible(t, historical) and ticker in (None, t.ticker):
                    rows.append(t)
            yield {
                "created_time": [isoformat(t.ts) for t in rows],
                "ticker": [t.ticker for t in rows],
                "yes_price_dollars": [format_price(t.price) for t in rows],
                "count_fp": [format_size(t.size) for t in rows],
                "taker_outcome_side": [t.taker or None for t in rows],
                "trade_id": [t.trade_id for t in rows],
            }
            self.on_page(self)
            if not below:
                return

    def _market(self, ticker: str) -> Market:
        own = [t.ts for t in self.prints if t.ticker == ticker]
        result = self.results.get(ticker, "")
        return Market(
            ticker=ticker, event=ticker.rpartition("-")[0], open_ts=min(own) - 1, close_ts=max(own) + 1, result=result,
            settlement={"yes": 10_000, "no": 0, "scalar": 1234}.get(result), price_structure="deci_cent",
        )  # fmt: skip

    def _listed(self, old: bool, filters: dict[str, Any]) -> list[Market]:
        tickers = sorted({t.ticker for t in self.prints})
        if "tickers" in filters:
            tickers = [t for t in tickers if t in filters["tickers"].split(",")]
        if "series_ticker" in filters:
            tickers = [t for t in tickers if t.startswith(filters["series_ticker"] + "-")]
        # Settled markets are in the archive.
        return [self._market(t) for t in tickers if bool(self.results.get(t)) == old]

    async def markets(self, **filters: Any) -> list[Market]:
        return self._listed(False, filters)

    async def historical_markets(self, **filters: Any) -> list[Market]:
        return self._listed(True, filters)

    async def events(self, **filters: Any) -> list[Described]:
        self.events_asked += filters["tickers"].split(",")
        return [
            Described(event_ticker=e, series_ticker="KXOLD", category="Old")
            for e in filters["tickers"].split(",")
        ]

    async def all_series(self) -> list[Described]:
        return [
            Described("KXA", "Sport", fee_multiplier=0.5),
            Described("KXA-X", "Sub"),
            Described("KXB", "News"),
        ]


TICKERS = ("KXA-1-T", "KXA-X-2-T", "KXB-1-T")


def tape_of(count: int = 300, *, start: int = T0, end: int = UNTIL) -> list[Trade]:
    step = (end - start) // count
    return [
        Trade(start + n * step + (n % 7) * 1001, TICKERS[n % 3], 100 * (n % 99 + 1), n + 1, ("yes", "no")[n % 2], f"t{n}")
        for n in range(count)
    ]  # fmt: skip


def rows(lake: Lake) -> list[Trade]:
    frame = lake.read().select(
        pl.col("ts").dt.epoch("us"),
        pl.col("ticker").cast(pl.String),
        "price",
        "size",
        pl.col("taker").cast(pl.String),
        "trade_id",
    )
    return [Trade(*row) for row in frame.rows()]


async def run(venue: Venue, lake: Lake, since: int = T0, until: int = UNTIL, **more: Any) -> Downloaded:
    more.setdefault("window_us", 6 * HOUR_US)
    return await download(venue, lake, since, until, clock=SimClock(UNTIL + DAY_US), **more)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake")


RULES: dict[str, Callable[[int, int, int], bool]] = {
    "both ends": lambda ts, low, high: low * 10**6 <= ts <= high * 10**6,
    "neither end": lambda ts, low, high: low * 10**6 < ts < high * 10**6,
    "whole seconds": lambda ts, low, high: low <= ts // 10**6 <= high,
    "inside whole seconds": lambda ts, low, high: low < ts // 10**6 < high,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cutoff", [0, T0 + DAY_US, UNTIL])
async def test_every_print_is_downloaded_whether_filters_include_their_ends_or_not(
    lake: Lake, rule: str, cutoff: int
) -> None:
    end = T0 + 2 * DAY_US
    prints = tape_of(150, end=end)
    # Prints exactly at the ends of windows and days, and at the cutoff.
    for n, at in enumerate(
        (T0 + 8 * HOUR_US, T0 + 8 * HOUR_US - 1, T0 + DAY_US, T0 + DAY_US - 1, T0 + 2 * DAY_US - 1)
    ):
        prints.append(Trade(at, TICKERS[0], 5000, 100, "yes", f"edge{n}"))
    prints.sort(key=lambda t: t.ts)
    venue = Venue(prints, cutoff)
    venue.rule = RULES[rule]
    done = await run(venue, lake, until=end, window_us=8 * HOUR_US)
    assert rows(lake) == prints
    assert (done.prints, done.added, done.unknown_taker) == (len(prints), len(prints), 0)
    assert lake.covered == ((T0, end),) and lake.staged() == []


async def test_only_the_requested_interval_is_downloaded(lake: Lake) -> None:
    prints = tape_of()
    since, until = T0 + 5 * HOUR_US + 123_456, T0 + 2 * DAY_US + 7 * HOUR_US + 654_321
    await run(Venue(prints), lake, since, until)
    assert rows(lake) == [t for t in prints if since <= t.ts < until]
    assert lake.covered == ((since, until),)


async def test_covered_time_is_not_requested_again(lake: Lake) -> None:
    prints = tape_of()
    venue = Venue(prints)
    await run(venue, lake, T0 + DAY_US, T0 + 2 * DAY_US)
    venue.calls.clear()
    seen: list[DownloadProgress] = []
    done = await run(venue, lake, on_progress=seen.append)
    assert rows(lake) == prints
    assert done.windows == 12 and seen[0].total == 12
    inside = range((T0 + DAY_US) // 10**6, (T0 + 2 * DAY_US) // 10**6)
    assert not any(low + 2 in inside and high - 2 in inside for _, low, high, _ in venue.calls)
    venue.calls.clear()
    again = await run(venue, lake)
    assert venue.calls == [] and (again.windows, again.prints, again.added) == (0, 0, 0)


async def test_the_last_minute_is_not_downloaded(lake: Lake) -> None:
    prints = tape_of()
    now = T0 + 2 * DAY_US
    done = await download(Venue(prints), lake, T0, UNTIL, clock=SimClock(now), window_us=DAY_US)
    assert now - 120 * 10**6 <= done.until < now and lake.covered == ((T0, done.until),)


@pytest.mark.parametrize("moves", [[DAY_US], [DAY_US, DAY_US // 2, 3 * DAY_US], [10 * DAY_US]])
@pytest.mark.parametrize("page", [1, 3, 8])
async def test_prints_that_move_to_the_archive_during_a_download_are_not_lost(
    lake: Lake, moves: list[int], page: int
) -> None:
    prints = tape_of(600)
    venue = Venue(prints, T0 + DAY_US, size=10)
    pages, left = 0, list(moves)

    def move(v: Venue) -> None:
        nonlocal pages
        pages += 1
        if left and pages % page == 0:
            v.at += left.pop(0)

    venue.on_page = move
    await run(venue, lake, window_us=DAY_US, concurrency=1)
    assert not left and rows(lake) == prints


async def test_prints_in_both_listings_are_added_once(lake: Lake) -> None:
    prints = tape_of(500)
    venue = Venue(prints)
    venue.overlap = 3 * HOUR_US
    venue.prints.append(Trade(UNTIL - 1, TICKERS[0], 1, 1, "yes", prints[0].trade_id + "x"))
    done = await run(venue, lake, window_us=7 * HOUR_US)
    assert rows(lake) == prints and done.added == len(prints)


async def test_repeated_prints_of_a_listing_are_counted(lake: Lake) -> None:
    prints = tape_of(200)
    twice = [t for t in prints for _ in range(2)]
    done = await run(Venue(twice), lake)
    assert rows(lake) == prints and done.duplicates == 200


async def test_prints_without_a_taker_are_counted(lake: Lake) -> None:
    prints = tape_of(100)
    mute = [Trade(t.ts, t.ticker, t.price, t.size, "" if n % 10 == 0 else t.taker, t.trade_id) for n, t in enumerate(prints)]  # fmt: skip
    done = await run(Venue(mute), lake)
    assert rows(lake) == [t for t in mute if t.taker]
    assert (done.prints, done.unknown_taker, done.added) == (100, 10, 90)


TRANSIENT = [
    ConnectionFailed("http://x", "no route"), RateLimited("GET", "/p"),
    ApiError("GET", "/p", 0, "no_answer", "reset", retryable=True), ApiError("GET", "/p", 503, "", "busy", retryable=True),
]  # fmt: skip


class NoWait(SimClock):
    """A simulated clock that advances at once when something sleeps."""

    async def sleep(self, seconds: float) -> None:
        self.advance(self.now() + round(seconds * 1e6))
        await asyncio.sleep(0)


@pytest.mark.parametrize("error", TRANSIENT)
async def test_transient_errors_are_retried(lake: Lake, error: Exception) -> None:
    prints = tape_of()
    venue = Venue(prints)
    venue.errors = [error] * 5
    await download(venue, lake, T0, UNTIL, clock=NoWait(UNTIL + DAY_US), window_us=DAY_US)
    assert rows(lake) == prints


async def test_a_refusal_ends_a_download_and_the_next_run_continues(lake: Lake) -> None:
    prints = tape_of()
    venue = Venue(prints)
    calls = 0

    def fail(v: Venue) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            v.errors = [ApiError("GET", "/p", 400, "bad", "no")]

    venue.on_page = fail
    with pytest.raises(ApiError, match="400"):
        await run(venue, lake)
    assert len(segments := lake.staged()) + len(lake.covered) > 0 and len(segments) < 16
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "download"]
    venue.on_page = lambda v: None
    done = await run(venue, lake)
    assert rows(lake) == prints and done.windows < 16


async def test_an_unreachable_exchange_ends_a_download(lake: Lake) -> None:
    venue = Venue(tape_of())
    venue.errors = [ConnectionFailed("http://x", "no route")] * 1000
    with pytest.raises(ConnectionFailed):
        await download(venue, lake, T0, UNTIL, clock=NoWait(UNTIL + DAY_US), concurrency=1)


async def test_a_cancelled_download_can_be_continued(lake: Lake) -> None:
    prints = tape_of()
    venue = Venue(prints)
    task = asyncio.create_task(run(venue, lake))
    venue.on_page = lambda v: task.cancel() if len(v.calls) > 6 else None
    with pytest.raises(asyncio.CancelledError):
        await task
    venue.on_page = lambda v: None
    await run(venue, Lake.open(lake.path))
    assert rows(Lake.open(lake.path)) == prints


async def test_progress_reports_windows_rate_and_remaining_time(lake: Lake) -> None:
    seen: list[DownloadProgress] = []
    clock = SimClock(UNTIL + DAY_US)
    venue = Venue(tape_of())
    venue.on_page = lambda v: clock.advance(clock.now() + 1_000_000)
    await download(
        venue, lake, T0, UNTIL, clock=clock, window_us=6 * HOUR_US, concurrency=1, on_progress=seen.append
    )
    first = [p for p in seen if p.phase == "prints"]
    assert [p.done for p in first] == list(range(17)) and {p.total for p in first} == {16}
    assert [p.prints for p in first] == sorted(p.prints for p in first) and first[-1].prints == 300
    assert first[0].remaining is None and first[-1].remaining == 0.0
    assert first[8].remaining == pytest.approx((clock.monotonic() / 2), rel=0.3)
    assert first[-1].rate == pytest.approx(300 / clock.monotonic(), rel=0.1)
    assert seen[-1].phase == "markets" and (seen[-1].done, seen[-1].total) == (3, 3)


# Markets


async def test_markets_without_a_result_are_requested_again(lake: Lake) -> None:
    venue = Venue([*tape_of(), Trade(UNTIL - 1, "OLD-9-T", 1, 1, "yes", "old")])
    venue.results = {"KXB-1-T": "no"}
    done = await run(venue, lake)
    assert (done.markets, done.undescribed, lake.unknown) == (4, 0, 0)
    table = {r["ticker"]: r for r in lake.markets.iter_rows(named=True)}
    assert [(table[t]["series"], table[t]["category"], table[t]["fee_multiplier"]) for t in (*TICKERS, "OLD-9-T")] == [
        ("KXA", "Sport", 0.5), ("KXA-X", "Sub", 1.0), ("KXB", "News", 1.0), ("KXOLD", "Old", 1.0),
    ]  # fmt: skip
    assert venue.events_asked == ["OLD-9"], "the event is requested only if no series matches"
    assert (table["KXB-1-T"]["result"], table["KXB-1-T"]["settlement"]) == ("no", 0)
    assert table["KXA-1-T"]["result"] is None and table["KXA-1-T"]["price_structure"] == "deci_cent"
    venue.results |= {"KXA-1-T": "scalar", "KXA-X-2-T": "strange"}
    again = await run(venue, lake)
    assert again.markets == 3, "the settled market is not requested again"
    table = {r["ticker"]: r for r in lake.markets.iter_rows(named=True)}
    assert (table["KXA-1-T"]["result"], table["KXA-1-T"]["settlement"]) == ("scalar", 1234)
    assert table["KXA-X-2-T"]["result"] is None, "an unknown kind of result is not stored"


async def test_an_unlisted_market_stays_without_metadata(lake: Lake) -> None:
    venue = Venue(tape_of())
    venue._listed = lambda old, filters: []  # type: ignore[method-assign]
    done = await run(venue, lake)
    assert (done.markets, done.undescribed, lake.unknown) == (0, 3, 3)


# Some series


async def test_a_download_of_series_covers_nothing(lake: Lake) -> None:
    prints = tape_of()
    venue = Venue(prints)
    venue.results = {"KXB-1-T": "yes"}
    done = await run(venue, lake, series=["KXB", "KXA-X"])
    assert rows(lake) == [t for t in prints if t.ticker != "KXA-1-T"]
    assert {c[3] for c in venue.calls} == {"KXB-1-T", "KXA-X-2-T"}
    assert lake.covered == () and lake.staged() == [], "covered concerns all markets"
    assert done.markets == 2
    await run(venue, lake)
    assert rows(lake) == prints and lake.covered == ((T0, UNTIL),)
    venue.calls.clear()
    await run(venue, lake, series=["KXB"])
    assert venue.calls == []


async def test_an_interrupted_download_of_a_series_uses_its_staged_segments(lake: Lake) -> None:
    prints = tape_of(400, start=T0 - 90 * DAY_US)
    venue = Venue(prints, T0 - 40 * DAY_US)
    venue.on_page = lambda v: setattr(v, "errors", [ApiError("GET", "/p", 400, "bad", "no")] if len(v.calls) > 4 else [])  # fmt: skip
    with pytest.raises(ApiError):
        await run(venue, lake, T0 - 90 * DAY_US, series=["KXA"], concurrency=1)
    staged = lake.staged()
    assert staged and lake.rows == 0
    venue.on_page = lambda v: None
    done = await run(venue, lake, T0 - 90 * DAY_US, series=["KXA"])
    assert rows(lake) == [t for t in prints if t.ticker.startswith("KXA-")]
    assert done.windows == 4 - len(staged), "thirty days a window"


async def test_an_unknown_series_is_refused(lake: Lake) -> None:
    with pytest.raises(ConfigError, match="KXNOPE"):
        await run(Venue(tape_of()), lake, series=["KXB", "KXNOPE"])


# Arguments


@pytest.mark.parametrize(
    ("more", "name"),
    [({"window_us": 999_999}, "window_us"), ({"concurrency": 0}, "concurrency"), ({"since": UNTIL}, "since_us"), ({"since": -1}, "since_us")],
)  # fmt: skip
async def test_arguments_out_of_range_are_refused(lake: Lake, more: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await run(Venue([]), lake, **more)
    assert caught.value.name == name


async def test_the_old_names_of_keywords_warn(lake: Lake) -> None:
    with pytest.warns(DeprecationWarning) as caught:
        await download(
            Venue(tape_of(5)), lake, since=T0, until=UNTIL, clock=SimClock(UNTIL + DAY_US), window=DAY_US
        )
    assert {str(w.message).partition(": ")[2] for w in caught} == {
        "the keyword 'since' is now 'since_us'",
        "the keyword 'until' is now 'until_us'",
        "the keyword 'window' is now 'window_us'",
    }


@given(st.integers(0, 3 * DAY_US), st.integers(0, 3 * DAY_US), st.integers(10**6, 2 * DAY_US),
       st.lists(st.tuples(st.integers(0, 3 * DAY_US), st.integers(0, 3 * DAY_US)), max_size=3))  # fmt: skip
def test_windows_tile_the_uncovered_time(
    since: int, until: int, window_us: int, covered: list[tuple[int, int]]
) -> None:
    window_us = max(window_us, DAY_US // 50)
    found = list(windows(since, until, window_us, covered))
    assert all(a < b <= a + window_us and a // DAY_US == (b - 1) // DAY_US for a, b in found)
    assert all(x[1] <= y[0] for x, y in zip(found, found[1:]))  # noqa: B905, RUF007
    total = sum(b - a for a, b in found)
    points = {since, until, *(p for span in covered for p in span)}
    cuts = sorted(p for p in points if since <= p <= until)
    free = sum(
        b - a
        for a, b in zip(cuts, cuts[1:])  # noqa: B905, RUF007
        if not any(low <= a and b <= high for low, high in covered)
    )
    assert total == free
