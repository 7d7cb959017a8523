"""The documentation: every path it names exists, the changelog is current, and the API reference builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import kalshilab

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / ".github" / "CONTRIBUTING.md",
    ROOT / "research" / "benchmarks" / "README.md",
]
CONTRIBUTING = PAGES[1]
CHANGELOG = ROOT / "kalshilab" / "CHANGELOG.md"
TOP = {p.name for p in ROOT.iterdir()}
SUFFIXES = (".py", ".md", ".toml", ".ipynb", ".jsonl", ".tsv", ".css", ".sh")
CODE = re.compile(r"`([^`\n]+)`|^ {4}(.+)$|\b(?:python|ruff|pytest)\s+(.+)$", re.M)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")

REFERENCE = """
import sys, warnings
from pathlib import Path
warnings.simplefilter("error")
# pdoc evaluates annotations to link them, and shows them as text where it cannot: names under TYPE_CHECKING, the
# generated constructor of a NamedTuple.  mypy checks annotations; every other warning is an error.
warnings.filterwarnings("ignore", "Error parsing type annotation ")
import pdoc
pdoc.render.configure(docformat="google", show_source=False, search=False)
pdoc.pdoc("kalshilab", output_directory=Path(sys.argv[1]))
"""


def named_paths(text: str) -> set[str]:
    """Return the files and folders of this repository that a page names in code or links to."""
    words = {
        word for match in CODE.finditer(text) for part in match.groups() if part for word in part.split()
    }
    paths = {
        word.rstrip(".,;:)").split("::")[0]
        for word in words
        if word.split("/")[0] in TOP and ("/" in word or word.endswith(SUFFIXES))
    }
    return {p for p in paths if not set(p) & set("*<>{}$[]")}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.parent.name + "/" + p.name)
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    missing = [path for path in named_paths(text) if not (ROOT / path).exists()]
    missing += [link for link in LINK.findall(text) if not (page.parent / link).exists()]
    assert not missing


def test_paths_are_found_in_code_blocks_and_links() -> None:
    text = "Open `kalshilab/none.py`, run\n\n    pytest tests/none -k x\n\nor see `a/b`, `python x` and [it](gone.md)."
    assert named_paths(text) == {"kalshilab/none.py", "tests/none"} and LINK.findall(text) == ["gone.md"]


def test_the_table_of_changes_names_one_or_two_files_for_each_of_fifteen_changes() -> None:
    section = CONTRIBUTING.read_text(encoding="utf-8").split("## To change X, open Y")[1].split("\n## ")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15
    for change, where in rows:
        files = re.findall(r"`([^`]+)`", where)
        assert 1 <= len(files) <= 2 and all((ROOT / f).is_file() for f in files), (change, files)


def test_the_picture_of_the_floors_shows_every_package() -> None:
    picture = CONTRIBUTING.read_text(encoding="utf-8").split("```mermaid")[1].split("```")[0]
    packages = {p.parent.name for p in (ROOT / "kalshilab").glob("*/__init__.py")}
    assert packages <= set(re.findall(r"\w+", picture))


def test_the_changelog_starts_with_this_version_and_is_linked_from_the_readme() -> None:
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)", CHANGELOG.read_text(encoding="utf-8"), re.M)
    assert versions[0] == kalshilab.__version__
    assert "kalshilab/CHANGELOG.md" in LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_the_api_reference_builds_without_a_warning(tmp_path: Path) -> None:
    if importlib.util.find_spec("pdoc") is None:
        pytest.skip("needs pdoc (the extra `docs`)")
    done = subprocess.run(
        [sys.executable, "-c", REFERENCE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=590,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    # Lazy names are documented: of the package, and of a package inside it.
    front, notebook = (
        (tmp_path / page).read_text(encoding="utf-8")
        for page in ("kalshilab.html", "kalshilab/notebook.html")
    )
    for name in set(kalshilab.__all__) - {"__version__"}:
        value = getattr(kalshilab, name)
        if isinstance(value, ModuleType):
            assert (tmp_path / value.__name__.replace(".", "/")).with_suffix(".html").is_file(), name
        else:
            assert f'id="{name}"' in front, name
    assert 'id="LiveRun"' in notebook and 'href="notebook/research.html"' in notebook
