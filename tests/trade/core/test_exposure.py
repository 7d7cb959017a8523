"""The limits of a session: read from the settings, and checked before each order."""

from __future__ import annotations

import msgspec
import pytest

from kalshilab.config.settings import Settings
from kalshilab.trade.core.account import TradingAccount
from kalshilab.trade.core.exposure import Budget, Exposure, RiskRules, TraderRules, budgets_of
from kalshilab.trade.core.strategy_runs import strategies_of
from kalshilab.units import contracts, dollars

COST = dollars(50.0) + 1_750_000
"""Cost of 100 contracts at 50 cents, with the fee."""


def settings(**given: object) -> Settings:
    return Settings(env={}, env_file=None, **given)


RULES = [
    ({"daily_loss": 250}, "daily_loss", 250_000_000),
    ({"max_event": 1.5}, "max_event", 1_500_000),
    ({"max_category": 20}, "max_category", 20_000_000),
    ({"collar_cents": 12.5}, "collar", 1_250),
    ({"min_cash": 75}, "min_cash", 75_000_000),
]


@pytest.mark.parametrize(("given", "name", "value"), RULES, ids=[r[1] for r in RULES])
def test_a_limit_of_the_settings_reaches_the_rules(given: dict[str, object], name: str, value: int) -> None:
    assert getattr(RiskRules.of(settings(**given)), name) == value


TIMES = [
    ("order_life_s", "order_life_us", 120, 120_000_000, 300_000_000),
    ("stale_feed_s", "stale_feed_us", 5, 5_000_000, 30_000_000),
    ("stale_book_s", "stale_book_us", 7, 7_000_000, 60_000_000),
    ("orderbook_timeout_s", "book_wait_us", 1.5, 1_500_000, 2_000_000),
    ("group_contracts", "group_contracts", 500, 500, 10_000),
]


@pytest.mark.parametrize(("name", "rule", "given", "value", "default"), TIMES, ids=[t[0] for t in TIMES])
def test_what_guards_against_a_dead_session_applies_where_the_exchange_outlives_it(
    name: str, rule: str, given: float, value: int, default: int
) -> None:
    demo = settings(venue="demo", **{name: given})
    assert getattr(TraderRules.of(demo), rule) == value
    assert getattr(TraderRules.of(settings(venue="shadow")), rule) == default
    off = 0 if rule == "group_contracts" else None
    assert getattr(TraderRules.of(demo.replace(**{name: 0})), rule) == off
    assert getattr(TraderRules.of(demo.replace(venue="embedded")), rule) == off
    assert getattr(TraderRules.of(demo, real_time=False), rule) == off
    assert getattr(TraderRules.of(demo.replace(venue="embedded"), real_time=True), rule) == value


def test_an_outage_is_waited_out_without_limit_by_default() -> None:
    assert TraderRules.of(settings()).max_outage_us is None
    assert TraderRules.of(settings(max_outage_s=90)).max_outage_us == 90_000_000


def test_each_strategy_has_the_budget_of_the_settings() -> None:
    given = settings(strategies="rlm_no,yes_80_90", budgets="yes_80_90:cash=10.5:contracts=200:positions=3")
    assert budgets_of(given) == {
        "rlm_no": Budget(),
        "yes_80_90": Budget(cash=dollars(10.5), contracts=contracts(200), positions=3),
    }
    assert [(name, strategy.name) for name, strategy, _ in strategies_of(given)] == [
        ("rlm_no", "rlm_no"),
        ("yes_80_90", "yes_80_90"),
    ]
    assert [name for name, _, _ in strategies_of(settings(strategy="hold"))] == ["hold"]


OPEN = RiskRules(max_orders=10, max_position=contracts(1_000), max_concurrent=10, min_cash=0)


@pytest.mark.parametrize(
    ("limit", "cash", "last_price", "reason"),
    [
        ({}, COST, 0, None),
        ({}, COST - 1, 0, "cash"),
        # The cash that must remain is that after the order, its fee included.
        ({"min_cash": dollars(100)}, COST + dollars(100), 0, None),
        ({"min_cash": dollars(100)}, COST + dollars(100) - 1, 0, "low cash"),
        ({"max_event": COST}, dollars(1_000), 0, None),
        ({"max_event": COST - 1}, dollars(1_000), 0, "event"),
        ({"max_category": COST - 1}, dollars(1_000), 0, "category"),
        ({"collar": 500}, dollars(1_000), 5_500, None),
        ({"collar": 499}, dollars(1_000), 5_500, "collar"),
        ({"collar": 499}, dollars(1_000), 0, None),
        ({"max_position": contracts(99)}, dollars(1_000), 0, "position"),
    ],
)
def test_an_order_is_refused_just_beyond_a_limit(
    limit: dict[str, int], cash: int, last_price: int, reason: str | None
) -> None:
    account = TradingAccount()
    account.open_with(cash, ())
    refused = Exposure(account).refusal(
        msgspec.structs.replace(OPEN, **limit), Budget(), owner="one", ticker="A", event="E", category="C",
        side="bid", price=5_000, size=contracts(100), last_price=last_price,
    )  # fmt: skip
    assert refused == reason
