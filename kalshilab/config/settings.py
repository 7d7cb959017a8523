"""Settings: what a person may choose, from keywords, then the environment, then a `.env` file.

Each field of `Settings` names its unit, its limits and the variables that set it: `KALSHILAB_<FIELD>` and,
where the setting has a history, the older name (`RLM_MIN_TRADES`, `MIN_TRADER_CASH`, …).  A value that cannot
be used is a `ConfigError` naming the variable, the value, what is allowed and where it came from; a name that
looks like one of ours but is none is an error too, because a misspelt limit is a limit that does not hold.

Values stay in the units people type (cents, contracts, dollars, seconds); the part that uses one converts it
exactly through `kalshilab.units`.  Secrets are wrapped in `Secret`, whose text never shows in a repr.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal

from kalshilab.config.envfile import read_env_file
from kalshilab.errors import ConfigError, CredentialsMissing

__all__ = ["RETIRED", "STRATEGIES", "VENUES", "Secret", "Settings", "read_env_file"]

VENUES: Final = ("embedded", "demo", "shadow")
STRATEGIES: Final = ("hold", "rlm_no", "whale_fade", "yes_80_90", "custom", "rl_model")
DEFAULT_CATEGORIES: Final = ("sports", "media_mentions", "entertainment", "crypto")

_UNUSED = "it never had an effect"
RETIRED: Final[Mapping[str, str]] = {
    "RL_MODE": "tickers= picks markets; otherwise they are discovered",
    "V3_ENABLE_TRADING_CLIENT": "strategy=hold trades nothing",
    "V3_TRADING_MODE": "there is no mode but paper",
    "V3_HOST": "panels are in the notebook",
    "V3_PORT": "panels are in the notebook",
    "V3_LOG_LEVEL": "use Python's logging",
    **dict.fromkeys(
        (
            "V3_ORDERBOOK_DEPTH", "V3_SNAPSHOT_INTERVAL", "V3_SYNC_DURATION", "V3_CALIBRATION_DURATION",
            "V3_ERROR_RECOVERY_DELAY", "V3_WS_RECONNECT_INTERVAL", "V3_WS_PING_INTERVAL", "API_DISCOVERY_BATCH_SIZE",
        ),
        _UNUSED,
    ),
    "V3_ENABLE_WHALE_DETECTION": "strategy=whale_fade looks for whales",
    "V3_ALLOW_MULTIPLE_POSITIONS": "allow_reentry says it for every strategy",
    "V3_ALLOW_MULTIPLE_ORDERS": "allow_reentry says it for every strategy",
    "WHALE_MAX_TRADES_PER_MINUTE": "attempts_per_minute holds for every strategy",
    "WHALE_TOKEN_REFILL_SECONDS": "attempts_per_minute holds for every strategy",
    "YES8090_MIN_LIQUIDITY": "size at the ask is not a condition of ours",
    "YES8090_MAX_SPREAD": "max_spread holds for every strategy",
    "YES8090_MAX_CONCURRENT": "max_concurrent holds for every strategy",
}  # fmt: skip
"""Names with our prefixes that older set-ups may still carry: accepted, without effect, with the reason."""

_OWN_PREFIXES = (
    "KALSHILAB_", "KALSHI_API", "KALSHI_WS", "KALSHI_PRIVATE", "RLM_", "RL_M", "RL_O", "LIFECYCLE_", "MIN_TRADER", "V3_",
    "API_DISCOVERY", "DISCOVERY_CLOSE", "WHALE_", "YES8090_",
)  # fmt: skip
_PROCESS_NAMES = {"KALSHILAB_HOME", "KALSHILAB_RUN"}


class Secret:
    """A text that must not be seen: `reveal()` gives it, nothing else does.

    >>> Secret("hunter2")
    Secret(***)
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for the one call that signs."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __reduce__(self) -> str | tuple[Any, ...]:
        raise TypeError("a Secret is not pickled: pass the path of the key instead")


class _Bad(Exception):
    """Raised by a reader; carries what would have been allowed."""


def _number(
    low: float, high: float, unit: str, *, whole: bool = False, scale: float = 1
) -> Callable[[Any], Any]:
    allowed = f"{'a whole number' if whole else 'a number'} of {unit} from {low:g} to {high:g}"

    def read(value: Any) -> Any:
        try:
            if isinstance(value, bool):
                raise _Bad(allowed)
            number = float(value)
        except (TypeError, ValueError):
            raise _Bad(allowed) from None
        # `not (… <= …)` also refuses NaN, which compares false with everything.
        if not (low <= number * scale <= high) or (whole and number != int(number)):
            raise _Bad(allowed)
        # In decimals: a limit of 35 cents is 0.35 dollars and not its binary neighbour.
        return int(number) if whole else float(Decimal(str(value).strip()) * Decimal(str(scale)))

    return read


def _optional(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None or (isinstance(value, str) and not value) else read(value)


def _choice(*options: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if value in options:
            return value
        raise _Bad("one of " + ", ".join(options))

    return read


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in {"true", "1", "yes", "on"}:
        return True
    if text in {"false", "0", "no", "off"}:
        return False
    raise _Bad("true or false")


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value.strip():
        raise _Bad("a text that is not empty")
    return value.strip()


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.strip():
        raise _Bad("a private key as PEM text or bare base64")
    return Secret(value)


def _names(value: Any) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, Iterable):
        raise _Bad("names with commas between them")
    names = tuple(str(p).strip() for p in parts if str(p).strip())
    if not names:
        raise _Bad('names with commas between them, or "all"')
    return names


def _speed(value: Any) -> float | Literal["max"]:
    if value == "max":
        return "max"
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number <= 1e9:
        raise _Bad('"max", or a factor above 0 (1 is real time)')
    return number


def _tiers(value: Any) -> tuple[tuple[float, float], ...]:
    """`"0:1,10:1.5,20:2"` or pairs of (drop in cents at least, times the base size)."""
    allowed = 'rising pairs of drop in cents and factor, as in "0:1,10:1.5,20:2"'
    try:
        pairs = [p.split(":") for p in value.split(",")] if isinstance(value, str) else list(value)
        tiers = tuple((float(drop), float(factor)) for drop, factor in pairs)
    except (TypeError, ValueError):
        raise _Bad(allowed) from None
    drops = [drop for drop, _ in tiers]
    if not tiers or drops[0] != 0 or drops != sorted(set(drops)) or any(not 0 < f <= 100 for _, f in tiers):
        raise _Bad(allowed)
    return tiers


def _setting(
    default: Any, read: Callable[[Any], Any], *old: str | tuple[str, Callable[[Any], Any]], doc: str
) -> Any:
    """A field with its reader, its older variable names (with a reader of their own where the unit differs)
    and one line of documentation."""
    return field(default=default, metadata={"read": read, "old": old, "doc": doc})


@dataclass(frozen=True, init=False, repr=False)
class Settings:
    """Everything a session, a client or a command may be told.

    Precedence: keyword, then environment, then `.env` in the working folder (or `env_file=`), then default.

    >>> s = Settings(env={}, env_file=None, minutes=2, min_drop=3)
    >>> s.venue, s.minutes, s.min_drop
    ('embedded', 2.0, 3.0)
    >>> Settings(env={"RLM_MIN_TRADES": "soon"}, env_file=None)
    Traceback (most recent call last):
    kalshilab.errors.ConfigError: RLM_MIN_TRADES='soon' (environment): allowed is a whole number of trades from 1 to 1e+06

    Raises:
        ConfigError: an unknown name, or a value that is malformed or out of range.
        EnvFileError: a line of the `.env` file that cannot be read, with its number.
    """

    venue: str = _setting("embedded", _choice(*VENUES), doc="embedded, demo or shadow")
    strategy: str = _setting("rlm_no", _choice(*STRATEGIES), "V3_TRADING_STRATEGY", doc="what trades")
    minutes: float | None = _setting(
        None,
        _optional(_number(0.001, 10_080, "minutes")),
        doc="wall-clock minutes until a clean stop; none: to the end",
    )
    speed: float | Literal["max"] = _setting(
        "max", _speed, doc="tape time per wall time on the embedded venue"
    )
    tape: str | None = _setting(
        None, _optional(_text), doc="Parquet of trades to play; none: the bundled sample"
    )
    markets: str | None = _setting(None, _optional(_text), doc="Parquet of markets beside it")
    result_column: str | None = _setting(
        None, _optional(_text), doc="column of `markets` that holds the result"
    )
    seed: int = _setting(0, _number(0, 2**32 - 1, "seed", whole=True), doc="seed of the embedded venue")
    balance: float = _setting(
        10_000.0, _number(1, 1e9, "dollars"), doc="starting cash on the embedded and shadow venues"
    )
    out: str = _setting("runs", _text, doc="folder that holds one folder a run")
    stop_file: str | None = _setting(None, _optional(_text), doc="a file whose appearance ends the session")

    rest_url: str | None = _setting(
        None, _optional(_text), "KALSHI_API_URL", doc="REST base, up to /trade-api/v2"
    )
    ws_url: str | None = _setting(None, _optional(_text), "KALSHI_WS_URL", doc="WebSocket address")
    key_id: str | None = _setting(None, _optional(_text), "KALSHI_API_KEY_ID", doc="API key id")
    private_key_path: str | None = _setting(
        None, _optional(_text), "KALSHI_PRIVATE_KEY_PATH", doc="file of the private key (PEM)"
    )
    private_key: Secret | None = _setting(
        None,
        _optional(_secret),
        "KALSHI_PRIVATE_KEY_CONTENT",
        doc="the private key itself: PEM or bare base64",
    )

    categories: tuple[str, ...] = _setting(
        DEFAULT_CATEGORIES, _names, "LIFECYCLE_CATEGORIES", doc='categories to track, or "all"'
    )
    tickers: tuple[str, ...] = _setting(
        (), lambda v: () if v in ("", ()) else _names(v), "RL_MARKET_TICKERS", doc="track these markets only"
    )
    max_markets: int = _setting(
        1000,
        _number(1, 100_000, "markets", whole=True),
        "LIFECYCLE_MAX_MARKETS",
        "RL_ORDERBOOK_MARKET_LIMIT",
        doc="active markets tracked at once",
    )
    discovery: bool = _setting(
        True, _flag, "API_DISCOVERY_ENABLED", doc="look for open markets over REST too"
    )
    discovery_interval: float = _setting(
        300.0, _number(1, 86_400, "seconds"), "API_DISCOVERY_INTERVAL", doc="seconds between such looks"
    )
    sync_interval: float = _setting(
        30.0, _number(1, 3_600, "seconds"), "LIFECYCLE_SYNC_INTERVAL", doc="seconds between account syncs"
    )
    close_min_minutes: float = _setting(
        10.0,
        _number(0, 525_600, "minutes"),
        "DISCOVERY_CLOSE_MIN_MINUTES",
        doc="skip markets closing sooner; 0: off",
    )

    yes_threshold: float = _setting(
        0.70, _number(0, 1, "share"), "RLM_YES_THRESHOLD", doc="YES share of prints must be above"
    )
    min_trades: int = _setting(
        25, _number(1, 1e6, "trades", whole=True), "RLM_MIN_TRADES", doc="prints at least"
    )
    min_drop: float = _setting(5.0, _number(0, 99, "cents"), "RLM_MIN_PRICE_DROP", doc="fall of YES at least")
    contracts: float = _setting(50.0, _number(0.01, 1e6, "contracts"), "RLM_CONTRACTS", doc="base order size")
    size_tiers: tuple[tuple[float, float], ...] = _setting(
        ((0.0, 1.0), (10.0, 1.5), (20.0, 2.0)), _tiers, doc="drop in cents : times the base size"
    )
    high_drop: float = _setting(10.0, _number(0, 99, "cents"), doc="drop from which the price is more eager")
    signal: str | None = _setting(
        None, _optional(_text), doc='"module:name" of the signal that strategy=custom trades'
    )
    policy: str | None = _setting(
        None, _optional(_text), doc='"module:name" of the policy of strategy=rl_model; none: it holds'
    )
    whale_min_value: float = _setting(
        100.0,
        _number(0, 1e9, "dollars"),
        ("WHALE_MIN_SIZE_CENTS", _number(0, 1e9, "dollars (given in cents)", scale=0.01)),
        doc="dollars a whale pays at least",
    )
    whale_max_leverage: float = _setting(
        2.0, _number(0, 1e6, "dollars won a dollar"), doc="what a whale may win a dollar paid, below"
    )
    whale_top: int | None = _setting(
        None,
        _optional(_number(1, 10_000, "whales", whole=True)),
        "WHALE_QUEUE_SIZE",
        doc="whales of a window that count; none: all",
    )
    whale_window: float = _setting(
        300.0,
        _number(1, 86_400, "seconds"),
        ("WHALE_WINDOW_MINUTES", _number(1, 86_400, "seconds (given in minutes)", scale=60)),
        doc="seconds a whale's window lasts",
    )
    yes8090_low: float = _setting(
        80.0, _number(0, 100, "cents"), "YES8090_MIN_PRICE", doc="YES price of the band, from"
    )
    yes8090_high: float = _setting(
        90.0, _number(0, 100, "cents"), "YES8090_MAX_PRICE", doc="YES price of the band, to"
    )
    yes8090_contracts: float = _setting(
        100.0, _number(0.01, 1e6, "contracts"), "YES8090_CONTRACTS", doc="order size in the band"
    )
    yes8090_tier_a_contracts: float = _setting(
        150.0,
        _number(0.01, 1e6, "contracts"),
        "YES8090_TIER_A_CONTRACTS",
        doc="order size within 83 to 87 cents",
    )
    max_concurrent: int = _setting(
        1000, _number(1, 1e6, "markets", whole=True), "RLM_MAX_CONCURRENT", doc="markets held at once"
    )
    allow_reentry: bool = _setting(
        True, _flag, "RLM_ALLOW_REENTRY", doc="add to a position on a stronger signal"
    )
    orderbook_timeout: float = _setting(
        2.0, _number(0, 60, "seconds"), "RLM_ORDERBOOK_TIMEOUT", doc="wait for a first book at most"
    )
    tight_spread: float = _setting(2.0, _number(0, 99, "cents"), "RLM_TIGHT_SPREAD", doc="tight up to")
    normal_spread: float = _setting(4.0, _number(0, 99, "cents"), "RLM_NORMAL_SPREAD", doc="normal up to")
    max_spread: float = _setting(10.0, _number(0, 99, "cents"), "RLM_MAX_SPREAD", doc="no order above")
    attempts_per_minute: float = _setting(
        10.0,
        _number(0.01, 1e6, "attempts a minute"),
        "RLM_MAX_TRADES_PER_MINUTE",
        doc="order attempts, refilled evenly",
    )

    min_cash: float = _setting(
        100.0,
        _number(0, 1e9, "dollars"),
        ("MIN_TRADER_CASH", _number(0, 1e9, "dollars (given in cents)", scale=0.01)),
        doc="keep at least this much cash; 0: off",
    )
    max_orders: int = _setting(
        100, _number(1, 1e6, "orders", whole=True), "V3_TRADING_MAX_ORDERS", doc="resting orders at once"
    )
    max_position: float = _setting(
        1000.0,
        _number(0.01, 1e7, "contracts"),
        "V3_TRADING_MAX_POSITION_SIZE",
        doc="contracts per market, either side",
    )
    cleanup_on_startup: bool = _setting(
        True, _flag, "V3_CLEANUP_ON_STARTUP", doc="cancel orders an earlier run of ours left resting"
    )
    health_interval: float = _setting(
        5.0, _number(0.1, 3_600, "seconds"), "V3_HEALTH_CHECK_INTERVAL", doc="seconds between health checks"
    )
    reconnect_attempts: int = _setting(
        10,
        _number(1, 1e6, "attempts", whole=True),
        "V3_WS_MAX_RECONNECT_ATTEMPTS",
        doc="failures in a row before giving up",
    )
    fast: bool = _setting(
        False, _flag, doc="send and read with aiohttp and picows: pip install 'kalshilab[fast]'"
    )

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        env_file: str | os.PathLike[str] | None = ".env",
        **given: Any,
    ) -> None:
        known = {f.name: f for f in fields(self)}
        for name in given:
            if name not in known:
                # Not the value: under a misspelt name it may be a key.
                raise ConfigError(name, Secret(""), _nearest(name, known), "keyword")
        layers = [(dict(os.environ if env is None else env), "environment", 0)]
        file_values, lines = ({}, {}) if env_file is None else read_env_file(Path(env_file), missing_ok=True)
        layers.append((file_values, f"{env_file}", 1))
        _refuse_unknown(layers, lines)
        for f in known.values():
            object.__setattr__(self, f.name, _resolve(f, given, layers, lines))

    def replace(self, **changes: Any) -> Settings:
        """The same settings with some of them changed; nothing is read from the environment again.

        >>> Settings(env={}, env_file=None).replace(min_trades=30).min_trades
        30
        """
        return Settings(env={}, env_file=None, **{**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Field names to values; secrets stay wrapped."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def lacking(self) -> tuple[str, ...]:
        """The variables of an API key that nobody has set."""
        missing = []
        if not self.key_id:
            missing.append("KALSHI_API_KEY_ID")
        if not (self.private_key_path or self.private_key):
            missing.append("KALSHI_PRIVATE_KEY_PATH (or KALSHI_PRIVATE_KEY_CONTENT)")
        return tuple(missing)

    def require_credentials(self) -> None:
        """Check that a key is there for a venue that needs one.

        Raises:
            CredentialsMissing: the venue is not embedded and the key id or the private key is missing.
        """
        if self.lacking and self.venue != "embedded":
            raise CredentialsMissing(self.venue, self.lacking)

    def __repr__(self) -> str:
        changed = (
            f"{f.name}={_masked(f.name, getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"Settings({', '.join(changed)})"


def _masked(name: str, value: Any) -> str:
    """A setting as a repr shows it, which may end up in a notebook: no key, and of a key's file its name alone."""
    if name == "key_id" and value is not None:
        return "***"
    return repr(f"…/{Path(value).name}") if name == "private_key_path" and value is not None else repr(value)


def _variables(f: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """The variables that set a field, newest name first, each with its reader."""
    read = f.metadata["read"]
    pairs = [(f"KALSHILAB_{f.name.upper()}", read)]
    pairs += [(o, read) if isinstance(o, str) else o for o in f.metadata["old"]]
    return pairs


def _resolve(
    f: Any, given: Mapping[str, Any], layers: list[tuple[dict[str, str], str, int]], lines: Mapping[str, int]
) -> Any:
    if f.name in given:
        return _read(f, f.metadata["read"], f.name, given[f.name], "keyword")
    for values, source, is_file in layers:
        for variable, read in _variables(f):
            if variable in values:
                where = f"{source}, line {lines[variable]}" if is_file else source
                return _read(f, read, variable, values[variable], where)
    return f.default


def _read(f: Any, read: Callable[[Any], Any], name: str, value: Any, source: str) -> Any:
    try:
        return read(value)
    except _Bad as bad:
        shown = "***" if f.name in {"private_key", "key_id"} else value
        raise ConfigError(name, shown, str(bad), source) from None


def _nearest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3)
    return f"{' or '.join(close)}, by the look of it" if close else f"one of {', '.join(names)}"


def _refuse_unknown(layers: list[tuple[dict[str, str], str, int]], lines: Mapping[str, int]) -> None:
    known = {variable for f in fields(Settings) for variable, _ in _variables(f)}
    known |= RETIRED.keys() | _PROCESS_NAMES
    for values, source, is_file in layers:
        for name in values:
            if name.startswith(_OWN_PREFIXES) and name not in known:
                where = f"{source}, line {lines[name]}" if is_file else source
                raise ConfigError(name, Secret(""), _nearest(name, known), where)
