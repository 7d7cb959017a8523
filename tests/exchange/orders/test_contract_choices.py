"""The open questions of the contract can be answered by choice, and responses follow the choice."""

from __future__ import annotations

import pytest
from order_bench import Bench

from kalshilab.errors import ExchangeError
from kalshilab.exchange.orders.contract_choices import Choices, Refusal


def test_refusals_follow_the_choices() -> None:
    bench = Bench(choices=Choices(market_closed=(409, "MARKET_INACTIVE"), trading_paused=(400, "paused")))
    order_id = bench.made()
    bench.listing.status = "inactive"
    for status, answer in (bench.make(), bench.amend(order_id, count="1.00")):
        assert (status, answer["error"]["code"]) == (409, "MARKET_INACTIVE")
    bench.listing.status = "active"
    bench.ex.life.close_early(bench.ticker)
    status, answer = bench.cancel(order_id)
    assert (status, answer["error"]["code"]) == (409, "MARKET_INACTIVE")
    bench.ex.trading_active = False
    status, answer = bench.make()
    assert (status, answer["error"]["code"]) == (400, "paused")


@pytest.mark.parametrize(("boundary", "taken"), [("reached", 400), ("exceeded", 201)])
def test_a_group_triggers_at_the_chosen_boundary(boundary: str, taken: int) -> None:
    bench = Bench(choices=Choices(group_boundary=boundary))  # type: ignore[arg-type]
    group = bench.group("4.00")
    assert bench.made(order_group_id=group, price="0.4400", count="4.00")
    assert bench.make(order_group_id=group)[0] == taken


def test_invalid_choices_are_refused() -> None:
    assert Choices(market_closed=(409, "x")).market_closed == Refusal(409, "x")  # type: ignore[arg-type]
    with pytest.raises(ExchangeError, match="group_boundary must be 'reached' or 'exceeded', got 'near'"):
        Choices(group_boundary="near")  # type: ignore[arg-type]
    with pytest.raises(ExchangeError, match="400 to 499"):
        Choices(trading_paused=(200, "fine"))  # type: ignore[arg-type]
