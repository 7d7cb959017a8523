"""The shadow venue: a real feed mirrored into a local exchange, the only one that receives orders.

The "real" exchange is a second local one on loopback, so the mirror can be compared with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import polars as pl
import pytest
from made_tapes import leaning

from kalshilab.clock import WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import ApiError, CredentialsMissing, FeedLost, HostRefused
from kalshilab.exchange import Exchange, Faults, Mirror, Venue, serve
from kalshilab.exchange.faults.faults import Fault
from kalshilab.kalshi import hosts
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.market.fees import fill_fee
from kalshilab.signals import rlm
from kalshilab.trade.health import Health
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.venues.shadow import ShadowFeed
from kalshilab.units import cents, dollars

MINUTE = 60_000_000


@pytest.fixture(scope="module")
def world() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a tape and markets with doubled fees."""
    tape, markets = leaning(20)
    return tape, markets.with_columns(fee_multiplier=pl.lit(2.0))


class Follow:
    """Pace of the real exchange: each step waits until the shadow feed has processed the previous ones.

    The first step gives the feed its time; the others wait for `open`.
    """

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.venue: Venue | None = None
        self._feed: ShadowFeed | None = None
        self._open = asyncio.Event()
        self._steps = 0
        self._until: int | None = None

    def open(self, feed: ShadowFeed, until: int | None = None) -> None:
        """Play on, optionally to a number of prints; frames may then be lost."""
        self._feed, self._until = feed, until
        self._open.set()

    async def step(self, ts: int) -> None:
        self._steps += 1
        while not self._exchange.hub.wanted("trade", "A"):
            await asyncio.sleep(0.005)
        if self._steps == 1:
            return
        if self._until is not None and self._exchange.prints_played >= self._until:
            self._open.clear()
        await self._open.wait()
        assert self.venue is not None and self._feed is not None
        if self._until is not None:
            await asyncio.sleep(0.001)
        while self._feed.busy or (
            self._until is None and self._feed.frames_received < self.venue.frames_sent
        ):
            await asyncio.sleep(0)


@asynccontextmanager
async def real(
    exchange: Exchange, settings: Settings, **options: Any
) -> AsyncIterator[tuple[Settings, Follow, Venue]]:
    """Serve an exchange to shadow; yield settings with its address, its pace and the venue."""
    pace = Follow(exchange)
    async with serve(exchange, pace=pace, **options) as venue:
        pace.venue = venue
        yield (
            settings.replace(
                venue="shadow",
                rest_url=venue.rest,
                ws_url=venue.ws,
                key_id=venue.key_id,
                private_key_path=str(venue.private_key_path),
            ),
            pace,
            venue,
        )


async def until(condition: Callable[[], bool]) -> None:
    """Poll a condition; the test's time limit is the deadline."""
    while not condition():
        await asyncio.sleep(0.005)


async def shadowed(exchange: Exchange, settings: Settings) -> Report:
    """Run a session on the shadow of an exchange until all of its tape is played and processed."""
    async with real(exchange, settings) as (named, pace, venue), PaperSession(named) as session:
        feed = session._link.feed
        assert feed is not None
        running = asyncio.create_task(session.run())
        await until(lambda: session.state == "READY")
        pace.open(feed)
        await venue.finished.wait()
        await until(lambda: feed.frames_received >= venue.frames_sent and not feed.busy)
        await until(lambda: not feed.mirror.waiting and not session._driver.is_behind())
        session.request_stop("all is played")
        return await running


async def test_fires_are_those_of_the_real_exchange_and_no_order_reaches_it(
    world: tuple[pl.DataFrame, pl.DataFrame], settings: Settings
) -> None:
    tape, markets = world
    exchange = Exchange(tape, markets, balance_money_units=dollars(1))
    report = await shadowed(exchange, settings)
    assert report.error is None
    assert report.raw("signals").equals(rlm(tape, rearm=True))
    assert report.counts["trades"] == tape.height
    assert report.counts["orders"] > 0 and report.counts["fills"] > 0 and report.counts["settlements"] > 0
    assert report.counts["account_differences"] == 0
    assert not exchange.account.fills and exchange.account.cash == dollars(1), "the real exchange has no fill"
    paid = markets["ticker", "settlement"].rows()
    for ticker, settlement in report.raw("settlements").select("ticker", "settlement").rows():
        assert (ticker, round(settlement * 100)) in paid


async def test_a_market_has_the_fees_of_its_series(
    world: tuple[pl.DataFrame, pl.DataFrame], settings: Settings
) -> None:
    exchange = Exchange(*world)
    async with real(exchange, settings) as (named, _, _), ShadowFeed(named, Health(WallClock())) as feed:
        await until(lambda: not feed.busy)
        venue = Exchange(flow=feed.mirror)
        while venue.step():
            pass
        assert [(f.category, f.fee_multiplier) for f in feed.mirror.facts] == [("sports", 2.0)]
        assert fill_fee(cents(50), 100, multiplier=2.0) > fill_fee(cents(50), 100)


def books(exchange: Exchange) -> dict[str, Any]:
    return {
        x.facts.ticker: (x.book.levels("bid"), x.book.levels("ask"))
        for x in exchange.listings
        if x.status == "active"
    }


@pytest.mark.parametrize("name", ["drop_frames", "sequence_gap", "disconnect", "reorder_frames"])
async def test_books_equal_the_real_ones_again_after_a_fault(
    world: tuple[pl.DataFrame, pl.DataFrame], settings: Settings, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalshilab.kalshi.stream.client.backoff", lambda failures: 0.01)
    exchange = Exchange(*world)
    faults = Faults(schedule=[Fault(n * 30 * MINUTE, name) for n in range(1, 20)], seed=5)
    health = Health(WallClock())
    async with (
        real(exchange, settings.replace(discovery_interval_s=1), faults=faults) as (named, pace, _),
        ShadowFeed(named, health) as feed,
    ):
        mirrored = Exchange(flow=feed.mirror)

        async def follow() -> None:
            while True:
                while mirrored.step():
                    pass
                await feed.more()

        following = asyncio.create_task(follow())
        half = exchange.flow.prints // 2
        pace.open(feed, until=half)
        await until(lambda: exchange.prints_played >= half)
        # The last frames may be lost, which only later frames reveal; the faults are over by now.
        async with asyncio.timeout(100):
            await until(lambda: bool(books(exchange)) and books(mirrored) == books(exchange))
        following.cancel()
    assert any("shadow feed" in text for _, text in health.messages), health.messages


async def test_a_feed_that_cannot_be_restored_ends_the_session(
    world: tuple[pl.DataFrame, pl.DataFrame], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalshilab.kalshi.stream.client.backoff", lambda failures: 0.01)
    exchange = Exchange(*world)
    async with real(exchange, settings.replace(reconnect_attempts=2)) as (named, _, _):
        session = PaperSession(named)
        await session.__aenter__()
    # The real exchange is closed; the session is still open.
    report = await session.run()
    await session.__aexit__(None, None, None)
    assert isinstance(report.error, FeedLost)
    assert report.stopped.startswith("FeedLost")


async def test_a_shadow_session_needs_a_key(settings: Settings) -> None:
    with pytest.raises(CredentialsMissing, match="shadow"):
        async with PaperSession(settings.replace(venue="shadow")):
            pass


async def test_a_source_that_does_not_answer_is_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kalshilab.kalshi.stream.client.backoff", lambda failures: 0.01)
    exchange = Exchange(flow=Mirror())
    async with serve(exchange) as venue:
        key = {"key_id": venue.key_id, "private_key": venue.private_key_path.read_text()}
        named = settings.replace(
            venue="shadow", rest_url=venue.rest, ws_url=venue.ws, reconnect_attempts=2, **key
        )
    with pytest.raises((FeedLost, ApiError)):
        async with PaperSession(named):
            pass


def test_orders_to_the_shadowed_host_are_refused(settings: Settings) -> None:
    named = settings.replace(venue="shadow", key_id="k", private_key="x")
    assert hosts.defaults("shadow") == hosts.PRODUCTION
    with pytest.raises(HostRefused, match="read-only"):
        DemoOrders(named)


async def test_an_error_at_the_start_is_raised(
    world: tuple[pl.DataFrame, pl.DataFrame], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(self: object) -> None:
        raise RuntimeError("a failure")

    monkeypatch.setattr("kalshilab.kalshi.rest.client.MarketData.all_series", fails)
    health = Health(WallClock())
    async with real(Exchange(*world), settings) as (named, _, _):
        with pytest.raises(RuntimeError, match="a failure"):
            async with ShadowFeed(named, health):
                pass
    assert not health.is_healthy("shadow feed")
