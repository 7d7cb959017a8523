"""What a strategy brings along besides the tape it is given: tables in a notebook's variables, lists, memories.

A function sees more than its arguments.  A table of features that was made of the whole tape, the tape itself under
another name, a set of tickers, a dictionary that an earlier call filled: none of it changes when the end of the tape
is cut off, so no audit that changes the tape would notice.  So what a function holds is looked at, and dealt with:

* a table with **times** is cut where the tape is cut (`anew`): a row counts from the latest of its times on;
* one that names markets and has **no times** is refused (`brought`): nobody can say since when it was known.  So are
  tables of settlement facts, numbers kept by market, by print or by a print's time, and functions that read files;
* **memories** do not last (`anew`): each call of an audit starts with everything as it was before the first.

What stands in libraries is theirs.  What is hidden on purpose, behind a hash or in a process of its own, is not found:
this keeps a researcher from fooling himself, and no other.
"""

from __future__ import annotations

import copy
import functools
import sys
import sysconfig
import types
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from kalshilab.edge.facts import SETTLEMENT_FACTS

__all__ = ["Brought", "anew", "brought"]

FEW: Final = 1
"""Markets that may be named without a time: a rule may be for one market."""
LONG: Final = 20
"""Numbers from which on a row of them may be one number a market, or a print."""
AHEAD: Final = ("open_ts", "expected_close_ts")
"""Times of a market that are announced: a row is not younger for them."""
_READERS: Final = """
    read_parquet scan_parquet read_csv scan_csv read_ipc scan_ipc read_json read_ndjson scan_ndjson read_pickle
    read_feather read_hdf read_excel read_database read_sql loadtxt genfromtxt fromfile memmap scan_tape urlopen
"""
READERS: Final = frozenset(_READERS.split())
"""Functions that fetch data of which nobody knows since when it was there."""
DEEP: Final = 4
"""Containers in containers that are looked into."""
_LIBRARIES: Final = tuple({p for k, p in sysconfig.get_paths().items() if k.endswith(("lib", "stdlib"))})
_PACKAGE: Final = str(Path(__file__).resolve().parents[1])
_PLAIN: Final = (str, bytes, int, float, bool, type(None), datetime)
_MUTABLE: Final = (dict, list, set, deque, bytearray)


class Brought(NamedTuple):
    """Something that a strategy must not have."""

    what: str
    """In words, to follow the strategy's name."""
    tickers: frozenset[str]
    """Markets (or events) that it names, where it names any."""


class _Tape(NamedTuple):
    """What could be named of a tape."""

    names: frozenset[str]
    times: Any
    lengths: frozenset[int]


def brought(thing: Any, tape: pl.DataFrame, markets: pl.DataFrame | None = None) -> Brought | None:
    """The first thing that a function, or an object with a `run`, holds and must not; None if there is none.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> winners = set(markets.filter(pl.col("result") == "no")["ticker"])
    >>> brought(lambda tape: kl.signals.rlm(tape).filter(pl.col("ticker").is_in(winners)), tape).what
    'holds winners, which names 152 of the markets without a time: nobody can say since when that was known'
    >>> brought(lambda tape: kl.signals.rlm(tape), tape) is None
    True
    """
    names = set(tape["ticker"].cast(pl.String).unique())
    lengths = {tape.height, len(names)}
    if markets is not None:
        names |= set(markets["ticker"].cast(pl.String)) | set(markets["event"].drop_nulls())
        lengths.add(markets.height)
    known = _Tape(frozenset(names), tape["ts"].dt.epoch("us").unique().to_numpy(), frozenset(lengths))
    for name, held in _held(thing, _name(thing), set(), 0):
        found = _refused(name, held, known)
        if found is not None:
            return found
    return None


def anew(thing: Any, until: datetime | None = None) -> Any:
    """A copy of a function or an object as if it had never been called.

    Args:
        until: rows of the tables it holds that carry a later time are left out; None: they stay.

    >>> memory = []
    >>> def remembers():
    ...     memory.append(1)
    ...     return len(memory)
    >>> remembers(), anew(remembers)(), anew(remembers)(), remembers()
    (1, 2, 2, 2)
    """
    return _copy(thing, until, {}, 0)


def _refused(name: str, held: Any, known: _Tape) -> Brought | None:
    if isinstance(held, _Reader):
        return Brought(
            f"reads data while it runs ({held}): nobody can say since when that was there", frozenset()
        )
    columns = _columns(held)
    named = frozenset(_texts(held)) & known.names
    facts = [c for c in SETTLEMENT_FACTS if c in columns]
    if facts and named:
        return Brought(
            f"holds {name} with {', '.join(facts)}, which nobody knows while a market trades", named
        )
    if len(named) > FEW and not _times(held):
        return Brought(
            f"holds {name}, which names {len(named):,} of the markets without a time: nobody can say since when that "
            "was known",
            named,
        )
    values = _numbers(held)
    if values is not None and len(values) >= LONG:
        if len(values) in known.lengths:
            return Brought(
                f"holds {name}, a number for each market or print: nobody can say since when", frozenset()
            )
        if values.dtype.kind in "iu" and np.isin(values, known.times).mean() > 0.5:
            return Brought(f"holds {name}, which names prints by their time", frozenset())
    return None


class _Reader(str):
    """The name of a function that fetches data."""


def _held(thing: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    """Tables and containers that can be reached from a function or an object, with the names they go by."""
    if id(thing) in seen or depth > 2 * DEEP:
        return
    seen.add(id(thing))
    inner = _unwrapped(thing)
    if inner is not None:
        for each in inner:
            yield from _held(each, name, seen, depth + 1)
    elif isinstance(thing, types.FunctionType):
        if _is_users(thing):
            yield from _of_function(thing, seen, depth)
    elif isinstance(thing, types.ModuleType):
        if _is_own(thing.__name__):
            for key, value in vars(thing).items():
                if not key.startswith("__"):
                    yield from _held(value, f"{name}.{key}", seen, depth + 1)
    elif _is_table(thing):
        yield name, thing
    elif isinstance(thing, Mapping | list | tuple | set | frozenset | deque):
        yield name, thing
        for value in list(thing.values() if isinstance(thing, Mapping) else thing)[:1000]:
            if not isinstance(value, _PLAIN):
                yield from _held(value, name, seen, depth + 1)
    elif _is_own(type(thing).__module__ if not isinstance(thing, type) else thing.__module__):
        for key, value in {**vars(type(thing)), **getattr(thing, "__dict__", {})}.items():
            if not key.startswith("__") or key == "__call__":
                yield from _held(value, f"{name}.{key}", seen, depth + 1)


def _of_function(function: types.FunctionType, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    scope = function.__globals__
    for code in _codes(function.__code__):
        for constant in code.co_consts:
            if isinstance(constant, tuple | frozenset):
                yield f"a list in {function.__name__}", constant
        for name in code.co_names:
            if name in READERS or (name == "open" and name not in scope):
                yield name, _Reader(name)
            # A name that is no variable may be a module that is imported in the function.
            value = scope.get(name, sys.modules.get(name))
            if value is not None:
                yield from _held(value, name, seen, depth + 1)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if not _is_empty(cell):
            yield from _held(cell.cell_contents, name, seen, depth + 1)
    given = [
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *vars(function).values(),
    ]
    for value in given:
        yield from _held(value, f"a default of {function.__name__}", seen, depth + 1)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _copy(thing: Any, until: datetime | None, done: dict[Any, Any], depth: int) -> Any:
    if id(thing) in done:
        return done[id(thing)]
    if depth > 2 * DEEP:
        return thing
    # The thing is kept beside its copy, so that its number stays its own.
    done[id(thing), "kept"] = thing

    def again(value: Any) -> Any:
        return _copy(value, until, done, depth + 1)

    if isinstance(thing, types.FunctionType):
        return _function_anew(thing, done, again) if _is_users(thing) else thing
    if isinstance(thing, types.MethodType):
        return types.MethodType(again(thing.__func__), again(thing.__self__))
    if isinstance(thing, functools.partial):
        return functools.partial(
            again(thing.func), *map(again, thing.args), **{k: again(v) for k, v in thing.keywords.items()}
        )
    if hasattr(thing, "cache_clear") and hasattr(thing, "__wrapped__"):
        return functools.cache(again(thing.__wrapped__)) if _is_users(thing.__wrapped__) else thing
    if _is_table(thing):
        done[id(thing)] = _cut(thing, until)
        return done[id(thing)]
    if isinstance(thing, _MUTABLE):
        made: Any = copy.copy(thing)
        done[id(thing)] = made
        pairs = (
            thing.items()
            if isinstance(thing, dict)
            else enumerate(thing if isinstance(thing, list | deque) else ())
        )
        for key, value in pairs:
            if not isinstance(value, _PLAIN):
                made[key] = again(value)
        return made
    if type(thing) is tuple:
        return tuple(map(again, thing))
    if not isinstance(thing, type) and hasattr(thing, "__dict__") and _is_own(type(thing).__module__):
        try:
            made = copy.copy(thing)
        except (TypeError, ValueError, copy.Error):
            return thing
        done[id(thing)] = made
        for key, value in vars(thing).items():
            made.__dict__[key] = again(value)
        return made
    return thing


def _function_anew(function: types.FunctionType, done: dict[Any, Any], again: Any) -> types.FunctionType:
    scope = function.__globals__
    fresh = done.setdefault(id(scope), dict(scope))
    cells = []
    for cell in function.__closure__ or ():
        if id(cell) not in done:
            done[id(cell)] = types.CellType()
            if not _is_empty(cell):
                done[id(cell)].cell_contents = again(cell.cell_contents)
        cells.append(done[id(cell)])
    made = types.FunctionType(
        function.__code__, fresh, function.__name__, again(function.__defaults__), tuple(cells)
    )
    done[id(function)] = made
    made.__kwdefaults__ = again(function.__kwdefaults__)
    made.__module__, made.__qualname__ = function.__module__, function.__qualname__
    made.__dict__.update({key: again(value) for key, value in vars(function).items()})
    for code in _codes(function.__code__):
        for name in code.co_names:
            if name in scope:
                fresh[name] = again(scope[name])
    return made


def _cut(table: Any, until: datetime | None) -> Any:
    if isinstance(table, np.ndarray):
        return table.copy() if table.dtype != object else table
    times = _times(table)
    if until is None or not times:
        return table.copy() if _is_pandas(table) else table
    if isinstance(table, pl.DataFrame | pl.LazyFrame):
        known = pl.max_horizontal(
            pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone(None) for name in times
        )
        return table.filter((known <= pl.lit(until.replace(tzinfo=None))).fill_null(False))
    if not _is_pandas(table) or not hasattr(table, "columns"):
        return table
    latest = pl.DataFrame(
        {name: pl.Series(np.asarray(table[name], "datetime64[us]")) for name in times}
    ).select(pl.max_horizontal(pl.all()) <= pl.lit(until.replace(tzinfo=None)))
    return table[latest.to_series().fill_null(False).to_numpy()]


def _is_users(function: Any) -> bool:
    """Whether a function was written by the user: by where its text is, or by its module where it has none."""
    file = function.__code__.co_filename if isinstance(function, types.FunctionType) else ""
    if not file or file.startswith(("<string", "<frozen")):
        return _is_own(getattr(function, "__module__", None))
    return not file.startswith((*_LIBRARIES, _PACKAGE))


def _is_own(module: str | None) -> bool:
    """Whether a module is the user's: a notebook's, or a file outside of the libraries and of this package."""
    if module is None or module.partition(".")[0] in ("kalshilab", "builtins", *sys.builtin_module_names):
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is None or not file.startswith(_LIBRARIES)


def _unwrapped(thing: Any) -> tuple[Any, ...] | None:
    """What a callable that is no plain function is made of."""
    if isinstance(thing, functools.partial):
        return (thing.func, thing.args, thing.keywords)
    if isinstance(thing, types.MethodType):
        return (thing.__func__, thing.__self__)
    if isinstance(thing, staticmethod | classmethod):
        return (thing.__func__,)
    for name in ("py_func", "__wrapped__"):  # Of numba, and of functools.
        if not isinstance(thing, type | types.FunctionType | types.ModuleType) and hasattr(thing, name):
            return (getattr(thing, name),)
    return None


def _is_pandas(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "pandas" and hasattr(thing, "to_numpy")


def _is_table(thing: Any) -> bool:
    return isinstance(thing, pl.DataFrame | pl.LazyFrame | pl.Series | np.ndarray) or _is_pandas(thing)


def _columns(thing: Any) -> tuple[str, ...]:
    if isinstance(thing, pl.LazyFrame):
        return tuple(thing.collect_schema().names())
    if isinstance(thing, Mapping):
        return tuple(k for k in thing if isinstance(k, str))
    return tuple(str(c) for c in thing.columns) if hasattr(thing, "columns") else ()


def _times(thing: Any) -> list[str]:
    """The columns that say since when a row is known."""
    if isinstance(thing, pl.DataFrame | pl.LazyFrame):
        schema = thing.collect_schema()
        return [name for name, dtype in schema.items() if dtype.is_temporal() and name not in AHEAD]
    if _is_pandas(thing) and hasattr(thing, "columns"):
        return [str(c) for c in thing.columns if thing[c].dtype.kind == "M" and c not in AHEAD]
    return []


def _texts(thing: Any) -> Iterator[str]:
    """The texts in it."""
    if isinstance(thing, pl.LazyFrame):
        thing = thing.collect()
    if isinstance(thing, pl.DataFrame):
        for series in thing:
            yield from _texts(series)
    elif isinstance(thing, pl.Series):
        if thing.dtype in (pl.String, pl.Categorical, pl.Enum):
            yield from thing.cast(pl.String).unique().drop_nulls()
    elif isinstance(thing, np.ndarray):
        if thing.dtype.kind in "OUT":
            yield from (x for x in thing.ravel() if isinstance(x, str))
    elif _is_pandas(thing):
        for part in (thing.index, *(thing[c] for c in thing.columns)) if hasattr(thing, "columns") else (
            thing, getattr(thing, "index", ()),
        ):  # fmt: skip
            values = np.asarray(part)
            if values.dtype.kind == "O":
                yield from (x for x in values if isinstance(x, str))
    elif isinstance(thing, Mapping):
        yield from _texts(list(thing))
        yield from _texts(list(thing.values()))
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        for x in thing:
            if isinstance(x, str):
                yield x
            elif isinstance(x, tuple):
                yield from (y for y in x if isinstance(y, str))


def _numbers(thing: Any) -> np.ndarray[Any, Any] | None:
    """It as a row of numbers, if it is one."""
    if isinstance(thing, pl.Series) and thing.dtype.is_numeric():
        return thing.to_numpy()
    if isinstance(thing, np.ndarray) and thing.ndim == 1 and thing.dtype.kind in "iufbM":
        return thing.astype("datetime64[us]").astype(np.int64) if thing.dtype.kind == "M" else thing
    if isinstance(thing, list | tuple) and thing and all(isinstance(x, int | float | bool) for x in thing):
        return np.asarray(thing)
    return None


def _is_empty(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _name(thing: Any) -> str:
    thing = getattr(thing, "func", thing)
    return str(getattr(thing, "__name__", type(thing).__name__))
