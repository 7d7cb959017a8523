"""HTTP transport by `httpx`, the default."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final

import httpcore
import httpx

from kalshilab.kalshi.rest.transport import NoAnswer, NotSent, Reply

__all__ = ["HttpxHttp"]

KEEPALIVE_S: Final = 5.0
"""Seconds for which an unused connection is kept."""


class _Connection(httpcore.AsyncHTTPConnection):
    """Connection that is not used again once it has sent more than was asked for.

    The next request would read the surplus, such as an answer that a proxy has sent twice, as its answer.  httpcore looks
    for surplus bytes in the socket only, and not for those that it has read together with the answer before.
    """

    def has_expired(self) -> bool:
        return super().has_expired() or self._has_surplus()

    def _has_surplus(self) -> bool:
        inner = self._connection
        if not isinstance(inner, httpcore.AsyncHTTP11Connection) or not inner.is_idle():
            return False
        return bool(inner._h11_state.trailing_data[0])


class _Pool(httpcore.AsyncConnectionPool):
    def create_connection(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        return _Connection(
            origin=origin,
            ssl_context=self._ssl_context,
            keepalive_expiry=self._keepalive_expiry,
            network_backend=self._network_backend,
        )


class _Transport(httpx.AsyncHTTPTransport):
    def __init__(self, tls: ssl.SSLContext | None, max_connections: int) -> None:
        # Plain HTTP has no certificate; `Rest` never sends to another scheme than its own.
        super().__init__(verify=tls or False, trust_env=False)
        self._pool = _Pool(
            ssl_context=tls,
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEEPALIVE_S,
        )


class HttpxHttp:
    """HTTP client by httpx that sends each request once; no cookies, proxies or redirects.

    Args:
        transport: an httpx transport for tests; None uses the network.
        tls: how to verify the host's certificate; None for plain HTTP.
        max_connections: open connections at most; further requests wait for a free one.
        connect_timeout_s: seconds to obtain a connection.
        read_timeout_s: seconds between two parts of an answer.
    """

    def __init__(
        self,
        transport: httpx.AsyncBaseTransport | None,
        tls: ssl.SSLContext | None,
        *,
        max_connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        def new_client() -> httpx.AsyncClient:
            return httpx.AsyncClient(
                transport=transport or _Transport(tls, max_connections),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                follow_redirects=False,
                trust_env=False,
                timeout=httpx.Timeout(read_timeout_s, connect=connect_timeout_s),
            )

        self._new_client = new_client
        self._client = new_client()
        self._in_flight: Counter[httpx.AsyncClient] = Counter()

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, /
    ) -> Reply:
        client = self._client
        self._in_flight[client] += 1
        try:
            answer = await client.request(method, url, headers=headers, content=content)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotSent(str(error) or type(error).__name__) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # InvalidURL: httpx parses the address of a redirect although it does not follow it.
            raise NoAnswer(str(error) or type(error).__name__) from None
        finally:
            self._in_flight[client] -= 1
            await self._close_unused(client)
        sent = answer.headers
        return Reply(
            answer.status_code, sent.get("location", ""), answer.content, sent.get("retry-after", "")
        )

    async def discard_connections(self) -> None:
        old, self._client = self._client, self._new_client()
        await self._close_unused(old)

    async def _close_unused(self, client: httpx.AsyncClient) -> None:
        if client is not self._client and not self._in_flight[client]:
            del self._in_flight[client]
            await client.aclose()

    async def aclose(self) -> None:
        for client in {self._client, *self._in_flight}:
            await client.aclose()
