"""HTTP transport by `httpx`, the default."""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from kalshilab.kalshi.rest.transport import NoAnswer, NotSent, Reply

__all__ = ["HttpxHttp"]


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
                transport=transport,
                # Plain HTTP has no certificate; `Rest` never sends to another scheme than its own.
                verify=tls or False,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                follow_redirects=False,
                trust_env=False,
                timeout=httpx.Timeout(read_timeout_s, connect=connect_timeout_s),
                limits=httpx.Limits(
                    max_connections=max_connections, max_keepalive_connections=max_connections
                ),
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
