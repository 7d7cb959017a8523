"""The shape of the package: imports point one way, one place reads the clock, files stay short, names resolve."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import kalshilab

ROOT = Path(kalshilab.__file__).parent
FILES = {
    ".".join(("kalshilab", *p.relative_to(ROOT).with_suffix("").parts)): p for p in sorted(ROOT.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in FILES.items()}

GROUND = {"errors", "units", "clock", "fs", "retry", "deprecation", "lazy", "config"}
# Each room's imports beside itself and the ground, lowest floor first.  A room may import only rooms above it in this
# list.  "edge" alone stands for the modules of `edge/` that are in no room.
ROOMS = {
    "errors": set(),
    "moved": set(),
    "fs": set(),
    "deprecation": set(),
    "units": {"errors", "deprecation"},
    "clock": {"errors", "units"},
    "lazy": {"moved"},
    "retry": {"errors"},
    "config": {"errors", "units", "clock", "deprecation", "lazy"},
    "market": set(),
    "tape": set(),
    "tape.sample": {"tape"},
    "tape.lake": {"tape"},
    "tape.ingest": {"market", "tape", "tape.lake"},
    "kalshi.wire": {"market"},
    "kalshi": {"kalshi.wire"},
    "kalshi.rest": {"kalshi", "kalshi.wire", "market"},
    "kalshi.stream": {"kalshi", "kalshi.rest", "kalshi.wire", "market"},
    "signals.engine": {"tape", "tape.lake"},
    "signals": {"signals.engine", "tape", "tape.lake"},
    "signals.builtin": {"signals", "signals.engine"},
    "edge": {"tape"},
    "edge.stats": {"edge", "signals", "signals.engine", "tape"},
    "edge.entries": {"edge", "edge.stats", "market", "signals.engine", "tape", "tape.lake"},
    "edge.sizing": {"edge", "edge.stats", "market", "signals.engine", "tape", "tape.lake"},
    "edge.live": {"edge", "edge.stats"},
    "edge.lookahead": {"edge", "edge.entries", "edge.stats", "signals", "signals.engine", "tape", "tape.lake"},
    "edge.robustness": {"edge", "edge.entries", "edge.stats", "signals", "signals.engine", "tape", "tape.lake"},
    "edge.prereg": {"edge", "edge.entries", "edge.lookahead", "edge.robustness", "edge.stats", "market", "signals.engine", "tape", "tape.lake"},
    "edge.report": {
        "edge", "edge.entries", "edge.live", "edge.lookahead", "edge.prereg", "edge.robustness", "edge.sizing", "edge.stats",
        "market", "signals", "signals.builtin", "signals.engine", "tape", "tape.lake",
    },
    "exchange.flows": {"kalshi.wire", "market", "tape"},
    "exchange.stream": {"kalshi.wire"},
    "exchange.state": {"exchange.flows", "kalshi.wire", "market"},
    "exchange.orders": {"exchange.state", "exchange.stream", "kalshi.wire", "market"},
    "exchange": {"exchange.flows", "exchange.orders", "exchange.state", "exchange.stream", "kalshi.wire", "market"},
    "exchange.rest": {"exchange", "exchange.orders", "exchange.state", "exchange.stream", "kalshi", "kalshi.wire", "market"},
    "exchange.faults": {"exchange", "exchange.rest", "exchange.state", "kalshi.wire"},
    "exchange.server": {"exchange", "exchange.faults", "exchange.rest", "kalshi", "kalshi.wire"},
    "trade": {"market", "signals"},
    "trade.strategies": {"market", "signals", "trade"},
    "trade.markets": {"market"},
    "trade.orders": {"market", "trade"},
    "trade.core": {"kalshi.stream", "market", "signals", "trade", "trade.markets", "trade.strategies"},
    "trade.venues": {"exchange", "kalshi", "kalshi.rest", "kalshi.stream", "market", "tape", "tape.sample", "trade", "trade.markets"},
    "trade.live": {
        "kalshi.rest", "kalshi.stream", "market", "trade", "trade.core", "trade.markets", "trade.orders", "trade.venues",
    },
    "trade.session": {
        "edge", "edge.lookahead", "kalshi.rest", "kalshi.stream", "market", "signals", "tape", "tape.sample", "trade", "trade.core", "trade.live",
        "trade.orders", "trade.strategies", "trade.venues",
    },
    "trade.backtest": {
        "exchange", "exchange.flows", "exchange.orders", "exchange.state", "kalshi.stream", "kalshi.wire", "market",
        "trade", "trade.core", "trade.session",
    },
    "notebook": {"trade", "trade.session"},
    "notebook.session": {"trade", "trade.session"},
    "notebook.research": {"edge", "edge.report", "notebook.session"},
    "cli.terminal": {"trade"},
    "cli.session": {"cli.terminal", "market", "trade", "trade.core", "trade.live", "trade.session"},
    "cli": {
        "cli.session", "cli.terminal",
        "edge.report", "exchange", "exchange.faults", "kalshi", "kalshi.rest", "kalshi.stream", "notebook", "signals",
        "signals.engine", "tape", "tape.ingest", "tape.lake", "trade", "trade.core", "trade.live", "trade.session", "trade.strategies", "trade.venues",
    },
    "__main__": {"cli"},
}  # fmt: skip
# A result shows itself and loads what draws it only then.
DRAWING = {
    ("kalshilab.trade.session.session", "notebook", ("show",)),
    ("kalshilab.edge.report.card", "notebook", ("figure",)),
    ("kalshilab.edge.report.card", "notebook", ("_repr_html_",)),
}
OUTSIDE = {
    "httpx": (
        "kalshilab.kalshi.rest.client",
        "kalshilab.kalshi.rest.orders",
        "kalshilab.kalshi.rest.transport_httpx",
    ),
    "websockets": ("kalshilab.kalshi.stream.transport_websockets", "kalshilab.exchange."),
    "picows": ("kalshilab.kalshi.stream.transport_picows",),
    "aiohttp": ("kalshilab.kalshi.rest.transport_aiohttp",),
    "httptools": ("kalshilab.exchange.",),
    "IPython": ("kalshilab.notebook.",),
    "ipywidgets": ("kalshilab.notebook.",),
    "plotly": ("kalshilab.notebook.",),
    "papermill": ("kalshilab.notebook.",),
    "nbformat": ("kalshilab.notebook.",),
    "nbclient": ("kalshilab.notebook.",),
}


class Import(NamedTuple):
    """One imported module; `inside` the functions it stands in, outermost first."""

    module: str
    line: int
    inside: tuple[str, ...]


def imports(module: str) -> Iterator[Import]:
    """Every import of a module, those in functions and under TYPE_CHECKING included."""
    package = module.split(".")[:-1]

    def walk(node: ast.AST, inside: tuple[str, ...]) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, inside)
            elif isinstance(child, ast.ImportFrom):
                base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
                origin = ".".join(filter(None, (base, child.module or "")))
                for alias in child.names:
                    whole = f"{origin}.{alias.name}"
                    # `from package import module` imports the module, `from module import name` its home.
                    is_module = whole in FILES or f"{whole}.__init__" in FILES
                    yield Import(whole if is_module else origin, child.lineno, inside)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from walk(child, (*inside, child.name))
            else:
                yield from walk(child, inside)

    yield from walk(TREES[module], ())


def part(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else "__init__"


def room(module: str) -> str:
    """Return the room a module stands in: `edge.stats`, or `edge` for a module beside the rooms."""
    names = [n for n in module.split(".")[1:] if n != "__init__"]
    if not ROOT.joinpath(*names).is_dir() and len(names) > 1:
        names = names[:-1]
    return ".".join(names[:2])


PACKAGED = [m for m in FILES if m != "kalshilab.__init__"]


def for_each(modules: Iterable[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """Make one test of a check of every module; two thousand tests of a millisecond would take a minute to report."""

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            failures = []
            for module in modules:
                try:
                    check(module)
                except AssertionError as error:
                    failures.append(f"{module}: {error}")
            assert not failures, "\n".join(failures)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def test_every_package_is_in_the_import_table() -> None:
    assert {room(m) for m in PACKAGED} == ROOMS.keys()


def test_packages_are_listed_after_those_they_import() -> None:
    seen: set[str] = set()
    for name, below in ROOMS.items():
        assert below <= seen, f"{name} is listed before {sorted(below - seen)}"
        seen.add(name)


@for_each(PACKAGED)
def test_imports_point_down(module: str) -> None:
    own = room(module)
    allowed = ROOMS[own] | {own} | (set() if own in GROUND | {"moved"} else GROUND)
    wrong = []
    for found in imports(module):
        if not found.module.startswith("kalshilab."):
            continue
        if (module, part(found.module), found.inside) in DRAWING:
            continue
        if room(found.module) not in allowed:
            wrong.append(f"line {found.line}: {found.module}")
    assert not wrong, f"{module} imports {wrong}"


@for_each([m for m in PACKAGED if part(m) == "exchange"])
def test_the_exchange_imports_only_wire_and_auth_of_the_client(module: str) -> None:
    for found in imports(module):
        if found.module.startswith("kalshilab.kalshi"):
            assert found.module.startswith(("kalshilab.kalshi.wire", "kalshilab.kalshi.auth")), found


@for_each(PACKAGED)
def test_third_party_packages_are_imported_only_in_their_listed_modules(module: str) -> None:
    for found in imports(module):
        homes = OUTSIDE.get(found.module.split(".")[0])
        if homes is not None:
            assert module in homes or any(h.endswith(".") and module.startswith(h) for h in homes), (
                f"{module} imports {found}"
            )


def test_orders_use_httpx_for_a_type_only() -> None:
    tree = TREES["kalshilab.kalshi.rest.orders"]
    used = {
        n.attr
        for n in ast.walk(tree)
        if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "httpx"
    }
    assert used <= {"AsyncBaseTransport"}


CLOCKS = {
    "time": {
        "time",
        "time_ns",
        "monotonic",
        "monotonic_ns",
        "perf_counter",
        "perf_counter_ns",
        "gmtime",
        "localtime",
        "sleep",
    },
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
}


@for_each([m for m in PACKAGED if m != "kalshilab.clock"])
def test_only_the_clock_reads_the_clock(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            assert node.attr not in CLOCKS.get(owner, ()), (
                f"{module}, line {node.lineno}: {owner}.{node.attr}"
            )
        elif isinstance(node, ast.ImportFrom) and node.module == "time" and not node.level:
            assert not {a.name for a in node.names} & CLOCKS["time"], f"{module}, line {node.lineno}"


@for_each(list(FILES))
def test_a_file_is_at_most_five_hundred_lines(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= 500


@for_each(list(FILES))
def test_a_module_has_a_docstring_and_no_print(module: str) -> None:
    tree = TREES[module]
    assert ast.get_docstring(tree)
    calls = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "print"
    ]
    assert not calls or part(module) in ("__main__", "cli")
    assert not {"utils", "util", "helper", "helpers", "manager", "misc", "common"} & set(module.split("."))


FOLDERS = sorted({path.parent for path in FILES.values()})


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: str(f.relative_to(ROOT.parent)))
def test_a_folder_holds_at_most_thirteen_modules(folder: Path) -> None:
    modules = [p.stem for p in folder.glob("*.py") if p.stem != "__init__"]
    assert len(modules) <= 13, modules


def test_a_public_class_name_stands_for_one_thing() -> None:
    homes: dict[str, list[str]] = {}
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(module)
    assert not {name: where for name, where in homes.items() if len(where) > 1}


def test_any_is_rare() -> None:
    """`Any` below 8 in 1,000 lines; every mention counts, imports too."""
    texts = [path.read_text(encoding="utf-8") for path in FILES.values()]
    mentions = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    lines = sum(len(text.splitlines()) for text in texts)
    assert 1000 * mentions / lines < 8


def parameters(tree: ast.AST) -> Iterator[tuple[str, ast.arg]]:
    """Yield each parameter of each function, with the function's name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            of = node.args
            for argument in (*of.posonlyargs, *of.args, *of.kwonlyargs):
                yield node.name, argument


@for_each(PACKAGED)
def test_data_parameters_have_a_type(module: str) -> None:
    for function, argument in parameters(TREES[module]):
        if argument.arg in ("tape", "markets", "fires", "source") and argument.annotation is not None:
            shown = ast.unparse(argument.annotation)
            assert not re.search(r"\bAny\b", shown), f"{module}.{function}: {argument.arg}: {shown}"


TIMES = re.compile(
    r"^(.*_)?(latency|window|interval|timeout|delay|horizon|life|duration|period|spread|tolerance|silence|grace)$"
)
NUMBERS = re.compile(r"^(int|float)( \| (int|float|None))*$")


@for_each(PACKAGED)
def test_a_number_with_a_unit_names_it(module: str) -> None:
    """Durations end in _s, _ms or _us and spreads in their unit, where the type is a bare number.

    The parameters of built-in signals keep their names: they are part of registered hypotheses.
    """
    if room(module) == "signals.builtin":
        return
    for function, argument in parameters(TREES[module]):
        if argument.annotation is not None and NUMBERS.match(ast.unparse(argument.annotation)):
            assert not TIMES.match(argument.arg), f"{module}.{function}: {argument.arg}"


@for_each(list(FILES))
def test_no_exception_is_silently_ignored(module: str) -> None:
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module}, line {node.lineno}: bare except"
            silent = all(
                isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
                for s in node.body
            )
            assert not silent, f"{module}, line {node.lineno}: silent except"


# Public names


@pytest.mark.parametrize("name", kalshilab.__all__)
def test_a_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(kalshilab, name)
    assert value is getattr(kalshilab, name)
    if name != "__version__":
        assert inspect.getdoc(value)


def test_public_names_are_listed_once_and_shown() -> None:
    assert kalshilab.__all__ == sorted(set(kalshilab.__all__))
    assert set(kalshilab.__all__) <= set(dir(kalshilab))
    with pytest.raises(AttributeError, match="no_such_name"):
        kalshilab.no_such_name  # noqa: B018


# The names the design fixes that the first version has: acceptance checks call them.
FIXED = [
    "DemoOrders", "Exchange", "LifecycleFeed", "MarketData", "PaperSession", "Settings", "TradeFeed", "cents", "fees", "record",
    "sample", "serve", "signals", "synth", "to_markets", "to_tape",
]  # fmt: skip


@pytest.mark.parametrize("name", FIXED)
def test_a_name_the_design_fixes_is_public(name: str) -> None:
    assert name in kalshilab.__all__


@for_each(PACKAGED)
def test_every_name_in_all_is_defined(module: str) -> None:
    tree = TREES[module]
    listed = [
        ast.literal_eval(n.value)
        for n in tree.body
        if isinstance(n, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in n.targets)
    ]
    if not listed:
        return
    names = {
        n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    names |= {
        t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)
    }
    names |= {
        n.target.id for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
    }
    names |= {
        (a.asname or a.name) for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names
    }
    lazy = "__getattr__" in names
    assert lazy or set(listed[0]) <= names
    assert len(listed[0]) == len(set(listed[0]))


HEAVY = [
    "numpy",
    "polars",
    "pandas",
    "numba",
    "plotly",
    "httpx",
    "websockets",
    "cryptography",
    "IPython",
    "ipywidgets",
    "papermill",
    "scipy",
    "httptools",
    "picows",
    "aiohttp",
]


def test_the_package_alone_imports_nothing_heavy() -> None:
    code = f"import kalshilab, sys; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_research_has_no_network() -> None:
    code = (
        "import sys, kalshilab.signals, kalshilab.tape; "
        "print([m for m in ('httpx', 'websockets', 'kalshilab.kalshi', 'httptools', 'plotly', 'IPython') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=100
    )
    assert done.stdout.strip() == "[]"


def test_imports_have_no_cycle() -> None:
    """Imports go one way within a part too, those in functions included."""
    graph = {
        module: {
            target
            for i in imports(module)
            for target in (i.module, f"{i.module}.__init__")
            if target in FILES and (module, part(target), i.inside[-1:]) not in DRAWING
        }
        for module in PACKAGED
    }
    graphlib.TopologicalSorter(graph).prepare()
