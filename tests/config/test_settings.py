"""Settings: precedence, limits and their errors, older variables, documentation, and masked secrets."""

from __future__ import annotations

import inspect
import pickle
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.config.settings import Secret, Settings, read_env_file
from kalshilab.errors import ConfigError, CredentialsMissing, EnvFileError
from kalshilab.units import dollars

PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nAb+/xyz0123456789==\n-----END PRIVATE KEY-----"


def settings(env: dict[str, str] | None = None, **given: object) -> Settings:
    return Settings(env=env or {}, env_file=None, **given)


def rejected(env: dict[str, str] | None = None, **given: object) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        settings(env, **given)
    return caught.value


# Names


OLD = [
    ("KALSHI_API_URL", "http://127.0.0.1:1/trade-api/v2", "rest_url", "http://127.0.0.1:1/trade-api/v2"),
    ("KALSHI_WS_URL", "ws://127.0.0.1:1/ws", "ws_url", "ws://127.0.0.1:1/ws"),
    ("KALSHI_API_KEY_ID", "abc", "key_id", "abc"),
    ("KALSHI_PRIVATE_KEY_CONTENT", PEM, "private_key", Secret(PEM)),
    ("KALSHI_PRIVATE_KEY_PATH", "k.pem", "private_key_path", "k.pem"),
    ("RL_MARKET_TICKERS", "A-1, B-2", "tickers", ("A-1", "B-2")),
    ("RL_ORDERBOOK_MARKET_LIMIT", "12", "max_markets", 12),
    ("LIFECYCLE_MAX_MARKETS", "13", "max_markets", 13),
    ("V3_TRADING_MAX_ORDERS", "11", "max_orders", 11),
    ("V3_TRADING_MAX_POSITION_SIZE", "99", "max_position", 99.0),
    ("V3_TRADING_STRATEGY", "hold", "strategy", "hold"),
    ("RLM_YES_THRESHOLD", "0.65", "yes_threshold", 0.65),
    ("RLM_MIN_TRADES", "15", "min_trades", 15),
    ("RLM_MIN_PRICE_DROP", "2.5", "min_drop", 2.5),
    ("RLM_CONTRACTS", "10", "contracts", 10.0),
    ("RLM_MAX_CONCURRENT", "7", "max_concurrent", 7),
    ("RLM_ALLOW_REENTRY", "false", "allow_reentry", False),
    ("RLM_ORDERBOOK_TIMEOUT", "1.5", "orderbook_timeout_s", 1.5),
    ("RLM_TIGHT_SPREAD", "1", "tight_spread_cents", 1.0),
    ("RLM_NORMAL_SPREAD", "3", "normal_spread_cents", 3.0),
    ("RLM_MAX_SPREAD", "9", "max_spread_cents", 9.0),
    ("RLM_MAX_TRADES_PER_MINUTE", "5", "attempts_per_minute", 5.0),
    ("MIN_TRADER_CASH", "5000", "min_cash", 50.0),
    ("V3_CLEANUP_ON_STARTUP", "no", "cleanup_on_startup", False),
    ("LIFECYCLE_CATEGORIES", "Sports, crypto", "categories", ("Sports", "crypto")),
    ("LIFECYCLE_SYNC_INTERVAL", "20", "sync_interval_s", 20.0),
    ("API_DISCOVERY_ENABLED", "0", "discovery", False),
    ("API_DISCOVERY_INTERVAL", "60", "discovery_interval_s", 60.0),
    ("DISCOVERY_CLOSE_MIN_MINUTES", "0", "close_min_minutes", 0.0),
    ("V3_HEALTH_CHECK_INTERVAL", "2", "health_interval_s", 2.0),
    ("V3_WS_MAX_RECONNECT_ATTEMPTS", "3", "reconnect_attempts", 3),
]


@pytest.mark.parametrize(("variable", "text", "name", "value"), OLD, ids=[o[0] for o in OLD])
def test_an_older_variable_sets_its_field(variable: str, text: str, name: str, value: object) -> None:
    assert getattr(settings({variable: text}), name) == value


def test_every_field_is_set_by_the_variable_with_its_name() -> None:
    for f in fields(Settings):
        default = getattr(settings(), f.name)
        if isinstance(default, str | int | float) and not isinstance(default, bool):
            assert getattr(settings({f"KALSHILAB_{f.name.upper()}": str(default)}), f.name) == default


def test_min_trader_cash_is_in_cents_and_min_cash_in_dollars() -> None:
    assert settings({"MIN_TRADER_CASH": "10000"}).min_cash == 100.0 == settings().min_cash
    assert settings({"KALSHILAB_MIN_CASH": "25"}).min_cash == 25.0
    assert settings({"MIN_TRADER_CASH": "0"}).min_cash == 0
    error = rejected({"MIN_TRADER_CASH": "-1"})
    assert error.name == "MIN_TRADER_CASH" and "cents" in error.allowed


@given(st.integers(0, 1_000_000))
def test_cash_given_in_cents_is_converted_exactly(cents: int) -> None:
    assert dollars(settings({"MIN_TRADER_CASH": str(cents)}).min_cash) == cents * 10_000


def test_variables_without_our_prefixes_are_ignored() -> None:
    settings({"PATH": "/bin", "RLIMIT": "1", "MY_RLM_THING": "1"})


def test_variables_of_the_process_are_not_settings() -> None:
    settings({"KALSHILAB_RUN": "r1", "KALSHILAB_HOME": "/x"})


# Precedence


def test_precedence_is_keyword_environment_file_default(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RLM_MIN_TRADES=11\nKALSHILAB_MIN_DROP=3\nRLM_CONTRACTS=7\n")
    env = {"RLM_MIN_TRADES": "12", "KALSHILAB_MIN_DROP": "4"}
    s = Settings(env=env, env_file=file, min_trades=13)
    assert (s.min_trades, s.min_drop, s.contracts, s.max_spread_cents) == (13, 4.0, 7.0, 10.0)


def test_the_newer_variable_wins_within_a_source_and_the_environment_wins_over_the_file(
    tmp_path: Path,
) -> None:
    assert settings({"RLM_MIN_TRADES": "11", "KALSHILAB_MIN_TRADES": "12"}).min_trades == 12
    file = tmp_path / ".env"
    file.write_text("KALSHILAB_MIN_TRADES=12\n")
    assert Settings(env={"RLM_MIN_TRADES": "11"}, env_file=file).min_trades == 11


def test_the_process_environment_and_the_working_folder_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("RLM_MIN_TRADES=11\n")
    monkeypatch.setenv("RLM_CONTRACTS", "3")
    s = Settings()
    assert (s.min_trades, s.contracts) == (11, 3.0)


def test_a_missing_file_is_an_error_only_for_read_env_file(tmp_path: Path) -> None:
    Settings(env={}, env_file=tmp_path / "none")
    with pytest.raises(EnvFileError, match="no such file"):
        read_env_file(tmp_path / "none")


def test_replace_does_not_read_the_environment_again(monkeypatch: pytest.MonkeyPatch) -> None:
    s = settings(min_trades=9, private_key=PEM, key_id="abc")
    monkeypatch.setenv("RLM_CONTRACTS", "3")
    other = s.replace(minutes=1)
    assert other.minutes == 1 and other.contracts == 50.0
    assert {**other.as_dict(), "minutes": None} == s.as_dict()


# Refusals


RANGES = [
    ("RLM_YES_THRESHOLD", "1.1"), ("RLM_YES_THRESHOLD", "-0.1"), ("RLM_MIN_TRADES", "0"), ("RLM_MIN_TRADES", "2.5"),
    ("RLM_MIN_TRADES", "soon"), ("RLM_MIN_TRADES", ""), ("RLM_MIN_PRICE_DROP", "nan"), ("RLM_MIN_PRICE_DROP", "100"),
    ("RLM_CONTRACTS", "0"), ("RLM_CONTRACTS", "inf"), ("RLM_CONTRACTS", "-inf"), ("RLM_ALLOW_REENTRY", "maybe"),
    ("RLM_MAX_SPREAD", "-1"), ("LIFECYCLE_CATEGORIES", " , "), ("V3_TRADING_STRATEGY", "whale"),
    ("KALSHILAB_VENUE", "production"), ("KALSHILAB_VENUE", ""), ("KALSHILAB_MINUTES", "0"), ("KALSHILAB_SPEED", "0"),
    ("KALSHILAB_SPEED", "fast"), ("KALSHILAB_SEED", "-1"), ("KALSHILAB_OUT", "  "), ("V3_WS_MAX_RECONNECT_ATTEMPTS", "-1"),
    ("KALSHILAB_SIZE_TIERS", "10:1"), ("KALSHILAB_SIZE_TIERS", "0:1,10:2,5:3"), ("KALSHILAB_SIZE_TIERS", "0:0"),
    ("KALSHILAB_SIZE_TIERS", "0"), ("LIFECYCLE_MAX_MARKETS", "0"), ("LIFECYCLE_MAX_MARKETS", "1e9"),
]  # fmt: skip


@pytest.mark.parametrize(("variable", "text"), RANGES)
def test_an_error_states_variable_value_allowed_values_and_source(
    variable: str, text: str, tmp_path: Path
) -> None:
    error = rejected({variable: text})
    assert (error.name, error.value, error.source) == (variable, text, "environment")
    assert error.allowed
    for word in (variable, repr(text), error.allowed, "environment"):
        assert word in str(error)
    file = tmp_path / "my.env"
    file.write_text(f"# mine\n\n{variable}='{text}'\n")
    with pytest.raises(ConfigError) as caught:
        Settings(env={}, env_file=file)
    assert caught.value.source == f"{file}, line 3" and caught.value.name == variable


@pytest.mark.parametrize(
    "given",
    [
        {"min_trades": True}, {"minutes": True}, {"minutes": "x"}, {"contracts": None}, {"categories": 5},
        {"size_tiers": 3}, {"size_tiers": [(0, 1), (0, 2)]}, {"venue": None}, {"out": 3}, {"tape": np.zeros(3)},
    ],
)  # fmt: skip
def test_a_keyword_of_the_wrong_type_is_rejected(given: dict[str, object]) -> None:
    assert rejected(**given).source == "keyword"


def test_settings_accept_text_paths_lists_and_flags(tmp_path: Path) -> None:
    s = settings(
        {"KALSHILAB_SIZE_TIERS": "0:1,10:1.5", "KALSHILAB_SPEED": "2.5", "KALSHILAB_MINUTES": ""},
        tape=tmp_path / "t.parquet",
        categories=["a", "b"],
        tickers=["X"],
    )
    assert s.size_tiers == ((0.0, 1.0), (10.0, 1.5)) and s.speed == 2.5 and s.minutes is None
    assert s.tape == str(tmp_path / "t.parquet") and s.categories == ("a", "b") and s.tickers == ("X",)
    assert settings(categories="all").categories == ("all",)
    for text in ("true", "1", "YES", "on"):
        assert settings({"RLM_ALLOW_REENTRY": text}).allow_reentry is True


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("RLM_MIN_TRADE", "RLM_MIN_TRADES"),
        ("KALSHILAB_MINUTE", "KALSHILAB_MINUTES"),
        ("LIFECYCLE_CATEGORY", "LIFECYCLE_CATEGORIES"),
    ],
)
def test_a_misspelt_variable_is_an_error_that_suggests_the_right_one(
    name: str, close: str, tmp_path: Path
) -> None:
    error = rejected({name: "1"})
    assert error.name == name and close in str(error)
    file = tmp_path / ".env"
    file.write_text(f"\n{name}=1\n")
    with pytest.raises(ConfigError, match=r"line 2"):
        Settings(env={}, env_file=file)


def test_a_misspelt_keyword_is_an_error_that_suggests_the_right_one() -> None:
    error = rejected(minuets=3)
    assert str(error) == "unknown setting 'minuets'; did you mean 'minutes'?"
    assert (error.name, error.value, error.source) == ("minuets", None, "keyword")
    assert str(rejected({"KALSHILAB_MINUETS": "3"})) == (
        "unknown setting 'KALSHILAB_MINUETS' (environment); did you mean 'KALSHILAB_MINUTES'?"
    )


def test_an_unknown_name_that_resembles_nothing_lists_the_choices() -> None:
    assert "unknown setting 'zzz'; choose from allow_reentry, " in str(rejected(zzz=1))


@pytest.mark.parametrize(
    "name",
    [
        "V3_TRADING_MAX_ORDER",
        "MIN_TRADER_CASHH",
        "DISCOVERY_CLOSE_MIN_MINUTE",
        "API_DISCOVERY_INTERVALL",
        "KALSHI_APIKEY_ID",
    ],
)
def test_a_misspelt_variable_with_any_of_our_prefixes_is_an_error(name: str) -> None:
    rejected({name: "5"})


# The .env file


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / ".env"
    file.write_text(text, encoding="utf-8")
    return file


def test_every_form_of_a_line_is_parsed(tmp_path: Path) -> None:
    text = "A=1\nexport B=2 # two\nC='x # y'\nD=\"a\\nb\"\nE=p$w${d}\n\n# F=1\nG=\nA=9\n"
    values, lines = read_env_file(write(tmp_path, text))
    assert values == {"A": "9", "B": "2", "C": "x # y", "D": "a\nb", "E": "p$w${d}", "G": ""}
    assert lines == {"A": 9, "B": 2, "C": 3, "D": 4, "E": 5, "G": 8}


@given(
    before=st.lists(st.sampled_from(["", "# note", "OK=1", "  "]), max_size=5),
    body=st.integers(0, 6),
    between=st.lists(st.sampled_from(["", "# note", "X=1", "Y='2'"]), max_size=5),
    bad=st.sampled_from(["=1", "B C=1", "B='open", 'B="x" y', "NAME"]),
    quote=st.sampled_from("'\""),
)
def test_an_error_after_a_multi_line_value_names_the_right_line(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[str],
    body: int,
    between: list[str],
    bad: str,
    quote: str,
) -> None:
    pem = f"K={quote}-----BEGIN\n" + "abc/+=\n" * body + f"-----END{quote}"
    lines = [*before, *pem.split("\n"), *between, bad]
    file = write(tmp_path_factory.mktemp("env"), "\n".join(lines) + "\nZ=1\n")
    with pytest.raises(EnvFileError) as caught:
        read_env_file(file)
    assert (caught.value.line, caught.value.path) == (len(lines), file)
    assert f"line {len(lines)}" in str(caught.value)


def test_a_value_after_a_multi_line_value_has_the_right_line(tmp_path: Path) -> None:
    file = write(tmp_path, f'KALSHI_PRIVATE_KEY_CONTENT="{PEM}"\n\nRLM_MIN_TRADES=none\n')
    with pytest.raises(ConfigError) as caught:
        Settings(env={}, env_file=file)
    assert caught.value.source == f"{file}, line 6" and PEM not in str(caught.value)


def test_a_multi_line_key_is_read_unchanged(tmp_path: Path) -> None:
    s = Settings(env={}, env_file=write(tmp_path, f'KALSHI_PRIVATE_KEY_CONTENT="{PEM}"\n'))
    assert s.private_key is not None and s.private_key.reveal() == PEM


def test_a_byte_order_mark_and_windows_line_ends_are_accepted(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"\xef\xbb\xbfRLM_MIN_TRADES=11\r\nRLM_CONTRACTS=2\r\n")
    s = Settings(env={}, env_file=file)
    assert (s.min_trades, s.contracts) == (11, 2.0)


def test_a_file_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"A=\xff\xfe\n")
    with pytest.raises(EnvFileError, match="UTF-8"):
        read_env_file(tmp_path / ".env")
    with pytest.raises(EnvFileError, match="cannot be opened"):
        read_env_file(tmp_path)


# Secrets


def test_a_secret_is_masked_and_not_pickled() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2" and secret == Secret("hunter2") != Secret("other")
    for text in (repr(secret), str(secret), f"{secret}", f"{secret!r}", repr([secret]), "%s" % secret):  # noqa: UP031
        assert "hunter2" not in text
    with pytest.raises(TypeError) as caught:
        pickle.dumps(secret)
    assert "hunter2" not in str(caught.value)


def test_key_and_key_id_are_masked_in_settings() -> None:
    s = settings(key_id="my-key-id-123", private_key=PEM, min_trades=9)
    for text in (repr(s), str(s), f"{s}", repr(s.as_dict()["private_key"])):
        assert "MIIE" not in text and "my-key-id" not in text
    assert "min_trades=9" in repr(s)
    with pytest.raises(TypeError) as caught:
        pickle.dumps(s)
    assert "MIIE" not in str(caught.value)


@pytest.mark.parametrize("value", [b"-----BEGIN MIIE", 5, ["MIIE"]])
def test_an_error_does_not_repeat_a_key_of_the_wrong_type(value: object) -> None:
    error = rejected(private_key=value)
    assert error.value == "***" and "MIIE" not in str(error)
    assert "MIIE" not in str(rejected(key_id=[value]))


def test_an_error_does_not_repeat_a_key_under_a_misspelt_name() -> None:
    assert "MIIE" not in str(rejected({"KALSHILAB_PRIVATE_KEY_CONTENT": PEM}))
    assert "MIIE" not in str(rejected(private_key_pem=PEM))


def test_an_error_does_not_repeat_a_key_without_quotes(tmp_path: Path) -> None:
    file = write(tmp_path, f"KALSHI_PRIVATE_KEY_CONTENT={PEM}\n")
    with pytest.raises(EnvFileError) as caught:
        read_env_file(file)
    assert "MIIE" not in str(caught.value)


def test_require_credentials_names_the_missing_variables() -> None:
    settings(venue="embedded").require_credentials()
    with pytest.raises(CredentialsMissing) as caught:
        settings(venue="demo").require_credentials()
    assert len(caught.value.missing) == 2 and "KALSHI_API_KEY_ID" in str(caught.value)
    with pytest.raises(CredentialsMissing) as caught:
        settings(venue="demo", key_id="abc").require_credentials()
    assert len(caught.value.missing) == 1
    settings(venue="demo", key_id="abc", private_key=PEM).require_credentials()
    settings(venue="demo", key_id="abc", private_key_path="k.pem").require_credentials()


def test_older_variables_of_whales_and_the_band_keep_their_units() -> None:
    env = {
        "WHALE_MIN_SIZE_CENTS": "25000", "WHALE_WINDOW_MINUTES": "60", "WHALE_QUEUE_SIZE": "10",
        "YES8090_MIN_PRICE": "78", "YES8090_MAX_PRICE": "92", "YES8090_CONTRACTS": "10",
        "YES8090_TIER_A_CONTRACTS": "15", "V3_TRADING_STRATEGY": "whale_fade",
    }  # fmt: skip
    s = Settings(env=env, env_file=None)
    assert (s.strategy, s.whale_min_value, s.whale_window_s, s.whale_top) == ("whale_fade", 250.0, 3600.0, 10)
    assert (s.yes8090_low, s.yes8090_high) == (78.0, 92.0)
    assert (s.yes8090_contracts, s.yes8090_tier_a_contracts) == (10.0, 15.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WHALE_WINDOW_MINUTES", "1441", "seconds (given in minutes) from 1 to 86,400"),
        ("WHALE_MIN_SIZE_CENTS", "1e12", "dollars (given in cents) from 0 to 1,000,000,000"),
        ("KALSHILAB_WHALE_TOP", "0", "a whole number of whales from 1"),
        ("KALSHILAB_STRATEGY", "whale_chaser", "whale_fade, whale_follower, yes_80_90, paper_test, custom"),
    ],
)
def test_an_error_states_the_limits_in_the_unit_of_the_field(name: str, value: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(env={name: value}, env_file=None)
    assert words in str(caught.value)


def test_a_repr_shows_only_the_name_of_a_key_file() -> None:
    shown = repr(settings(venue="demo", key_id="abc", private_key_path="/home/ann/.kalshi/key.pem"))
    assert "private_key_path='…/key.pem'" in shown and "ann" not in shown and "abc" not in shown


# Documentation


def test_the_signature_lists_every_field_with_its_type_and_default() -> None:
    parameters = inspect.signature(Settings).parameters
    assert list(parameters) == [f.name for f in fields(Settings)] + ["env", "env_file"]
    for f in fields(Settings):
        assert parameters[f.name].default == f.default
    assert parameters["minutes"].annotation == (float | None)
    assert parameters["tickers"].annotation == tuple[str, ...]


def test_the_docstring_documents_every_field_with_limits_and_default() -> None:
    text = " ".join((inspect.getdoc(Settings) or "").split())
    for f in fields(Settings):
        entry = (
            f"{f.name}: {f.metadata['doc']}. Allowed: {f.metadata['reader'].allowed}. Default: {f.default!r}."
        )
        assert " ".join(entry.split()) in text


@pytest.mark.parametrize("use_jedi", [True, False])
def test_ipython_completes_the_fields(use_jedi: bool) -> None:
    from IPython.core.completer import provisionalcompleter
    from IPython.core.interactiveshell import InteractiveShell

    completer = InteractiveShell(user_ns={"Settings": Settings}).Completer
    completer.use_jedi = use_jedi
    with provisionalcompleter():
        texts = {c.text for c in completer.completions("Settings(", len("Settings("))}
    assert {f"{f.name}=" for f in fields(Settings)} <= texts


# Renamed fields


RENAMED = [
    ("discovery_interval", "discovery_interval_s"),
    ("sync_interval", "sync_interval_s"),
    ("health_interval", "health_interval_s"),
    ("whale_window", "whale_window_s"),
    ("orderbook_timeout", "orderbook_timeout_s"),
    ("high_drop", "high_drop_cents"),
    ("tight_spread", "tight_spread_cents"),
    ("normal_spread", "normal_spread_cents"),
    ("max_spread", "max_spread_cents"),
]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_the_old_name_of_a_field_works_and_warns(old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"the keyword '{old}' is now '{new}'") as warned:
        made = settings(**{old: 7})
    assert getattr(made, new) == 7
    with pytest.warns(DeprecationWarning, match=f"'{old}'") as warned:
        assert getattr(made.replace(**{old: 8}), new) == 8
    assert warned[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=f"Settings.{old} is now Settings.{new}"):
        assert getattr(made, old) == 7
    assert getattr(settings({f"KALSHILAB_{old.upper()}": "9"}), new) == 9
    with pytest.raises(TypeError, match=f"got both '{old}' and '{new}'"):
        settings(**{old: 1, new: 1})
