"""Read-only view of a session: snapshots, equity samples and the report, built from its parts."""

from __future__ import annotations

from collections import Counter, deque

from kalshilab.clock import Clock
from kalshilab.errors import KalshilabError
from kalshilab.market.model import Settlement, outcome_price
from kalshilab.trade.health import Health
from kalshilab.trade.markets.market_follower import Follower
from kalshilab.trade.orders.execution import Execution
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.orders.order_desk import Desk
from kalshilab.trade.orders.portfolio import Portfolio
from kalshilab.trade.session.report import Report
from kalshilab.trade.state_machine import Machine
from kalshilab.trade.status import PositionRow, Snapshot

__all__ = ["View"]


class View:
    """View of a session's parts; the view itself keeps only the equity samples and the latest settlements.

    Args:
        run_id: the name of the run.
        venue: the name of the venue.
        prints: number of prints of the tape, for `progress`; 0 without a tape.
        started: machine time of the start in microseconds.
        began: the same on the monotonic clock, in seconds.
        clock: exchange time.
        wall: machine time.
        machine: the state.
        follower: the markets, books and marks.
        desk: the decisions.
        execution: the resting orders.
        portfolio: cash and positions.
        health: the status of each part.
        counts: the counters.
    """

    def __init__(
        self,
        *,
        run_id: str,
        venue: str,
        prints: int,
        started: int,
        began: float,
        clock: Clock,
        wall: Clock,
        machine: Machine,
        follower: Follower,
        desk: Desk,
        execution: Execution,
        portfolio: Portfolio,
        health: Health,
        counts: Counter[str],
    ) -> None:
        self._run_id, self._venue, self._prints = run_id, venue, prints
        self._started, self._began, self._clock, self._wall = started, began, clock, wall
        self._machine, self._follower, self._desk = machine, follower, desk
        self._execution, self._portfolio, self._health, self._counts = execution, portfolio, health, counts
        self.equity: list[tuple[int, int, int]] = []
        """Samples (exchange time, cash, value of positions), in microseconds and money units."""
        self.settlements: deque[Settlement] = deque(maxlen=20)

    def sample(self) -> None:
        """Add a sample of cash and the value of the positions, at the current exchange time."""
        self.equity.append((self._clock.now(), self._portfolio.cash, self._value()))

    def _value(self) -> int:
        return self._portfolio.value(self._follower.marks)

    def snapshot(self, *, stopped: str, finished: bool) -> Snapshot:
        """Return the session at this moment.

        Args:
            stopped: the reason for the end, or "".
            finished: whether the session has ended.
        """
        p, value = self._portfolio, self._value()
        start = sum(self.equity[0][1:]) if self.equity else p.cash
        return Snapshot(
            run_id=self._run_id,
            venue=self._venue,
            strategy=self._follower.strategy.name,
            note=self._follower.strategy.why,
            state=self._machine.state,
            stopped=stopped,
            finished=finished,
            now=self._clock.now(),
            started=self._started,
            elapsed=self._wall.monotonic() - self._began,
            counts=dict(self._counts),
            progress=self._counts["trades"] / self._prints if self._prints else None,
            cash=p.cash,
            portfolio_value=value,
            pnl=p.cash + value - start,
            fees=p.fees,
            positions=self._positions(),
            open_orders=list(self._execution.open.values()),
            trades=list(self._follower.recent),
            decisions=list(self._desk.decisions)[-20:],
            settlements=list(self.settlements),
            transitions=list(self._machine.history)[-20:],
            markets=self._follower.rows(),
            health=dict(self._health.parts),
            messages=list(self._health.messages),
        )

    def _positions(self) -> list[PositionRow]:
        rows = []
        for ticker, holding in self._portfolio.open.items():
            mark = self._follower.marks.get(ticker)
            size = abs(holding.size)
            value = holding.cost if mark is None else outcome_price(mark, holding.outcome) * size
            tracked = self._follower.tracker.get(ticker)
            close = tracked.market.close_ts if tracked is not None and tracked.market is not None else 0
            rows.append(
                PositionRow(ticker, holding.outcome, size, holding.cost, value, value - holding.cost, close)
            )
        return rows

    def report(
        self, journal: Journal, shot: Snapshot, *, differences: int, error: KalshilabError | None
    ) -> Report:
        """Build the report of a finished session.

        Args:
            journal: the journal of the run.
            shot: the last snapshot.
            differences: the number of differences from the exchange's account.
            error: the error that ended the run.
        """
        counts = {k: v for k, v in shot.counts.items() if k != "frames"}
        counts |= {
            "open_positions": len(shot.positions),
            "unsettled_markets": sum(
                t.market is not None and t.status != "settled" for t in self._follower.tracker.all()
            ),
            "account_differences": differences,
            "pnl_cents": round(shot.pnl / 10_000),
            "fees_cents": round(shot.fees / 10_000),
            "cash_cents": shot.cash // 10_000,
        }
        return Report.build(
            journal,
            run_id=self._run_id,
            state=shot.state,
            stopped=shot.stopped,
            counts=counts,
            positions=shot.positions,
            equity=self.equity,
            markets=[t.market for t in self._follower.tracker.all() if t.market is not None],
            # A compiled signal declares its own columns; a signal in plain Python may not.
            columns=getattr(self._follower.strategy.signal, "columns", None),
            error=error,
        )
