"""REST by `aiohttp` (extra `fast`), for many requests in flight.

httpx is what REST stands on.  With tens of orders in flight its pool of connections takes most of the time, and a
request costs it several times what the exchange's own client needs (`research/benchmarks/orders.py` measures both).
`kalshilab.kalshi.rest.client.Rest` keeps every rule of its own (hosts, redirects, signatures, what is tried again); this is
only how a request goes out.
"""

from __future__ import annotations

import asyncio
import ssl
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
    """Connections, of which one that said something unasked is not used again: it would be taken for an answer."""

    async def _get(self, *asked: Any) -> Any:
        while True:
            kept = await super()._get(*asked)
            if kept is None or kept.protocol is None or not kept.protocol.should_close:
                return kept
            kept.close()


class FastHttp:
    """Connections that are kept, over which requests go, each once.  No cookies, no proxies, no redirects.

    Args:
        tls: how to check the host's certificate; None for plain HTTP.
        most: connections at a time; who comes when all are in use waits.
        connecting: seconds to come by a connection.
        answering: seconds between two pieces of an answer.
    """

    def __init__(self, tls: ssl.SSLContext | None, *, most: int, connecting: float, answering: float) -> None:
        self._tls, self._most = tls, most
        self._timeout = ClientTimeout(total=None, connect=connecting, sock_read=answering)
        self._session: ClientSession | None = None
        self._closed = False

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None
    ) -> Reply:
        """Send a request; `url` is sent as it is written, percent-encoded already.

        Raises:
            NotSent, NoAnswer: see `kalshilab.kalshi.rest.transport`.
            RuntimeError: closed before.
        """
        session = self._session or self._opened()
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
                # Closing cancels those that wait for a connection, though nobody cancelled their task.
                raise NotSent("the client was closed") from None
            raise

    def _opened(self) -> ClientSession:
        if self._closed:
            raise RuntimeError("the client has been closed")
        # Made at the first request: a session belongs to the running loop.
        self._session = ClientSession(
            connector=_Connector(limit=self._most, ssl=True if self._tls is None else self._tls),
            cookie_jar=DummyCookieJar(),
            timeout=self._timeout,
            headers={"User-Agent": "kalshilab"},
        )
        # A DELETE that went out twice would be told that there is nothing to delete; reads are tried again by `Rest`.
        self._session._retry_connection = False
        return self._session

    async def aclose(self) -> None:
        """Close the connections."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
