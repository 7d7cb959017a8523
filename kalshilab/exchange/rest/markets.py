"""Markets over REST, live and archived: listings and their filters, order books, public prints.

A cursor of markets or prints is a position among all of them, so changes of status and new prints do not move it.
Times in a query are whole seconds, and both seconds are inclusive. The time of the last update is the exception, as
documented by the exchange: later than the minimum, and not later than the maximum.

The exchange has no block trades, so a filter for them returns an empty list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from kalshilab.clock import isoformat
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.exchange.rest.params import (
    FOREVER,
    Answer,
    BadQuery,
    Request,
    choice,
    cursor_position,
    flag,
    integer,
    names,
    ok,
    page_size,
)
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.lifecycle import FILTERS, status_matches
from kalshilab.units import format_price, format_size

__all__ = ["MarketRoutes"]

SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
MAX_BOOKS: Final = 100
"""Maximum number of order books in one request."""


class TimeFilter(NamedTuple):
    """A pair of time filters, `min_…_ts` and `max_…_ts`.

    Attributes:
        statuses: status filters that it may be combined with; "" stands for an absent one.
        time: returns the filtered time of a market, in microseconds; None excludes the market.
    """

    statuses: tuple[str, ...]
    time: Callable[[Listing], int | None]


def _settled(x: Listing) -> int | None:
    return x.facts.settled if x.status == "finalized" else None


TIME_FILTERS: Final[dict[str, TimeFilter]] = {
    "created": TimeFilter(("", "unopened", "open"), lambda x: x.facts.created),
    "close": TimeFilter(("", "closed"), lambda x: x.close_ts),
    "settled": TimeFilter(("", "settled"), _settled),
    "updated": TimeFilter(("",), lambda x: x.updated),
}
COMBINATION_PREFIX: Final = "KXMVE"


def is_combination(ticker: str) -> bool:
    """Return whether the ticker of a series, event or market names a combination of others (multivariate)."""
    return ticker.startswith(COMBINATION_PREFIX)


class MarketRoutes:
    """Routes of markets, order books and prints."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """Return the answer to a GET; None for an unknown path.

        Args:
            request: the request.
            parts: segments of the path below the contract's root.

        Raises:
            Refused, BadQuery: the request is invalid; the caller turns the error into an answer.
        """
        query = request.query
        match parts:
            case ["markets"]:
                return self._markets(query)
            case ["markets", "trades"]:
                return self._trades(query)
            case ["markets", "orderbooks"]:
                return self._books(request)
            case ["markets", ticker]:
                return ok(wire.MarketResponse(market=self.body(self._listing(ticker))))
            case ["markets", ticker, "orderbook"]:
                depth = integer(query, "depth", 0, 0, 100)
                return ok(wire.OrderbookResponse(orderbook_fp=serialize.book(self._listing(ticker), depth)))
            case ["historical", "cutoff"]:
                return self._cutoff()
            case ["historical", "trades"]:
                return self._trades(query, historical=True)
            case ["historical", "markets"]:
                return self._archive(query)
            case ["historical", "markets", ticker]:
                return ok(wire.MarketResponse(market=self.body(self._listing(ticker, archived=True))))
        return None

    def _listing(self, ticker: str, *, archived: bool = False) -> Listing:
        listing = self._ex.listings.get(ticker)
        if listing is None or self._ex.archived(listing) != archived:
            raise Refused(404, "not_found", message="market not found")
        return listing

    def body(self, x: Listing) -> wire.MarketBody:
        """Return a market object, with its quotes and its volume of 24 hours ago."""
        then = self._ex.candles.as_of(x.facts.ticker, self._ex.now - DAY)
        waived = self._ex.desk.tariff.waived_until(x.facts.ticker)
        if then is None:
            return serialize.market(x, waived)
        return replace(
            serialize.market(x, waived),
            previous_yes_bid_dollars=format_price(then.bid[3]),
            previous_yes_ask_dollars=format_price(then.ask[3]),
            previous_price_dollars=format_price(then.last),
            volume_24h_fp=format_size(x.volume - then.total),
        )

    # Listings

    def _markets(self, query: Mapping[str, str]) -> Answer:
        status = choice(query, "status", FILTERS)
        fits = self._times(query, status)
        listings = [
            x
            for x in self._by_combination(query, ("only", "exclude"))
            if (not status or status_matches(x.status, status)) and fits(x) and not self._ex.archived(x)
        ]
        return self._page(listings, query)

    def _archive(self, query: Mapping[str, str]) -> Answer:
        given = [name for name in ("tickers", "event_ticker", "series_ticker") if query.get(name)]
        if len(given) > 1:
            raise BadQuery(
                f"only one of tickers, event_ticker and series_ticker may be given, got {' and '.join(given)}"
            )
        return self._page(
            [x for x in self._by_combination(query, ("exclude",)) if self._ex.archived(x)], query
        )

    def _by_combination(self, query: Mapping[str, str], known: Sequence[str]) -> list[Listing]:
        """Return the chosen markets, filtered by `mve_filter`."""
        wanted, chosen = choice(query, "mve_filter", known), self._chosen(query)
        if not wanted:
            return chosen
        return [x for x in chosen if is_combination(x.facts.ticker) == (wanted == "only")]

    def _chosen(self, query: Mapping[str, str]) -> list[Listing]:
        """Return the markets that pass `tickers`, `event_ticker` and `series_ticker`, in order of creation."""
        listings = self._ex.listings
        tickers, event, series = (
            names(query, "tickers"),
            query.get("event_ticker"),
            query.get("series_ticker"),
        )
        if tickers is not None:
            named = [
                x
                for t in tickers
                if (x := listings.get(t)) is not None and event in (None, "", x.facts.event)
            ]
            chosen = sorted(named, key=lambda x: x.number)
        else:
            chosen = listings.of_event(event) if event else list(listings)
        return [x for x in chosen if x.facts.series == series] if series else chosen

    @staticmethod
    def _times(query: Mapping[str, str], status: str) -> Callable[[Listing], bool]:
        """Return a predicate that checks a market against the time filters of a query.

        Raises:
            BadQuery: two kinds of time filters, or one that must not be combined with the other filters.
        """
        given = [name for name in TIME_FILTERS if query.get(f"min_{name}_ts") or query.get(f"max_{name}_ts")]
        if not given:
            return lambda x: True
        if len(given) > 1:
            raise BadQuery(
                f"only one kind of time filter may be given, got {' and '.join(f'{name}_ts' for name in given)}"
            )
        (name,) = given
        time_filter = TIME_FILTERS[name]
        if status not in time_filter.statuses:
            raise BadQuery(f"{name}_ts must not be combined with status {status}")
        least = integer(query, f"min_{name}_ts", 0, 0, FOREVER) * SECOND
        most = integer(query, f"max_{name}_ts", FOREVER, 0, FOREVER) * SECOND
        if name == "updated":
            for other in ("tickers", "event_ticker"):
                if query.get(other):
                    raise BadQuery(f"updated_ts must not be combined with {other}")
            combos = query.get("mve_filter", "")
            if combos == "only" or (query.get("series_ticker") and combos != "exclude"):
                raise BadQuery(
                    "updated_ts must not be combined with mve_filter=only, nor with series_ticker without mve_filter=exclude"
                )
            # The minimum is exclusive here, the maximum inclusive.
            least = least + 1 if query.get("min_updated_ts") else 0
        else:
            most += SECOND - 1

        def fits(x: Listing) -> bool:
            at = time_filter.time(x)
            return at is not None and least <= at <= most

        return fits

    def _page(self, listings: list[Listing], query: Mapping[str, str]) -> Answer:
        limit, start = page_size(query, 100, 1000), cursor_position(query) or 0
        remaining = [x for x in listings if x.number >= start]
        cursor = f"p{remaining[limit].number:x}" if len(remaining) > limit else ""
        return ok(wire.MarketPage(markets=[self.body(x) for x in remaining[:limit]], cursor=cursor))

    # Books and prints

    def _books(self, request: Request) -> Answer:
        asked = [value for name, value in request.pairs if name == "tickers" and value]
        tickers = list(dict.fromkeys(asked)) or names(request.query, "tickers") or []
        if not 1 <= len(tickers) <= MAX_BOOKS:
            raise BadQuery(f"tickers must hold between 1 and {MAX_BOOKS} tickers, got {len(tickers)}")
        listed = [
            x for t in tickers if (x := self._ex.listings.get(t)) is not None and not self._ex.archived(x)
        ]
        return ok(
            wire.OrderbookList(
                orderbooks=[
                    wire.MarketOrderbook(ticker=x.facts.ticker, orderbook_fp=serialize.book(x))
                    for x in listed
                ]
            )
        )

    def _cutoff(self) -> Answer:
        at = isoformat(self._ex.cutoff)
        # Orders are never archived: all of them are live, from the beginning of time.
        return ok(wire.CutoffBody(market_settled_ts=at, trades_created_ts=at, orders_updated_ts=isoformat(0)))

    def _trades(self, query: Mapping[str, str], *, historical: bool = False) -> Answer:
        """Return prints, newest first; `min_ts` and `max_ts` are whole seconds, both inclusive."""
        low = integer(query, "min_ts", 0, 0, FOREVER) * SECOND
        high = (integer(query, "max_ts", FOREVER, 0, FOREVER) + 1) * SECOND
        low, high = (low, min(high, self._ex.cutoff)) if historical else (max(low, self._ex.cutoff), high)
        limit = page_size(query, 100, 1000)
        if flag(query, "is_block_trade"):
            return ok(wire.TradePage(trades=[]))
        page = self._ex.prints.between(
            low, high, query.get("ticker"), below=cursor_position(query), count=limit
        )
        cursor = "" if page.below is None else f"p{page.below:x}"
        return ok(wire.TradePage(trades=[serialize.trade(t) for t in page.prints], cursor=cursor))
