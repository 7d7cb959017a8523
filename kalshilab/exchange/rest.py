"""The REST side without a server: a request in, a status and a body out.

Public reads need no signature; everything about the account does, and so does the WebSocket handshake.
Errors have the shapes the exchange gives them: nested for most, flat for a body that is not the JSON it
should be, `{"msg": …}` for a query that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from kalshilab.clock import isoformat
from kalshilab.exchange import bodies
from kalshilab.exchange.core import Exchange
from kalshilab.exchange.markets import Listing
from kalshilab.exchange.orders import Refused, average, average_price
from kalshilab.kalshi.auth import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, Verifier
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import REST_PATH
from kalshilab.market.lifecycle import FILTERS, status_matches
from kalshilab.units import format_money, format_size

__all__ = ["WINDOW_MS", "Answer", "Request", "RestSide"]

T = TypeVar("T")
FOREVER: Final = 2**53
"""Seconds: the end of time as a query can say it."""
WINDOW_MS: Final = 20_000
"""How far a signature's time may be from ours, either way."""
_encode: Final = msgspec.json.Encoder().encode


class Request(NamedTuple):
    """A request: `path` from the root without query; header names in upper case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes = b""


class Answer(NamedTuple):
    """A response."""

    status: int
    body: bytes = b""


class BadQuery(Exception):
    """A query parameter that cannot be used."""


def nested(status: int, code: str, message: str = "", details: str = "") -> Answer:
    """An error in the exchange's usual shape."""
    error = {"code": code, "message": message or code} | ({"details": details} if details else {})
    return Answer(status, _encode({"error": error}))


class RestSide:
    """Answers REST requests on an exchange.

    Args:
        keys: verifiers by key id.
        now_ms: machine time in milliseconds, for the signature window.
    """

    def __init__(self, exchange: Exchange, keys: Mapping[str, Verifier], now_ms: Callable[[], int]) -> None:
        self._ex, self._keys, self._now_ms = exchange, keys, now_ms

    # Requests

    def answer(self, request: Request) -> Answer:
        """Answer one request; never raises for what a client sends."""
        if not request.path.startswith(REST_PATH + "/"):
            return nested(404, "not_found", "no such path")
        parts = request.path[len(REST_PATH) + 1 :].rstrip("/").split("/")
        public = parts[0] in ("exchange", "series", "events", "markets") or (
            parts[0] == "historical" and parts[1:2] in (["cutoff"], ["trades"], ["markets"])
        )
        if not public:
            refusal = self.check_signature(request)
            if refusal is not None:
                return refusal
        try:
            return self._route(request, parts)
        except Refused as error:
            return nested(error.status, error.code, error.message, error.details)
        except BadQuery as error:
            return Answer(400, _encode({"msg": str(error)}))
        except msgspec.DecodeError as error:
            return Answer(
                400, _encode({"code": "bad_request", "message": "bad request", "details": str(error)})
            )

    def check_signature(self, request: Request) -> Answer | None:
        """None if the request is signed by a known key at this time, else the 401."""
        headers = request.headers
        if not headers.get(SIGNATURE_HEADER) or not headers.get(KEY_HEADER):
            return nested(401, "signature_is_missing_from_headers", "signature is missing from headers")
        stamp = headers.get(TIME_HEADER, "")
        if not stamp.isdigit() or abs(int(stamp) - self._now_ms()) > WINDOW_MS:
            return nested(401, "header_timestamp_expired", "header timestamp expired")
        verifier = self._keys.get(headers[KEY_HEADER])
        if verifier is None:
            return nested(401, "authentication_error", "authentication_error", "NOT_FOUND")
        if not verifier.verify(headers, request.method, request.path):
            return nested(401, "authentication_error", "authentication_error", "INCORRECT_API_KEY_SIGNATURE")
        return None

    def _route(self, request: Request, parts: Sequence[str]) -> Answer:
        method, query = request.method, request.query
        match (method, *parts):
            case ("GET", "exchange", "status"):
                return _ok(wire.Status(exchange_active=True, trading_active=True))
            case ("GET", "series"):
                return _ok(wire.SeriesList(series=self._ex.listings.series()))
            case ("GET", "series", ticker):
                series = self._ex.listings.one_series(ticker)
                return _ok(wire.SeriesResponse(series=series)) if series else _missing("series")
            case ("GET", "events"):
                return self._events(query)
            case ("GET", "events", ticker):
                return self._event(ticker, query)
            case ("GET", "markets"):
                return self._markets(query)
            case ("GET", "markets", "trades"):
                return self._trades(query)
            case ("GET", "markets", ticker):
                return _ok(wire.MarketResponse(market=bodies.market(self._listing(ticker))))
            case ("GET", "markets", ticker, "orderbook"):
                depth = _integer(query, "depth", 0, 0, 100)
                return _ok(wire.OrderbookResponse(orderbook_fp=bodies.book(self._listing(ticker), depth)))
            case ("GET", "historical", "cutoff"):
                return self._cutoff()
            case ("GET", "historical", "trades"):
                return self._trades(query, historical=True)
            case ("GET", "historical", "markets"):
                return self._historical_markets(query)
            case ("GET", "historical", "markets", ticker):
                return _ok(wire.MarketResponse(market=bodies.market(self._listing(ticker, historical=True))))
            case ("GET", "account", "limits"):
                bucket = wire.BucketLimit(refill_rate=12_000, bucket_capacity=12_000)
                return _ok(wire.Limits(usage_tier="prestige", read=bucket, write=bucket))
            case ("GET", "portfolio", *rest):
                return self._portfolio(list(rest), query)
            case ("POST", "portfolio", "events", "orders"):
                return self._create(request.body)
            case ("DELETE", "portfolio", "events", "orders"):
                return self._cancel_all()
            case ("DELETE", "portfolio", "events", "orders", order_id):
                order, reduced = self._ex.desk.cancel(order_id)
                return _ok(
                    wire.CancelOrderResponse(
                        order_id=order.order_id,
                        client_order_id=order.client_order_id,
                        reduced_by=format_size(reduced),
                        ts_ms=self._ex.now_ms(),
                    )
                )
            case ("POST" | "DELETE", "portfolio", "orders", *_):
                return nested(
                    410,
                    "deprecated_v1_order_endpoint",
                    "Please switch to the V2 endpoints",
                    "/portfolio/events/orders",
                )
        return nested(404, "not_found", "no such path")

    # Public reads

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
        limit, start = _limit(query, 100, 1000), _position(query) or 0
        left = [x for x in found if x.number >= start]
        cursor = f"p{left[limit].number:x}" if len(left) > limit else ""
        return _ok(wire.MarketPage(markets=[bodies.market(x) for x in left[:limit]], cursor=cursor))

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
        least_close = _integer(query, "min_close_ts", 0, 0, 2**53) * 1_000_000
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
        page, cursor = _page(found, query, 200, 200)
        return _ok(wire.EventPage(events=[self._event_body(e, m) for e, m in page], cursor=cursor))

    def _event(self, ticker: str, query: Mapping[str, str]) -> Answer:
        markets = self._ex.listings.of_event(ticker)
        if not markets:
            return _missing("event")
        if query.get("with_nested_markets") == "true":
            # The contract wants `markets` beside the event in any case; nested, it stays empty there.
            return _ok(wire.EventResponse(event=self._event_body(ticker, self._live(markets)), markets=[]))
        return _ok(
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
        return _ok(wire.Cutoff(market_settled_ts=at, trades_created_ts=at, orders_updated_ts=isoformat(0)))

    def _trades(self, query: Mapping[str, str], *, historical: bool = False) -> Answer:
        """Prints, newest first; `min_ts` and `max_ts` are whole seconds, and prints within either second count."""
        low = _integer(query, "min_ts", 0, 0, FOREVER) * 1_000_000
        high = (_integer(query, "max_ts", FOREVER, 0, FOREVER) + 1) * 1_000_000
        low, high = (low, min(high, self._ex.cutoff)) if historical else (max(low, self._ex.cutoff), high)
        limit = _limit(query, 100, 1000)
        page = self._ex.prints.between(low, high, query.get("ticker"), below=_position(query), count=limit)
        cursor = "" if page.below is None else f"p{page.below:x}"
        return _ok(wire.TradePage(trades=[bodies.trade(t) for t in page.prints], cursor=cursor))

    # The account

    def _portfolio(self, parts: list[str], query: Mapping[str, str]) -> Answer:
        ex, account = self._ex, self._ex.account
        ticker = query.get("ticker")
        match parts:
            case ["balance"]:
                value = account.value(ex.marks())
                return _ok(
                    wire.Balance(
                        balance=account.cash // 10_000,
                        balance_dollars=format_money(account.cash),
                        portfolio_value=value // 10_000,
                        updated_ts=ex.now // 1_000_000,
                        balance_breakdown=[{"exchange_index": 0, "balance": format_money(account.cash)}],
                    )
                )
            case ["positions"]:
                return self._positions(query)
            case ["fills"]:
                least = _integer(query, "min_ts", 0, 0, 2**53) * 1_000_000
                wanted = set(ticker.split(",")) if ticker else None
                order_id = query.get("order_id")
                found = [
                    r
                    for r in reversed(account.fills)
                    if (wanted is None or r.ticker in wanted)
                    and r.ts >= least
                    and (not order_id or r.order.order_id == order_id)
                ]
                page, cursor = _page(found, query, 100, 1000)
                return _ok(wire.FillPage(fills=[bodies.fill(r) for r in page], cursor=cursor))
            case ["settlements"]:
                paid = [r for r in reversed(account.settlements) if not ticker or r.ticker == ticker]
                payouts, cursor = _page(paid, query, 100, 1000)
                return _ok(
                    wire.SettlementPage(settlements=[bodies.settlement(r) for r in payouts], cursor=cursor)
                )
            case ["orders"]:
                return self._orders(query)
            case ["orders", order_id]:
                order = ex.desk.orders.get(order_id)
                return (
                    _ok(wire.OrderResponse(order=bodies.order(order, ex.user_id)))
                    if order
                    else _missing("order")
                )
        return nested(404, "not_found", "no such path")

    def _orders(self, query: Mapping[str, str]) -> Answer:
        ex, ticker, status = self._ex, query.get("ticker"), query.get("status") or None
        if status is not None and status not in ("resting", "canceled", "executed"):
            raise BadQuery("status: one of resting, canceled, executed")
        # Resting orders are few and asked for often: no walk over the dead ones for them.
        pool = ex.desk.resting() if status == "resting" else list(ex.desk.orders.values())
        found = [
            o
            for o in reversed(pool)
            if (not ticker or o.ticker == ticker) and (not status or o.status == status)
        ]
        page, cursor = _page(found, query, 100, 1000)
        return _ok(wire.OrderPage(orders=[bodies.order(o, ex.user_id) for o in page], cursor=cursor))

    def _positions(self, query: Mapping[str, str]) -> Answer:
        account, listings = self._ex.account, self._ex.listings
        ticker, event = query.get("ticker"), query.get("event_ticker")
        rows = []
        for name, holding in account.holdings.items():
            listing = listings.get(name)
            if not holding.size or listing is None or (ticker and name != ticker):
                continue
            if event and listing.facts.event != event:
                continue
            rows.append((listing.facts.event, name, holding))
        page, cursor = _page(rows, query, 100, 1000)
        markets = [
            bodies.market_position(n, h, account.traded.get(n, 0), account.touched.get(n, 0))
            for _, n, h in page
        ]
        events: dict[str, list[Any]] = {}
        for name, _, holding in page:
            events.setdefault(name, []).append(holding)
        return _ok(
            wire.PositionPage(
                market_positions=markets,
                event_positions=[
                    wire.EventPosition(
                        event_ticker=name,
                        total_cost_dollars=format_money(sum(h.cost for h in held)),
                        total_cost_shares_fp=format_size(sum(abs(h.size) for h in held)),
                        event_exposure_dollars=format_money(sum(h.cost for h in held)),
                        realized_pnl_dollars=format_money(sum(h.realized for h in held)),
                        fees_paid_dollars=format_money(sum(h.fees for h in held)),
                    )
                    for name, held in events.items()
                ],
                cursor=cursor,
            )
        )

    def _create(self, body: bytes) -> Answer:
        order, cost, fees = self._ex.desk.create(msgspec.json.decode(body, type=wire.CreateOrder))
        filled = order.filled
        answer = wire.CreateOrderResponse(
            order_id=order.order_id,
            client_order_id=order.client_order_id,
            fill_count=format_size(filled),
            remaining_count=format_size(order.remaining),
            average_fill_price=average_price(order, cost) if filled else None,
            average_fee_paid=average(fees, filled) if filled else None,
            ts_ms=self._ex.now_ms(),
        )
        return Answer(201, _encode(answer))

    def _cancel_all(self) -> Answer:
        for order in self._ex.desk.resting():
            self._ex.desk.cancel(order.order_id)
        return Answer(204)


def _ok(body: msgspec.Struct) -> Answer:
    return Answer(200, _encode(body))


def _missing(what: str) -> Answer:
    return nested(404, "not_found", f"{what} not found")


def _integer(query: Mapping[str, str], name: str, absent: int, low: int, high: int) -> int:
    text = query.get(name)
    if not text:
        return absent
    try:
        value = int(text)
    except ValueError:
        raise BadQuery(f"{name}: {text} is not a whole number") from None
    if not low <= value <= high:
        raise BadQuery(f"{name}: {value} is not between {low} and {high}")
    return value


def _limit(query: Mapping[str, str], usual: int, most: int) -> int:
    return _integer(query, "limit", usual, 0, most) or usual


def _position(query: Mapping[str, str]) -> int | None:
    """The place a cursor of trades or markets names; one that names none is taken for the start, as there."""
    cursor = query.get("cursor", "")
    if not cursor.startswith("p"):
        return None
    try:
        return int(cursor[1:], 16)
    except ValueError:
        return None


def _page(rows: Sequence[T], query: Mapping[str, str], usual: int, most: int) -> tuple[Sequence[T], str]:
    """A page of rows and the cursor of the next; a cursor that is none is taken for the start, as there."""
    limit = _limit(query, usual, most)
    cursor = query.get("cursor", "")
    start = int(cursor) if cursor.isdigit() else 0
    end = start + limit
    return rows[start:end], str(end) if end < len(rows) else ""
