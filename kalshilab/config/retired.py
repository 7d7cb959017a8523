"""Variables of older set-ups that no longer act: each is refused with the reason, or accepted where it changes nothing.

A variable that is silently ignored is a wish that is not granted: `V3_ENABLE_TRADING_CLIENT=false` was meant to place no
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from kalshilab.errors import ConfigError

__all__ = ["RETIRED", "refuse_retired"]

_UNUSED: Final = "it never had an effect"
_PANELS: Final = "the panels are in the notebook"

RETIRED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "ENVIRONMENT": "venue= selects the exchange, and paper is the only mode",
        "RL_MODE": "tickers= selects markets; without it they are discovered",
        "V3_ENABLE_TRADING_CLIENT": "strategy=hold trades nothing",
        "V3_TRADING_MODE": "paper is the only mode",
        "V3_HOST": _PANELS,
        "V3_PORT": _PANELS,
        "V3_ORDERBOOK_DEPTH": _UNUSED,
        "V3_SNAPSHOT_INTERVAL": _UNUSED,
        "V3_SYNC_DURATION": _UNUSED,
        "V3_CALIBRATION_DURATION": _UNUSED,
        "V3_ERROR_RECOVERY_DELAY": _UNUSED,
        "V3_WS_RECONNECT_INTERVAL": _UNUSED,
        "V3_WS_PING_INTERVAL": _UNUSED,
        "API_DISCOVERY_BATCH_SIZE": _UNUSED,
        "V3_ENABLE_WHALE_DETECTION": "strategy=whale_fade detects whales",
        "V3_ALLOW_MULTIPLE_POSITIONS": "allow_reentry applies to every strategy",
        "V3_ALLOW_MULTIPLE_ORDERS": "allow_reentry applies to every strategy",
        "WHALE_MAX_TRADES_PER_MINUTE": "attempts_per_minute applies to every strategy",
        "WHALE_TOKEN_REFILL_SECONDS": "attempts_per_minute applies to every strategy",
        "YES8090_MIN_LIQUIDITY": "the size at the ask is not checked",
        "YES8090_MAX_SPREAD": "max_spread_cents applies to every strategy",
        "YES8090_MAX_CONCURRENT": "max_concurrent applies to every strategy",
    }
)
"""The reason for which each variable no longer acts, or its replacement."""

_TRUE: Final = ("true", "1", "yes", "on")
_FALSE: Final = ("false", "0", "no", "off")
_GRANTED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "ENVIRONMENT": ("paper", "local"),
        "RL_MODE": ("lifecycle",),
        "V3_ENABLE_TRADING_CLIENT": _TRUE,
        "V3_TRADING_MODE": ("paper",),
        "V3_ENABLE_WHALE_DETECTION": _FALSE,
    }
)
"""The values of a variable that ask for nothing else than what happens anyway."""


def refuse_retired(name: str, value: str, source: str) -> None:
    """Refuse a variable that would have no effect; do nothing for other names, or for a value that changes nothing.

    Args:
        name: the variable.
        value: its value.
        source: its origin, for the message.

    >>> refuse_retired("V3_TRADING_MODE", "paper", "environment")
    >>> refuse_retired("V3_ENABLE_TRADING_CLIENT", "false", "environment")
    Traceback (most recent call last):
    kalshilab.errors.ConfigError: V3_ENABLE_TRADING_CLIENT must be true or removed (strategy=hold trades nothing), got 'false' (environment)

    Raises:
        ConfigError: the variable does not act.
    """
    reason = RETIRED.get(name)
    granted = _GRANTED.get(name, ())
    if reason is None or value.strip().lower() in granted:
        return
    wanted = f"{granted[0]} or removed" if granted else "removed"
    raise ConfigError(name, value, f"{wanted} ({reason})", source)
