"""Report frames follow one convention: cents of the outcome bought, dollars, contracts."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from kalshilab.clock import SimClock
from kalshilab.errors import SessionError
from kalshilab.market.model import Fill, Order, Settlement
from kalshilab.signals import RlmFire, WhaleFire
from kalshilab.trade.events import Decision, Fired
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import FRAMES, Report
from kalshilab.trade.status import PositionRow
from kalshilab.units import cents, contracts, dollars

NO_PRICE_CENTS = 40.0


@pytest.fixture
def report(journal: Journal) -> Report:
    """Return a run that bought 10 NO at 40 cents, after YES had fallen by 5 cents to 60, and won."""
    yes_price = cents(60)
    journal.write("fire", Fired.of(RlmFire(3, 5_000, "A-B-1", "no", yes_price, 25, 0.8, cents(5), cents(65))))
    journal.write("decision", Decision(ts=5_000, ticker="A-B-1", action="deferred", reason="no book"))
    journal.write(
        "decision",
        Decision(ts=5_001, ticker="A-B-1", action="placed", side="ask", price=yes_price, size=contracts(10),
                 yes_ratio=0.8, drop=cents(5)),
    )  # fmt: skip
    journal.write(
        "order",
        Order(order_id="o", ticker="A-B-1", side="ask", price=yes_price, status="executed", initial=contracts(10),
              filled=contracts(10), remaining=0, fees=dollars("0.17")),
    )  # fmt: skip
    journal.write(
        "fill",
        Fill(trade_id="t", order_id="o", ticker="A-B-1", side="ask", price=yes_price, size=contracts(10),
             fee=dollars("0.17"), is_taker=True, ts=5_002),
    )  # fmt: skip
    settled = Settlement(
        ticker="A-B-1", event="A-B", result="no", settlement=0, yes_size=0, no_size=contracts(10), yes_cost=0,
        no_cost=dollars(4), revenue=dollars(10), fees=dollars("0.17"), ts=5_003,
    )  # fmt: skip
    # A fill that was found after the payout was paid out by the same settlement.
    journal.write("settlement", settled, "A-B-1|5003")
    journal.write("settlement", settled, "A-B-1|5003|2")
    return Report.build(
        journal,
        run_id="run",
        state="SHUTDOWN",
        stopped="tape ended",
        counts={"fills": 1, "pnl_cents": 583},
        positions=[PositionRow("A-B-2", "no", contracts(5), dollars(2), dollars(3), dollars(1), 0)],
        equity=[(5_000, dollars(100), dollars(4))],
    )


def test_a_no_purchase_shows_the_no_price_in_every_frame(report: Report) -> None:
    assert report.signals["price"].to_list() == [NO_PRICE_CENTS]
    assert report.decisions.filter(action="placed")["price"].to_list() == [NO_PRICE_CENTS]
    assert report.orders["price"].to_list() == [NO_PRICE_CENTS]
    assert report.fills["price"].to_list() == [NO_PRICE_CENTS]
    for frame in (report.decisions.filter(action="placed"), report.orders, report.fills, report.settlements):
        assert frame["outcome"].to_list() == ["no"]


def test_price_times_size_is_the_cost_in_dollars(report: Report) -> None:
    fill = report.fills.row(0, named=True)
    assert fill["price"] / 100 * fill["size"] == fill["cost"] == 4.0
    assert fill["fee"] == 0.17


def test_settlement_times_size_is_the_revenue_in_dollars(report: Report) -> None:
    paid = report.settlements.row(0, named=True)
    assert (paid["result"], paid["settlement"]) == ("no", 100.0)
    assert paid["settlement"] / 100 * paid["no_size"] == paid["revenue"] == 10.0
    assert paid["pnl"] == pytest.approx(5.83)


def test_a_drop_is_in_cents_in_signals_and_decisions(report: Report) -> None:
    assert report.signals["drop"].to_list() == [5.0]
    assert report.decisions["drop"].to_list() == [None, 5.0]
    assert report.signals["first_price"].to_list() == [35.0], "NO cost 35 cents when YES cost 65"


def test_a_decision_without_an_order_has_no_price(report: Report) -> None:
    deferred = report.decisions.row(0, named=True)
    assert (deferred["side"], deferred["outcome"], deferred["price"], deferred["size"]) == (
        "",
        None,
        None,
        None,
    )


def test_sizes_are_contracts_and_money_is_dollars(report: Report) -> None:
    assert report.orders.select("initial", "filled", "fees").row(0) == (10.0, 10.0, 0.17)
    assert report.positions.select("size", "cost", "value", "pnl").row(0) == (5.0, 2.0, 3.0, 1.0)
    assert report.equity.select("cash", "portfolio_value", "equity").row(0) == (100.0, 4.0, 104.0)
    assert dict(report.summary().rows())["pnl"] == "$5.83"


def test_the_stored_tables_keep_their_format(report: Report) -> None:
    fires = report.raw("signals")
    assert fires.schema["price"] == fires.schema["drop"] == pl.Int16
    assert fires.select("price", "drop", "first_price").row(0) == (6_000, 500, 6_500)
    assert report.raw("fills")["price"].to_list() == [60.0]
    assert report.raw("settlements")["settlement"].to_list() == [0.0]
    assert report.raw("decisions")["price"].to_list() == [0.0, 60.0]
    with pytest.raises(SessionError, match="name must be one of signals"):
        report.raw("trades")


def test_a_loaded_report_equals_the_saved_one(report: Report) -> None:
    report.save()
    loaded = Report.load(report.run_dir)
    for name in FRAMES:
        assert loaded.raw(name).equals(report.raw(name))
        assert getattr(loaded, name).equals(getattr(report, name))


def test_the_value_of_a_whale_is_dollars_and_unknown_columns_keep_their_units(tmp_path: Path) -> None:
    fire = Fired.of(WhaleFire(0, 5_000, "A-B-1", "yes", cents(30), 1, dollars(120), 2))
    with Journal.create(tmp_path / "whale.sqlite", SimClock(), SimClock()) as journal:
        journal.write("fire", fire)
        report = Report.build(
            journal, run_id="run", state="SHUTDOWN", stopped="", counts={}, positions=[], equity=[]
        )
    assert report.signals.select("price", "value", "whales").row(0) == (30.0, 120.0, 2)
