"""Tapes and markets tables are validated row by row; market codes are dense."""

from __future__ import annotations

import polars as pl
import pytest

from kalshilab.errors import TapeError
from kalshilab.tape import check_markets, check_tape, sample
from kalshilab.tape.schema import with_codes


def test_the_sample_is_valid() -> None:
    tape, markets = sample()
    assert check_tape(tape) is tape
    assert check_markets(markets) is markets


@pytest.mark.parametrize(
    ("change", "column", "row"),
    [
        (pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("price").alias("price"), "price", 7),
        (
            pl.when(pl.int_range(pl.len()) == 9).then(-1).otherwise("price").cast(pl.Int16).alias("price"),
            "price",
            9,
        ),
        (
            pl.when(pl.int_range(pl.len()) == 3).then(0).otherwise("size").cast(pl.UInt32).alias("size"),
            "size",
            3,
        ),
        (pl.col("ts").reverse().alias("ts"), "ts", 1),
        (pl.col("price").cast(pl.Float64), "price", None),
        (pl.lit(0, pl.UInt32).alias("market"), "market", None),
    ],
)
def test_an_error_names_the_column_and_the_first_bad_row(
    change: pl.Expr, column: str, row: int | None
) -> None:
    tape, _ = sample()
    with pytest.raises(TapeError) as caught:
        check_tape(tape.with_columns(change))
    assert (caught.value.column, caught.value.row) == (column, row)


def test_frames_of_other_libraries_are_refused() -> None:
    tape, markets = sample()
    for check, frame, name in ((check_tape, tape, "tape"), (check_markets, markets, "markets")):
        for other, kind in ((frame.to_pandas(), "pandas.DataFrame"), (frame.lazy(), "polars.LazyFrame")):
            rule = rf"{name} must be a polars DataFrame, got {kind}; kalshilab.to_{name} converts it"
            with pytest.raises(TapeError, match=rule):
                check(other)  # type: ignore[arg-type]


@pytest.mark.parametrize("fee", [-1.0, float("nan"), float("inf")])
def test_fee_multipliers_must_be_finite_and_not_negative(fee: float) -> None:
    with pytest.raises(TapeError, match="must be a finite number >= 0"):
        check_markets(sample()[1].with_columns(fee_multiplier=pl.lit(fee)))


def test_codes_are_dense_and_in_order_of_appearance() -> None:
    frame = with_codes(pl.DataFrame({"ticker": ["b", "a", "b", "c"]}))
    assert frame["market"].to_list() == [0, 1, 0, 2]
    assert frame["market"].dtype == pl.UInt32
