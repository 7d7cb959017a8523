"""The parameter map of a report card: net edge by setting, with a star where it survives multiple testing.

A star is a rejection by the stepdown test over the whole family (Romano and Wolf, Econometrica 2005), never a small
p-value of one cell.  Cells with fewer than 100 entries are hatched, because their colour is mostly noise.

A full grid is drawn as maps of two parameters.  A setting with its neighbours, each of which differs in a single
parameter, would leave such maps almost empty.  It is drawn as one row per parameter, with the setting in each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import product
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.notebook.research.layout import need, values
from kalshilab.notebook.session.plots import GREY, blank

__all__ = ["DIVERGING", "FEW", "heatmap"]

Level: TypeAlias = str | float | bool | date | None
"""A value of a parameter; None stands for null."""

Setting: TypeAlias = dict[str, Level]
EdgeMatrix: TypeAlias = npt.NDArray[np.float32]
CountMatrix: TypeAlias = npt.NDArray[np.int32]

DIVERGING: Final = [[0.0, "#c8453b"], [0.5, "#ececec"], [1.0, "#2a6fbb"]]
"""Colours below, at and above zero, distinguishable without red-green vision."""

FEW: Final = 100
"""Number of entries below which a cell is hatched."""

MEASURED: Final = ("n", "edge", "lower", "upper", "p", "star")
MAX_MAPS: Final = 6
GAP_PX: Final = 70
"""Space for labels between two rows of maps, in pixels."""
SIDE: Final = 20
"""Maximum number of levels of a parameter."""
CELLS: Final = 1_500
"""Maximum number of cells, over all maps."""
WRITTEN: Final = 300
"""Maximum number of cells that show their number."""


def heatmap(frame: pl.DataFrame) -> tuple[go.Figure, pl.DataFrame]:
    """Draw the net edge by parameters.

    The two parameters with the most values span a map, and each combination of the others has a separate map.  A
    setting with its neighbours is drawn as one row per parameter.

    Args:
        frame: a column for each parameter; `n`, `edge` (cents) and `p`; optionally `lower` and `upper`; and `star` if a
            family was tested, a boolean or the text to show.  A parameter that does not vary is not drawn.

    Returns:
        The figure (at most six maps of 20 by 20), and the frame unchanged.

    Raises:
        EdgeError: if a column is missing, or no column is a parameter.
    """
    need(frame, "heatmap", "n", "edge", "p")
    parameters = [name for name in frame.columns if name not in MEASURED]
    if not parameters:
        raise EdgeError(
            f"heatmap: frame must have a column for each parameter, got only {', '.join(frame.columns)}"
        )
    marked = frame.with_columns(_stars(frame).alias("_star"))
    varying = [name for name in parameters if frame[name].n_unique() > 1] or parameters[:1]
    middle = _middle(frame, varying)
    if middle is not None:
        return _neighbours(marked, varying, middle), frame
    order = sorted(varying, key=lambda name: -frame[name].n_unique())
    across, down, others = order[0], order[1] if len(order) > 1 else None, order[2:]
    columns = _levels(frame, across)
    rows = _levels(frame, down) if down else [None]
    maps = list(product(*(_levels(frame, name) for name in others)))
    most = max(1, min(MAX_MAPS, CELLS // max(1, len(columns) * len(rows))))
    shown = [_part(marked, others, at) for at in maps[:most]]
    grids = [_cells(part, across, columns, down, rows) for part in shown]
    drawn = sum(int((~np.isnan(edge)).sum()) for edge, _, _ in grids)
    figure = blank(_title(frame, drawn), "")
    limit = max(1.0, max((float(np.nanmax(np.abs(e), initial=0.0)) for e, _, _ in grids), default=1.0))
    for i, ((edge, n, star), at) in enumerate(zip(grids, maps, strict=False)):
        labels = [
            [
                f"{e:+.1f}{s}" if drawn <= WRITTEN and not np.isnan(e) else s
                for e, s in zip(line, marks, strict=True)
            ]
            for line, marks in zip(edge, star, strict=True)
        ]
        _add_map(figure, i, edge, n, labels, limit, colorbar=i == len(grids) - 1)
        _place(figure, i, len(grids), (across, columns), (down, rows))
        if others:
            text = ", ".join(f"{name} {_text(v)}" for name, v in zip(others, at, strict=True))
            figure.add_annotation(
                text=text,
                xref=f"x{i + 1 if i else ''} domain",
                yref=f"y{i + 1 if i else ''} domain",
                x=0,
                y=1,
                xanchor="left",
                yanchor="bottom",
                showarrow=False,
            )
    lines = -(-len(grids) // 3)
    _set_height(figure, lines * _map_height_px(rows) + (lines - 1) * GAP_PX, titled=bool(others))
    return figure, frame


def _middle(frame: pl.DataFrame, names: list[str]) -> Setting | None:
    """Return the setting from which every other differs in a single parameter, if there is one.

    It takes at least two varying parameters and four cells.
    """
    if len(names) < 2 or frame.height < 4:
        return None
    modes = {name: frame[name].value_counts(sort=True).row(0)[0] for name in names}
    differ = frame.select(
        pl.sum_horizontal(pl.col(n).ne_missing(pl.lit(modes[n], frame.schema[n])) for n in names)
    )
    counts = differ.to_series()
    return modes if counts.max() == 1 and (counts == 0).sum() == 1 else None


def _neighbours(frame: pl.DataFrame, names: list[str], middle: Setting) -> go.Figure:
    """Draw one row per parameter, centred on the middle setting."""
    levels = {name: frame[name].unique().sort().to_list() for name in names}
    down = max(levels[n].index(middle[n]) for n in names)
    up = max(len(levels[n]) - levels[n].index(middle[n]) for n in names)
    steps = list(range(-min(down, SIDE // 2), min(up, SIDE // 2)))
    edge = np.full((len(names), len(steps)), np.nan, np.float32)
    n = np.zeros(edge.shape, np.int32)
    labels = [["" for _ in steps] for _ in names]
    for row, name in enumerate(names):
        others = [other for other in names if other != name]
        line = _part(frame, others, tuple(middle[other] for other in others))
        for value, net, count, mark in zip(
            line[name], values(line, "edge"), line["n"], line["_star"], strict=True
        ):
            step = levels[name].index(value) - levels[name].index(middle[name])
            if step in steps and not np.isnan(net):
                column = steps.index(step)
                edge[row, column], n[row, column] = net, count or 0
                labels[row][column] = f"{net:+.1f}{mark}<br><i>{_text(value)}</i>"
    # The middle setting is part of every row and counts once.
    drawn = int((~np.isnan(edge)).sum()) - len(names) + 1
    figure = blank(_title(frame, drawn), "")
    limit = max(1.0, float(np.nanmax(np.abs(edge), initial=0.0)))
    _add_map(figure, 0, edge, n, labels, limit, colorbar=True)
    _place(
        figure, 0, 1, ("steps from the setting", [f"{s:+d}" if s else "setting" for s in steps]), ("", names)
    )
    figure.update_layout(yaxis={"automargin": True})
    _set_height(figure, 44 * len(names), titled=False)
    return figure


def _title(frame: pl.DataFrame, drawn: int) -> str:
    title = "Net edge by parameters" + ("" if "star" not in frame.columns else " (★ survives the family)")
    total = frame.height
    return title + (
        ": none" if not total else "" if drawn == total else f" ({drawn:,} of {total:,} cells drawn)"
    )


def _map_height_px(rows: Sequence[Level]) -> int:
    return max(44, 34 * len(rows))


def _set_height(figure: go.Figure, height_px: int, *, titled: bool) -> None:
    """Set the height of a figure so that `height_px` pixels remain for the maps."""
    top = 62 if titled else 48
    figure.update_layout(
        height=height_px + top + 56, barmode="overlay", showlegend=False, margin={"b": 56, "t": top}
    )


def _add_map(
    figure: go.Figure,
    i: int,
    edge: EdgeMatrix,
    n: CountMatrix,
    labels: list[list[str]],
    limit: float,
    *,
    colorbar: bool,
) -> None:
    axes = {"xaxis": f"x{i + 1 if i else ''}", "yaxis": f"y{i + 1 if i else ''}"}
    figure.add_heatmap(
        z=edge,
        customdata=n,
        text=labels,
        texttemplate="%{text}",
        colorscale=DIVERGING,
        zmin=-limit,
        zmax=limit,
        xgap=1,
        ygap=1,
        showscale=colorbar,
        colorbar={"title": {"text": "cents"}, "thickness": 12},
        hovertemplate="%{z:+.2f} c, n = %{customdata:,}<extra></extra>",
        hoverongaps=False,
        **axes,
    )
    y, x = np.nonzero((n < FEW) & ~np.isnan(edge))
    if len(x):
        figure.add_bar(
            x=x.astype(np.int16),
            y=np.ones(len(x), np.int8),
            base=y.astype(np.float32) - 0.5,
            width=1,
            marker={
                "color": "rgba(0,0,0,0)",
                "line": {"width": 0},
                "pattern": {"shape": "/", "fgcolor": "rgba(60,60,60,.55)", "size": 7, "solidity": 0.12},
            },
            hoverinfo="skip",
            **axes,
        )


def _place(
    figure: go.Figure,
    i: int,
    count: int,
    across: tuple[str, Sequence[Level]],
    down: tuple[str | None, Sequence[Level]],
) -> None:
    """Place the axes of map `i`, three maps to a row, and label them with the levels of their parameters."""
    wide, lines = min(count, 3), -(-count // 3)
    left = (i % 3) / wide
    right = left + (1 / wide) * (0.9 if wide > 1 else 1)
    each = _map_height_px(down[1])
    height_px = lines * each + (lines - 1) * GAP_PX
    top = 1 - (i // 3) * (each + GAP_PX) / height_px
    bottom = top - each / height_px
    number = i + 1 if i else ""
    figure.update_layout(
        {
            f"xaxis{number}": {
                "domain": [left, right],
                "anchor": f"y{number}",
                "tickvals": list(range(len(across[1]))),
                "ticktext": [_text(v) for v in across[1]],
                "range": [-0.5, len(across[1]) - 0.5],
                "title": {"text": across[0], "standoff": 4},
                "showgrid": False,
                "zeroline": False,
            },
            f"yaxis{number}": {
                "domain": [max(0.0, bottom), top],
                "anchor": f"x{number}",
                "tickvals": list(range(len(down[1]))),
                "ticktext": [_text(v) for v in down[1]],
                # The maps of a row share their y axis, which the first one labels.
                "showticklabels": i % 3 == 0,
                "range": [-0.5, len(down[1]) - 0.5],
                "title": {"text": down[0] or "" if i % 3 == 0 else "", "standoff": 4},
                "showgrid": False,
                "zeroline": False,
                "linecolor": GREY,
            },
        }
    )


def _cells(
    frame: pl.DataFrame, across: str, columns: Sequence[Level], down: str | None, rows: Sequence[Level]
) -> tuple[EdgeMatrix, CountMatrix, list[list[str]]]:
    """Arrange edge, n and star as matrices of rows by columns, with NaN for a missing cell."""
    edge = np.full((len(rows), len(columns)), np.nan, np.float32)
    n = np.zeros(edge.shape, np.int32)
    star = [["" for _ in columns] for _ in rows]
    x = {value: k for k, value in enumerate(columns)}
    y = {value: k for k, value in enumerate(rows)}
    places = zip(frame[across], frame[down] if down else [None] * frame.height, strict=True)
    cells = zip(places, values(frame, "edge"), frame["n"], frame["_star"], strict=True)
    for (column, row), value, count, mark in cells:
        if column in x and row in y:
            edge[y[row], x[column]] = value
            n[y[row], x[column]] = count or 0
            star[y[row]][x[column]] = mark
    return edge, n, star


def _part(frame: pl.DataFrame, names: list[str], at: tuple[Level, ...]) -> pl.DataFrame:
    """Return the rows in which the named parameters have the values `at`."""
    for name, value in zip(names, at, strict=True):
        frame = frame.filter(pl.col(name).eq_missing(pl.lit(value, dtype=frame.schema[name])))
    return frame


def _levels(frame: pl.DataFrame, name: str) -> list[Level]:
    """Return the sorted values of a parameter, thinned evenly to at most `SIDE`."""
    levels: list[Level] = frame[name].unique().sort().to_list()
    if len(levels) > SIDE:
        levels = [levels[k] for k in np.unique(np.linspace(0, len(levels) - 1, SIDE).round().astype(int))]
    return levels


def _stars(frame: pl.DataFrame) -> pl.Series:
    if "star" not in frame.columns:
        return pl.repeat("", frame.height, eager=True)
    star = frame["star"]
    if star.dtype == pl.Boolean:
        return pl.Series(["★" if s else "" for s in star], dtype=pl.String)
    return star.cast(pl.String).fill_null("")


def _text(value: Level) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
