"""Metadata of a lake's markets are requested in batches, from both listings, and stored as they arrive."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from kalshilab.market.model import Market
from kalshilab.tape import to_tape
from kalshilab.tape.ingest import market_metadata
from kalshilab.tape.ingest.market_metadata import BATCH, MAX_URL_CHARACTERS, refresh_markets
from kalshilab.tape.lake.lake import Lake


class Described(NamedTuple):
    """A series or an event."""

    ticker: str = ""
    category: str = ""
    fee_type: str = "flat"
    fee_multiplier: float = 2.0
    event_ticker: str = ""
    series_ticker: str = ""


class Listings:
    """Listings of markets; those that end in an odd digit are in the archive."""

    def __init__(self, tickers: list[str]) -> None:
        self.tickers = tickers
        self.requests: list[tuple[str, list[str]]] = []
        self.fail_after: int | None = None

    def _find(self, kind: str, wanted: str) -> list[Market]:
        names = wanted.split(",")
        self.requests.append((kind, names))
        if self.fail_after is not None and len(self.requests) > self.fail_after:
            raise RuntimeError("connection lost")
        return [
            Market(
                ticker=t, event=t.rpartition("-")[0], open_ts=1, close_ts=2, result="yes", settlement=9_999
            )
            for t in names
            if t in self.tickers and (int(t[-1]) % 2 == 1) == (kind == "old")
        ]

    async def markets(self, **filters: Any) -> list[Market]:
        return self._find("live", filters["tickers"])

    async def historical_markets(self, **filters: Any) -> list[Market]:
        return self._find("old", filters["tickers"])

    async def events(self, **filters: Any) -> list[Described]:
        return []

    async def all_series(self) -> list[Described]:
        return [Described("KXS", "Sport")]


def lake_of(path: Path, tickers: list[str]) -> Lake:
    lake = Lake.create(path / "lake")
    lake.append(
        to_tape([{"ticker": t, "yes_price": 50, "count": 1, "taker_side": "yes", "created_time": 1_700_000_000 + n} for n, t in enumerate(tickers)])
    )  # fmt: skip
    return lake


async def test_markets_are_requested_in_batches_from_both_listings(tmp_path: Path) -> None:
    tickers = [f"KXS-{n:03d}-T{n % 10}" for n in range(350)]
    lake, listings = lake_of(tmp_path, tickers), Listings(tickers)
    progress: list[tuple[int, int]] = []
    described = await refresh_markets(listings, lake, concurrency=2, on_progress=lambda *counts: progress.append(counts))  # fmt: skip
    assert described == 350 and lake.unknown == 0 and progress[-1] == (350, 350)
    live = [names for kind, names in listings.requests if kind == "live"]
    assert [len(names) for names in live] == [BATCH, BATCH, BATCH, 50] and [
        t for names in live for t in names
    ] == tickers
    assert all(int(t[-1]) % 2 for kind, names in listings.requests if kind == "old" for t in names)
    row = lake.markets.row(1, named=True)
    assert (row["result"], row["settlement"]) == ("yes", 10_000), "the payout follows from the result"
    assert (row["series"], row["category"], row["fee_type"], row["fee_multiplier"]) == ("KXS", "Sport", "flat", 2.0)  # fmt: skip
    assert await refresh_markets(listings, lake) == 0


async def test_urls_stay_below_their_maximum_length(tmp_path: Path) -> None:
    tickers = [f"KXS-{'X' * 150}{n:03d}-T{n % 10}" for n in range(90)]
    lake, listings = lake_of(tmp_path, tickers), Listings(tickers)
    await refresh_markets(listings, lake)
    assert lake.unknown == 0
    assert all(sum(len(t) + 3 for t in names) <= MAX_URL_CHARACTERS for _, names in listings.requests)


async def test_metadata_stored_before_a_failure_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(market_metadata, "PUT_EVERY", 1)
    tickers = [f"KXS-{n:03d}-T{n % 10}" for n in range(350)]
    lake, listings = lake_of(tmp_path, tickers), Listings(tickers)
    listings.fail_after = 4
    with pytest.raises(RuntimeError):
        await refresh_markets(listings, lake, concurrency=1)
    assert Lake.open(lake.path).unknown == 150
    listings.fail_after = None
    assert await refresh_markets(listings, lake) == 150 and lake.unknown == 0


async def test_an_empty_lake_sends_no_request(tmp_path: Path) -> None:
    lake, listings = Lake.create(tmp_path / "lake"), Listings([])
    assert await refresh_markets(listings, lake) == 0 and listings.requests == []
