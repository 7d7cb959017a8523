"""The other signals: both drivers and a plain reference agree, and nothing later is ever read."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab import signals
from kalshilab.errors import SignalError
from kalshilab.tape.schema import TAKER, TAPE_SCHEMA, TIME, with_codes

Print = tuple[int, str, int, int, str]

tapes = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.sampled_from(["A-B-1", "A-B-2", "C-D-1"]),
        st.one_of(st.integers(1, 99).map(lambda c: c * 100), st.integers(0, 10_000)),
        st.integers(1, 60_000),
        st.sampled_from(["yes", "no"]),
    ),
    max_size=80,
)


def tape_of(rows: list[Print]) -> pl.DataFrame:
    ts, out = 1_000_000, []
    for gap, *rest in rows:
        ts += gap
        out.append((ts, *rest))
    frame = pl.DataFrame(
        out,
        schema={"ts": pl.Int64, "ticker": pl.String, "price": pl.Int16, "size": pl.UInt32, "taker": TAKER},
        orient="row",
    ).with_columns(pl.col("ts").cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME), trade_id=None)
    return with_codes(frame.cast({"trade_id": pl.String})).select(TAPE_SCHEMA.names())


def by_market(tape: pl.DataFrame) -> Iterator[tuple[int, list[tuple[int, int, str]]]]:
    """Each row with its market's prints up to and including it."""
    past: dict[str, list[tuple[int, int, str]]] = {}
    for row, (_, ticker, _, price, size, taker, _) in enumerate(tape.iter_rows()):
        past.setdefault(ticker, []).append((price, size, taker))
        yield row, past[ticker]


def band(tape: pl.DataFrame, side: str, low: float, high: float, rearm: bool) -> list[tuple[int, Any]]:
    def inside(price: int) -> bool:
        return low * 100 <= (price if side == "yes" else 10_000 - price) <= high * 100

    fires, done = [], set()
    for row, past in by_market(tape):
        came = inside(past[-1][0]) and (len(past) == 1 or not inside(past[-2][0]))
        if came and (rearm or id(past) not in done):
            done.add(id(past))
            fires.append((row, side))
    return fires


def whales(
    tape: pl.DataFrame, min_value: float, max_leverage: float, fade: bool, rearm: bool
) -> list[tuple[int, Any]]:
    fires, done = [], set()
    for row, past in by_market(tape):
        price, size, taker = past[-1]
        paid = price if taker == "yes" else 10_000 - price
        large = paid * size >= min_value * 1_000_000
        steady = paid > 0 and (10_000 - paid) / paid < max_leverage
        if large and steady and not (fade and taker == "no") and (rearm or id(past) not in done):
            done.add(id(past))
            fires.append((row, "no" if fade else taker))
    return fires


def variance(
    tape: pl.DataFrame, max_std: float, min_no_ratio: float, min_trades: int, rearm: bool
) -> list[tuple[int, Any]]:
    fires: list[tuple[int, Any]] = []
    since: dict[int, int] = {}
    for row, past in by_market(tape):
        start = since.get(id(past), 0)
        if start < 0:
            continue
        prints = past[start:]
        paid = [max(p if t == "yes" else 10_000 - p, 1) for p, _, t in prints]
        n, no = len(prints), sum(t == "no" for _, _, t in prints)
        if n < max(min_trades, 2) or no / n <= min_no_ratio:
            continue
        std = statistics.stdev((10_000 - p) / p for p in paid)
        if math.isclose(std, max_std, rel_tol=1e-9):
            raise Unclear
        if std < max_std:
            fires.append((row, "no"))
            since[id(past)] = len(past) if rearm else -1
    return fires


class Unclear(Exception):
    """The deviation is the threshold to the last bits: either answer would do."""


CASES: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = [
    *(
        (signals.PriceBand, band, {"side": side, "low": low, "high": high, "rearm": rearm})
        for side in ("yes", "no")
        for low, high in ((80, 90), (0, 100), (50, 50))
        for rearm in (False, True)
    ),
    *(
        (make, lambda tape, fade=fade, **p: whales(tape, fade=fade, **p),
         {"min_value": value, "max_leverage": leverage, "rearm": rearm})
        for make, fade in ((signals.WhaleFade, True), (signals.WhaleFollow, False))
        for value, leverage in ((100, 2.0), (0, 1e6), (50.5, 0.5))
        for rearm in (False, True)
    ),
    *(
        (signals.LowLeverageVariance, variance,
         {"max_std": std, "min_no_ratio": ratio, "min_trades": n, "rearm": rearm})
        for std, ratio, n in ((0.7, 0.5, 5), (5.0, 0.0, 1), (100.0, 0.4, 3))
        for rearm in (False, True)
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "reference", "parameters"), CASES)
@settings(max_examples=60, deadline=None)
@given(tapes)
def test_vectorised_live_and_reference_agree(
    make: Callable[..., Any], reference: Callable[..., Any], parameters: dict[str, Any], rows: list[Print]
) -> None:
    tape = tape_of(rows)
    signal = make(**parameters)
    fires = signal.run(tape)
    try:
        expected = reference(tape, **parameters)
    except Unclear:
        return
    assert fires.select("row", pl.col("side").cast(pl.String)).rows() == expected
    plain = tape.with_columns(pl.col("ts").dt.epoch("us"), pl.col("taker").cast(pl.String))
    live = []
    for row in plain.select("ticker", "ts", "price", "size", "taker").iter_rows():
        fire = signal.update(*row)
        if fire is not None:
            live.append(tuple(getattr(fire, name) for name in type(fire).__struct_fields__))
    texts = fires.with_columns(pl.col("ts").dt.epoch("us"), pl.col(pl.Enum).cast(pl.String))
    assert live == texts.rows()
    assert len({f[0] for f in live}) == len(live)
    function = getattr(signals, signal.name)
    assert function(tape, **parameters).equals(fires)


@pytest.mark.parametrize(("make", "reference", "parameters"), CASES[::2])
@settings(max_examples=30, deadline=None)
@given(tapes, st.integers(0, 80))
def test_later_rows_never_change_earlier_fires(
    make: Callable[..., Any],
    reference: Callable[..., Any],
    parameters: dict[str, Any],
    rows: list[Print],
    cut: int,
) -> None:
    tape = tape_of(rows)
    whole = make(**parameters).run(tape).filter(pl.col("row") < cut)
    assert make(**parameters).run(tape.head(cut)).rows() == whole.rows()


def test_own_columns() -> None:
    tape = tape_of(
        [
            (1, "A-B-1", 8_000, 100, "yes"),
            (1, "A-B-1", 8_500, 30_000, "yes"),
            (1, "A-B-1", 7_000, 90_000, "no"),
        ]
    )
    assert signals.price_band(tape)["tier"].to_list() == ["B"]
    assert signals.price_band(tape.slice(1))["tier"].to_list() == ["A"]
    assert signals.price_band(tape, side="no", low=20, high=30, inner=(29, 30), rearm=True)[
        "tier"
    ].to_list() == ["B", "A"]
    fade = signals.whale_fade(tape, min_value=200)
    assert fade.select("value", "whales").rows() == [(255_000_000, 1)]
    follow = signals.whale_follow(tape, min_value=200, max_leverage=3)
    assert follow.select("side", "value", "whales").rows() == [
        ("yes", 255_000_000, 1),
        ("no", 270_000_000, 2),
    ]


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (signals.PriceBand, {"side": "maybe"}), (signals.PriceBand, {"low": 90, "high": 80}),
        (signals.PriceBand, {"low": -1}), (signals.PriceBand, {"inner": (0.001, 5)}), (signals.PriceBand, {"rearm": 1}),
        (signals.WhaleFade, {"min_value": -1}), (signals.WhaleFade, {"min_value": "lots"}),
        (signals.WhaleFollow, {"max_leverage": -0.5}), (signals.WhaleFollow, {"rearm": None}),
        (signals.LowLeverageVariance, {"max_std": -1}), (signals.LowLeverageVariance, {"min_no_ratio": 1.5}),
        (signals.LowLeverageVariance, {"min_trades": 0}), (signals.LowLeverageVariance, {"min_trades": 2.5}),
    ],
)  # fmt: skip
def test_a_parameter_out_of_range_is_said_before_reading(
    make: Callable[..., Any], parameters: dict[str, Any]
) -> None:
    with pytest.raises(SignalError) as caught:
        make(**parameters)
    assert caught.value.signal == make.name
    assert caught.value.parameter in {*parameters, "high"}


def test_real_prints(shared: Any) -> None:
    from kalshilab.tape import to_tape

    tape = to_tape(pl.read_parquet(shared / "data" / "trades_macro.parquet"))
    counts = {
        name: getattr(signals, name)(tape).height
        for name in ("rlm", "price_band", "whale_fade", "whale_follow", "low_leverage_variance")
    }
    assert counts["rlm"] == 47
    assert all(n > 0 for n in counts.values())
    assert counts["whale_follow"] >= counts["whale_fade"]
