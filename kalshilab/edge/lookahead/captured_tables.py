"""A table that a strategy holds: its times, its texts, its numbers, and what of it is left where a tape is cut."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl

__all__ = ["KNOWN", "columns_in", "cut", "is_pandas", "is_table", "numbers_in", "texts_in", "times_of"]

AHEAD: Final = ("open_ts", "expected_close_ts")
"""Times of a market that are announced: a row is not younger for them."""
KNOWN: Final = "known_ts"
"""A column that says since when a row was known, whatever other times it has."""


def is_pandas(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "pandas" and hasattr(thing, "to_numpy")


def is_table(thing: Any) -> bool:
    return isinstance(thing, pl.DataFrame | pl.LazyFrame | pl.Series | np.ndarray) or is_pandas(thing)


def cut(table: Any, until: datetime | None) -> Any:
    if isinstance(table, np.ndarray):
        return table.copy() if table.dtype != object else table
    times = times_of(table)
    if until is None or not times:
        return table.copy() if is_pandas(table) else table
    if isinstance(table, pl.DataFrame | pl.LazyFrame):
        schema = table.collect_schema()
        instants = [
            pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone(None)
            + (timedelta(days=1) if schema[name] == pl.Date else timedelta(0))
            for name in times
        ]
        return table.filter((pl.max_horizontal(instants) <= pl.lit(_utc(until))).fill_null(False))
    columns = {
        str(i): pl.Series(np.asarray(values, "datetime64[us]"))
        for i, values in enumerate(_pandas_times(table).values())
    }
    latest = pl.DataFrame(columns).select(pl.max_horizontal(pl.all()) <= pl.lit(_utc(until)))
    return table[latest.to_series().fill_null(False).to_numpy()]


def _utc(instant: datetime) -> datetime:
    """An instant in UTC, without saying so."""
    return instant.replace(tzinfo=None)


def columns_in(thing: Any) -> tuple[str, ...]:
    if isinstance(thing, pl.LazyFrame):
        return tuple(thing.collect_schema().names())
    if isinstance(thing, Mapping):
        return tuple(k for k in thing if isinstance(k, str))
    return tuple(str(c) for c in thing.columns) if hasattr(thing, "columns") else ()


def times_of(thing: Any) -> list[str]:
    """The columns that say since when a row is known."""
    if isinstance(thing, pl.DataFrame | pl.LazyFrame):
        schema = thing.collect_schema()
        names = [c for c, dtype in schema.items() if dtype in (pl.Date, pl.Datetime) and c not in AHEAD]
    elif is_pandas(thing):
        names = list(_pandas_times(thing))
    else:
        names = []
    return [KNOWN] if KNOWN in names else names


def _pandas_times(thing: Any) -> dict[str, Any]:
    """The times of a pandas table or column, those of its index too."""
    found: dict[str, Any] = {}
    index = getattr(thing, "index", None)
    for i in range(getattr(index, "nlevels", 0)):
        level = index.get_level_values(i)  # type: ignore[union-attr]
        found[str(level.name or f"index {i}")] = level
    if hasattr(thing, "columns"):
        found |= {str(c): thing[c] for c in thing.columns}
    times = {c: v for c, v in found.items() if getattr(v.dtype, "kind", "") == "M" and c not in AHEAD}
    return {KNOWN: times[KNOWN]} if KNOWN in times else times


def texts_in(thing: Any) -> Iterator[str]:
    """The texts in it."""
    if isinstance(thing, pl.LazyFrame):
        thing = thing.collect()
    if isinstance(thing, pl.DataFrame):
        for series in thing:
            yield from texts_in(series)
    elif isinstance(thing, pl.Series):
        if thing.dtype in (pl.String, pl.Categorical, pl.Enum):
            yield from thing.cast(pl.String).unique().drop_nulls()
    elif isinstance(thing, np.ndarray):
        if thing.dtype.kind in "OUT":
            yield from (x for x in thing.ravel() if isinstance(x, str))
    elif is_pandas(thing):
        for part in (thing.index, *(thing[c] for c in thing.columns)) if hasattr(thing, "columns") else (
            thing, getattr(thing, "index", ()),
        ):  # fmt: skip
            values = np.asarray(part)
            if values.dtype.kind == "O":
                yield from (x for x in values if isinstance(x, str))
    elif isinstance(thing, Mapping):
        yield from texts_in(list(thing))
        yield from texts_in(list(thing.values()))
    elif isinstance(thing, list | tuple | set | frozenset | deque):
        for x in thing:
            if isinstance(x, str):
                yield x
            elif isinstance(x, tuple):
                yield from (y for y in x if isinstance(y, str))


def numbers_in(thing: Any) -> np.ndarray[Any, Any] | None:
    """It as a row of numbers, if it is one."""
    if isinstance(thing, pl.Series) and thing.dtype.is_numeric():
        return thing.to_numpy()
    if isinstance(thing, np.ndarray) and thing.ndim == 1 and thing.dtype.kind in "iufbM":
        return thing.astype("datetime64[us]").astype(np.int64) if thing.dtype.kind == "M" else thing
    if isinstance(thing, list | tuple) and thing and all(isinstance(x, int | float | bool) for x in thing):
        return np.asarray(thing)
    return None
