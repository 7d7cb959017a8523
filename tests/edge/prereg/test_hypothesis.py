"""Hypotheses: the registered specification is the one that is judged."""

from __future__ import annotations

import pytest

import kalshilab as kl
from kalshilab.edge.entries.terms import EntryTerms
from kalshilab.edge.lookahead.strategy import strategy_of
from kalshilab.edge.prereg.hypothesis import (
    hypothesis_of,
    judged_terms,
    registered,
    session_registry,
    specification,
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
        hypothesis_of(RULE, id="A", latency_s=60.0, **FIELDS),
        hypothesis_of(RULE, id="A", contracts=100, **FIELDS),
        hypothesis_of(RULE, id="A", grid={"min_trades": [10, 15]}, **FIELDS),
    ]
    assert len({one, *(h.prereg_hash for h in others)}) == 5


def test_terms_at_whose_prices_nobody_can_trade_are_refused() -> None:
    assert judged_terms(EntryTerms(rule="book")).rule == "book"
    for rule in ("print", "mid"):
        with pytest.raises(EdgeError, match="the other rules are for diagnosis"):
            judged_terms(EntryTerms(rule=rule))  # type: ignore[arg-type]


def test_the_hash_of_a_hypothesis_is_that_of_version_0_1() -> None:
    """Registered hypotheses must keep their hash: the keys of their terms do not follow the new names."""
    spec = specification(strategy_of(RULE), EntryTerms(), None)
    assert list(spec["terms"]) == ["rule", "latency", "window", "contracts", "per_event"]


def test_the_session_registry_registers_a_specification_once() -> None:
    strategy = strategy_of(kl.signals.Steam(min_trades=6))
    spec = specification(strategy, EntryTerms(), None)
    book, prereg, family = registered(None, strategy, spec)
    assert book is session_registry() and family == "steam" and registered(None, strategy, spec)[1] == prereg
    before = trials_of(book, prereg, family, [strategy.parameters], "data")
    book.evaluated(prereg, strategy.parameters, "data", 0.5, 0.1, 10.0)
    assert trials_of(book, prereg, family, [strategy.parameters], "data") == before
    assert trials_of(book, prereg, family, [strategy.parameters], "other data") == before + 1


def test_a_given_registry_refuses_an_unregistered_hypothesis() -> None:
    strategy = strategy_of(RULE)
    spec = specification(strategy, EntryTerms(), None)
    mine = Registry()
    with pytest.raises(RegistryError, match="is not registered"):
        registered(mine, strategy, spec)
    prereg = mine.register(hypothesis_of(RULE, id="A", **FIELDS))
    assert registered(mine, strategy, spec) == (mine, prereg, "rlm")
