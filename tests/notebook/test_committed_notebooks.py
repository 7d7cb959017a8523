"""Committed notebooks: small, parsable, without widget state, stray outputs or absolute paths."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from kalshilab.config.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "notebooks"
EDGES = FOLDER / "edges"
NOTEBOOKS = sorted(p for p in FOLDER.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PATH = re.compile(r"(?<![\w.:/])(?:/(?:home|root|Users|tmp|mnt|opt|var|srv)/\w|[A-Za-z]:\\\\?\w)")
SETTERS = ("venue", "strategy", "minutes", "speed", "categories", "min_trades", "min_drop", "yes_threshold",
           "contracts", "seed")  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code_cells(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def tagged(path: Path, tag: str) -> list[dict[str, Any]]:
    return [cell for cell in code_cells(path) if tag in cell["metadata"].get("tags", [])]


def test_the_path_pattern_matches_paths_and_nothing_else() -> None:
    for text in ('"/home/ann/x.ipynb"', "'/tmp/a'", "C:\\\\Users", "file:///Users/bob"):
        assert PATH.search(text) or text.startswith("file"), text
    for text in ("https://example.com/home/x", "a/b", "1/10,000", "text/plain", "kalshilab/home/x"):
        assert not PATH.search(text), text


def test_the_start_and_the_live_notebook_exist() -> None:
    assert {"00_start_here.ipynb", "live_paper.ipynb"} <= {p.name for p in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestEveryNotebook:
    """Facts that hold for each committed notebook."""

    def test_is_small_and_holds_no_widget_state(self, path: Path) -> None:
        assert path.stat().st_size < 300_000
        assert "widgets" not in read(path)["metadata"]

    def test_has_the_expected_format(self, path: Path) -> None:
        book = read(path)
        assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
        assert book["metadata"]["kernelspec"]["name"] == "python3"
        ids = [cell["id"] for cell in book["cells"]]
        assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", i) for i in ids)

    def test_code_parses(self, path: Path) -> None:
        for cell in code_cells(path):
            compile(
                source(cell),
                f"{path.name}:{cell['id']}",
                "exec",
                ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST,
            )

    def test_keeps_outputs_only_where_they_are_references(self, path: Path) -> None:
        if EDGES in path.parents:
            return
        for cell in code_cells(path):
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]

    def test_names_no_absolute_path(self, path: Path) -> None:
        assert PATH.findall(path.read_text(encoding="utf-8")) == []

    def test_asks_one_question_first_and_has_one_parameters_cell(self, path: Path) -> None:
        first = read(path)["cells"][0]
        assert first["cell_type"] == "markdown" and "?" in source(first).splitlines()[0]
        assert len(tagged(path, "parameters")) == 1

    def test_no_cell_is_marked_to_fail(self, path: Path) -> None:
        # papermill fails on such a cell regardless of its tag.
        assert tagged(path, "raises-exception") == []


@pytest.mark.parametrize("name", ["00_start_here", "paper_and_verdict"])
def test_a_notebook_runs_from_top_to_bottom_without_an_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import papermill

    monkeypatch.chdir(tmp_path)
    papermill.execute_notebook(
        FOLDER / f"{name}.ipynb", tmp_path / "out.ipynb", kernel_name="python3", progress_bar=False
    )
    cells = [c for c in read(tmp_path / "out.ipynb")["cells"] if c["cell_type"] == "code"]
    assert all(c["execution_count"] for c in cells if "".join(c["source"]))
    assert not [o for c in cells for o in c["outputs"] if o["output_type"] == "error"]


def test_live_parameters_are_settings_without_a_value() -> None:
    [cell] = tagged(FOLDER / "live_paper.ipynb", "parameters")
    names = []
    for line in ast.parse(source(cell)).body:
        assert isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        assert isinstance(line.value, ast.Constant) and line.value.value is None
        names.append(line.target.id)
    assert tuple(names) == SETTERS
    assert set(names) <= Settings(env={}, env_file=None).as_dict().keys()


def test_every_live_parameter_reaches_the_settings() -> None:
    text = "\n".join(source(c) for c in code_cells(FOLDER / "live_paper.ipynb"))
    assert all(f'"{name}": {name},' in text for name in SETTERS)


def test_papermill_reads_the_live_parameters() -> None:
    from papermill.inspection import inspect_notebook

    parameters = inspect_notebook(str(FOLDER / "live_paper.ipynb"))
    assert tuple(parameters) == SETTERS
    assert all(p["help"] and p["inferred_type_name"] != "None" for p in parameters.values())


def test_the_live_notebook_awaits_in_one_cell_and_raises_a_failure_of_the_run_last() -> None:
    cells = code_cells(FOLDER / "live_paper.ipynb")
    assert (FOLDER / "live_paper.ipynb").stat().st_size < 30_000
    awaiting = [c for c in cells if re.search(r"\bawait\b|\basync with\b", source(c))]
    assert [c["id"] for c in awaiting] == ["session"]
    assert source(cells[-1]).startswith("report.check()")
    order = [c["id"] for c in cells]
    assert order[0] == "parameters" and order.index("session") < order.index("summary") < order.index(
        "record"
    )


def test_parameters_are_the_first_code_cell() -> None:
    for path in NOTEBOOKS:
        [cell] = tagged(path, "parameters")
        assert code_cells(path)[0]["id"] == cell["id"]
