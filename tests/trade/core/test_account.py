"""The account as recorded events imply it."""

from __future__ import annotations

import pytest

from kalshilab.market.model import Fill, Settlement
from kalshilab.trade.core.account import TradingAccount

CASH = 100_000_000


def bought(trade_id: str, size: int) -> Fill:
    """Return a purchase of YES at 50 cents without a fee."""
    return Fill(
        trade_id=trade_id, order_id="o1", ticker="A", side="bid", price=5000, size=size, fee=0, is_taker=True, ts=1
    )  # fmt: skip


def scalar(value: int, size: int, revenue: int) -> Settlement:
    return Settlement(
        ticker="A", event="E", result="scalar", settlement=value, yes_size=size, no_size=0, yes_cost=0, no_cost=0,
        revenue=revenue, fees=0, ts=2,
    )  # fmt: skip


# REST states the value of a scalar result in whole cents: 33 for 33.40 cents, and in other places 34 for 33.80.
@pytest.mark.parametrize(("value", "revenue"), [(3300, 3_340_000), (3400, 3_380_000), (3300, 3_290_000)])
def test_a_scalar_result_pays_the_revenue_that_the_exchange_states(value: int, revenue: int) -> None:
    account = TradingAccount()
    account.open_with(CASH, ())
    account.fill(bought("t1", 1000), "rlm_no")
    assert account.settle(scalar(value, 1000, revenue))
    assert account.cash == CASH - 5_000_000 + revenue and not account.total.size("A")


def test_a_fill_found_after_the_pay_out_is_paid_out_by_the_same_settlement() -> None:
    account, settlement = TradingAccount(), scalar(3300, 1000, 3_340_000)
    account.open_with(CASH, ())
    account.fill(bought("t1", 600), "rlm_no")
    assert account.settle(settlement) and not account.settle(settlement)
    account.fill(bought("t2", 400), "rlm_no")
    assert account.settle(settlement)
    assert account.cash == CASH - 5_000_000 + 3_340_000 and not account.total.size("A")
