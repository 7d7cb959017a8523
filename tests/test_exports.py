"""Public names: listed by `dir()`, there in a fresh process, and still importable under the paths of version 0.1."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import kalshilab
from kalshilab.moved import MOVED

ROOT = Path(kalshilab.__file__).parent
PACKAGES = sorted(
    ".".join(("kalshilab", *stub.parent.relative_to(ROOT).parts)) for stub in ROOT.rglob("__init__.pyi")
)
RESOLVE = """
import importlib, json, os, sys, warnings
# Libraries that are slow to import. No module of kalshilab is imported before a package has its process.
import cryptography, httpx, ipywidgets, numba, pandas, papermill, plotly.graph_objects, scipy.stats, websockets
warnings.simplefilter("error")
found = {}
for package in json.loads(sys.argv[1]):
    reading, writing = os.pipe()
    if os.fork() == 0:
        module = importlib.import_module(package)
        missing = [name for name in module.__all__ if not hasattr(module, name)]
        os.write(writing, json.dumps([dir(module) == module.__all__, missing]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        found[package] = json.loads(answer.read() or "[false, null]")
    os.wait()
print(json.dumps(found))
"""


def fresh(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT.parent,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_every_package_has_a_stub() -> None:
    folders = {init.parent for init in ROOT.rglob("__init__.py")}
    without = {str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.pyi").is_file()}
    assert without == {"cli", "cli/session", "cli/terminal", "tape/sample"}


def test_the_names_of_every_package_resolve_in_a_fresh_process() -> None:
    """Each package has a separate process: nothing that was imported before helps."""
    found = json.loads(fresh(RESOLVE, json.dumps(PACKAGES)))
    assert found == {package: [True, []] for package in PACKAGES}


def test_a_stub_lists_a_name_once() -> None:
    for package in PACKAGES:
        stub = ROOT.joinpath(*package.split(".")[1:], "__init__.pyi")
        names = [
            a.name
            for n in ast.walk(ast.parse(stub.read_text()))
            if isinstance(n, ast.ImportFrom)
            for a in n.names
        ]
        assert len(names) == len(set(names)), package


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'kalshilab\.edge' has no attribute 'no_such_name'"):
        _ = kalshilab.edge.no_such_name  # type: ignore[attr-defined]


def test_moved_modules_name_modules_that_exist() -> None:
    for old, new in MOVED.items():
        assert not ROOT.joinpath(*old.split(".")).with_suffix(".py").exists(), old
        assert ROOT.joinpath(*new.split(".")).with_suffix(".py").is_file(), new


def test_an_old_path_imports_the_moved_module_and_warns() -> None:
    code = """
import importlib, warnings
from kalshilab.moved import MOVED
for old, new in MOVED.items():
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        module = importlib.import_module(f"kalshilab.{old}")
    assert module is importlib.import_module(f"kalshilab.{new}"), old
    assert module.__spec__.name == f"kalshilab.{new}", old
    ours = [w for w in seen if w.category is DeprecationWarning and "has moved" in str(w.message)]
    assert len(ours) == 1, (old, [str(w.message) for w in seen])
"""
    fresh(code)


def test_an_old_path_is_reached_by_attribute_and_by_from() -> None:
    code = """
import warnings
import kalshilab as kl
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    assert kl.edge.baseline.excess is kl.edge.excess
    from kalshilab.edge.allocation import allocate
    from kalshilab.edge import cohort
assert allocate is kl.edge.sizing.allocate
assert cohort.censor is kl.edge.censoring.censor
assert len({str(w.message) for w in seen}) == 3
assert {w.filename for w in seen} == {"<string>"}
"""
    fresh(code)


def test_an_old_public_name_resolves_to_the_new_one_and_warns() -> None:
    code = """
import importlib, warnings
from kalshilab.moved import RENAMED
for old, new in RENAMED.items():
    module, _, name = old.rpartition(".")
    home, _, attribute = new.partition(":")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        value = getattr(importlib.import_module(f"kalshilab.{module}"), name)
    assert value is getattr(importlib.import_module(f"kalshilab.{home}"), attribute), old
    assert [w.filename for w in seen if w.category is DeprecationWarning] == ["<string>"], old
"""
    fresh(code)
