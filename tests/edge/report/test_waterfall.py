"""Waterfall: steps from the claimed edge to the audited one."""

from __future__ import annotations

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.entries.pnl import measure
from kalshilab.edge.entries.rules import enter
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.edge.report.claims import WATERFALL_SCHEMA
from kalshilab.edge.report.waterfall import life_mean, waterfall
from kalshilab.tape.tape import FrameTape

from ..entries.test_rules import fires_of, markets_of, tape_of


def test_the_waterfall_of_reverse_line_movement_has_all_steps() -> None:
    tape, markets = kl.synth.martingale(n_markets=4_000, seed=2)
    signal = kl.signals.Rlm(min_trades=8, min_drop=2)
    entries = enter(signal.run(tape), tape, markets)
    frame = waterfall(strategy_of(signal), entries, FrameTape(tape), markets, claim=17.38, excess=None)
    assert frame.schema == WATERFALL_SCHEMA
    assert frame["step"].to_list() == [
        "claimed",
        "whole life",
        "as of the fire",
        "mid",
        "bought",
        "after fees",
        "fills missed",
    ]
    found, edge = measure(entries), dict(frame.select("step", "edge").iter_rows())
    assert edge["fills missed"] == pytest.approx(found.edge)
    assert edge["whole life"] > 8 > abs(edge["mid"]) and edge["after fees"] < edge["bought"]
    assert edge["as of the fire"] - edge["mid"] == pytest.approx(0.5, abs=0.7)


def test_a_signal_without_a_published_method_uses_the_life_mean() -> None:
    tape, markets = kl.synth.martingale(n_markets=2_000, seed=3)
    signal = kl.signals.WhaleFade()
    frame = waterfall(
        strategy_of(signal),
        enter(signal.run(tape), tape, markets),
        FrameTape(tape),
        markets,
        claim=None,
        excess=None,
    )
    assert frame["step"][0] == "whole life" and "looks ahead" in frame["note"][0]


def test_the_life_mean_includes_later_prints() -> None:
    tape = tape_of([(0, "A-1", 60, "yes"), (1, "A-1", 40, "no"), (2, "A-1", 50, "no"), (3, "B-1", 10, "yes")])
    entries = enter(fires_of(tape, [(0, "no")]), tape, markets_of({"A-1": "no"}))
    assert life_mean(entries, FrameTape.of(tape)).to_list() == pytest.approx([0.5])
    yes = entries.with_columns(side=pl.lit("yes").cast(entries.schema["side"]))
    assert life_mean(yes, FrameTape.of(tape)).to_list() == pytest.approx([0.5])


def test_without_entries_only_the_claim_remains() -> None:
    tape, markets = kl.sample()
    signal = kl.signals.Rlm(min_trades=10_000)
    frame = waterfall(
        strategy_of(signal),
        enter(signal.run(tape), tape, markets),
        FrameTape(tape),
        markets,
        claim=1.0,
        excess=None,
    )
    assert frame["step"].to_list() == ["claimed"]
