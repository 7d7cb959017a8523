"""Holding our own record against the exchange's.

The private channels carry no sequence numbers, so a fill may be lost with a connection and nobody would
know.  `Sync` asks over REST at the start, at intervals, after each reconnect and at the end: fills we missed
are added (each counts once, whoever tells of it), settlements are fetched and paid out, and what still
differs is named.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kalshilab.clock import Clock
from kalshilab.errors import ApiError, ConnectionFailed, ProtocolError, SessionError
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.market.model import Settlement
from kalshilab.trade.health import NO_WORD, Health
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio

__all__ = ["Sync", "raise_if_refused"]

EARLIER: Final = 86_400_000_000
"""Microseconds before the start within which fills are listed: so far may this machine's clock be ahead of the
exchange's."""


async def raise_if_refused(client: DemoOrders) -> None:
    """Raise what the exchange says of a key that it refuses: over REST in words, where a socket only does not open.

    Whatever else is wrong is left to the feed, which tries again.

    Raises:
        SessionError: the key is refused.
    """
    try:
        await client.balance()
    except ApiError as error:
        if error.status in (401, 403):
            raise SessionError(
                f"the exchange refuses the key ({error}); look at it with: kalshilab doctor"
            ) from error
    except (ConnectionFailed, ProtocolError):
        return


class Sync:
    """Reads the account over REST and mends or reports what differs.

    Args:
        since: when this run began (microseconds).  Which fills are its own does not hang on it, for no two clocks agree:
            those are earlier that the exchange lists at the start.
        on_change: called after cash or positions have changed.
    """

    def __init__(
        self,
        client: DemoOrders,
        *,
        execution: Execution,
        portfolio: Portfolio,
        journal: Journal,
        health: Health,
        clock: Clock,
        since: int,
        on_change: Callable[[], None],
    ) -> None:
        self._client, self._execution, self._portfolio = client, execution, portfolio
        self._journal, self._health, self._clock = journal, health, clock
        self._since, self._on_change = max(since - EARLIER, 0), on_change
        self.cash = 0
        self.differences: dict[str, tuple[int, int]] = {}
        self._owed: set[str] = set()

    async def start(self) -> None:
        """Take over the account as it is before the first order of this run."""
        earlier = await self._client.fills(min_ts=self._since)
        for _ in range(5):
            balance = await self._client.balance()
            positions = await self._client.positions()
            # What an earlier run left resting may be filled in between: positions and fills must be of one moment.
            before, earlier = len(earlier), await self._client.fills(min_ts=self._since)
            if len(earlier) == before:
                break
        self._since = max([fill.ts for fill in earlier], default=self._since)
        self.cash = balance.cash
        self._portfolio.start = self._portfolio.cash = balance.cash
        self._portfolio.adopt(positions, earlier)
        self._journal.note(
            "account", cash=balance.cash, positions=[[p.ticker, p.size, p.cost] for p in positions]
        )

    async def fills(self) -> int:
        """Add the fills that no frame told us of; how many there were."""
        missed = 0
        for fill in await self._client.fills(min_ts=self._since):
            missed += self._execution.on_fill(fill)
        if missed:
            self._health.say(f"{missed} fills found over REST that the feed had lost")
            self._on_change()
        if not self.differences:
            self._health.healthy("account")
        return missed

    async def settlements(self, *tickers: str) -> list[Settlement]:
        """Fetch and pay out the settlements of these markets, where we hold them, and of those that could not be
        asked for before; what was paid.
        """
        self._owed.update(tickers)
        paid = []
        for ticker in sorted(self._owed):
            self._owed.discard(ticker)
            if ticker not in self._portfolio.open:
                continue
            try:
                found = await self._client.settlements(ticker=ticker)
            except NO_WORD as error:
                self._owed.add(ticker)
                self._health.degraded("account", str(error))
                continue
            for settlement in found:
                new = self._journal.write("settlement", settlement, f"{settlement.ticker}|{settlement.ts}")
                if new and self._portfolio.settle(settlement):
                    paid.append(settlement)
        if paid:
            self._on_change()
        return paid

    async def compare(
        self, pay_out: Callable[[], Awaitable[None]] | None = None
    ) -> dict[str, tuple[int, int]]:
        """Fetch what was missed, then name every difference that is left: name to (ours, theirs).

        Call it when nothing is in flight; `pay_out` is awaited when the fills are known, for what is owed.
        """
        await self.fills()
        if pay_out is not None:
            await pay_out()
        positions, balance = await self._client.positions(), await self._client.balance()
        self.cash = balance.cash
        self.differences = self._portfolio.gap(positions, balance.cash)
        if self.differences:
            names = ", ".join(sorted(self.differences))
            self._health.degraded("account", f"our record differs from the exchange's: {names}")
        else:
            self._health.healthy("account")
        return self.differences
