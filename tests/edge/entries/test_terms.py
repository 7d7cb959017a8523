"""Terms of entry: validation of values, keywords, and the keywords of version 0.1."""

from __future__ import annotations

import numpy as np
import pytest

import kalshilab as kl
from kalshilab.edge.entries.terms import EntryTerms, terms_of
from kalshilab.errors import EdgeError

TAPE, MARKETS = kl.sample()
FIRES = kl.signals.rlm(TAPE, min_trades=15)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rule", "last"),
        ("latency_s", "2"),
        ("latency_s", -1),
        ("latency_s", float("nan")),
        ("latency_s", None),
        ("window_s", None),
        ("window_s", 0),
        ("contracts", 2.5),
        ("contracts", 0),
        ("contracts", True),
        ("ticks", -1),
        ("half_spread_cents", -1.0),
        ("half_spread_cents", 50),
        ("limit_cents", "1"),
        ("per_market", 0),
        ("per_event", 0),
        ("per_event", "1"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_rule(name: str, value: object) -> None:
    with pytest.raises(EdgeError, match=rf"^{name} must be .*, got "):
        terms_of("validate", None, {name: value})


def test_an_unknown_keyword_is_refused_and_the_valid_ones_are_listed() -> None:
    with pytest.raises(
        EdgeError, match=r"validate\(\) has no argument 'delay'; the terms of entries are rule, latency_s"
    ):
        kl.validate(kl.signals.Rlm(), TAPE, MARKETS, delay=1)


def test_numpy_numbers_are_accepted() -> None:
    terms = terms_of("enter", None, {"per_event": None, "contracts": np.int64(5), "latency_s": np.float32(1)})
    assert (terms.contracts, terms.latency_s, terms.per_event) == (5, 1.0, None)


def test_keywords_override_single_fields_of_the_given_terms() -> None:
    base = EntryTerms(latency_s=7, contracts=3)
    changed = terms_of("enter", base, {"contracts": 4})
    assert (changed.latency_s, changed.contracts, base.contracts) == (7, 4, 3)
    assert terms_of("enter", base, {}) is base
    assert base.but(ticks=2).ticks == 2


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [
        ("latency", "latency_s", 5.0),
        ("window", "window_s", 60.0),
        ("half_spread", "half_spread_cents", 1.0),
        ("limit", "limit_cents", 1.0),
    ],
)
def test_a_keyword_of_version_0_1_warns_at_the_caller(old: str, new: str, value: float) -> None:
    with pytest.warns(DeprecationWarning, match=rf"enter\(\): the keyword '{old}' is now '{new}'") as warned:
        entries = kl.edge.enter(FIRES, TAPE, MARKETS, **{old: value})
    assert warned[0].filename == __file__
    assert entries.equals(kl.edge.enter(FIRES, TAPE, MARKETS, **{new: value}))
    with pytest.raises(EdgeError, match="got both"), pytest.warns(DeprecationWarning):
        terms_of("enter", None, {new: value, old: value})


def test_validate_accepts_terms_and_the_keywords_of_version_0_1() -> None:
    rule = kl.signals.Rlm(min_trades=15)
    new = kl.validate(rule, TAPE, MARKETS, terms=EntryTerms(latency_s=9.0), audits=False)
    assert new.spec["terms"]["latency"] == 9.0
    with pytest.warns(DeprecationWarning, match=r"validate\(\): the keyword 'latency'") as warned:
        old = kl.validate(rule, TAPE, MARKETS, latency=9.0, audits=False)
    assert warned[0].filename == __file__ and old.numbers["net"] == new.numbers["net"]
