"""REST client: one place that sends requests, typed answers, and reads of public data.

`Rest` is the only class that sends HTTP.  It checks the host on construction *and* the final address of every request.
It follows no redirect and uses no proxy from the environment.  It distinguishes four failures: the exchange refused
the request (`ApiError`), there were too many calls (`RateLimited`), the host was not reached and nothing was sent
(`ConnectionFailed`), and the outcome of a write is unknown (`OutcomeUnknown`).  Reads are retried by the policy of
`kalshilab.retry`; writes never are.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from kalshilab.clock import Clock, WallClock
from kalshilab.errors import (
    ApiError,
    ConfigError,
    ConnectionFailed,
    HostRefused,
    OutcomeUnknown,
    ProtocolError,
)
from kalshilab.kalshi import hosts
from kalshilab.kalshi.auth import HasCredentials, Signer
from kalshilab.kalshi.rest.api_errors import api_error
from kalshilab.kalshi.rest.history import Columns, HistoricalCutoff, RawTradePage
from kalshilab.kalshi.rest.rate_limits import COSTS, AccountLimits
from kalshilab.kalshi.rest.transport import FAST_EXTRA, Http, NoAnswer, NotSent, Reply
from kalshilab.kalshi.rest.transport_httpx import HttpxHttp
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import UNREADABLE
from kalshilab.market.model import Market, Trade
from kalshilab.retry import RetryPolicy
from kalshilab.units import parse_price, parse_size

__all__ = ["MarketData", "Rest", "RestSettings"]


class Page(Protocol):
    """A page of a listing."""

    @property
    def cursor(self) -> str: ...


T = TypeVar("T")
P = TypeVar("P", bound=Page)
Query = Mapping[str, str | int | bool | None]

READ_RETRY: Final = RetryPolicy(attempts=4, first_wait_s=0.2, longest_wait_s=10.0, jitter=0.5)
"""Retries of a read."""
CONNECT_TIMEOUT_S: Final = 5.0
"""Seconds to obtain a connection."""
READ_TIMEOUT_S: Final = 10.0
"""Seconds between two parts of an answer."""
REQUEST_TIMEOUT_S: Final = 60.0
"""Seconds of a whole request; without it, an answer that arrives byte by byte would never end."""
MAX_CONNECTIONS: Final = 64
"""Open connections of a client at most."""


class RestSettings(HasCredentials, Protocol):
    """The settings that a REST client reads."""

    @property
    def rest_url(self) -> str | None: ...
    @property
    def fast(self) -> bool: ...


def _http(transport: httpx.AsyncBaseTransport | None, tls: ssl.SSLContext | None, fast: bool) -> Http:
    """Return the HTTP client to send with: `aiohttp` if `fast`, else `httpx`."""
    limits: Final = {"connect_timeout_s": CONNECT_TIMEOUT_S, "read_timeout_s": READ_TIMEOUT_S}
    if not fast or transport is not None:
        return HttpxHttp(transport, tls, max_connections=MAX_CONNECTIONS, **limits)
    try:
        from kalshilab.kalshi.rest.transport_aiohttp import FastHttp
    except ImportError as error:
        raise ConfigError("fast", True, FAST_EXTRA) from error
    return FastHttp(tls, max_connections=MAX_CONNECTIONS, **limits)


class Rest:
    """A signed HTTP client for one host and one purpose.

    Args:
        base_url: the address up to and including `/trade-api/v2`.
        signer: signs every call; None for public reads.
        purpose: "data" only reads; "orders" may also write and is allowed for demo and loopback hosts only.
        clock: machine time for signatures, waits and limits; by default the wall clock.
        limits: token buckets to wait for; None sends without waiting, as on loopback.
        transport: an httpx transport for tests; the rules for hosts still apply.
        fast: send with `aiohttp` (extra `fast`) instead of `httpx`.
        seed: seed of the jitter between retries.

    Raises:
        HostRefused: the host is not allowed for the purpose.
        ConfigError: `fast` is requested and the extra is not installed.
    """

    def __init__(
        self,
        base_url: str,
        signer: Signer | None = None,
        *,
        purpose: hosts.Purpose = "data",
        clock: Clock | None = None,
        limits: AccountLimits | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        fast: bool = False,
        seed: int = 0,
    ) -> None:
        self._base = hosts.check(base_url.rstrip("/"), purpose)
        self._url = httpx.URL(self._base)
        self.purpose: Final = purpose
        self._signer, self._clock, self._limits = signer, clock or WallClock(), limits
        self._random = random.Random(seed)
        tls = None if self._url.scheme == "http" else httpx.create_ssl_context(trust_env=False)
        self._http = _http(transport, tls, fast)

    def _guard(self, method: str, url: httpx.URL) -> None:
        """Check the final address of a request immediately before it is sent."""
        if (url.scheme, url.host, url.port) != (self._url.scheme, self._url.host, self._url.port):
            raise HostRefused(
                str(url.copy_with(query=None)), self.purpose, "it is not the host of this client"
            )
        if self.purpose == "data" and method != "GET":
            raise HostRefused(str(url.copy_with(query=None)), "orders", "this client is read-only")

    async def get(
        self, path: str, into: type[T], query: Query | None = None, *, cost: int = COSTS["default"]
    ) -> T:
        """Read; a lost connection, a 5xx or a 429 is retried (`READ_RETRY`)."""
        attempt = 1
        while True:
            try:
                return await self._send("GET", path, into, query=query, cost=cost)
            except (ConnectionFailed, ApiError) as error:
                wait_s = READ_RETRY.wait_s("GET", attempt, error, draw=self._random.random())
                if wait_s is None:
                    raise
            await self._clock.sleep(wait_s)
            attempt += 1

    async def post(
        self, path: str, into: type[T], body: msgspec.Struct, *, cost: int = COSTS["default"]
    ) -> T:
        """Write once; no answer, or a 5xx, raises `OutcomeUnknown`."""
        return await self._send("POST", path, into, body=body, cost=cost)

    async def delete(
        self, path: str, into: type[T], query: Query | None = None, *, cost: int = COSTS["cancel"]
    ) -> T:
        """Delete once; no answer, or a 5xx, raises `OutcomeUnknown`."""
        return await self._send("DELETE", path, into, query=query, cost=cost)

    async def _send(
        self,
        method: str,
        path: str,
        into: type[T],
        *,
        query: Query | None = None,
        body: msgspec.Struct | None = None,
        cost: int,
    ) -> T:
        if self._limits is not None:
            await (self._limits.read if method == "GET" else self._limits.write).acquire(cost)
        url = httpx.URL(self._base + path)
        if query:
            given = {
                k: str(v).lower() if isinstance(v, bool) else v for k, v in query.items() if v is not None
            }
            url = url.copy_merge_params(given)
        headers = {}
        if self._signer is not None:
            headers = self._signer.headers(method, url.path, self._clock.now() // 1000)
        content = None
        if body is not None:
            content = msgspec.json.encode(body)
            headers["Content-Type"] = "application/json"
        shown = path.partition("?")[0]
        try:
            self._guard(method, url)
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                reply = await self._http.request(method, str(url), headers, content)
        except NotSent as error:
            raise ConnectionFailed(self._base, str(error)) from None
        except (NoAnswer, TimeoutError) as error:
            reason = str(error) or f"the answer was not complete within {REQUEST_TIMEOUT_S:g} s"
            if method == "GET":
                raise ApiError(method, shown, 0, "no_answer", reason, retryable=True) from None
            raise OutcomeUnknown(method, shown, 0, reason) from None
        return self._read(method, shown, reply, into)

    def _read(self, method: str, path: str, reply: Reply, into: type[T]) -> T:
        status, content = reply.status, reply.content
        if 300 <= status < 400:
            raise HostRefused(
                hosts.shown(reply.location or self._base), self.purpose, "redirects are not followed"
            )
        if status >= 400:
            raise api_error(method, path, reply)
        if not content and into is type(None):
            return None
        try:
            return msgspec.json.decode(content, type=into)
        except UNREADABLE as error:
            if method == "GET":
                raise ProtocolError(f"{method} {path}: {error}", content) from None
            # The write was accepted, but its result cannot be read: equivalent to no answer.
            raise OutcomeUnknown(method, path, status, f"the answer cannot be parsed ({error})") from None

    async def discard_connections(self) -> None:
        """Use no open connection again, after an answer that belongs to another request."""
        await self._http.discard_connections()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def host(self) -> str:
        """Host of the client."""
        return self._url.host

    def __repr__(self) -> str:
        return f"Rest({self.host}, {self.purpose})"


def segment(name: str, value: str) -> str:
    """Quote a value as exactly one segment of a path.

    Args:
        name: the name of the value, for the error.
        value: the value.

    Raises:
        ConfigError: the value is empty or consists only of dots, which would change the path.
    """
    if not value.strip("."):
        raise ConfigError(
            name, value, "a text that is not empty and does not consist only of dots", "argument"
        )
    return quote(value, safe="")


def base_url(settings: RestSettings) -> str:
    """Return the REST address of the settings, or else of their venue."""
    return settings.rest_url or hosts.defaults(settings.venue)[0]


class MarketData:
    """Client of public data: markets, events, series, order books and trades.

        async with MarketData(settings) as data:
            market = await data.market("KXHIGHNY-26NOV22-B52.5")

    Args:
        settings: `rest_url` or `venue` selects the host; no key is needed.
        clock: machine time; another clock for tests.
        transport: an httpx transport for tests.

    Raises:
        HostRefused: the host belongs neither to the exchange nor to loopback.
    """

    def __init__(
        self,
        settings: RestSettings,
        *,
        clock: Clock | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        clock = clock or WallClock()
        url = base_url(settings)
        limits = None if settings.venue == "embedded" else AccountLimits(clock)
        self._rest = Rest(url, clock=clock, limits=limits, transport=transport, fast=settings.fast)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"MarketData({self._rest.host})"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._rest.aclose()

    async def status(self) -> wire.ExchangeStatusBody:
        """Return whether the exchange and trading are active."""
        return await self._rest.get("/exchange/status", wire.ExchangeStatusBody)

    async def market(self, ticker: str) -> Market:
        """Return one market as of now, without series and category: see `event` and `series`.

        Raises:
            ApiError: 404 for a ticker that is unknown or archived.
        """
        answer = await self._rest.get(f"/markets/{segment('ticker', ticker)}", wire.MarketResponse)
        return answer.market.to_model()

    async def markets(self, **filters: str | int | bool | None) -> list[Market]:
        """Return all markets that match the exchange's filters.

        Args:
            filters: `status="open"`, `series_ticker=`, `tickers="A,B"`, …
        """
        found: list[Market] = []
        async for page in self._pages("/markets", wire.MarketPage, filters, limit=1000):
            found += [m.to_model() for m in page.markets]
        return found

    async def event(self, ticker: str) -> wire.EventBody:
        """Return one event with its nested markets."""
        answer = await self._rest.get(
            f"/events/{segment('ticker', ticker)}", wire.EventResponse, {"with_nested_markets": True}
        )
        return answer.event

    async def events(self, **filters: str | int | bool | None) -> list[wire.EventBody]:
        """Return all events that match the exchange's filters.

        Args:
            filters: `status="open"`, `series_ticker=`, `with_nested_markets=True` to include their markets, …
        """
        found: list[wire.EventBody] = []
        async for page in self._pages("/events", wire.EventPage, filters, limit=200):
            found += page.events
        return found

    async def series(self, ticker: str) -> wire.Series:
        """Return one series with its category and its fee terms."""
        return (await self._rest.get(f"/series/{segment('ticker', ticker)}", wire.SeriesResponse)).series

    async def category(self, event: str) -> tuple[str, str]:
        """Return the series ticker and the category of an event.

        The category belongs to the series; older events also have one.
        """
        answer = (await self._rest.get(f"/events/{segment('event', event)}", wire.EventResponse)).event
        series = await self.series(answer.series_ticker) if answer.series_ticker else None
        return answer.series_ticker, (series.category if series is not None else "") or answer.category

    async def open_markets(self, *, min_close_ts: int = 0) -> list[Market]:
        """Return the markets that are open now, the next to close first.

        Series and category come from each market's event; a missing category is "".

        Args:
            min_close_ts: only markets that close at this instant (microseconds) or later.
        """
        found = []
        for event in await self.events(
            status="open", with_nested_markets=True, min_close_ts=min_close_ts // 1_000_000
        ):
            for nested in event.markets or ():
                # The filter selects events; one of their markets may close earlier, or be closed already.
                market = nested.to_model(series=event.series_ticker, category=event.category)
                if market.status == "active" and market.close_ts >= min_close_ts:
                    found.append(market)
        return sorted(found, key=lambda m: m.close_ts)

    async def orderbook(
        self, ticker: str, depth: int = 0
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Return the YES bids and the NO bids of a market as (price, size), best first.

        Args:
            ticker: the market.
            depth: levels per side; 0 returns all.
        """
        answer = await self._rest.get(
            f"/markets/{segment('ticker', ticker)}/orderbook", wire.OrderbookResponse, {"depth": depth}
        )
        book = answer.orderbook_fp
        yes, no = (
            sorted(((parse_price(p), parse_size(s)) for p, s in side), reverse=True)
            for side in (book.yes_dollars, book.no_dollars)
        )
        return yes, no

    async def trades(self, **filters: str | int | bool | None) -> AsyncIterator[list[Trade]]:
        """Yield public trades page by page, newest first.

        Args:
            filters: `ticker=`, `min_ts=`, `max_ts=` (seconds), …
        """
        async for page in self._pages("/markets/trades", wire.TradePage, filters, limit=1000):
            yield [t.to_model() for t in page.trades]

    # Archived records

    async def cutoff(self) -> HistoricalCutoff:
        """Return the start of the archive as of now; it moves forward with time."""
        return HistoricalCutoff.of(await self._rest.get("/historical/cutoff", wire.CutoffBody))

    async def historical_markets(self, **filters: str | int | bool | None) -> list[Market]:
        """Return all archived markets that match a filter.

        Args:
            filters: one of `tickers="A,B"`, `event_ticker=`, `series_ticker=`.
        """
        found: list[Market] = []
        async for page in self._pages("/historical/markets", wire.MarketPage, filters, limit=1000):
            found += [m.to_model() for m in page.markets]
        return found

    async def historical_trades(self, **filters: str | int | bool | None) -> AsyncIterator[list[Trade]]:
        """Yield archived trades page by page, newest first.

        Args:
            filters: as for `trades`.
        """
        async for page in self._pages("/historical/trades", wire.TradePage, filters, limit=1000):
            yield [t.to_model() for t in page.trades]

    async def trade_columns(
        self, *, historical: bool = False, **filters: str | int | bool | None
    ) -> AsyncIterator[Columns]:
        """Yield public trades page by page, newest first, as columns of the exchange's texts; for bulk reads.

        Args:
            historical: list the archived trades instead of the live ones.
            filters: `ticker=`, `min_ts=`, `max_ts=` (seconds), `limit=`.  The exchange does not document whether the
                bounds are inclusive, so request one second more on each side and filter.
        """
        path = "/historical/trades" if historical else "/markets/trades"
        async for page in self._pages(path, RawTradePage, filters, limit=1000):
            yield page.columns()

    async def all_series(self) -> list[wire.Series]:
        """Return every series with its category and its fee terms as of now."""
        return (await self._rest.get("/series", wire.SeriesList)).series

    async def _pages(self, path: str, into: type[P], filters: Query, *, limit: int) -> AsyncIterator[P]:
        async for page in pages(self._rest, path, into, filters, limit=limit):
            yield page


async def pages(rest: Rest, path: str, into: type[P], filters: Query, *, limit: int) -> AsyncIterator[P]:
    """Yield the pages of a listing, following its cursor to the end.

    Args:
        rest: the client.
        path: the listing.
        into: the type of a page; it has a `cursor`.
        filters: the query.
        limit: rows per page, unless the filters contain a limit.

    Raises:
        ProtocolError: the exchange returned a cursor twice, so the listing would never end.
    """
    seen: set[str] = set()
    cursor: str | None = None
    while True:
        page = await rest.get(path, into, {"limit": limit, **filters, "cursor": cursor})
        yield page
        cursor = page.cursor
        if not cursor:
            return
        if cursor in seen:
            raise ProtocolError(f"{path}: the exchange returned the same cursor twice", cursor)
        seen.add(cursor)
