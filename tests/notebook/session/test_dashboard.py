"""The dashboard: it paints changes, follows the session to its end, and never disturbs it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError
from kalshilab.notebook.session import dashboard
from kalshilab.notebook.session.dashboard import POINTS, Dashboard, EquityLine
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.status import Snapshot

Shot = Callable[..., Snapshot]
FakeSession = Any  # the fixture `session`, in conftest.py


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    shown: list[Any] = []
    monkeypatch.setattr(dashboard, "display", shown.append)
    return shown


async def turns(clock: SimClock, n: int) -> None:
    """Let the painter run `n` times."""
    for _ in range(n):
        clock.advance(clock.now() + 250_000)
        for _ in range(5):
            await asyncio.sleep(0)


async def test_the_dashboard_follows_the_session_and_freezes_at_its_end(
    session: FakeSession, displayed: list[Any]
) -> None:
    clock = SimClock()
    board = Dashboard(session, interactive=True, clock=clock)
    board.show()
    assert displayed == [board.widget]
    header = board._panels["header"]
    assert "READY" in header.value
    session.shot = msgspec.structs.replace(session.shot, state="ACTING")
    await turns(clock, 1)
    assert "ACTING" in header.value
    session.shot = msgspec.structs.replace(
        session.shot, state="SHUTDOWN", stopped="tape ended", finished=True, now=session.shot.now + 1_000_000
    )
    await turns(clock, 1)
    await asyncio.wait_for(board.wait(), 60)
    assert "stopped: tape ended" in header.value
    assert board._buttons["stop"].disabled and board._buttons["stop"].description == "finished"
    assert board._figure is None
    [picture] = board._chart_box.children
    assert "<polyline" in picture.value


async def test_only_changed_panels_are_sent(session: FakeSession) -> None:
    board = Dashboard(session, interactive=True, chart=False)
    board.paint()
    sent: list[str] = []
    for name, widget in board._panels.items():
        widget.observe(lambda change, name=name: sent.append(name), names="value")
    board.paint()
    assert sent == []
    session.shot = msgspec.structs.replace(session.shot, messages=[(session.shot.now, "new line")])
    board.paint()
    assert sent == ["console"]


async def test_the_chart_is_updated_once_a_second_with_arrays(
    session: FakeSession, displayed: list[Any]
) -> None:
    clock = SimClock()
    board = Dashboard(session, interactive=True, clock=clock)
    board.show()
    await turns(clock, 1)
    start = len(board._line.x)
    await turns(clock, 8)
    assert len(board._line.x) - start == 2
    line = board._figure.data[0]
    assert isinstance(line.y, np.ndarray) and line.y.dtype == np.float64
    # The browser infers dates from text; numbers would be shown as numbers.
    assert str(line.x[0]).startswith("2026-01-01T00:00:00")
    assert line.y[-1] == pytest.approx(10_010.50)
    session.shot = msgspec.structs.replace(session.shot, finished=True)
    await turns(clock, 1)
    await asyncio.wait_for(board.wait(), 60)


async def test_equity_is_not_drawn_before_the_account_is_known(session: FakeSession, shot: Shot) -> None:
    session.shot = shot(state="KALSHI_DATA_SYNC", cash=0, portfolio_value=0)
    board = Dashboard(session, interactive=True)
    board.paint()
    assert len(board._line.x) == 0
    board.freeze()


async def test_a_failing_painter_reports_its_error_and_ends(
    session: FakeSession, displayed: list[Any]
) -> None:
    clock = SimClock()
    board = Dashboard(session, interactive=True, clock=clock, chart=False)
    board.show()
    session.failure = ValueError("no <b>such</b> row")
    await turns(clock, 1)
    await asyncio.wait_for(board.wait(), 60)
    console = board._panels["console"].value
    assert "stopped painting, ValueError: no &lt;b&gt;such" in console and "feed: recovered" in console
    assert board._task is not None and board._task.exception() is None
    assert session.stops == []


def test_the_stop_button_in_another_thread_only_requests_a_stop(session: FakeSession) -> None:
    board = Dashboard(session, interactive=True, chart=False)
    board.paint()
    before = board._buttons["stop"].description
    thread = threading.Thread(target=board._buttons["stop"].click)
    thread.start()
    thread.join()
    assert session.stops == ["stop button"] and board._buttons["stop"].description == before
    session.shot = msgspec.structs.replace(session.shot, stopped="stop button")
    board.paint()
    assert board._buttons["stop"].disabled and "stopping" in board._buttons["stop"].description


def test_pause_and_resume_are_offered_in_turn(session: FakeSession) -> None:
    board = Dashboard(session, interactive=True, chart=False)
    board.paint()
    pause, resume = board._buttons["pause"], board._buttons["resume"]
    assert not pause.disabled and resume.disabled
    session.shot = msgspec.structs.replace(session.shot, paused="pause button")
    board.paint()
    assert pause.disabled and not resume.disabled and "paused: pause button" in board._panels["header"].value
    for button in board._buttons.values():
        button.click()
    assert session.stops == ["pause button", "resume button", "flatten button", "stop button", "kill button"]


async def test_an_unattended_run_shows_one_line_without_widgets(
    session: FakeSession, displayed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALSHILAB_RUN", "r1")
    board = Dashboard(session)
    board.show()
    board.freeze()
    await board.wait()
    assert board.widget is None and board._task is None
    [line] = displayed
    assert "kalshilab watch 20260101T000000Z" in line.data


def test_showing_without_an_event_loop_is_an_error(session: FakeSession) -> None:
    with pytest.raises(SessionError, match="needs a running event loop"):
        Dashboard(session, interactive=True, chart=False).show()


async def test_a_paint_takes_less_than_100_ms_of_processor_time(session: FakeSession) -> None:
    board = Dashboard(session, interactive=True, chart=False)
    start_s = time.process_time()
    for i in range(20):
        session.shot = msgspec.structs.replace(session.shot, now=session.shot.now + i)
        board.paint()
    # A feed waits during a paint, so it takes much less processor time than the 250 ms between two paints.
    assert (time.process_time() - start_s) / 20 < 0.1


async def test_the_stop_button_ends_a_real_session(displayed: list[Any], tmp_path: Path) -> None:
    async def click_once_drawn(board: Dashboard) -> None:
        while not len(board._line.x):
            await asyncio.sleep(0.05)
        board._buttons["stop"].click()

    settings = Settings(env={}, env_file=None, out=tmp_path / "runs", speed=5_000, minutes=1)
    async with PaperSession(settings) as live:
        board = Dashboard(live, interactive=True)
        board.show()
        click = asyncio.create_task(click_once_drawn(board))
        report = await live.run()
        await asyncio.wait_for(board.wait(), 60)
        await click
    assert report.stopped == "stop button"
    assert "stopped: stop button" in board._panels["header"].value
    assert "stopped painting" not in board._panels["console"].value
    assert len(board._line.x) >= 1 and board._figure is None


@pytest.mark.parametrize("limit", [4, 7, 100])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 99, 1_000])
def test_equity_line_is_bounded_ordered_and_ends_at_the_newest(limit: int, n: int) -> None:
    line = EquityLine(limit)
    for i in range(n):
        line.add(i * 1_000_000, i * 2_000_000)
        assert len(line.x) <= limit and line.x[-1] == i * 1_000 and line.y[-1] == i * 2.0
    steps = np.diff(line.x)
    assert (steps > 0).all() and (n == 0 or line.x[0] == 0)
    # Steps are equal except for the last, which ends at the newest sample.
    assert len(set(steps[:-1].tolist())) <= 1
    if n >= limit:
        assert len(line.x) >= limit // 2


def test_the_default_limit_is_two_thousand_points() -> None:
    assert POINTS == 2_000
