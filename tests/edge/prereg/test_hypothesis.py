"""Hypotheses: the registered specification is the one that is judged."""

from __future__ import annotations

import numpy as np
import pytest

import kalshilab as kl
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.edge.prereg.hypothesis import (
    hypothesis_of,
    registered,
    session_registry,
    specification,
    terms_of,
    trials_of,
)
from kalshilab.edge.prereg.registry import Registry
from kalshilab.errors import EdgeError, RegistryError

RULE = kl.signals.Rlm(min_trades=15)
FIELDS = {"family": "rlm", "mechanism": "m", "author": "us"}


def test_each_difference_makes_another_hypothesis() -> None:
    one = hypothesis_of(RULE, id="A", **FIELDS).prereg_hash
    assert hypothesis_of(kl.signals.Rlm(min_trades=15), id="B", **FIELDS).prereg_hash == one
    others = [
        hypothesis_of(kl.signals.Rlm(min_trades=16), id="A", **FIELDS),
        hypothesis_of(RULE, id="A", latency=60.0, **FIELDS),
        hypothesis_of(RULE, id="A", contracts=100, **FIELDS),
        hypothesis_of(RULE, id="A", grid={"min_trades": [10, 15]}, **FIELDS),
    ]
    assert len({one, *(h.prereg_hash for h in others)}) == 5


def test_terms_are_validated_by_name() -> None:
    assert terms_of({"latency": 60.0}).latency == 60.0
    with pytest.raises(EdgeError, match="'delay'"):
        terms_of({"delay": 1})
    for name, value in (
        ("latency", "2"), ("latency", -1), ("latency", float("nan")), ("window", None), ("contracts", 2.5), ("contracts", 0),
        ("contracts", True), ("per_event", 0), ("per_event", "1"),
    ):  # fmt: skip
        with pytest.raises(EdgeError, match=rf"{name} must be .*, got "):
            terms_of({name: value})
    assert terms_of({"per_event": None, "contracts": np.int64(5), "latency": np.float32(1)}).contracts == 5


def test_the_session_registry_registers_a_specification_once() -> None:
    strategy = strategy_of(kl.signals.Steam(min_trades=6))
    spec = specification(strategy, terms_of({}), None)
    book, prereg, family = registered(None, strategy, spec)
    assert book is session_registry() and family == "steam" and registered(None, strategy, spec)[1] == prereg
    before = trials_of(book, prereg, family, [strategy.parameters], "data")
    book.evaluated(prereg, strategy.parameters, "data", 0.5, 0.1, 10.0)
    assert trials_of(book, prereg, family, [strategy.parameters], "data") == before
    assert trials_of(book, prereg, family, [strategy.parameters], "other data") == before + 1


def test_a_given_registry_refuses_an_unregistered_hypothesis() -> None:
    strategy = strategy_of(RULE)
    spec = specification(strategy, terms_of({}), None)
    mine = Registry()
    with pytest.raises(RegistryError, match="is not registered"):
        registered(mine, strategy, spec)
    prereg = mine.register(hypothesis_of(RULE, id="A", **FIELDS))
    assert registered(mine, strategy, spec) == (mine, prereg, "rlm")
