"""Intervals: their union is disjoint, their complement is the rest."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from kalshilab.tape.intervals import merge, uncovered

INTERVALS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8)


def inside(intervals: list[tuple[int, int]]) -> set[int]:
    return {n for low, high in intervals for n in range(low, high)}


@given(INTERVALS)
def test_merged_intervals_are_disjoint_and_cover_the_same(intervals: list[tuple[int, int]]) -> None:
    merged = merge(intervals)
    assert inside(merged) == inside(intervals)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(merged))


@given(st.integers(0, 30), st.integers(0, 30), INTERVALS)
def test_uncovered_is_the_complement(since: int, until: int, intervals: list[tuple[int, int]]) -> None:
    rest = uncovered(since, until, intervals)
    assert inside(rest) == set(range(since, until)) - inside(intervals)
    assert merge(rest) == rest
