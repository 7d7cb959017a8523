"""What a request came to: an answer, or one of the two kinds of trouble that an order must tell apart."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["FAST_EXTRA", "NoAnswer", "NotSent", "Reply"]

FAST_EXTRA: Final = "False, unless the extra is installed: pip install 'kalshilab[fast]'"
"""What is said where `fast` is asked for and its packages are not there."""


class NotSent(Exception):
    """Nothing of the request was sent: nobody was reached, or no connection came free."""


class NoAnswer(Exception):
    """The request may have been sent; no answer that can be read has come."""


class Reply(NamedTuple):
    """An answer: status, the address it redirects to or an empty text, and its body."""

    status: int
    location: str
    content: bytes
