"""The live dashboard of a session, below its notebook cell.

The session does not depend on this module.  One task, the painter, reads `session.snapshot()` four times a
second and sends the panels whose HTML has changed; it updates the chart once a second.  The latest state wins:
nothing is queued, so a slow browser delays its own view and never a feed.  If the painter fails, it reports the
error in the console panel and ends; the session continues.

The buttons only call `session.operate`, because a widget callback may run in another thread with another event
loop.  The painter then updates the buttons like every other part.

Under papermill (`KALSHILAB_RUN` is set) nobody watches and every widget would be saved, so `show` displays one
line of static HTML.  It does the same outside a kernel.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING, Final, Protocol

import ipywidgets as widgets
import numpy as np
import numpy.typing as npt
from IPython import get_ipython
from IPython.display import HTML, display

from kalshilab.clock import Clock, WallClock
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.lazy import renamed
from kalshilab.notebook.session import panels
from kalshilab.trade.status import Snapshot
from kalshilab.units import MONEY

if TYPE_CHECKING:
    from plotly.graph_objects import FigureWidget
else:
    __getattr__ = renamed(__name__)

__all__ = ["Dashboard", "EquityLine", "WatchedSession", "is_interactive"]

PAINT_INTERVAL_S: Final = 0.25
"""Seconds between two paints."""

CHART_EVERY: Final = 4
"""Paints between two updates of the chart: it is updated once a second."""

POINTS: Final = 2_000
"""Maximum number of points of the equity line."""

_BUTTONS: Final = {
    "pause": ("PAUSE", "", "place no orders; resting orders stay"),
    "resume": ("RESUME", "", "end a pause"),
    "flatten": ("FLATTEN", "warning", "pause, and cancel every resting order"),
    "stop": ("STOP", "danger", "cancel resting orders, compare with the exchange, report"),
    "kill": ("KILL", "danger", "as STOP; nothing is placed from now on, even if the session cannot end"),
}
"""Text, style and tooltip of the button of each action."""

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
"""Rows of panels below the header; two panels of a row stand side by side."""


class WatchedSession(Protocol):
    """The part of a session that a dashboard uses."""

    @property
    def run_id(self) -> str: ...

    @property
    def settings(self) -> Settings: ...

    def snapshot(self) -> Snapshot: ...

    def operate(self, action: str, reason: str = "") -> None: ...


def is_interactive() -> bool:
    """Return whether a person may be watching: in an IPython kernel, and not in an unattended run.

    >>> is_interactive()
    False
    """
    shell = get_ipython()  # type: ignore[no-untyped-call, unused-ignore]
    return "KALSHILAB_RUN" not in os.environ and getattr(shell, "kernel", None) is not None


class EquityLine:
    """Exchange time and equity of a whole run in at most `limit` points, evenly thinned as it grows.

    When the line is full, every other point is dropped, and from then on every other sample is kept.  The newest
    sample is always the last point.

    Args:
        limit: maximum number of points.

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
        """Add a sample.

        Args:
            ts: exchange time in microseconds since 1970.
            money: equity in money units (1/1,000,000 dollar).
        """
        # One slot is reserved for the newest sample, which may not be one of those that are kept.
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
    def x(self) -> npt.NDArray[np.float64]:
        """Milliseconds since 1970, the unit of a date axis."""
        return self._x[: self._shown].copy()

    @property
    def y(self) -> npt.NDArray[np.float64]:
        """Equity in dollars."""
        return self._y[: self._shown].copy()


class Dashboard:
    """Widgets that follow one session until it has finished.

    Args:
        session: the session; the dashboard only reads `snapshot()` and calls `operate`.
        interactive: whether to build widgets; None calls `is_interactive`.
        clock: clock that paces the painter; default the machine's.
        chart: whether to draw the equity line, the only expensive part.
    """

    def __init__(
        self,
        session: WatchedSession,
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
        self._figure: FigureWidget | None = None
        self._task: asyncio.Task[None] | None = None
        self.widget: widgets.VBox | None = None
        if self._interactive:
            self._build(chart)

    def show(self) -> None:
        """Display the dashboard below the running cell and follow the session.

        Raises:
            SessionError: if no event loop is running, so that the painter has nowhere to run.
        """
        if not self._interactive:
            display(HTML(_static_line(self._session)))  # type: ignore[no-untyped-call, unused-ignore]
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SessionError(
                "a dashboard needs a running event loop to follow its session; call show() from a notebook cell"
            ) from None
        self.paint()
        display(self.widget)  # type: ignore[no-untyped-call, unused-ignore]
        if self._task is None:
            self._task = loop.create_task(self._follow(), name="dashboard")

    def paint(self, *, chart: bool = True) -> Snapshot:
        """Send the panels that changed since the last call, and return the snapshot that they show.

        Args:
            chart: whether to update the chart too.
        """
        shot = self._session.snapshot()
        for name, panel in panels.PANELS.items():
            if name == "console":
                self._put(name, panels.console(shot, self._session.settings, self._failure))
            else:
                self._put(name, panel(shot, self._session.settings))
        self._paint_buttons(shot)
        if chart and shot.now and shot.state not in _STARTING:
            self._line.add(shot.now, shot.cash + shot.portfolio_value)
            self._paint_chart()
        return shot

    def freeze(self) -> None:
        """Paint the last state and replace the chart's widget with a small static drawing."""
        if not self._interactive:
            return
        if self._task is not None and self._task is not _current_task():
            self._task.cancel()
        self.paint()
        for button in self._buttons.values():
            button.disabled = True
        if self._figure is not None:
            picture = widgets.HTML(f'<div class="kl">{panels.sparkline(self._line.y.tolist())}</div>')
            self._chart_box.children = (picture,)
            self._figure.close()
            self._figure = None

    async def wait(self) -> None:
        """Wait until the painter has ended."""
        if self._task is not None:
            await asyncio.wait([self._task])

    # Parts

    def _build(self, chart: bool) -> None:
        full = widgets.Layout(width="100%", min_width="0")
        self._panels = {name: widgets.HTML(layout=full) for name in panels.PANELS}
        self._buttons = {action: _button(self._session, action) for action in _BUTTONS}
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
        top = widgets.HBox([self._panels["header"], *self._buttons.values()], layout=full)
        self.widget = widgets.VBox([widgets.HTML(panels.STYLE), top, *rows])
        self.widget.add_class("kalshilab-dashboard")

    def _put(self, name: str, html: str) -> None:
        if self._painted.get(name) != html:
            self._painted[name] = html
            self._panels[name].value = html

    def _paint_buttons(self, shot: Snapshot) -> None:
        for action, button in self._buttons.items():
            text, disabled = _BUTTONS[action][0], bool(shot.stopped or shot.finished)
            if action == "stop" and disabled:
                text = "finished" if shot.finished else "stopping …"
            elif action == "pause":
                disabled = disabled or bool(shot.paused)
            elif action == "resume":
                disabled = disabled or not shot.paused
            if (button.description, button.disabled) != (text, disabled):
                button.description, button.disabled = text, disabled

    def _paint_chart(self) -> None:
        if self._figure is None:
            return
        # plotly.js infers the type of an axis again after each change of data, and infers dates from strings only.
        x = np.datetime_as_string(self._line.x.astype("datetime64[ms]"))
        with self._figure.batch_update():
            self._figure.data[0].x, self._figure.data[0].y = x, self._line.y

    async def _follow(self) -> None:
        turn = 0
        try:
            while not self.paint(chart=turn % CHART_EVERY == 0).finished:
                turn += 1
                await self._clock.sleep(PAINT_INTERVAL_S)
            self.freeze()
        except Exception as error:  # noqa: BLE001 - a failing view must not stop the session
            self._report_failure(f"dashboard: stopped painting, {type(error).__name__}: {error}")

    def _report_failure(self, text: str) -> None:
        """Show the painter's failure above the console, without another call of the session."""
        self._failure = text
        old = self._panels["console"].value
        self._panels["console"].value = f'<div class="kl"><pre class="down">{escape(text)}</pre></div>{old}'


def _button(session: WatchedSession, action: str) -> widgets.Button:
    text, style, tooltip = _BUTTONS[action]
    button = widgets.Button(
        description=text,
        button_style=style,
        tooltip=tooltip,
        layout=widgets.Layout(width="auto", flex="0 0 auto"),
    )
    button.on_click(_operator(session, action))
    return button


def _operator(session: WatchedSession, action: str) -> Callable[[object], None]:
    """Return the callback of a button.

    It captures only the session: a callback may run in another thread, where no widget may be touched.
    """
    return lambda _: session.operate(action, f"{action} button")


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _equity_widget() -> FigureWidget:
    # plotly is slow to import, and a session without a chart does not need it.
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


def _static_line(session: WatchedSession) -> str:
    shot = session.snapshot()
    run = escape(session.run_id)
    return (
        f"<div>Session <b>{run}</b> on {escape(shot.venue)}, strategy {escape(shot.strategy)}. "
        f"Follow it with <code>kalshilab watch {run}</code>.</div>"
    )
