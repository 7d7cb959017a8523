"""Paper trades and their replay: parts that add up, and a shortfall of one cent found within tens of trades."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.edge.live.replay_gap import replay_gap
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.errors import EdgeError

START = datetime(2025, 1, 1, tzinfo=UTC)


def fire(
    i: int,
    price: float | None,
    value: float | None,
    *,
    seconds: float = 0.0,
    fee: float = 0.01,
    side: str = "no",
) -> dict[str, Any]:
    at = START + timedelta(hours=i, seconds=seconds)
    filled = price is not None
    cost = price + fee if price is not None else None
    return {
        "fire": i, "ts": at, "ticker": f"T{i}", "event": f"E{i}", "series": "S", "category": "C", "side": side,
        "fired_at": 0.7, "mid": 0.7, "filled": filled, "entry_ts": at if filled else None, "price": price,
        "fee": fee if filled else None, "cost": cost, "value": value if filled else None,
        "settled_ts": at + timedelta(days=1) if filled and value is not None else None,
        "pnl": 0.0 if cost is None else None if value is None else value - cost, "exclusive": False,
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=ENTRIES_SCHEMA)


def test_each_cause_has_a_row() -> None:
    replay = table(
        [fire(0, 0.70, 1.0), fire(1, 0.70, 0.0), fire(2, 0.60, 1.0), fire(3, None, None), fire(4, 0.5, 1.0)]
    )
    paper = table(
        [
            fire(0, 0.72, 1.0, seconds=1.5, fee=0.02),
            fire(1, 0.70, 0.0),
            fire(2, None, None),
            fire(3, 0.8, 1.0),
            fire(9, 0.4, 0.0),
        ]
    )
    got = replay_gap(paper, replay)
    assert (got.n_paper, got.n_replay, got.matched, got.unfilled) == (5, 5, 4, 1)
    assert got.matched_share == pytest.approx(4 / 6)
    assert got.price.estimate == pytest.approx(1.0) and got.price.n == 2
    assert got.unfilled_edge == pytest.approx(39.0)
    total = dict(got.frame.select("step", "total").iter_rows())
    assert total == pytest.approx(
        {
            "replay": 29 - 71 + 39 + 49,
            "only in the replay": -49,
            "only on paper": -41,
            "unfilled on paper": -39,
            "filled on paper only": 19,
            "price": -2,
            "fee": -1,
            "settlement": 0,
            "paper": 26 - 71 + 0 + 19 - 41,
        }
    )
    assert "67% of signals matched" in repr(got)


def test_a_shortfall_of_one_cent_is_found_within_thirty_trades() -> None:
    rng = np.random.default_rng(1)
    shown = 0
    for _ in range(200):
        cost, won = rng.uniform(0.6, 0.85, 30), rng.random(30) < 0.75
        worse = rng.normal(0.01, 0.018, 30)
        replay = table([fire(i, c, float(v)) for i, (c, v) in enumerate(zip(cost, won, strict=True))])
        paper = table(
            [fire(i, c + w, float(v)) for i, (c, v, w) in enumerate(zip(cost, won, worse, strict=True))]
        )
        got = replay_gap(paper, replay, claim=5.0)
        shown += got.price.p <= 0.05
        assert got.residual is not None and got.residual.upper - got.residual.lower > 15
        assert got.trades_for_a_cent is not None and 8 < got.trades_for_a_cent < 50
    assert shown / 200 >= 0.8


ROWS = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.none() | st.floats(0.1, 0.9),
        st.sampled_from([None, 0.0, 0.37, 1.0]),
        st.floats(0, 9),
        st.sampled_from(["yes", "no"]),
    ),
    max_size=14,
)


@given(ROWS, ROWS)
def test_the_parts_add_up_and_each_signal_is_in_at_most_one_pair(left: list[Any], right: list[Any]) -> None:
    paper, replay = (
        table([fire(i, price, value, seconds=s, side=side) for i, price, value, s, side in rows])
        for rows in (left, right)
    )
    got = replay_gap(paper, replay, claim=1.0)
    total = dict(got.frame.select("step", "total").iter_rows())
    parts = sum(v for k, v in total.items() if k != "paper")
    assert total["paper"] == pytest.approx(parts, abs=1e-9)
    assert got.matched <= min(len(paper), len(replay))
    if not (paper["pnl"].null_count() or replay["pnl"].null_count()):
        assert total["paper"] == pytest.approx(100 * paper["pnl"].sum(), abs=1e-9)
        assert total["replay"] == pytest.approx(100 * replay["pnl"].sum(), abs=1e-9)


def test_identical_entries_have_a_gap_of_zero() -> None:
    same = table([fire(i, 0.7, float(i % 3 > 0)) for i in range(9)])
    got = replay_gap(same, same, claim=0.0)
    assert (
        got.matched_share == 1
        and got.price.estimate == 0
        and got.price.p == 1
        and got.trades_for_a_cent is None
    )
    assert got.residual is not None and got.residual.estimate == pytest.approx(100 * same["pnl"].mean())  # type: ignore[operator]
    assert math.isnan(got.unfilled_edge)


def test_the_nearest_signal_in_time_is_paired() -> None:
    replay = table([fire(0, 0.5, 1.0), fire(0, 0.6, 1.0, seconds=4)])
    paper = table([fire(0, 0.6, 1.0, seconds=3)])
    got = replay_gap(paper, replay)
    assert got.matched == 1 and got.price.estimate == 0
    assert replay_gap(paper, replay, tolerance_s=0.5).matched == 0


def test_empty_entries_are_accepted() -> None:
    empty = table([])
    got = replay_gap(empty, empty, claim=2.0)
    assert math.isnan(got.matched_share) and got.price.n == 0 and got.price.lower == -math.inf
    assert got.frame["total"].sum() == 0
    with pytest.raises(EdgeError, match="tolerance"):
        replay_gap(empty, empty, tolerance_s=-1)
    with pytest.raises(EdgeError, match="column"):
        replay_gap(empty.drop("fee"), empty)
