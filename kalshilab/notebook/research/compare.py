"""One figure for several waterfalls: the same steps in several worlds, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import plotly.graph_objects as go
import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.notebook.research.layout import LEGEND, need, values, whiskers, wrapped
from kalshilab.notebook.session.plots import BLUE, GREEN, GREY, RED, blank

__all__ = ["beside"]

COLOURS: Final = (RED, GREEN, BLUE, GREY)


def beside(frames: Mapping[str, pl.DataFrame]) -> tuple[go.Figure, pl.DataFrame]:
    """Draw the steps of several waterfalls, with one dot and its 95 % interval per world.

    Args:
        frames: one to four waterfalls (`step, edge, lower, upper, n, note`, edges in cents a contract) by the name of
            their world; steps are in order of first appearance.

    Returns:
        The figure, and the rows behind it with their `world`.

    Raises:
        EdgeError: if there is no frame, more than four, or a column is missing.
    """
    if not 0 < len(frames) <= len(COLOURS):
        raise EdgeError(f"beside: frames must hold 1 to {len(COLOURS)} waterfalls, got {len(frames)}")
    for frame in frames.values():
        need(frame, "beside", "step", "edge", "lower", "upper", "n")
    steps = list(dict.fromkeys(step for frame in frames.values() for step in frame["step"]))
    figure = blank("Step by step", "")
    for turn, (world, frame) in enumerate(frames.items()):
        # Worlds are offset a little, or their intervals would hide each other.
        offset = 0.18 * (turn - (len(frames) - 1) / 2)
        figure.add_scatter(
            x=values(frame, "edge"),
            y=[steps.index(step) + offset for step in frame["step"]],
            mode="markers",
            marker={"color": COLOURS[turn], "size": 10},
            error_x=whiskers(frame, "edge", COLOURS[turn]),
            customdata=frame["step"].to_list(),
            name=world,
            hovertemplate=f"{world}, %{{customdata}}: %{{x:+.2f}} c<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    figure.update_layout(
        height=120 + 46 * len(steps),
        legend=LEGEND,
        showlegend=True,
        xaxis={"title": {"text": "edge, cents a contract"}},
        yaxis={
            "tickvals": list(range(len(steps))),
            "ticktext": [wrapped(step) for step in steps],
            "range": [len(steps) - 0.4, -0.6],
            "automargin": True,
            "showgrid": False,
        },
    )
    parts = [frame.select(pl.lit(world).alias("world"), pl.all()) for world, frame in frames.items()]
    return figure, pl.concat(parts, how="vertical_relaxed")
