"""Fixtures every folder of tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

# A busy machine is slow, not wrong: no example has a time limit of its own.
hypothesis_settings.register_profile("kalshilab", deadline=None)
hypothesis_settings.load_profile("kalshilab")

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Recorded data and the exchange's machine-readable contract, beside the project where they exist."""
    if not SHARED.is_dir():
        pytest.skip("the folder of recorded data and specifications is not here")
    return SHARED


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine reaches a test."""
    import os

    for name in list(os.environ):
        if name.startswith(("KALSHI", "RLM_", "LIFECYCLE_", "V3_", "MIN_TRADER", "DISCOVERY_", "API_DISC")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
