"""`kalshilab watch` on runs without news."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kalshilab.__main__ import main


def test_a_run_without_news_is_reported_as_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert capsys.readouterr().out == "not started yet\n"
    os.utime(tmp_path, (1e9, 1e9))
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert capsys.readouterr().out == (
        "not started yet  (no news since 2001-09-09 01:46:40 UTC: it may have been killed)\n"
    )
