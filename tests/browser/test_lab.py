"""The live notebook in a real JupyterLab and a real browser, ended by a click on STOP.

Every wait polls the page with the deadline of `conftest.WAIT_MS`; nothing waits for a fixed time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

PANEL = ".kalshilab-dashboard .kl-{}"
ACTIVE_IS = "n => document.querySelectorAll('.jp-Notebook .jp-Cell')[n]?.classList.contains('jp-mod-active')"
"""Whether the active cell is the n-th one, counted from 0."""


def with_parameters(notebook: Path, target: Path, **values: object) -> Path:
    """Copy a notebook, with the given values in its parameters cell, and return the path of the copy."""
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
    """Run every cell and return the number of code cells."""
    code = page.locator(".jp-Notebook .jp-CodeCell").count()
    cells = page.locator(".jp-Notebook .jp-Cell").count()
    select_first_code_cell(page)
    # The first cell is text and precedes the selected one; in the last cell, Shift+Enter would add another.
    for position in range(2, cells):
        page.keyboard.press("Shift+Enter")
        page.wait_for_function(ACTIVE_IS, arg=position)
    page.keyboard.press("Control+Enter")
    return int(code)


def select_first_code_cell(page: Any) -> None:
    """Click the first code cell until it is active: JupyterLab loses a click while it restores its layout."""
    from playwright.sync_api import TimeoutError as NotActive

    for _ in range(60):
        page.locator(".jp-Notebook .jp-CodeCell .jp-InputArea-editor").first.click()
        try:
            page.wait_for_function(ACTIVE_IS, arg=1, timeout=3_000)
        except NotActive:
            continue
        return
    pytest.fail("the first code cell did not become active")


def text(page: Any, panel: str) -> str:
    return str(page.locator(PANEL.format(panel)).first.inner_text())


def saved_with_outputs(path: Path) -> dict[str, Any]:
    """Wait until the notebook on disk has the outputs of its last cell, and return it."""
    for _ in range(1_800):
        try:
            book: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError:
            book = {}  # JupyterLab is still writing it.
        if book and book["cells"][-1]["execution_count"]:
            return book
        time.sleep(0.1)
    pytest.fail("the notebook was not saved")


def test_the_live_notebook_updates_stops_on_click_and_reports(
    lab: tuple[str, Path], open_notebook: Callable[[Path], Any], tmp_path: Path
) -> None:
    _, root = lab
    source = ROOT / "notebooks" / "live_paper.ipynb"
    # Long enough for the click on a slow machine; the click ends it.
    copy = with_parameters(source, root / "live_paper.ipynb", minutes=10, speed=500)
    page = open_notebook(copy)
    code = run_all(page)

    stop = page.locator(".kalshilab-dashboard button", has_text="STOP")
    stop.wait_for()
    page.wait_for_function(
        "() => /READY|ACTING/.test(document.querySelector('.kalshilab-dashboard .kl-header')?.innerText ?? '')"
    )
    page.wait_for_selector(".kalshilab-dashboard .js-plotly-plot")
    # The dashboard is updated while the session runs.
    for panel in ("header", "processing"):
        page.wait_for_function(
            "([panel, before]) => document.querySelector(panel).innerText !== before",
            arg=[PANEL.format(panel), text(page, panel)],
        )
    stop.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "running.png")

    stop.click()
    page.wait_for_function(
        "() => document.querySelector('.kalshilab-dashboard .kl-header')?.innerText.includes('stopped: stop button')"
    )
    # Once the last cell has a number, every cell before it has run.
    page.wait_for_function(
        "n => /\\[\\d+\\]/.test(document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')[n - 1].innerText)",
        arg=code,
    )
    # Figures are drawn after their output has arrived, and the widget of the chart is replaced.
    page.wait_for_function("() => document.querySelectorAll('.jp-RenderedPlotly').length >= 2")
    page.wait_for_selector(".kalshilab-dashboard polyline", state="attached")
    assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator(".jp-OutputArea-output table", has_text="stop button").count() >= 1, "no summary"
    # The chart's widget is closed; a drawing without script has taken its place.
    assert page.locator(".kalshilab-dashboard .js-plotly-plot").count() == 0
    assert page.locator(".kalshilab-dashboard polyline").count() == 1
    page.locator(".kalshilab-dashboard").scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "stopped.png")
    page.locator(".jp-RenderedPlotly").first.scroll_into_view_if_needed()
    page.screenshot(path=tmp_path / "results.png")

    page.keyboard.press("Control+s")
    saved = saved_with_outputs(copy)
    assert "widgets" not in saved["metadata"]
    assert copy.stat().st_size < 300_000
    assert page.errors == []
    assert page.foreign == []
