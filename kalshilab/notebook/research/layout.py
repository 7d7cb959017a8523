"""Shared parts of a report card's figures: error bars, stacked panels, bands and labels.

Arrays of drawn values are float32: seven digits are more than a figure shows, in half the bytes.  Null and infinite
values become NaN, which a figure omits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, TypeGuard

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.notebook.session.plots import BLUE, GREY, RED, blank, milliseconds

__all__ = [
    "LEGEND",
    "band",
    "below",
    "bound",
    "colour_of",
    "duration",
    "measured",
    "need",
    "powers",
    "spans",
    "two_panels",
    "values",
    "whiskers",
    "wrapped",
]

LEGEND: Final = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.01, "yanchor": "bottom"}
"""A legend above the figure, clear of the axis labels."""

SPANS: Final = (("1d", "days"), ("1w", "weeks"), ("1mo", "months"), ("1y", "years"))
MAX_BANDS: Final = 60
"""Maximum number of periods of a time axis, of which every second one is shaded."""

MAX_CENTS: Final = 102.0
"""The most that a contract can earn or cost, in cents, fee included."""

UNITS: Final = ((86_400, "day", "days"), (3_600, "h", "h"), (60, "min", "min"), (1, "s", "s"))


def need(frame: pl.DataFrame, figure: str, *columns: str) -> None:
    """Check that a frame has the columns that a figure draws.

    Raises:
        EdgeError: if a column is missing.
    """
    for column in columns:
        if column not in frame.columns:
            raise EdgeError(
                f"{figure}: column {column} is missing; frame must have {', '.join(columns)}, got "
                f"{', '.join(frame.columns) or 'no column'}"
            )


def values(frame: pl.DataFrame, column: str, scale: float = 1.0) -> npt.NDArray[np.float32]:
    """Return a column times a scale, with NaN for null and infinite values."""
    scaled = frame[column].cast(pl.Float64).to_numpy() * scale
    return np.where(np.isfinite(scaled), scaled, np.nan).astype(np.float32)


def bound(frame: pl.DataFrame, column: str) -> npt.NDArray[np.float32]:
    """Return a bound of an interval in cents or percent, clipped to the most that a contract can earn or lose.

    An interval from three entries may reach minus a thousand dollars, and would flatten everything around it.
    """
    clipped = np.clip(frame[column].cast(pl.Float64).to_numpy(), -MAX_CENTS, MAX_CENTS)
    return np.asarray(clipped, np.float32)


def whiskers(frame: pl.DataFrame, column: str, colour: str = GREY) -> dict[str, object]:
    """Return error bars from `lower` to `upper` around a column; a row without a bound has no bar."""
    middle, low, high = values(frame, column), bound(frame, "lower"), bound(frame, "upper")
    return {
        "type": "data",
        "symmetric": False,
        "array": np.maximum(high - middle, 0),
        "arrayminus": np.maximum(middle - low, 0),
        "color": colour,
        "thickness": 1.4,
        "width": 4,
    }


def measured(row: Mapping[str, float | None]) -> str:
    """Format an estimate and its interval as a label.

    >>> measured({"edge": 1.97, "lower": 0.25, "upper": 3.96}), measured({"edge": None, "lower": None, "upper": None})
    ('<b>+1.97 c</b> [+0.25, +3.96]', 'not measured')
    """
    edge, lower, upper = row["edge"], row["lower"], row["upper"]
    if not _number(edge):
        return "not measured"
    text = f"<b>{edge:+.2f} c</b>"
    return f"{text} [{lower:+.2f}, {upper:+.2f}]" if _number(lower) and _number(upper) else text


def colour_of(step: str, edge: float, note: str) -> str:
    """Return the colour of a step in a waterfall.

    Claims and steps that look ahead do not measure an edge and are grey.  A step whose look-ahead bias exceeds three
    standard errors is red, like a negative edge; any other is blue.

    >>> colour_of("whole life", 16.8, "looks ahead: filter and entry over the whole life") == GREY
    True
    >>> colour_of("whole life", 16.8, "looks ahead by +16.7 c: filter and entry over the whole life") == RED
    True
    >>> colour_of("after fees", -7.8, "of those that were bought") == RED
    True
    """
    if note.startswith("looks ahead by"):
        return RED
    if step.startswith("claimed") or note.startswith("looks ahead"):
        return GREY
    return RED if edge < 0 else BLUE


def wrapped(text: str, width: int = 24) -> str:
    """Break a text into lines of about `width` characters, separated by `<br>`."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


def duration(seconds: float | None) -> str:
    """Format a time after a fire or a fill; None and infinity stand for the settlement.

    >>> [duration(s) for s in (0, 2, 90, 1800, 86_400, 172_800, None)]
    ['0 s', '2 s', '90 s', '30 min', '1 day', '2 days', 'settlement']
    """
    if seconds is None or not math.isfinite(seconds):
        return "settlement"
    for size, one, many in UNITS:
        if seconds >= size and not seconds % size:
            count = int(seconds // size)
            return f"{count:,} {one if count == 1 else many}"
    return f"{seconds:g} s"


def powers(low: float, high: float) -> list[tuple[float, str]]:
    """Return the ticks of an axis of e-values: 1, 20, and powers of ten.

    Args:
        low: natural logarithm of the smallest e-value.
        high: natural logarithm of the largest e-value.

    Returns:
        The position of each tick (its natural logarithm, since an e-value may overflow) and its label.

    >>> [label for _, label in powers(-3.0, 5.0)], powers(-2e4, 2e4)[0][1]
    (['0.1', '1', '10', '20', '100'], '10<sup>-8685</sup>')
    """
    first, last = math.ceil(low / math.log(10)), math.floor(high / math.log(10))
    step = max(1, math.ceil((last - first) / 6))
    # A power of ten whose label would overlap that of 20 is omitted.
    clear = math.log10(20) + (step / 2 if step > 1 else -1)
    exponents = [k for k in range(first, last + 1) if not k % step and (k <= 0 or k >= clear)]
    marks = {k * math.log(10): f"{10.0**k:g}" if abs(k) <= 4 else f"10<sup>{k}</sup>" for k in exponents}
    marks |= {0.0: "1", math.log(20): "20"}
    return sorted(marks.items())


def spans(ts: pl.Series) -> tuple[str, list[tuple[datetime, datetime]]]:
    """Return a unit of time and every second such period from the first instant to the last.

    The unit is the smallest of days, weeks, months and years that gives at most `MAX_BANDS` periods.
    """
    if not ts.len():
        return "", []
    first, last = ts.min(), ts.max()
    assert isinstance(first, datetime) and isinstance(last, datetime)
    edges: list[datetime] = []
    unit = ""
    for every, unit in SPANS:  # noqa: B007
        start = pl.Series([first]).dt.truncate(every)[0]
        edges = pl.datetime_range(start, last + timedelta(microseconds=1), every, eager=True).to_list()
        if len(edges) <= MAX_BANDS:
            break
    pairs = list(pairwise([*edges, last]))[:MAX_BANDS]
    return unit, [(max(a, first), b) for a, b in pairs[1::2] if b > a]


def band(left: datetime, right: datetime, colour: str) -> dict[str, object]:
    """Return a shape that shades the background from one instant to another."""
    x0, x1 = milliseconds(pl.Series([left, right], dtype=pl.Datetime("us", "UTC")))
    return {
        "type": "rect",
        "x0": float(x0),
        "x1": float(x1),
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "fillcolor": colour,
        "line": {"width": 0},
        "layer": "below",
    }


def two_panels(title: str, upper: str, lower: str, x: str, *, split: float = 0.24) -> go.Figure:
    """Return an empty figure with a second, lower panel on the same x axis.

    Args:
        title: title of the figure.
        upper: title of the upper y axis.
        lower: title of the lower y axis.
        x: title of the x axis.
        split: share of the height that the lower panel takes, from 0 to 1.
    """
    figure = blank(title, upper)
    axis = {"gridcolor": "rgba(128,128,128,.25)"}
    figure.update_layout(
        height=380,
        margin={"b": 56},
        legend=LEGEND,
        xaxis={"anchor": "y2", "title": {"text": x}, "showgrid": False},
        yaxis={"domain": [split + 0.06, 1], "zeroline": True, "zerolinecolor": GREY, **axis},
        yaxis2={
            "domain": [0, split],
            "title": {"text": lower},
            "zeroline": True,
            "zerolinecolor": GREY,
            "nticks": 4,
            **axis,
        },
    )
    return figure


def below(figure: go.Figure, x: list[str], y: npt.NDArray[np.float32], hover: str) -> None:
    """Add bars to the lower panel."""
    figure.update_layout(xaxis={"type": "category"}, yaxis2={"rangemode": "tozero"})
    figure.add_bar(
        x=x, y=y, yaxis="y2", marker={"color": GREY}, opacity=0.6, showlegend=False, hovertemplate=hover
    )


def _number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
