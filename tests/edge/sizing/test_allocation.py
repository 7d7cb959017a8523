"""Simultaneous bets: their joint distribution, caps on the worst-case loss, and the optimality gap."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.edge.schema import Arrays
from kalshilab.edge.sizing.allocation import CAPS, LEGS_SCHEMA, allocate, scenarios
from kalshilab.edge.sizing.kelly import kelly
from kalshilab.edge.stats.martingale import null_means
from kalshilab.errors import EdgeError

FREE = dict.fromkeys(CAPS, 1.0)


def legs_of(
    events: int,
    k: int,
    *,
    side: str = "no",
    cost: float = 0.9,
    p: float = 0.93,
    exclusive: bool = True,
    days: int = 7,
) -> pl.DataFrame:
    rows = [
        {
            "ticker": f"E{e}-{i}", "event": f"E{e}", "series": f"S{e % 5}", "category": f"C{e % 3}",
            "day": date(2025, 1, 1 + e % days), "side": side, "cost": cost, "p": p, "exclusive": exclusive,
        }
        for e in range(events)
        for i in range(k)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=LEGS_SCHEMA)


# ---------------------------------------------------------------- joint outcomes


def test_each_leg_pays_in_a_fraction_p_of_the_scenarios() -> None:
    legs = pl.concat(
        [legs_of(6, 4, p=0.8, cost=0.7), legs_of(3, 2, side="yes", p=0.3, cost=0.2)]
    ).with_columns(event=pl.col("event") + pl.col("side"))
    won = scenarios(legs, n=4000, rho=0.2)
    assert won.mean(0) == pytest.approx(legs["p"].to_numpy(), abs=5e-4)
    assert np.array_equal(won, scenarios(legs, n=4000, rho=0.2))


def test_at_most_one_exclusive_market_settles_yes() -> None:
    no = scenarios(legs_of(5, 4, p=0.8, cost=0.7), n=2000)
    assert ((~no).reshape(2000, 5, 4).sum(2) <= 1).all()
    yes = scenarios(legs_of(5, 3, side="yes", p=0.3, cost=0.2), n=2000)
    assert (yes.reshape(2000, 5, 3).sum(2) <= 1).all()
    # Asks that add up to more than a dollar: one or two settle YES, so that each leg keeps its probability.
    dear = scenarios(legs_of(1, 4, side="yes", p=0.3, cost=0.2), n=4000)
    assert set(dear.sum(1).tolist()) == {1, 2} and dear.mean(0) == pytest.approx([0.3] * 4, abs=1e-3)


def test_legs_that_are_not_exclusive_win_together() -> None:
    ladder = legs_of(1, 3, exclusive=False).with_columns(p=pl.Series([0.93, 0.95, 0.97]))
    won = scenarios(ladder, n=2000)
    assert (won[:, 0] <= won[:, 1]).all() and (won[:, 1] <= won[:, 2]).all()
    # Exclusive markets that were entered on different days are treated as comonotone.
    apart = legs_of(1, 2, p=0.8, cost=0.7).with_columns(day=pl.Series([date(2025, 1, 1), date(2025, 1, 2)]))
    won = scenarios(apart, n=2000)
    assert np.array_equal(won[:, 0], won[:, 1])


def test_events_of_one_day_share_a_factor() -> None:
    legs = legs_of(2, 1, p=0.5, cost=0.4, days=1)
    together = np.corrcoef(scenarios(legs, n=8000, rho=0.5).T)[0, 1]
    # Orthant probability of two normals: 2/π·asin(ρ).
    assert together == pytest.approx(2 / np.pi * np.arcsin(0.5), abs=0.04)
    other = legs.with_columns(day=pl.Series([date(2025, 1, 1), date(2025, 1, 2)]))
    assert abs(np.corrcoef(scenarios(other, n=8000, rho=0.5).T)[0, 1]) < 0.04


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("side", ["yes", "no"])
def test_the_joint_distribution_equals_that_of_the_martingale_null(exclusive: bool, side: str) -> None:
    cost = 0.2 if side == "yes" else 0.8
    legs = legs_of(60, 4, side=side, cost=cost, p=cost, exclusive=exclusive, days=6)
    event, day = (legs[name].rank("dense").cast(pl.Int64).to_numpy() - 1 for name in ("event", "day"))
    n, every = len(legs), np.ones(len(legs), bool)
    arrays = Arrays(
        np.zeros(n), np.full(n, cost), event, day, every & (side == "yes"), every & exclusive, every
    )
    ours = scenarios(legs, n=6000, rho=0.1).mean(1) - cost
    theirs = null_means(arrays, resamples=6000, rho=0.1, seed=1)
    assert ours.mean() == pytest.approx(0, abs=1e-3)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.08)


# ---------------------------------------------------------------- stakes


def test_a_single_bet_gets_the_kelly_stake() -> None:
    legs = legs_of(1, 1, cost=0.73, p=0.78)
    whole = allocate(legs, fraction=1.0, caps=FREE)
    assert whole.stakes["stake"][0] == pytest.approx(kelly(0.78, 0.73), abs=1e-3)
    quarter = allocate(legs, caps=FREE)
    assert quarter.stakes["stake"][0] == pytest.approx(kelly(0.78, 0.73) / 4, abs=3e-4)
    assert quarter.binding == () and 0 < quarter.growth < whole.growth


def test_at_most_one_of_several_exclusive_no_legs_is_lost() -> None:
    exclusive, ladder = (allocate(legs_of(10, 5, exclusive=e)) for e in (True, False))
    assert exclusive.outlay == pytest.approx(0.50) and exclusive.worst_case == pytest.approx(0.10)
    # Legs that may all be lost share the cap of the event, 2 %.
    assert ladder.outlay == pytest.approx(0.20) and ladder.worst_case == pytest.approx(0.20)
    assert exclusive.binding == ("market",) and ladder.binding == ("event",)
    assert "at worst 10.0% lost" in repr(exclusive)


def test_all_exclusive_yes_legs_may_be_lost() -> None:
    got = allocate(legs_of(2, 4, side="yes", cost=0.15, p=0.24))
    assert got.worst_case == pytest.approx(got.outlay) and got.outlay <= 2 * CAPS["event"] + 1e-9
    mixed = legs_of(1, 2, cost=0.5, p=0.6).with_columns(side=pl.Series(["yes", "no"]))
    both = allocate(mixed)
    # If the market of the NO leg settles YES, the YES leg is lost too.
    assert both.worst_case == pytest.approx(both.outlay)


@pytest.mark.parametrize(
    ("name", "legs", "most"),
    [
        ("market", legs_of(1, 1), 0.01),
        ("event", legs_of(1, 6, exclusive=False), 0.02),
        ("series_day", legs_of(20, 1, days=1).with_columns(series=pl.lit("S")), 0.04),
        ("category", legs_of(60, 1).with_columns(category=pl.lit("C"), series=pl.col("event")), 0.15),
        (
            "solvency",
            legs_of(60, 1, cost=0.7, p=0.9).with_columns(series=pl.col("event"), category="event"),
            0.2475,
        ),
    ],
)
def test_each_cap_holds_and_is_named(name: str, legs: pl.DataFrame, most: float) -> None:
    caps = dict(CAPS) if name != "solvency" else FREE
    got = allocate(legs, caps=caps)
    assert got.worst_case == pytest.approx(most, rel=1e-3) and got.worst_case <= most + 1e-12
    assert name in got.binding


def test_the_whole_outlay_is_limited_by_cash() -> None:
    got = allocate(
        legs_of(40, 6, cost=0.9, p=0.93).with_columns(series=pl.col("event"), category=pl.col("event"))
    )
    assert got.outlay <= 1 + 1e-9 and "cash" in got.binding


CASE = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["yes", "no"]),
        st.floats(0.05, 0.95),
        st.floats(-0.03, 0.05),
        st.booleans(),
    ),
    min_size=1,
    max_size=9,
)
"""Legs as (event, side, cost in dollars, edge in dollars, exclusive)."""

CROWDED = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from(["no", "no", "yes"]),
        st.floats(0.3, 0.8),
        st.sampled_from([-0.01, 0.03, 0.06]),
        st.sampled_from([True, True, True, False]),
    ),
    min_size=3,
    max_size=8,
)
"""Legs as above, in two events in which exclusive legs with an edge meet others without one."""


def legs_from(rows: list[Any]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            {
                "ticker": f"T{i}", "event": f"E{e}", "series": f"S{e % 2}", "category": None, "day": date(2025, 1, 1),
                "side": side, "cost": cost, "p": min(max(cost + edge, 0.01), 0.99), "exclusive": exclusive,
            }
            for i, (e, side, cost, edge, exclusive) in enumerate(rows)
        ],
        schema=LEGS_SCHEMA,
    )  # fmt: skip


def largest_loss(stakes: pl.DataFrame) -> float:
    """Return the largest loss of the legs of one event, by enumeration of its outcomes."""
    yes, stake = (stakes["side"] == "yes").to_numpy(), stakes["stake"].to_numpy()
    if not stakes["exclusive"].all():
        return float(stake.sum())
    winners: list[int | None] = [None, *range(len(stakes))]
    return max(sum(f for i, f in enumerate(stake) if (i == winner) != yes[i]) for winner in winners)


@given(CASE, st.sampled_from([0.25, 0.5, 1.0]))
@settings(max_examples=40)
def test_the_caps_hold_and_the_optimum_is_found(rows: list[Any], fraction: float) -> None:
    legs = legs_from(rows)
    got = allocate(legs, fraction=fraction, n=500)
    stakes = got.stakes["stake"].to_numpy()
    has_edge = (legs["p"] > legs["cost"]).to_numpy()
    assert (stakes >= 0).all() and not stakes[~has_edge].any() and stakes.max() <= CAPS["market"] + 1e-9
    assert got.growth >= -1e-12 and got.short_of_best <= 1e-5 and got.worst_case <= got.outlay + 1e-12
    losses = [largest_loss(part) for _, part in got.stakes.filter(has_edge).group_by("event")]
    assert max(losses, default=0.0) <= CAPS["event"] + 1e-9


GROUPS = {
    "market": ["ticker"], "event": ["event"], "series_day": ["series", "day"], "category": ["category"], "total": [],
}  # fmt: skip


@given(CROWDED, st.sampled_from([0.25, 1.0]))
@settings(max_examples=60)
def test_the_worst_case_never_exceeds_the_caps_that_are_reported_as_binding(
    rows: list[Any], fraction: float
) -> None:
    legs = legs_from(rows)
    got = allocate(legs, fraction=fraction, n=500)
    has_edge = (legs["p"] > legs["cost"]).to_numpy()
    losses = [largest_loss(part) for _, part in got.stakes.filter(has_edge).group_by("event")]
    assert got.worst_case == pytest.approx(sum(losses), abs=1e-12)
    for name in got.binding:
        groups = got.stakes.select(GROUPS[name]).n_unique() if GROUPS[name] else 1
        assert got.worst_case <= groups * CAPS[name] * (1 + 1e-9), name
    # The caps that are not reached hold all the more.
    assert got.worst_case <= min(CAPS["total"], got.stakes["event"].n_unique() * CAPS["event"]) + 1e-9


@given(CROWDED, CROWDED)
@settings(max_examples=40)
def test_legs_without_an_edge_do_not_change_the_allocation(rows: list[Any], others: list[Any]) -> None:
    worthless = [(e, side, cost, -abs(edge), exclusive) for e, side, cost, edge, exclusive in others]
    alone, joined = (allocate(legs_from(legs), n=200) for legs in (rows, rows + worthless))
    assert joined.stakes["stake"].to_list() == alone.stakes["stake"].to_list() + [0.0] * len(worthless)
    # The order of summation depends on the number of legs.
    assert joined.worst_case == pytest.approx(alone.worst_case, abs=1e-12)
    assert joined.outlay == pytest.approx(alone.outlay, abs=1e-12)
    assert joined.growth == alone.growth and joined.binding == alone.binding


def test_a_leg_without_a_stake_does_not_raise_the_worst_case() -> None:
    """A leg without an edge that is not exclusive must not turn the worst case of its event into a sum."""
    legs = legs_from([(0, "no", 0.60, 0.06, True), (0, "no", 0.70, 0.06, True), (0, "no", 0.50, 0.0, False)])
    got = allocate(legs)
    assert got.stakes["stake"].to_list() == pytest.approx([0.01, 0.01, 0.0])
    assert got.binding == ("market",) and got.outlay == pytest.approx(0.02)
    # At most one of the two markets settles YES.
    assert got.worst_case == pytest.approx(0.01)


def test_without_an_edge_all_stakes_are_zero() -> None:
    got = allocate(legs_of(3, 1, p=0.9, cost=0.9))
    assert got.outlay == got.worst_case == got.growth == 0.0 and got.binding == ()
    assert allocate(legs_of(0, 0)).stakes.is_empty()


@pytest.mark.parametrize(
    "bad",
    [
        lambda legs: allocate(legs, fraction=0),
        lambda legs: allocate(legs, caps={"market": 0.01}),
        lambda legs: allocate(legs, caps={**CAPS, "event": 0}),
        lambda legs: allocate(legs.drop("p")),
        lambda legs: allocate(legs.with_columns(p=1.0)),
        lambda legs: allocate(legs.with_columns(cost=None)),
        lambda legs: allocate(legs.with_columns(side=pl.lit("maybe"))),
        lambda legs: allocate(legs.with_columns(event=pl.lit(None, pl.String))),
        lambda legs: scenarios(legs, rho=1.0),
        lambda legs: scenarios(legs, n=0),
    ],
)
def test_invalid_arguments_are_refused(bad: Any) -> None:
    with pytest.raises(EdgeError):
        bad(legs_of(1, 1))
