"""A frame of any kind is checked before a signal fires on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import Print, prints, tape_of

import kalshilab as kl
from kalshilab import signals
from kalshilab.errors import TapeError
from kalshilab.tape.frame_checks import checked_columns
from kalshilab.tape.schema import TAPE_SCHEMA, TIME, check_tape
from kalshilab.tape.tape import FrameTape

TAPE = kl.sample()[0].head(2_000)
READS = ("price", "size", "taker")


def with_null(name: str) -> pl.DataFrame:
    return TAPE.with_columns(
        pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise(pl.col(name)).alias(name)
    )


@pytest.mark.parametrize(
    ("bad", "column", "words"),
    [
        *((with_null(name), name, "has nulls") for name in ("ts", "ticker", "market", "price", "size", "taker")),
        *((TAPE.drop(name), name, "is missing") for name in ("ts", "ticker", "price", "size", "taker")),
        (TAPE.with_columns(pl.col("price") / 100), "price", "not price units"),
        (TAPE.with_columns(pl.col("size") / 100), "size", "not size units"),
        (TAPE.with_columns(pl.col("market").cast(pl.String)), "market", "not market codes"),
        (TAPE.with_columns(pl.col("ts").dt.epoch("us")), "ts", "not a time"),
        (TAPE.with_columns(pl.lit(10_001, pl.Int16).alias("price")), "price", "outside 0 to 10,000"),
        (TAPE.with_columns(pl.lit(100_000).alias("price")), "price", "outside 0 to 10,000"),
        (TAPE.with_columns(pl.lit(0, pl.UInt32).alias("size")), "size", "is not a size"),
        (TAPE.with_columns(pl.lit(-5).alias("size")), "size", "is not a size"),
        (TAPE.with_columns(pl.lit(-1).alias("market")), "market", "is not a market code"),
        (TAPE.with_columns(pl.lit("unknown").alias("taker")), "taker", "must be yes or no"),
        (TAPE.with_columns(pl.lit(0, pl.UInt32).alias("market")), "market", "one ticker each"),
        (TAPE.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).alias("market")), "market", "one ticker each"),
        (TAPE.reverse(), "ts", "goes back in time"),
    ],
)  # fmt: skip
def test_a_frame_that_is_not_a_tape_is_refused(bad: pl.DataFrame, column: str, words: str) -> None:
    for data in (bad, bad.lazy()):
        with pytest.raises(TapeError, match=words) as caught:
            signals.WhaleFade().run(data)
        assert caught.value.column == column


def test_the_codes_of_two_concatenated_tapes_are_refused() -> None:
    parts = [kl.to_tape(TAPE.filter(pl.col("market") == m)) for m in (0, 1)]
    both = pl.concat(parts)
    with pytest.raises(TapeError, match="two tapes concatenated"):
        signals.rlm(both)
    fires = signals.rlm(both.drop("market"), min_trades=2, min_drop=0, yes_threshold=0.2)
    alone = [signals.rlm(p, min_trades=2, min_drop=0, yes_threshold=0.2) for p in parts]
    assert fires.drop("row").equals(pl.concat(alone).drop("row"))
    with pytest.raises(TapeError, match="looks across markets"):
        signals.WhaleFollow(min_value=0, max_leverage=100, top=3).run(
            pl.concat([p.drop("market") for p in reversed(parts)])
        )


def test_the_codes_of_an_excerpt_of_a_large_lake_are_replaced() -> None:
    far = TAPE.with_columns(pl.col("market") + 4_000_000_000)
    assert signals.rlm(far, min_trades=5).equals(signals.rlm(TAPE, min_trades=5))
    assert checked_columns(far, READS)["market"].to_list() == TAPE["market"].to_list()


@settings(max_examples=200)
@given(
    rows=prints(30),
    codes=st.lists(st.integers(0, 3), min_size=30, max_size=30),
    times=st.lists(st.integers(0, 3), min_size=30, max_size=30),
)
def test_the_quick_check_refuses_the_codes_and_times_that_the_full_check_refuses(
    rows: list[Print], codes: list[int], times: list[int]
) -> None:
    """Ambiguous codes and times that go back; the generated tapes are valid in every other respect."""
    tape = tape_of(rows)
    n = tape.height
    coded = tape.with_columns(pl.Series("market", codes[:n], dtype=pl.UInt32)).select(TAPE_SCHEMA.names())
    assert _refused(lambda frame: checked_columns(frame, READS), coded) == _refused(check_tape, coded)
    mixed = tape.with_columns(pl.Series("ts", times[:n], dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME))  # fmt: skip
    alone = [_refused(check_tape, part) for _, part in mixed.group_by("market")]
    assert _refused(lambda frame: checked_columns(frame, READS), mixed) == any(alone)


def _refused(check: Any, tape: pl.DataFrame) -> bool:
    try:
        check(tape)
    except TapeError:
        return True
    return False


def test_other_kinds_of_columns_give_the_same_fires() -> None:
    whole = signals.WhaleFollow(top=5).run(TAPE)
    for same in (
        TAPE.with_columns(pl.col("ticker").cast(pl.Categorical)),
        TAPE.with_columns(pl.col("market").cast(pl.Int64), pl.col("price").cast(pl.Int64)),
        TAPE.with_columns(pl.col("taker").cast(pl.String), pl.col("size").cast(pl.Int32)),
        TAPE.with_columns(pl.col("ts").dt.cast_time_unit("ns")),
        TAPE.drop("market", "trade_id"),
    ):
        assert signals.WhaleFollow(top=5).run(same).equals(whole)
    own = signals.WhaleFollow(top=5).run(TAPE.to_pandas())
    assert np.array_equal(own["row"], whole["row"])


def test_a_checked_frame_keeps_its_other_columns() -> None:
    noted = TAPE.with_columns(note=pl.lit("x"))
    assert FrameTape.whole(noted).frame.columns == noted.columns
    assert FrameTape.of(noted).frame.columns == ["ts", "ticker", "price", "size", "taker", "market"]
    assert FrameTape.whole(noted.lazy()).frame.columns == FrameTape.of(noted).frame.columns
