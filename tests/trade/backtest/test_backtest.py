"""Backtests: deterministic, with several strategies, budgets, latency and shards.

`tests/trade/strategies/test_strategies_in_session.py` compares them with live sessions, row for row.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.trade.backtest.backtest import BacktestReport, grid_table
from kalshilab.trade.core.exposure import Budget
from kalshilab.trade.session.report import Report
from kalshilab.units import contracts, dollars

TABLES = ("signals", "orders", "fills", "settlements", "positions")


def test_two_backtests_are_equal(settings: Settings) -> None:
    one, two = (kl.backtest("rlm_no", *kl.sample(), settings=settings) for _ in range(2))
    for name in (*TABLES, "decisions", "transitions", "equity", "markets"):
        assert one.raw(name).equals(two.raw(name)), name


def test_a_signal_trades_with_its_own_parameters(settings: Settings) -> None:
    signal = kl.signals.Rlm(min_trades=15, rearm=True)
    report = kl.backtest(signal, *kl.sample(), settings=settings)
    assert report.raw("signals").equals(signal.run(kl.sample()[0]))
    assert report.counts["orders"] > 0


def test_an_order_that_takes_time_to_arrive_is_placed_later(settings: Settings) -> None:
    at_once = kl.backtest("rlm_no", *kl.sample(), settings=settings)
    late = kl.backtest("rlm_no", *kl.sample(), settings=settings, latency_us=60_000_000)
    first, later = (
        r.raw("orders").select("ticker", "created").group_by("ticker").first() for r in (at_once, late)
    )
    both = first.join(later, on="ticker", suffix="_later")
    assert both.height > 20 and (both["created_later"] > both["created"]).any()
    assert late.counts["account_differences"] == late.counts["left_resting"] == 0


def test_strategies_side_by_side_never_hold_both_sides_of_a_market(settings: Settings) -> None:
    plans: list[object] = ["rlm_no", "yes_80_90", "whale_fade", kl.signals.LowLeverageVariance()]
    report = kl.backtest(plans, *kl.sample(), settings=settings.replace(max_position=1e5, balance=1e6))  # type: ignore[arg-type]
    sides = report.orders.group_by("ticker").agg(pl.col("outcome").n_unique())
    assert (sides["outcome"] == 1).all()
    reasons = report.decisions["reason"].value_counts()
    assert reasons.filter(pl.col("reason").str.starts_with("opposite of")).height > 0
    traded = report.raw("decisions").filter(pl.col("action") == "placed")["strategy"].unique()
    assert traded.len() >= 3
    assert report.counts["account_differences"] == 0


def test_a_budget_limits_one_strategy_only(settings: Settings) -> None:
    strategy = kl.signals.Rlm(min_trades=15)
    budget = Budget(contracts=contracts(200), cash=dollars(1_000))
    plans: list[object] = [("small", strategy, budget), "yes_80_90"]
    report = kl.backtest(plans, *kl.sample(), settings=settings)  # type: ignore[arg-type]
    decisions = report.raw("decisions")
    assert decisions.filter(pl.col("reason") == "budget contracts")["strategy"].unique().to_list() == [
        "small"
    ]
    assert decisions.filter(pl.col("action") == "placed")["strategy"].n_unique() == 2


def test_shards_are_the_same_on_any_executor(settings: Settings) -> None:
    tape, markets = kl.sample()
    plain = kl.backtest("rlm_no", tape, markets, settings=settings, shards=3)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        pooled = kl.backtest("rlm_no", tape, markets, settings=settings, shards=3, executor=pool)
    assert isinstance(plain, list) and isinstance(pooled, list) and len(plain) == 3
    assert sum(report.counts["trades"] for report in plain) == tape.height
    for one, two in zip(plain, pooled, strict=True):
        assert all(one.raw(name).equals(two.raw(name)) for name in TABLES) and one.counts == two.counts


def test_a_grid_is_a_backtest_for_each_combination(settings: Settings) -> None:
    tape, markets = kl.sample()
    grid = {"min_trades": [15, 30], "contracts": [5, 10]}
    cells = kl.backtest("rlm_no", tape, markets, settings=settings, grid=grid)
    assert isinstance(cells, list) and [c.changes for c in cells][1] == {"min_trades": 15, "contracts": 10}
    alone = kl.backtest("rlm_no", tape, markets, settings=settings.replace(min_trades=30, contracts=5))
    assert isinstance(alone, BacktestReport) and cells[2].raw("orders").equals(alone.raw("orders"))
    table = grid_table(cells)
    assert table["pnl"].to_list() == [c.counts["pnl_cents"] / 100 for c in cells] and table.height == 4
    split = kl.backtest("rlm_no", tape, markets, settings=settings, grid={"min_trades": [15, 30]}, shards=2)
    assert isinstance(split, list) and [(c.changes["min_trades"], c.shard) for c in split] == [
        (15, 0), (15, 1), (30, 0), (30, 1),
    ]  # fmt: skip
    with pytest.raises(SessionError, match="grid must give a list of values for min_trades"):
        kl.backtest("rlm_no", tape, markets, settings=settings, grid={"min_trades": 15})  # type: ignore[dict-item]


def test_a_saved_backtest_is_loaded_as_the_report_of_a_run(settings: Settings, tmp_path: Path) -> None:
    report = kl.backtest("yes_80_90", *kl.sample(), settings=settings)
    with pytest.raises(SessionError, match="folder must be given"):
        report.save()
    report.save(tmp_path / "run")
    loaded = Report.load(tmp_path / "run")
    assert loaded.counts == report.counts and loaded.fills.equals(report.fills)


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        ([], "at least one"),
        ("rlm_yes", "unknown strategy 'rlm_yes'"),
        (["rlm_no", "rlm_no"], "must be unique"),
        ([3.5], "got float"),
    ],
)
def test_what_is_no_strategy_is_refused(settings: Settings, plans: object, message: str) -> None:
    with pytest.raises(SessionError, match=message):
        kl.backtest(plans, *kl.sample(), settings=settings)  # type: ignore[arg-type]


def test_shards_must_be_a_positive_number(settings: Settings) -> None:
    with pytest.raises(SessionError, match="shards must be >= 1, got 0"):
        kl.backtest("rlm_no", *kl.sample(), settings=settings, shards=0)
