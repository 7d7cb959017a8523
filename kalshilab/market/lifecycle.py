"""Lifecycle of a market: its statuses, their allowed order, and the REST filters that select them.

initialized → active ⇄ inactive → closed → determined → finalized
                                    ↑          ↓   ↖      ↑
                                 (reopens)  disputed → amended
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

__all__ = ["DETERMINED", "FILTERS", "FOLLOWS", "ORDERABLE", "status_matches"]

FOLLOWS: Final = MappingProxyType(
    {
        "initialized": ("active", "inactive"),
        "active": ("inactive", "closed"),
        "inactive": ("active", "closed"),
        "closed": ("active", "determined"),
        "determined": ("disputed", "amended", "finalized"),
        "disputed": ("amended", "determined", "finalized"),
        "amended": ("disputed", "finalized"),
        "finalized": (),
    }
)
"""From each status, the statuses that may follow; a closed market reopens if its close time is postponed."""

ORDERABLE: Final = frozenset({"active"})
"""Statuses in which the exchange accepts orders."""

DETERMINED: Final = frozenset({"determined", "disputed", "amended", "finalized"})
"""Statuses in which the result is known."""

FILTERS: Final = MappingProxyType(
    {
        "unopened": frozenset({"initialized"}),
        "open": frozenset({"active"}),
        "paused": frozenset({"inactive"}),
        "closed": frozenset({"closed", "determined", "disputed", "amended"}),
        "settled": frozenset({"finalized"}),
    }
)
"""The `status` filters of the REST listings, each with the statuses of the markets it selects."""


def status_matches(status: str, wanted: str) -> bool:
    """Return whether the REST filter `wanted` selects a market of this status.

    >>> status_matches("active", "open"), status_matches("determined", "settled")
    (True, False)
    """
    return status in FILTERS[wanted]
