"""Upcoming markets: a window of a day, the categories of the session, and a countdown."""

from __future__ import annotations

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.errors import ConnectionFailed
from kalshilab.market.model import Market
from kalshilab.trade.health import Health
from kalshilab.trade.live.upcoming import MAX_LOOK_UPS, UpcomingMarkets

HOUR = 3_600_000_000
NOW = 1_790_000_000_000_000


class Listing:
    """A listing in memory, whose markets state no category, as on the exchange."""

    def __init__(self, *markets: Market, categories: dict[str, str] | None = None) -> None:
        self.listed, self.categories = list(markets), categories or {}
        self.asked: list[str] = []
        self.error: Exception | None = None

    async def markets(self, **filters: str | int | bool | None) -> list[Market]:
        assert filters == {"status": "unopened"}
        if self.error is not None:
            raise self.error
        return self.listed

    async def category(self, event: str) -> tuple[str, str]:
        self.asked.append(event)
        return "SERIES", self.categories.get(event, "Sports")


def market(ticker: str, hours: float, **facts: object) -> Market:
    return Market(
        ticker=ticker, event=ticker[:1], status="initialized", open_ts=NOW + round(hours * HOUR), title=ticker.lower(), **facts
    )  # type: ignore[arg-type]  # fmt: skip


def upcoming(listing: Listing, **given: object) -> tuple[UpcomingMarkets, SimClock, Health]:
    clock = SimClock(NOW)
    settings = Settings(env={}, env_file=None, **{"categories": "sports", **given})
    health = Health(clock)
    return UpcomingMarkets(listing, settings, clock=clock, wall=clock, health=health), clock, health


async def test_markets_are_shown_from_a_day_before_they_open_until_they_do() -> None:
    listing = Listing(market("B1", 2), market("A1", 1), market("C1", 25), market("D1", -1))
    shown, clock, _ = upcoming(listing)
    assert shown.rows() == []
    await shown.read()
    assert [(row.ticker, row.opens_in_s) for row in shown.rows()] == [("A1", 3600.0), ("B1", 7200.0)]
    clock.advance(NOW + HOUR // 2)
    assert [row.opens_in_s for row in shown.rows()] == [1800.0, 5400.0]
    clock.advance(NOW + 3 * HOUR // 2)
    assert [row.ticker for row in shown.rows()] == ["B1"] and shown.rows(0) == []
    assert (shown.rows()[0].title, shown.rows()[0].category) == ("b1", "Sports")


async def test_only_wanted_categories_are_shown_and_each_event_is_looked_up_once() -> None:
    listing = Listing(
        market("A1", 1), market("A2", 2), market("B1", 1), market("C1", 3, category="Crypto"), categories={"B": "Politics"}
    )  # fmt: skip
    shown, _, _ = upcoming(listing)
    await shown.read()
    await shown.read()
    assert [row.ticker for row in shown.rows()] == ["A1", "A2"] and listing.asked == ["A", "B"]
    everything, _, _ = upcoming(listing, categories="all")
    await everything.read()
    assert [row.ticker for row in everything.rows()] == ["A1", "B1", "A2", "C1"]


async def test_tickers_precede_categories() -> None:
    listing = Listing(market("A1", 1), market("B1", 1), categories={"B": "Politics"})
    shown, _, _ = upcoming(listing, tickers="B1,Z1")
    await shown.read()
    assert [row.ticker for row in shown.rows()] == ["B1"]


async def test_one_reading_looks_up_a_limited_number_of_events() -> None:
    listing = Listing(*(market(chr(0x4E00 + n), 1) for n in range(MAX_LOOK_UPS + 5)))
    shown, _, _ = upcoming(listing)
    await shown.read()
    assert len(shown.rows(1_000)) == MAX_LOOK_UPS
    await shown.read()
    assert len(shown.rows(1_000)) == MAX_LOOK_UPS + 5


async def test_a_listing_without_an_answer_degrades_the_part_and_keeps_the_rows() -> None:
    listing = Listing(market("A1", 1))
    shown, _, health = upcoming(listing)
    await shown.read()
    listing.error = ConnectionFailed("http://127.0.0.1", "refused")
    await shown.read()
    assert health.parts["upcoming markets"].startswith("degraded: cannot reach") and len(shown.rows()) == 1
    listing.error = None
    await shown.read()
    assert health.is_healthy("upcoming markets")


async def test_the_exchange_lists_unopened_markets(tmp_path: object) -> None:
    import kalshilab as kl
    from kalshilab.kalshi.rest.client import MarketData

    tape, markets = kl.sample()
    exchange = kl.Exchange(tape, markets)
    async with (
        kl.serve(exchange) as venue,
        MarketData(Settings(env={}, env_file=None, rest_url=venue.rest)) as data,
    ):
        listed = await data.markets(status="unopened")
        clock = SimClock(exchange.now)
        shown = UpcomingMarkets(
            data,
            Settings(env={}, env_file=None, categories="all"),
            clock=clock,
            wall=clock,
            health=Health(clock),
        )
        await shown.read()
        expected = [m.ticker for m in listed if exchange.now < m.open_ts <= exchange.now + 24 * HOUR]
        assert sorted(row.ticker for row in shown.rows(10_000)) == sorted(expected)
