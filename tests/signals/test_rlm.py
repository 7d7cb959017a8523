"""One signal, two drivers: the run over a tape, the live updates and a plain reference give the same fires."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.errors import SignalError, TapeError
from kalshilab.signals import Rlm, RlmFire, rlm
from kalshilab.tape.schema import TAKER, TAPE_SCHEMA, TIME, with_codes

Row = tuple[int, str, int, int, str]

rows = st.lists(
    st.tuples(
        st.integers(0, 3),  # gap to the row before: often 0, so times tie
        st.sampled_from(["A-B-1", "A-B-2", "C-D-1", "E-F-9"]),
        st.one_of(st.integers(1, 99).map(lambda c: c * 100), st.integers(0, 10_000)),
        st.integers(1, 5_000),
        st.sampled_from(["yes", "yes", "no"]),
    ),
    max_size=120,
)
parameters = st.fixed_dictionaries(
    {
        "yes_threshold": st.sampled_from([0.0, 0.5, 2 / 3, 0.7, 0.75, 1.0]),
        "min_trades": st.integers(1, 8),
        "min_drop": st.sampled_from([0, 0.1, 1, 5, 12.5]),
        "rearm": st.booleans(),
    }
)


def tape_of(gaps: list[Row]) -> pl.DataFrame:
    """A tape from rows whose first item is the gap in microseconds to the row before."""
    ts, out = 1_000_000, []
    for gap, ticker, price, size, taker in gaps:
        ts += gap
        out.append((ts, ticker, price, size, taker))
    frame = pl.DataFrame(
        out,
        schema={"ts": pl.Int64, "ticker": pl.String, "price": pl.Int16, "size": pl.UInt32, "taker": TAKER},
        orient="row",
    ).with_columns(pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME), trade_id=None)
    return with_codes(frame.cast({"trade_id": pl.String})).select(TAPE_SCHEMA.names())


def reference(
    tape: pl.DataFrame, yes_threshold: float, min_trades: int, min_drop: float, rearm: bool
) -> list[Any]:
    """The rule, written down once more as plainly as can be."""
    fires, seen = [], {}
    for row, (ts, ticker, _, price, _, taker, _) in enumerate(tape.iter_rows()):
        n, yes, first, fired = seen.get(ticker, (0, 0, price, False))
        if fired and not rearm:
            continue
        if fired:
            n, yes, first = 0, 0, price
        n, yes = n + 1, yes + (taker == "yes")
        fired = n >= min_trades and yes / n > yes_threshold and first - price >= min_drop * 100
        if fired:
            fires.append((row, ts, ticker, "no", price, n, yes / n, first - price, first))
        seen[ticker] = (n, yes, first, fired)
    return fires


def live(signal: Rlm, tape: pl.DataFrame) -> list[RlmFire]:
    columns = tape.with_columns(pl.col("ts").dt.epoch("us"), pl.col("taker").cast(pl.String))
    rows = columns.select("ticker", "ts", "price", "size", "taker").iter_rows()
    return [fire for row in rows if (fire := signal.update(*row)) is not None]


@settings(max_examples=300, deadline=None)
@given(rows, parameters)
def test_vectorised_live_and_reference_agree(gaps: list[Row], given_parameters: dict[str, Any]) -> None:
    tape = tape_of(gaps)
    signal = Rlm(**given_parameters)
    vectorised = signal.run(tape)
    assert vectorised.rows() == reference(tape, **given_parameters)
    as_rows = vectorised.with_columns(pl.col("ts").dt.epoch("us"), pl.col("side").cast(pl.String)).rows()
    assert [
        tuple(getattr(f, name) for name in RlmFire.__struct_fields__) for f in live(signal, tape)
    ] == as_rows
    assert rlm(tape, **given_parameters).equals(vectorised)


@settings(max_examples=150, deadline=None)
@given(rows, parameters, st.integers(0, 120))
def test_later_rows_never_change_earlier_fires(
    gaps: list[Row], given_parameters: dict[str, Any], cut: int
) -> None:
    tape = tape_of(gaps)
    whole = rlm(tape, **given_parameters)
    assert rlm(tape.head(cut), **given_parameters).rows() == whole.filter(pl.col("row") < cut).rows()


@settings(max_examples=100, deadline=None)
@given(rows, parameters)
def test_running_leaves_live_state_alone(gaps: list[Row], given_parameters: dict[str, Any]) -> None:
    tape = tape_of(gaps)
    disturbed, quiet = Rlm(**given_parameters), Rlm(**given_parameters)
    half = tape.height // 2
    first = live(disturbed, tape.head(half))
    disturbed.run(tape)
    assert first + live(disturbed, tape.slice(half)) == live(quiet, tape)


def test_threshold_is_strict_drop_and_count_are_not() -> None:
    def prints(yes: int, no: int, last: int) -> pl.DataFrame:
        takers = ["yes"] * yes + ["no"] * no
        prices = [5000] * (len(takers) - 1) + [last]
        return tape_of([(1, "A-B-1", p, 100, t) for p, t in zip(prices, takers, strict=True)])

    assert rlm(prints(7, 3, 4500), min_trades=10).height == 0, "70.0 % is not above 70 %"
    assert rlm(prints(71, 29, 4500), min_trades=100).height == 1
    assert rlm(prints(20, 4, 4500)).height == 0, "24 prints"
    assert rlm(prints(21, 4, 4500)).height == 1, "25 prints"
    assert rlm(prints(21, 4, 4600)).height == 0, "4 cents"
    assert rlm(prints(21, 4, 4500)).height == 1, "5 cents"


def test_rearming_takes_the_next_print_as_anchor() -> None:
    tape = tape_of([(1, "A-B-1", p, 100, "yes") for p in (5000, 4500, 4000, 3900, 3500)])
    fires = rlm(tape, min_trades=2, min_drop=5, rearm=True)
    assert fires.select("row", "n_trades", "first_price", "drop").rows() == [
        (1, 2, 5000, 500),
        (4, 3, 4000, 500),
    ]
    assert rlm(tape, min_trades=2, min_drop=5).height == 1


def test_same_kind_of_frame_comes_back() -> None:
    tape = tape_of([(1, "A-B-1", p, 100, "yes") for p in (5000, 4500)])
    fires = rlm(tape, min_trades=2)
    assert isinstance(rlm(tape.lazy(), min_trades=2), pl.LazyFrame)
    assert rlm(tape.lazy(), min_trades=2).collect().equals(fires)
    frame = rlm(tape.to_pandas(), min_trades=2)
    assert type(frame).__module__.startswith("pandas")
    assert frame["drop"].tolist() == [500]
    assert rlm(tape.head(0)).schema == fires.schema


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("yes_threshold", 1.1), ("yes_threshold", -0.1), ("yes_threshold", True), ("yes_threshold", float("nan")),
        ("min_trades", 0), ("min_trades", 2.5), ("min_drop", -1), ("min_drop", 101), ("min_drop", 0.001),
        ("rearm", 1),
    ],
)  # fmt: skip
def test_a_parameter_out_of_range_is_said_before_reading(name: str, value: object) -> None:
    with pytest.raises(SignalError) as caught:
        Rlm(**{name: value})
    assert caught.value.parameter == name
    assert repr(value) in str(caught.value)


def test_what_is_not_a_tape_is_refused() -> None:
    tape = tape_of([(1, "A-B-1", 5000, 100, "yes")])
    for bad, column in (
        (tape.drop("taker"), "taker"),
        (tape.with_columns(pl.col("price") / 100), "price"),
        (tape.with_columns(pl.lit(None, TIME).alias("ts")), "ts"),
    ):
        with pytest.raises(TapeError) as caught:
            rlm(bad)
        assert caught.value.column == column
    with pytest.raises(TapeError, match="list is not a tape"):
        rlm([1, 2])
    with pytest.raises(SignalError, match="taker"):
        Rlm().update("A-B-1", 1, 5000, 100, "unknown")


def test_state_and_reset() -> None:
    signal = Rlm(min_trades=3)
    assert signal.state("A-B-1") is None
    for price in (5000, 4900):
        signal.update("A-B-1", 1, price, 100, "yes")
    state = signal.state("A-B-1")
    assert state is not None
    assert (state.n_trades, state.yes_trades, state.first_price, state.last_price) == (2, 2, 5000, 4900)
    signal.reset("A-B-1")
    assert signal.state("A-B-1") is None
    signal.update("A-B-1", 1, 4000, 100, "no")
    assert signal.state("A-B-1").first_price == 4000
    signal.reset()
    assert signal.state("A-B-1") is None


def test_real_prints(shared: Any) -> None:
    from kalshilab.tape import to_tape

    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    fires = rlm(tape)
    assert fires.height == 47
    assert rlm(tape, rearm=True).height == 62
    assert fires.rows() == reference(tape, 0.70, 25, 5, False)
