"""Limits that contradict each other are refused at the start of a session, one sentence each."""

from __future__ import annotations

import pytest

from kalshilab.config.contradictions import check_limits
from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError
from kalshilab.trade.core.exposure import TraderRules

CONTRADICTIONS: list[tuple[dict[str, object], str]] = [
    ({"contracts": 60, "max_position": 50}, "contracts must be at most max_position (50), or no order could be placed, got 60.0"),
    ({"contracts": 60, "group_contracts": 50}, "contracts must be at most group_contracts (50), or no order could be placed, got 60.0"),
    ({"strategy": "yes_80_90", "max_position": 120}, "yes8090_tier_a_contracts must be at most max_position (120), or no order could be placed, got 150.0"),
    ({"balance": 50}, "min_cash must be less than balance (50), or no order could be placed, got 100.0"),
    ({"balance": 500, "daily_loss": 500}, "daily_loss must be less than balance (500), or it could never act, got 500.0"),
    ({"max_event": 300, "max_category": 200}, "max_event must be at most max_category (200), or it could never act, got 300.0"),
    ({"tight_spread_cents": 5}, "tight_spread_cents must be at most normal_spread_cents (4), or it could never act, got 5.0"),
    ({"max_spread_cents": 3}, "normal_spread_cents must be at most max_spread_cents (3), or it could never act, got 4.0"),
    ({"yes8090_low": 95}, "yes8090_low must be at most yes8090_high (90), or no order could be placed, got 95.0"),
    ({"tickers": "A,B,C", "max_markets": 2}, "max_markets must be at least the number of tickers (3), or it could never act, got 2"),
    ({"strategy": "hold", "strategies": "rlm_no,custom"}, "strategy must be one of strategies (rlm_no, custom) or not set, got 'hold'"),
    ({"budgets": "hold:cash=1"}, "budgets must be limits of rlm_no, the strategies that trade"),
    ({"budgets": "rlm_no:contracts=10"}, "budgets must be at least contracts (50) for rlm_no, or no order could be placed"),
    ({"budgets": "rlm_no:positions=10", "max_concurrent": 9}, "budgets must be at most max_concurrent (9) positions, or it could never act"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "sentence"), CONTRADICTIONS, ids=[" ".join(g) for g, _ in CONTRADICTIONS])
def test_a_contradiction_is_refused_with_one_sentence(given: dict[str, object], sentence: str) -> None:
    settings = Settings(env={}, env_file=None, **given)
    with pytest.raises(ConfigError) as caught:
        TraderRules.of(settings)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"venue": "demo", "balance": 50},
        {"strategies": "rlm_no,whale_fade", "budgets": "whale_fade:contracts=50:positions=1000"},
        {"strategy": "hold", "contracts": 5000},
        {"strategies": "whale_follower,paper_test", "contracts": 5000},
        {"group_contracts": 0, "contracts": 900},
        {"max_event": 300},
        {"strategy": "rlm_no", "strategies": "hold,rlm_no"},
    ],
)
def test_limits_that_agree_are_accepted(given: dict[str, object]) -> None:
    check_limits(Settings(env={}, env_file=None, **given))


def test_a_contradiction_names_the_variable_that_it_came_from() -> None:
    with pytest.raises(ConfigError, match=r"got 5000.0 \(environment variable RLM_CONTRACTS\)"):
        check_limits(Settings(env={"RLM_CONTRACTS": "5000"}, env_file=None))
