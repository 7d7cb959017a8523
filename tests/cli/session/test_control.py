"""`kalshilab control`: a request reaches a live session, and no other."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from cli.session.conftest import MakeRun

from kalshilab.__main__ import main
from kalshilab.clock import WallClock
from kalshilab.trade.core.messages import Operate
from kalshilab.trade.live.control_file import take_requests


def session(folder: Path, taken: list[Operate]) -> threading.Thread:
    """Start a thread that takes the first requests of a run, within a minute."""

    def take() -> None:
        until = WallClock().monotonic() + 60
        while not taken and WallClock().monotonic() < until:
            taken.extend(take_requests(folder))

    thread = threading.Thread(target=take)
    thread.start()
    return thread


def test_a_request_is_taken_by_the_session(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(strategies={"rlm_no": "on"})
    taken: list[Operate] = []
    thread = session(folder, taken)
    assert main(["control", "latest", "pause", "--strategy", "rlm_no", "--reason", "news"]) == 0
    thread.join()
    assert taken == [Operate("pause", "news", "rlm_no")]
    assert capsys.readouterr().out == "20261201T000000Z: pause for rlm_no taken\n"


def test_a_request_that_is_not_taken_is_left_and_reported(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_run()
    assert main(["control", "latest", "kill", "--wait-s", "0.2"]) == 1
    assert "did not take the request within 0.2 s; it is left in" in capsys.readouterr().err
    assert take_requests(folder) == [Operate("kill")]


@pytest.mark.parametrize(
    ("facts", "arguments", "message"),
    [
        ({"finished": True, "stopped": "tape ended"}, ["stop"], "the run has ended (tape ended)"),
        ({"alive": False}, ["stop"], "its session is dead: the process is gone, and the run has not ended"),
        (
            {"strategies": {"rlm_no": "on"}},
            ["pause", "--strategy", "x"],
            "--strategy must be one of rlm_no, got 'x'",
        ),
        ({}, ["stop", "--strategy", "x"], "strategy must be given with pause or resume only, got 'stop'"),
        ({}, ["pause", "--wait-s", "nan"], "--wait-s must be a finite number >= 0, got nan"),
    ],
)
def test_a_request_that_nothing_could_take_is_refused(
    facts: dict[str, object],
    arguments: list[str],
    message: str,
    make_run: MakeRun,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_run(**facts)
    assert main(["control", str(folder), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert take_requests(folder) == []
