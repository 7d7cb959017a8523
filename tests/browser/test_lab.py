"""The live notebook as a person sees it: a real JupyterLab, a real browser, a click on STOP."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

PANEL = ".kalshilab-dashboard .kl-{}"


def with_parameters(notebook: Path, target: Path, **values: object) -> Path:
    """A copy whose parameters cell sets `values`, with the cell ids in order."""
    book = json.loads(notebook.read_text(encoding="utf-8"))
    [cell] = [c for c in book["cells"] if "parameters" in c["metadata"].get("tags", [])]
    lines = "".join(cell["source"]).splitlines()
    for name, value in values.items():
        [at] = [i for i, line in enumerate(lines) if line.startswith(f"{name}:")]
        lines[at] = f"{name} = {value!r}"
    cell["source"] = "\n".join(lines)
    target.write_text(json.dumps(book), encoding="utf-8")
    return target


def run_all(page: Any) -> int:
    """Run every cell; the number of code cells."""
    code = page.locator(".jp-Notebook .jp-CodeCell").count()
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").first.click()
    # The first cell is text and stands above; past the last one Shift+Enter would add a cell.
    for _ in range(cells - 1):
        page.keyboard.press("Shift+Enter")
        page.wait_for_timeout(150)
    return int(code)


def text(page: Any, panel: str) -> str:
    return str(page.locator(PANEL.format(panel)).first.inner_text())


def test_live_notebook_moves_stops_and_reports(
    lab: tuple[str, Path], open_notebook: Callable[[Path], Any], tmp_path: Path
) -> None:
    _, root = lab
    source = ROOT / "notebooks" / "live_paper.ipynb"
    copy = with_parameters(source, root / "live_paper.ipynb", minutes=1, speed=2000)
    page = open_notebook(copy)
    code = run_all(page)

    stop = page.locator(".kalshilab-dashboard button", has_text="STOP")
    stop.wait_for(timeout=60_000)
    page.wait_for_function(
        "() => /READY|ACTING/.test(document.querySelector('.kalshilab-dashboard .kl-header')?.innerText ?? '')",
        timeout=60_000,
    )
    page.wait_for_selector(".kalshilab-dashboard .js-plotly-plot", timeout=30_000)
    before = text(page, "header"), text(page, "processing")
    page.wait_for_timeout(3_000)
    after = text(page, "header"), text(page, "processing")
    assert before[0] != after[0] and before[1] != after[1], (
        "the dashboard stands still while the session runs"
    )
    stop.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "running.png")

    stop.click()
    page.wait_for_function(
        "() => document.querySelector('.kalshilab-dashboard .kl-header')?.innerText.includes('stopped: stop button')",
        timeout=30_000,
    )
    # The last cell has a number: every cell before it has run as well.
    page.wait_for_function(
        "n => /\\[\\d+\\]/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[n - 1].innerText)",
        arg=code,
        timeout=60_000,
    )
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-OutputArea-output table", has_text="stop button").count() >= 1, "no summary"
    assert page.locator(".jp-RenderedPlotly").count() >= 2, "no static figures"
    # The chart's widget is closed; a drawing without script stands in its place.
    assert page.locator(".kalshilab-dashboard .js-plotly-plot").count() == 0
    assert page.locator(".kalshilab-dashboard polyline").count() == 1
    page.locator(".kalshilab-dashboard").scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "stopped.png")
    page.locator(".jp-RenderedPlotly").first.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "results.png")

    page.keyboard.press("Control+s")
    page.wait_for_timeout(2_000)
    saved = json.loads(copy.read_text(encoding="utf-8"))
    assert "widgets" not in saved["metadata"]
    assert copy.stat().st_size < 300_000
    assert page.errors == []
    assert page.foreign == []
