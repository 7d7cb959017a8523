"""Is an edge real?  Entries one could have had, costs, audits for look-ahead, inference, multiplicity, a verdict.

    card = kl.validate(kl.signals.Rlm(), tape, markets, claim=17.38)  # of it +0.43 is left, after the fee

makes a report card; the parts it is made of can be used alone:

================ =============================================================================================
entries          `enter` (what could be bought of fires), `measure` (what it earned), `cohort`, `quotes`, `maker`
look-ahead       `audit`; `whole_life` is the forbidden method, for comparison
inference        `infer` (clustered, four ways, the most careful p), `martingale`, `power`
comparison       `excess` over a pool at the same prices (`baseline`)
multiplicity     `Registry`, `hypothesis_of`, `Lockbox`, `multiplicity`, `walk`
robustness       `robustness`: one event, one month, one setting, one second
live             `sequential`, `monitor`, `replay_gap`
size             `sizing`, `capacity`
worlds           `worlds`: made entries of which the truth is known
claims           `claims`: what was published, beside what an audit left of it
================ =============================================================================================
"""

from __future__ import annotations

from kalshilab.edge import (
    audit,
    baseline,
    capacity,
    claims,
    cohort,
    criteria,
    martingale,
    multiplicity,
    power,
    robustness,
    sequential,
    sizing,
    walk,
    whole_life,
    worlds,
)
from kalshilab.edge.baseline import excess
from kalshilab.edge.card import Card
from kalshilab.edge.entry import enter, enter_counted
from kalshilab.edge.gap import replay_gap
from kalshilab.edge.inference import infer
from kalshilab.edge.judgement import judge
from kalshilab.edge.live import monitor
from kalshilab.edge.lockbox import Lockbox
from kalshilab.edge.model import ENTRIES_SCHEMA
from kalshilab.edge.pnl import measure
from kalshilab.edge.registry import Hypothesis, Registry
from kalshilab.edge.specification import hypothesis_of, session_registry
from kalshilab.edge.validation import validate

__all__ = [
    "ENTRIES_SCHEMA",
    "Card",
    "Hypothesis",
    "Lockbox",
    "Registry",
    "audit",
    "baseline",
    "capacity",
    "claims",
    "cohort",
    "criteria",
    "enter",
    "enter_counted",
    "excess",
    "hypothesis_of",
    "infer",
    "judge",
    "martingale",
    "measure",
    "monitor",
    "multiplicity",
    "power",
    "replay_gap",
    "robustness",
    "sequential",
    "session_registry",
    "sizing",
    "validate",
    "walk",
    "whole_life",
    "worlds",
]
