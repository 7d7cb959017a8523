"""Tests of captured tables: their columns, times, texts and numbers, whichever library they come from."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from kalshilab.edge.lookahead.captured_tables import (
    columns_in,
    is_table,
    numbers_in,
    texts_in,
    times_of,
    truncate,
)

DAYS = [datetime(2025, 1, d, tzinfo=UTC) for d in (1, 2, 3)]
TABLE = pl.DataFrame({"ticker": ["A", "B", "A"], "t": DAYS, "day": [d.date() for d in DAYS], "n": [1, 2, 3]})


@pytest.mark.parametrize(
    "table", [TABLE, TABLE.lazy(), TABLE.to_pandas(), TABLE["n"], np.arange(3), pd.Index([1])]
)
def test_frames_series_and_arrays_are_tables(table: object) -> None:
    assert is_table(table)


@pytest.mark.parametrize("other", [[1, 2], {"a": 1}, "text", None, pl.Int64, date(2025, 1, 1)])
def test_containers_and_values_are_not_tables(other: object) -> None:
    assert not is_table(other)
    assert times_of(other) == []


def test_columns_are_those_of_a_table_or_the_text_keys_of_a_mapping() -> None:
    expected = ("ticker", "t", "day", "n")
    assert columns_in(TABLE) == columns_in(TABLE.lazy()) == columns_in(TABLE.to_pandas()) == expected
    assert columns_in({"a": 1, 2: 3}) == ("a",) and columns_in([1]) == ()


def test_announced_times_are_not_times_of_a_row_and_known_ts_replaces_the_others() -> None:
    announced = TABLE.select("t", "day", open_ts="t", expected_close_ts="t")
    assert times_of(announced) == times_of(announced.lazy()) == ["t", "day"]
    assert times_of(announced.with_columns(known_ts="t")) == ["known_ts"]
    assert times_of(announced.with_columns(known_ts="t").to_pandas()) == ["known_ts"]
    assert times_of(pd.Series([1, 2, 3], index=pd.DatetimeIndex(DAYS))) == ["index 0"]


def test_a_pandas_table_with_a_column_twice_has_no_readable_times_there() -> None:
    twice = pd.DataFrame([[DAYS[0], DAYS[1]]], columns=["t", "t"])
    assert times_of(twice) == []


def test_texts_are_found_in_tables_and_containers() -> None:
    for table in (TABLE, TABLE.lazy(), TABLE.to_pandas(), TABLE["ticker"], TABLE["ticker"].to_numpy()):
        assert set(texts_in(table)) == {"A", "B"}
    assert set(texts_in({"A": "B", ("C", 1): 2.0})) == {"A", "B", "C"}
    assert set(texts_in(pd.Series([1.0], index=["A"]))) == {"A"}
    assert list(texts_in(3)) == []


def test_numbers_are_one_dimensional_and_times_are_microseconds() -> None:
    for numbers in (TABLE["n"], TABLE["n"].to_numpy(), [1, 2, 3], (1, 2, 3)):
        found = numbers_in(numbers)
        assert found is not None and found.tolist() == [1, 2, 3]
    times = numbers_in(np.array(["1970-01-01T00:00:02"], "datetime64[s]"))
    assert times is not None and times.tolist() == [2_000_000]
    for other in (np.zeros((2, 2)), [], ["A"], TABLE, TABLE["ticker"]):
        assert numbers_in(other) is None


def test_a_truncated_table_is_a_copy_without_later_rows() -> None:
    frame = TABLE.select("ticker", "t")
    kept = truncate(frame, DAYS[1])
    assert isinstance(kept, pl.DataFrame) and kept.height == 2
    assert truncate(frame, None) is frame, "polars frames are immutable"
    array, series = np.arange(3), pd.Series([1, 2])
    copied = truncate(array, DAYS[0])
    assert isinstance(copied, np.ndarray) and copied is not array and copied.tolist() == [0, 1, 2]
    assert truncate(series, DAYS[0]) is not series
