"""Which host may be used for what.

Orders go to Kalshi's demo environment and to this machine (loopback), nowhere else.  Production is read only:
the order client cannot be made for it and would refuse to send if it were.  The rule is a list of what is
allowed, held against the *parsed* address; whatever does not match it exactly (another port, user info, a
trailing dot, a number in disguise, another letter that looks the same) is refused, known or not.
"""

from __future__ import annotations

import ipaddress
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

from kalshilab.errors import ConfigError, HostRefused
from kalshilab.kalshi.wire.base import REST_PATH, WS_PATH

__all__ = ["DEFAULTS", "PRODUCTION", "Purpose", "check", "defaults", "shown"]

Purpose = Literal["orders", "data"]

_DEMO_REST: Final = frozenset({"external-api.demo.kalshi.co", "demo-api.kalshi.co"})
_DEMO_WS: Final = frozenset({"external-api-ws.demo.kalshi.co", "demo-api.kalshi.co"})
_PRODUCTION_REST: Final = frozenset({"external-api.kalshi.com", "api.elections.kalshi.com"})
_PRODUCTION_WS: Final = frozenset({"external-api-ws.kalshi.com", "api.elections.kalshi.com"})

_ALLOWED: Final[dict[Purpose, dict[str, frozenset[str]]]] = {
    "orders": {"https": _DEMO_REST, "wss": _DEMO_WS},
    "data": {"https": _DEMO_REST | _PRODUCTION_REST, "wss": _DEMO_WS | _PRODUCTION_WS},
}
_LOOPBACK_SCHEMES: Final = frozenset({"http", "https", "ws", "wss"})

PRODUCTION: Final = (
    f"https://external-api.kalshi.com{REST_PATH}",
    f"wss://external-api-ws.kalshi.com{WS_PATH}",
)
"""Where public data are read from; no order can go there."""

DEFAULTS: Final = {
    "demo": (
        f"https://external-api.demo.kalshi.co{REST_PATH}",
        f"wss://external-api-ws.demo.kalshi.co{WS_PATH}",
    ),
    "shadow": PRODUCTION,
}
"""REST and WebSocket addresses of a venue; the shadow venue only reads from its."""


def defaults(venue: str) -> tuple[str, str]:
    """The REST and WebSocket addresses of a venue.

    Raises:
        ConfigError: a venue without addresses of its own: the embedded one gets its from `serve`.
    """
    try:
        return DEFAULTS[venue]
    except KeyError:
        raise ConfigError(
            "rest_url", None, f"an address: venue {venue!r} has none until PaperSession or kl.serve starts it"
        ) from None


def check(url: str, purpose: Purpose) -> str:
    """`url` in its one plain form, if its host may be used for `purpose`.

    Loopback (127.0.0.0/8, ::1, localhost) may be used for everything, at any port; the exchange's own hosts
    only by https or wss at their standard port.

    >>> check("http://127.0.0.1:8080/trade-api/v2", "orders")
    'http://127.0.0.1:8080/trade-api/v2'
    >>> check("https://api.elections.kalshi.com/trade-api/v2", "orders")
    Traceback (most recent call last):
    kalshilab.errors.HostRefused: https://api.elections.kalshi.com/trade-api/v2 refused for orders: production is read-only here

    Raises:
        HostRefused: anything else.
    """
    # Before parsing: parsers drop or fold these, and what is sent must be what was checked.
    if not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise HostRefused(shown(url), purpose, "the address has characters that do not belong there")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise HostRefused(shown(url), purpose, f"not an address ({error})") from None
    if "@" in parts.netloc:
        raise HostRefused(shown(url), purpose, "user info is not allowed in an address")
    if parts.query or parts.fragment:
        raise HostRefused(shown(url), purpose, "a base address has no query and no fragment")
    if _is_loopback(host) and parts.scheme in _LOOPBACK_SCHEMES:
        return parts.geturl()
    standard = port is None and not parts.netloc.endswith(":")
    allowed = _ALLOWED[purpose].get(parts.scheme, frozenset())
    if parts.netloc in allowed and standard:
        return parts.geturl()
    raise HostRefused(shown(url), purpose, _why(parts, purpose, host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        # Strict: no shorthand such as 127.1, no decimal or octal numbers, no zone.
        return ipaddress.ip_address(host).is_loopback and "%" not in host
    except ValueError:
        return False


def _why(parts: SplitResult, purpose: Purpose, host: str) -> str:
    bare = host.rstrip(".").lower()
    if purpose == "orders" and bare.endswith("kalshi.com"):
        return "production is read-only here"
    if bare in _DEMO_REST | _DEMO_WS | _PRODUCTION_REST | _PRODUCTION_WS:
        return "the exchange's hosts are used by https or wss, spelt plainly, at their standard port"
    names = sorted(_ALLOWED[purpose]["https"] | _ALLOWED[purpose]["wss"])
    return f"allowed are loopback and {', '.join(names)}"


def shown(url: str) -> str:
    """An address as an error may repeat it: without user info, in plain letters."""
    head, separator, tail = url.partition("://")
    if not separator:
        head, tail = "", url
    netloc, slash, rest = tail.partition("/")
    return f"{head}{separator}{netloc.rpartition('@')[2]}{slash}{rest}".encode(
        "ascii", "backslashreplace"
    ).decode()
