"""A strategy as if it had never been called."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import polars as pl

from kalshilab.edge.lookahead.fresh_copy import anew


def test_copies_share_what_the_originals_share() -> None:
    held: list[int] = []

    def add() -> int:
        held.append(1)
        return len(held)

    def twice() -> int:
        add()
        return add()

    copied = anew(twice)
    assert copied() == 2 and copied() == 4 and anew(twice)() == 2 and held == []
    assert anew(print) is print and anew(3) == 3


def test_rows_of_a_table_count_from_their_latest_time_on() -> None:
    until = datetime(2025, 1, 2, tzinfo=UTC)
    days = [datetime(2025, 1, d, tzinfo=UTC) for d in (1, 2, 3)]
    table = pl.DataFrame({"t": days, "late": [days[0], days[2], None], "open_ts": [days[2]] * 3})
    assert anew([table], until)[0].height == 1 and anew([table])[0].height == 3
    assert anew({"k": table.drop("late").to_pandas()}, until)["k"].shape[0] == 2
    assert anew((table.drop("late").lazy(),), until)[0].collect().height == 2
    dates = table.select(pl.col("t").dt.date())
    assert anew([dates], until)[0].height == 1, "of a day all is known when it is over"
    for index in (
        days,
        pd.DatetimeIndex(days).tz_convert("America/New_York"),
        pd.DatetimeIndex(days).tz_localize(None),
    ):
        assert len(anew([pd.Series([1, 2, 3], index=index)], until)[0]) == 2
    assert anew([table.with_columns(known_ts=pl.lit(until))], until)[0].height == 3


def test_objects_and_chains_of_functions_forget_too() -> None:
    class Counts:
        seen: list[int] = []  # noqa: RUF012

        def run(self) -> int:
            self.seen.append(1)
            return len(self.seen)

    counts = Counts()
    chain = [counts.run]
    for _ in range(12):
        chain.append((lambda inner: lambda: inner())(chain[-1]))
    assert anew(chain[-1])() == 1 and anew(counts).run() == 1 and Counts.seen == []
    assert isinstance(anew(counts), Counts)
