"""Markets over REST, live and archived: listings and their filters, order books, public prints.

A cursor of markets or prints is a place among all of them, which no change of status and no new print moves.
Times in a query are whole seconds, and whatever happened within either of the two counts; only the time of
the last update is exact, as the exchange says of it: later than the least, and at the most.

There are no block trades here: a filter that asks for these alone finds nothing.
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
    flag,
    integer,
    names,
    ok,
    page_size,
    place,
    word,
)
from kalshilab.exchange.state import serialize
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.lifecycle import FILTERS, status_matches
from kalshilab.units import format_price, format_size

__all__ = ["MarketRoutes"]

SECOND: Final = 1_000_000
DAY: Final = 86_400 * SECOND
MOST_BOOKS: Final = 100


class Family(NamedTuple):
    """A pair of time filters: the statuses it goes with ("" for none given), and the time it is about."""

    statuses: tuple[str, ...]
    time: Callable[[Listing], int | None]


def _settled(x: Listing) -> int | None:
    return x.facts.settled if x.status == "finalized" else None


FAMILIES: Final[dict[str, Family]] = {
    "created": Family(("", "unopened", "open"), lambda x: x.facts.created),
    "close": Family(("", "closed"), lambda x: x.close_ts),
    "settled": Family(("", "settled"), _settled),
    "updated": Family(("",), lambda x: x.updated),
}
COMBINATIONS: Final = "KXMVE"


def is_combination(ticker: str) -> bool:
    """Whether a series, event or market is multivariate: a combination of others, by its name."""
    return ticker.startswith(COMBINATIONS)


class MarketRoutes:
    """Answers what is about markets."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """The answer to a GET, or None where there is no such path.

        Raises:
            Refused, BadQuery: to be put into words by the caller.
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
        """A market object, with what it was a day ago."""
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
        status = word(query, "status", FILTERS)
        fits = self._times(query, status)
        found = [
            x
            for x in self._by_combination(query, ("only", "exclude"))
            if (not status or status_matches(x.status, status)) and fits(x) and not self._ex.archived(x)
        ]
        return self._page(found, query)

    def _archive(self, query: Mapping[str, str]) -> Answer:
        given = [name for name in ("tickers", "event_ticker", "series_ticker") if query.get(name)]
        if len(given) > 1:
            raise BadQuery(f"{' and '.join(given)}: only one of them")
        return self._page(
            [x for x in self._by_combination(query, ("exclude",)) if self._ex.archived(x)], query
        )

    def _by_combination(self, query: Mapping[str, str], known: Sequence[str]) -> list[Listing]:
        """The markets chosen, with or without combinations as `mve_filter` says."""
        wanted, found = word(query, "mve_filter", known), self._chosen(query)
        if not wanted:
            return found
        return [x for x in found if is_combination(x.facts.ticker) == (wanted == "only")]

    def _chosen(self, query: Mapping[str, str]) -> list[Listing]:
        """The markets that `tickers`, `event_ticker` and `series_ticker` leave, in the order of their creation."""
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
            found = sorted(named, key=lambda x: x.number)
        else:
            found = listings.of_event(event) if event else list(listings)
        return [x for x in found if x.facts.series == series] if series else found

    @staticmethod
    def _times(query: Mapping[str, str], status: str) -> Callable[[Listing], bool]:
        """Whether a market fits the times asked for, if any.

        Raises:
            BadQuery: two kinds of times, or one beside filters that it does not go with.
        """
        given = [name for name in FAMILIES if query.get(f"min_{name}_ts") or query.get(f"max_{name}_ts")]
        if not given:
            return lambda x: True
        if len(given) > 1:
            raise BadQuery(f"{' and '.join(f'{name}_ts' for name in given)}: only one kind of time")
        (name,) = given
        family = FAMILIES[name]
        if status not in family.statuses:
            raise BadQuery(f"{name}_ts: not with status {status}")
        least = integer(query, f"min_{name}_ts", 0, 0, FOREVER) * SECOND
        most = integer(query, f"max_{name}_ts", FOREVER, 0, FOREVER) * SECOND
        if name == "updated":
            for other in ("tickers", "event_ticker"):
                if query.get(other):
                    raise BadQuery(f"updated_ts: not with {other}")
            combos = query.get("mve_filter", "")
            if combos == "only" or (query.get("series_ticker") and combos != "exclude"):
                raise BadQuery("updated_ts: with mve_filter=exclude only, and so series_ticker")
            # Later than the least instant named, and at the most.
            least = least + 1 if query.get("min_updated_ts") else 0
        else:
            most += SECOND - 1

        def fits(x: Listing) -> bool:
            at = family.time(x)
            return at is not None and least <= at <= most

        return fits

    def _page(self, found: list[Listing], query: Mapping[str, str]) -> Answer:
        limit, start = page_size(query, 100, 1000), place(query) or 0
        left = [x for x in found if x.number >= start]
        cursor = f"p{left[limit].number:x}" if len(left) > limit else ""
        return ok(wire.MarketPage(markets=[self.body(x) for x in left[:limit]], cursor=cursor))

    # Books and prints

    def _books(self, request: Request) -> Answer:
        asked = [value for name, value in request.pairs if name == "tickers" and value]
        tickers = list(dict.fromkeys(asked)) or names(request.query, "tickers") or []
        if not 1 <= len(tickers) <= MOST_BOOKS:
            raise BadQuery(f"tickers: {len(tickers)} is not between 1 and {MOST_BOOKS}")
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
        # Orders are never archived here: all of them are live, from the beginning of time.
        return ok(wire.CutoffBody(market_settled_ts=at, trades_created_ts=at, orders_updated_ts=isoformat(0)))

    def _trades(self, query: Mapping[str, str], *, historical: bool = False) -> Answer:
        """Prints, newest first; `min_ts` and `max_ts` are whole seconds, and prints within either second count."""
        low = integer(query, "min_ts", 0, 0, FOREVER) * SECOND
        high = (integer(query, "max_ts", FOREVER, 0, FOREVER) + 1) * SECOND
        low, high = (low, min(high, self._ex.cutoff)) if historical else (max(low, self._ex.cutoff), high)
        limit = page_size(query, 100, 1000)
        if flag(query, "is_block_trade"):
            return ok(wire.TradePage(trades=[]))
        page = self._ex.prints.between(low, high, query.get("ticker"), below=place(query), count=limit)
        cursor = "" if page.below is None else f"p{page.below:x}"
        return ok(wire.TradePage(trades=[serialize.trade(t) for t in page.prints], cursor=cursor))
