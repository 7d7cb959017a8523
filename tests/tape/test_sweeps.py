"""Merged sweeps keep every contract: one print for each taker order, in order."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.errors import TapeError
from kalshilab.tape import check_tape, merge_sweeps, to_tape
from kalshilab.tape.schema import TAKER, TAPE_SCHEMA, TIME, with_codes

prints = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(["A", "B"]), st.integers(1, 99), st.integers(1, 500),
        st.sampled_from(["yes", "no"]),
    ),
    max_size=40,
)  # fmt: skip


def tape_of(rows: list[tuple[int, str, int, int, str]]) -> pl.DataFrame:
    ts, out = 0, []
    for n, (gap, ticker, price, size, taker) in enumerate(rows):
        ts += gap
        out.append((ts, ticker, price * 100, size, taker, f"t{n}"))
    schema = {
        "ts": pl.Int64, "ticker": pl.String, "price": pl.Int16, "size": pl.UInt32, "taker": TAKER, "trade_id": pl.String,
    }  # fmt: skip
    frame = pl.DataFrame(out, schema=schema, orient="row").with_columns(
        pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME)
    )
    return with_codes(frame).select(TAPE_SCHEMA.names())


@settings(max_examples=200, deadline=None)
@given(prints)
def test_merging_equals_a_plain_loop(rows: list[tuple[int, str, int, int, str]]) -> None:
    tape = tape_of(rows)
    expected: dict[tuple[object, ...], list[object]] = {}
    for ts, ticker, _, price, size, taker, trade_id in tape.iter_rows():
        print_ = expected.setdefault((ts, ticker, taker), [price, 0, trade_id])
        print_[0], print_[1] = price, print_[1] + size
    merged = merge_sweeps(tape)
    assert check_tape(merged).schema == TAPE_SCHEMA
    actual = merged.select("ts", "ticker", "taker", "price", "size", "trade_id").rows()
    assert actual == [(*key, *value) for key, value in expected.items()]
    assert merge_sweeps(merged).equals(merged)


def test_frames_other_than_tapes_are_refused() -> None:
    with pytest.raises(TapeError):
        merge_sweeps(pl.DataFrame({"ts": [1]}))


def test_merging_real_prints_keeps_every_contract(shared: Path) -> None:
    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    merged = merge_sweeps(tape)
    assert merged.height < tape.height
    assert merged["size"].cast(pl.Int64).sum() == tape["size"].cast(pl.Int64).sum()
