"""The REST side without a server: a request in, a status and a body out.

Public reads need no signature; everything about the account does, and so does the WebSocket handshake.
Errors have the shapes the exchange gives them: nested for most, flat for a body that is not the JSON it
should be, `{"msg": …}` for a query that is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from kalshilab.exchange.core import Exchange
from kalshilab.exchange.orders.order_desk import Refused
from kalshilab.exchange.rest.exchange_info import PublicRoutes
from kalshilab.exchange.rest.params import Answer, BadQuery, Request, encode, nested
from kalshilab.exchange.rest.portfolio import PortfolioRoutes
from kalshilab.exchange.rest.rate_limits import TOO_MANY, Limits
from kalshilab.exchange.stream.format_2026_01 import JANUARY, january_rest
from kalshilab.kalshi.auth import KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER, Verifier
from kalshilab.kalshi.wire.base import REST_PATH, UNREADABLE

__all__ = ["WINDOW_MS", "Answer", "Request", "RestSide"]

WINDOW_MS: Final = 20_000
"""How far a signature's time may be from ours, either way."""

UNLIMITED: Final = "prestige"
"""The tier an account is said to have where nothing is counted."""


class RestSide:
    """Answers REST requests on an exchange.

    Args:
        keys: verifiers by key id.
        now_ms: machine time in milliseconds, for the signature window.
        window_ms: how far a signature's time may be from that, either way.
        limits: the account's token buckets; None: as many requests as come, and the highest tier is what the
            account is told.
    """

    def __init__(
        self,
        exchange: Exchange,
        keys: Mapping[str, Verifier],
        now_ms: Callable[[], int],
        *,
        window_ms: int = WINDOW_MS,
        limits: Limits | None = None,
    ) -> None:
        self._keys, self._now_ms, self._window_ms, self._limits = keys, now_ms, window_ms, limits
        tier = UNLIMITED if limits is None else limits.tier
        self._form = exchange.hub.form
        self._sides = (PublicRoutes(exchange), PortfolioRoutes(exchange, tier))

    # Requests

    def answer(self, request: Request) -> Answer:
        """Answer one request; never raises for what a client sends."""
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
        """None if the request is signed by a known key at this time, else the 401."""
        headers = request.headers
        if not headers.get(SIGNATURE_HEADER) or not headers.get(KEY_HEADER):
            return nested(401, "signature_is_missing_from_headers", "signature is missing from headers")
        stamp = headers.get(TIME_HEADER, "")
        # Milliseconds have 13 digits; the longest are not worth reading, and not every digit is ASCII.
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
        for side in self._sides:
            found = side.answer(request, parts)
            if found is not None:
                return found if self._form != JANUARY else found._replace(body=january_rest(found.body))
        return nested(404, "not_found", "no such path")
