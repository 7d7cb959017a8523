"""Each family of signals: a run over a tape, live updates and a plain reference produce the same fires."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from made_tapes import Past, Print, as_rows, by_market, live, prints, tape_of

from kalshilab import signals
from kalshilab.errors import SignalError

Rows = list[tuple[int, str]]
"""Expected fires: row and the outcome to buy."""


class TooClose(Exception):
    """A value equals the threshold up to rounding, so that either answer is correct."""


def since_anchor(tape: pl.DataFrame, rearm: bool, rule: Callable[[Past], str | None]) -> Rows:
    """Return the fires of a rule over a market's prints since its anchor, which moves past each fire with `rearm`."""
    fires: Rows = []
    anchor: dict[int, int] = {}
    for row, past in by_market(tape):
        start = anchor.get(id(past), 0)
        side = rule(past[start:]) if start >= 0 else None
        if side is not None:
            fires.append((row, side))
            anchor[id(past)] = len(past) if rearm else -1
    return fires


def paid(p: tuple[int, int, int, str]) -> int:
    return p[1] if p[3] == "yes" else 10_000 - p[1]


def share(past: Past, side: str = "yes") -> float:
    return sum(p[3] == side for p in past) / len(past)


def band(tape: pl.DataFrame, side: str, low: float, high: float, rearm: bool) -> Rows:
    def inside(price: int) -> bool:
        return low * 100 <= (price if side == "yes" else 10_000 - price) <= high * 100

    fires, done = [], set()
    for row, past in by_market(tape):
        came = inside(past[-1][1]) and (len(past) == 1 or not inside(past[-2][1]))
        if came and (rearm or id(past) not in done):
            done.add(id(past))
            fires.append((row, side))
    return fires


def whales(
    tape: pl.DataFrame,
    min_value: float,
    max_leverage: float,
    fade: bool,
    rearm: bool,
    top: int | None = None,
    window: float = 300,
) -> Rows:
    fires, done = [], set()
    queue: list[tuple[int, int]] = []
    for row, past in by_market(tape):
        ts, _, size, taker = past[-1]
        value = paid(past[-1]) * size
        steady = paid(past[-1]) > 0 and (10_000 - paid(past[-1])) / paid(past[-1]) < max_leverage
        if value < min_value * 1_000_000 or not steady or (fade and taker == "no"):
            continue
        if not rearm and id(past) in done:
            continue
        done.add(id(past))
        if top is not None:
            queue = [(t, v) for t, v in queue if t > ts - window * 1e6]
            if len(queue) == top:
                smallest = min(v for _, v in queue)
                if value <= smallest:
                    continue
                queue.remove(next(q for q in queue if q[1] == smallest))
            queue.append((ts, value))
        fires.append((row, "no" if fade else taker))
    return fires


def variance(tape: pl.DataFrame, max_std: float, min_no_ratio: float, min_trades: int, rearm: bool) -> Rows:
    def rule(past: Past) -> str | None:
        stakes = [max(paid(p), 1) for p in past]
        if len(past) < max(min_trades, 2) or share(past, "no") <= min_no_ratio:
            return None
        std = statistics.stdev((10_000 - s) / s for s in stakes)
        if math.isclose(std, max_std, rel_tol=1e-9):
            raise TooClose
        return "no" if std < max_std else None

    return since_anchor(tape, rearm, rule)


def steam(tape: pl.DataFrame, min_trades: int, window: float, min_move: float, rearm: bool) -> Rows:
    def rule(past: Past) -> str | None:
        side = past[-1][3]
        own = [p for p in past if p[3] == side][-min_trades:]
        if len(own) < min_trades or own[-1][0] - own[0][0] > window * 1e6:
            return None
        return side if paid(own[-1]) - paid(own[0]) > min_move * 100 else None

    return since_anchor(tape, rearm, rule)


def burst(
    tape: pl.DataFrame, min_trades: int, window: float, min_ratio: float, side: str, rearm: bool
) -> Rows:
    fires: Rows = []
    done: dict[int, set[int]] = {}
    for row, past in by_market(tape):
        windows = [p[0] // round(window * 1e6) for p in past]
        here = [p for p, w in zip(past, windows, strict=True) if w == windows[-1]]
        before = done.setdefault(id(past), set())
        if len(here) < min_trades or share(here, side) <= min_ratio or windows[-1] in before:
            continue
        if before and not rearm:
            continue
        before.add(windows[-1])
        fires.append((row, side))
    return fires


def dollar_direction(tape: pl.DataFrame, min_gap: float, min_trades: int, rearm: bool) -> Rows:
    def rule(past: Past) -> str | None:
        money = [paid(p) * p[2] for p in past]
        yes = sum(m for m, p in zip(money, past, strict=True) if p[3] == "yes")
        if len(past) < min_trades or not sum(money):
            return None
        return "no" if share(past) - yes / sum(money) > min_gap else None

    return since_anchor(tape, rearm, rule)


def conviction_ratio(tape: pl.DataFrame, min_ratio: float, min_trades: int, rearm: bool) -> Rows:
    def rule(past: Past) -> str | None:
        yes, no = ([p[2] for p in past if p[3] == side] for side in ("yes", "no"))
        if len(past) < min_trades or not yes or not no:
            return None
        return "no" if (sum(no) / len(no)) / (sum(yes) / len(yes)) >= min_ratio else None

    return since_anchor(tape, rearm, rule)


def buy_back(tape: pl.DataFrame, half: int, first_ratio: float, second_ratio: float, rearm: bool) -> Rows:
    def rule(past: Past) -> str | None:
        n = len(past)
        if n not in {half * 2**k for k in range(1, 12)}:
            return None
        first, second = past[: n // 2], past[n // 2 :]
        larger = sum(p[2] for p in second) > sum(p[2] for p in first)
        return "no" if share(first) > first_ratio and share(second) < second_ratio and larger else None

    return since_anchor(tape, rearm, rule)


CASES: list[tuple[Callable[..., Any], Callable[..., Any], dict[str, Any]]] = [
    *(
        (signals.PriceBand, band, {"side": side, "low": low, "high": high, "rearm": rearm})
        for side, low, high, rearm in (("yes", 80, 90, False), ("no", 0, 100, True), ("no", 50, 75, True))
    ),
    *(
        (make, lambda tape, fade=fade, **p: whales(tape, fade=fade, **p),
         {"min_value": value, "max_leverage": leverage, "rearm": rearm, "top": top, "window": window})
        for make, fade in ((signals.WhaleFade, True), (signals.WhaleFollow, False))
        for value, leverage, rearm, top, window in (
            (100, 2.0, True, None, 300), (0, 1e6, False, None, 300), (50.5, 0.5, True, 1, 60), (10, 3.0, True, 3, 0.5),
        )
    ),
    *(
        (signals.LowLeverageVariance, variance,
         {"max_std": std, "min_no_ratio": ratio, "min_trades": n, "rearm": rearm})
        for std, ratio, n, rearm in ((0.7, 0.5, 5, False), (5.0, 0.0, 1, True), (100.0, 0.4, 3, True))
    ),
    *(
        (signals.Steam, steam, {"min_trades": n, "window": window, "min_move": move, "rearm": rearm})
        for n, window, move, rearm in ((2, 60, 5, False), (3, 30, 0, True), (5, 0.5, 1, True), (8, 1e6, 2.5, True))
    ),
    *(
        (signals.Burst, burst,
         {"min_trades": n, "window": window, "min_ratio": ratio, "side": side, "rearm": rearm})
        for n, window, ratio, side, rearm in ((3, 1, 0.6, "no", False), (1, 0.5, 0.5, "yes", True), (2, 60, 0.4, "no", True))
    ),
    *(
        (signals.DollarDirection, dollar_direction, {"min_gap": gap, "min_trades": n, "rearm": rearm})
        for gap, n, rearm in ((0.2, 5, False), (0.0, 1, True), (-0.1, 3, True))
    ),
    *(
        (signals.ConvictionRatio, conviction_ratio, {"min_ratio": ratio, "min_trades": n, "rearm": rearm})
        for ratio, n, rearm in ((2.0, 4, False), (1.0, 2, True))
    ),
    *(
        (signals.BuyBack, buy_back, {"half": half, "first_ratio": a, "second_ratio": b, "rearm": rearm})
        for half, a, b, rearm in ((2, 0.6, 0.4, False), (1, 0.5, 0.5, True), (3, 0.3, 0.9, True))
    ),
]  # fmt: skip
NAMES = [f"{make.name}-{i}" for i, (make, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("make", "reference", "parameters"), CASES, ids=NAMES)
@settings(max_examples=50)
@given(rows=prints())
def test_vectorised_live_and_reference_agree(
    make: Callable[..., Any], reference: Callable[..., Any], parameters: dict[str, Any], rows: list[Print]
) -> None:
    tape = tape_of(rows)
    signal = make(**parameters)
    fires = signal.run(tape)
    try:
        expected = reference(tape, **parameters)
    except TooClose:
        return
    assert fires.select("row", pl.col("side").cast(pl.String)).rows() == expected
    assert live(signal, tape) == as_rows(fires)
    assert getattr(signals, signal.name)(tape, **parameters).equals(fires)


def test_additional_columns_of_each_family_equal_manual_values() -> None:
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
    steam = signals.steam(tape, min_trades=2, min_move=4.99)
    assert steam.select("side", "move", "n_trades").rows() == [("yes", 500, 2)]
    assert signals.burst(tape, min_trades=2, side="yes")["ratio"].to_list() == [1.0]
    ratio = signals.conviction_ratio(tape, min_trades=3)
    assert ratio["ratio"].to_list() == [90_000 / 15_050]


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (signals.PriceBand, {"side": "maybe"}), (signals.PriceBand, {"low": 90, "high": 80}),
        (signals.PriceBand, {"low": -1}), (signals.PriceBand, {"inner": (0.001, 5)}), (signals.PriceBand, {"rearm": 1}),
        (signals.PriceBand, {"inner": 85}), (signals.PriceBand, {"inner": (80, 85, 90)}),
        (signals.PriceBand, {"inner": (87, 83)}),
        (signals.WhaleFade, {"min_value": -1}), (signals.WhaleFade, {"min_value": "many"}),
        (signals.WhaleFade, {"top": 0}), (signals.WhaleFade, {"window": 0}),
        (signals.WhaleFollow, {"max_leverage": -0.5}), (signals.WhaleFollow, {"rearm": None}),
        (signals.LowLeverageVariance, {"max_std": -1}), (signals.LowLeverageVariance, {"min_no_ratio": 1.5}),
        (signals.LowLeverageVariance, {"min_trades": 0}), (signals.LowLeverageVariance, {"min_trades": 2.5}),
        (signals.Steam, {"min_trades": 1}), (signals.Steam, {"min_trades": 65}), (signals.Steam, {"window": -1}),
        (signals.Steam, {"min_move": 0.001}), (signals.Burst, {"side": None}), (signals.Burst, {"min_ratio": 2}),
        (signals.DollarDirection, {"min_gap": 1.5}), (signals.ConvictionRatio, {"min_ratio": float("nan")}),
        (signals.BuyBack, {"half": 0}), (signals.BuyBack, {"first_ratio": -0.1}), (signals.BuyBack, {"second_ratio": 9}),
    ],
)  # fmt: skip
def test_a_parameter_out_of_range_raises_before_the_tape_is_read(
    make: Callable[..., Any], parameters: dict[str, Any]
) -> None:
    with pytest.raises(SignalError) as caught:
        make(**parameters)
    assert caught.value.signal == make.name
    assert caught.value.parameter in {*parameters, "high"}
