"""The markets the exchange lists: facts, status, book and totals of each."""

from __future__ import annotations

from collections.abc import Iterator

from kalshilab.exchange.flows.tape_flow import MarketFacts, Quotes
from kalshilab.exchange.state.order_book import MarketBook
from kalshilab.kalshi.wire import rest

__all__ = ["Listing", "Listings", "Top"]

Top = tuple[int | None, int, int | None, int]
"""The best bid and its size, the best ask and its size; None and 0 where a side is empty."""


class Listing:
    """One listed market."""

    __slots__ = (
        "book",
        "clock",
        "close_ts",
        "facts",
        "last_price",
        "last_size",
        "number",
        "quotes",
        "status",
        "told",
        "updated",
        "volume",
    )

    def __init__(self, facts: MarketFacts, quotes: Quotes, book: MarketBook | None = None) -> None:
        self.facts, self.quotes = facts, quotes
        self.book = MarketBook() if book is None else book
        self.status = "initialized"
        self.close_ts = facts.announced_close
        self.updated = facts.created
        """When last something other than trading changed, in microseconds."""
        self.clock = 0
        self.told: Top | None = None
        """The best quotes as the ticker last told of them."""
        self.last_price = 0
        self.last_size = 0
        self.volume = 0
        self.number = 0
        """How many were listed before it."""


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
        """The market, if it is listed."""
        return self._by_ticker.get(ticker)

    def add(self, listing: Listing) -> bool:
        """List a market; whether it is the first of its event."""
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
        """List a market no more, nor what has no other: for a flow that does not end."""
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
        """Tickers of the events listed."""
        return list(self._by_event)

    def of_event(self, event: str) -> list[Listing]:
        """The markets of an event; none if it is not listed."""
        return self._by_event.get(event, [])

    def series(self) -> list[rest.Series]:
        """The series of the events listed."""
        found = (self.one_series(name) for name in self._by_series)
        return [s for s in found if s is not None]

    def one_series(self, ticker: str) -> rest.Series | None:
        """A series object, from the first of its markets."""
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
