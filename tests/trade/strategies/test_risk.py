"""Each limit accepts an order at the limit and refuses one beyond it."""

from __future__ import annotations

from typing import Any

import pytest

from kalshilab.config.settings import Settings
from kalshilab.market.model import Order
from kalshilab.trade.strategies.risk import RiskLimits, refusal
from kalshilab.units import dollars

LIMITS = RiskLimits(max_orders=3, max_position=10_000, max_concurrent=2, min_cash=dollars(100))


def order(ticker: str = "A", side: str = "ask", remaining: int = 1_000, price: int = 6_000) -> Order:
    return Order(
        order_id=f"{ticker}{side}{remaining}", ticker=ticker, side=side, price=price, status="resting",
        initial=remaining, filled=0, remaining=remaining,
    )  # fmt: skip


def ask(**changed: Any) -> str | None:
    facts: dict[str, Any] = {
        "ticker": "A", "side": "ask", "price": 6_000, "size": 5_000, "may_trade": True, "cash": dollars(1_000),
        "position": 0, "markets_held": (), "orders": (),
    }  # fmt: skip
    return refusal(LIMITS, **(facts | changed))


def test_an_order_within_all_limits_is_accepted() -> None:
    assert ask() is None


def test_a_session_that_may_not_trade_refuses() -> None:
    assert ask(may_trade=False) == "not ready"


def test_the_minimum_cash_is_exact_to_the_cent() -> None:
    assert ask(size=1, cash=dollars("99.99")) == "low cash"
    assert ask(size=1, cash=dollars(100)) is None
    # A resting order of 10 NO at 40 cents reserves $4.
    assert ask(size=1, cash=dollars("103.99"), orders=[order()]) == "low cash"
    assert ask(size=1, cash=dollars(104), orders=[order()]) is None


def test_cash_must_cover_cost_and_fee() -> None:
    assert ask(size=10_000, price=100, cash=dollars("100.00")) is None, (
        "100 NO at 99 cents, and seven cents of fee"
    )
    assert ask(size=10_000, price=100, cash=dollars("100.00"), orders=[]) is None
    limits = RiskLimits(max_orders=3, max_position=100_000, max_concurrent=2, min_cash=0)
    facts: dict[str, Any] = {
        "ticker": "A", "side": "bid", "price": 5_000, "size": 20_000, "may_trade": True, "position": 0,
        "markets_held": (), "orders": (),
    }  # fmt: skip
    assert refusal(limits, cash=dollars("103.49"), **facts) == "cash"
    assert refusal(limits, cash=dollars("103.50"), **facts) is None


def test_the_number_of_resting_orders_is_limited() -> None:
    orders = [order("X", remaining=n) for n in (1, 2, 3)]
    assert ask(orders=orders) == "orders"
    assert ask(orders=orders[:2], markets_held=("A",)) is None


@pytest.mark.parametrize(
    ("side", "position", "size", "refused"),
    [
        ("ask", 0, 10_000, False), ("ask", 0, 10_001, True),
        ("ask", -9_000, 1_000, False), ("ask", -9_000, 1_001, True),  # NO on NO adds
        ("bid", -9_000, 15_000, False),  # through zero, within the limit on the other side
        ("bid", 9_000, 1_001, True),
        ("bid", -20_000, 5_000, False),  # beyond the limit already, but this reduces
    ],
)  # fmt: skip
def test_the_position_limit_depends_on_the_side(side: str, position: int, size: int, refused: bool) -> None:
    reason = ask(side=side, position=position, size=size, cash=dollars(100_000), markets_held=("A",))
    assert reason == ("position" if refused else None)


def test_resting_orders_count_as_filled() -> None:
    resting = [order("A", "ask", 6_000)]
    assert ask(size=4_000, orders=resting) is None
    assert ask(size=4_001, orders=resting) == "position"
    assert ask(size=4_001, orders=[order("A", "bid", 6_000)]) is None


def test_the_number_of_markets_is_limited() -> None:
    assert ask(markets_held=("X", "Y")) == "concurrent"
    assert ask(markets_held=("X", "A")) is None


def test_the_former_name_of_the_limits_warns() -> None:
    from kalshilab.trade import strategies

    with pytest.warns(DeprecationWarning, match="is now RiskLimits"):
        assert strategies.Limits is RiskLimits


def test_limits_are_read_from_settings() -> None:
    limits = RiskLimits.of(Settings(env={"MIN_TRADER_CASH": "10000"}, env_file=None))
    assert limits == RiskLimits(
        max_orders=100, max_position=100_000, max_concurrent=1_000, min_cash=dollars(100)
    )
