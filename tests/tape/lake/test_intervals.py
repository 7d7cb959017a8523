"""Stretches of time."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kalshilab.tape.lake.intervals import merge, uncovered

SPANS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def inside(spans: list[tuple[int, int]]) -> set[int]:
    return {n for low, high in spans for n in range(low, high)}


@given(SPANS)
def test_merged_stretches_are_disjoint_and_the_same(spans: list[tuple[int, int]]) -> None:
    merged = merge(spans)
    assert inside(merged) == inside(spans)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(merged))


@given(st.integers(0, 30), st.integers(0, 30), SPANS)
def test_what_is_uncovered_is_the_rest(since: int, until: int, spans: list[tuple[int, int]]) -> None:
    left = uncovered(since, until, spans)
    assert inside(left) == set(range(since, until)) - inside(spans)
    assert merge(left) == left
