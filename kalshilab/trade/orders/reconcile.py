"""Reconciliation of the session's record with the exchange's account.

The private channels carry no sequence numbers, so a fill that is lost with a connection leaves no trace.  `Sync` reads
the account over REST at the start, at intervals, after each reconnect and at the end.  It adds missed fills (each counts
once), fetches settlements and pays them out, and names the remaining differences.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from kalshilab.clock import Clock
from kalshilab.errors import ApiError, ConnectionFailed, ProtocolError, SessionError
from kalshilab.kalshi.rest.orders import DemoOrders
from kalshilab.market.model import Settlement
from kalshilab.trade.health import INCONCLUSIVE_ERRORS, Health
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.portfolio import Portfolio

__all__ = ["Sync", "raise_if_refused"]

EARLIER: Final = 86_400_000_000
"""Microseconds before the start from which fills are listed, because this machine's clock may be ahead of the
exchange's."""


async def raise_if_refused(client: DemoOrders) -> None:
    """Raise an error if the exchange refuses the key: REST gives the reason, where a socket merely fails to open.

    Other errors are ignored here, because the feed retries.

    Raises:
        SessionError: the key is refused.
    """
    try:
        await client.balance()
    except ApiError as error:
        if error.status in (401, 403):
            raise SessionError(
                f"the exchange refuses the key ({error}); check it with: kalshilab doctor"
            ) from error
    except (ConnectionFailed, ProtocolError):
        return


class Sync:
    """Reconciler: reads the account over REST, adds what is missing and reports what differs.

    Args:
        client: the order client.
        execution: receives missed fills.
        portfolio: the record to compare.
        journal: receives settlements.
        health: receives differences and failures.
        clock: exchange time.
        since: start of the run, in microseconds.  It does not decide which fills belong to the run, because clocks
            disagree: fills that the exchange lists at the start are earlier ones.
        on_change: called after cash or positions have changed.

    Attributes:
        cash: cash as last reported by the exchange, in money units.
        differences: the result of the last `compare`.
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
        self._pending: set[str] = set()

    async def start(self) -> None:
        """Adopt the account as it is before the first order of this run."""
        earlier = await self._client.fills(min_ts=self._since)
        for _ in range(5):
            balance = await self._client.balance()
            positions = await self._client.positions()
            # An order of an earlier run may fill between the requests: positions and fills must be of one moment.
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
        """Add the fills that the feed did not report; return their number."""
        missed = 0
        for fill in await self._client.fills(min_ts=self._since):
            missed += self._execution.on_fill(fill)
        if missed:
            self._health.log(f"{missed} fills found over REST that the feed did not report")
            self._on_change()
        if not self.differences:
            self._health.healthy("account")
        return missed

    async def settlements(self, *tickers: str) -> list[Settlement]:
        """Fetch and pay out settlements of markets with a position.

        Args:
            tickers: the markets; those whose earlier request failed are added.

        Returns:
            The settlements that were paid out.
        """
        self._pending.update(tickers)
        paid = []
        for ticker in sorted(self._pending):
            self._pending.discard(ticker)
            if ticker not in self._portfolio.open:
                continue
            try:
                settlements = await self._client.settlements(ticker=ticker)
            except INCONCLUSIVE_ERRORS as error:
                self._pending.add(ticker)
                self._health.degraded("account", str(error))
                continue
            for settlement in settlements:
                new = self._journal.write("settlement", settlement, f"{settlement.ticker}|{settlement.ts}")
                if new and self._portfolio.settle(settlement):
                    paid.append(settlement)
        if paid:
            self._on_change()
        return paid

    async def compare(
        self, pay_out: Callable[..., Awaitable[None]] | None = None
    ) -> dict[str, tuple[int, int]]:
        """Fetch missed fills, then return the remaining differences: name to (recorded, reported).

        Call it when no request is in flight.

        Args:
            pay_out: awaited once the fills are known, to pay out pending settlements and those of the tickers given.
        """
        await self.fills()
        if pay_out is not None:
            await pay_out()
        positions = await self._client.positions()
        held = {position.ticker for position in positions if position.size}
        # A market that settled while its announcement was lost is gone from the exchange's positions.
        settled = [ticker for ticker in self._portfolio.open if ticker not in held]
        if settled and pay_out is not None:
            await pay_out(*settled)
            positions = await self._client.positions()
        balance = await self._client.balance()
        self.cash = balance.cash
        self.differences = self._portfolio.gap(positions, balance.cash)
        if self.differences:
            names = ", ".join(sorted(self.differences))
            self._health.degraded("account", f"the record differs from the exchange's account: {names}")
        else:
            self._health.healthy("account")
        return self.differences
