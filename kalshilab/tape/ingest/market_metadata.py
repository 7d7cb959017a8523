"""Fetch the metadata of a lake's markets from the exchange's listings.

A print names its market only.  The market's description and result are requested by ticker: from the live listing
first, then from the historical one.  Series, category and fees come from the market's series, whose ticker begins the
event's ticker; if no series matches, the event is requested.  Markets without a known result are requested again each
time.

Fees are the series' current fees: the exchange's listing of series has no history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import polars as pl

from kalshilab.market.model import Market
from kalshilab.tape.ingest.segments import in_thread
from kalshilab.tape.schema import MARKETS_SCHEMA
from kalshilab.units import PRICE

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["MarketListings", "SeriesFacts", "refresh_markets"]

Filter = str | int | bool | None
BATCH: Final = 100
"""Maximum number of tickers in a request."""
MAX_URL_CHARACTERS: Final = 5_000
"""Maximum length of the tickers in a URL."""
PUT_EVERY: Final = 2_000
"""Markets between two writes to the lake; a kill loses at most these."""


class SeriesFacts(Protocol):
    """The fields of a series that are used."""

    @property
    def ticker(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def fee_type(self) -> str: ...
    @property
    def fee_multiplier(self) -> float: ...


class EventFacts(Protocol):
    """The fields of an event that are used."""

    @property
    def event_ticker(self) -> str: ...
    @property
    def series_ticker(self) -> str: ...
    @property
    def category(self) -> str: ...


class MarketListings(Protocol):
    """The exchange's listings of markets, such as `kalshilab.kalshi.rest.client.MarketData`."""

    async def markets(self, **filters: Filter) -> list[Market]: ...
    async def historical_markets(self, **filters: Filter) -> list[Market]: ...
    async def events(self, **filters: Filter) -> Sequence[EventFacts]: ...
    async def all_series(self) -> Sequence[SeriesFacts]: ...


async def refresh_markets(
    client: MarketListings,
    lake: Lake,
    *,
    concurrency: int = 4,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Fetch metadata for the markets of a lake that lack metadata or a result.

    Args:
        client: the exchange's listings.
        lake: the lake.
        concurrency: maximum number of simultaneous requests.
        on_progress: called with the number of markets requested so far, and their total.

    Returns:
        the number of markets that the exchange described.
    """
    listing = lake.listing
    wanted = listing.filter(pl.col("event").is_null() | pl.col("result").is_null())["ticker"].to_list()
    if not wanted:
        return 0
    series = {s.ticker: s for s in await client.all_series()}
    batches = list(_batches(wanted))
    described, requested = 0, 0
    rows: list[dict[str, object]] = []
    for start in range(0, len(batches), concurrency):
        group = batches[start : start + concurrency]
        answers = await asyncio.gather(*(_fetch(client, batch) for batch in group))
        markets = [m for answer in answers for m in answer]
        rows += await _rows(client, markets, series)
        requested += sum(map(len, group))
        described += len(markets)
        if len(rows) >= PUT_EVERY or start + concurrency >= len(batches):
            if rows:
                await in_thread(lake.put_markets, pl.DataFrame(rows, schema=MARKETS_SCHEMA))
            rows = []
        if on_progress is not None:
            on_progress(requested, len(wanted))
    return described


def _batches(tickers: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    length = 0
    for ticker in tickers:
        # A comma takes three characters in a URL.
        if batch and (len(batch) == BATCH or length + len(ticker) + 3 > MAX_URL_CHARACTERS):
            yield batch
            batch, length = [], 0
        batch.append(ticker)
        length += len(ticker) + 3
    if batch:
        yield batch


async def _fetch(client: MarketListings, batch: list[str]) -> list[Market]:
    # Live first: a market that moves to the archive in between is in the second answer.
    found = {m.ticker: m for m in await client.markets(tickers=",".join(batch))}
    missing = [t for t in batch if t not in found]
    if missing:
        found |= {m.ticker: m for m in await client.historical_markets(tickers=",".join(missing))}
    return [found[t] for t in batch if t in found]


async def _rows(
    client: MarketListings, markets: Sequence[Market], series: Mapping[str, SeriesFacts]
) -> list[dict[str, object]]:
    """Return rows of MARKETS_SCHEMA, without column order."""
    series_of = {m.event: _series_of(m.event, series) for m in markets}
    categories: dict[str, str] = {}
    for batch in _batches([e for e, name in series_of.items() if name is None and e]):
        for event in await client.events(tickers=",".join(batch)):
            series_of[event.event_ticker] = event.series_ticker or None
            categories[event.event_ticker] = event.category
    return [
        _row(m, series_of[m.event], series.get(series_of[m.event] or ""), categories.get(m.event, ""))
        for m in markets
    ]


def _series_of(event: str, series: Mapping[str, SeriesFacts]) -> str | None:
    """Return the longest series ticker that begins the event's ticker up to a dash; None if no series matches."""
    parts = event.split("-")
    names = ("-".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((name for name in names if name in series), None)


def _row(m: Market, series: str | None, facts: SeriesFacts | None, category: str) -> dict[str, object]:
    # A result of an unknown kind, or a scalar one without its value, is treated as not known yet.
    value = {"yes": PRICE, "no": 0, "scalar": m.settlement}.get(m.result)
    return {
        "ticker": m.ticker,
        "event": m.event,
        "series": series or m.event.partition("-")[0],
        "category": (facts.category if facts is not None else "") or category,
        "title": m.title,
        "open_ts": m.open_ts or None,
        "close_ts": m.close_ts or None,
        "expected_close_ts": m.expected_close_ts or None,
        "result": m.result if value is not None else None,
        "settlement": value,
        "settled_ts": m.settled_ts or None,
        "fee_multiplier": facts.fee_multiplier if facts is not None else 1.0,
        "fee_type": facts.fee_type if facts is not None else "quadratic",
        "price_structure": m.price_structure or "linear_cent",
    }
