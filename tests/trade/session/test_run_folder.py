"""Runs never share a folder, and end on their conditions."""

from __future__ import annotations

from pathlib import Path

import pytest

from kalshilab.clock import SimClock
from kalshilab.config.settings import Settings
from kalshilab.errors import UsageError
from kalshilab.trade.session.run_folder import Ending, claim_run, name_run

NOW = 1_795_329_000_900_000


def test_each_claim_creates_a_new_folder(tmp_path: Path) -> None:
    claimed = [claim_run(tmp_path / "runs", NOW) for _ in range(3)]
    assert [run_id for run_id, _ in claimed] == [
        "20261122T063000Z",
        "20261122T063000Z-2",
        "20261122T063000Z-3",
    ]
    assert all(folder.is_dir() for _, folder in claimed)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="choose another folder"):
        claim_run(tmp_path / "file" / "runs", NOW)


def test_the_runner_names_the_run(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KALSHILAB_RUN", "r1")
    assert name_run(settings, None, NOW) == ("r1", Path(settings.out) / "r1")
    assert name_run(settings, tmp_path / "mine", NOW) == ("mine", tmp_path / "mine")


def test_a_run_ends_after_its_minutes_or_at_the_stop_file(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    clock = SimClock(0)
    settings = Settings(env={}, env_file=None, minutes=2, stop_file=str(stop))
    ending = Ending(settings, clock, began=0.0)
    clock.advance(119_000_000)
    assert ending.due() == ""
    stop.touch()
    assert ending.due() == "stop file"
    stop.write_text("SIGTERM\n")
    assert ending.due() == "SIGTERM"
    clock.advance(120_000_000)
    assert ending.due() == "2 minutes are up"
