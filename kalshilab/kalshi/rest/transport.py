"""Result of an HTTP request: `Reply`, `NotSent` or `NoAnswer`.

The two exceptions differ in what an order needs to know: after `NotSent` it cannot have arrived, after `NoAnswer` it
may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

__all__ = ["FAST_EXTRA", "Http", "NoAnswer", "NotSent", "Reply"]

FAST_EXTRA: Final = "False without the packages of the extra 'fast' (pip install 'kalshilab[fast]')"
"""The values allowed for `fast`, as an error states them where the packages are missing."""


class NotSent(Exception):
    """No part of the request was sent: the host was not reached, or no connection became free."""


class NoAnswer(Exception):
    """The request may have been sent; no readable answer arrived."""


class Reply(NamedTuple):
    """An HTTP answer.

    Attributes:
        status: HTTP status.
        location: the address of a redirect, or "".
        content: the body.
        retry_after: the header `Retry-After` as sent, or "".
    """

    status: int
    location: str
    content: bytes
    retry_after: str = ""


class Http(Protocol):
    """An HTTP transport that follows no redirect, stores no cookie and ignores the environment's proxies."""

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, /
    ) -> Reply: ...

    async def discard_connections(self) -> None:
        """Use no open connection again: one of them has given an answer that belongs to another request.

        Requests in flight keep theirs until they are answered.
        """
        ...

    async def aclose(self) -> None: ...
