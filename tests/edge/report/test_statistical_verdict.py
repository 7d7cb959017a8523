"""Size and power of the statistical verdict (lines 3 to 8 of the card) in simulated markets."""

from __future__ import annotations

from collections import Counter
from typing import Any

import polars as pl
import pytest

from kalshilab.edge.report.statistical_verdict import judge, resamples_for
from kalshilab.edge.robustness.walk_forward import walk_forward
from kalshilab.edge.stats import simulated_entries
from kalshilab.errors import EdgeError

NULL = {"edge": 0.0, "net": False}
SAMPLE, NET_EDGE, PRICE_PROXY = 3, 5, 6
"""Numbers of lines of the card."""


def verdicts(
    sets: int, events: int, *, trials: int = 1, b: int = 299, first: int = 0, **world: Any
) -> Counter[str | int]:
    """Count the verdicts over `sets` simulated data sets, and the passes of each line by its number."""
    found: Counter[str | int] = Counter()
    for seed in range(first, first + sets):
        signal, pool = simulated_entries.entries(events, seed=seed, **world)
        try:
            walk = walk_forward(lambda entries=signal: entries, [{}]).edge
        except EdgeError:
            walk = None
        result = judge(signal, pool, trials=trials, walk_forward=walk, resamples=b, seed=seed)
        found[result.verdict] += 1
        found.update(line.number for line in result.criteria if line.passed)
    return found


# 12 sets at a rate of 5 %: more than 3 valid ones has probability 0.002. The other lines of the card make valid ones
# rarer still, so the lines for the net edge and for the price must keep the rate by themselves.
@pytest.mark.parametrize(
    "world",
    [
        {"kind": "single"},
        {"kind": "ladder", "legs": 2},
        {"kind": "single", "rho_day": 0.1},
        {"kind": "mutex", "legs": 2},
    ],
    ids=["single", "ladder", "day shock", "exclusive"],
)
def test_t3_fair_markets_are_rarely_valid(world: dict[str, Any]) -> None:
    found = verdicts(12, 220, fee=False, **NULL, **world)
    assert found[SAMPLE] == 12, "the samples must be large enough to be judged"
    assert max(found["VALID"], found[NET_EDGE], found[PRICE_PROXY]) <= 3


def test_t3f_fair_markets_with_costs_are_never_valid() -> None:
    found = verdicts(12, 220, spread_cents=2.0, **NULL)
    assert found[SAMPLE] == 12 and found["VALID"] == found[NET_EDGE] == 0


def test_t4_a_planted_edge_is_found() -> None:
    # At a rate of 95 %, fewer than 9 of 12 has probability 0.002. The edge is five standard errors, as 5 c of 2,000.
    assert verdicts(12, 800, edge=8.0)["VALID"] >= 9


def test_too_few_events_give_no_p_value() -> None:
    signal, pool = simulated_entries.entries(150, edge=7.0, seed=1)
    found = judge(signal, pool)
    assert found.verdict == "INSUFFICIENT" and found.inference is not None and found.excess is None
    assert "cannot detect less than" in found.criteria[0].detail
    assert all(line.passed is None and not line.value.startswith("p =") for line in found.criteria[1:])
    nothing = judge(signal.with_columns(filled=pl.lit(False), pnl=pl.lit(0.0)), pool)
    assert nothing.verdict == "INSUFFICIENT" and nothing.inference is None


def test_a_market_without_an_event_is_refused() -> None:
    signal, pool = simulated_entries.entries(50, seed=1)
    with pytest.raises(EdgeError, match="has no event"):
        judge(signal.with_columns(event=pl.lit(None, pl.String)), pool)


def test_more_trials_need_more_resamples_and_a_larger_edge() -> None:
    assert resamples_for(1, 1999) == 1999 and resamples_for(117, 299) >= 2339
    signal, pool = simulated_entries.entries(800, edge=5.0, seed=3)
    alone, many = (judge(signal, pool, trials=m, walk_forward=1.0) for m in (1, 4000))
    assert alone.criteria[2].passed and not many.criteria[2].passed
    assert "m = 4,000" in many.criteria[2].value


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("events", "world"),
    [
        (2000, {"kind": "single"}),
        (500, {"kind": "ladder"}),
        (2000, {"kind": "single", "rho_day": 0.1}),
        (500, {"kind": "ladder", "rho_day": 0.1}),
        (600, {"kind": "mutex"}),
    ],
    ids=["T3", "T3b ladder", "T3c day shock", "T3d both", "T3e exclusive"],
)
def test_t3_at_full_size(events: int, world: dict[str, Any], record_property: Any) -> None:
    found = verdicts(200, events, fee=False, **NULL, **world)
    record_property("verdicts", dict(found))
    print(world, dict(found))
    assert found["VALID"] <= 0.05 * 200


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_t3f_at_full_size() -> None:
    found = verdicts(200, 2000, spread_cents=2.0, **NULL)
    print("T3f", dict(found))
    assert found["VALID"] == 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("events", "share", "more"),
    [
        (2000, 0.80, {"edge": 5.0}),
        (1000, 0.80, {"edge": 5.0}),
        (500, 0.50, {"edge": 5.0}),
        (500, 0.80, {"edge": 5.0, "kind": "ladder"}),
        (2000, 0.65, {"edge": 5.0, "net": False, "spread_cents": 2.0}),
        (2000, 0.80, {"edge": 5.0, "trials": 117, "b": 4999}),
        (1000, 0.35, {"edge": 5.0, "trials": 117, "b": 4999}),
    ],
    ids=["T4 2000", "T4 1000", "T4 500", "T4 ladders", "T4b mid", "T4c 2000", "T4c 1000"],
)
def test_t4_at_full_size(events: int, share: float, more: dict[str, Any]) -> None:
    sets = 60 if "trials" in more else 100
    found = verdicts(sets, events, **more)
    print(events, more, dict(found))
    assert found["VALID"] >= share * sets


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_t5_a_price_bias_is_not_valid_at_full_size() -> None:
    found = verdicts(200, 2000, edge=0.0, net=False, flb_cents=6.0, fee=True)
    print("T5", dict(found))
    # The smooth baseline must keep 5 %, with a tolerance of three binomial standard errors.
    assert found["VALID"] <= (0.05 + 3 * (0.05 * 0.95 / 200) ** 0.5) * 200
    commonest = max((key for key in found if isinstance(key, str)), key=found.__getitem__)
    assert found["VALID"] <= 0.10 * 200 and commonest == "PRICE_PROXY"
