"""Order groups: a limit on what the orders of a group may fill within fifteen seconds.

Contracts filled by any order of a group, as maker or as taker, are summed over the trailing window.  A group
whose sum reaches its limit is *triggered*: its resting orders are cancelled and new ones with its id are
refused.  Time does not undo that; only a reset does, which also empties the window.

A match is never cut short by a trigger: what one print or one incoming order fills is filled, and the
triggered groups are dealt with right after it (`OrderGroups.due`), as a matching engine does.

Limits are sizes in units of 1/100 contract, times microseconds of exchange time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from msgspec import UNSET

from kalshilab.exchange.orders.contract_choices import Boundary
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.kalshi.wire.stream import OrderGroupUpdate
from kalshilab.units import SIZE, format_size

__all__ = ["MOST_GROUPS", "MOST_LIMIT", "WINDOW", "OrderGroup", "OrderGroups"]

WINDOW: Final = 15_000_000
"""Microseconds over which fills count."""
MOST_LIMIT: Final = 1_000_000 * SIZE
"""The highest limit."""
MOST_GROUPS: Final = 100_000
"""The most groups an account may have."""


class OrderGroup:
    """One group.

    >>> group = OrderGroup("g", 1_000)
    >>> group.fill(0, 600), group.fill(15_000_000, 600), group.fill(15_000_001, 400)
    (600, 600, 1000)
    """

    __slots__ = ("_window", "group_id", "limit", "total", "triggered")

    def __init__(self, group_id: str, limit: int) -> None:
        self.group_id, self.limit = group_id, limit
        self.triggered = False
        self.total = 0
        """Size filled within the window, as of the last fill or question."""
        self._window: deque[tuple[int, int]] = deque()

    def fill(self, ts: int, size: int) -> int:
        """Count a fill; the size filled within the window that ends at `ts`."""
        self._window.append((ts, size))
        self.total += size
        return self.within(ts)

    def within(self, ts: int) -> int:
        """Size filled in (ts − 15 s, ts]."""
        window = self._window
        while window and window[0][0] <= ts - WINDOW:
            self.total -= window.popleft()[1]
        return self.total

    def clear(self) -> None:
        """As new: not triggered, nothing counted."""
        self._window.clear()
        self.total = 0
        self.triggered = False

    def __repr__(self) -> str:
        state = ", triggered" if self.triggered else ""
        return f"OrderGroup({self.group_id}, {format_size(self.total)} of {format_size(self.limit)}{state})"


class OrderGroups:
    """The account's groups, in the order in which they were made.

    Args:
        publish: told of everything that happens to a group.
        boundary: whether a group triggers when its limit is "reached" or only when it is "exceeded"; the
            exchange's own texts say both.
        most: groups allowed at a time.
    """

    def __init__(
        self,
        publish: Callable[[OrderGroupUpdate], None],
        *,
        boundary: Boundary = "reached",
        most: int = MOST_GROUPS,
    ) -> None:
        self._publish, self._most = publish, most
        self.boundary: Boundary = boundary
        self._groups: dict[str, OrderGroup] = {}
        self._due: list[OrderGroup] = []

    def __len__(self) -> int:
        return len(self._groups)

    def listed(self) -> list[OrderGroup]:
        """All groups, oldest first."""
        return list(self._groups.values())

    def get(self, group_id: str) -> OrderGroup:
        """One group.

        Raises:
            Refused: 404 where there is none.
        """
        group = self._groups.get(group_id)
        if group is None:
            raise Refused(404, "not_found", "order group not found")
        return group

    def admit(self, group_id: str) -> None:
        """Check that a new order may join.

        Raises:
            Refused: 400 for an unknown group or a triggered one.
        """
        group = self._groups.get(group_id)
        if group is None:
            raise Refused(400, "order_group_not_found", f"order group {group_id} not found")
        if group.triggered:
            raise Refused(400, "exceeded_order_group_risk_limit", f"order group {group_id} is triggered")

    def create(self, group_id: str, limit: int, ts: int) -> OrderGroup:
        """Add a group.

        Raises:
            Refused: 400 when there are as many as there may be.
        """
        if len(self._groups) >= self._most:
            raise Refused(400, "invalid_order", f"no more than {self._most:,} order groups")
        group = self._groups[group_id] = OrderGroup(group_id, limit)
        self._tell("created", group, ts, limit=True)
        return group

    def delete(self, group: OrderGroup, ts: int) -> None:
        """Forget a group; the caller cancels its orders."""
        del self._groups[group.group_id]
        self._tell("deleted", group, ts)

    def reset(self, group: OrderGroup, ts: int) -> None:
        """Let orders in again, counting from nothing."""
        group.clear()
        self._tell("reset", group, ts)

    def set_limit(self, group: OrderGroup, limit: int, ts: int) -> None:
        """Change a limit; a group that has filled as much already is due at once."""
        group.limit = limit
        self._tell("limit_updated", group, ts, limit=True)
        self._check(group, group.within(ts))

    def trigger(self, group: OrderGroup, ts: int) -> None:
        """Shut a group; the caller cancels its orders.  Once is enough: a second time says nothing."""
        if not group.triggered:
            group.triggered = True
            self._tell("triggered", group, ts)

    def filled(self, group_id: str, size: int, ts: int) -> None:
        """Count a fill of an order of a group; one that was deleted meanwhile counts nothing."""
        group = self._groups.get(group_id)
        if group is not None:
            self._check(group, group.fill(ts, size))

    def _check(self, group: OrderGroup, total: int) -> None:
        hit = total >= group.limit if self.boundary == "reached" else total > group.limit
        if hit and total and not group.triggered and group not in self._due:
            self._due.append(group)

    def hit(self, group_id: str) -> bool:
        """Whether a group takes no more orders: it is triggered, or about to be."""
        group = self._groups.get(group_id)
        return group is not None and (group.triggered or group in self._due)

    def due(self, ts: int) -> list[OrderGroup]:
        """Groups whose limit was hit since the last call, now triggered; the caller cancels their orders."""
        due, self._due = self._due, []
        for group in due:
            self.trigger(group, ts)
        return due

    def _tell(self, kind: str, group: OrderGroup, ts: int, *, limit: bool = False) -> None:
        self._publish(
            OrderGroupUpdate(
                event_type=kind,
                order_group_id=group.group_id,
                contracts_limit_fp=format_size(group.limit) if limit else UNSET,
                ts_ms=ts // 1000,
            )
        )

    def __repr__(self) -> str:
        shut = sum(g.triggered for g in self._groups.values())
        return f"OrderGroups({len(self._groups):,} groups, {shut:,} triggered)"
