"""The live view of a session below its notebook cell.

The session knows nothing of this module.  One task, the painter, reads `session.snapshot()` four times a
second and sends the panels whose HTML has changed; the chart follows once a second.  Latest state wins:
nothing is queued, so a slow browser delays its own pictures and never a feed.  When the painter itself fails
it says so in the console panel and ends; the session goes on.

The stop button does one thing, `session.request_stop`, because a widget callback may run in another thread
with another event loop.  What the button shows afterwards is painted like everything else.

Under papermill (`KALSHILAB_RUN` is set) there is nobody to look and every widget would be saved: `show`
leaves one line of static HTML.  Outside a kernel it does the same.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from html import escape
from typing import Any, Final, Protocol

import ipywidgets as widgets
import numpy as np
from IPython import get_ipython
from IPython.display import HTML, display

from kalshilab.clock import Clock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.notebook.session import panels
from kalshilab.trade.status import Snapshot
from kalshilab.units import MONEY

__all__ = ["Dashboard", "EquityLine", "Watched", "is_interactive"]

PAINT: Final = 0.25
"""Seconds between looks at the session."""

CHART_EVERY: Final = 4
"""The chart follows at every so many looks: once a second."""

POINTS: Final = 2_000
"""Points of the equity line at most."""

_STARTING = ("STARTUP", "INITIALIZING", "ORDERBOOK_CONNECT", "TRADING_CLIENT_CONNECT", "KALSHI_DATA_SYNC")

_ROWS: Final = (
    ("session", "chart"),
    ("processing", "system"),
    ("decisions",),
    ("positions",),
    ("settlements",),
    ("markets",),
    ("trades", "console"),
)
"""Where each panel stands below the header: beside another one, or over the whole width."""


class Watched(Protocol):
    """What a dashboard needs of a session."""

    @property
    def run_id(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    def snapshot(self) -> Snapshot: ...

    def request_stop(self, reason: str) -> None: ...


def is_interactive() -> bool:
    """Whether a person may be looking: in an IPython kernel, and not in an unattended run.

    >>> is_interactive()
    False
    """
    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    return "KALSHILAB_RUN" not in os.environ and getattr(shell, "kernel", None) is not None


class EquityLine:
    """Exchange time and equity of a whole run in at most `limit` points, evenly thinned as it grows.

    When it is full every other point goes, and from then on every other sample is taken; the newest sample is
    always the last point.

    >>> line = EquityLine(limit=4)
    >>> for t in range(9):
    ...     line.add(t * 1_000_000, 5_000_000)
    >>> line.x.tolist(), line.y.tolist()
    ([0.0, 4000.0, 8000.0], [5.0, 5.0, 5.0])
    """

    def __init__(self, limit: int = POINTS) -> None:
        self._x, self._y = np.zeros(limit), np.zeros(limit)
        self._seen = self._fixed = self._shown = 0
        self._every = 1

    def add(self, ts: int, money: int) -> None:
        """Take a sample: exchange time in microseconds, equity in money units."""
        # One place is kept free for the newest sample when it is not one of those that stay.
        if self._seen % self._every == 0 and self._fixed == len(self._x) - 1:
            half = (self._fixed + 1) // 2
            for values in (self._x, self._y):
                values[:half] = values[: self._fixed : 2].copy()
            self._fixed, self._every = half, self._every * 2
        self._x[self._fixed], self._y[self._fixed] = ts / 1000, money / MONEY
        self._shown = self._fixed + 1
        if self._seen % self._every == 0:
            self._fixed += 1
        self._seen += 1

    @property
    def x(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Milliseconds since 1970, which is what a date axis takes."""
        return self._x[: self._shown].copy()

    @property
    def y(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Dollars."""
        return self._y[: self._shown].copy()


class Dashboard:
    """Widgets that follow one session until it has finished.

    Args:
        session: read through `snapshot()` only; `request_stop` is its one lever.
        interactive: whether to build widgets; None asks `is_interactive`.
        clock: paces the painter; default the machine's.
        chart: whether to draw the equity line (the one heavy part).
    """

    def __init__(
        self,
        session: Watched,
        *,
        interactive: bool | None = None,
        clock: Clock | None = None,
        chart: bool = True,
    ) -> None:
        self._session = session
        self._interactive = is_interactive() if interactive is None else interactive
        self._clock = clock or WallClock()
        self._line = EquityLine()
        self._painted: dict[str, str] = {}
        self._failure = ""
        self._figure: Any = None
        self._task: asyncio.Task[None] | None = None
        self.widget: Any = None
        if self._interactive:
            self._build(chart)

    def show(self) -> None:
        """Display below the running cell and follow the session.

        Raises:
            SessionError: no event loop is running, so nothing could follow it.
        """
        if not self._interactive:
            display(HTML(_static_line(self._session)))  # type: ignore[no-untyped-call, unused-ignore]
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SessionError(
                "a dashboard follows its session from an event loop, and none is running"
            ) from None
        self.paint()
        display(self.widget)  # type: ignore[no-untyped-call, unused-ignore]
        if self._task is None:
            self._task = loop.create_task(self._follow(), name="dashboard")

    def paint(self, *, chart: bool = True) -> Snapshot:
        """Send what has changed since the last call; the snapshot that is now on show."""
        shot = self._session.snapshot()
        for name, panel in panels.PANELS.items():
            if name == "console":
                self._put(name, panels.console(shot, self._session.settings, self._failure))
            else:
                self._put(name, panel(shot, self._session.settings))
        self._paint_button(shot)
        if chart and shot.now and shot.state not in _STARTING:
            self._line.add(shot.now, shot.cash + shot.portfolio_value)
            self._paint_chart()
        return shot

    def freeze(self) -> None:
        """Paint the last state and close the chart's widget; a small drawing takes its place."""
        if not self._interactive:
            return
        if self._task is not None and self._task is not _current_task():
            self._task.cancel()
        self.paint()
        self._button.disabled = True
        if self._figure is not None:
            picture = widgets.HTML(f'<div class="kl">{panels.sparkline(self._line.y.tolist())}</div>')
            self._chart_box.children = (picture,)
            self._figure.close()
            self._figure = None

    async def wait(self) -> None:
        """Return when the painter has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    # Parts

    def _build(self, chart: bool) -> None:
        full = widgets.Layout(width="100%", min_width="0")
        self._panels = {name: widgets.HTML(layout=full) for name in panels.PANELS}
        self._button = widgets.Button(
            description="STOP",
            button_style="danger",
            tooltip="cancel resting orders, compare with the exchange, report",
            layout=widgets.Layout(width="auto", flex="0 0 auto"),
        )
        self._button.on_click(_stopper(self._session))
        self._chart_box = widgets.VBox([], layout=full)
        if chart:
            self._figure = _equity_widget()
            self._chart_box.children = (self._figure,)
        places = {**self._panels, "chart": self._chart_box}
        rows = [
            widgets.GridBox(
                [places[name] for name in row],
                layout=widgets.Layout(
                    grid_template_columns=f"repeat({len(row)}, minmax(0, 1fr))", grid_gap="18px", width="100%"
                ),
            )
            for row in _ROWS
        ]
        top = widgets.HBox([self._panels["header"], self._button], layout=full)
        self.widget = widgets.VBox([widgets.HTML(panels.STYLE), top, *rows])
        self.widget.add_class("kalshilab-dashboard")

    def _put(self, name: str, html: str) -> None:
        if self._painted.get(name) != html:
            self._painted[name] = html
            self._panels[name].value = html

    def _paint_button(self, shot: Snapshot) -> None:
        text = "finished" if shot.finished else "stopping …" if shot.stopped else "STOP"
        if self._button.description != text:
            self._button.description = text
            self._button.disabled = text != "STOP"

    def _paint_chart(self) -> None:
        if self._figure is None:
            return
        # plotly.js guesses an axis' type anew whenever its data change: only texts are guessed to be dates.
        x = np.datetime_as_string(self._line.x.astype("datetime64[ms]"))
        with self._figure.batch_update():
            self._figure.data[0].x, self._figure.data[0].y = x, self._line.y

    async def _follow(self) -> None:
        turn = 0
        try:
            while not self.paint(chart=turn % CHART_EVERY == 0).finished:
                turn += 1
                await self._clock.sleep(PAINT)
            self.freeze()
        except Exception as error:  # noqa: BLE001 - a view that breaks must not take the session with it
            self._say(f"dashboard: stopped painting, {type(error).__name__}: {error}")

    def _say(self, text: str) -> None:
        """Put the painter's own failure above the console, without asking the session for anything."""
        self._failure = text
        old = self._panels["console"].value
        self._panels["console"].value = f'<div class="kl"><pre class="down">{escape(text)}</pre></div>{old}'


def _stopper(session: Watched) -> Callable[[Any], None]:
    """The stop button's callback.  It holds the session and nothing of the dashboard: it may run in a thread
    of its own, where no widget may be touched.
    """
    return lambda _: session.request_stop("stop button")


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _equity_widget() -> Any:
    # plotly is slow to import; a session without a chart does not pay for it.
    import plotly.graph_objects as go

    figure = go.FigureWidget(
        data=[
            go.Scatter(x=np.zeros(0), y=np.zeros(0), mode="lines", line={"color": "#2a6fbb", "width": 1.5})
        ],
        layout={
            "template": "none",
            "height": 190,
            "autosize": True,
            "margin": {"l": 62, "r": 8, "t": 22, "b": 26},
            "title": {"text": "equity", "font": {"size": 12}, "x": 0.01, "y": 0.98},
            "xaxis": {"type": "date", "showgrid": False},
            "yaxis": {"tickformat": "$,.2f", "gridcolor": "rgba(128,128,128,.25)"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": "#888", "size": 11},
        },
    )
    figure._config = {**figure._config, "displayModeBar": False, "responsive": True}
    return figure


def _static_line(session: Watched) -> str:
    shot = session.snapshot()
    run = escape(session.run_id)
    return (
        f"<div>Session <b>{run}</b> on {escape(shot.venue)}, strategy {escape(shot.strategy)}. "
        f"Follow it with <code>kalshilab watch {run}</code>.</div>"
    )
