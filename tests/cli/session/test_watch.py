"""`kalshilab watch` ends with a code, and never waits for a session that is dead."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cli.session.conftest import MakeRun, snapshot

from kalshilab.__main__ import main
from kalshilab.trade.status import write_status


def test_a_run_without_news_is_reported_as_dead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert capsys.readouterr().out == "not started yet\n"
    os.utime(tmp_path, (1e9, 1e9))
    assert main(["watch", str(tmp_path)]) == 1
    assert capsys.readouterr().out == (
        "not started yet  (its session is dead: no news since 2001-09-09 01:46:40 UTC)\n"
    )


@pytest.mark.parametrize(
    ("facts", "code", "words"),
    [
        ({"finished": True, "stopped": "tape ended"}, 0, "stopped: tape ended"),
        ({"finished": True, "stopped": "FeedLost: x", "error": "FeedLost: x"}, 1, "stopped: FeedLost: x"),
        ({}, 1, "its session is dead"),
    ],
)
def test_the_exit_code_states_how_a_run_ended(
    facts: dict[str, object], code: int, words: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(alive=False, **facts)
    assert main(["watch", "latest"]) == code
    assert words in capsys.readouterr().out


def test_what_keeps_a_session_from_trading_is_shown(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(paused="news", health={"feed": "healthy", "account": "degraded: 503"})
    assert main(["watch", "latest", "--once"]) == 0
    line = capsys.readouterr().out
    assert "paused: news" in line and "account: degraded: 503" in line and "feed" not in line


def test_watch_follows_a_run_until_it_ends(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    ended = snapshot(folder.name, state="SHUTDOWN", finished=True, stopped="deadline")
    timer = threading.Timer(0.5, write_status, (folder / "status.json", ended))
    timer.start()
    assert main(["watch", "latest"]) == 0
    timer.join()
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].startswith("READY") and lines[-2].startswith("SHUTDOWN") and lines[-1] == "stopped: deadline"
    )
