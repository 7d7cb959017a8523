"""Entry rules: an entry is the first later print by a taker of our side, checked against a plain loop over prints."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_fires import BEGIN, fires_of, markets_of, tape_of

import kalshilab as kl
from kalshilab.edge.entries.rules import enter, enter_counted, half_spread_of
from kalshilab.edge.schema import ENTRIES_SCHEMA
from kalshilab.errors import EdgeError, TapeError
from kalshilab.market.fees import fill_fee
from kalshilab.tape.lake.lake import Lake


def test_no_is_bought_from_a_later_no_taker() -> None:
    tape = tape_of([(0, "A-1", 60, "yes"), (1, "A-1", 59, "no"), (3, "B-1", 20, "no"), (4, "A-1", 61, "yes"), (5, "A-1", 58, "no")])  # fmt: skip
    entry = enter(
        fires_of(tape, [(0, "no")]), tape, markets_of({"A-1": "no", "B-1": "no"}), half_spread_cents=1
    ).row(0, named=True)
    assert entry["fired_at"] == pytest.approx(0.40) and entry["mid"] == pytest.approx(0.41)
    # The print after 1 s is within the latency of 2 s; the print after 4 s has a YES taker.
    assert entry["entry_ts"] == BEGIN + timedelta(seconds=5)
    fee = fill_fee(4200, 1000) / 1e7
    assert [entry[k] for k in ("price", "fee", "cost", "value", "pnl")] == pytest.approx(
        [0.42, fee, 0.42 + fee, 1.0, 0.58 - fee]
    )


def test_an_entry_without_a_print_in_its_window_is_unfilled_and_has_no_profit() -> None:
    tape = tape_of(
        [(0, "A-1", 60, "yes"), (2, "A-1", 59, "no"), (9, "A-1", 59, "yes"), (1803, "A-1", 30, "no")]
    )
    markets = markets_of({"A-1": "no"})
    entry = enter(fires_of(tape, [(0, "no")]), tape, markets).row(0, named=True)
    assert not entry["filled"] and entry["pnl"] == 0 and entry["price"] is None and entry["entry_ts"] is None
    # The end of the latency is exclusive, the end of the window inclusive.
    assert enter(fires_of(tape, [(0, "no")]), tape, markets, latency_s=1.999)["filled"].all()
    assert enter(fires_of(tape, [(0, "no")]), tape, markets, window_s=1801)["filled"].all()


def test_fires_after_the_expected_close_are_left_out() -> None:
    tape = tape_of(
        [(0, "A-1", 50, "yes"), (20, "B-1", 50, "yes"), (30, "A-1", 50, "no"), (31, "B-1", 50, "no")]
    )
    markets = markets_of({"A-1": "no", "B-1": "no"}, expected_close_ts=[BEGIN + timedelta(seconds=10)] * 2)
    fires = fires_of(tape, [(0, "no"), (1, "no")])
    entries, left = enter_counted(fires, tape, markets)
    assert entries["ticker"].to_list() == ["A-1"] and left.known == 1
    assert enter(fires, tape, markets, extremes=True).height == 2


def test_value_and_price_follow_the_settlement_and_the_rule() -> None:
    rows = [(i, t, 50, "no") for i, t in enumerate(["A-1", "B-1", "C-1", "D-1"])]
    tape = tape_of(rows + [(10 + s, t, 50, k) for s, t, _, _ in rows for k in ("yes", "no")])
    markets = markets_of({"A-1": "yes", "B-1": "no", "C-1": "scalar", "D-1": None})
    fires = fires_of(tape, [(0, "yes"), (1, "yes"), (2, "no"), (3, "no")])
    found = enter(fires, tape, markets)
    assert found["value"].to_list() == [1.0, 0.0, pytest.approx(0.58), None]
    assert found["pnl"].is_null().to_list() == [False, False, False, True]
    assert enter(fires, tape, markets, rule="mid", half_spread_cents=1)["price"].to_list() == pytest.approx(
        [0.51, 0.51, 0.49, 0.49]
    )
    assert enter(fires, tape, markets, rule="mid")["fee"].to_list() == [0.0] * 4
    assert enter(fires, tape, markets, rule="print")["price"].to_list() == [0.5] * 4
    assert enter(fires, tape, markets, ticks=3)["price"].to_list() == pytest.approx([0.53] * 4)


def test_extra_ticks_are_those_of_the_markets_price_grid() -> None:
    tickers = ["A-1", "B-1", "C-1", "D-1"]
    rows = [(i, t, p, "no") for i, (t, p) in enumerate(zip(tickers, [95, 90, 50, 95], strict=True))]
    tape = tape_of([*rows, *((10 + i, t, p, "yes") for i, t, p, _ in rows)])
    grids = ["tapered_deci_cent", "tapered_deci_cent", "deci_cent", None]
    markets = markets_of(dict.fromkeys(tickers, "yes"), price_structure=grids)
    fires = fires_of(tape, [(i, "yes") for i in range(4)])
    for ticks, prices in (
        (0, [0.95, 0.9, 0.5, 0.95]),
        (1, [0.951, 0.901, 0.501, 0.96]),
        (9, [0.959, 0.909, 0.509, 0.9999]),
    ):
        found = enter(fires, tape, markets, ticks=ticks)
        assert found["price"].to_list() == pytest.approx(prices)
        assert found["fee"].to_list() == pytest.approx([fill_fee(round(p * 1e4), 1000) / 1e7 for p in prices])


def test_fires_left_out_are_counted_by_reason() -> None:
    tape = tape_of([(i, t, p, "no") for i, (t, p) in enumerate(
        [("A-1", 50), ("A-1", 50), ("A-2", 50), ("A-3", 50), ("B-1", 98), ("B-1", 97), ("X-1", 50)])])  # fmt: skip
    markets = markets_of({"A-1": "yes", "A-2": "no", "A-3": "no", "B-1": "yes"})
    fires = fires_of(tape, [(0, "no"), (1, "no"), (2, "no"), (3, "yes"), (4, "no"), (5, "no"), (6, "no")])
    entries, left = enter_counted(fires, tape, markets, per_event=1)
    assert entries["fire"].to_list() == [0, 5]
    assert (left.fires, left.unmatched, left.known, left.repeated, left.other_side, left.capped) == (
        7,
        1,
        1,
        1,
        1,
        1,
    )
    everything, _ = enter_counted(fires, tape, markets, per_market=None, both_sides=True, extremes=True)
    assert everything["fire"].to_list() == [0, 1, 2, 3, 4, 5]
    marked = enter(fires, tape, markets, exclusive={"A"})
    assert dict(zip(marked["event"], marked["exclusive"], strict=True)) == {"A": True, "B": False}


prints = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from(["A-1", "A-2", "B-1"]), st.integers(3, 97), st.sampled_from(["yes", "no"])),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(prints, st.data(), st.integers(0, 5), st.integers(1, 9), st.integers(1, 15))
def test_entries_equal_those_of_a_plain_loop(
    rows: list[tuple[int, str, int, str]], data: st.DataObject, latency: int, window: int, lot: int
) -> None:
    at = np.cumsum([gap for gap, *_ in rows])
    tape = tape_of([(int(s), t, p, k) for s, (_, t, p, k) in zip(at, rows, strict=True)])
    fired = data.draw(st.lists(st.tuples(st.integers(0, len(rows) - 1), st.sampled_from(["yes", "no"])), max_size=12, unique_by=lambda f: f[0]))  # fmt: skip
    fires = fires_of(tape, sorted(fired))
    found = enter(
        fires, tape, markets_of({"A-1": "yes", "A-2": "no", "B-1": None}), latency_s=latency, window_s=window,
        per_market=None, both_sides=True, half_spread_cents=1,
    )  # fmt: skip
    assert found.schema == ENTRIES_SCHEMA and found.height == len(fired)
    plain = tape.rows(named=True)
    for entry in found.iter_rows(named=True):
        start = entry["ts"] + timedelta(seconds=latency)
        first = next((p for p in plain if p["ticker"] == entry["ticker"] and p["taker"] == entry["side"]
                      and start < p["ts"] <= start + timedelta(seconds=window)), None)  # fmt: skip
        assert entry["filled"] == (first is not None)
        if first is not None:
            paid = first["price"] if entry["side"] == "yes" else 10_000 - first["price"]
            assert entry["entry_ts"] == first["ts"] and entry["price"] == pytest.approx(paid / 10_000)


def test_a_lake_and_a_frame_give_the_same_entries(tmp_path: Path) -> None:
    tape, markets = kl.synth.martingale(n_markets=400, seed=5)
    lake = Lake.create(tmp_path / "lake")
    lake.append(tape, markets)
    signal = kl.signals.Rlm(min_trades=8, min_drop=2)
    stored = lake.read()
    from_lake = enter(kl.signals.scan(lake, signal), lake, lake.markets)
    assert from_lake.equals(enter(signal.run(stored), stored, markets)) and from_lake.height > 10


def test_the_half_spread_is_estimated_from_the_tape_and_is_1_cent_by_default() -> None:
    tape, _ = kl.synth.martingale(n_markets=2_000, seed=2)
    assert half_spread_of(tape) == 1.0
    assert (
        half_spread_of(tape_of([(0, "A-1", 50, "yes"), (9, "A-1", 44, "no"), (90, "A-1", 80, "yes")])) == 3.0
    )
    assert half_spread_of(tape_of([(0, "A-1", 50, "yes")])) == 1.0


def test_invalid_arguments_are_refused_with_the_reason() -> None:
    tape = tape_of([(0, "A-1", 50, "yes")])
    markets = markets_of({"A-1": "yes", "Z-1": "no"})
    fires = fires_of(tape, [(0, "no")])
    for bad in ({"rule": "last"}, {"latency_s": -1}, {"window_s": 0}, {"contracts": 0}, {"rule": "book"},
                {"half_spread_cents": -1.0}, {"half_spread_cents": float("nan")}):  # fmt: skip
        with pytest.raises(EdgeError):
            enter(fires, tape, markets, **bad)
    for names in ("all", {"A-1"}, ["B"]):
        with pytest.raises(EdgeError, match=r"exclusive must be a set of event tickers"):
            enter(fires, tape, markets, exclusive=names)
    with pytest.raises(EdgeError, match="has no print on it"):
        enter(fires.with_columns(ticker=pl.lit("Z-1")), tape, markets)
    with pytest.raises(
        EdgeError, match=r"fires must be a DataFrame as returned by signal.run\(tape\), got Rlm"
    ):
        enter(kl.signals.Rlm(), tape, markets)
    with pytest.raises(
        TapeError, match=r"markets must be a polars DataFrame, got pandas.DataFrame; kalshilab.to_markets"
    ):
        enter(fires, tape, markets.to_pandas())
    assert enter(fires.lazy(), tape, markets).equals(enter(fires.to_pandas(), tape, markets))
    with pytest.raises(EdgeError, match="past its end"):
        enter(fires.with_columns(row=pl.lit(7)), tape, markets)
    assert enter(fires.head(0), tape, markets).is_empty()
