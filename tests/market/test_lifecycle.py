"""Lifecycle: every status but the last has successors, and each belongs to exactly one REST filter."""

from __future__ import annotations

from typing import get_args

import pytest

from kalshilab.market.lifecycle import FILTERS, FOLLOWS, ORDERABLE, status_matches
from kalshilab.market.model import MarketStatus

STATUSES = set(get_args(MarketStatus))


def test_every_status_is_in_each_table() -> None:
    assert set(FOLLOWS) == STATUSES
    assert {s for after in FOLLOWS.values() for s in after} <= STATUSES
    assert set().union(*FILTERS.values()) == STATUSES


def test_each_status_belongs_to_exactly_one_filter() -> None:
    for status in STATUSES:
        assert sum(status_matches(status, wanted) for wanted in FILTERS) == 1


@pytest.mark.parametrize(
    ("status", "wanted"),
    [("initialized", "unopened"), ("active", "open"), ("inactive", "paused"), ("closed", "closed"), ("determined", "closed"),
     ("disputed", "closed"), ("amended", "closed"), ("finalized", "settled")],
)  # fmt: skip
def test_filters_select_the_statuses_that_the_exchange_documents(status: str, wanted: str) -> None:
    assert status_matches(status, wanted)


def test_an_unknown_filter_is_an_error() -> None:
    with pytest.raises(KeyError):
        status_matches("active", "active")


def test_finalized_is_the_only_final_status_and_is_reachable_from_all() -> None:
    assert [s for s, after in FOLLOWS.items() if not after] == ["finalized"]
    for start in STATUSES:
        seen, front = {start}, [start]
        while front:
            front = [n for s in front for n in FOLLOWS[s] if n not in seen and not seen.add(n)]  # type: ignore[func-returns-value]
        assert "finalized" in seen


@pytest.mark.parametrize(
    ("before", "after"),
    [("initialized", "active"), ("active", "inactive"), ("inactive", "active"), ("active", "closed"), ("closed", "active"),
     ("closed", "determined"), ("determined", "finalized"), ("amended", "finalized"), ("disputed", "amended")],
)  # fmt: skip
def test_the_exchanges_transitions_are_allowed(before: str, after: str) -> None:
    assert after in FOLLOWS[before]


def test_a_market_that_has_not_closed_cannot_be_determined() -> None:
    for status in ("initialized", "active", "inactive"):
        assert not {"determined", "finalized"} & set(FOLLOWS[status])


def test_orders_are_accepted_only_while_active() -> None:
    assert frozenset({"active"}) == ORDERABLE


def test_the_tables_are_read_only() -> None:
    with pytest.raises(TypeError):
        FOLLOWS["active"] = ()  # type: ignore[index]
    with pytest.raises(TypeError):
        FILTERS["open"] = frozenset()  # type: ignore[index]
