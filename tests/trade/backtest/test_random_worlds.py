"""Backtests of several strategies in random worlds: no two trade against each other, and no fire vanishes."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from trade.core.reference_exchange import Take

import kalshilab as kl
from kalshilab.config.settings import Settings
from kalshilab.tape.synth import Recipe, make
from kalshilab.trade.core.orders import order_key, run_prefix
from kalshilab.trade.core.strategy_runs import FRESH_US
from kalshilab.trade.session.report import Report

RECIPE = Recipe(prints_log_median=float(np.log(30)), prints_log_sd=0.5, span_days=1.0, size_log_median=4.0)
NAMED = ("rlm_no", "yes_80_90", "whale_fade", "whale_follower", "paper_test")
FINAL = ("placed", "rejected", "skipped", "refused", "expired")
PASSING = (
    "spread", "one-sided book", "no book", "stale book", "rate limit", "cash", "low cash", "orders", "position", "concurrent",
    "event", "category", "collar", "budget cash", "budget contracts", "budget positions", "open order", "not ready",
    "strategy paused", "order unknown", "account differs",
)  # fmt: skip
"""Reasons that pass: a fire with one of them waits, and ends with an order or after its time only."""

WORLDS: dict[str, Any] = {
    "seed": st.integers(0, 2**32 - 1),
    "names": st.lists(st.sampled_from([*NAMED, "take_yes", "take_no"]), min_size=2, max_size=5, unique=True),
    "limits": st.fixed_dictionaries(
        {
            "max_orders": st.sampled_from([1, 3, 100]),
            "max_concurrent": st.sampled_from([1, 4, 1000]),
            "attempts_per_minute": st.sampled_from([0.2, 1.0, 100.0]),
            "max_position": st.sampled_from([50.0, 1000.0]),
            "balance": st.sampled_from([150.0, 1_000.0, 100_000.0]),
            "max_spread_cents": st.sampled_from([4.0, 10.0]),
            "collar_cents": st.sampled_from([0.0, 1.0]),
        }
    ),
    "latency_us": st.sampled_from([0, 50_000, 3_000_000]),
}


def play(seed: int, names: list[str], limits: dict[str, Any], latency_us: int) -> Report:
    """Run a backtest in the world of a seed."""
    tape, markets = make(6, np.random.default_rng(seed), RECIPE)
    chosen = Settings(
        env={}, env_file=None, categories=("all",), min_trades=5, min_drop=1, contracts=20, whale_min_value=20,
        yes8090_contracts=20, yes8090_tier_a_contracts=30, seed=seed, **limits,
    )  # fmt: skip
    plans: list[Any] = [
        Take(name[5:], reenter=bool(seed % 2)) if name.startswith("take_") else name for name in names
    ]
    return kl.backtest(plans, tape, markets, settings=chosen, latency_us=latency_us)


def owned(report: Report, name: str) -> pl.DataFrame:
    """Return a table of orders or fills with the strategy of each row."""
    owners = report.raw("decisions").filter(pl.col("action") == "placed").select("order_id", "strategy")
    table = report.raw(name).join(owners, on="order_id", how="left", maintain_order="left")
    assert table["strategy"].null_count() == 0
    return table


def check_sides(report: Report) -> None:
    """Check that at no time orders on both sides of a market were open, nor two strategies held opposite positions."""
    for (ticker,), orders in owned(report, "orders").group_by("ticker"):
        for one, two in combinations(orders.iter_rows(named=True), 2):
            together = one["created"] < two["updated"] and two["created"] < one["updated"]
            assert not together or one["side"] == two["side"], (ticker, one, two)
    held: dict[tuple[str, str], int] = {}
    for fill in owned(report, "fills").iter_rows(named=True):
        key = fill["ticker"], fill["strategy"]
        held[key] = held.get(key, 0) + round(100 * fill["size"]) * (1 if fill["outcome"] == "yes" else -1)
        signs = {np.sign(size) for (ticker, _), size in held.items() if ticker == key[0] and size}
        assert len(signs) <= 1, (fill, held)
    outcomes = report.raw("fills").group_by("trade_id").agg(pl.col("outcome").n_unique())
    assert (outcomes["outcome"] == 1).all(), "an order has met another one of the account"


def check_fires(report: Report) -> None:
    """Check that each fire has exactly one end, and that what passes ends no fire before its time."""
    fires, decisions = report.raw("signals"), report.raw("decisions")
    ends = decisions.filter(pl.col("action").is_in(FINAL))
    key = ["strategy", "ticker"]
    counted = fires.group_by(key).len("fires").join(ends.group_by(key).len("ends"), on=key, how="full")
    assert counted["fires"].to_list() == counted["ends"].to_list()
    early = ends.filter(pl.col("action").is_in(["skipped", "refused"]) & pl.col("reason").is_in(PASSING))
    assert early.is_empty(), early.to_dicts()
    prefix = run_prefix(report.run_id)
    placed = dict(decisions.filter(pl.col("action") == "placed").select("client_order_id", "ts").iter_rows())
    left: dict[tuple[str, str], list[int]] = {}
    for row in fires.with_columns(pl.col("ts").dt.epoch("us")).iter_rows(named=True):
        fire = kl.signals.Fire(*(row[name] for name in kl.signals.Fire.__struct_fields__))
        if placed.pop(order_key(prefix, row["strategy"], fire), None) is None:
            left.setdefault((row["strategy"], row["ticker"]), []).append(row["ts"])
    assert not placed, "an order belongs to no fire"
    expired = ends.filter((pl.col("action") == "expired") & (pl.col("reason") != "session ended"))
    for row in expired.with_columns(pl.col("ts").dt.epoch("us")).sort("ts").iter_rows(named=True):
        # The fires without an order that came first are those that expire first.
        assert left[row["strategy"], row["ticker"]].pop(0) + FRESH_US < row["ts"], row


@settings(max_examples=25)
@given(**WORLDS)
def test_strategies_never_trade_against_each_other(
    seed: int, names: list[str], limits: dict[str, Any], latency_us: int
) -> None:
    report = play(seed, names, limits, latency_us)
    check_sides(report)
    assert report.counts["account_differences"] == report.counts["left_resting"] == 0


@settings(max_examples=25)
@given(**WORLDS)
def test_a_fire_ends_with_an_order_or_its_expiry(
    seed: int, names: list[str], limits: dict[str, Any], latency_us: int
) -> None:
    check_fires(play(seed, names, limits, latency_us))
