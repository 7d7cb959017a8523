"""Hosts that may be used for data, and for orders.

Orders go to Kalshi's demo environment and to this machine (loopback), nowhere else.  Production is read only: an order
client cannot be constructed for it and would refuse to send to it.  The rule is an allowlist that is compared with the
*parsed* address.  An address that does not match exactly is refused: another port, user info, a trailing dot, a
disguised number, or a letter that looks the same.
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
"""Addresses of public data, REST and WebSocket; orders cannot be sent there."""

DEFAULTS: Final = {
    "demo": (
        f"https://external-api.demo.kalshi.co{REST_PATH}",
        f"wss://external-api-ws.demo.kalshi.co{WS_PATH}",
    ),
    "shadow": PRODUCTION,
}
"""REST and WebSocket addresses of each venue; the shadow venue only reads."""


def defaults(venue: str) -> tuple[str, str]:
    """Return the REST and WebSocket addresses of a venue.

    Raises:
        ConfigError: the venue has no fixed address; `serve` assigns those of the embedded venue.
    """
    try:
        return DEFAULTS[venue]
    except KeyError:
        raise ConfigError(
            "rest_url",
            None,
            f"an address, because venue {venue!r} has no address until PaperSession or kl.serve starts it",
        ) from None


def check(url: str, purpose: Purpose) -> str:
    """Return `url` in its normal form if its host may be used for `purpose`.

    Loopback (127.0.0.0/8, ::1, localhost) is allowed for every purpose, on any port.  The exchange's hosts are allowed
    only by https or wss on the standard port.

    Args:
        url: a base address.
        purpose: "orders" or "data".

    >>> check("http://127.0.0.1:8080/trade-api/v2", "orders")
    'http://127.0.0.1:8080/trade-api/v2'
    >>> check("https://api.elections.kalshi.com/trade-api/v2", "orders")
    Traceback (most recent call last):
    kalshilab.errors.HostRefused: https://api.elections.kalshi.com/trade-api/v2 refused for orders: production is read-only here

    Raises:
        HostRefused: any other address.
    """
    # Before parsing: parsers remove or fold these characters, and the checked address must be the one in use.
    if not url.isascii() or any(c <= " " or c in "\\\x7f" for c in url):
        raise HostRefused(shown(url), purpose, "the address contains characters that are not allowed")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname or ""
    except ValueError as error:
        raise HostRefused(shown(url), purpose, f"the address cannot be parsed ({error})") from None
    if "@" in parts.netloc:
        raise HostRefused(shown(url), purpose, "user info is not allowed in an address")
    if parts.query or parts.fragment:
        raise HostRefused(shown(url), purpose, "a base address must not have a query or a fragment")
    if _is_loopback(host) and parts.scheme in _LOOPBACK_SCHEMES:
        return parts.geturl()
    standard = port is None and not parts.netloc.endswith(":")
    allowed = _ALLOWED[purpose].get(parts.scheme, frozenset())
    if parts.netloc in allowed and standard:
        return parts.geturl()
    raise HostRefused(shown(url), purpose, _refusal(parts, purpose, host))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        # Strict: neither shorthand such as 127.1, nor decimal or octal numbers, nor zones.
        return ipaddress.ip_address(host).is_loopback and "%" not in host
    except ValueError:
        return False


def _refusal(parts: SplitResult, purpose: Purpose, host: str) -> str:
    bare = host.rstrip(".").lower()
    if purpose == "orders" and bare.endswith("kalshi.com"):
        return "production is read-only here"
    if bare in _DEMO_REST | _DEMO_WS | _PRODUCTION_REST | _PRODUCTION_WS:
        return "the exchange's hosts must be used by https or wss, in plain spelling, on the standard port"
    names = sorted(_ALLOWED[purpose]["https"] | _ALLOWED[purpose]["wss"])
    return f"the host must be loopback or one of {', '.join(names)}"


def shown(url: str) -> str:
    """Return an address as an error may show it: without user info, in ASCII."""
    head, separator, tail = url.partition("://")
    if not separator:
        head, tail = "", url
    netloc, slash, rest = tail.partition("/")
    return f"{head}{separator}{netloc.rpartition('@')[2]}{slash}{rest}".encode(
        "ascii", "backslashreplace"
    ).decode()
