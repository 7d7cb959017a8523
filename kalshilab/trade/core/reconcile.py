"""Reconciliation: the exchange's account is read again and again, and the record made equal to it.

The private channels carry no sequence numbers, so a fill that is lost with a connection leaves no trace.  Each reading
adds what the record lacks.  What still differs in `STEADY` readings in a row, by the same amount, blocks new orders (of
that market, or all if it is cash) until it is explained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from kalshilab.market.model import Fill, Settlement
from kalshilab.trade.core.account import FOREIGN, TradingAccount
from kalshilab.trade.core.exposure import Exposure
from kalshilab.trade.core.markets import Markets
from kalshilab.trade.core.messages import (
    AccountRead,
    CloseGroup,
    LookUpOrder,
    Lost,
    OrderFound,
    Outbox,
    ReadAccount,
    Result,
)
from kalshilab.trade.core.order_flow import OrderFlow
from kalshilab.trade.core.orders import OrderLife, Orders
from kalshilab.trade.core.record.settlement_watch import SettlementWatch
from kalshilab.trade.core.states import PartHealth

__all__ = ["Closing", "Reconciler"]

AGAIN_US: Final = 500_000
"""Monotonic microseconds before a reading is repeated that is not of one moment, or that differs from the record."""
RETRY_US: Final = 1_000_000
"""Monotonic microseconds before a reading without an answer is repeated."""
GIVE_UP_US: Final = 8_000_000
"""Monotonic microseconds after which a reading without an answer is given up, and the account read again; they double."""
GIVE_UP_MAX_US: Final = 64_000_000
OVERLAP_US: Final = 300_000_000
"""Exchange microseconds before the newest fill listed from which fills are listed again."""
PAGE: Final = 100
"""Size of the newest page of fills from which on older fills may be missing in it."""
STEADY: Final = 3
"""Equal differences in a row that block."""
CLOSE_US: Final = 28_000_000
"""Monotonic microseconds after a stop at which the session ends at the latest."""
CANCEL_AGAIN_US: Final = 1_000_000
"""Monotonic microseconds between two rounds of cancels at the end."""
MAX_FAILURES: Final = 3
"""Readings in a row without an answer after which the account counts as failed."""


class Reconciler:
    """The readings of the account.

    Attributes:
        recording: whether the record has started, in this life of the run or an earlier one.
        opened: whether the account was read in this life.
        current: whether the account was read since the feed came up.
        failures: number of readings without an answer since the last answer.
        compared: number of readings that were compared with the record.
        differences: name (a ticker or "cash") to (recorded, reported), as of the last comparison.
        blocked: the names whose difference blocks orders.
        ends: the last reports of ended orders.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        sync_us: int,
        account: TradingAccount,
        orders: Orders,
        flow: OrderFlow,
        exposure: Exposure,
        markets: Markets,
        watch: SettlementWatch,
        health: PartHealth,
        pay: Callable[[Settlement], object],
        on_change: Callable[[], None],
    ) -> None:
        self._outbox, self._sync_us, self._pay, self._on_change = outbox, sync_us, pay, on_change
        self._account, self._orders, self._flow, self._exposure = account, orders, flow, exposure
        self._markets, self._watch, self._health = markets, watch, health
        self._early: list[Fill] = []
        self.ends = EndReports(outbox, orders, flow)
        self._reading = self._sent = 0
        self._patience = GIVE_UP_US
        self._at_activity = 0
        self._due: int | None = None
        self._newest = self._oldest = 0
        self.failures = 0
        self._streaks: dict[str, tuple[int, int]] = {}
        self.recording = self.opened = self.current = False
        self.compared = 0
        self.differences: dict[str, tuple[int, int]] = {}
        self.blocked: set[str] = set()

    def blocks(self, ticker: str) -> bool:
        """Return whether an unexplained difference forbids orders in a market."""
        return bool(self.blocked) and ("cash" in self.blocked or ticker in self.blocked)

    def early(self, fill: Fill) -> None:
        """Note a fill that arrived before the record has started: the first reading must include it."""
        self._flow.activity += 1
        self._early = [*self._early[-49:], fill]

    def restore(self, newest: int, oldest: int) -> None:
        """Continue the record of earlier lives: the first reading adds what happened since, as any later one does.

        Args:
            newest: exchange time of the newest known fill in microseconds, or 0.
            oldest: exchange time before which fills precede the record, or 0.
        """
        self.recording = True
        self._newest, self._oldest = newest, oldest

    def want(self) -> None:
        """Read the account now; a reading under way is read again."""
        self._due = self._outbox.mono
        if not self._reading:
            self.tick()

    def feed_lost(self) -> None:
        """Require a new reading before the session trades again."""
        self.current = False

    def tick(self) -> None:
        """Read the account if it is time."""
        out = self._outbox
        if self._reading and out.mono - self._sent >= self._patience:
            # Its answer may arrive byte by byte, for a minute; a slow venue is given more time at each turn.
            self._reading, self._due = 0, out.mono
            self._patience = min(2 * self._patience, GIVE_UP_MAX_US)
        if self._reading or self._due is None or out.mono < self._due:
            return
        since = max(self._newest - OVERLAP_US, self._oldest) if self.recording else None
        self._due = None
        self._at_activity = self._flow.activity
        self._reading, self._sent = out.number(), out.mono
        out.send(ReadAccount(number=self._reading, fills_since=since), partial(self._on_read, self._reading))

    def _on_read(self, number: int, result: Result) -> None:
        if number != self._reading:
            return
        self._reading, self._patience = 0, GIVE_UP_US
        if isinstance(result, AccountRead):
            self._on_account(result)
        else:
            self._on_failure(result)
        self.tick()

    def _on_account(self, read: AccountRead) -> None:
        self.failures = 0
        self._flow.answered()
        if "account" in self._health.failed:
            self._health.heal("account")
        steady = self._flow.activity == self._at_activity and not self._flow.in_flight
        if self.recording and not self.opened:
            self._reopen()
        elif not self.opened:
            if not steady or not self._includes_early(read):
                self._again(AGAIN_US)
                return
            self._open(read)
        changed = self._apply(read)
        if not steady or changed:
            self._again(AGAIN_US)
            return
        self._look_up_unlisted(read)
        self.ends.ask()
        self._compare(read)

    def _on_failure(self, result: Result) -> None:
        self.failures += 1
        if self.failures >= MAX_FAILURES or not self.opened:
            self._health.degrade("account", result.reason if isinstance(result, Lost) else str(result))
        self._again(RETRY_US)

    def _again(self, wait: int) -> None:
        due = self._outbox.mono + wait
        self._due = due if self._due is None else min(self._due, due)

    # The start

    def _includes_early(self, read: AccountRead) -> bool:
        listed = {(fill.trade_id, fill.order_id) for fill in read.fills}
        return all((fill.trade_id, fill.order_id) in listed for fill in self._early)

    def _open(self, read: AccountRead) -> None:
        """Start the record: all that is listed precedes it."""
        self.recording = self.opened = True
        self._early = []
        self._account.open_with(read.balance.cash, read.positions, read.fills)
        self._oldest = min(fill.ts for fill in read.fills) + 1 if len(read.fills) >= PAGE else 0
        positions = [[p.ticker, p.size, p.cost] for p in read.positions if p.size]
        self._outbox.note(
            "account", cash=read.balance.cash, positions=positions, oldest=self._oldest,
            newest=max((fill.ts for fill in read.fills), default=0),
            fills=[[fill.trade_id, fill.order_id] for fill in read.fills],
        )  # fmt: skip
        for position in read.positions:
            if position.size:
                place = self._markets.place_of(position.ticker)
                self._exposure.position(position.ticker, *place, FOREIGN)
                self._markets.hold(position.ticker)
                self._watch.follow(position.ticker)

    def _reopen(self) -> None:
        """Continue the record of an earlier life: its markets are followed again."""
        self.opened = True
        self._outbox.note("account again", cash=self._account.cash)
        held = [ticker for ticker, _ in self._account.total.positions()]
        for ticker in held:
            self._watch.follow(ticker)
        for ticker in sorted(self._orders.tickers() | set(held)):
            self._markets.hold(ticker)

    # Each reading

    def _apply(self, read: AccountRead) -> bool:
        """Add what the record lacks; return whether it lacked anything."""
        before = self._flow.activity
        missed = 0
        for fill in sorted(read.fills, key=lambda fill: fill.ts):
            self._newest = max(self._newest, fill.ts)
            if fill.ts >= self._oldest:
                missed += self._flow.on_fill(fill)
        if missed:
            self._outbox.say(f"{missed} fills found over REST that the feed did not report")
        for order in read.orders:
            self._flow.on_order(order)
        for settlement in read.settlements:
            self._pay(settlement)
        return self._flow.activity != before

    def _look_up_unlisted(self, read: AccountRead) -> None:
        listed = {order.order_id for order in read.orders}
        for life in list(self._orders.resting()):
            if life.order_id not in listed and not life.due:
                self._flow.look_up(life)

    def _compare(self, read: AccountRead) -> None:
        self.compared += 1
        reported = {position.ticker for position in read.positions if position.size}
        for ticker, _ in self._account.total.positions():
            if ticker not in reported:
                self._watch.expect(ticker, at_once=True)
        self.differences = self._account.differences(read.positions, read.balance.cash)
        self.current = True
        if self._flow.unresolved:
            # An order without a known outcome explains differences; its market is blocked already.
            self._again(self._sync_us)
            return
        self._count_streaks()
        if self.differences:
            names = ", ".join(sorted(self.differences))
            self._health.degrade("account", f"the record differs from the exchange's: {names}", failed=False)
            self._again(AGAIN_US if not self.blocked else min(self._sync_us, 10 * AGAIN_US))
        else:
            self._health.heal("account")
            self._again(self._sync_us)

    def _count_streaks(self) -> None:
        streaks = {}
        for name, (recorded, reported) in self.differences.items():
            gap, times = self._streaks.get(name, (0, 0))
            streaks[name] = (reported - recorded, times + 1 if gap == reported - recorded else 1)
        self._streaks = streaks
        blocked = {name for name, (_, times) in streaks.items() if times >= STEADY}
        if blocked != self.blocked:
            self._outbox.note("account blocked", names=sorted(blocked))
            self.blocked = blocked
            self._on_change()


class EndReports:
    """The last reports of orders that their fills have ended: a report that is lost is asked for.

    Args:
        outbox: receives the requests.
        orders, flow: the orders, and the receiver of the reports.
    """

    def __init__(self, outbox: Outbox, orders: Orders, flow: OrderFlow) -> None:
        self._outbox, self._orders, self._flow = outbox, orders, flow
        self._due = 0
        self._asked: set[str] = set()

    def ask(self) -> bool:
        """Look up the orders without their last report; return whether there are any."""
        out, missing = self._outbox, self._orders.unreported
        if missing and out.mono >= self._due:
            self._due = out.mono + RETRY_US
            for life in missing:
                if life.order_id not in self._asked:
                    self._look_up(life)
        return bool(missing)

    def _look_up(self, life: OrderLife) -> None:
        out, intent = self._outbox, life.intent
        self._asked.add(life.order_id)
        request = LookUpOrder(
            number=out.number(),
            client_order_id=intent.client_order_id,
            ticker=intent.ticker,
            order_id=life.order_id,
        )
        out.send(request, partial(self._on_found, life))

    def _on_found(self, life: OrderLife, result: Result) -> None:
        self._asked.discard(life.order_id)
        if not isinstance(result, OrderFound):
            return
        if result.order is None:
            # The exchange archives orders that ended long ago.
            self._orders.give_up_report(life)
        elif result.order.order_id == life.order_id:
            self._flow.on_order(result.order)


class Closing:
    """The end of a session: nothing left resting, every order known, and a last reading of the account.

    It ends at the latest `CLOSE_US` after the stop, even if the exchange does not answer.

    Args:
        outbox: receives the requests.
        orders, flow, reconciler: the state that must come to rest.
        group: returns the id of the order group at the exchange, or "".
    """

    def __init__(
        self,
        outbox: Outbox,
        orders: Orders,
        flow: OrderFlow,
        reconciler: Reconciler,
        group: Callable[[], str],
    ) -> None:
        self._outbox, self._orders, self._flow, self._reconciler = outbox, orders, flow, reconciler
        self._group = group
        self._stop_at = self._cancel_at = 0
        self._compared = -1
        self._closing_group = False
        self._group_closed = False

    def begin(self) -> None:
        """Begin to close."""
        self._stop_at = self._cancel_at = self._outbox.mono

    def is_done(self) -> bool:
        """Take the next step, and return whether the session may end."""
        mono = self._outbox.mono
        if mono - self._stop_at >= CLOSE_US:
            return True
        if self._orders.live or self._flow.in_flight:
            if mono >= self._cancel_at:
                self._cancel_at = mono + CANCEL_AGAIN_US
                self._flow.cancel_all()
            return False
        return self._is_group_closed() and self._is_read() and not self._reconciler.ends.ask()

    def _is_group_closed(self) -> bool:
        group, out = self._group(), self._outbox
        if group and not self._closing_group and not self._group_closed:
            self._closing_group = True
            out.send(CloseGroup(number=out.number(), group=group), self._on_group_closed)
        return self._group_closed or not group

    def _on_group_closed(self, result: Result) -> None:
        self._closing_group = False
        # A refusal is final: the group does not exist.  After a lost answer it is closed again.
        self._group_closed = not isinstance(result, Lost)

    def _is_read(self) -> bool:
        reconciler = self._reconciler
        if not reconciler.recording:
            return True
        if self._compared < 0:
            self._compared = reconciler.compared
            reconciler.want()
        readings = reconciler.compared - self._compared
        return bool(readings) and (not reconciler.differences or readings >= STEADY)

    @property
    def compared(self) -> bool:
        """Whether the account was compared with the record since the stop."""
        return 0 <= self._compared < self._reconciler.compared

    @property
    def left(self) -> tuple[str, ...]:
        """The orders that have not ended, by the exchange's id or else by the client order id."""
        live = self._orders.live.values()
        return tuple(sorted(life.order_id or life.intent.client_order_id for life in live if life.remaining))
