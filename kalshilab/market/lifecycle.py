"""The life of a market: its statuses, which may follow which, and how REST filters name them.

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
"""From each status, those that may follow; a closed market whose close time is moved out can reopen."""

ORDERABLE: Final = frozenset({"active"})
"""Statuses in which orders are taken."""

DETERMINED: Final = frozenset({"determined", "disputed", "amended", "finalized"})
"""Statuses in which there is a result."""

FILTERS: Final = MappingProxyType(
    {
        "unopened": frozenset({"initialized"}),
        "open": frozenset({"active"}),
        "paused": frozenset({"inactive"}),
        "closed": frozenset({"closed", "determined", "disputed", "amended"}),
        "settled": frozenset({"finalized"}),
    }
)
"""The `status` filter of the REST listings, in terms of the status on the object."""


def status_matches(status: str, wanted: str) -> bool:
    """Whether a market of `status` belongs to the REST filter `wanted`.

    >>> status_matches("active", "open"), status_matches("determined", "settled")
    (True, False)
    """
    return status in FILTERS[wanted]
