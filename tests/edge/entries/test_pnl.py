"""Measures of profit against a manual computation, and fees by order size."""

from __future__ import annotations

import math

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.entries.pnl import measure, refee, sizes
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.stats import simulated_entries

from .test_rules import fires_of, markets_of, tape_of


def test_measures_equal_a_manual_computation() -> None:
    tape = tape_of([(0, "A-1", 40, "no"), (1, "A-2", 70, "no"), (2, "B-1", 40, "no"), (3, "C-1", 50, "no"), (4, "D-1", 50, "no"),
                    (10, "A-1", 40, "yes"), (11, "A-2", 70, "yes"), (12, "B-1", 45, "yes"), (13, "D-1", 50, "yes")])  # fmt: skip
    markets = markets_of({"A-1": "yes", "A-2": "no", "B-1": "yes", "C-1": "no", "D-1": None})
    found = measure(enter(fires_of(tape, [(r, "yes") for r in range(5)]), tape, markets))
    fee = {p: kl.fees.fill_fee(p * 100, 1000) / 1e5 for p in (40, 70, 45)}
    a1, a2, b = 60 - fee[40], -70 - fee[70], 55 - fee[45]
    assert (found.n_fires, found.n_filled, found.n_settled, found.n_events, found.n_losses) == (5, 4, 4, 2, 1)
    assert found.fill_rate == 0.8
    # C was not filled and counts as 0.  D is open and is excluded.
    assert found.edge == pytest.approx(((a1 + a2) / 2 + b + 0) / 3)
    assert found.edge_per_fire == pytest.approx((a1 + a2 + b) / 3)
    cost = 40 + fee[40] + 70 + fee[70] + 45 + fee[45]
    assert found.edge_per_dollar == pytest.approx((a1 + a2 + b) / cost)
    assert found.gross == pytest.approx((-5 + 55) / 3)
    assert (found.win_rate, found.break_even) == pytest.approx((200 / 3, cost / 3))
    assert found.hold_days == pytest.approx(1 - 11 / 86_400, abs=1e-9)
    assert found.annualised == pytest.approx(365 * found.edge_per_dollar, rel=1e-3)
    assert not found.fragile


def test_empty_entries_have_zero_counts_and_an_undefined_edge() -> None:
    entries, _ = simulated_entries.entries(20, seed=1)
    found = measure(entries.head(0))
    assert found.n_fires == found.n_events == 0 and math.isnan(found.edge) and math.isnan(found.annualised)


def test_small_orders_pay_more_for_the_rounding_of_fees() -> None:
    tape, markets = kl.synth.martingale(n_markets=3_000, seed=9)
    entries = enter(kl.signals.rlm(tape, min_trades=8, min_drop=2), tape, markets, contracts=10)
    assert refee(entries, 10, markets).equals(entries)
    one, ten, hundred = sizes(entries, markets).values()
    assert one <= ten <= hundred and hundred - one < 0.02
    from kalshilab.market.fee_schedule import FeeSchedule

    one, ten, hundred = sizes(entries, markets, schedule=FeeSchedule(grid="cent")).values()
    assert hundred - one > 0.05


def test_an_edge_whose_sign_depends_on_the_weighting_is_fragile() -> None:
    entries, _ = simulated_entries.entries(50, seed=3)
    entries = entries.with_columns(pnl=pl.when(pl.int_range(pl.len()) == 0).then(-1.0).otherwise(0.1))
    many = pl.concat([entries, *[entries.head(1)] * 20])
    assert measure(many).fragile and not measure(entries.tail(49)).fragile
