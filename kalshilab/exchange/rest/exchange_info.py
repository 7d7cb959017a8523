"""Public reads over REST: status and hours of the exchange, series, events, and through them markets and candles.

The exchange is always open: its flow decides when something happens. The fees of a series come from the flow and
never change. The fees of an event may be overridden, and every override is listed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import UNSET
from msgspec.structs import replace

from kalshilab.clock import isoformat
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.rest.candlesticks import CandleRoutes
from kalshilab.exchange.rest.markets import MarketRoutes, is_combination
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
    not_found,
    ok,
    page_size,
    paged,
)
from kalshilab.exchange.rest.rate_limits import endpoint_costs
from kalshilab.exchange.state.listings import Listing
from kalshilab.kalshi.wire import rest as wire
from kalshilab.market.lifecycle import status_matches
from kalshilab.units import format_size

__all__ = ["PublicRoutes"]

SECOND: Final = 1_000_000
EVENT_STATUSES: Final = ("unopened", "open", "closed", "settled")
ALL_DAY: Final = [wire.Session(open_time="00:00", close_time="24:00")]


class PublicRoutes:
    """Routes of public reads, which need no account."""

    def __init__(self, exchange: Exchange) -> None:
        self._ex = exchange
        self._market_routes = MarketRoutes(exchange)
        self._candle_routes = CandleRoutes(exchange)

    def answer(self, request: Request, parts: Sequence[str]) -> Answer | None:
        """Return the answer to a request; None for an unknown path.

        Args:
            request: the request.
            parts: segments of the path below the contract's root.

        Raises:
            Refused, BadQuery: the request is invalid; the caller turns the error into an answer.
        """
        if request.method != "GET":
            return None
        parts, query = list(parts), request.query
        match parts:
            case ["exchange", "status"]:
                return self._status()
            case ["exchange", "schedule"]:
                return self._schedule()
            case ["exchange", "user_data_timestamp"]:
                return ok(wire.UserDataTimestamp(as_of_time=isoformat(self._ex.now)))
            case ["account", "endpoint_costs"]:
                return ok(endpoint_costs())
            case ["series"]:
                return self._series(query)
            case ["series", "fee_changes"]:
                flag(query, "show_historical")
                return ok(wire.SeriesFeeChangeList(series_fee_change_arr=[]))
            case ["series", ticker]:
                return self._one_series(ticker, query)
            case ["events"]:
                return self._events(query)
            case ["events", "fee_changes"]:
                return self._event_fee_changes(query)
            case ["events", ticker]:
                return self._event(ticker, query)
        return self._candle_routes.answer(parts, query) or self._market_routes.answer(request, parts)

    # The exchange

    def _status(self) -> Answer:
        up = self._ex.exchange_active
        trading = up and self._ex.trading_active
        shard = wire.ShardStatus(
            exchange_index=0,
            description="All markets",
            exchange_active=up,
            trading_active=trading,
            intra_exchange_transfers_active=up,
        )
        return ok(
            wire.ExchangeStatusBody(
                exchange_active=up,
                trading_active=trading,
                intra_exchange_transfers_active=up,
                exchange_index_statuses=[shard],
            )
        )

    def _schedule(self) -> Answer:
        week = wire.Week(
            start_time=isoformat(0),
            end_time="9999-12-31T23:59:59Z",
            monday=ALL_DAY,
            tuesday=ALL_DAY,
            wednesday=ALL_DAY,
            thursday=ALL_DAY,
            friday=ALL_DAY,
            saturday=ALL_DAY,
            sunday=ALL_DAY,
        )
        return ok(
            wire.ScheduleResponse(schedule=wire.Schedule(standard_hours=[week], maintenance_windows=[]))
        )

    # Series

    def _series(self, query: Mapping[str, str]) -> Answer:
        category, tags = query.get("category"), names(query, "tags")
        since = integer(query, "min_updated_ts", -1, 0, FOREVER) * SECOND
        with_volume, with_metadata = flag(query, "include_volume"), flag(query, "include_product_metadata")
        first: dict[str, int] = {}
        volumes: dict[str, int] = {}
        for x in self._ex.listings:
            first.setdefault(x.facts.series, x.facts.created)
            volumes[x.facts.series] = volumes.get(x.facts.series, 0) + x.volume
        listed = [
            replace(
                s,
                last_updated_ts=isoformat(first[s.ticker]),
                exchange_index=0,
                volume_fp=format_size(volumes[s.ticker]) if with_volume else UNSET,
                product_metadata={} if with_metadata else UNSET,
            )
            for s in self._ex.listings.series()
            if (not category or category in s.categories)
            and (tags is None or any(t in (s.tags or ()) for t in tags))
            and first[s.ticker] > since
        ]
        return ok(wire.SeriesList(series=listed))

    def _one_series(self, ticker: str, query: Mapping[str, str]) -> Answer:
        with_volume = flag(query, "include_volume")
        series = self._ex.listings.one_series(ticker)
        if series is None:
            return not_found("series")
        markets = [x for x in self._ex.listings if x.facts.series == ticker]
        volume = format_size(sum(x.volume for x in markets)) if with_volume else UNSET
        created = isoformat(markets[0].facts.created)
        series = replace(series, last_updated_ts=created, exchange_index=0, volume_fp=volume)
        return ok(wire.SeriesResponse(series=series))

    # Events

    def _events(self, query: Mapping[str, str]) -> Answer:
        status, series = choice(query, "status", EVENT_STATUSES), query.get("series_ticker")
        tickers = names(query, "tickers")
        nested = flag(query, "with_nested_markets")
        milestones = flag(query, "with_milestones")
        least_close = integer(query, "min_close_ts", 0, 0, FOREVER) * SECOND
        since = integer(query, "min_updated_ts", -1, 0, FOREVER) * SECOND
        matching = []
        for event in self._ex.listings.events():
            markets = self._ex.listings.of_event(event)
            if (
                is_combination(event)
                or (series and markets[0].facts.series != series)
                or (tickers and event not in tickers)
            ):
                continue
            if markets[-1].facts.created > since and any(
                (not status or status_matches(x.status, status)) and x.close_ts >= least_close
                for x in markets
            ):
                matching.append(event)
        # An event has the position of its first market, which stays when later markets are archived.
        limit, start = page_size(query, 200, 200, 1), cursor_position(query) or 0
        places = [(x, e) for e in matching if (x := self._ex.listings.of_event(e)[0].number) >= start]
        cursor = f"p{places[limit][0]:x}" if len(places) > limit else ""
        events = [self._event_body(e, self._live(e) if nested else None) for _, e in places[:limit]]
        return ok(wire.EventPage(events=events, cursor=cursor, milestones=[] if milestones else UNSET))

    def _event(self, ticker: str, query: Mapping[str, str]) -> Answer:
        nested, without = flag(query, "with_nested_markets"), flag(query, "exclude_markets")
        if nested and without:
            raise BadQuery("only one of with_nested_markets and exclude_markets may be true, got both")
        if not self._ex.listings.of_event(ticker):
            return not_found("event")
        markets = [] if without else self._live(ticker)
        # The contract requires `markets` beside the event; it stays empty when they are nested.
        event = self._event_body(ticker, markets if nested else None)
        beside = [] if nested else [self._market_routes.body(x) for x in markets]
        return ok(wire.EventResponse(event=event, markets=beside))

    def _event_body(self, event: str, markets: list[Listing] | None) -> wire.EventBody:
        everything = self._ex.listings.of_event(event)
        f = everything[0].facts
        fee_type, multiplier = self._ex.desk.tariff.overridden(event)
        return wire.EventBody(
            event_ticker=event,
            series_ticker=f.series,
            title=f.title or event,
            sub_title=f.title,
            collateral_return_type="",
            mutually_exclusive=False,
            category=f.category,
            settlement_sources=[],
            markets=None if markets is None else [self._market_routes.body(x) for x in markets],
            last_updated_ts=isoformat(everything[-1].facts.created),
            fee_type_override=fee_type,
            fee_multiplier_override=multiplier,
            exchange_index=0,
        )

    def _live(self, event: str) -> list[Listing]:
        """Return the markets of an event that are not archived; the event itself is never archived."""
        return [x for x in self._ex.listings.of_event(event) if not self._ex.archived(x)]

    def _event_fee_changes(self, query: Mapping[str, str]) -> Answer:
        wanted = query.get("event_ticker")
        changes = []
        for number, (ts, change) in enumerate(self._ex.desk.fee_changes):
            event = change.event_ticker
            markets = self._ex.listings.of_event(event)
            if not wanted or event == wanted:
                changes.append(
                    wire.EventFeeChange(
                        id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"fee change {number}")),
                        event_ticker=event,
                        series_ticker=markets[0].facts.series if markets else event.partition("-")[0],
                        fee_type_override=change.fee_type_override,
                        fee_multiplier_override=change.fee_multiplier_override,
                        scheduled_ts=isoformat(ts),
                    )
                )
        page, cursor = paged(changes, query, 100, 1000, 1)
        return ok(wire.EventFeeChangePage(event_fee_changes=list(page), cursor=cursor))
