"""Criteria of a card: thresholds met and missed, and the failure that gives the verdict."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.edge.report import criteria
from kalshilab.edge.schema import Criterion


class Audit(NamedTuple):
    """An audit with a fixed result."""

    name: str
    passed: bool
    detail: str


OK = Audit("prefix invariance", True, "same fires")
FAILED = Audit("null replay", False, "+9.1 c on a fair market")

GOOD: dict[int, Criterion] = {
    1: criteria.look_ahead([OK]),
    2: criteria.data(fill_rate=0.9, censored=0.02, unmatched=0),
    3: criteria.sample(events=200, days=30, losses=30, mde=4.0),
    4: criteria.direction(-1.0, 2.0),
    5: criteria.net_edge(p=0.05, trials=1, lower=0.01, mde=2.0, resamples=1999),
    6: criteria.price_proxy(excess=1.0, lower975=0.1, bucketed=0.9),
    7: criteria.concentration(
        top_share=0.1, without_top=0.1, without={"a": 0.2, "b": 0.1}, estimands={"event": 1.0, "fire": 0.5}
    ),
    8: criteria.time([1.0, 0.2, -0.1, 0.5], 0.1),
    9: criteria.robustness(0.8, 8, 0.2),
    10: criteria.execution(at_tick=0.1, at_minute=-0.1, half_life_s=60.0),
    11: criteria.economics(annualised=0.05, cash_rate=0.04, dollars_a_day=3.0),
    12: criteria.confirmation(p=0.01, budget=0.03, how="lockbox"),
}
BAD: dict[int, list[Criterion]] = {
    1: [criteria.look_ahead([OK, FAILED])],
    2: [
        criteria.data(fill_rate=0.9, censored=0.0201, unmatched=0),
        criteria.data(fill_rate=0.9, censored=0.0, unmatched=1),
    ],
    3: [
        criteria.sample(events=199, days=30, losses=30, mde=4.0),
        criteria.sample(events=200, days=29, losses=30, mde=4.0),
        criteria.sample(events=200, days=30, losses=29, mde=4.0),
    ],
    4: [criteria.direction(-3.0, -0.01)],
    5: [
        criteria.net_edge(p=0.02, trials=3, lower=0.1, mde=2.0, resamples=1999),
        criteria.net_edge(p=0.01, trials=1, lower=-0.1, mde=2.0, resamples=1999),
    ],
    6: [criteria.price_proxy(excess=1.0, lower975=0.0, bucketed=0.9)],
    7: [
        criteria.concentration(top_share=0.11, without_top=1.0, without={}, estimands={"event": 1.0}),
        criteria.concentration(top_share=0.0, without_top=0.0, without={}, estimands={"event": 1.0}),
        criteria.concentration(top_share=0.0, without_top=1.0, without={"a": 0.0}, estimands={"event": 1.0}),
        criteria.concentration(
            top_share=0.0, without_top=1.0, without={}, estimands={"event": 1.0, "dollar": -0.1}
        ),
    ],
    8: [
        criteria.time([1.0, -0.2, -0.1, 0.5], 0.1),
        criteria.time([1.0, 1.0], 0.0),
        criteria.time([1.0], None),
        criteria.time([1.0, -1.0], None),
    ],
    9: [criteria.robustness(0.79, 8, None), criteria.robustness(1.0, 12, 0.21)],
    10: [criteria.execution(at_tick=0.0, at_minute=1.0, half_life_s=None)],
    11: [criteria.economics(annualised=0.04, cash_rate=0.04, dollars_a_day=3.0)],
    12: [criteria.confirmation(p=0.031, budget=0.03, how="lockbox")],
}


@pytest.mark.parametrize("number", GOOD)
def test_a_line_passes_at_its_threshold(number: int) -> None:
    assert GOOD[number].number == number and GOOD[number].passed is True, GOOD[number]


@pytest.mark.parametrize(
    "line", [line for lines in BAD.values() for line in lines], ids=lambda c: f"{c.number} {c.value}"
)
def test_a_line_beyond_its_threshold_gives_its_label_as_the_verdict(line: Criterion) -> None:
    assert line.passed is False
    whole = [line if line.number == n else good for n, good in GOOD.items()]
    assert criteria.verdict_of(whole) == line.label


def test_the_verdict_is_valid_if_all_lines_pass() -> None:
    assert criteria.verdict_of(list(GOOD.values())) == "VALID"


@given(st.sets(st.integers(1, 12)), st.sets(st.integers(1, 12)))
def test_the_first_failure_gives_the_verdict(failing: set[int], absent: set[int]) -> None:
    lines: list[Criterion] = []
    for n, good in GOOD.items():
        lines.append(BAD[n][0] if n in failing else criteria.unexamined(n, "why") if n in absent else good)
    first = next((c for c in lines if c.passed is False and c.number != 2), None)
    expected = first.label if first else "PROVISIONAL" if failing or absent else "VALID"
    assert criteria.verdict_of(lines) == expected
    assert expected in criteria.LABELS


def test_failed_lines_state_the_reason() -> None:
    assert "null replay: +9.1 c on a fair market" in BAD[1][0].detail
    assert "cannot detect less than 4.0 c" in BAD[3][0].detail
    assert criteria.sample(events=0, days=0, losses=0, mde=float("inf")).detail.endswith("less than any edge")
    assert "dollar -0.10 c" in BAD[7][3].detail
    assert (
        "299 resamples cannot reject at 117 trials"
        in criteria.net_edge(p=1 / 300, trials=117, lower=1.0, mde=2.0, resamples=299).detail
    )
    assert criteria.look_ahead([]).passed is None and criteria.robustness(None, 0, None).passed is None
    assert criteria.time([1.0, 1.0, 1.0], None).passed is None


def test_equally_good_settings_are_not_overfitting() -> None:
    assert criteria.robustness(1.0, 12, 0.5, loss=0.05).passed is True
    assert criteria.robustness(1.0, 12, 0.5, loss=0.06).passed is False


def test_a_comparison_of_numpy_numbers_is_stored_as_bool() -> None:
    import numpy as np

    values: Any = np.float64(0.3)
    assert criteria.economics(annualised=values, cash_rate=0.04, dollars_a_day=0.0).passed is True
