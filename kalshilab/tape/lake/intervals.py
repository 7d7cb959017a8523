"""Stretches of time, [since, until) in microseconds: what several cover together, and what none does."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Span", "merge", "uncovered"]

Span = tuple[int, int]


def merge(spans: Iterable[Span]) -> list[Span]:
    """Stretches [since, until) merged, in order.

    >>> merge([(5, 7), (0, 3), (3, 4), (9, 9)])
    [(0, 4), (5, 7)]
    """
    merged: list[Span] = []
    for since, until in sorted(s for s in spans if s[0] < s[1]):
        if merged and since <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(until, merged[-1][1])
        else:
            merged.append((since, until))
    return merged


def uncovered(since: int, until: int, covered: Iterable[Span]) -> list[Span]:
    """What of [since, until) is in none of the stretches.

    >>> uncovered(0, 10, [(2, 4), (4, 5), (8, 20)])
    [(0, 2), (5, 8)]
    """
    left, at = [], since
    for low, high in merge(covered):
        if high > at and low < until:
            if low > at:
                left.append((at, low))
            at = high
    return [*left, (at, until)] if at < until else left
