"""The command as a process, for the tests of its modules."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PATIENCE_S = 100
"""Seconds a command may take on a busy machine."""

RunCommand = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_command(tmp_path: Path) -> RunCommand:
    """Return a function that runs `kalshilab ARGUMENTS` in the test's folder to its end."""

    def run(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kalshilab", *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=tmp_path,
            env=env,
        )

    return run


@pytest.fixture
def start_command(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts `kalshilab ARGUMENTS` in the test's folder; its standard output is a pipe."""

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "kalshilab", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
        )

    return start
