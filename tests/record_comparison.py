"""The comparison of a session's record with the exchange's account, one sentence a difference."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kalshilab.exchange import Exchange
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.status import Snapshot

__all__ = ["compare_orders", "compare_payouts"]


def compare_orders(path: Path, report: Report, exchange: Exchange) -> list[str]:
    """Return what differs in intents, orders and fills.

    Args:
        path: the journal.
        report: the report of the run.
        exchange: the exchange, whose account had no other orders.
    """
    with Journal.open(path) as journal:
        intents, outcomes = journal.values("intent"), journal.values("outcome")
        fills, orders = journal.values("fill"), journal.values("order")
    desk, account = exchange.desk, exchange.account
    differences = [f"order {o.order_id} ({o.client_order_id}) rests" for o in desk.resting()]
    differences += _compare_outcomes([i.client_order_id for i in intents], outcomes, exchange)
    states = [(order.order_id, order.status) for order in desk.log]
    differences += _compare_rows("order", list({o.order_id: o.status for o in orders}.items()), states)
    reported = report.raw("orders").select("order_id", "status").rows()
    differences += _compare_rows("order in the report", reported, states)
    differences += _compare_rows(
        "fill",
        [(f.trade_id, f.order_id, f.price, f.size, f.fee) for f in fills],
        [(r.trade_id, r.order.order_id, r.price, r.size, r.fee) for r in account.fills],
    )
    return differences + _compare_rows(
        "fill in the report",
        report.raw("fills").select("trade_id", "order_id").rows(),
        [(fill.trade_id, fill.order.order_id) for fill in account.fills],
    )


def compare_payouts(path: Path, report: Report, shot: Snapshot, exchange: Exchange) -> list[str]:
    """Return what differs in settlements, positions and cash.

    Args:
        path: the journal.
        report: the report of the run.
        shot: the last snapshot of the session.
        exchange: the exchange.
    """
    with Journal.open(path) as journal:
        settlements = journal.values("settlement")
    account = exchange.account
    differences = _compare_rows(
        "settlement",
        # A settlement has several entries if a fill was found after its payout.
        list({(s.ticker, s.ts): (s.ticker, s.revenue) for s in settlements}.values()),
        [(s.ticker, s.revenue) for s in account.settlements],
    )
    differences += _compare_rows(
        "settlement in the report",
        report.raw("settlements").select("ticker").rows(),
        [(s.ticker,) for s in account.settlements],
    )
    differences += _compare_rows(
        "position",
        [(row.ticker, row.size) for row in shot.positions],
        [(ticker, abs(holding.size)) for ticker, holding in account.holdings.items() if holding.size],
    )
    if abs(shot.cash - account.cash) >= 10_000:
        differences.append(
            f"cash is {shot.cash / 1e6:.4f} dollars, the exchange's is {account.cash / 1e6:.4f}"
        )
    return differences


def _compare_outcomes(intents: list[str], outcomes: list[Any], exchange: Exchange) -> list[str]:
    final: dict[str, list[Any]] = {key: [] for key in intents}
    for outcome in outcomes:
        if outcome.kind != "unknown":
            final.setdefault(outcome.client_order_id, []).append(outcome)
    differences = [f"intent {key} is written {n} times" for key, n in Counter(intents).items() if n > 1]
    differences += [
        f"intent {key} has the outcomes {[outcome.kind for outcome in found]}"
        for key, found in final.items()
        if len(found) != 1
    ]
    arrived = {order.client_order_id: order.order_id for order in exchange.desk.log}
    accepted = {
        key: found[0].order_id for key, found in final.items() if found and found[0].kind == "accepted"
    }
    kinds = {key: found[0].kind for key, found in final.items() if found}
    differences += [
        f"order {key} arrived, its outcome is {kinds.get(key, 'missing')}"
        for key in arrived.keys() - accepted.keys()
    ]
    differences += [
        f"order {key} did not arrive, its outcome is accepted" for key in accepted.keys() - arrived.keys()
    ]
    differences += [
        f"order {key} has the id {accepted[key]}, the exchange's is {arrived[key]}"
        for key in arrived.keys() & accepted.keys()
        if arrived[key] != accepted[key]
    ]
    return differences + [
        f"order id {n} is doubled" for n, times in Counter(accepted.values()).items() if times > 1
    ]


def _compare_rows(name: str, ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> list[str]:
    recorded, happened = Counter(ours), Counter(theirs)
    missing, extra = happened - recorded, recorded - happened
    return [f"{name} {row} is missing" for row in missing] + [f"{name} {row} is extra" for row in extra]
