"""Upcoming markets: those that are listed and open within a day, for display.

They decide nothing: the trader admits a market when its creation is announced, or when it is listed as open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from kalshilab.clock import Clock
from kalshilab.config.settings import Settings
from kalshilab.market.model import Market
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.markets.tracker import category_matches
from kalshilab.trade.status import UpcomingRow

__all__ = ["UpcomingMarkets"]

PART: Final = "upcoming markets"
WITHIN_US: Final = 86_400_000_000
"""Microseconds of exchange time from now within which a market opens that is shown."""
MAX_LOOK_UPS: Final = 50
"""Events whose category is looked up in one reading; the others wait for the next."""


class MarketListing(Protocol):
    """The part of `kalshilab.kalshi.rest.client.MarketData` that is read."""

    async def markets(self, **filters: str | int | bool | None) -> list[Market]: ...

    async def category(self, event: str) -> tuple[str, str]: ...


class UpcomingMarkets:
    """The markets that open within a day and that the settings would admit.

    Args:
        data: the listing.
        settings: categories, tickers and the interval of discovery.
        clock: exchange time.
        wall: machine time.
        health: receives the part "upcoming markets".
    """

    def __init__(
        self, data: MarketListing, settings: Settings, *, clock: Clock, wall: Clock, health: Health
    ) -> None:
        self._data, self._clock, self._wall, self._health = data, clock, wall, health
        self._only = frozenset(settings.tickers)
        self._wanted = () if "all" in settings.categories or self._only else settings.categories
        self._interval_s = settings.discovery_interval_s
        self._categories: dict[str, str] = {}
        self._markets: list[Market] = []

    async def keep(self) -> None:
        """Read the listing at each interval of discovery, until cancelled."""
        while True:
            await self.read()
            await self._wall.sleep(self._interval_s)

    async def read(self) -> None:
        """Read the listing once; without an answer the markets of the last reading stay."""
        try:
            listed = await self._data.markets(status="unopened")
            self._markets = await self._admitted(self._soon(listed))
        except INCONCLUSIVE_ERRORS as error:
            self._health.degraded(PART, str(error))
        else:
            self._health.healthy(PART)

    def _soon(self, listed: Sequence[Market]) -> list[Market]:
        now = self._clock.now()
        soon = [
            m
            for m in listed
            if now < m.open_ts <= now + WITHIN_US and (not self._only or m.ticker in self._only)
        ]
        return sorted(soon, key=lambda market: (market.open_ts, market.ticker))

    async def _admitted(self, markets: Sequence[Market]) -> list[Market]:
        left = MAX_LOOK_UPS
        for event in dict.fromkeys(market.event for market in markets if not market.category):
            if event not in self._categories and left:
                left -= 1
                self._categories[event] = (await self._data.category(event))[1]
        return [market for market in markets if self._is_wanted(self._category(market))]

    def _category(self, market: Market) -> str:
        return market.category or self._categories.get(market.event, "")

    def _is_wanted(self, category: str) -> bool:
        if not self._wanted:
            return True
        return bool(category) and any(category_matches(category, wanted) for wanted in self._wanted)

    def rows(self, limit: int = 20) -> list[UpcomingRow]:
        """Return the markets that have not opened yet, the next to open first.

        Args:
            limit: the most rows.
        """
        now = self._clock.now()
        waiting = [market for market in self._markets if market.open_ts > now]
        return [
            UpcomingRow(m.ticker, m.title, self._category(m), m.open_ts, (m.open_ts - now) / 1e6)
            for m in waiting[:limit]
        ]
