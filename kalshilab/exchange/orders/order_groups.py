"""Order groups: a limit on the contracts that the orders of a group may fill within fifteen seconds.

Contracts filled by any order of a group, as maker or as taker, are summed over the trailing window.  A group
whose sum reaches its limit is *triggered*: its resting orders are cancelled and new orders with its id are
refused.  The trigger does not expire; only a reset clears it, which also empties the window.

A trigger never cuts a match short: a print or an incoming order fills completely, and the triggered groups are
processed right after it (`OrderGroups.due`), as in a matching engine.

Limits are sizes in units of 1/100 contract; times are microseconds of exchange time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from kalshilab.exchange.orders.contract_choices import Boundary
from kalshilab.exchange.orders.order_checks import Refused
from kalshilab.kalshi.wire.stream import OrderGroupUpdate
from kalshilab.lazy import renamed
from kalshilab.units import SIZE, format_size

__all__ = ["MOST_GROUPS", "MOST_LIMIT", "WINDOW_US", "OrderGroup", "OrderGroups"]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

WINDOW_US: Final = 15_000_000
"""Length of the window over which fills count, in microseconds."""
MOST_LIMIT: Final = 1_000_000 * SIZE
"""The highest limit, in size units."""
MOST_GROUPS: Final = 100_000
"""Maximum number of groups of an account."""


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
        """Size filled within the window, as of the last fill or query."""
        self._window: deque[tuple[int, int]] = deque()

    def fill(self, ts: int, size: int) -> int:
        """Count a fill; return the size filled within the window that ends at `ts`."""
        self._window.append((ts, size))
        self.total += size
        return self.within(ts)

    def within(self, ts: int) -> int:
        """Return the size filled in (ts − 15 s, ts]."""
        window = self._window
        while window and window[0][0] <= ts - WINDOW_US:
            self.total -= window.popleft()[1]
        return self.total

    def clear(self) -> None:
        """Reset the trigger and the counted fills."""
        self._window.clear()
        self.total = 0
        self.triggered = False

    def __repr__(self) -> str:
        state = ", triggered" if self.triggered else ""
        return f"OrderGroup({self.group_id}, {format_size(self.total)} of {format_size(self.limit)}{state})"


class OrderGroups:
    """The account's groups, in order of creation.

    Args:
        publish: called for every change of a group.
        boundary: whether a group triggers when its limit is "reached" or only when it is "exceeded"; the
            exchange's documents state both.
        most: maximum number of groups at a time.
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
        """Return all groups, oldest first."""
        return list(self._groups.values())

    def get(self, group_id: str) -> OrderGroup:
        """Return one group.

        Raises:
            Refused: 404 for an unknown group.
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
            Refused: 400 at the maximum number of groups.
        """
        if len(self._groups) >= self._most:
            raise Refused(400, "invalid_order", f"no more than {self._most:,} order groups")
        group = self._groups[group_id] = OrderGroup(group_id, limit)
        self._notify("created", group, ts, limit=True)
        return group

    def delete(self, group: OrderGroup, ts: int) -> None:
        """Delete a group; the caller cancels its orders."""
        del self._groups[group.group_id]
        self._notify("deleted", group, ts)

    def reset(self, group: OrderGroup, ts: int) -> None:
        """Accept orders again, with the window empty."""
        group.clear()
        self._notify("reset", group, ts)

    def set_limit(self, group: OrderGroup, limit: int, ts: int) -> None:
        """Change a limit; a group that has already filled as much becomes due at once."""
        group.limit = limit
        self._notify("limit_updated", group, ts, limit=True)
        self._check(group, group.within(ts))

    def trigger(self, group: OrderGroup, ts: int) -> None:
        """Trigger a group; the caller cancels its orders.  A second call has no effect."""
        if not group.triggered:
            group.triggered = True
            self._notify("triggered", group, ts)

    def filled(self, group_id: str, size: int, ts: int) -> None:
        """Count a fill of an order of a group; fills of a deleted group are ignored."""
        group = self._groups.get(group_id)
        if group is not None:
            self._check(group, group.fill(ts, size))

    def _check(self, group: OrderGroup, total: int) -> None:
        hit = total >= group.limit if self.boundary == "reached" else total > group.limit
        if hit and total and not group.triggered and group not in self._due:
            self._due.append(group)

    def hit(self, group_id: str) -> bool:
        """Return whether a group refuses orders: it is triggered or about to be."""
        group = self._groups.get(group_id)
        return group is not None and (group.triggered or group in self._due)

    def due(self, ts: int) -> list[OrderGroup]:
        """Trigger and return the groups that hit their limits since the last call; the caller empties them."""
        due, self._due = self._due, []
        for group in due:
            self.trigger(group, ts)
        return due

    def _notify(self, kind: str, group: OrderGroup, ts: int, *, limit: bool = False) -> None:
        self._publish(
            OrderGroupUpdate(
                event_type=kind,
                order_group_id=group.group_id,
                contracts_limit_fp=format_size(group.limit) if limit else UNSET,
                ts_ms=ts // 1000,
            )
        )

    def __repr__(self) -> str:
        triggered = sum(g.triggered for g in self._groups.values())
        return f"OrderGroups({len(self._groups):,} groups, {triggered:,} triggered)"
