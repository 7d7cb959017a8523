"""Many bets at once: the joint law, caps by worst-case loss, and a bound that says the best was found."""

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


def test_each_leg_pays_as_often_as_its_p() -> None:
    legs = pl.concat(
        [legs_of(6, 4, p=0.8, cost=0.7), legs_of(3, 2, side="yes", p=0.3, cost=0.2)]
    ).with_columns(event=pl.col("event") + pl.col("side"))
    won = scenarios(legs, n=4000, rho=0.2)
    assert won.mean(0) == pytest.approx(legs["p"].to_numpy(), abs=5e-4)
    assert np.array_equal(won, scenarios(legs, n=4000, rho=0.2))


def test_exclusive_markets_settle_yes_once_at_most() -> None:
    no = scenarios(legs_of(5, 4, p=0.8, cost=0.7), n=2000)
    assert ((~no).reshape(2000, 5, 4).sum(2) <= 1).all()
    yes = scenarios(legs_of(5, 3, side="yes", p=0.3, cost=0.2), n=2000)
    assert (yes.reshape(2000, 5, 3).sum(2) <= 1).all()
    # Asks that add to more than a dollar: as near to one as the chances allow, which are kept.
    dear = scenarios(legs_of(1, 4, side="yes", p=0.3, cost=0.2), n=4000)
    assert set(dear.sum(1).tolist()) == {1, 2} and dear.mean(0) == pytest.approx([0.3] * 4, abs=1e-3)


def test_other_legs_win_together() -> None:
    ladder = legs_of(1, 3, exclusive=False).with_columns(p=pl.Series([0.93, 0.95, 0.97]))
    won = scenarios(ladder, n=2000)
    assert (won[:, 0] <= won[:, 1]).all() and (won[:, 1] <= won[:, 2]).all()
    # Exclusive markets entered on different days: their joint law is not known.
    apart = legs_of(1, 2, p=0.8, cost=0.7).with_columns(day=pl.Series([date(2025, 1, 1), date(2025, 1, 2)]))
    won = scenarios(apart, n=2000)
    assert np.array_equal(won[:, 0], won[:, 1])


def test_days_share_a_factor() -> None:
    legs = legs_of(2, 1, p=0.5, cost=0.4, days=1)
    together = np.corrcoef(scenarios(legs, n=8000, rho=0.5).T)[0, 1]
    # Orthant probability of two normals: 2/π·asin(ρ).
    assert together == pytest.approx(2 / np.pi * np.arcsin(0.5), abs=0.04)
    other = legs.with_columns(day=pl.Series([date(2025, 1, 1), date(2025, 1, 2)]))
    assert abs(np.corrcoef(scenarios(other, n=8000, rho=0.5).T)[0, 1]) < 0.04


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("side", ["yes", "no"])
def test_the_joint_law_is_that_of_the_martingale_null(exclusive: bool, side: str) -> None:
    cost = 0.2 if side == "yes" else 0.8
    legs = legs_of(60, 4, side=side, cost=cost, p=cost, exclusive=exclusive, days=6)
    event, day = (legs[name].rank("dense").cast(pl.Int64).to_numpy() - 1 for name in ("event", "day"))
    n, every = len(legs), np.ones(len(legs), bool)
    arrays = Arrays(
        np.zeros(n), np.full(n, cost), event, day, every & (side == "yes"), every & exclusive, every
    )
    ours = scenarios(legs, n=6000, rho=0.1).mean(1) - cost
    theirs = null_means(arrays, b=6000, rho=0.1, seed=1)
    assert ours.mean() == pytest.approx(0, abs=1e-3)
    assert ours.std() == pytest.approx(theirs.std(), rel=0.08)


# ---------------------------------------------------------------- stakes


def test_one_bet_is_kelly() -> None:
    legs = legs_of(1, 1, cost=0.73, p=0.78)
    whole = allocate(legs, fraction=1.0, caps=FREE)
    assert whole.stakes["stake"][0] == pytest.approx(kelly(0.78, 0.73), abs=1e-3)
    quarter = allocate(legs, caps=FREE)
    assert quarter.stakes["stake"][0] == pytest.approx(kelly(0.78, 0.73) / 4, abs=3e-4)
    assert quarter.binding == () and 0 < quarter.growth < whole.growth


def test_exclusive_no_legs_may_lose_one_only() -> None:
    exclusive, ladder = (allocate(legs_of(10, 5, exclusive=e)) for e in (True, False))
    assert exclusive.outlay == pytest.approx(0.50) and exclusive.worst_case == pytest.approx(0.10)
    # Legs that may all be lost share the event's 2 %.
    assert ladder.outlay == pytest.approx(0.20) and ladder.worst_case == pytest.approx(0.20)
    assert exclusive.binding == ("market",) and ladder.binding == ("event",)
    assert "at worst 10.0% lost" in repr(exclusive)


def test_exclusive_yes_legs_may_all_lose() -> None:
    got = allocate(legs_of(2, 4, side="yes", cost=0.15, p=0.24))
    assert got.worst_case == pytest.approx(got.outlay) and got.outlay <= 2 * CAPS["event"] + 1e-9
    mixed = legs_of(1, 2, cost=0.5, p=0.6).with_columns(side=pl.Series(["yes", "no"]))
    both = allocate(mixed)
    # The NO leg's market settles YES: then the other leg is lost too.
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


def test_no_netting_so_the_cash_has_to_be_there() -> None:
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


@given(CASE, st.sampled_from([0.25, 0.5, 1.0]))
@settings(max_examples=40)
def test_whatever_is_offered_the_caps_hold_and_the_best_was_found(rows: list[Any], fraction: float) -> None:
    legs = pl.DataFrame(
        [
            {
                "ticker": f"T{i}", "event": f"E{e}", "series": f"S{e % 2}", "category": None, "day": date(2025, 1, 1),
                "side": side, "cost": cost, "p": min(max(cost + edge, 0.01), 0.99), "exclusive": exclusive,
            }
            for i, (e, side, cost, edge, exclusive) in enumerate(rows)
        ],
        schema=LEGS_SCHEMA,
    )  # fmt: skip
    got = allocate(legs, fraction=fraction, n=500)
    stakes = got.stakes["stake"].to_numpy()
    good = (legs["p"] > legs["cost"]).to_numpy()
    assert (stakes >= 0).all() and not stakes[~good].any() and stakes.max() <= CAPS["market"] + 1e-9
    assert got.worst_case <= CAPS["total"] + 1e-9 and got.growth >= -1e-12
    assert got.short_of_best <= 1e-5
    for event, part in got.stakes.group_by("event"):
        yes_all = part["exclusive"].all() and len(part) > 1
        worst = part["stake"].sum()
        if yes_all:
            side, f = (part["side"] == "yes").to_numpy(), part["stake"].to_numpy()
            worst = max(
                f[side].sum(),
                max(
                    f[side].sum() - (f[i] if side[i] else 0) + (0 if side[i] else f[i])
                    for i in range(len(part))
                ),
            )
        assert worst <= CAPS["event"] + 1e-9, event


def test_without_an_edge_nothing_is_laid_out() -> None:
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
def test_what_makes_no_sense_is_refused(bad: Any) -> None:
    with pytest.raises(EdgeError):
        bad(legs_of(1, 1))
