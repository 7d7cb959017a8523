"""Origins of settings, the text of their values, and which of two sources counts."""

from __future__ import annotations

import json
import pickle
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.config.readers import StrategyBudget, text_of
from kalshilab.config.settings import STRATEGIES, Settings
from kalshilab.config.sources import ORIGINS_VARIABLE
from kalshilab.errors import ConfigError


def test_each_value_states_its_origin(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("\nRLM_MIN_TRADES=11\nKALSHILAB_MIN_DROP=3\n")
    env = {"RLM_CONTRACTS": "7", "KALSHILAB_MIN_DROP": "4"}
    origins = Settings(env=env, env_file=file, max_orders=5).origins
    assert origins["min_trades"] == f"{file}, line 2 (RLM_MIN_TRADES)"
    assert origins["contracts"] == "environment variable RLM_CONTRACTS"
    assert origins["min_drop"] == "environment variable KALSHILAB_MIN_DROP"
    assert (origins["max_orders"], origins["min_cash"]) == ("argument", "default")
    assert set(origins) == {f.name for f in fields(Settings)}
    with pytest.raises(TypeError):
        origins["min_cash"] = "elsewhere"  # type: ignore[index]


def test_replace_keeps_the_origins_of_what_it_does_not_change() -> None:
    changed = Settings(env={"RLM_CONTRACTS": "7"}, env_file=None).replace(min_trades=9)
    assert changed.origins["contracts"] == "environment variable RLM_CONTRACTS"
    assert changed.origins["min_trades"] == "argument" and changed.origins["min_drop"] == "default"


def test_origins_survive_pickling() -> None:
    settings = Settings(env={"RLM_CONTRACTS": "7"}, env_file=None)
    assert dict(pickle.loads(pickle.dumps(settings)).origins) == dict(settings.origins)


def test_settings_with_other_origins_are_equal() -> None:
    assert Settings(env={"RLM_CONTRACTS": "50"}, env_file=None) == Settings(env={}, env_file=None)


def test_a_process_passes_origins_on_with_its_settings() -> None:
    first = Settings(env={"RLM_CONTRACTS": "7"}, env_file=None, minutes=2)
    env = {f"KALSHILAB_{name.upper()}": text_of(value) for name, value in first.as_dict().items()}
    env[ORIGINS_VARIABLE] = json.dumps(dict(first.origins))
    second = Settings(env=env, env_file=None, seed=3)
    assert second == first.replace(seed=3)
    assert dict(second.origins) == {**first.origins, "seed": "argument"}


@pytest.mark.parametrize("text", ["{", "[1]", "3"])
def test_origins_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"{ORIGINS_VARIABLE} must be a JSON object"):
        Settings(env={ORIGINS_VARIABLE: text}, env_file=None)


def test_of_strategy_and_strategies_the_one_from_the_stronger_source_counts(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("KALSHILAB_STRATEGIES=rlm_no,whale_fade\n")
    assert Settings(env={}, env_file=file).strategy_names == ("rlm_no", "whale_fade")
    weaker = Settings(env={}, env_file=file, strategies="hold,rlm_no")
    assert weaker.strategy_names == ("hold", "rlm_no")
    assert Settings(env={"V3_TRADING_STRATEGY": "hold"}, env_file=file).strategy_names == ("hold",)
    assert Settings(env={}, env_file=file).replace(strategy="custom").strategy_names == ("custom",)


@pytest.mark.parametrize("text", ["rlm_no,rlm_no", "rlm_yes", "rlm_no,,other"])
def test_strategies_must_be_known_and_different(text: str) -> None:
    with pytest.raises(ConfigError, match="strategies must be different names out of hold, rlm_no"):
        Settings(env={}, env_file=None, strategies=text)


@pytest.mark.parametrize(
    "given",
    [
        "rlm_no:cash=500:contracts=1000,whale_fade:positions=5",
        {"rlm_no": {"cash": 500, "contracts": "1000"}, "whale_fade": {"positions": 5}},
        [StrategyBudget("rlm_no", 500.0, 1000.0), StrategyBudget("whale_fade", positions=5)],
    ],
)
def test_budgets_are_read_from_text_mappings_and_values(given: object) -> None:
    settings = Settings(env={}, env_file=None, budgets=given)
    assert settings.budgets == (
        StrategyBudget("rlm_no", 500.0, 1000.0, None),
        StrategyBudget("whale_fade", None, None, 5),
    )


@pytest.mark.parametrize(
    "given",
    ["rlm_no", "rlm_no:cash", "rlm_no:cash=-1", "rlm_no:gold=1", ":cash=1", "a:cash=1,a:cash=2", 5, "a:positions=1.5"],
)  # fmt: skip
def test_budgets_of_another_form_are_refused(given: object) -> None:
    with pytest.raises(ConfigError, match="budgets must be limits of strategies, as in"):
        Settings(env={}, env_file=None, budgets=given)


budget = st.builds(
    StrategyBudget,
    st.sampled_from(STRATEGIES),
    st.none() | st.integers(1, 10**8).map(lambda c: c / 100),
    st.none() | st.integers(1, 10**8).map(lambda c: c / 100),
    st.integers(1, 10**6),
)


@given(
    budgets=st.lists(budget, max_size=4, unique_by=lambda b: b.strategy),
    tiers=st.dictionaries(st.integers(1, 99).map(float), st.floats(0.01, 100), max_size=4),
    names=st.lists(st.from_regex(r"[A-Z]{1,5}-[0-9]{1,3}", fullmatch=True), max_size=3),
    minutes=st.none() | st.floats(0.001, 10_080),
    flag=st.booleans(),
)
def test_a_variable_with_the_text_of_a_value_gives_the_value(
    budgets: list[StrategyBudget],
    tiers: dict[float, float],
    names: list[str],
    minutes: float | None,
    flag: bool,
) -> None:
    settings = Settings(
        env={}, env_file=None, budgets=budgets, size_tiers=[(0.0, 1.0), *sorted(tiers.items())], tickers=names,
        minutes=minutes, discovery=flag,
    )  # fmt: skip
    env = {f"KALSHILAB_{name.upper()}": text_of(value) for name, value in settings.as_dict().items()}
    assert Settings(env=env, env_file=None) == settings
