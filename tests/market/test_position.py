"""Position: netting equals an exact ledger of cash, and closing uses the average cost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.market.position import Holding

trades = st.lists(
    st.tuples(st.sampled_from(["bid", "ask"]), st.integers(1, 9_999), st.integers(1, 30)), max_size=30
)


@settings(max_examples=300)
@given(trades, st.integers(0, 10_000))
def test_cash_is_exact_and_equals_cost_and_profit(rows: list[tuple[str, int, int]], value: int) -> None:
    holding, cash, paid = Holding(), 0, 0
    for side, price, size in rows:
        change = holding.trade(side, price, size)
        cash += change
        # A contract of NO is a short YES with a dollar of collateral, which is returned when it is closed.
        paid += -price * size if side == "bid" else price * size
    net = holding.size
    assert net == sum(n if s == "bid" else -n for s, _, n in rows)
    assert cash + holding.cost - holding.realized == 0
    assert cash == paid - (10_000 * -net if net < 0 else 0)
    revenue = holding.settle(value)
    assert cash + revenue == holding.realized == paid + value * net
    assert (holding.size, holding.cost) == (0, 0)


@given(st.integers(1, 9_999), st.integers(1, 9_999), st.integers(1, 1_000), st.integers(1, 1_000))
def test_closing_uses_the_average_cost(first: int, second: int, size: int, part: int) -> None:
    holding = Holding()
    holding.trade("bid", first, size)
    closed = min(part, size)
    assert holding.closing("ask", part) == closed
    assert holding.closing("bid", part) == 0
    before = holding.cost
    holding.trade("ask", second, closed)
    assert before - holding.cost == first * closed
    assert holding.realized == (second - first) * closed
