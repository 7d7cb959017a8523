"""REST: one transport, typed answers, and reads of public data.

`Rest` is the only place that sends HTTP.  It checks the host when it is made *and* the final address of every
request, follows no redirect, takes no proxy from the environment for orders, and tells four kinds of trouble
apart: the exchange's refusals (`ApiError`), too many calls (`RateLimited`), a host that could not be reached
(`ConnectionFailed`: nothing was sent), and a write whose fate is not known (`OutcomeUnknown`).  Reads are
tried again; writes never are.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar
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
    RateLimited,
)
from kalshilab.kalshi import hosts
from kalshilab.kalshi.auth import HasCredentials, Signer
from kalshilab.kalshi.rest.history import Columns, HistoricalCutoff, RawTradePage
from kalshilab.kalshi.rest.rate_limits import COSTS, AccountLimits
from kalshilab.kalshi.rest.transport import FAST_EXTRA, NoAnswer, NotSent, Reply
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import UNREADABLE
from kalshilab.market.model import Market, Trade
from kalshilab.retry import RetryPolicy
from kalshilab.units import parse_price, parse_size

__all__ = ["MarketData", "Rest", "RestSettings"]

T = TypeVar("T")
Query = Mapping[str, str | int | bool | None]

READ_RETRY: Final = RetryPolicy(attempts=4, first_wait_s=0.2, longest_wait_s=10.0, jitter=0.5)
"""Retries of a read."""
CONNECTING: Final = 5.0
"""Seconds to come by a connection."""
ANSWERING: Final = 10.0
"""Seconds between two pieces of an answer."""
WHOLE: Final = 60.0
"""Seconds that a request may take in all, or an answer that drips would never end."""
CONNECTIONS: Final = 64


class RestSettings(HasCredentials, Protocol):
    """What a REST client reads of `kalshilab.config.settings.Settings`."""

    @property
    def rest_url(self) -> str | None: ...
    @property
    def fast(self) -> bool: ...


class Http(Protocol):
    """What sends requests.  It follows no redirect, keeps no cookie, and heeds no proxy of the environment."""

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, /
    ) -> Reply: ...

    async def aclose(self) -> None: ...


class _Httpx:
    """Requests by httpx."""

    def __init__(self, transport: httpx.AsyncBaseTransport | None, tls: ssl.SSLContext | None) -> None:
        self._client = httpx.AsyncClient(
            transport=transport,
            # Plain HTTP checks no certificate; `Rest` sends to no other scheme than its own.
            verify=tls or False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(ANSWERING, connect=CONNECTING),
            limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        )

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, /
    ) -> Reply:
        try:
            answer = await self._client.request(method, url, headers=headers, content=content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(str(error) or type(error).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # An address that is none: that of a redirect, which is read although it is not followed.
            raise NoAnswer(str(error) or type(error).__name__) from None
        sent = answer.headers
        return Reply(
            answer.status_code, sent.get("location", ""), answer.content, sent.get("retry-after", "")
        )

    async def aclose(self) -> None:
        await self._client.aclose()


def _fast_http(tls: ssl.SSLContext | None) -> Http:
    try:
        from kalshilab.kalshi.rest.transport_aiohttp import FastHttp
    except ImportError as error:
        raise ConfigError("fast", True, FAST_EXTRA) from error
    return FastHttp(tls, most=CONNECTIONS, connecting=CONNECTING, answering=ANSWERING)


class Rest:
    """A signed HTTP client for one host and one purpose.

    Args:
        base_url: up to and including `/trade-api/v2`.
        signer: signs every call; None for public reads.
        purpose: "data" can only read; "orders" may write and is refused for any host but demo and loopback.
        clock: machine time for signatures, waiting and limits.
        limits: token buckets to wait for; None on loopback.
        transport: another httpx transport, for tests; the host rule holds all the same.
        fast: send with `aiohttp` (extra `fast`) instead of `httpx`.

    Raises:
        HostRefused: the host is not allowed for the purpose.
        ConfigError: `fast`, and the extra is not installed.
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
        self._http: Http = _fast_http(tls) if fast and transport is None else _Httpx(transport, tls)

    def _guard(self, method: str, url: httpx.URL) -> None:
        """The last look before anything is sent: the request's own address, as it will be used."""
        if (url.scheme, url.host, url.port) != (self._url.scheme, self._url.host, self._url.port):
            raise HostRefused(
                str(url.copy_with(query=None)), self.purpose, "not the host this client was made for"
            )
        if self.purpose == "data" and method != "GET":
            raise HostRefused(str(url.copy_with(query=None)), "orders", "this client only reads")

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
        """Write, once.  No answer, or a 5xx, is `OutcomeUnknown`."""
        return await self._send("POST", path, into, body=body, cost=cost)

    async def delete(
        self, path: str, into: type[T], query: Query | None = None, *, cost: int = COSTS["cancel"]
    ) -> T:
        """Delete, once.  No answer, or a 5xx, is `OutcomeUnknown`."""
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
            async with asyncio.timeout(WHOLE):
                reply = await self._http.request(method, str(url), headers, content)
        except NotSent as error:
            raise ConnectionFailed(self._base, str(error)) from None
        except (NoAnswer, TimeoutError) as error:
            why = str(error) or f"not whole within {WHOLE:g} s"
            if method == "GET":
                raise ApiError(method, shown, 0, "no_answer", why, retryable=True) from None
            raise OutcomeUnknown(method, shown, 0, why) from None
        return self._read(method, shown, reply, into)

    def _read(self, method: str, path: str, reply: Reply, into: type[T]) -> T:
        status, content = reply.status, reply.content
        if 300 <= status < 400:
            raise HostRefused(
                hosts.shown(reply.location or self._base), self.purpose, "redirects are not followed"
            )
        if status >= 400:
            raise _error(method, path, status, content, _seconds(reply.retry_after))
        if not content and into is type(None):
            return None
        try:
            return msgspec.json.decode(content, type=into)
        except UNREADABLE as error:
            if method == "GET":
                raise ProtocolError(f"{method} {path}: {error}", content) from None
            # It says that the write was done and not what: as good as no answer.
            raise OutcomeUnknown(method, path, status, f"an answer that cannot be read ({error})") from None

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
        """The host it talks to."""
        return self._url.host

    def __repr__(self) -> str:
        return f"Rest({self.host}, {self.purpose})"


def _error(
    method: str, path: str, status: int, content: bytes, retry_after_s: float | None = None
) -> ApiError:
    """Return the error of an answer; the exchange uses four shapes of error bodies."""
    try:
        body = msgspec.json.decode(content, type=wire.ErrorBody)
    except UNREADABLE:
        body = wire.ErrorBody(message=content[:200].decode("utf-8", "replace"))
    if status == 429:
        return RateLimited(method, path, retry_after_s=retry_after_s)
    nested = body.error if isinstance(body.error, dict) else {}
    code = _first_text(nested.get("code"), body.code, body.error if isinstance(body.error, str) else None)
    message = _first_text(nested.get("message"), body.message, body.msg)
    details = _first_text(nested.get("details"), body.details)
    if status >= 500 and method != "GET":
        return OutcomeUnknown(method, path, status, message or code or "server error")
    transient = method == "GET" and status >= 500
    return ApiError(
        method, path, status, code, message, details, retryable=transient, retry_after_s=retry_after_s
    )


def _seconds(retry_after: str) -> float | None:
    """Return the seconds of a `Retry-After` header; None where it is absent or a date."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None


def _first_text(*candidates: object) -> str:
    """Return the first candidate that is not empty, as text: error fields are not always strings."""
    return next((str(c) for c in candidates if c), "")


def segment(name: str, value: str) -> str:
    """A value as one piece of a path, unable to become more than that.

    Raises:
        ConfigError: empty, or made of dots only, which would name another path.
    """
    if not value.strip("."):
        raise ConfigError(name, value, "a text that is more than dots", "argument")
    return quote(value, safe="")


def base_url(settings: RestSettings) -> str:
    """The REST address of settings: their own, or the venue's."""
    return settings.rest_url or hosts.defaults(settings.venue)[0]


class MarketData:
    """Public reads: markets, events, series, books, trades.

        async with MarketData(settings) as data:
            market = await data.market("KXHIGHNY-26NOV22-B52.5")

    Args:
        settings: `rest_url` or `venue` names the host; a key is not needed.
        clock, transport: for tests.

    Raises:
        HostRefused: the host is neither the exchange's nor loopback.
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
        """Whether the exchange and trading are active."""
        return await self._rest.get("/exchange/status", wire.ExchangeStatusBody)

    async def market(self, ticker: str) -> Market:
        """One market, as of now.  Series and category stand on its event: see `event` and `series`.

        Raises:
            ApiError: 404 for a ticker that is unknown or archived.
        """
        answer = await self._rest.get(f"/markets/{segment('ticker', ticker)}", wire.MarketResponse)
        return answer.market.to_model()

    async def markets(self, **filters: str | int | bool | None) -> list[Market]:
        """All markets that match the exchange's filters (`status="open"`, `series_ticker=`, `tickers="A,B"`, …)."""
        found: list[Market] = []
        async for page in self._pages("/markets", wire.MarketPage, filters, limit=1000):
            found += [m.to_model() for m in page.markets]
        return found

    async def event(self, ticker: str) -> wire.EventBody:
        """One event with its nested markets."""
        answer = await self._rest.get(
            f"/events/{segment('ticker', ticker)}", wire.EventResponse, {"with_nested_markets": True}
        )
        return answer.event

    async def events(self, **filters: str | int | bool | None) -> list[wire.EventBody]:
        """All events that match the exchange's filters; `with_nested_markets=True` brings their markets."""
        found: list[wire.EventBody] = []
        async for page in self._pages("/events", wire.EventPage, filters, limit=200):
            found += page.events
        return found

    async def series(self, ticker: str) -> wire.Series:
        """One series: its category and its fees."""
        return (await self._rest.get(f"/series/{segment('ticker', ticker)}", wire.SeriesResponse)).series

    async def category(self, event: str) -> tuple[str, str]:
        """Series ticker and category of an event; the category stands on the series, and older events name it too."""
        answer = (await self._rest.get(f"/events/{segment('event', event)}", wire.EventResponse)).event
        series = await self.series(answer.series_ticker) if answer.series_ticker else None
        return answer.series_ticker, (series.category if series is not None else "") or answer.category

    async def open_markets(self, *, min_close_ts: int = 0) -> list[Market]:
        """Markets open now that close at `min_close_ts` (microseconds) or later, soonest to close first.

        Series and category come from each market's event; a category the event does not name is left empty.
        """
        found = []
        for event in await self.events(
            status="open", with_nested_markets=True, min_close_ts=min_close_ts // 1_000_000
        ):
            for nested in event.markets or ():
                # The filter picks events; a single market of one may close earlier, or be closed already.
                market = nested.to_model(series=event.series_ticker, category=event.category)
                if market.status == "active" and market.close_ts >= min_close_ts:
                    found.append(market)
        return sorted(found, key=lambda m: m.close_ts)

    async def orderbook(
        self, ticker: str, depth: int = 0
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """YES bids and NO bids of a market, best first, in price and size units; `depth` 0 is all of them."""
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
        """Public prints page by page, newest first, as the exchange lists them (`ticker=`, `min_ts=`, `max_ts=`)."""
        async for page in self._pages("/markets/trades", wire.TradePage, filters, limit=1000):
            yield [t.to_model() for t in page.trades]

    # History: what the live listings no longer have.

    async def cutoff(self) -> HistoricalCutoff:
        """Where the archive begins, as of now; it moves forward with time."""
        return HistoricalCutoff.of(await self._rest.get("/historical/cutoff", wire.CutoffBody))

    async def historical_markets(self, **filters: str | int | bool | None) -> list[Market]:
        """All archived markets that match one of `tickers="A,B"`, `event_ticker=`, `series_ticker=`."""
        found: list[Market] = []
        async for page in self._pages("/historical/markets", wire.MarketPage, filters, limit=1000):
            found += [m.to_model() for m in page.markets]
        return found

    async def historical_trades(self, **filters: str | int | bool | None) -> AsyncIterator[list[Trade]]:
        """Archived prints page by page, newest first; the filters of `trades`."""
        async for page in self._pages("/historical/trades", wire.TradePage, filters, limit=1000):
            yield [t.to_model() for t in page.trades]

    async def trade_columns(
        self, *, historical: bool = False, **filters: str | int | bool | None
    ) -> AsyncIterator[Columns]:
        """Public prints page by page, newest first, as columns of the exchange's texts; for many at a time.

        Args:
            historical: the archived ones instead of the live ones.
            filters: `ticker=`, `min_ts=`, `max_ts=` (seconds; whether the ends belong to it, the exchange's
                documents do not say: ask for a second more and filter), `limit=`.
        """
        path = "/historical/trades" if historical else "/markets/trades"
        async for page in self._pages(path, RawTradePage, filters, limit=1000):
            yield page.columns()

    async def all_series(self) -> list[wire.Series]:
        """Every series: its category and its fees as they are now."""
        return (await self._rest.get("/series", wire.SeriesList)).series

    async def _pages(self, path: str, into: type[T], filters: Query, *, limit: int) -> AsyncIterator[T]:
        async for page in pages(self._rest, path, into, filters, limit=limit):
            yield page


async def pages(rest: Rest, path: str, into: type[T], filters: Query, *, limit: int) -> AsyncIterator[T]:
    """The pages of a listing, following its cursor to the end.

    Raises:
        ProtocolError: the exchange hands out a cursor twice, which would never end.
    """
    seen: set[str] = set()
    cursor: str | None = None
    while True:
        page: Any = await rest.get(path, into, {"limit": limit, **filters, "cursor": cursor})
        yield page
        cursor = page.cursor
        if not cursor:
            return
        if cursor in seen:
            raise ProtocolError(f"{path}: cursor came twice", cursor)
        seen.add(cursor)
