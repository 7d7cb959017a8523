"""Variables of older set-ups: each of them acts, or is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalshilab.config.retired import RETIRED
from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError

ACTING = {
    "KALSHI_API_URL": ("http://127.0.0.1:1/trade-api/v2", "rest_url"),
    "KALSHI_WS_URL": ("ws://127.0.0.1:1/ws", "ws_url"),
    "KALSHI_API_KEY_ID": ("abc", "key_id"),
    "KALSHI_PRIVATE_KEY_CONTENT": ("MIIE", "private_key"),
    "RL_MARKET_TICKERS": ("INXD-25JAN03", "tickers"),
    "RL_ORDERBOOK_MARKET_LIMIT": ("12", "max_markets"),
    "V3_TRADING_MAX_ORDERS": ("11", "max_orders"),
    "V3_TRADING_MAX_POSITION_SIZE": ("99", "max_position"),
    "V3_TRADING_STRATEGY": ("hold", "strategy"),
    "WHALE_QUEUE_SIZE": ("7", "whale_top"),
    "WHALE_WINDOW_MINUTES": ("6", "whale_window_s"),
    "WHALE_MIN_SIZE_CENTS": ("20000", "whale_min_value"),
    "YES8090_MIN_PRICE": ("81", "yes8090_low"),
    "YES8090_MAX_PRICE": ("89", "yes8090_high"),
    "YES8090_CONTRACTS": ("9", "yes8090_contracts"),
    "YES8090_TIER_A_CONTRACTS": ("8", "yes8090_tier_a_contracts"),
    "RLM_YES_THRESHOLD": ("0.6", "yes_threshold"),
    "RLM_MIN_TRADES": ("15", "min_trades"),
    "RLM_MIN_PRICE_DROP": ("2", "min_drop"),
    "RLM_CONTRACTS": ("20", "contracts"),
    "RLM_MAX_CONCURRENT": ("9", "max_concurrent"),
    "RLM_ALLOW_REENTRY": ("false", "allow_reentry"),
    "RLM_ORDERBOOK_TIMEOUT": ("1", "orderbook_timeout_s"),
    "RLM_TIGHT_SPREAD": ("1", "tight_spread_cents"),
    "RLM_NORMAL_SPREAD": ("3", "normal_spread_cents"),
    "RLM_MAX_SPREAD": ("9", "max_spread_cents"),
    "MIN_TRADER_CASH": ("0", "min_cash"),
    "V3_CLEANUP_ON_STARTUP": ("false", "cleanup_on_startup"),
    "LIFECYCLE_CATEGORIES": ("sports", "categories"),
    "LIFECYCLE_MAX_MARKETS": ("20", "max_markets"),
    "LIFECYCLE_SYNC_INTERVAL": ("20", "sync_interval_s"),
    "API_DISCOVERY_ENABLED": ("false", "discovery"),
    "API_DISCOVERY_INTERVAL": ("60", "discovery_interval_s"),
    "DISCOVERY_CLOSE_MIN_MINUTES": ("0", "close_min_minutes"),
    "V3_HEALTH_CHECK_INTERVAL": ("2", "health_interval_s"),
    "V3_WS_MAX_RECONNECT_ATTEMPTS": ("3", "reconnect_attempts"),
    "V3_LOG_LEVEL": ("DEBUG", "log_level"),
}
REFUSED = {
    "ENVIRONMENT": "production", "RL_MODE": "config", "V3_ORDERBOOK_DEPTH": "5", "V3_SNAPSHOT_INTERVAL": "1.0",
    "V3_ENABLE_TRADING_CLIENT": "false", "V3_TRADING_MODE": "production", "V3_ENABLE_WHALE_DETECTION": "true",
    "WHALE_MAX_TRADES_PER_MINUTE": "3", "WHALE_TOKEN_REFILL_SECONDS": "20", "YES8090_MIN_LIQUIDITY": "10",
    "YES8090_MAX_SPREAD": "5", "YES8090_MAX_CONCURRENT": "100", "V3_ALLOW_MULTIPLE_POSITIONS": "false",
    "V3_ALLOW_MULTIPLE_ORDERS": "false", "API_DISCOVERY_BATCH_SIZE": "200", "V3_SYNC_DURATION": "10",
    "V3_CALIBRATION_DURATION": "10", "V3_ERROR_RECOVERY_DELAY": "30", "V3_WS_RECONNECT_INTERVAL": "5",
    "V3_WS_PING_INTERVAL": "30", "V3_HOST": "0.0.0.0", "V3_PORT": "8005",
}  # fmt: skip


def refused(tmp_path: Path, name: str, value: str) -> ConfigError:
    """Return the error for one variable of a file."""
    file = tmp_path / ".env"
    file.write_text(f"{name}={value}\n")
    with pytest.raises(ConfigError) as caught:
        Settings(env={}, env_file=file)
    return caught.value


@pytest.mark.parametrize("name", sorted(ACTING))
def test_a_variable_changes_its_setting(name: str) -> None:
    value, field = ACTING[name]
    changed, default = Settings(env={name: value}, env_file=None), Settings(env={}, env_file=None)
    assert {n for n, v in changed.as_dict().items() if v != default.as_dict()[n]} == {field}
    assert changed.origins[field] == f"environment variable {name}"


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_variable_that_would_not_act_is_refused(name: str, tmp_path: Path) -> None:
    error = refused(tmp_path, name, REFUSED[name])
    assert error.name == name and RETIRED[name] in str(error) and "line 1" in error.source


@pytest.mark.parametrize("name", sorted(RETIRED))
def test_a_variable_that_no_longer_acts_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    error = refused(tmp_path, name, "any value")
    assert error.name == name and "removed" in error.allowed and RETIRED[name] in error.allowed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENVIRONMENT", "paper"),
        ("RL_MODE", "lifecycle"),
        ("V3_ENABLE_TRADING_CLIENT", "True"),
        ("V3_TRADING_MODE", "paper"),
        ("V3_ENABLE_WHALE_DETECTION", "0"),
    ],
)
def test_a_retired_variable_that_asks_for_what_happens_anyway_is_accepted(name: str, value: str) -> None:
    default = Settings(env={}, env_file=None)
    assert Settings(env={name: value, "V3_TRADING_MODE": "paper"}, env_file=None) == default


def test_a_name_that_other_programs_use_is_refused_only_beside_variables_of_the_older_set_up() -> None:
    Settings(env={"ENVIRONMENT": "production", "PATH": "/bin"}, env_file=None)
    with pytest.raises(ConfigError, match="ENVIRONMENT must be paper or removed"):
        Settings(env={"ENVIRONMENT": "production", "RLM_CONTRACTS": "5"}, env_file=None)
