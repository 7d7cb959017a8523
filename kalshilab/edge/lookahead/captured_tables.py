"""Tables that a strategy captures: their times, texts and numbers, and truncation at an instant."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.lazy import renamed

if TYPE_CHECKING:
    import pandas as pd
else:
    __getattr__ = renamed(__name__)

__all__ = [
    "KNOWN_COLUMN",
    "PandasTable",
    "Table",
    "columns_in",
    "is_pandas",
    "is_table",
    "numbers_in",
    "texts_in",
    "times_of",
    "truncate",
]

ANNOUNCED: Final = ("open_ts", "expected_close_ts")
"""Times of a market that are announced in advance: they do not delay the instant at which a row counts as known."""
KNOWN_COLUMN: Final = "known_ts"
"""Column with the instant from which a row is known; where it exists, other times are ignored."""
_DAY: Final = timedelta(days=1)

PandasTable: TypeAlias = "pd.DataFrame | pd.Series[Any] | pd.Index[Any]"
Array: TypeAlias = npt.NDArray[Any]
"""Array of any dtype, because the user created it."""
Table: TypeAlias = "pl.DataFrame | pl.LazyFrame | pl.Series | Array | PandasTable"


def is_pandas(thing: object) -> TypeGuard[PandasTable]:
    """Return whether an object is a pandas frame, series or index, without importing pandas."""
    return type(thing).__module__.partition(".")[0] == "pandas" and hasattr(thing, "to_numpy")


def is_table(thing: object) -> TypeGuard[Table]:
    """Return whether an object is a polars, pandas or numpy table."""
    return isinstance(thing, pl.DataFrame | pl.LazyFrame | pl.Series | np.ndarray) or is_pandas(thing)


def truncate(table: Table, until: datetime | None) -> Table:
    """Return a copy of a table without the rows known only after `until`.

    A row is known from the latest of its times on, a date from the end of its day (UTC).

    Args:
        table: a table; one without times is copied whole.
        until: last instant, inclusive; None: the table is copied whole.
    """
    if isinstance(table, np.ndarray):
        return table.copy() if table.dtype != object else table
    times = times_of(table)
    if until is None or not times:
        return table.copy() if is_pandas(table) else table
    if isinstance(table, pl.DataFrame | pl.LazyFrame):
        schema = table.collect_schema()
        instants = [
            pl.col(name).cast(pl.Datetime("us")).dt.replace_time_zone(None)
            + (_DAY if schema[name] == pl.Date else timedelta(0))
            for name in times
        ]
        return table.filter((pl.max_horizontal(instants) <= pl.lit(_naive(until))).fill_null(False))
    columns = {
        str(i): pl.Series(np.asarray(values, "datetime64[us]"))
        for i, values in enumerate(_pandas_times(table).values())
    }
    latest = pl.DataFrame(columns).select(pl.max_horizontal(pl.all()) <= pl.lit(_naive(until)))
    kept = latest.to_series().fill_null(False).to_numpy()
    return table[kept]


def _naive(instant: datetime) -> datetime:
    """Return an instant of UTC without its time zone."""
    return instant.replace(tzinfo=None)


def columns_in(thing: object) -> tuple[str, ...]:
    """Return the column names of a table, or the text keys of a mapping."""
    if isinstance(thing, pl.LazyFrame):
        return tuple(thing.collect_schema().names())
    if isinstance(thing, Mapping):
        return tuple(k for k in thing if isinstance(k, str))
    return tuple(str(c) for c in getattr(thing, "columns", ()))


def times_of(thing: object) -> list[str]:
    """Return the columns that state from when a row is known; of a pandas table also levels of its index."""
    if isinstance(thing, pl.DataFrame | pl.LazyFrame):
        schema = thing.collect_schema()
        names = [c for c, dtype in schema.items() if dtype in (pl.Date, pl.Datetime) and c not in ANNOUNCED]
    elif is_pandas(thing):
        names = list(_pandas_times(thing))
    else:
        names = []
    return [KNOWN_COLUMN] if KNOWN_COLUMN in names else names


def _pandas_times(thing: object) -> dict[str, PandasTable]:
    """Return the times in the columns and the index of a pandas object, by name."""
    found: dict[str, PandasTable] = {}
    index = getattr(thing, "index", None)
    if index is not None:
        for i in range(getattr(index, "nlevels", 0)):
            level = index.get_level_values(i)
            found[str(level.name or f"index {i}")] = level
    if hasattr(thing, "columns"):
        found |= {str(c): thing[c] for c in thing.columns}  # type: ignore[index]
    times = {
        c: v
        for c, v in found.items()
        if getattr(getattr(v, "dtype", None), "kind", "") == "M" and c not in ANNOUNCED
    }
    return {KNOWN_COLUMN: times[KNOWN_COLUMN]} if KNOWN_COLUMN in times else times


def texts_in(thing: object) -> Iterator[str]:
    """Yield the texts of a table or a container, and those of its tuples; of polars columns each text once."""
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
        for part in _pandas_parts(thing):
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


def _pandas_parts(thing: PandasTable) -> Iterator[object]:
    """Yield the index and the columns of a pandas object."""
    yield getattr(thing, "index", ())
    if hasattr(thing, "columns"):
        yield from (thing[c] for c in thing.columns)  # type: ignore[index]
    else:
        yield thing


def numbers_in(thing: object) -> Array | None:
    """Return a one-dimensional sequence of numbers as an array, times as microseconds; None for other objects."""
    if isinstance(thing, pl.Series) and thing.dtype.is_numeric():
        return thing.to_numpy()
    if isinstance(thing, np.ndarray) and thing.ndim == 1 and thing.dtype.kind in "iufbM":
        return thing.astype("datetime64[us]").astype(np.int64) if thing.dtype.kind == "M" else thing
    if isinstance(thing, list | tuple) and thing and all(isinstance(x, int | float | bool) for x in thing):
        return np.asarray(thing)
    return None
