"""Capacity: a book computed by hand, a tape of known volume, and a fair market without capacity."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kalshilab as kl
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.edge.sizing.capacity import book_capacity, taker_fee, tape_capacity
from kalshilab.errors import EdgeError, TapeError
from kalshilab.tape import synth
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.schema import TAPE_SCHEMA, with_codes

START = datetime(2025, 1, 1, tzinfo=UTC)


def free(prices: Any) -> Any:
    return np.zeros_like(np.asarray(prices, float))


def prints(*rows: tuple[float, str, int, float, str]) -> pl.DataFrame:
    """Return a tape of (seconds, ticker, YES price in cents, contracts, taker)."""
    frame = pl.DataFrame(
        [
            {
                "ts": START + timedelta(seconds=s),
                "ticker": ticker,
                "price": price * 100,
                "size": round(size * 100),
                "taker": taker,
                "trade_id": None,
            }
            for s, ticker, price, size, taker in rows
        ],
        schema={name: kind for name, kind in TAPE_SCHEMA.items() if name != "market"},
    )
    return with_codes(frame).select(TAPE_SCHEMA.names())


def fires(*rows: tuple[float, str, str, float | None]) -> pl.DataFrame:
    """Return entries at (seconds, ticker, side, value)."""
    return pl.DataFrame(
        [
            {
                "fire": i, "ts": START + timedelta(seconds=s), "ticker": ticker, "event": ticker, "series": "S",
                "category": "C", "side": side, "fired_at": 0.7, "mid": 0.7, "filled": True,
                "entry_ts": START + timedelta(seconds=s + 5), "price": 0.7, "fee": 0.0, "cost": 0.7, "value": value,
                "settled_ts": START + timedelta(days=1), "pnl": None if value is None else value - 0.7,
                "exclusive": False,
            }
            for i, (s, ticker, side, value) in enumerate(rows)
        ],
        schema=ENTRIES_SCHEMA,
    )  # fmt: skip


# ---------------------------------------------------------------- fees


def test_t12_fees_of_large_orders_equal_the_published_table() -> None:
    golden = {0.50: 1.75, 0.67: 1.55, 0.73: 1.38, 0.75: 1.32, 0.90: 0.63, 0.95: 0.34, 0.97: 0.21}
    # The published table is for 100 contracts, rounded up to the cent.
    for price, cents in golden.items():
        assert math.ceil(100 * 100 * taker_fee(price)[0] - 1e-6) / 100 == pytest.approx(cents)
    assert taker_fee([0.3, 0.7, 0.3]) == pytest.approx([0.0147] * 3)


# ---------------------------------------------------------------- books


def test_a_book_equals_a_manual_computation() -> None:
    got = book_capacity([0.70, 0.72, 0.76], [100, 200, 500], 0.75, fee=free, haircut=0.5)
    assert got.contracts == 150 and got.dollars == pytest.approx(50 * 0.05 + 100 * 0.03)
    assert got.vwap == pytest.approx((50 * 0.70 + 100 * 0.72) / 150)
    assert got.edge == pytest.approx(100 * got.dollars / 150)
    # 5.5 $ at 150; the third level loses 1 c each: (5.5 − 0.01 x) / (150 + x) = 2.5 c.
    assert got.half_edge == pytest.approx(150 + 1.75 / 0.035)
    assert got.frame["marginal"].to_list() == pytest.approx([5, 3, -1])
    assert "150 contracts" in repr(got)


def test_fee_hurdle_and_haircut_each_reduce_capacity() -> None:
    book = ([0.70, 0.72, 0.735, 0.76], [100, 200, 300, 500], 0.75)
    whole = book_capacity(*book, fee=free, haircut=0)
    assert whole.contracts == 600
    assert (
        book_capacity(*book, haircut=0).contracts == 600
        and book_capacity(*book, haircut=0.5).contracts == 300
    )
    assert book_capacity(*book, haircut=0, hurdle_cents=1.0).contracts == 300
    none = book_capacity(*book, hurdle_cents=10.0)
    assert none.contracts == 0 and math.isnan(none.edge) and none.dollars == 0
    assert book_capacity([0.8], [100], 0.75).half_edge is None
    assert book_capacity([], [], 0.75).contracts == 0 and book_capacity([0.5], [0], 0.75).half_edge is None


LEVELS = st.lists(
    st.tuples(st.integers(2, 97), st.integers(0, 900)),
    min_size=1,
    max_size=12,
    unique_by=lambda level: level[0],
)


@given(LEVELS, st.floats(0.05, 0.99))
def test_the_contracts_worth_taking_maximise_the_profit(levels: list[tuple[int, int]], p: float) -> None:
    price, size = (np.array(v, float) for v in zip(*sorted(levels), strict=True))
    got = book_capacity(price / 100, size, p)
    assert got.dollars >= got.frame["dollars"].fill_nan(0).max() - 1e-9  # type: ignore[operator]
    if got.half_edge is not None and got.contracts:
        at = np.interp(got.half_edge, np.r_[0, got.frame["contracts"]], np.r_[0, got.frame["dollars"]])
        first = got.frame["marginal"].filter(got.frame["contracts"] > 0)[0]
        assert 100 * at / got.half_edge == pytest.approx(first / 2, rel=1e-6)


# ---------------------------------------------------------------- tapes


def test_a_tape_equals_a_manual_computation() -> None:
    tape = prints(
        (0, "A", 30, 10, "no"),
        (1, "A", 30, 99, "no"),
        (10, "A", 30, 40, "no"),
        (20, "A", 28, 77, "yes"),
        (30, "A", 26, 60, "no"),
        (1802, "A", 25, 100, "no"),
        (1803, "A", 25, 99, "no"),
        (5000, "B", 60, 50, "yes"),
    )
    # Excluded: the print at 1 s (before the latency), at 1,803 s (after the window), and that of a YES taker.
    got = tape_capacity(
        fires((0, "A", "no", 1.0), (4990, "B", "yes", 0.0)), tape, participation=(0.1, 0.5, 1.0), fee=free
    )
    assert got.fires == 2 and got.days == 1 and got.volume == pytest.approx(125)
    rows = got.frame.to_dicts()
    assert [r["contracts"] for r in rows] == pytest.approx([12.5, 62.5, 125])
    # A tenth of the 200 contracts of A at 70 c and of the 50 contracts of B at 60 c.
    assert rows[0]["dollars"] == pytest.approx(20 * 0.30 - 5 * 0.60)
    assert rows[1]["dollars"] == pytest.approx(40 * 0.30 + 60 * 0.26 - 25 * 0.60)
    assert rows[2]["dollars"] == rows[2]["dollars_spread"] == pytest.approx(12 + 15.6 + 25 - 30)
    assert rows[0]["dollars_spread"] == pytest.approx(0.1 * rows[2]["dollars"])
    assert rows[0]["edge"] == pytest.approx(100 * rows[0]["dollars"] / 25)
    assert got.dollars_a_day(0.5) == pytest.approx(min(rows[1]["dollars"], rows[1]["dollars_spread"]))
    assert "at 50% of the flow" in repr(got)


def test_half_edge_is_where_a_decaying_edge_has_halved() -> None:
    # Each print of ten contracts is a cent dearer: the mean edge is 10 c at first and half of that at the end.
    tape = prints(*[(10 + i, "A", 30 - i, 10, "no") for i in range(11)])
    got = tape_capacity(fires((0, "A", "no", 0.8)), tape, fee=free)
    assert got.half_edge == pytest.approx(110.0, abs=2)
    assert got.frame["edge"].is_sorted(descending=True)
    assert tape_capacity(fires((0, "A", "no", 0.9)), tape, fee=free).half_edge is None
    assert tape_capacity(fires((0, "A", "no", 0.0)), tape, fee=free).half_edge is None


def test_windows_may_overlap_and_unsettled_signals_are_excluded() -> None:
    tape = prints((10, "A", 30, 10, "no"), (20, "A", 30, 20, "no"), (40, "A", 30, 40, "no"))
    both = tape_capacity(
        fires((0, "A", "no", 1.0), (15, "A", "no", 1.0), (5, "A", "no", None)), tape, window_s=25, fee=free
    )
    # The first window has 10 and 20 contracts, the second 20 and 40.
    assert (
        both.fires == 2 and both.unsettled == 1 and both.frame["contracts"][1] == pytest.approx(0.1 * 90 / 2)
    )
    none = tape_capacity(fires((100, "A", "no", 1.0), (0, "Z", "yes", 1.0)), tape)
    assert none.frame["contracts"].sum() == 0 and none.volume == 0 and none.dollars_a_day() == 0
    empty = tape_capacity(fires(), tape)
    assert empty.fires == 0 and empty.days == 0 and math.isnan(empty.volume)


@pytest.fixture(scope="module")
def world() -> tuple[pl.DataFrame, pl.DataFrame]:
    return fair(600, 3)


def fair(n: int, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a fair tape, and entries at the first print of each market."""
    tape, markets = synth.martingale(n, seed=seed)
    first = tape.unique("ticker", keep="first", maintain_order=True).join(markets, on="ticker")
    side = pl.when(pl.col("price") < 5000).then(pl.lit("no")).otherwise(pl.lit("yes"))
    rows = first.with_columns(side=side, yes=pl.col("settlement") / 10_000).with_columns(
        value=pl.when(pl.col("side") == "yes").then("yes").otherwise(1 - pl.col("yes"))
    )
    entries = rows.select(
        pl.int_range(pl.len()).alias("fire"), "ts", "ticker", "event", "series", "category", "side",
        pl.lit(0.7).alias("fired_at"), pl.lit(0.7).alias("mid"), pl.lit(True).alias("filled"),
        pl.col("ts").alias("entry_ts"), pl.lit(0.7).alias("price"), pl.lit(0.0).alias("fee"),
        pl.lit(0.7).alias("cost"), "value", "settled_ts", (pl.col("value") - 0.7).alias("pnl"),
        pl.lit(False).alias("exclusive"),
    )  # fmt: skip
    return tape, entries.cast(dict(ENTRIES_SCHEMA))


def test_a_fair_market_loses_spread_and_fee_at_any_size() -> None:
    found = np.array(
        [
            tape_capacity(entries, tape, window_s=86_400.0 * 30)
            .frame.select("edge", "edge_spread")
            .to_numpy()
            for tape, entries in (fair(3000, seed) for seed in range(6))
        ]
    )
    # A few large markets dominate each tape: its standard error is about 2.5 c.
    assert (found.mean(0) > -6).all() and (found.mean(0) < -0.5).all()


def test_a_lake_and_a_frame_give_equal_results(
    world: tuple[pl.DataFrame, pl.DataFrame], tmp_path: Path
) -> None:
    tape, entries = world
    lake = Lake.create(tmp_path / "lake")
    lake.append(tape)
    of_frame = tape_capacity(entries, tape, window_s=86_400.0)
    of_lake = tape_capacity(entries, lake, window_s=86_400.0)
    assert of_frame.frame.to_numpy() == pytest.approx(of_lake.frame.to_numpy())
    assert of_frame.frame.equals(tape_capacity(entries, tape.to_pandas(), window_s=86_400.0).frame)


def test_the_sample_tape_is_accepted() -> None:
    tape, _ = kl.sample()
    first = tape.unique("ticker", keep="first", maintain_order=True)["ticker"].to_list()[:20]
    at = (tape["ts"][0] - START).total_seconds()
    got = tape_capacity(fires(*[(at, ticker, "no", 1.0) for ticker in first]), tape, window_s=86_400.0 * 365)
    ours = tape.filter(
        pl.col("ticker").is_in(first),
        pl.col("taker") == "no",
        pl.col("ts") > tape["ts"][0] + timedelta(seconds=2),
    )
    assert got.frame["contracts"][1] == pytest.approx(0.1 * float(ours["size"].sum()) / 100 / 20)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: book_capacity([0.7, 0.6], [1, 1], 0.8),
        lambda: book_capacity([0.7], [1, 1], 0.8),
        lambda: book_capacity([70], [1], 0.8),
        lambda: book_capacity([0.7], [-1], 0.8),
        lambda: book_capacity([0.7], [1], 1.8),
        lambda: book_capacity([0.7], [1], 0.8, haircut=1),
        lambda: tape_capacity(fires(), prints(), participation=()),
        lambda: tape_capacity(fires(), prints(), participation=(0,)),
        lambda: tape_capacity(fires(), prints(), window_s=0),
        lambda: tape_capacity(fires().drop("ts"), prints()),
        lambda: tape_capacity(fires((0, "A", "no", 1.0)), prints((5, "A", 30, 1, "no"))).dollars_a_day(0.3),
    ],
)
def test_invalid_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(EdgeError):
        bad()
    with pytest.raises(TapeError):
        tape_capacity(fires(), [1, 2])
