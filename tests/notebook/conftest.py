"""Fixtures of the notebook tests: real snapshots, a real report, and a fake session that returns them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.market.model import Fill, Settlement, Trade
from kalshilab.signals import RlmFire
from kalshilab.trade.events import Decision, Fired, Transition
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.status import COUNTS, MarketRow, PositionRow, Snapshot
from kalshilab.units import dollars

NOW = 1_767_225_600_000_000
SECOND = 1_000_000


def make_shot(**changes: Any) -> Snapshot:
    """Return the snapshot of a running session, with some fields replaced."""
    counts = dict.fromkeys(COUNTS, 0) | {
        "trades": 2_000,
        "filtered": 500,
        "tracked": 1_500,
        "signals": 3,
        "orders": 2,
    }
    whole = Snapshot(
        run_id="20260101T000000Z",
        venue="embedded",
        strategy="rlm_no",
        state="READY",
        stopped="",
        finished=False,
        now=NOW,
        started=NOW,
        elapsed=100.0,
        counts=counts,
        progress=0.25,
        cash=dollars("9900.50"),
        portfolio_value=dollars(110),
        pnl=dollars("10.50"),
        fees=dollars("0.42"),
        positions=[
            PositionRow("KXA-1", "no", 5_000, dollars(30), dollars(35), dollars(5), NOW + 7_500 * SECOND),
            PositionRow("KXB-2", "yes", 1_000, dollars(6), dollars(4), dollars(-2), NOW - SECOND),
        ],
        open_orders=[],
        trades=[Trade(NOW - 2 * SECOND, "KXA-1", 4_350, 750, "yes")],
        decisions=[
            Decision(ts=NOW - 5 * SECOND, ticker="KXA-1", action="placed", side="ask", price=4_300, size=5_000,
                     yes_ratio=0.8, drop=700, order_id="0123456789abcdef"),
            Decision(ts=NOW - SECOND, ticker="KXC-3", action="skipped", reason="spread 12¢", yes_ratio=0.72, drop=500),
        ],
        settlements=[
            Settlement(ticker="KXZ-9", event="KXZ", result="no", settlement=0, yes_size=0, no_size=5_000, yes_cost=0,
                       no_cost=dollars(30), revenue=dollars(50), fees=dollars("0.35"), ts=NOW - 60 * SECOND)
        ],
        transitions=[Transition(ts=NOW, wall=NOW, source="KALSHI_DATA_SYNC", target="READY", reason="all parts started")],
        markets=[
            MarketRow("KXA-1", "sports", "active", 4_300, 30, 0.8, 700),
            MarketRow("KXC-3", "crypto", "active", 0, 0, 0.0, 0),
        ],
        health={"feed": "healthy", "orders": "degraded: 5 errors in a row"},
        messages=[(NOW, "feed: recovered")],
    )  # fmt: skip
    return msgspec.structs.replace(whole, **changes)


class FakeSession:
    """A session that returns `shot` and records the stop requests."""

    def __init__(self, shot: Snapshot) -> None:
        self.shot = shot
        self.run_id = shot.run_id
        self.settings = Settings(env={}, env_file=None)
        self.stops: list[str] = []
        self.failure: Exception | None = None

    def snapshot(self) -> Snapshot:
        if self.failure is not None:
            raise self.failure
        return self.shot

    def operate(self, action: str, reason: str = "") -> None:
        self.stops.append(reason)


@pytest.fixture
def shot() -> Callable[..., Snapshot]:
    return make_shot


@pytest.fixture
def session() -> FakeSession:
    return FakeSession(make_shot())


@pytest.fixture
def make_report(tmp_path: Path) -> Iterator[Callable[..., Report]]:
    """Yield a function that builds a report of `n` fires a second apart, with decisions and `samples` of equity."""
    journals: list[Journal] = []

    def make(n: int = 6, samples: int = 50, tickers: int = 3) -> Report:
        journal = Journal.create(
            tmp_path / f"run{len(journals)}" / "journal.sqlite", SimClock(NOW), SimClock(NOW)
        )
        journals.append(journal)
        for i in range(n):
            ts, ticker = NOW + i * SECOND, f"KXSERIES-26JAN01-MARKET{i % tickers}"
            journal.write(
                "fire", Fired.of(RlmFire(i, ts, ticker, "no", 4_000 + i % 100, 25, 0.8, 500, 4_500))
            )
            if i % 3 < 2:
                deferred = Decision(ts=ts + 1, ticker=ticker, action="deferred", reason="rate limit")
                journal.write("decision", deferred)
            if i % 3 == 0:
                journal.write(
                    "decision", Decision(ts=ts + 2, ticker=ticker, action="placed", price=4_000, size=100)
                )
        journal.write(
            "fill",
            Fill(
                trade_id="t",
                order_id="o",
                ticker="KXA-1",
                side="ask",
                price=4_300,
                size=100,
                fee=7,
                is_taker=True,
                ts=NOW,
            ),
        )
        for i, pnl in enumerate((20, -12)):
            journal.write(
                "settlement",
                Settlement(ticker=f"KXZ-{i}", event="KXZ", result="no", settlement=0, yes_size=0, no_size=5_000, yes_cost=0,
                           no_cost=dollars(30), revenue=dollars(30 + pnl), fees=0, ts=NOW),
            )  # fmt: skip
        return Report.build(
            journal,
            run_id=f"run{len(journals)}",
            state="SHUTDOWN",
            stopped="tape ended",
            counts={"fills": 1, "pnl_cents": 800},
            positions=make_shot().positions,
            equity=[
                (NOW + i * SECOND, dollars(10_000) - i * 1_000_000, 900_000 * (i % 7)) for i in range(samples)
            ],
        )

    yield make
    for journal in journals:
        journal.close()
