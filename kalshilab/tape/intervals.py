"""Half-open time intervals [since, until) in microseconds: union and complement."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Interval", "merge", "uncovered"]

Interval = tuple[int, int]
"""(since, until), microseconds; `until` is not part of the interval."""


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Return the union of intervals, disjoint and in order; empty intervals are discarded.

    >>> merge([(5, 7), (0, 3), (3, 4), (9, 9)])
    [(0, 4), (5, 7)]
    """
    merged: list[Interval] = []
    for since, until in sorted(i for i in intervals if i[0] < i[1]):
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(until, merged[-1][1])
        else:
            merged.append((since, until))
    return merged


def uncovered(since: int, until: int, covered: Iterable[Interval]) -> list[Interval]:
    """Return the parts of [since, until) that no interval covers.

    >>> uncovered(0, 10, [(2, 4), (4, 5), (8, 20)])
    [(0, 2), (5, 8)]
    """
    parts, at = [], since
    for low, high in merge(covered):
        if high > at and low < until:
            if low > at:
                parts.append((at, low))
            at = high
    return [*parts, (at, until)] if at < until else parts
