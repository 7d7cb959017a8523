"""Settings from keywords, then the environment, then a `.env` file, then defaults.

Each field of `Settings` states its unit, its limits and the variables that set it: `KALSHILAB_<FIELD>` and, where the
setting has a history, an older name (`RLM_MIN_TRADES`, `MIN_TRADER_CASH`, …).  A value that is not allowed raises
`ConfigError` with the variable, the value, the allowed values and the origin.  So does an unknown name with one of our
prefixes, because a misspelt limit is a limit that does not hold, and a variable of older set-ups that would have no
effect (`kalshilab.config.retired`).

Values stay in the units people type (cents, contracts, dollars, seconds); the code that uses one converts it exactly
through `kalshilab.units`.  Secrets are wrapped in `Secret`, which no repr shows.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal

from kalshilab.config.documentation import document
from kalshilab.config.envfile import read_env_file
from kalshilab.config.readers import (
    BUDGETS,
    FLAG,
    NAMES,
    SECRET,
    SPEED,
    TEXT,
    TIERS,
    StrategyBudget,
    choice,
    choices,
    empty_or,
    number,
    optional,
    whole,
    zero_or,
)
from kalshilab.config.retired import RETIRED
from kalshilab.config.secret import Secret
from kalshilab.config.sources import (
    ARGUMENT,
    DEFAULT,
    Layer,
    masked,
    passed_origins,
    reject_useless,
    resolve,
    setting,
    strength,
    unknown_setting,
)
from kalshilab.errors import CredentialsMissing

__all__ = ["RETIRED", "STRATEGIES", "VENUES", "Secret", "Settings", "read_env_file"]

VENUES: Final = ("embedded", "demo", "shadow")
STRATEGIES: Final = (
    "hold", "rlm_no", "whale_fade", "whale_follower", "yes_80_90", "paper_test", "custom", "rl_model",
)  # fmt: skip
DEFAULT_CATEGORIES: Final = ("sports", "media_mentions", "entertainment", "crypto")


@dataclass(frozen=True, init=False, repr=False)
class Settings:
    """Settings of a session, a client or a command.

    Precedence: keyword, then environment, then `.env` in the working folder (or `env_file=`), then default.  A field is
    set by its keyword, by the variable `KALSHILAB_<FIELD>`, or by the older variable named with it.

    >>> s = Settings(env={}, env_file=None, minutes=2, min_drop=3)
    >>> s.venue, s.minutes, s.min_drop
    ('embedded', 2.0, 3.0)
    >>> Settings(env={"RLM_MIN_TRADES": "soon"}, env_file=None)
    Traceback (most recent call last):
    kalshilab.errors.ConfigError: RLM_MIN_TRADES must be a whole number of trades from 1 to 1,000,000, got 'soon' (environment)

    Raises:
        ConfigError: a name is unknown, or a value is malformed or out of range.
        EnvFileError: a line of the `.env` file cannot be parsed.
    """

    venue: str = setting("embedded", choice(*VENUES), doc="the exchange to use")
    strategy: str = setting(
        "rlm_no", choice(*STRATEGIES), "V3_TRADING_STRATEGY", doc="the strategy that trades"
    )
    strategies: tuple[str, ...] = setting(
        (),
        empty_or(choices(*STRATEGIES)),
        doc="strategies that trade side by side on one account; empty: `strategy` alone",
    )
    budgets: tuple[StrategyBudget, ...] = setting(
        (),
        empty_or(BUDGETS),
        doc="dollars, contracts and markets that open orders and positions of a strategy may reach",
    )
    minutes: float | None = setting(
        None,
        optional(number(0.001, 10_080, "minutes")),
        doc="wall-clock minutes until a clean stop; None runs to the end",
    )
    speed: float | Literal["max"] = setting(
        "max", SPEED, doc="tape time per wall time on the embedded venue; 1 is real time"
    )
    tape: str | None = setting(
        None, optional(TEXT), doc="Parquet file of the trades to replay; None replays the bundled sample"
    )
    markets: str | None = setting(None, optional(TEXT), doc="Parquet file of the markets of `tape`")
    result_column: str | None = setting(None, optional(TEXT), doc="column of `markets` that holds the result")
    seed: int = setting(0, whole(0, 2**32 - 1), doc="random seed of the embedded venue")
    balance: float = setting(
        10_000.0, number(1, 1e9, "dollars"), doc="starting cash in dollars on the embedded and shadow venues"
    )
    out: str = setting("runs", TEXT, doc="folder that receives one folder per run")
    stop_file: str | None = setting(None, optional(TEXT), doc="file whose appearance ends the session")

    rest_url: str | None = setting(
        None, optional(TEXT), "KALSHI_API_URL", doc="base address of REST, up to /trade-api/v2"
    )
    ws_url: str | None = setting(None, optional(TEXT), "KALSHI_WS_URL", doc="address of the WebSocket")
    key_id: str | None = setting(None, optional(TEXT), "KALSHI_API_KEY_ID", doc="API key id")
    private_key_path: str | None = setting(
        None, optional(TEXT), "KALSHI_PRIVATE_KEY_PATH", doc="file of the private key (PEM)"
    )
    private_key: Secret | None = setting(
        None,
        optional(SECRET),
        "KALSHI_PRIVATE_KEY_CONTENT",
        doc="the private key itself; it precedes `private_key_path`",
    )

    categories: tuple[str, ...] = setting(
        DEFAULT_CATEGORIES, NAMES, "LIFECYCLE_CATEGORIES", doc="categories to track"
    )
    tickers: tuple[str, ...] = setting(
        (), empty_or(NAMES), "RL_MARKET_TICKERS", doc="track only these markets; empty discovers them"
    )
    max_markets: int = setting(
        1000,
        whole(1, 100_000, "markets"),
        "LIFECYCLE_MAX_MARKETS",
        "RL_ORDERBOOK_MARKET_LIMIT",
        doc="active markets tracked at once",
    )
    discovery: bool = setting(
        True, FLAG, "API_DISCOVERY_ENABLED", doc="whether open markets are also discovered over REST"
    )
    discovery_interval_s: float = setting(
        300.0,
        number(1, 86_400, "seconds"),
        "API_DISCOVERY_INTERVAL",
        was="discovery_interval",
        doc="seconds between discoveries over REST",
    )
    sync_interval_s: float = setting(
        30.0,
        number(1, 3_600, "seconds"),
        "LIFECYCLE_SYNC_INTERVAL",
        was="sync_interval",
        doc="seconds between reconciliations of the account",
    )
    close_min_minutes: float = setting(
        10.0,
        number(0, 525_600, "minutes"),
        "DISCOVERY_CLOSE_MIN_MINUTES",
        doc="skip markets that close within this many minutes; 0 skips none",
    )

    yes_threshold: float = setting(
        0.70,
        number(0, 1),
        "RLM_YES_THRESHOLD",
        doc="fraction of trades in which the taker bought YES that must be exceeded",
    )
    min_trades: int = setting(
        25, whole(1, 1e6, "trades"), "RLM_MIN_TRADES", doc="fewest trades before a signal"
    )
    min_drop: float = setting(
        5.0, number(0, 99, "cents"), "RLM_MIN_PRICE_DROP", doc="smallest fall of the YES price in cents"
    )
    contracts: float = setting(
        50.0, number(0.01, 1e6, "contracts"), "RLM_CONTRACTS", doc="base order size in contracts"
    )
    size_tiers: tuple[tuple[float, float], ...] = setting(
        ((0.0, 1.0), (10.0, 1.5), (20.0, 2.0)), TIERS, doc="(drop in cents, multiple of the base size)"
    )
    high_drop_cents: float = setting(
        10.0,
        number(0, 99, "cents"),
        was="high_drop",
        doc="drop in cents from which orders are priced more aggressively",
    )
    signal: str | None = setting(
        None, optional(TEXT), doc='"module:name" of the signal that strategy=custom trades'
    )
    policy: str | None = setting(
        None, optional(TEXT), doc='"module:name" of the policy of strategy=rl_model; None always holds'
    )
    whale_min_value: float = setting(
        100.0,
        number(0, 1e9, "dollars"),
        ("WHALE_MIN_SIZE_CENTS", number(0, 1e9, "dollars (given in cents)", scale=0.01)),
        doc="dollars that a whale pays at least",
    )
    whale_max_leverage: float = setting(
        2.0,
        number(0, 1e6, "dollars won per dollar paid"),
        doc="a whale wins less than this many dollars per dollar paid",
    )
    whale_top: int | None = setting(
        None,
        optional(whole(1, 10_000, "whales")),
        "WHALE_QUEUE_SIZE",
        doc="largest whales of a window that count; None counts all, and 10 for whale_follower",
    )
    whale_window_s: float = setting(
        300.0,
        number(1, 86_400, "seconds"),
        ("WHALE_WINDOW_MINUTES", number(1, 86_400, "seconds (given in minutes)", scale=60)),
        was="whale_window",
        doc="seconds that a whale's window lasts",
    )
    yes8090_low: float = setting(
        80.0, number(0, 100, "cents"), "YES8090_MIN_PRICE", doc="lowest YES price of the band in cents"
    )
    yes8090_high: float = setting(
        90.0, number(0, 100, "cents"), "YES8090_MAX_PRICE", doc="highest YES price of the band in cents"
    )
    yes8090_contracts: float = setting(
        100.0, number(0.01, 1e6, "contracts"), "YES8090_CONTRACTS", doc="order size in the band, in contracts"
    )
    yes8090_tier_a_contracts: float = setting(
        150.0,
        number(0.01, 1e6, "contracts"),
        "YES8090_TIER_A_CONTRACTS",
        doc="order size between 83 and 87 cents, in contracts",
    )
    max_concurrent: int = setting(
        1000, whole(1, 1e6, "markets"), "RLM_MAX_CONCURRENT", doc="most markets with a position at once"
    )
    allow_reentry: bool = setting(
        True, FLAG, "RLM_ALLOW_REENTRY", doc="whether a stronger signal adds to a position"
    )
    orderbook_timeout_s: float = setting(
        2.0,
        number(0, 60, "seconds"),
        "RLM_ORDERBOOK_TIMEOUT",
        was="orderbook_timeout",
        doc="seconds to wait for an order book before it is asked for again",
    )
    tight_spread_cents: float = setting(
        2.0,
        number(0, 99, "cents"),
        "RLM_TIGHT_SPREAD",
        was="tight_spread",
        doc="widest spread in cents that counts as tight",
    )
    normal_spread_cents: float = setting(
        4.0,
        number(0, 99, "cents"),
        "RLM_NORMAL_SPREAD",
        was="normal_spread",
        doc="widest spread in cents that counts as normal",
    )
    max_spread_cents: float = setting(
        10.0,
        number(0, 99, "cents"),
        "RLM_MAX_SPREAD",
        was="max_spread",
        doc="widest spread in cents at which an order is placed",
    )
    attempts_per_minute: float = setting(
        10.0,
        number(0.01, 1e6, "attempts per minute"),
        "RLM_MAX_TRADES_PER_MINUTE",
        doc="order attempts per minute, refilled evenly",
    )

    min_cash: float = setting(
        100.0,
        number(0, 1e9, "dollars"),
        ("MIN_TRADER_CASH", number(0, 1e9, "dollars (given in cents)", scale=0.01)),
        doc="dollars of cash to keep; 0 keeps none",
    )
    daily_loss: float = setting(
        0.0,
        number(0, 1e9, "dollars"),
        doc="dollars of equity lost within the exchange's UTC day that pause the session; 0: no limit",
    )
    max_event: float = setting(
        0.0,
        number(0, 1e9, "dollars"),
        doc="most dollars that open orders and positions in one event may cost; 0: no limit",
    )
    max_category: float = setting(
        0.0,
        number(0, 1e9, "dollars"),
        doc="most dollars that open orders and positions in one category may cost; 0: no limit",
    )
    collar_cents: float = setting(
        0.0,
        number(0, 99, "cents"),
        doc="largest distance in cents of an order's price from the market's last trade; 0: no limit",
    )
    max_orders: int = setting(
        100, whole(1, 1e6, "orders"), "V3_TRADING_MAX_ORDERS", doc="most resting orders at once"
    )
    max_position: float = setting(
        1000.0,
        number(0.01, 1e7, "contracts"),
        "V3_TRADING_MAX_POSITION_SIZE",
        doc="most contracts per market, on either side",
    )
    order_life_s: float = setting(
        300.0,
        zero_or(number(30, 604_800, "seconds")),
        doc="seconds after which an order expires at the exchange unless the session renews it; 0: never. "
        "The embedded venue ends with its session and needs no expiration",
    )
    group_contracts: int = setting(
        10_000,
        whole(0, 1e6, "contracts"),
        doc="limit in contracts of the session's order group at the exchange; 0: no group",
    )
    stale_feed_s: float = setting(
        30.0,
        zero_or(number(1, 3_600, "seconds")),
        doc="age in seconds of the feed's last frame above which no order is placed; 0: no limit",
    )
    stale_book_s: float = setting(
        60.0,
        zero_or(number(1, 86_400, "seconds")),
        doc="age in seconds of a market's last book frame above which its book is read again before an order; "
        "0: no limit",
    )
    max_outage_s: float | None = setting(
        None,
        optional(number(1, 2_592_000, "seconds")),
        doc="seconds for which an outage of the venue is waited out; None: without limit",
    )
    cleanup_on_startup: bool = setting(
        True, FLAG, "V3_CLEANUP_ON_STARTUP", doc="whether orders left resting by an earlier run are cancelled"
    )
    health_interval_s: float = setting(
        0.5,
        number(0.1, 3_600, "seconds"),
        "V3_HEALTH_CHECK_INTERVAL",
        was="health_interval",
        doc="seconds between two writings of the status file",
    )
    reconnect_attempts: int = setting(
        0,
        whole(0, 1e6, "attempts"),
        "V3_WS_MAX_RECONNECT_ATTEMPTS",
        doc="consecutive failures before a stream gives up; 0: it never does",
    )
    log_level: str = setting(
        "INFO", choice("DEBUG", "INFO", "WARNING", "ERROR"), "V3_LOG_LEVEL", doc="lowest level in session.log"
    )
    log_format: str = setting("text", choice("text", "json"), doc="form of the lines in session.log")
    metrics: bool = setting(
        False, FLAG, doc="whether metrics.prom is kept in the run's folder, for Prometheus"
    )
    fast: bool = setting(
        False, FLAG, doc="whether aiohttp and picows send and read: pip install 'kalshilab[fast]'"
    )

    def __init__(
        self,
        *,
        env: Mapping[str, str] | None = None,
        env_file: str | os.PathLike[str] | None = ".env",
        **given: Any,
    ) -> None:
        given = _current_names(given, stacklevel=3)
        known = {f.name: f for f in fields(self)}
        for name in given:
            if name not in known:
                raise unknown_setting(name, known, "keyword")
        layers = [Layer(os.environ if env is None else env, "environment")]
        if env_file is not None:
            values, lines = read_env_file(Path(env_file), missing_ok=True)
            layers.append(Layer(values, str(env_file), lines))
        reject_useless(known.values(), layers)
        origins = {}
        for f in known.values():
            value, origins[f.name] = resolve(f, given, layers)
            object.__setattr__(self, f.name, value)
        self._set_origins(origins, passed_origins(layers))
        if self.strategies and strength(self.origins["strategy"]) > strength(self.origins["strategies"]):
            object.__setattr__(self, "strategies", ())

    def _set_origins(self, origins: Mapping[str, str], passed: Mapping[str, str]) -> None:
        # An argument that the other process did not have was given in this one.
        known = {name: at for name, at in passed.items() if at != DEFAULT or origins.get(name) != ARGUMENT}
        object.__setattr__(self, "_origins", {**origins, **known})

    @property
    def origins(self) -> Mapping[str, str]:
        """The origin of each value, by field: "default", "argument", a variable of the environment or a line of a file.

        >>> Settings(env={"RLM_CONTRACTS": "7"}, env_file=None).origins["contracts"]
        'environment variable RLM_CONTRACTS'
        """
        return MappingProxyType(self._origins)  # type: ignore[attr-defined]

    @property
    def strategy_names(self) -> tuple[str, ...]:
        """The strategies that trade: `strategies`, or else `strategy` alone."""
        return self.strategies or (self.strategy,)

    @property
    def real_time(self) -> bool:
        """Whether exchange time passes as wall time does, and the exchange outlives the session."""
        return self.venue != "embedded"

    def replace(self, **changes: Any) -> Settings:
        """Return the same settings with some changed; the environment is not read again.

        >>> Settings(env={}, env_file=None).replace(min_trades=30).min_trades
        30
        """
        changes = _current_names(changes, stacklevel=3)
        if "strategy" in changes:
            changes.setdefault("strategies", ())
        changed = Settings(env={}, env_file=None, **{**self.as_dict(), **changes})
        changed._set_origins({**self.origins, **dict.fromkeys(changes, ARGUMENT)}, {})
        return changed

    def as_dict(self) -> dict[str, Any]:
        """Return field names and values; secrets stay wrapped."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def lacking(self) -> tuple[str, ...]:
        """The variables of an API key that are not set."""
        missing = []
        if not self.key_id:
            missing.append("KALSHI_API_KEY_ID")
        if not (self.private_key_path or self.private_key):
            missing.append("KALSHI_PRIVATE_KEY_PATH (or KALSHI_PRIVATE_KEY_CONTENT)")
        return tuple(missing)

    def require_credentials(self) -> None:
        """Check that the venue has the key it needs.

        Raises:
            CredentialsMissing: the venue is not embedded and the key id or the private key is missing.
        """
        if self.lacking and self.venue != "embedded":
            raise CredentialsMissing(self.venue, self.lacking)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # Called for names that are not fields: the old name of a field, or an unknown name.
            new = _OLD_FIELDS.get(name)
            if new is None:
                raise AttributeError(f"'Settings' object has no attribute {name!r}")
            warnings.warn(f"Settings.{name} is now Settings.{new}", DeprecationWarning, stacklevel=2)
            return getattr(self, new)

    def __repr__(self) -> str:
        changed = (
            f"{f.name}={masked(f.name, getattr(self, f.name))}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        )
        return f"Settings({', '.join(changed)})"


_OLD_FIELDS: Final = {f.metadata["was"]: f.name for f in fields(Settings) if f.metadata["was"]}


def _current_names(given: Mapping[str, Any], *, stacklevel: int) -> dict[str, Any]:
    """Return keywords under their current names, with a warning for each old one."""
    current = dict(given)
    for old in _OLD_FIELDS.keys() & current.keys():
        new = _OLD_FIELDS[old]
        if new in current:
            raise TypeError(f"Settings() got both {old!r} and {new!r}; use {new!r}")
        warnings.warn(
            f"Settings(): the keyword {old!r} is now {new!r}", DeprecationWarning, stacklevel=stacklevel
        )
        current[new] = current.pop(old)
    return current


document(Settings)
