"""Pages of trades become the tape of the requested interval: in order, each trade once."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.clock import isoformat
from kalshilab.errors import TapeError
from kalshilab.tape import TAPE_SCHEMA, check_tape
from kalshilab.tape.ingest.trade_pages import BATCH, Pages

T0 = 1_795_329_000_000_000


def page(*rows: tuple[Any, ...]) -> dict[str, list[Any]]:
    """Return a page of rows (time, ticker, price, size, taker, id), given oldest first."""
    names = (
        "created_time",
        "ticker",
        "yes_price_dollars",
        "count_fp",
        "taker_outcome_side",
        "trade_id",
    )
    return {name: [row[n] for row in reversed(rows)] for n, name in enumerate(names)}


ROWS = st.lists(
    st.tuples(st.integers(0, 5_000_000), st.sampled_from("AB"), st.integers(1, 99), st.integers(1, 400)), max_size=40
)  # fmt: skip


@given(ROWS, st.integers(0, 5_000_000), st.integers(0, 5_000_000), st.integers(1, 7), st.integers(0, 10))
def test_pages_give_the_trades_of_the_interval(
    drawn: list[tuple[int, str, int, int]], low: int, high: int, size: int, overlap: int
) -> None:
    rows = [
        (T0 + ts, ticker, cents * 100, count, "yes" if count % 2 else "no", f"t{n}")
        for n, (ts, ticker, cents, count) in enumerate(sorted(drawn, key=lambda r: r[0]))
    ]
    texts = [(isoformat(r[0]), r[1], f"{r[2] / 10_000:.4f}", f"{r[3] / 100:.2f}", r[4], r[5]) for r in rows]
    pages = Pages()
    for end in range(len(texts), 0, -size):
        pages.add(page(*texts[max(end - size, 0) : end]))
    # The oldest are repeated, as by a second listing.
    pages.add(page(*texts[:overlap]))
    done = pages.gather(T0 + low, T0 + high)
    wanted = [r for r in rows if T0 + low <= r[0] < T0 + high]
    gathered = done.tape.select(pl.col("ts").dt.epoch("us"), "ticker", "price", "size", pl.col("taker").cast(pl.String), "trade_id")  # fmt: skip
    assert gathered.rows() == wanted
    assert done.duplicates == sum(T0 + low <= r[0] < T0 + high for r in rows[:overlap])
    assert done.tape.schema == TAPE_SCHEMA
    check_tape(done.tape)


def test_many_pages_keep_their_order() -> None:
    pages = Pages()
    count = BATCH * 2 + 1
    for n in range(count, 0, -1):
        pages.add(page((isoformat(T0 + n), "A", "0.5000", "1.00", "no", f"t{n}")))
    assert pages.gather().tape["trade_id"].to_list() == [f"t{n}" for n in range(1, count + 1)]


def test_trades_without_a_taker_are_left_out_and_counted() -> None:
    pages = Pages()
    pages.add(
        page(
            ("2026-11-22T00:00:00Z", "A", "0.5000", "1.00", None, "a"),
            ("2026-11-22T00:00:01Z", "A", "0.5000", "1.00", "", "b"),
            ("2026-11-22T00:00:02Z", "A", "0.5000", "1.00", "yes", "c"),
        )
    )
    done = pages.gather()
    assert (done.tape["trade_id"].to_list(), done.unknown_taker, done.duplicates) == (["c"], 2, 0)


def test_trades_without_an_id_are_all_kept() -> None:
    pages = Pages()
    row = ("2026-11-22T00:00:00Z", "A", "0.5000", "1.00", "yes", "")
    pages.add(page(row, row))
    done = pages.gather()
    assert (done.tape["trade_id"].to_list(), done.duplicates) == ([None, None], 0)


FORMATS = ["2026-11-22T14:03:11.609997Z", "2026-11-22T14:03:11.6Z", "2026-11-22T14:03:11Z", "2026-11-22T14:03:11.609997123Z",
         "2026-11-22T15:03:11.609997+01:00", "2026-11-22T14:03:11+00:00"]  # fmt: skip


@pytest.mark.parametrize("text", FORMATS)
def test_every_format_of_a_time_is_read(text: str) -> None:
    from datetime import datetime

    from kalshilab.clock import from_datetime

    pages = Pages()
    pages.add(page((text, "A", "0.5000", "1.00", "yes", "a")))
    exact = from_datetime(datetime.fromisoformat(text.replace("609997123", "609997")))
    assert pages.gather().tape["ts"].dt.epoch("us").to_list() == [exact]


@pytest.mark.parametrize(
    ("column", "value"),
    [("created_time", "yesterday"), ("created_time", "2026-11-22T14:03:11.60+5Z"), ("yes_price_dollars", "1.2000"),
     ("yes_price_dollars", "0.43001"), ("count_fp", "0.00"), ("count_fp", "much")],
)  # fmt: skip
def test_an_unreadable_value_raises(column: str, value: str) -> None:
    bad = page(("2026-11-22T14:03:11Z", "A", "0.5000", "1.00", "yes", "a"))
    bad[column] = [value]
    pages = Pages()
    pages.add(bad)
    with pytest.raises(TapeError):
        pages.gather(0, 2**61)


def test_an_empty_page_gives_an_empty_tape() -> None:
    pages = Pages()
    pages.add(page())
    done = pages.gather(0, 1)
    assert done.tape.schema == TAPE_SCHEMA and done.tape.height == pages.rows == 0
