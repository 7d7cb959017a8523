"""Every layout converts to the same tape, exactly; bad rows raise or are counted."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.clock import from_datetime, isoformat
from kalshilab.errors import TapeError
from kalshilab.kalshi.wire import rest as wire
from kalshilab.tape import TAPE_SCHEMA, DroppedRows, check_tape, merge_sweeps, to_markets, to_tape
from kalshilab.units import format_price, format_size

prints = st.lists(
    st.tuples(
        st.integers(1_600_000_000_000_000, 1_800_000_000_000_000),
        st.sampled_from(["A-B-1", "A-B-2"]),
        st.integers(0, 10_000),
        st.integers(1, 10_000_000),
        st.sampled_from(["yes", "no"]),
    ),
    min_size=1,
    max_size=30,
)
GOOD = {
    "ticker": "A-B-1",
    "yes_price": 43,
    "count": 2,
    "taker_side": "yes",
    "created_time": "2026-01-05T12:00:00Z",
}


def quiet(data: Any, **options: Any) -> pl.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DroppedRows)
        return to_tape(data, **options)


def plain(tape: pl.DataFrame) -> list[tuple[Any, ...]]:
    return tape.select(
        pl.col("ts").dt.epoch("us"), "ticker", "price", "size", pl.col("taker").cast(pl.String)
    ).rows()


def in_order(rows: list[tuple[int, str, int, int, str]]) -> list[tuple[int, str, int, int, str]]:
    """Sort by time, keeping the order within one time; reverse first if each market is listed newest first."""
    steps = [
        b - a for ticker in {r[1] for r in rows} for a, b in pairwise(r[0] for r in rows if r[1] == ticker)
    ]
    newest_first = any(x < 0 for x in steps) and not any(x > 0 for x in steps)
    return sorted(rows[::-1] if newest_first else rows, key=lambda r: r[0])


@settings(max_examples=150, deadline=None)
@given(prints)
def test_the_current_format_converts_exactly(rows: list[tuple[int, str, int, int, str]]) -> None:
    objects = [
        wire.TradeBody(
            trade_id=f"t{i}",
            ticker=ticker,
            count_fp=format_size(size),
            yes_price_dollars=format_price(price),
            no_price_dollars=format_price(10_000 - price),
            created_time=isoformat(ts),
            taker_outcome_side=taker,
        )
        for i, (ts, ticker, price, size, taker) in enumerate(rows)
    ]
    tape = quiet(objects)
    assert plain(tape) == in_order(rows)
    assert check_tape(tape) is tape
    assert to_tape(tape).equals(tape)
    assert to_tape(tape.to_pandas()).equals(tape)
    assert to_tape(tape.lazy()).equals(tape)


@settings(max_examples=150, deadline=None)
@given(prints, st.booleans(), st.sampled_from(["datetime", "text", "ms", "us"]))
def test_the_format_of_january_2026_and_archives_convert_exactly(
    rows: list[tuple[int, str, int, int, str]], as_float: bool, time: str
) -> None:
    """Whole cents and contracts come as integers or floats, and times in four formats."""
    rows = [(ts // 1000 * 1000, t, p // 100 * 100, s * 100, k) for ts, t, p, s, k in rows]
    spell = {
        "datetime": lambda ts: datetime.fromtimestamp(ts / 1e6, UTC),
        "text": isoformat,
        "ms": lambda ts: ts // 1000,
        "us": lambda ts: ts,
    }[time]
    number = float if as_float else int
    frame = pl.DataFrame(
        {
            "ticker": [r[1] for r in rows],
            "yes_price": [number(r[2] // 100) for r in rows],
            "count": [number(r[3] // 100) for r in rows],
            "taker_side": [r[4] for r in rows],
            "created_time": [spell(r[0]) for r in rows],
        }
    )
    tape = quiet(frame, price_unit="cents")
    if time == "datetime":
        assert [r[1:] for r in plain(tape)] == [r[1:] for r in in_order(rows)]
    else:
        assert plain(tape) == in_order(rows)


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("yes_price", 101, "must be 0 to 1 dollar"),
        ("yes_price", -1, "must be 0 to 1 dollar"),
        ("yes_price", 43.123, "must be a multiple of 1/10,000 dollar"),
        ("yes_price", float("nan"), "must be a finite number"),
        ("yes_price", None, "must not be null"),
        ("count", 0, "must be above 0"),
        ("count", -5, "must be above 0"),
        ("count", 0.001, "must be a multiple of 1/100 contract"),
        ("count", None, "must not be null"),
        ("created_time", "soon", "must be a time"),
        ("created_time", None, "must not be null"),
        ("created_time", float("nan"), "must be a time"),
        ("ticker", None, "must not be null"),
    ],
)
def test_an_error_names_the_column_and_the_first_bad_row(column: str, value: object, rule: str) -> None:
    good = GOOD | {"created_time": 1_767_614_400.5} if isinstance(value, float) else GOOD
    rows = [good, good, good | {column: value}, good | {column: value}]
    with pytest.raises(TapeError, match=rule) as caught:
        to_tape(rows)
    assert (caught.value.column, caught.value.row) == (column, 2)


@pytest.mark.parametrize("column", ["ticker", "yes_price", "count", "taker_side", "created_time"])
def test_a_missing_column_is_named(column: str) -> None:
    others = [name for name in GOOD if name != column]
    with pytest.raises(TapeError, match=rf"data must have .*got {', '.join(others)}$") as caught:
        to_tape([{name: GOOD[name] for name in others}])
    assert caught.value.column is not None


def test_dropped_and_moved_rows_are_counted_and_reported() -> None:
    rows = [
        GOOD | {"trade_id": "1", "created_time": "2026-01-05T12:00:02Z"},
        GOOD | {"trade_id": "2", "created_time": "2026-01-05T12:00:01Z"},
        GOOD | {"trade_id": "2", "created_time": "2026-01-05T12:00:03Z"},
        GOOD | {"trade_id": "3", "taker_side": "unknown"},
        GOOD | {"trade_id": None, "taker_side": None},
        GOOD | {"trade_id": None, "created_time": "2026-01-05T12:00:09Z"},
        GOOD | {"trade_id": None, "created_time": "2026-01-05T12:00:09Z", "yes_price": 44},
    ]
    with pytest.warns(DroppedRows, match="4 of 7 rows kept: 2 without a taker side and 1 with a repeated"):
        tape, report = to_tape(rows, report=True)
    assert (report.kept, report.unknown_taker, report.duplicates, report.out_of_order) == (4, 2, 1, 1)
    assert tape["trade_id"].to_list() == ["2", "1", None, None]
    assert tape["price"].to_list() == [4300, 4300, 4300, 4400], "equal times keep their order"


def test_trades_listed_newest_first_are_reversed() -> None:
    """Prints of one time are reversed too: a sweep of 43, 44 and 45 cents is listed as 45, 44 and 43."""
    at = [
        GOOD | {"yes_price": p, "created_time": f"2026-01-05T12:00:0{t}Z"}
        for p, t in ((43, 1), (44, 1), (45, 1), (50, 2))
    ]
    other = GOOD | {"ticker": "A-B-2"}
    for listed in (at[::-1], [*at[::-1], other], [other, *at[::-1]]):
        tape = quiet(listed).filter(pl.col("ticker") == "A-B-1")
        assert tape["price"].to_list() == [4300, 4400, 4500, 5000]
        assert merge_sweeps(quiet(listed))["price"].to_list()[-2:] == [4500, 5000]
    # If one market is listed oldest first, nothing is reversed.
    mixed = [
        *at[::-1],
        GOOD | {"ticker": "A-B-2"},
        GOOD | {"ticker": "A-B-2", "created_time": "2026-01-05T12:00:09Z"},
    ]
    assert quiet(mixed).filter(pl.col("ticker") == "A-B-1")["price"].to_list() == [4500, 4400, 4300, 5000]


def test_dollars_and_cents_are_never_guessed() -> None:
    rows = [GOOD | {"yes_price": 0.43}, GOOD | {"yes_price": 1.0}]
    with pytest.raises(TapeError, match="may be dollars or cents"):
        to_tape(rows)
    assert quiet(rows, price_unit="dollars")["price"].to_list() == [4300, 10_000]
    assert quiet(rows, price_unit="cents")["price"].to_list() == [43, 100]
    for name in ("yes_price", "price"):
        texts = (
            pl.DataFrame(rows).with_columns(pl.col("yes_price").cast(pl.String)).rename({"yes_price": name})
        )
        for frame in (texts, texts.with_columns(pl.col(name).cast(pl.Decimal(10, 4)))):
            with pytest.raises(TapeError, match="may be dollars or cents"):
                to_tape(frame)
            assert quiet(frame, price_unit="dollars")["price"].to_list() == [4300, 10_000]
    with pytest.raises(TapeError, match="price_unit must be 'cents' or 'dollars', got 'dollar'"):
        to_tape(rows, price_unit="dollar")  # type: ignore[call-overload]


def test_price_units_are_assumed_only_if_price_and_size_have_a_tapes_dtypes() -> None:
    """A frame of cents may have been stored as Int16."""
    frame = pl.DataFrame([GOOD]).rename({"yes_price": "price", "count": "size"})
    for dtypes in ({"price": pl.Int16}, {"size": pl.UInt32}, {"price": pl.Int8, "size": pl.Int8}):
        tape = to_tape(frame.cast(dtypes))  # type: ignore[arg-type]
        assert tape.select("price", "size").rows() == [(4300, 200)]
    assert to_tape(tape).equals(tape)
    with pytest.raises(TapeError, match=r"must be 0 to 1 dollar, read as cents"):
        to_tape(tape.cast({"price": pl.Int64, "size": pl.Int64}))


def test_an_empty_trade_id_is_null() -> None:
    rows = [GOOD | {"trade_id": ""}, GOOD | {"trade_id": "", "taker_side": " No"}]
    tape, report = to_tape(rows, report=True)
    assert (report.kept, report.duplicates) == (2, 0)
    assert tape["trade_id"].to_list() == [None, None]
    assert tape["taker"].to_list() == ["yes", "no"]


def test_times_in_every_format_are_the_same_instant() -> None:
    moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
    us = from_datetime(moment)
    for value in (us // 1_000_000, us / 1e6, us // 1000, us, us * 1000, moment, "2026-01-05T12:00:00+00:00",
                  "2026-01-05 12:00:00", "2026-01-05T07:00:00-05:00"):  # fmt: skip
        tape = to_tape([GOOD | {"created_time": value}])
        assert tape["ts"].dt.epoch("us").to_list() == [us], value


def test_an_empty_table_becomes_an_empty_tape() -> None:
    frame = pl.DataFrame([GOOD]).head(0)
    assert to_tape(frame).schema == TAPE_SCHEMA


def test_types_other_than_tables_are_refused() -> None:
    for value in ("text", 5, {"ticker": ["A"]}, [1, 2]):
        with pytest.raises(TapeError, match=f"data must be .*, got {type(value).__name__}"):
            to_tape(value)
    frame = pl.DataFrame([GOOD, GOOD]).to_pandas().astype(object)
    with pytest.raises(TapeError, match=r"data must be .*, got Series"):
        to_tape(frame["yes_price"])
    frame.loc[1, "yes_price"] = "43"
    with pytest.raises(TapeError, match=r"cannot read the pandas frame: .*'43'"):
        to_tape(frame)


def test_market_objects_become_a_markets_table() -> None:
    table = to_markets(
        [
            {"ticker": "A-B-1", "event_ticker": "A-B", "result": "yes", "close_time": "2026-01-05T12:00:00Z"},
            {
                "ticker": "A-B-2",
                "event_ticker": "A-B",
                "result": "scalar",
                "settlement_value_dollars": "0.4200",
            },
            {"ticker": "A-B-3", "event_ticker": "A-B", "result": "", "close_time": "2026-01-06T12:00:00Z"},
        ]
    )
    assert table["settlement"].to_list() == [10_000, 4_200, None]
    assert table["series"].to_list() == ["A", "A", "A"]
    assert table["result"].to_list() == ["yes", "scalar", None]
    # The actual close of a settled market is not its expected close.
    assert table["expected_close_ts"].to_list() == [None, None, table["close_ts"][2]]
    assert table["close_ts"].null_count() == 1
    assert to_markets(table).equals(table)
    # Pandas turns integers with nulls into floats, and CSV has no Int16; the units are still price units.
    assert to_markets(table.to_pandas()).equals(table)
    assert to_markets(pl.read_csv(table.write_csv().encode())).equals(table)
    few = to_markets(table.to_pandas()[["ticker", "event", "result", "settlement"]])
    assert few["settlement"].to_list() == [10_000, 4_200, None]


@pytest.mark.parametrize(
    ("rows", "column", "rule"),
    [
        ([{"ticker": "A-B-1"}], "event", "pass event="),
        ([{"event_ticker": "A-B"}], "ticker", "data must have"),
        ([{"ticker": "A", "event_ticker": "A"}] * 2, "ticker", "must be unique"),
        ([{"ticker": "A", "event_ticker": "A", "result": "void"}], "result", "must be yes, no, scalar"),
        ([{"ticker": "A", "event_ticker": None}], "event", "must not be null"),
        ([{"ticker": "A", "event_ticker": "A", "result": "scalar"}], "settlement", "must match the result"),
        ([{"ticker": "A", "event": "A", "close_time": "soon"}], "close_time", "must be a time"),
        ([{"ticker": "A", "event": "A", "open_time": "2026-01-06"}], "open_time", "must be a time"),
        (
            [{"ticker": "A", "event": "A", "result": "scalar", "settlement_value": 0.5}],
            "settlement_value",
            "may be dollars or cents",
        ),
        (
            [{"ticker": "A", "event": "A", "result": "yes", "settlement_value": "100"}],
            "settlement_value",
            "must be 0 to 1 dollar",
        ),
    ],
)
def test_bad_markets_are_refused(rows: list[dict[str, Any]], column: str, rule: str) -> None:
    with pytest.raises(TapeError, match=rule) as caught:
        to_markets(rows)
    assert caught.value.column == column


def test_the_event_can_be_an_expression() -> None:
    table = to_markets([{"ticker": "A-B-1"}], event=pl.col("ticker").str.replace(r"-[^-]*$", ""))
    assert table["event"].to_list() == ["A-B"]


def test_real_data_convert_without_loss(shared: Path) -> None:
    tape, report = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"), report=True)
    assert (report.rows, report.kept) == (89_164, 89_164)
    check_tape(tape)
    raw = pl.read_parquet(shared / "data" / "markets_macro.parquet")
    markets = to_markets(raw, result_column="result_released")
    assert markets.height == 828
    assert markets["result"].drop_nulls().len() == 766
    with pytest.raises(TapeError, match="result_column"):
        to_markets(raw, result_column="results")
