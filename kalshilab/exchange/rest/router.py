"""REST routing without a server: a request in, a status and a body out.

Public reads need no signature. Requests about the account need one, and so does the WebSocket handshake. Errors have
the exchange's shapes: nested for most, flat for a body that is not the expected JSON, `{"msg": …}` for an invalid
query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders.order_desk import Refused
from kalshilab.exchange.rest.exchange_info import PublicRoutes
from kalshilab.exchange.rest.params import Answer, BadQuery, Request, encode, nested
from kalshilab.exchange.rest.portfolio import PortfolioRoutes
from kalshilab.exchange.rest.rate_limits import TOO_MANY, RateLimiter
from kalshilab.exchange.stream.format_2026_01 import JANUARY, january_rest
from kalshilab.kalshi.auth import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, Verifier
from kalshilab.kalshi.wire.base import REST_PATH, UNREADABLE

__all__ = ["WINDOW_MS", "Answer", "Request", "RestRouter"]

WINDOW_MS: Final = 20_000
"""Maximum milliseconds between a signature's time and the machine's, in either direction."""

UNLIMITED_TIER: Final = "prestige"
"""Tier that `GET /account/limits` reports when rate limits are disabled."""


class RestRouter:
    """Router of REST requests to an exchange.

    Args:
        exchange: the exchange to serve.
        keys: verifiers by key id.
        now_ms: returns machine time in milliseconds, for the signature window.
        window_ms: maximum milliseconds between a signature's time and `now_ms()`, in either direction.
        limits: token buckets of the account; None disables rate limits and reports the highest tier.
    """

    def __init__(
        self,
        exchange: Exchange,
        keys: Mapping[str, Verifier],
        now_ms: Callable[[], int],
        *,
        window_ms: int = WINDOW_MS,
        limits: RateLimiter | None = None,
    ) -> None:
        self._keys, self._now_ms, self._window_ms, self._limits = keys, now_ms, window_ms, limits
        tier = UNLIMITED_TIER if limits is None else limits.tier
        self._form = exchange.hub.form
        self._routes = (PublicRoutes(exchange), PortfolioRoutes(exchange, tier))

    # Requests

    def answer(self, request: Request) -> Answer:
        """Answer one request; an invalid request gets an error answer and never raises."""
        if not request.path.startswith(REST_PATH + "/"):
            return nested(404, "not_found", "no such path")
        parts = request.path[len(REST_PATH) + 1 :].rstrip("/").split("/")
        public = (
            parts[0] in ("exchange", "series", "events", "markets")
            or (parts[0] == "historical" and parts[1:2] in (["cutoff"], ["trades"], ["markets"]))
            or parts == ["account", "endpoint_costs"]
        )
        if not public:
            refusal = self.check_signature(request)
            if refusal is not None:
                return refusal
        if self._limits is not None and not self._limits.admits(request):
            return TOO_MANY
        try:
            return self._route(request, parts)
        except Refused as error:
            return nested(error.status, error.code, error.message, error.details)
        except BadQuery as error:
            return Answer(400, encode({"msg": str(error)}))
        except UNREADABLE as error:
            return Answer(
                400, encode({"code": "bad_request", "message": "bad request", "details": str(error)})
            )

    def check_signature(self, request: Request) -> Answer | None:
        """Return the 401 answer to a missing or invalid signature; None if the signature is valid."""
        headers = request.headers
        if not headers.get(SIGNATURE_HEADER) or not headers.get(KEY_HEADER):
            return nested(401, "signature_is_missing_from_headers", "signature is missing from headers")
        stamp = headers.get(TIME_HEADER, "")
        # Milliseconds have 13 digits; int() accepts non-ASCII digits and is slow on very long text.
        plain = stamp.isascii() and stamp.isdigit() and len(stamp) <= 20
        if not plain or abs(int(stamp) - self._now_ms()) > self._window_ms:
            return nested(401, "header_timestamp_expired", "header timestamp expired")
        verifier = self._keys.get(headers[KEY_HEADER])
        if verifier is None:
            return nested(401, "authentication_error", "authentication_error", "NOT_FOUND")
        if not verifier.verify(headers, request.method, request.path):
            return nested(401, "authentication_error", "authentication_error", "INCORRECT_API_KEY_SIGNATURE")
        return None

    def _route(self, request: Request, parts: Sequence[str]) -> Answer:
        for routes in self._routes:
            answer = routes.answer(request, parts)
            if answer is not None:
                return answer if self._form != JANUARY else answer._replace(body=january_rest(answer.body))
        return nested(404, "not_found", "no such path")
