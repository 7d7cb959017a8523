"""The figures of a card: correct, bounded, small, and explicit about omitted rows."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import pytest

from kalshilab.edge.report import claims
from kalshilab.edge.report.card import FIGURES
from kalshilab.edge.report.claims import WATERFALL_SCHEMA
from kalshilab.errors import EdgeError
from kalshilab.notebook.research import figures, layout
from kalshilab.notebook.session import plots

START = datetime(2025, 1, 1, tzinfo=UTC)
EMPTY = pl.DataFrame(schema=WATERFALL_SCHEMA)


def made(name: str, n: int) -> pl.DataFrame:
    """Return the frame of a figure with `n` rows and bounds around the edge."""
    r = np.random.default_rng(7)
    edge = r.normal(1, 3, n)
    share = np.sort(r.random(n))
    around = {"edge": edge, "lower": edge - 2, "upper": edge + 2, "n": r.integers(20, 400, n)}
    half = np.arange(n) % 2 == 0
    columns: dict[str, Any] = {
        "waterfall": {"step": [f"step number {k}" for k in range(n)], **around, "note": ["a note"] * n},
        "equity": {
            "ts": [START + timedelta(hours=7 * k) for k in range(n)],
            "event": [f"E{k}" for k in range(n)],
            "pnl": edge,
            "total": edge.cumsum(),
            "null_low": -np.sqrt(np.arange(n)),
            "null_mid": np.zeros(n),
            "null_high": np.sqrt(np.arange(n)),
            "lockbox": np.arange(n) > 0.7 * n,
        },
        "calibration": {
            "price": 100 * share,
            "source": np.where(half, "signal", "baseline"),
            "win": 100 * share,
            "lower": 90 * share,
            "upper": 100 * share,
            "n": around["n"],
            "break_even": 100 * share + 1,
        },
        "buckets": {
            "low": np.round(100 * share),
            "high": np.round(100 * share) + 5,
            **around,
            "baseline_edge": edge / 2,
            "baseline_n": around["n"],
            "excess": edge / 2,
        },
        "heatmap": {
            "min_trades": np.arange(n) % 40,
            "min_drop": np.arange(n) // 40,
            "n": around["n"],
            "edge": edge,
            "p": share,
            "star": half,
        },
        "latency": {"latency_s": np.arange(n) * 60.0, **around, "fill_rate": share},
        "categories": {
            "category": [f"category {k % 12}" for k in range(n)],
            "month": [date(1800 + k // 12, 1 + k % 12, 1) for k in range(n)],
            "edge": edge,
            "n_events": around["n"],
        },
        "concentration": {"removed": share, "edge": edge},
        "live": {
            "day": [date(2026, 1, 1) + timedelta(days=k) for k in range(n)],
            "n": np.arange(n),
            "log_e0": edge.cumsum(),
            "log_e1": -edge.cumsum(),
            "cs_low": edge - 5,
            "cs_high": edge + 5,
        },
        "markouts": {
            "horizon_s": np.arange(n) // 2 * 10.0,
            "group": np.where(half, "filled", "unfilled"),
            "markout": edge,
            **{k: around[k] for k in ("lower", "upper", "n")},
        },
    }
    return pl.DataFrame(columns[name])


def draw(name: str, frame: pl.DataFrame) -> tuple[go.Figure, pl.DataFrame]:
    figure, back = getattr(figures, name)(frame)
    return figure, back


def points(figure: go.Figure) -> int:
    return sum(np.size(trace.z) if trace.type == "heatmap" else len(trace.y) for trace in figure.data)


@pytest.mark.parametrize("name", FIGURES)
class TestEveryFigure:
    """Facts that hold for each figure."""

    @pytest.mark.parametrize("n", [0, 1, 5, 3_000])
    def test_is_bounded_and_returns_its_frame(self, name: str, n: int) -> None:
        frame = made(name, n)
        figure, back = draw(name, frame)
        assert type(figure) is go.Figure and back.equals(frame)
        assert points(figure) <= plots.POINTS
        assert len(figure.to_json()) < 60_000
        title = figure.layout.title.text
        assert (": none" in title) == (n == 0) and ("3,000" in title) == (n == 3_000)
        # The theme of the page shows through.
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"

    def test_states_its_units(self, name: str) -> None:
        drawn = draw(name, made(name, 5))[0].to_json()
        assert any(unit in drawn for unit in ("cents", "percent"))

    def test_names_a_missing_column(self, name: str) -> None:
        for column in ("edge", "win", "total", "markout", "log_e0"):
            frame = made(name, 3)
            if column in frame.columns:
                with pytest.raises(EdgeError, match=f"{name}: column {column} is missing"):
                    draw(name, frame.drop(column))
                return
        raise AssertionError(f"no column of {name} was tried")

    def test_null_and_infinite_values_are_omitted(self, name: str) -> None:
        frame = made(name, 6)
        floats = [
            c for c, t in frame.schema.items() if t == pl.Float64 and c not in ("latency_s", "low", "high")
        ]
        row = pl.int_range(pl.len())
        holes = frame.with_columns(
            pl.when(row == 2).then(None).when(row == 3).then(math.inf).otherwise(pl.col(floats)).name.keep()
        )
        figure, _ = draw(name, holes)
        assert "Infinity" not in figure.to_json()


# Waterfall


def test_the_waterfall_of_the_published_system_is_drawn_from_its_claims() -> None:
    figure, frame = figures.waterfall(claims.load().waterfall("rlm_no"))
    lost, left = figure.data
    assert np.allclose(left.x, [17.38, 3.02, 1.97, 0.43, -1.15])
    # The loss of each step, from the edge of the step before.
    assert np.allclose(lost.x, [14.36, 1.05, 1.54, 1.58]) and np.allclose(lost.base, left.x[1:])
    assert list(left.marker.color) == [plots.GREY, *[plots.BLUE] * 3, plots.RED]
    texts = [a.text for a in figure.layout.annotations]
    assert texts[0] == "<b>+17.38 c</b>" and texts[2] == "<b>+1.97 c</b> [+0.25, +3.96]"
    assert "n = 1,986" in figure.layout.yaxis.ticktext[0] and frame.height == 5
    assert left.error_x.array[2] == pytest.approx(1.99) and np.isnan(left.error_x.array[0])
    # The claim is on top.
    assert figure.layout.yaxis.range == (4.6, -0.6)


def test_a_step_that_was_not_measured_has_no_bar() -> None:
    figure, _ = figures.waterfall(claims.load().waterfall("whale_fade"))
    lost, left = figure.data
    assert np.isnan(left.x[1]) and len(lost.x) == 0
    assert figure.layout.annotations[1].text == "not measured"


def test_a_loss_is_measured_from_the_last_measured_step() -> None:
    rows = [("a", 5.0), ("b", None), ("c", 2.0), ("d", 4.0)]
    frame = EMPTY.clear().vstack(
        pl.DataFrame([(s, e, None, None, None, None) for s, e in rows], WATERFALL_SCHEMA, orient="row")
    )
    lost, _ = figures.waterfall(frame)[0].data
    assert list(lost.y) == [2] and list(lost.x) == [3.0]


# The others


def test_equity_draws_the_null_range_the_lockbox_and_the_days() -> None:
    frame = made("equity", 100)
    figure, _ = figures.equity(frame)
    low, high, mid, total = figure.data
    assert high.fill == "tonexty" and np.allclose(low.y, frame["null_low"].to_numpy(), atol=1e-5)
    assert mid.name == "no edge, median" and total.y[-1] == pytest.approx(frame["total"][-1], rel=1e-6)
    lockbox = figure.layout.shapes[-1]
    assert lockbox.x0 == frame.filter("lockbox")["ts"][0].timestamp() * 1000
    assert lockbox.x1 == frame["ts"][-1].timestamp() * 1000
    assert figure.layout.annotations[0].text == "lockbox"
    assert "bands are days" in figure.layout.xaxis.title.text
    open_figure, _ = figures.equity(frame.with_columns(lockbox=pl.lit(False)))
    assert (
        len(open_figure.layout.shapes) == len(figure.layout.shapes) - 1 and not open_figure.layout.annotations
    )


def test_calibration_draws_percent_and_break_even_of_the_signal() -> None:
    rows = [(70.0, "signal", 80.0, 70.0, 90.0, 50, 71.5), (70.0, "baseline", 69.0, 60.0, 75.0, 900, 71.5)]
    names = ["price", "source", "win", "lower", "upper", "n", "break_even"]
    figure, _ = figures.calibration(pl.DataFrame(rows, names, orient="row"))
    fair, even, baseline, signal = figure.data
    assert list(fair.x) == list(fair.y) == [0, 100] and even.y[0] == pytest.approx(71.5)
    assert (baseline.y[0], signal.y[0]) == (pytest.approx(69), pytest.approx(80))
    assert signal.error_y.array[0] == pytest.approx(10, rel=1e-5)
    assert baseline.error_y.arrayminus[0] == pytest.approx(9, rel=1e-5)


def test_buckets_are_labelled_in_cents_and_counted_below() -> None:
    frame = made("buckets", 3).with_columns(low=pl.Series([70, 5, 90]), high=pl.Series([75, 10, 95]))
    figure, _ = figures.buckets(frame)
    bars, alone, counts = figure.data
    assert list(bars.x) == ["5–10", "70–75", "90–95"] and counts.yaxis == "y2"
    assert alone.name == "price alone" and list(counts.y) == frame.sort("low")["n"].to_list()


def test_latency_is_ordered_by_time_and_shows_the_fill_rate() -> None:
    rows = [
        (60.0, 2.0, 1.0, 3.0, 80, 0.8),
        (0.0, 3.0, 2.0, 4.0, 100, 1.0),
        (86_400.0, -1.0, -2.0, 0.0, 40, 0.4),
    ]
    names = ["latency_s", "edge", "lower", "upper", "n", "fill_rate"]
    figure, _ = figures.latency(pl.DataFrame(rows, names, orient="row"))
    line, fills = figure.data
    assert list(line.x) == ["0 s", "1 min", "1 day"] and list(line.y) == [3.0, 2.0, -1.0]
    assert np.allclose(fills.y, [100, 80, 40])


def test_categories_are_coloured_around_zero_and_sized_by_events() -> None:
    rows = [("Sports", "2025-12", 4.0, 400), ("Crypto", "2025-12", -2.0, 4), ("Crypto", "2026-01", None, 0)]
    frame = pl.DataFrame(rows, ["category", "month", "edge", "n_events"], orient="row")
    figure, _ = figures.categories(frame)
    [dots] = figure.data
    assert dots.marker.cmin == -dots.marker.cmax == -4.0
    size = dict(zip(zip(dots.y, dots.x, strict=True), dots.marker.size, strict=True))
    assert size["Sports", "2025-12"] == pytest.approx(28) and size["Crypto", "2026-01"] == pytest.approx(6)
    dated = frame.with_columns(month=pl.Series([date(2025, 12, 1), date(2025, 12, 1), date(2026, 1, 1)]))
    assert list(figures.categories(dated)[0].data[0].x) == list(dots.x)


def test_live_marks_twenty_and_the_validated_band() -> None:
    figure, _ = figures.live(made("live", 40), (1.0, 4.0))
    line, box = figure.layout.shapes
    assert line.y0 == line.y1 == pytest.approx(math.log(20)) and (box.y0, box.y1) == (1.0, 4.0)
    axis = figure.layout.yaxis
    assert axis.ticktext[axis.tickvals.index(math.log(20))] == "20"
    assert [t.name for t in figure.data if t.name] == [
        "E0: for an edge",
        "E1: against the claim",
        "confidence sequence",
    ]
    assert len(figures.live(made("live", 40))[0].layout.shapes) == 1


def test_markouts_end_at_settlement() -> None:
    rows = [(h, g, 1.0, 0.0, 2.0, 9) for h in (None, 10.0, 3600.0) for g in ("unfilled", "filled")]
    frame = pl.DataFrame(rows, ["horizon_s", "group", "markout", "lower", "upper", "n"], orient="row")
    figure, _ = figures.markouts(frame)
    assert figure.layout.xaxis.categoryarray == ("10 s", "1 h", "settlement")
    assert [t.name for t in figure.data] == ["filled", "unfilled"]
    endless = frame.with_columns(pl.col("horizon_s").fill_null(math.inf))
    assert figures.markouts(endless)[0].to_json() == figure.to_json()


def test_an_impossible_bound_does_not_flatten_the_figure() -> None:
    frame = made("buckets", 4).with_columns(lower=pl.lit(-14_000.0), upper=pl.lit(math.inf))
    bars = figures.buckets(frame)[0].data[0]
    assert np.allclose(bars.y - bars.error_y.arrayminus, -layout.MAX_CENTS)
    assert np.allclose(bars.y + bars.error_y.array, layout.MAX_CENTS)


# Layout


@pytest.mark.parametrize(
    ("days", "unit"), [(0, "days"), (30, "days"), (200, "weeks"), (900, "months"), (40_000, "years")]
)
def test_bands_are_few_and_within_the_span(days: int, unit: str) -> None:
    ts = pl.Series([START, START + timedelta(days=days)])
    name, bands = layout.spans(ts)
    assert name == unit and len(bands) <= 31
    assert all(START <= a < b <= START + timedelta(days=days) for a, b in bands)


def test_every_second_day_is_shaded() -> None:
    _, bands = layout.spans(pl.Series([START, START + timedelta(days=3, hours=12)]))
    day = timedelta(days=1)
    assert bands == [(START + day, START + 2 * day), (START + 3 * day, START + 3.5 * day)]
    assert layout.spans(pl.Series([], dtype=pl.Datetime("us", "UTC"))) == ("", [])


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-40.0, 60.0), (-1e4, 1e4), (-0.1, 3.0)])
def test_the_ticks_of_e_values_are_few_and_include_one_and_twenty(low: float, high: float) -> None:
    marks = layout.powers(low, high)
    at = [place for place, _ in marks]
    assert {"1", "20"} <= {label for _, label in marks} and at == sorted(at) and len(marks) <= 10
    assert all(label != "1" or place == 0.0 for place, label in marks)
    # Beside 1 and 20, no two labels are closer than a fifteenth of the axis.
    others = [place for place, label in marks if label != "20"]
    assert all(b - a > (high - low) / 15 for a, b in pairwise(others))


def test_lines_are_wrapped_at_words() -> None:
    assert layout.wrapped("as of the firing print, against like prices", 24).count("<br>") == 1
    assert layout.wrapped("") == "" and layout.wrapped("x" * 90) == "x" * 90


def test_figures_are_plain_json() -> None:
    for name in FIGURES:
        json.loads(draw(name, made(name, 5))[0].to_json())
