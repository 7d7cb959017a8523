"""Recorded results: read back unchanged, and legible as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest

from kalshilab.errors import SessionError
from kalshilab.notebook import results


def test_recorded_values_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr(results, "display", lambda bundle, raw: shown.append(bundle))
    results.record("edge", {"mean": 1 / 3, "n": (1, 2)}, digits=3)
    results.record("edge", 2.0)
    results.record("other", "text")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("a question?"),
            nbformat.v4.new_code_cell(
                "x", outputs=[nbformat.v4.new_output("display_data", data=b) for b in shown]
            ),
        ]
    )
    nbformat.write(notebook, tmp_path / "n.ipynb")
    assert shown[0]["text/plain"] == "edge: mean 0.333 · n 1, 2"
    assert results.read_results(tmp_path / "n.ipynb") == {"edge": 2.0, "other": "text"}


def test_a_long_record_wraps_between_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(results, "display", lambda bundle, raw: shown.append(bundle["text/plain"]))
    results.record("edge", {f"a name {k}": -k / 7 for k in range(40)}, digits=3)
    lines = shown[0].splitlines()
    assert len(lines) > 5 and max(map(len, lines)) <= results.WIDTH
    assert " ".join(line.strip() for line in lines) == "edge: " + " · ".join(
        f"a name {k} {round(-k / 7, 3)}" for k in range(40)
    )


def test_a_missing_or_invalid_notebook_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SessionError, match="no such notebook"):
        results.read_results(tmp_path / "missing.ipynb")
    (tmp_path / "bad.ipynb").write_text("{")
    with pytest.raises(SessionError, match="not a notebook"):
        results.read_results(tmp_path / "bad.ipynb")
