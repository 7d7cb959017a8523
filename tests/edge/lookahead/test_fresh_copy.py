"""Tests of cloning: state is reset, and tables are truncated."""

from __future__ import annotations

import functools
from datetime import UTC, datetime

import pandas as pd
import polars as pl

from kalshilab.edge.lookahead.fresh_copy import clone


def test_functions_that_share_a_list_share_its_copy() -> None:
    memory: list[int] = []

    def add() -> int:
        memory.append(1)
        return len(memory)

    def twice() -> int:
        add()
        return add()

    copied = clone(twice)
    assert copied() == 2 and copied() == 4 and clone(twice)() == 2 and memory == []
    assert clone(print) is print and clone(3) == 3


def test_rows_are_kept_from_their_latest_time_on() -> None:
    until = datetime(2025, 1, 2, tzinfo=UTC)
    days = [datetime(2025, 1, d, tzinfo=UTC) for d in (1, 2, 3)]
    table = pl.DataFrame({"t": days, "late": [days[0], days[2], None], "open_ts": [days[2]] * 3})
    assert clone([table], until)[0].height == 1 and clone([table])[0].height == 3
    assert clone({"k": table.drop("late").to_pandas()}, until)["k"].shape[0] == 2
    assert clone((table.drop("late").lazy(),), until)[0].collect().height == 2
    dates = table.select(pl.col("t").dt.date())
    assert clone([dates], until)[0].height == 1, "a date counts from the end of its day"
    for index in (
        days,
        pd.DatetimeIndex(days).tz_convert("America/New_York"),
        pd.DatetimeIndex(days).tz_localize(None),
    ):
        assert len(clone([pd.Series([1, 2, 3], index=index)], until)[0]) == 2
    assert clone([table.with_columns(known_ts=pl.lit(until))], until)[0].height == 3


def test_the_state_of_objects_and_of_long_chains_of_functions_is_reset() -> None:
    class Counts:
        seen: list[int] = []  # noqa: RUF012

        def run(self) -> int:
            self.seen.append(1)
            return len(self.seen)

    counts = Counts()
    chain = [counts.run]
    for _ in range(12):
        chain.append((lambda inner: lambda: inner())(chain[-1]))
    assert clone(chain[-1])() == 1 and clone(counts).run() == 1 and Counts.seen == []
    assert isinstance(clone(counts), Counts)


def test_methods_partials_caches_and_properties_are_copied() -> None:
    class Counts:
        def __init__(self) -> None:
            self.seen = [0]

        @property
        def calls(self) -> int:
            return self.add(1)

        def add(self, step: int) -> int:
            self.seen[0] += step
            return self.seen[0]

        @staticmethod
        def fixed() -> int:
            return 7

    counts = Counts()
    assert clone(counts.add)(1) == 1 and clone(functools.partial(counts.add, 2))() == 2
    assert clone(counts).calls == 1 and clone(counts).fixed() == 7
    cached = functools.cache(lambda: counts.add(1))
    assert clone(cached)() == 1 and counts.seen == [0]
