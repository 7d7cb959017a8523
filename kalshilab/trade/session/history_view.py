"""Read-only view of a run's history: the facts of a report that is made from a journal alone."""

from __future__ import annotations

from pathlib import Path

from kalshilab.market.model import outcome_price
from kalshilab.trade.core.record.history import RunHistory
from kalshilab.trade.live.lease import holder_of_run
from kalshilab.trade.status import PositionRow

__all__ = ["counts_of_history", "end_of_history", "positions_of_history"]


def end_of_history(past: RunHistory, folder: Path) -> str:
    """Return the reason for the end of a run, "running" while a session writes to it, or "killed" if it has no end.

    Args:
        past: the history of the run.
        folder: its folder.
    """
    if holder_of_run(folder) is not None:
        return "running"
    return past.stopped or past.error or "killed"


def positions_of_history(past: RunHistory) -> list[PositionRow]:
    """Return the open positions, valued at the last recorded marks, or at cost without one."""
    rows = []
    for ticker, holding in past.account.total.positions():
        size, mark = abs(holding.size), past.account.marks.get(ticker)
        value = holding.cost if mark is None else outcome_price(mark, holding.outcome) * size
        market = past.markets.get(ticker)
        close = 0 if market is None else market.close_ts
        rows.append(
            PositionRow(ticker, holding.outcome, size, holding.cost, value, value - holding.cost, close)
        )
    return rows


def counts_of_history(past: RunHistory) -> dict[str, int]:
    """Return the numbers of a run as its journal implies them; amounts in whole cents.

    Without a reading of the account, cash and profit are not known, and left out.
    """
    account, samples = past.account, past.curve.samples
    counts = {name: count for name, count in past.counts.items() if name != "frames"} | {
        "left_resting": sum(bool(life.remaining) for life in past.orders.live.values()),
        "open_positions": sum(1 for _ in account.total.positions()),
        "unsettled_markets": sum(market.status != "finalized" for market in past.markets.values()),
        "fees_cents": round(account.total.fees / 10_000),
    }
    if past.opened:
        start = samples[0][1] + samples[0][2] if samples else account.equity
        counts |= {
            "pnl_cents": round((account.equity - start) / 10_000),
            "cash_cents": account.cash // 10_000,
        }
    return counts
