"""Errors of REST answers: the exception that a status and an error body stand for."""

from __future__ import annotations

import msgspec

from kalshilab.errors import ApiError, OutcomeUnknown, RateLimited
from kalshilab.kalshi.rest.transport import Reply
from kalshilab.kalshi.wire import rest as wire
from kalshilab.kalshi.wire.base import UNREADABLE

__all__ = ["api_error"]


def api_error(method: str, path: str, reply: Reply) -> ApiError:
    """Return the error of an answer; the exchange uses four shapes of error bodies.

    Args:
        method: the HTTP method of the request.
        path: its path, without the query string.
        reply: the answer, with a status of 400 or more.
    """
    status, wait_s = reply.status, _seconds(reply.retry_after)
    if status == 429:
        return RateLimited(method, path, retry_after_s=wait_s)
    try:
        body = msgspec.json.decode(reply.content, type=wire.ErrorBody)
    except UNREADABLE:
        body = wire.ErrorBody(message=reply.content[:200].decode("utf-8", "replace"))
    nested = body.error if isinstance(body.error, dict) else {}
    code = _first_text(nested.get("code"), body.code, body.error if isinstance(body.error, str) else None)
    message = _first_text(nested.get("message"), body.message, body.msg)
    details = _first_text(nested.get("details"), body.details)
    if status >= 500 and method != "GET":
        return OutcomeUnknown(method, path, status, message or code or "server error")
    transient = method == "GET" and status >= 500
    return ApiError(method, path, status, code, message, details, retryable=transient, retry_after_s=wait_s)


def _seconds(retry_after: str) -> float | None:
    """Return the seconds of a `Retry-After` header; None where it is absent or a date."""
    return float(retry_after) if retry_after.isascii() and retry_after.isdigit() else None


def _first_text(*candidates: object) -> str:
    """Return the first candidate that is not empty, as text: error fields are not always strings."""
    return next((str(c) for c in candidates if c), "")
