"""State arrays grow without losing what they hold."""

from __future__ import annotations

from kalshilab.signals.kernel import RLM_WIDTH, fresh_state, grown
from kalshilab.signals.rlm import Rlm


def test_growing_keeps_rows_and_is_rare() -> None:
    state = fresh_state(0, RLM_WIDTH)
    sizes = set()
    for markets in range(1, 5_000):
        state = grown(state, markets)
        assert state.shape[1] == RLM_WIDTH
        assert len(state) >= markets
        state[markets - 1, 0] = markets
        sizes.add(len(state))
    assert [row[0] for row in state[:4_999]] == list(range(1, 5_000))
    assert len(sizes) < 20


def test_many_live_markets() -> None:
    signal = Rlm(min_trades=2, min_drop=1)
    for market in range(3_000):
        signal.update(f"A-B-{market}", 1, 5000, 100, "yes")
    fires = [signal.update(f"A-B-{market}", 2, 4900, 100, "yes") for market in range(3_000)]
    assert all(f is not None and f.ticker == f"A-B-{i}" for i, f in enumerate(fires))
