"""Cash, positions and profit add up for fills in any order, and each match counts once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.market.model import Fill, Position, Settlement
from kalshilab.trade.orders.portfolio import Portfolio

fills = st.lists(
    st.tuples(
        st.sampled_from(["A-B-1", "A-B-2"]), st.sampled_from(["bid", "ask"]), st.integers(1, 9_999),
        st.integers(1, 5_000), st.integers(0, 90_000),
    ),
    max_size=40,
)  # fmt: skip


def make_fills(rows: list[tuple[str, str, int, int, int]]) -> list[Fill]:
    """Return fills of rows (ticker, side, price, size, fee)."""
    return [
        Fill(trade_id=f"t{i}", order_id="o", ticker=t, side=s, price=p, size=n, fee=f, is_taker=True, ts=i)
        for i, (t, s, p, n, f) in enumerate(rows)
    ]


def settlement(ticker: str, value: int) -> Settlement:
    return Settlement(
        ticker=ticker, event="A-B", result="scalar", settlement=value, yes_size=0, no_size=0, yes_cost=0, no_cost=0,
        revenue=0, fees=0, ts=0,
    )  # fmt: skip


@settings(max_examples=300)
@given(fills, st.integers(0, 10_000))
def test_money_is_conserved(rows: list[tuple[str, str, int, int, int]], value: int) -> None:
    """After settlement, cash equals the gain of each YES trade held to its value, less fees."""
    portfolio = Portfolio(cash=10**12)
    expected = 10**12
    for fill in make_fills(rows):
        assert portfolio.fill(fill)
        assert not portfolio.fill(fill), "the same match again"
        gain = (value - fill.price) * fill.size
        expected += (gain if fill.side == "bid" else -gain) - fill.fee
    cost = sum(h.cost for h in portfolio.holdings.values())
    assert portfolio.cash + cost - portfolio.realized + portfolio.fees == 10**12
    for ticker in ("A-B-1", "A-B-2"):
        portfolio.settle(settlement(ticker, value))
        assert not portfolio.settle(settlement(ticker, value)), "paid once"
    assert portfolio.cash == expected
    assert not portfolio.open
    assert portfolio.cash == 10**12 + portfolio.realized - portfolio.fees


@given(fills)
def test_gap_names_every_difference(rows: list[tuple[str, str, int, int, int]]) -> None:
    portfolio = Portfolio(cash=10**12)
    for fill in make_fills(rows):
        portfolio.fill(fill)
    same = [Position(ticker=t, size=h.size, cost=h.cost) for t, h in portfolio.open.items()]
    assert portfolio.gap(same, portfolio.cash // 10_000 * 10_000) == {}
    assert portfolio.gap([*same, Position(ticker="X", size=5, cost=1)]) == {"X": (0, 5)}
    assert portfolio.gap(same, portfolio.cash - 20_000) == {"cash": (portfolio.cash, portfolio.cash - 20_000)}
    for position in same:
        others = [p for p in same if p is not position]
        assert portfolio.gap(others) == {position.ticker: (position.size, 0)}


def test_positions_are_valued_at_marks_or_at_cost() -> None:
    portfolio = Portfolio(cash=10**9)
    for fill in make_fills([("A-B-1", "ask", 6_000, 1_000, 0), ("A-B-2", "bid", 3_000, 1_000, 0)]):
        portfolio.fill(fill)
    assert portfolio.value({"A-B-1": 5_000}) == 5_000 * 1_000 + 3_000 * 1_000
    assert portfolio.value({}) == 4_000 * 1_000 + 3_000 * 1_000


def test_adopted_positions_are_open() -> None:
    portfolio = Portfolio(cash=0)
    portfolio.adopt(
        [Position(ticker="A-B-1", size=-500, cost=2_000_000), Position(ticker="X", size=0, cost=0)]
    )
    assert set(portfolio.open) == {"A-B-1"}
    portfolio.settle(settlement("A-B-1", 0))
    assert portfolio.cash == 500 * 10_000
    assert portfolio.realized == 500 * 10_000 - 2_000_000
