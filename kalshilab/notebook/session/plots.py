"""Static figures of a finished session: each function takes a report or a frame and returns `(figure, frame)`.

The frame holds every row behind the drawing, so that a figure can be checked, exported or drawn otherwise.  The
figure holds at most 2,000 of its points, because it is saved with the notebook (under 60 kB each); a title states
how many rows are drawn when some are omitted.  Figures are `go.Figure`, which a reopened notebook shows without a
kernel.  Their x axes are exchange time in UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from kalshilab.errors import TapeError

if TYPE_CHECKING:
    from kalshilab.trade.session.report import Report

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "POINTS",
    "RED",
    "blank",
    "counted",
    "decisions",
    "equity",
    "fires",
    "milliseconds",
    "pnl_by_market",
    "price_path",
    "thin",
]

Float32Array: TypeAlias = npt.NDArray[np.float32]

POINTS: Final = 2_000
"""Maximum number of points of a figure, over all its traces."""

NAMED: Final = 500
"""Maximum number of points whose ticker is shown on hover; more names would fill the notebook."""

BARS: Final = 40

COLOURS: Final[Mapping[str, str]] = {
    "placed": "#1a8f4c",
    "skipped": "#8a8f98",
    "deferred": "#b7791f",
    "expired": "#d4a72c",
    "refused": "#7c5cbf",
    "rejected": "#c8453b",
    "unknown": "#c026a3",
    "none": "#c9ccd1",
}
"""The colour of each action; "none" is a signal that had no decision when the run ended."""

BLUE: Final = "#2a6fbb"
GREY: Final = "#8a8f98"
GREEN: Final = "#1a8f4c"
RED: Final = "#c8453b"


def equity(report: Report) -> tuple[go.Figure, pl.DataFrame]:
    """Draw equity (cash plus open positions) and cash over the run, in dollars.

    The lowest and the highest point are always drawn.

    Returns:
        The figure, and `report.equity` unchanged.
    """
    frame = report.equity
    rows = thin(frame.height, POINTS // 2, frame["equity"].to_numpy())
    shown = frame[rows]
    x = milliseconds(shown["ts"])
    figure = blank(counted("Equity", len(rows), frame.height, "samples"), "dollars", dates=True)
    figure.update_yaxes(tickformat="$,.2f", title=None)
    for name, label, colour in (("cash", "cash", GREY), ("equity", "cash + positions", BLUE)):
        # float32 keeps seven digits, enough for cents on ten thousand dollars, in half the bytes.
        y = shown[name].to_numpy().astype(np.float32)
        line = {"color": colour, "width": 1.5, "shape": "hv"}
        figure.add_scatter(x=x, y=y, name=label, mode="lines", line=line, hovertemplate="$%{y:,.2f}")
    return figure, frame


def fires(report: Report) -> tuple[go.Figure, pl.DataFrame]:
    """Draw each signal of the run at its time and price, coloured by the last action that followed it.

    Returns:
        The figure, and `report.signals` with the `action` and `reason` of the last decision about each signal;
        both are null if no decision was made.
    """
    frame = _with_decisions(report.signals, report.decisions)
    rows = thin(frame.height, POINTS // 2)
    shown = frame[rows].with_columns(pl.col("action").fill_null("none"))
    figure = blank(
        counted("Signals", len(rows), frame.height), "price of the outcome bought, cents", dates=True
    )
    named = shown.height <= NAMED
    for (action,), part in sorted(shown.group_by(["action"], maintain_order=True)):
        name = str(action)
        figure.add_scatter(
            x=milliseconds(part["ts"]),
            y=_cents(part["price"]),
            text=part["ticker"].to_list() if named else None,
            name=f"{name} ({part.height:,})",
            mode="markers",
            marker={"color": COLOURS.get(name, COLOURS["none"]), "size": 7},
            hovertemplate="%{text} %{y}¢<extra></extra>" if named else "%{y}¢<extra></extra>",
        )
    figure.update_layout(showlegend=True)
    return figure, frame


def decisions(report: Report) -> tuple[go.Figure, pl.DataFrame]:
    """Count the decisions by action and reason.

    Returns:
        The figure, and a frame of `action, reason, n`, most frequent first.
    """
    frame = (
        report.decisions.group_by("action", "reason")
        .agg(pl.len().alias("n"))
        .sort(["n", "action", "reason"], descending=[True, False, False])
    )
    shown = frame.head(BARS).reverse()
    labels = [f"{a}: {r}" if r else a for a, r in shown.select("action", "reason").iter_rows()]
    colours = [COLOURS.get(a, COLOURS["none"]) for a in shown["action"]]
    title = counted("Decisions", shown.height, frame.height, "reasons")
    return _bars(title, "decisions", labels, shown["n"].to_list(), colours), frame


def pnl_by_market(report: Report) -> tuple[go.Figure, pl.DataFrame]:
    """Draw the profit and loss of each market in dollars: settled (after fees) plus open (at the bid, before fees).

    Returns:
        The figure with the largest gains and losses, and a frame of `ticker, settled, open, total`, best first.
    """
    parts = [
        report.settlements.select("ticker", settled="pnl", open=pl.lit(0.0)),
        report.positions.select("ticker", settled=pl.lit(0.0), open="pnl"),
    ]
    frame = (
        pl.concat(parts)
        .group_by("ticker")
        .agg(pl.col("settled", "open").sum())
        .with_columns(total=pl.col("settled") + pl.col("open"))
        .sort(["total", "ticker"], descending=[True, False])
    )
    shown = frame if frame.height <= BARS else pl.concat([frame.head(BARS // 2), frame.tail(BARS // 2)])
    shown = shown.reverse()
    colours = [GREEN if v > 0 else RED for v in shown["total"]]
    title = counted("Profit and loss by market", shown.height, frame.height, "markets")
    values = [round(v, 2) for v in shown["total"]]
    return _bars(title, "dollars", shown["ticker"].to_list(), values, colours), frame


def price_path(
    tape: pl.DataFrame, ticker: str, marks: pl.DataFrame | None = None
) -> tuple[go.Figure, pl.DataFrame]:
    """Draw the YES price of one market in cents, trade by trade, with the fires of a signal marked.

    Args:
        tape: a tape (`kl.to_tape`).
        ticker: the market.
        marks: fires as a signal function returns them, with YES prices in 1/10,000 dollar; those of other markets
            are ignored.

    Returns:
        The figure, and the trades of the market (`ts`, `price` in cents, `taker`).

    Raises:
        TapeError: if the tape has no trade in that market.
    """
    prints = tape.filter(pl.col("ticker").cast(pl.String) == ticker)
    if prints.is_empty():
        raise TapeError(f"ticker must be a market of this tape, got {ticker!r}", column="ticker")
    frame = prints.select("ts", pl.col("price").cast(pl.Float64) / 100, pl.col("taker").cast(pl.String))
    rows = thin(frame.height, POINTS - NAMED, frame["price"].to_numpy())
    shown = frame[rows]
    figure = blank(counted(ticker, len(rows), frame.height, "prints"), "YES price, cents", dates=True)
    figure.add_scatter(
        x=milliseconds(shown["ts"]),
        y=shown["price"].to_numpy().astype(np.float32),
        name="YES price",
        mode="lines",
        line={"color": BLUE, "width": 1.2, "shape": "hv"},
        hovertemplate="%{y}¢<extra></extra>",
    )
    if marks is not None:
        own = marks.filter(pl.col("ticker").cast(pl.String) == ticker).head(NAMED)
        figure.add_scatter(
            x=milliseconds(own["ts"]),
            y=_cents(own["price"]),
            name="signal",
            mode="markers",
            marker={"color": RED, "size": 9, "symbol": "triangle-down"},
            hovertemplate="signal at %{y}¢<extra></extra>",
        )
        figure.update_layout(showlegend=True)
    return figure, frame


def _with_decisions(signals: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    """Join each signal with the last decision that came after it and before the market's next signal."""
    numbered = signals.sort("ts", maintain_order=True).with_row_index("_fire")
    last = (
        decided.select("ts", "ticker", "action", "reason")
        .sort("ts", maintain_order=True)
        .join_asof(
            numbered.select("ts", "ticker", "_fire"),
            on="ts",
            by="ticker",
            strategy="backward",
            check_sortedness=False,
        )
        .group_by("_fire", maintain_order=True)
        .agg(pl.col("action", "reason").last())
    )
    return numbered.join(last, on="_fire", how="left", maintain_order="left").drop("_fire")


def thin(height: int, limit: int, values: npt.NDArray[np.generic] | None = None) -> npt.NDArray[np.int64]:
    """Return at most `limit` evenly spaced row numbers, including the first, the last and the extremes of `values`."""
    if height <= limit:
        return np.arange(height)
    rows = np.linspace(0, height - 1, limit - 2).round().astype(np.int64)
    if values is not None:
        rows = np.append(rows, [int(np.argmin(values)), int(np.argmax(values))])
    return np.unique(rows)


def milliseconds(ts: pl.Series) -> npt.NDArray[np.float64]:
    """Return instants as milliseconds since 1970: eight bytes each on a date axis, where a string takes twenty-six."""
    return ts.dt.epoch("us").to_numpy().astype(np.float64) / 1000


def _cents(price: pl.Series) -> Float32Array:
    """Return prices in cents for an axis; float32 is exact enough for a tenth of a cent.

    Integers are price units, as a signal's `run` returns them; floats are cents already, as in a report.
    """
    cents = price.cast(pl.Float64) / (100 if price.dtype.is_integer() else 1)
    return cents.to_numpy().astype(np.float32)


def counted(title: str, shown: int, total: int, unit: str = "points") -> str:
    """Return a title that states how many rows are drawn if some are omitted, and whether there are any.

    >>> counted("Equity", 3, 3), counted("Equity", 3, 5), counted("Equity", 0, 0)
    ('Equity', 'Equity (3 of 5 points drawn)', 'Equity: none')
    """
    if not total:
        return f"{title}: none"
    return title if shown == total else f"{title} ({shown:,} of {total:,} {unit} drawn)"


def blank(title: str, unit: str, *, dates: bool = False) -> go.Figure:
    """Return an empty figure in the common style, legible on light and dark pages.

    Args:
        title: title of the figure.
        unit: title of the y axis.
        dates: whether the x axis is time.
    """
    grid = {"gridcolor": "rgba(128,128,128,.25)", "zeroline": False}
    return go.Figure(
        layout={
            "template": "none",
            "title": {"text": title, "font": {"size": 14}, "x": 0.02},
            "height": 320,
            "margin": {"l": 70, "r": 16, "t": 44, "b": 40},
            "xaxis": {"type": "date", "showgrid": False} if dates else grid,
            "yaxis": {"title": {"text": unit}, **grid},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "#7a808a", "size": 12},
            "legend": {"orientation": "h", "y": -0.18},
        }
    )


def _bars(title: str, unit: str, labels: list[str], values: Sequence[float], colours: list[str]) -> go.Figure:
    figure = blank(title, "")
    figure.add_bar(x=values, y=labels, orientation="h", marker={"color": colours})
    figure.update_layout(
        height=max(180, 90 + 18 * len(labels)),
        xaxis={"title": {"text": unit}, "gridcolor": "rgba(128,128,128,.25)"},
        yaxis={"automargin": True, "title": None, "type": "category"},
    )
    return figure
