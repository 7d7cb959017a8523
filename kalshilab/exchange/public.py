"""Public reads over REST: the exchange, its series, events, markets and prints, live and historical."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kalshilab.clock import isoformat
from kalshilab.exchange import bodies
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.markets import Listing
from kalshilab.exchange.orders import Refused
from kalshilab.exchange.query import (
    FOREVER,
    Answer,
    BadQuery,
    Request,
    integer,
    missing,
    ok,
    page_size,
    paged,
    place,
)
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.lifecycle import FILTERS, status_matches

__all__ = ["PublicRoutes"]


class PublicRoutes:
    """Answers what needs no account."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """The answer, or None where there is no such path.

        Args:
            parts: the path below the root of the contract.

        Raises:
            Refused, BadQuery: to be put into words by the caller.
        """
        method, query = request.method, request.query
        match (method, *parts):
            case ("GET", "exchange", "status"):
                return ok(wire.Status(exchange_active=True, trading_active=True))
            case ("GET", "series"):
                return ok(wire.SeriesList(series=self._ex.listings.series()))
            case ("GET", "series", ticker):
                series = self._ex.listings.one_series(ticker)
                return ok(wire.SeriesResponse(series=series)) if series else missing("series")
            case ("GET", "events"):
                return self._events(query)
            case ("GET", "events", ticker):
                return self._event(ticker, query)
            case ("GET", "markets"):
                return self._markets(query)
            case ("GET", "markets", "trades"):
                return self._trades(query)
            case ("GET", "markets", ticker):
                return ok(wire.MarketResponse(market=bodies.market(self._listing(ticker))))
            case ("GET", "markets", ticker, "orderbook"):
                depth = integer(query, "depth", 0, 0, 100)
                return ok(wire.OrderbookResponse(orderbook_fp=bodies.book(self._listing(ticker), depth)))
            case ("GET", "historical", "cutoff"):
                return self._cutoff()
            case ("GET", "historical", "trades"):
                return self._trades(query, historical=True)
            case ("GET", "historical", "markets"):
                return self._historical_markets(query)
            case ("GET", "historical", "markets", ticker):
                return ok(wire.MarketResponse(market=bodies.market(self._listing(ticker, historical=True))))
        return None

    def _listing(self, ticker: str, *, historical: bool = False) -> Listing:
        listing = self._ex.listings.get(ticker)
        if listing is None or self._ex.archived(listing) != historical:
            raise Refused(404, "not_found", message="market not found")
        return listing

    def _markets(self, query: Mapping[str, str]) -> Answer:
        wanted = query.get("status") or None
        if wanted is not None and wanted not in FILTERS:
            raise BadQuery(f"status: one of {', '.join(FILTERS)}")
        found = [
            x
            for x in self._chosen(query)
            if (wanted is None or status_matches(x.status, wanted)) and not self._ex.archived(x)
        ]
        return self._market_page(found, query)

    def _historical_markets(self, query: Mapping[str, str]) -> Answer:
        given = [name for name in ("tickers", "event_ticker", "series_ticker") if query.get(name)]
        if len(given) > 1:
            raise BadQuery(f"{' and '.join(given)}: only one of them")
        return self._market_page([x for x in self._chosen(query) if self._ex.archived(x)], query)

    def _chosen(self, query: Mapping[str, str]) -> list[Listing]:
        """The markets that `tickers`, `event_ticker` and `series_ticker` leave, in the order of their creation."""
        listings = self._ex.listings
        tickers = set(query["tickers"].split(",")) if query.get("tickers") else None
        event, series = query.get("event_ticker"), query.get("series_ticker")
        return [
            x
            for x in (listings.of_event(event) if event else listings)
            if (tickers is None or x.facts.ticker in tickers) and (not series or x.facts.series == series)
        ]

    def _market_page(self, found: list[Listing], query: Mapping[str, str]) -> Answer:
        """A page of markets; its cursor is a place among all of them, which no change of status moves."""
        limit, start = page_size(query, 100, 1000), place(query) or 0
        left = [x for x in found if x.number >= start]
        cursor = f"p{left[limit].number:x}" if len(left) > limit else ""
        return ok(wire.MarketPage(markets=[bodies.market(x) for x in left[:limit]], cursor=cursor))

    def _event_body(self, event: str, markets: list[Listing] | None) -> wire.Event:
        f = self._ex.listings.of_event(event)[0].facts
        return wire.Event(
            event_ticker=event,
            series_ticker=f.series,
            title=f.title or event,
            sub_title=f.title,
            collateral_return_type="",
            mutually_exclusive=False,
            category=f.category,
            settlement_sources=[],
            markets=None if markets is None else [bodies.market(x) for x in markets],
            exchange_index=0,
        )

    def _events(self, query: Mapping[str, str]) -> Answer:
        wanted, series = query.get("status") or None, query.get("series_ticker")
        if wanted is not None and wanted not in FILTERS:
            raise BadQuery(f"status: one of {', '.join(FILTERS)}")
        tickers = set(query["tickers"].split(",")) if query.get("tickers") else None
        with_markets = query.get("with_nested_markets") == "true"
        least_close = integer(query, "min_close_ts", 0, 0, 2**53) * 1_000_000
        found = []
        for event in self._ex.listings.events():
            markets = self._ex.listings.of_event(event)
            if (series and markets[0].facts.series != series) or (tickers and event not in tickers):
                continue
            fitting = [
                x
                for x in markets
                if (wanted is None or status_matches(x.status, wanted)) and x.close_ts >= least_close
            ]
            if fitting:
                found.append((event, self._live(markets) if with_markets else None))
        page, cursor = paged(found, query, 200, 200)
        return ok(wire.EventPage(events=[self._event_body(e, m) for e, m in page], cursor=cursor))

    def _event(self, ticker: str, query: Mapping[str, str]) -> Answer:
        markets = self._ex.listings.of_event(ticker)
        if not markets:
            return missing("event")
        if query.get("with_nested_markets") == "true":
            # The contract wants `markets` beside the event in any case; nested, it stays empty there.
            return ok(wire.EventResponse(event=self._event_body(ticker, self._live(markets)), markets=[]))
        return ok(
            wire.EventResponse(
                event=self._event_body(ticker, None), markets=[bodies.market(x) for x in self._live(markets)]
            )
        )

    def _live(self, markets: list[Listing]) -> list[Listing]:
        """Those that are not archived: an event is listed for ever, its archived markets are not in it."""
        return [x for x in markets if not self._ex.archived(x)]

    def _cutoff(self) -> Answer:
        at = isoformat(self._ex.cutoff)
        # Orders are never archived here: all of them are live, from the beginning of time.
        return ok(wire.Cutoff(market_settled_ts=at, trades_created_ts=at, orders_updated_ts=isoformat(0)))

    def _trades(self, query: Mapping[str, str], *, historical: bool = False) -> Answer:
        """Prints, newest first; `min_ts` and `max_ts` are whole seconds, and prints within either second count."""
        low = integer(query, "min_ts", 0, 0, FOREVER) * 1_000_000
        high = (integer(query, "max_ts", FOREVER, 0, FOREVER) + 1) * 1_000_000
        low, high = (low, min(high, self._ex.cutoff)) if historical else (max(low, self._ex.cutoff), high)
        limit = page_size(query, 100, 1000)
        page = self._ex.prints.between(low, high, query.get("ticker"), below=place(query), count=limit)
        cursor = "" if page.below is None else f"p{page.below:x}"
        return ok(wire.TradePage(trades=[bodies.trade(t) for t in page.prints], cursor=cursor))
