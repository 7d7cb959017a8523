"""The parameter map of a report card: net edge at every setting, starred where it survives all the looking.

A star is a rejection by the stepdown test over the whole family (Romano and Wolf, Econometrica 2005), never a
small p of one cell.  Cells with fewer than 100 entries are hatched: their colour is mostly noise.

A full grid is drawn as maps of two parameters.  A setting and its neighbours, where each cell differs from the middle
one in a single parameter, have next to no cells on such maps: they are drawn as a line a parameter, with the middle
cell in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.notebook.research.layout import need, values
from kalshilab.notebook.session.plots import GREY, blank

__all__ = ["DIVERGING", "FEW", "heatmap"]

DIVERGING: Final = [[0.0, "#c8453b"], [0.5, "#ececec"], [1.0, "#2a6fbb"]]
"""Below zero, zero, above zero; told apart without seeing green."""

FEW: Final = 100
"""Entries of a cell below which it is hatched."""

MEASURED: Final = ("n", "edge", "lower", "upper", "p", "star")
PANELS: Final = 6
GAP: Final = 70
"""Pixels between two lines of maps, for labels."""
SIDE: Final = 20
CELLS: Final = 1_500
WRITTEN: Final = 300
"""Cells up to which each shows its number."""


def heatmap(frame: pl.DataFrame) -> tuple[go.Figure, pl.DataFrame]:
    """Net edge by parameters: the two with most values span the map, the others make a map each; or lines of
    neighbours.

    Args:
        frame: the parameters' columns; `n`, `edge` (cents), `p`; perhaps `lower` and `upper`; and `star` if a family
            was tested: a boolean, or the text to write.  A parameter that does not vary is not drawn.

    Returns:
        The figure (at most six maps of 20 by 20), and the frame as it is.

    Raises:
        EdgeError: a column is missing, or there is no parameter.
    """
    need(frame, "heatmap", "n", "edge", "p")
    parameters = [name for name in frame.columns if name not in MEASURED]
    if not parameters:
        raise EdgeError(f"heatmap: {', '.join(frame.columns)} are measured; no column is a parameter")
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
    most = max(1, min(PANELS, CELLS // max(1, len(columns) * len(rows))))
    shown = [_part(marked, others, at) for at in maps[:most]]
    pieces = [_cells(part, across, columns, down, rows) for part in shown]
    drawn = sum(int((~np.isnan(edge)).sum()) for edge, _, _ in pieces)
    figure = blank(_title(frame, drawn), "")
    limit = max(1.0, max((float(np.nanmax(np.abs(e), initial=0.0)) for e, _, _ in pieces), default=1.0))
    for i, ((edge, n, star), at) in enumerate(zip(pieces, maps, strict=False)):
        words = [
            [
                f"{e:+.1f}{s}" if drawn <= WRITTEN and not np.isnan(e) else s
                for e, s in zip(line, marks, strict=True)
            ]
            for line, marks in zip(edge, star, strict=True)
        ]
        _panel(figure, i, edge, n, words, limit, bar=i == len(pieces) - 1)
        _place(figure, i, len(pieces), (across, columns), (down, rows))
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
    lines = -(-len(pieces) // 3)
    _size(figure, lines * _high(rows) + (lines - 1) * GAP, titled=bool(others))
    return figure, frame


def _middle(frame: pl.DataFrame, names: list[str]) -> dict[str, Any] | None:
    """The setting from which every other differs in a single parameter, if there is one and several vary."""
    if len(names) < 2 or frame.height < 4:
        return None
    modes = {name: frame[name].value_counts(sort=True).row(0)[0] for name in names}
    differ = frame.select(
        pl.sum_horizontal(pl.col(n).ne_missing(pl.lit(modes[n], frame.schema[n])) for n in names)
    )
    counts = differ.to_series()
    return modes if counts.max() == 1 and (counts == 0).sum() == 1 else None


def _neighbours(frame: pl.DataFrame, names: list[str], middle: dict[str, Any]) -> go.Figure:
    levels = {name: frame[name].unique().sort().to_list() for name in names}
    down = max(levels[n].index(middle[n]) for n in names)
    up = max(len(levels[n]) - levels[n].index(middle[n]) for n in names)
    steps = list(range(-min(down, SIDE // 2), min(up, SIDE // 2)))
    edge = np.full((len(names), len(steps)), np.nan, np.float32)
    n = np.zeros(edge.shape, np.int32)
    words = [["" for _ in steps] for _ in names]
    for row, name in enumerate(names):
        others = [other for other in names if other != name]
        line = _part(frame, others, tuple(middle[other] for other in others))
        for value, found, count, mark in zip(
            line[name], values(line, "edge"), line["n"], line["_star"], strict=True
        ):
            step = levels[name].index(value) - levels[name].index(middle[name])
            if step in steps and not np.isnan(found):
                column = steps.index(step)
                edge[row, column], n[row, column] = found, count or 0
                words[row][column] = f"{found:+.1f}{mark}<br><i>{_text(value)}</i>"
    # The middle stands in every line.
    drawn = int((~np.isnan(edge)).sum()) - len(names) + 1
    figure = blank(_title(frame, drawn), "")
    limit = max(1.0, float(np.nanmax(np.abs(edge), initial=0.0)))
    _panel(figure, 0, edge, n, words, limit, bar=True)
    _place(
        figure, 0, 1, ("steps from the setting", [f"{s:+d}" if s else "setting" for s in steps]), ("", names)
    )
    figure.update_layout(yaxis={"automargin": True})
    _size(figure, 44 * len(names), titled=False)
    return figure


def _title(frame: pl.DataFrame, drawn: int) -> str:
    title = "Net edge by parameters" + ("" if "star" not in frame.columns else " (★ survives the family)")
    total = frame.height
    return title + (
        ": none" if not total else "" if drawn == total else f" ({drawn:,} of {total:,} cells drawn)"
    )


def _high(rows: Sequence[Any]) -> int:
    return max(44, 34 * len(rows))


def _size(figure: go.Figure, high: int, *, titled: bool) -> None:
    """The height that leaves `high` pixels to the maps."""
    top = 62 if titled else 48
    figure.update_layout(
        height=high + top + 56, barmode="overlay", showlegend=False, margin={"b": 56, "t": top}
    )


def _panel(
    figure: go.Figure, i: int, edge: Any, n: Any, words: list[list[str]], limit: float, *, bar: bool
) -> None:
    axes = {"xaxis": f"x{i + 1 if i else ''}", "yaxis": f"y{i + 1 if i else ''}"}
    figure.add_heatmap(
        z=edge,
        customdata=n,
        text=words,
        texttemplate="%{text}",
        colorscale=DIVERGING,
        zmin=-limit,
        zmax=limit,
        xgap=1,
        ygap=1,
        showscale=bar,
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
    figure: go.Figure, i: int, count: int, across: tuple[str, list[Any]], down: tuple[str | None, list[Any]]
) -> None:
    """The axes of map `i`: three to a line, labelled by the values they stand for."""
    wide, lines = min(count, 3), -(-count // 3)
    left = (i % 3) / wide
    right = left + (1 / wide) * (0.9 if wide > 1 else 1)
    each = _high(down[1])
    high = lines * each + (lines - 1) * GAP
    top = 1 - (i // 3) * (each + GAP) / high
    bottom = top - each / high
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
                # The maps of a line share their rows: the first one names them.
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
    frame: pl.DataFrame, across: str, columns: list[Any], down: str | None, rows: Sequence[Any]
) -> tuple[Any, Any, list[list[str]]]:
    """Edge, n and star as matrices of rows by columns; NaN where there is no such cell."""
    edge = np.full((len(rows), len(columns)), np.nan, np.float32)
    n = np.zeros(edge.shape, np.int32)
    star = [["" for _ in columns] for _ in rows]
    x = {value: k for k, value in enumerate(columns)}
    y = {value: k for k, value in enumerate(rows)}
    places = zip(frame[across], frame[down] if down else [None] * frame.height, strict=True)
    found = zip(places, values(frame, "edge"), frame["n"], frame["_star"], strict=True)
    for (column, row), value, count, mark in found:
        if column in x and row in y:
            edge[y[row], x[column]] = value
            n[y[row], x[column]] = count or 0
            star[y[row]][x[column]] = mark
    return edge, n, star


def _part(frame: pl.DataFrame, names: list[str], at: tuple[Any, ...]) -> pl.DataFrame:
    for name, value in zip(names, at, strict=True):
        frame = frame.filter(pl.col(name).eq_missing(pl.lit(value, dtype=frame.schema[name])))
    return frame


def _levels(frame: pl.DataFrame, name: str) -> list[Any]:
    """The values of a parameter, in order, at most `SIDE` of them evenly taken."""
    found = frame[name].unique().sort().to_list()
    if len(found) > SIDE:
        found = [found[k] for k in np.unique(np.linspace(0, len(found) - 1, SIDE).round().astype(int))]
    return found


def _stars(frame: pl.DataFrame) -> pl.Series:
    if "star" not in frame.columns:
        return pl.repeat("", frame.height, eager=True)
    star = frame["star"]
    if star.dtype == pl.Boolean:
        return pl.Series(["★" if s else "" for s in star], dtype=pl.String)
    return star.cast(pl.String).fill_null("")


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)
