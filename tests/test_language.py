"""Plain English: docstrings open with a verb or a noun, and words that slow a native reader down are refused.

Checked are docstrings, comments, messages (strings of several words), the notebooks' prose, README and CONTRIBUTING.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPENINGS = re.compile(r"(what|who|whoever|whose|whatever|whichever|that|which|where|when|how|why|of)\b", re.I)
REFUSED = {
    name: re.compile(pattern, re.I)
    for name, pattern in {
        "free relative": r"\b(whatever|whoever|whosoever)\b",
        "negated noun": r"(?<!there )(?<!there's )\b(is|are|was|were|be|becomes) no\b(?! (longer|more|less|later|earlier|fewer|better|worse|greater|larger|smaller|higher|lower)\b)",
        "bare none": r"\b(is|are|was|were|be|has|have|gives?|or) (?-i:none)\b(?! of\b)",
        "tell, say, hear": r"\b(tells?|told|telling|says?|said|saying|hears?|heard|hearing)\b",
        "afresh": r"\bafresh\b",
        "meanwhile": r"\bmeanwhile\b",
        "of one's own": r"\b(of|on|by) (one's|its|their|ours?|your|his) own\b|\bof ours\b|\bone's own\b",
        "take off, bring along": r"\b(takes?|took|taken) off\b|\b(brings?|brought) along\b",
        "as of now archaic": r"\b(thereof|therein|whereof|henceforth|behold|whence|hither|thither)\b",
        "so many, so much": r"\bso (many|much) (a|an|of)\b",
        "person for a program": r"\bwho (asks|reads|calls|uses|writes|scans|adds|sends|comes|looks)\b",
    }.items()
}
SOURCES = sorted(
    p
    for folder in ("kalshilab", "tests", "research")
    for p in (ROOT / folder).rglob("*.py")
    if p != Path(__file__).resolve()
)
PROSE = sorted(
    [
        *(ROOT / "notebooks").rglob("*.ipynb"),
        *ROOT.glob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        *(ROOT / "kalshilab").glob("*.md"),
        *(ROOT / "research").rglob("*.md"),
    ]
)


def docstrings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of a module, its classes and functions, and of its documented names."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        for at, statement in enumerate(body):
            text = getattr(getattr(statement, "value", None), "value", None)
            if not (isinstance(statement, ast.Expr) and isinstance(text, str)):
                continue
            opens = at == 0 and isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            )
            if opens or (at and isinstance(body[at - 1], ast.Assign | ast.AnnAssign)):
                yield statement.lineno, text


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the strings that are sentences: four words or more, and not SQL, code or a path."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.count(" ") >= 3:
            yield node.lineno, node.value


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a notebook's Markdown cells, or the lines of a Markdown file."""
    if path.suffix != ".ipynb":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        return
    for at, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "markdown":
            yield at, "".join(cell["source"])


def refused(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Return what the word list refuses, each with its line."""
    return [
        f"line {line}: {name}: …{' '.join(text[max(found.start() - 30, 0) : found.end() + 30].split())}…"
        for line, text in lines
        for name, pattern in REFUSED.items()
        if (found := pattern.search(text))
    ]


def source_errors(path: Path) -> list[str]:
    """Return what the rules refuse in a source file, each with its line."""
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    wrong = [
        f"line {line}: opens with a relative clause: {doc.strip().splitlines()[0]}"
        for line, doc in docstrings(tree)
        if doc.strip() and OPENINGS.match(doc.strip())
    ]
    return wrong + refused(docstrings(tree)) + refused(messages(tree)) + refused(comments(text))


FOLDERS = sorted({"/".join(path.relative_to(ROOT).parts[:2]) for path in SOURCES})


@pytest.mark.parametrize("folder", FOLDERS)
def test_source_files_are_in_plain_english(folder: str) -> None:
    wrong = [
        f"{name}, {error}"
        for path in SOURCES
        if (name := str(path.relative_to(ROOT))).startswith(folder)
        for error in source_errors(path)
    ]
    assert not wrong, "\n".join(dict.fromkeys(wrong))


@pytest.mark.parametrize("path", PROSE, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_is_in_plain_english(path: Path) -> None:
    wrong = refused(prose(path))
    assert not wrong, "\n".join(wrong)


def test_the_rules_find_what_they_refuse() -> None:
    for sentence in (
        "a hash is no p-value",
        "there are fires or none",
        "Whatever was wrong",
        "the lake says so",
        "a signal of one's own",
        "the copy is made afresh",
    ):
        assert refused(iter([(1, sentence)])), sentence
    assert OPENINGS.match("What a verdict rests on")
    assert not refused(iter([(1, "There is no fill. It is no longer open. None of the rows match.")]))
