"""HTTP transport by `aiohttp` (extra `fast`), for many requests in flight.

httpx is the default transport.  With tens of orders in flight its connection pool takes most of the time, and a
request costs several times as much as in the exchange's own client (`research/benchmarks/orders.py` measures both).
This transport only sends: `kalshilab.kalshi.rest.client.Rest` applies its rules (hosts, redirects, signatures, retries)
to both.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from yarl import URL

from kalshilab.kalshi.rest.transport import NoAnswer, NotSent, Reply

__all__ = ["FastHttp"]


class _Connector(TCPConnector):
    """Connection pool that discards a connection with unsolicited data, which would be read as an answer."""

    async def _get(self, *request: Any) -> Any:
        while True:
            connection = await super()._get(*request)
            if connection is None or connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class FastHttp:
    """HTTP client with persistent connections that sends each request once; no cookies, proxies or redirects.

    Args:
        tls: how to verify the host's certificate; None for plain HTTP.
        max_connections: open connections at most; further requests wait for a free one.
        connect_timeout_s: seconds to obtain a connection.
        read_timeout_s: seconds between two parts of an answer.
    """

    def __init__(
        self,
        tls: ssl.SSLContext | None,
        *,
        max_connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
    ) -> None:
        self._tls, self._max_connections = tls, max_connections
        self._timeout = ClientTimeout(total=None, connect=connect_timeout_s, sock_read=read_timeout_s)
        self._session: ClientSession | None = None
        self._in_flight: Counter[ClientSession] = Counter()
        self._closed = False

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Reply:
        """Send a request and return the answer.

        Args:
            method: the HTTP method.
            url: the address, already percent-encoded.
            headers: the headers to add.
            content: the body; None sends no body.

        Raises:
            NotSent: as in `kalshilab.kalshi.rest.transport`.
            NoAnswer: as in `kalshilab.kalshi.rest.transport`.
            RuntimeError: the client has been closed.
        """
        session = self._session or self._open_session()
        self._in_flight[session] += 1
        try:
            async with session.request(
                method, URL(url, encoded=True), headers=headers, data=content, allow_redirects=False
            ) as answer:
                sent = answer.headers
                return Reply(
                    answer.status, sent.get("Location", ""), await answer.read(), sent.get("Retry-After", "")
                )
        except (ClientConnectorError, ConnectionTimeoutError) as error:
            raise NotSent(str(error) or type(error).__name__) from None
        except (ClientError, TimeoutError) as error:
            raise NoAnswer(str(error) or type(error).__name__) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                # Closing cancels the requests that wait for a connection, although their tasks were not cancelled.
                raise NotSent("the client has been closed") from None
            raise
        finally:
            self._in_flight[session] -= 1
            await self._close_unused(session)

    def _open_session(self) -> ClientSession:
        if self._closed:
            raise RuntimeError("the client has been closed")
        # Opened by the first request, because a session belongs to the running loop.
        self._session = ClientSession(
            connector=_Connector(limit=self._max_connections, ssl=True if self._tls is None else self._tls),
            cookie_jar=DummyCookieJar(),
            timeout=self._timeout,
            headers={"User-Agent": "kalshilab"},
        )
        # A DELETE sent twice would report that the order does not exist; `Rest` retries reads itself.
        self._session._retry_connection = False
        return self._session

    async def discard_connections(self) -> None:
        """Use no open connection again; requests in flight keep theirs until they are answered."""
        old, self._session = self._session, None
        if old is not None:
            await self._close_unused(old)

    async def _close_unused(self, session: ClientSession) -> None:
        if session is not self._session and not self._in_flight[session]:
            del self._in_flight[session]
            await session.close()

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        for session in {*self._in_flight, *([] if self._session is None else [self._session])}:
            await session.close()
