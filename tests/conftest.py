"""Fixtures every folder of tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test
from hypothesis import settings as hypothesis_settings

# A slow machine must not fail a test, so no example has a deadline. The suite draws the same examples in every run; a
# soak (`-m soak`) runs the property tests too, and draws new examples each time.
hypothesis_settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis_settings.register_profile("soak", deadline=None, derandomize=False, print_blob=True)

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


def pytest_configure(config: pytest.Config) -> None:
    """Choose the examples of the property tests."""
    hypothesis_settings.load_profile("soak" if _is_soak(config) else "suite")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Include the property tests in a soak."""
    if _is_soak(config):
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker(pytest.mark.soak)


def _is_soak(config: pytest.Config) -> bool:
    """Return True if the marker expression selects soak tests."""
    expression = str(config.getoption("-m"))
    return "soak" in expression and "not soak" not in expression


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of recorded data and of the exchange's specifications; skip the test without it."""
    if not SHARED.is_dir():
        pytest.skip("the folder of recorded data and specifications is not here")
    return SHARED


@pytest.fixture(scope="session")
def ipython_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for the files of IPython; a folder for each test would cost more than most tests."""
    return tmp_path_factory.mktemp("ipython")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, ipython_folder: Path) -> None:
    """Hide the settings of this machine from a test."""
    for name in list(os.environ):
        if name.startswith(("KALSHI", "RLM_", "LIFECYCLE_", "V3_", "MIN_TRADER", "DISCOVERY_", "API_DISC")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IPYTHONDIR", str(ipython_folder))
