"""The ten figures of a report card: each function takes a frame and returns `(figure, frame)`.

`kalshilab.edge` computes the frames; this module computes only positions on the page, so every drawn value can be
read from the returned frame.  Edges, their bounds and prices are in cents a contract, and win rates in percent; shares
are fractions and are drawn in percent.  Error bars and bands are 95 % intervals; a null is a gap, never a zero.  Style
and limits are those of `kalshilab.notebook.session.plots`: at most 2,000 points and 60 kB a figure, with a title that
states how many rows are drawn when some are omitted.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias

import numpy as np
import plotly.graph_objects as go
import polars as pl

from kalshilab.notebook.research.heatmap import DIVERGING, heatmap
from kalshilab.notebook.research.layout import (
    LEGEND,
    band,
    below,
    bound,
    colour_of,
    duration,
    measured,
    need,
    powers,
    spans,
    two_panels,
    values,
    whiskers,
    wrapped,
)
from kalshilab.notebook.session.plots import BLUE, GREY, POINTS, RED, blank, counted, milliseconds, thin

__all__ = [
    "buckets",
    "calibration",
    "categories",
    "concentration",
    "equity",
    "heatmap",
    "latency",
    "live",
    "markouts",
    "waterfall",
]

Drawn: TypeAlias = tuple[go.Figure, pl.DataFrame]

SHADE: Final = "rgba(128,128,128,.10)"
FAN: Final = "rgba(128,128,128,.22)"
LOST: Final = "rgba(200,69,59,.16)"
STEPS: Final = 40
ROWS: Final = 400
"""Maximum number of rows drawn with error bars."""

EVIDENCE: Final = math.log(20)
"""Natural logarithm of the e-value that rejects at 5 % (Ville 1939): e = 20."""


def waterfall(frame: pl.DataFrame) -> Drawn:
    """Draw the steps from a claim to the edge that remains, one bar per step; a pale bar is the loss of a step.

    Args:
        frame: `step, edge, lower, upper, n, note`, the claim first; a null edge is a step that was not measured.

    Returns:
        The figure, whose notes appear on hover, and the frame unchanged.

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "waterfall", "step", "edge", "lower", "upper", "n", "note")
    shown = frame.head(STEPS)
    labels = [
        f"{wrapped(step)}<br><i>n = {n:,}</i>" if n is not None else wrapped(step)
        for step, n in shown.select("step", "n").iter_rows()
    ]
    places = list(range(shown.height))
    edge = values(shown, "edge")
    figure = blank(counted("From the claim to what is left", shown.height, frame.height, "steps"), "")
    notes = [wrapped(note or "", 60) for note in shown["note"]]
    before = shown["edge"].forward_fill().shift(1)
    pairs = zip(places, shown["edge"], before, strict=True)
    lost = [(p, e, b) for p, e, b in pairs if e is not None and b is not None and e < b]
    figure.add_bar(
        y=[p for p, _, _ in lost],
        x=[b - e for _, e, b in lost],
        base=[e for _, e, _ in lost],
        orientation="h",
        marker={"color": LOST},
        hoverinfo="skip",
    )
    steps = zip(shown["step"], edge, shown["note"], strict=True)
    colours = [colour_of(step, e, note or "") for step, e, note in steps]
    figure.add_bar(
        y=places,
        x=edge,
        orientation="h",
        marker={"color": colours},
        error_x=whiskers(shown, "edge"),
        customdata=notes,
        hovertemplate="%{x:+.2f} c<br>%{customdata}<extra></extra>",
    )
    for place, row in zip(places, shown.iter_rows(named=True), strict=True):
        figure.add_annotation(
            text=measured(row), xref="paper", x=1.02, y=place, xanchor="left", showarrow=False, align="left"
        )
    figure.update_layout(
        height=110 + 46 * max(1, shown.height),
        barmode="overlay",
        showlegend=False,
        # Space for an estimate and an interval of three digits each.
        margin={"r": 200},
        xaxis={"title": {"text": "edge, cents a contract"}, "zeroline": True, "zerolinecolor": GREY},
        yaxis={
            "tickvals": places,
            "ticktext": labels,
            "range": [shown.height - 0.4, -0.6],
            "automargin": True,
            "showgrid": False,
        },
    )
    return figure, frame


def equity(frame: pl.DataFrame) -> Drawn:
    """Draw the cumulative profit by event over the 5 to 95 % range of worlds without an edge, the lockbox shaded.

    Args:
        frame: `ts, event, pnl, total, null_low, null_mid, null_high, lockbox` (`kalshilab.edge.report.equity`), in order
            of time; `pnl` and `total` are in cents, with one contract an event.

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "equity", "ts", "event", "pnl", "total", "null_low", "null_mid", "null_high", "lockbox")
    rows = thin(frame.height, POINTS // 4, frame["total"].to_numpy())
    shown = frame[rows]
    x = milliseconds(shown["ts"])
    title = counted("Profit by event", shown.height, frame.height, "events")
    figure = blank(title, "cents, one contract an event", dates=True)
    unit, shaded = spans(frame["ts"])
    for left, right in shaded:
        figure.add_shape(**band(left, right, SHADE))
    if unit:
        figure.update_layout(xaxis={"title": {"text": f"settled, UTC; bands are {unit}"}})
    inside = frame.filter("lockbox")["ts"].to_list()
    if inside:
        start, stop = min(inside), max(inside)
        figure.add_shape(**band(start, stop, "rgba(42,111,187,.14)"))
        figure.add_annotation(
            text="lockbox", x=start, yref="paper", y=1, xanchor="left", yanchor="top", showarrow=False
        )
    fan = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    figure.add_scatter(x=x, y=values(shown, "null_low"), showlegend=False, **fan)
    figure.add_scatter(
        x=x, y=values(shown, "null_high"), fill="tonexty", fillcolor=FAN, name="no edge, 5–95 %", **fan
    )
    dashed = {"color": GREY, "width": 1.2, "dash": "dot"}
    figure.add_scatter(
        x=x, y=values(shown, "null_mid"), mode="lines", line=dashed, name="no edge, median", hoverinfo="skip"
    )
    solid = {"color": BLUE, "width": 1.8, "shape": "hv"}
    figure.add_scatter(
        x=x,
        y=values(shown, "total"),
        mode="lines",
        line=solid,
        name="entries",
        hovertemplate="%{y:+,.0f} c<extra></extra>",
    )
    figure.update_layout(legend=LEGEND, showlegend=True, margin={"b": 50})
    return figure, frame


def calibration(frame: pl.DataFrame) -> Drawn:
    """Draw the win rate of contracts by price: fills of the signal beside those of the baseline.

    A price on the dotted diagonal is fair; the dashed line is the win rate that breaks even after fees.

    Args:
        frame: `price, source, win, lower, upper, n, break_even` (`kalshilab.edge.robustness.price_matching`), price and
            break-even in cents, win rates in percent; `source` is "signal" or "baseline".

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "calibration", "price", "source", "win", "lower", "upper", "n", "break_even")
    shown = frame[thin(frame.height, ROWS)]
    figure = blank(counted("Calibration", shown.height, frame.height, "buckets"), "won, percent")
    dotted = {"color": GREY, "width": 1, "dash": "dot"}
    figure.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line=dotted, name="fair", hoverinfo="skip")
    even = shown.filter(pl.col("source") == "signal").sort("price")
    figure.add_scatter(
        x=values(even, "price"),
        y=values(even, "break_even"),
        mode="lines",
        line={"color": RED, "width": 1.2, "dash": "dash"},
        name="break-even with fee",
        hoverinfo="skip",
    )
    for source, colour, symbol in (("baseline", GREY, "circle-open"), ("signal", BLUE, "circle")):
        part = shown.filter(pl.col("source") == source).sort("price")
        figure.add_scatter(
            x=values(part, "price"),
            y=values(part, "win"),
            mode="markers",
            marker={"color": colour, "size": 8, "symbol": symbol},
            error_y=whiskers(part, "win", colour),
            customdata=part["n"].to_numpy(),
            name=source,
            hovertemplate="%{x:.1f} c: %{y:.1f} %, n = %{customdata:,}<extra></extra>",
        )
    figure.update_layout(
        legend=LEGEND,
        showlegend=True,
        height=380,
        xaxis={"title": {"text": "price paid, cents"}, "range": [0, 100]},
        yaxis={"range": [0, 100]},
    )
    return figure, frame


def buckets(frame: pl.DataFrame) -> Drawn:
    """Draw the edge by price, beside the edge of the price alone, above the number of entries.

    Args:
        frame: `low, high, n, edge, lower, upper, baseline_edge, baseline_n, excess`; `low` and `high` in cents.

    Raises:
        EdgeError: if a column is missing.
    """
    need(
        frame,
        "buckets",
        "low",
        "high",
        "n",
        "edge",
        "lower",
        "upper",
        "baseline_edge",
        "baseline_n",
        "excess",
    )
    shown = frame.sort("low")[thin(frame.height, ROWS)]
    labels = [f"{a:g}–{b:g}" for a, b in shown.select("low", "high").iter_rows()]
    title = counted("Edge by price", shown.height, frame.height, "buckets")
    figure = two_panels(title, "cents a contract", "entries", "price paid, cents")
    figure.add_bar(
        x=labels,
        y=values(shown, "edge"),
        marker={"color": BLUE},
        error_y=whiskers(shown, "edge"),
        customdata=np.stack([values(shown, "n"), values(shown, "excess")], axis=-1),
        name="signal",
        hovertemplate="%{x} c: %{y:+.2f} c, n = %{customdata[0]:,.0f}, excess %{customdata[1]:+.2f} c<extra></extra>",
    )
    figure.add_scatter(
        x=labels,
        y=values(shown, "baseline_edge"),
        mode="markers",
        marker={"color": GREY, "symbol": "diamond", "size": 8},
        customdata=values(shown, "baseline_n"),
        name="price alone",
        hovertemplate="price alone: %{y:+.2f} c, n = %{customdata:,.0f}<extra></extra>",
    )
    below(figure, labels, values(shown, "n"), "%{x} c: %{y:,.0f}<extra></extra>")
    figure.update_layout(showlegend=True)
    return figure, frame


def latency(frame: pl.DataFrame) -> Drawn:
    """Draw the edge by order latency, above the share of fires that are still filled.

    Args:
        frame: `latency_s, edge, lower, upper, n, fill_rate`; the latency is the time from fire to order in seconds, the
            fill rate a fraction.

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "latency", "latency_s", "edge", "lower", "upper", "n", "fill_rate")
    shown = frame.sort("latency_s")[thin(frame.height, ROWS)]
    labels = [duration(s) for s in shown["latency_s"]]
    title = counted("Edge by latency", shown.height, frame.height, "latencies")
    figure = two_panels(title, "cents a contract", "filled, percent", "from the fire to the order")
    figure.add_scatter(
        x=labels,
        y=values(shown, "edge"),
        mode="lines+markers",
        line={"color": BLUE, "width": 1.5},
        marker={"color": BLUE, "size": 8},
        error_y=whiskers(shown, "edge"),
        customdata=values(shown, "n"),
        hovertemplate="%{x}: %{y:+.2f} c, n = %{customdata:,.0f}<extra></extra>",
    )
    below(figure, labels, values(shown, "fill_rate", 100), "%{x}: %{y:.0f} %<extra></extra>")
    figure.update_layout(showlegend=False)
    return figure, frame


def categories(frame: pl.DataFrame) -> Drawn:
    """Draw the edge by category and month: the colour is the edge, the size the number of events.

    Args:
        frame: `category, month, edge, n_events`; months are dates or text like "2025-12".

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "categories", "category", "month", "edge", "n_events")
    shown = frame.sort("month", "category")[thin(frame.height, ROWS)]
    months = shown["month"]
    text = months.dt.strftime("%Y-%m") if months.dtype.is_temporal() else months.cast(pl.String)
    edge, events = values(shown, "edge"), values(shown, "n_events")
    # The largest dot does not cover its neighbours, and the smallest is still visible.
    size = 6 + 22 * np.sqrt(events / max(1.0, float(np.nanmax(events, initial=1.0))))
    limit = max(1.0, float(np.nanmax(np.abs(edge), initial=1.0)))
    figure = blank(counted("Edge by category and month", shown.height, frame.height, "cells"), "")
    figure.add_scatter(
        x=text.to_list(),
        y=shown["category"].to_list(),
        mode="markers",
        marker={
            "size": size,
            "color": edge,
            "colorscale": DIVERGING,
            "cmin": -limit,
            "cmax": limit,
            "colorbar": {"title": {"text": "cents"}, "thickness": 12},
            "line": {"color": GREY, "width": 1},
        },
        customdata=np.stack([edge, events], axis=-1),
        hovertemplate="%{y}, %{x}: %{customdata[0]:+.2f} c, %{customdata[1]:,.0f} events<extra></extra>",
    )
    height = 110 + 44 * max(1, shown["category"].n_unique())
    x = {"type": "category", "title": {"text": "month; size is events"}}
    figure.update_layout(height=height, showlegend=False, margin={"b": 50}, xaxis=x)
    figure.update_yaxes(type="category", automargin=True, title=None)
    return figure, frame


def concentration(frame: pl.DataFrame) -> Drawn:
    """Draw the edge that remains without the best events, by the share of events removed.

    Args:
        frame: `removed, edge`: a fraction of the events, and cents.

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "concentration", "removed", "edge")
    ordered = frame.sort("removed")
    rows = thin(frame.height, POINTS // 2)
    shown = ordered[rows]
    title = counted("Edge without the best events", shown.height, frame.height)
    figure = blank(title, "cents a contract")
    figure.add_scatter(
        x=values(shown, "removed", 100),
        y=values(shown, "edge"),
        mode="lines+markers" if shown.height <= STEPS else "lines",
        line={"color": BLUE, "width": 1.8},
        hovertemplate="without %{x:.1f} %: %{y:+.2f} c<extra></extra>",
    )
    figure.update_yaxes(zeroline=True, zerolinecolor=RED)
    x = {"title": {"text": "best events removed, percent"}}
    figure.update_layout(showlegend=False, margin={"b": 50}, xaxis=x)
    return figure, frame


def live(frame: pl.DataFrame, validated: tuple[float, float] | None = None) -> Drawn:
    """Draw the evidence of paper trades for an edge (E0) and against the claim (E1), with the confidence sequence.

    Args:
        frame: `day, n, log_e0, log_e1, cs_low, cs_high` (`kalshilab.edge.live.monitor`): natural logarithms, and cents.
        validated: interval of the validated edge in cents, drawn as a band.

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "live", "day", "n", "log_e0", "log_e1", "cs_low", "cs_high")
    rows = thin(frame.height, POINTS // 5)
    shown = frame[rows]
    x = milliseconds(shown["day"].cast(pl.Datetime("us")))
    title = counted("Live evidence", shown.height, frame.height, "days")
    figure = two_panels(title, "e-value", "cents a contract", "", split=0.46)
    figure.update_layout(height=440, xaxis={"type": "date"}, showlegend=True)
    logs = [values(shown, "log_e0"), values(shown, "log_e1")]
    for y, name, colour in zip(logs, ("E0: for an edge", "E1: against the claim"), (BLUE, RED), strict=True):
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            line={"color": colour, "width": 1.6},
            name=name,
            customdata=y / np.float32(math.log(10)),
            hovertemplate="10^%{customdata:.2f}<extra></extra>",
        )
    dashed = {"color": GREY, "dash": "dash", "width": 1}
    figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=EVIDENCE, y1=EVIDENCE, line=dashed)
    reach = np.concatenate([*logs, [0.0, EVIDENCE]])
    ticks = powers(float(np.nanmin(reach)), float(np.nanmax(reach)))
    figure.update_layout(
        yaxis={"tickvals": [at for at, _ in ticks], "ticktext": [label for _, label in ticks]}
    )
    line = {"mode": "lines", "line": {"color": GREY, "width": 1}, "yaxis": "y2"}
    figure.add_scatter(x=x, y=bound(shown, "cs_low"), showlegend=False, hoverinfo="skip", **line)
    figure.add_scatter(
        x=x,
        y=bound(shown, "cs_high"),
        fill="tonexty",
        fillcolor=FAN,
        name="confidence sequence",
        customdata=np.stack([bound(shown, "cs_low"), values(shown, "n")], axis=-1),
        hovertemplate="[%{customdata[0]:+.1f}, %{y:+.1f}] c, n = %{customdata[1]:,.0f}<extra></extra>",
        **line,
    )
    if validated is not None:
        low, high = validated
        shape = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "yref": "y2", "y0": low, "y1": high}
        figure.add_shape(**shape, fillcolor="rgba(42,111,187,.18)", line={"width": 0}, layer="below")
        figure.add_annotation(
            text="validated",
            xref="paper",
            x=0,
            yref="y2",
            y=high,
            xanchor="left",
            yanchor="bottom",
            showarrow=False,
        )
    return figure, frame


def markouts(frame: pl.DataFrame) -> Drawn:
    """Draw the move of the mid after filled and unfilled quotes, which measures adverse selection.

    Args:
        frame: `horizon_s, group, markout, lower, upper, n`: seconds after the quote (null or infinite is the
            settlement), "filled" or "unfilled", and cents in favour of the quote.

    Raises:
        EdgeError: if a column is missing.
    """
    need(frame, "markouts", "horizon_s", "group", "markout", "lower", "upper", "n")
    by = pl.col("horizon_s").cast(pl.Float64).fill_null(math.inf)
    shown = frame.sort(by, "group", maintain_order=True)[thin(frame.height, ROWS)]
    figure = blank(counted("Markouts of maker quotes", shown.height, frame.height), "cents a contract")
    groups = [g for g in ("filled", "unfilled") if g in set(shown["group"])]
    groups += sorted(set(shown["group"].cast(pl.String)) - set(groups))
    colours = {"filled": BLUE, "unfilled": GREY}
    for group in groups:
        part = shown.filter(pl.col("group") == group)
        figure.add_scatter(
            x=[duration(s) for s in part["horizon_s"]],
            y=values(part, "markout"),
            mode="lines+markers",
            line={"color": colours.get(group, RED), "width": 1.5},
            marker={"size": 8},
            error_y=whiskers(part, "markout"),
            customdata=values(part, "n"),
            name=group,
            hovertemplate="%{x}: %{y:+.2f} c, n = %{customdata:,.0f}<extra></extra>",
        )
    figure.update_yaxes(zeroline=True, zerolinecolor=GREY)
    order = list(dict.fromkeys(duration(s) for s in shown["horizon_s"]))
    x = {"type": "category", "categoryarray": order, "title": {"text": "after the quote"}}
    figure.update_layout(legend=LEGEND, showlegend=True, margin={"b": 50}, xaxis=x)
    return figure, frame
