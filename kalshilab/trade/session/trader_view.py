"""Read-only view of a trader: the snapshot that panels draw, and the facts of the report."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest
from typing import Any

import msgspec

from kalshilab.market.model import Market, Order, outcome_price
from kalshilab.signals import MarketState
from kalshilab.trade.core.markets import Followed
from kalshilab.trade.core.orders import OrderLife
from kalshilab.trade.core.trader import Trader
from kalshilab.trade.events import Transition
from kalshilab.trade.status import MarketRow, PositionRow, Snapshot, UpcomingRow

__all__ = [
    "final_counts", "followed_markets", "market_rows", "open_orders", "position_rows", "signal_columns", "snapshot_of",
]  # fmt: skip

SHOWN = 20
"""The latest prints, decisions and transitions that a snapshot holds."""


def profit(trader: Trader) -> int:
    """Return the change of equity since the start of the record, in money units."""
    equity = trader.equity
    if not equity:
        return 0
    return trader.account.equity - equity[0][1] - equity[0][2]


def position_rows(trader: Trader) -> list[PositionRow]:
    """Return the open positions, valued at their market's last print, or at cost without one."""
    account, rows = trader.account, []
    for ticker, holding in account.total.positions():
        size, mark = abs(holding.size), account.marks.get(ticker)
        value = holding.cost if mark is None else outcome_price(mark, holding.outcome) * size
        followed = trader.markets.get(ticker)
        close = 0 if followed is None or followed.market is None else followed.market.close_ts
        rows.append(
            PositionRow(ticker, holding.outcome, size, holding.cost, value, value - holding.cost, close)
        )
    return rows


def open_orders(trader: Trader) -> list[Order]:
    """Return the orders that rest or may rest, as last known."""
    return [_as_order(life) for life in trader.orders.live.values() if life.remaining]


def _as_order(life: OrderLife) -> Order:
    if life.order is not None:
        return life.order
    intent = life.intent
    return Order(
        order_id=life.order_id, ticker=intent.ticker, side=intent.side, price=intent.price, status="resting",
        initial=intent.size, filled=life.counted, remaining=life.remaining, client_order_id=intent.client_order_id,
        created_ts=intent.ts, updated_ts=intent.ts,
    )  # fmt: skip


def followed_markets(trader: Trader) -> list[Market]:
    """Return the markets that were admitted or held, as last known."""
    return [f.market for f in trader.markets if f.market is not None and f.status != "rejected"]


def final_counts(trader: Trader) -> dict[str, int]:
    """Return the numbers of a run that has ended; amounts in whole cents."""
    return {k: v for k, v in trader.counts.items() if k != "frames"} | {
        "open_positions": sum(1 for _ in trader.account.total.positions()),
        "unsettled_markets": sum(
            f.market is not None and f.status not in ("settled", "rejected") for f in trader.markets
        ),
        "account_differences": len(trader.differences),
        "pnl_cents": round(profit(trader) / 10_000),
        "fees_cents": round(trader.account.total.fees / 10_000),
        "cash_cents": trader.account.cash // 10_000,
    }


def signal_columns(trader: Trader) -> dict[str, Any]:
    """Return the types of the signals' own columns; a signal in plain Python may declare none."""
    columns: dict[str, Any] = {}
    for run in trader.strategies:
        columns |= getattr(run.strategy.signal, "columns", None) or {}
    return columns


def market_rows(trader: Trader, limit: int = 30) -> list[MarketRow]:
    """Return the followed markets with the most prints; the progress is that of the first strategy."""
    signal = next((run.strategy.signal for run in trader.strategies if run.strategy.signal is not None), None)
    known = (f for f in trader.markets if f.market is not None and f.status != "rejected")
    rows = []
    # Read the signal's state of the displayed markets only: reading a thousand, several times a second, is slow.
    for followed in nsmallest(limit, known, key=lambda f: (f.status != "active", -f.prints)):
        state = None if signal is None else signal.state(followed.ticker)
        rows.append(_market_row(followed, state if isinstance(state, MarketState) else None))
    return rows


def _market_row(followed: Followed, state: MarketState | None) -> MarketRow:
    n_trades, ratio, drop = followed.prints, None, None
    if state is not None:
        n_trades, ratio, drop = state.n_trades, state.yes_share, state.first_price - state.last_price
    return MarketRow(
        followed.ticker, followed.category, followed.status, followed.last_price, n_trades, ratio, drop
    )


def snapshot_of(
    trader: Trader,
    *,
    venue: str,
    note: str,
    prints: int,
    started: int,
    elapsed: float,
    now: int,
    wall_offset: int,
    stopped: str,
    finished: bool,
    frames: int,
    health: dict[str, str],
    messages: Iterable[tuple[int, str]],
    error: str = "",
    frame_age_s: float | None = None,
    upcoming: Iterable[UpcomingRow] = (),
) -> Snapshot:
    """Return a session at one moment.

    Args:
        trader: the core of the session.
        venue: the name of the venue.
        note: the reason for which the strategy places no orders, or "".
        prints: number of prints of the tape, for `progress`; 0 without a tape.
        started: machine time of the start in microseconds.
        elapsed: seconds since then.
        now: exchange time in microseconds.
        wall_offset: machine time less monotonic time, in microseconds.
        stopped: the reason for the end, or "".
        finished: whether the session has ended.
        frames: number of frames received.
        health: the status of the parts around the trader.
        messages: the console's lines.
        error: the error that ended the run, or "".
        frame_age_s: seconds since the feed's last frame, or None before the first.
        upcoming: the markets that open soon.
    """
    account = trader.account
    return Snapshot(
        run_id=trader.run_id,
        venue=venue,
        strategy=", ".join(run.name for run in trader.strategies),
        note=note,
        state=trader.state,
        stopped=stopped or trader.stopped,
        finished=finished,
        now=now,
        started=started,
        elapsed=elapsed,
        counts=dict(trader.counts) | {"frames": frames},
        progress=trader.counts["trades"] / prints if prints else None,
        cash=account.cash,
        portfolio_value=account.total.value,
        pnl=profit(trader),
        fees=account.total.fees,
        positions=position_rows(trader),
        open_orders=open_orders(trader),
        trades=list(trader.recent)[-SHOWN:],
        decisions=list(trader.decisions)[-SHOWN:],
        settlements=list(trader.settlements),
        transitions=[_at_wall(t, wall_offset) for t in list(trader.states.history)[-SHOWN:]],
        markets=market_rows(trader),
        health={**trader.health.parts, **health},
        messages=list(messages),
        strategies=strategy_states(trader),
        paused=trader.paused,
        error=error,
        active_markets=trader.markets.active,
        order_age_s=oldest_order_s(trader, now),
        frame_age_s=frame_age_s,
        upcoming=list(upcoming),
        snapshots=trader.books.snapshots,
        deltas=trader.books.deltas,
    )


def strategy_states(trader: Trader) -> dict[str, str]:
    """Return "on", "paused" or "failed: " and the error, by name of the strategy."""
    return {
        run.name: f"failed: {run.failed}" if run.failed else "on" if run.on else "paused"
        for run in trader.strategies
    }


def oldest_order_s(trader: Trader, now: int) -> float | None:
    """Return the age in seconds of exchange time of the oldest open order, or None without one."""
    oldest = min((life.intent.ts for life in trader.orders.live.values() if life.remaining), default=None)
    return None if oldest is None else max(now - oldest, 0) / 1e6


def _at_wall(change: Transition, offset: int) -> Transition:
    return msgspec.structs.replace(change, wall=change.wall + offset)
