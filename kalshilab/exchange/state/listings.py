"""The markets that the exchange lists: facts, status, book and totals of each."""

from __future__ import annotations

from collections.abc import Iterator

from kalshilab.exchange.flows.background_quotes import BackgroundQuotes
from kalshilab.exchange.flows.tape_flow import MarketFacts
from kalshilab.exchange.state.order_book import MarketBook
from kalshilab.kalshi.wire import rest

__all__ = ["Listing", "Listings", "Top"]

Top = tuple[int | None, int, int | None, int]
"""The best bid and its size, the best ask and its size; None and 0 for an empty side."""


class Listing:
    """One listed market."""

    __slots__ = (
        "book",
        "clock",
        "close_ts",
        "facts",
        "last_price",
        "last_size",
        "last_top",
        "number",
        "quotes",
        "status",
        "updated",
        "volume",
    )

    def __init__(self, facts: MarketFacts, quotes: BackgroundQuotes, book: MarketBook | None = None) -> None:
        self.facts, self.quotes = facts, quotes
        self.book = MarketBook() if book is None else book
        self.status = "initialized"
        self.close_ts = facts.announced_close
        self.updated = facts.created
        """Time of the last change other than trading, in microseconds."""
        self.clock = 0
        self.last_top: Top | None = None
        """The best quotes of the last ticker message."""
        self.last_price = 0
        self.last_size = 0
        self.volume = 0
        self.number = 0
        """Number of markets listed before it."""


class Listings:
    """The listed markets, by ticker and by event, in the order in which they were created."""

    def __init__(self) -> None:
        self._by_ticker: dict[str, Listing] = {}
        self._by_event: dict[str, list[Listing]] = {}
        self._by_series: dict[str, list[str]] = {}
        self._added = 0

    def __iter__(self) -> Iterator[Listing]:
        return iter(self._by_ticker.values())

    def __len__(self) -> int:
        return len(self._by_ticker)

    def get(self, ticker: str) -> Listing | None:
        """Return the market; None if it is not listed."""
        return self._by_ticker.get(ticker)

    def add(self, listing: Listing) -> bool:
        """List a market and return whether it is the first of its event."""
        f = listing.facts
        listing.number = self._added
        self._added += 1
        self._by_ticker[f.ticker] = listing
        siblings = self._by_event.setdefault(f.event, [])
        siblings.append(listing)
        if len(siblings) == 1:
            self._by_series.setdefault(f.series, []).append(f.event)
        return len(siblings) == 1

    def retire(self, ticker: str) -> None:
        """Remove a market, and its event and series if it was their last market."""
        facts = self._by_ticker.pop(ticker).facts
        siblings = self._by_event[facts.event] = [
            x for x in self._by_event[facts.event] if x.facts.ticker != ticker
        ]
        if not siblings:
            del self._by_event[facts.event]
            self._by_series[facts.series].remove(facts.event)
            if not self._by_series[facts.series]:
                del self._by_series[facts.series]

    def events(self) -> list[str]:
        """Return the tickers of the listed events."""
        return list(self._by_event)

    def of_event(self, event: str) -> list[Listing]:
        """Return the markets of an event; empty if the event is not listed."""
        return self._by_event.get(event, [])

    def series(self) -> list[rest.Series]:
        """Return the series of the listed events."""
        return [s for name in self._by_series if (s := self.one_series(name)) is not None]

    def one_series(self, ticker: str) -> rest.Series | None:
        """Return a series object built from the first of its markets; None if it is not listed."""
        events = self._by_series.get(ticker)
        if not events:
            return None
        f = self._by_event[events[0]][0].facts
        return rest.Series(
            ticker=f.series,
            title=f.series,
            category=f.category,
            categories=[f.category] if f.category else [],
            fee_type=f.fee_type,
            fee_multiplier=f.fee_multiplier,
            tags=[],
            settlement_sources=[],
            additional_prohibitions=[],
        )
