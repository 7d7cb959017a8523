"""Reverse line movement: a run over a tape, live updates and a plain reference produce the same fires."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import Print, as_rows, by_market, live, prints, tape_of

from kalshilab.errors import SignalError, TapeError
from kalshilab.signals import Rlm, rlm
from kalshilab.signals.builtin.rlm_grid import RlmCells
from kalshilab.signals.engine.state_pass import columns_of
from kalshilab.tape.schema import TIME

parameters = st.fixed_dictionaries(
    {
        "yes_threshold": st.sampled_from([0.0, 0.5, 2 / 3, 0.7, 0.75, 1.0]),
        "min_trades": st.integers(1, 8),
        "min_drop": st.sampled_from([0, 0.1, 1, 5, 12.5]),
        "rearm": st.sampled_from([False, True, "stronger"]),
        "flow": st.sampled_from(["trades", "contracts"]),
        "min_price": st.sampled_from([0, 12.5]),
        "max_price": st.sampled_from([100, 60]),
        "side": st.sampled_from(["no", "yes"]),
    }
)


def reference(
    tape: pl.DataFrame,
    yes_threshold: float = 0.70,
    min_trades: int = 25,
    min_drop: float = 5,
    rearm: Any = False,
    flow: str = "trades",
    min_price: float = 0,
    max_price: float = 100,
    side: str = "no",
) -> list[Any]:
    """Return the fires of the rule, restated as plainly as possible over a market's prints since its anchor."""
    fires = []
    anchors: dict[int, int] = {}
    entries: dict[int, tuple[float, int]] = {}
    for row, past in by_market(tape):
        anchor = anchors.get(id(past), 0)
        if anchor < 0:
            continue
        counted = past[anchor:]
        first, (ts, price, _, _) = counted[0][1], counted[-1]
        weights = [p[2] if flow == "contracts" else 1 for p in counted]
        yes = sum(w for w, p in zip(weights, counted, strict=True) if p[3] == "yes")
        share = (yes if side == "no" else sum(weights) - yes) / sum(weights)
        drop = first - price if side == "no" else price - first
        if len(counted) < min_trades or share <= yes_threshold or drop < min_drop * 100:
            continue
        if not min_price * 100 <= price <= max_price * 100:
            continue
        if id(past) in entries and not (share > entries[id(past)][0] or drop > entries[id(past)][1]):
            continue
        if rearm == "stronger":
            entries[id(past)] = share, drop
        else:
            anchors[id(past)] = len(past) if rearm else -1
        fires.append((row, ts, side, price, len(counted), yes / sum(weights), first - price, first))
    return fires


def without_ticker(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [(*r[:2], *r[3:]) for r in rows]


@settings(max_examples=400)
@given(prints(120), parameters)
def test_vectorised_live_and_reference_agree(rows: list[Print], chosen: dict[str, Any]) -> None:
    tape = tape_of(rows)
    signal = Rlm(**chosen)
    vectorised = signal.run(tape)
    assert without_ticker(as_rows(vectorised)) == reference(tape, **chosen)
    assert live(signal, tape) == as_rows(vectorised)
    assert rlm(tape, **chosen).equals(vectorised)


@settings(max_examples=100)
@given(prints(120), parameters)
def test_run_does_not_change_live_state(rows: list[Print], chosen: dict[str, Any]) -> None:
    tape = tape_of(rows)
    disturbed, quiet = Rlm(**chosen), Rlm(**chosen)
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


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1 - 2**-53])
@pytest.mark.parametrize("bits", [32, 52, 53, 55, 58, 61])
def test_a_flow_of_contracts_does_not_overflow(threshold: float, bits: int) -> None:
    def signal(threshold: float) -> Rlm:
        return Rlm(threshold, min_trades=2, min_drop=1, flow="contracts")

    one = signal(threshold)
    assert one.update("A-B-1", 1, 5000, 2**bits, "yes") is None
    assert one.update("A-B-1", 2, 4000, 1, "yes") is not None
    other = signal(threshold)
    assert not any(other.update("A-B-1", 1, price, 2**bits, "no") for price in (5000, 4000))
    (cells,) = Rlm.begin_cells([signal(threshold), signal(threshold / 2)], markets=1)
    assert isinstance(cells, RlmCells)
    cells.state[0] = (1, 5000, 2**bits, 2**bits, 0)
    tape = tape_of([(2, "A-B-1", 4000, 1, "yes")])
    assert [len(fires.row) for fires in cells.push(columns_of(tape, one.reads))] == [1, 1]


def test_after_a_fire_the_next_print_is_the_anchor() -> None:
    tape = tape_of([(1, "A-B-1", p, 100, "yes") for p in (5000, 4500, 4000, 3900, 3500)])
    fires = rlm(tape, min_trades=2, min_drop=5, rearm=True)
    assert fires.select("row", "n_trades", "first_price", "drop").rows() == [
        (1, 2, 5000, 500),
        (4, 3, 4000, 500),
    ]
    assert rlm(tape, min_trades=2, min_drop=5).height == 1


def test_fires_have_the_frame_type_of_the_tape() -> None:
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
        ("rearm", 1), ("rearm", "weaker"), ("flow", "dollars"), ("min_price", -1), ("max_price", 101), ("side", "both"),
    ],
)  # fmt: skip
def test_a_parameter_out_of_range_raises_before_the_tape_is_read(name: str, value: object) -> None:
    with pytest.raises(SignalError) as caught:
        Rlm(**{name: value})
    assert caught.value.parameter == name
    assert repr(value) in str(caught.value)


def test_input_that_is_not_a_tape_is_rejected() -> None:
    tape = tape_of([(1, "A-B-1", 5000, 100, "yes")])
    for bad, column in (
        (tape.drop("taker"), "taker"),
        (tape.with_columns(pl.col("price") / 100), "price"),
        (tape.with_columns(pl.lit(None, TIME).alias("ts")), "ts"),
    ):
        with pytest.raises(TapeError) as caught:
            rlm(bad)
        assert caught.value.column == column
    with pytest.raises(TapeError, match="must be a frame, a lake or a path, got list"):
        rlm([1, 2])
    with pytest.raises(TapeError, match=r"no-such-lake does not exist; make a lake with"):
        rlm("no-such-lake")
    with pytest.raises(SignalError, match="taker"):
        Rlm().update("A-B-1", 1, 5000, 100, "unknown")


def test_state_shows_the_live_numbers_and_reset_clears_them() -> None:
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
    again = signal.state("A-B-1")
    assert again is not None
    assert (again.first_price, again.yes_share) == (4000, 0.0)
    signal.reset()
    assert signal.state("A-B-1") is None


def test_recorded_prints_fire_like_the_reference(shared: Any) -> None:
    from kalshilab.tape import to_tape

    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    fires = rlm(tape)
    assert fires.height == 47
    assert rlm(tape, rearm=True).height == 62
    assert without_ticker(as_rows(fires)) == reference(tape)
    assert rlm(tape, rearm="stronger").height > rlm(tape).height
    part = tape.head(20_000)
    fires = rlm(part, flow="contracts", side="yes")
    assert fires.height > 0
    assert without_ticker(as_rows(fires)) == reference(part, flow="contracts", side="yes")
