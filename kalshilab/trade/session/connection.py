"""Connection of a session to the feed: the first subscription, a lost connection, and trading after a reconnect."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.kalshi.stream.client import Connected, Disconnected
from kalshilab.kalshi.stream.events import Rejected, Subscribed
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.markets.market_follower import CHANNELS, Follower
from kalshilab.trade.orders.reconcile import Sync, raise_if_refused
from kalshilab.trade.state_machine import Machine
from kalshilab.trade.tasks import Tasks, first_of

__all__ = ["FeedConnection"]

RETRY_S = 1.0
"""Wall seconds before the account is compared again after a failure."""


class FeedConnection:
    """The handlers of connection events; they move the session between READY and ERROR.

    Args:
        machine: the session's state.
        tasks: starts the comparison after a reconnect.
        follower: drops its books when the connection is lost.
        sync: compares the account after a reconnect.
        orders: shows over REST whether a refused connection means a refused key.
        health: receives the part "feed".
        counts: the session's counters.
        stop: set when the session ends.
        pay_out: pays out pending settlements.

    Attributes:
        subscribed: set once every channel has been confirmed.
        handlers: the handler of each event type.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        tasks: Tasks,
        follower: Follower,
        sync: Sync,
        orders: DemoOrders,
        health: Health,
        counts: Counter[str],
        stop: asyncio.Event,
        pay_out: Callable[[], Awaitable[None]],
    ) -> None:
        self._machine, self._tasks, self._follower, self._sync = machine, tasks, follower, sync
        self._orders, self._health, self._counts = orders, health, counts
        self._stop, self._pay_out = stop, pay_out
        self._confirmed: set[str] = set()
        self.subscribed = asyncio.Event()
        self.handlers: dict[type, Callable[..., None]] = {
            Connected: self._on_connected,
            Disconnected: self._on_disconnected,
            Subscribed: self._on_subscribed,
            Rejected: lambda e: health.log(f"feed: command refused, {e.message} (code {e.code})"),
        }

    def _on_connected(self, event: Connected) -> None:
        self._health.healthy("feed")
        if event.attempt > 1:
            self._counts["reconnects"] += 1

    def _on_subscribed(self, event: Subscribed) -> None:
        self._confirmed.add(event.channel)
        if self._complete:
            self.subscribed.set()
            if self._machine.state == "ERROR":
                self._tasks.work("resume", self._resume())

    @property
    def _complete(self) -> bool:
        """Whether every channel of the current connection has been confirmed."""
        return self._confirmed.issuperset(CHANNELS)

    async def _resume(self) -> None:
        """Fetch the events that the lost connection missed, then trade again."""
        # The connection may be lost again during the comparison.
        while self._machine.state == "ERROR" and self._complete:
            try:
                await self._sync.compare(self._pay_out)
            except INCONCLUSIVE_ERRORS as error:
                self._health.degraded("account", str(error))
                if await first_of(self._stop.wait(), timeout_s=RETRY_S):
                    return
            else:
                if self._machine.state == "ERROR" and self._complete:
                    self._machine.to("READY", "feed is back")

    def _on_disconnected(self, event: Disconnected) -> None:
        self._confirmed.clear()
        self._follower.on_disconnect()
        self._health.degraded("feed", event.reason)
        if not self.subscribed.is_set():
            self._tasks.background("account", raise_if_refused(self._orders))
        if self._machine.may_trade:
            self._machine.to("ERROR", f"feed lost: {event.reason}")
