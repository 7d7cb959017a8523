"""Figures of a session: correct, bounded, small, and explicit about omitted rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import plotly.graph_objects as go
import polars as pl
import pytest

import kalshilab as kl
from kalshilab.errors import TapeError
from kalshilab.notebook.session import plots
from kalshilab.trade.session.report import Report

MakeReport = Callable[..., Report]


def points(figure: go.Figure) -> int:
    return sum(len(trace.x) for trace in figure.data)


def weight(figure: go.Figure) -> int:
    return len(json.dumps(figure.to_plotly_json(), default=str))


@pytest.mark.parametrize("make", [plots.equity, plots.fires, plots.decisions, plots.pnl_by_market])
@pytest.mark.parametrize("size", [0, 1, 30_000])
def test_figures_are_bounded_in_points_and_bytes(make: Any, size: int, make_report: MakeReport) -> None:
    report = make_report(n=min(size, 3_000), samples=size, tickers=500)
    figure, frame = make(report)
    assert type(figure) is go.Figure and isinstance(frame, pl.DataFrame)
    assert points(figure) <= plots.POINTS
    assert weight(figure) < 60_000


def test_equity_includes_its_extremes_and_its_ends(make_report: MakeReport) -> None:
    report = make_report(samples=30_000)
    figure, frame = plots.equity(report)
    line = figure.data[1]
    assert frame.equals(report.equity)
    assert line.y[0] == pytest.approx(frame["equity"][0], rel=1e-6)
    assert line.y[-1] == pytest.approx(frame["equity"][-1], rel=1e-6)
    assert min(line.y) == pytest.approx(frame["equity"].min(), rel=1e-6)
    assert max(line.y) == pytest.approx(frame["equity"].max(), rel=1e-6)
    assert "of 30,000 samples drawn" in figure.layout.title.text
    assert line.x[0] == frame["ts"].dt.epoch("ms")[0]


def test_a_title_has_no_count_when_every_row_is_drawn(make_report: MakeReport) -> None:
    figure, _ = plots.equity(make_report())
    assert figure.layout.title.text == "Equity"


def test_a_title_states_that_there_are_no_rows(make_report: MakeReport) -> None:
    figure, _ = plots.fires(make_report(n=0))
    assert figure.layout.title.text == "Signals: none"


def test_fires_are_joined_with_the_last_decision_about_each(make_report: MakeReport) -> None:
    report = make_report(n=6)
    figure, frame = plots.fires(report)
    assert frame["action"].to_list() == ["placed", "deferred", None, "placed", "deferred", None]
    assert {t.name: len(t.x) for t in figure.data} == {"deferred (2)": 2, "none (2)": 2, "placed (2)": 2}
    assert frame.columns == [*report.signals.columns, "action", "reason"]
    placed = next(trace for trace in figure.data if trace.name == "placed (2)")
    assert list(placed.y) == list(plots._cents(frame["price"][[0, 3]]))


def test_prices_on_an_axis_are_cents_from_price_units_and_from_cents() -> None:
    assert plots._cents(pl.Series([4_350], dtype=pl.Int16)).tolist() == [43.5]
    assert plots._cents(pl.Series([43.5])).tolist() == [43.5]


def test_decisions_are_counted_by_action_and_reason(make_report: MakeReport) -> None:
    report = make_report(n=6)
    _, frame = plots.decisions(report)
    assert frame.to_dicts() == [
        {"action": "deferred", "reason": "rate limit", "n": 4},
        {"action": "placed", "reason": "", "n": 2},
    ]
    assert frame["n"].sum() == report.decisions.height


def test_profit_by_market_adds_settled_and_open_positions(make_report: MakeReport) -> None:
    figure, frame = plots.pnl_by_market(make_report())
    assert frame["ticker"].to_list() == ["KXZ-0", "KXA-1", "KXB-2", "KXZ-1"]
    assert frame["total"].to_list() == [20.0, 5.0, -2.0, -12.0]
    assert frame["total"].to_list() == (frame["settled"] + frame["open"]).to_list()
    # The last bar is drawn on top and is the best market.
    assert figure.data[0].y[-1] == "KXZ-0"


def test_the_price_path_shows_one_market_and_its_fires() -> None:
    tape, _ = kl.sample()
    fires = kl.signals.rlm(tape)
    ticker = fires["ticker"][0]
    figure, frame = plots.price_path(tape, ticker, fires)
    own = fires.filter(pl.col("ticker") == ticker)
    assert frame.height == tape.filter(pl.col("ticker").cast(pl.String) == ticker).height
    assert len(figure.data[1].x) == own.height
    assert figure.data[1].y[0] == pytest.approx(own["price"][0] / 100)
    assert weight(figure) < 60_000


def test_the_price_path_of_an_unknown_market_is_an_error() -> None:
    tape, _ = kl.sample()
    with pytest.raises(TapeError, match="ticker must be a market of this tape, got 'KXNONE'"):
        plots.price_path(tape, "KXNONE")


def test_each_action_has_a_colour() -> None:
    from typing import get_args

    from kalshilab.trade.events import Action

    assert set(get_args(Action)) < set(plots.COLOURS)
