"""State arrays grow without losing rows, and the loop continues after a full buffer."""

from __future__ import annotations

import numpy as np
import pytest

from kalshilab.signals import Rlm, WhaleFollow
from kalshilab.signals.engine import state_pass
from kalshilab.signals.engine.kernel import fresh_state, grown


def test_growing_keeps_rows_and_happens_rarely() -> None:
    state = fresh_state(0, Rlm().fields)
    sizes = set()
    for markets in range(1, 5_000):
        state = grown(state, markets)
        assert len(state) >= markets
        state[markets - 1]["n"] = markets
        sizes.add(len(state))
    assert state["n"][:4_999].tolist() == list(range(1, 5_000))
    assert len(sizes) < 20


def test_live_state_grows_with_the_number_of_markets() -> None:
    signal = Rlm(min_trades=2, min_drop=1)
    for market in range(3_000):
        signal.update(f"A-B-{market}", 1, 5000, 100, "yes")
    fires = [signal.update(f"A-B-{market}", 2, 4900, 100, "yes") for market in range(3_000)]
    assert all(f is not None and f.ticker == f"A-B-{i}" for i, f in enumerate(fires))


@pytest.mark.parametrize(
    "prints", [0, 1, state_pass.BUFFER - 1, state_pass.BUFFER, state_pass.BUFFER + 1, 3 * state_pass.BUFFER]
)
def test_fires_beyond_the_capacity_of_a_buffer_are_kept(prints: int) -> None:
    ones = np.ones(prints, np.uint32)
    columns = state_pass.PrintArrays(
        ones * 7, np.arange(prints), np.full(prints, 5000, np.int16), ones * 100, np.zeros(prints, np.uint8)
    )
    fires = WhaleFollow(min_value=0).begin().push(columns, 1000)
    assert fires.row.tolist() == list(range(1000, 1000 + prints))
    assert fires.seen["whales"].tolist() == list(range(1, prints + 1))
    assert (fires.market == 7).all()
