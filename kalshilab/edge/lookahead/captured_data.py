"""Detect data that a strategy captures outside its arguments: tables in a notebook's variables, lists, caches.

A function can use more than its arguments: a table of features made from the whole tape, the tape itself under another
name, a set of tickers, a dictionary filled by an earlier call. None of it changes when the end of the tape is removed, so
an audit that changes the tape cannot notice it. Captured data is therefore handled by kind:

* a table with **times** is truncated where the tape is (`kalshilab.edge.lookahead.fresh_copy`). A row counts as known from
  the latest of its times on, a date from the end of that day (UTC). A column `known_ts` overrides the others, for data
  announced in advance, such as a calendar;
* a table that names markets and has **no times** is refused (`forbidden_capture`), because the instant at which it became
  known cannot be determined. Also refused are tables of settlement facts, numbers stored by market, by print or by the
  time of a print, and functions that read files. Facts that the markets table holds from the start (event, series,
  category) are allowed;
* **state** is reset (`kalshilab.edge.lookahead.fresh_copy`): each call of an audit starts in the state before the first.

Libraries are not searched. Data hidden on purpose, behind a hash or in another process, is not found: the search protects
researchers from mistakes, not from fraud.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.edge.lookahead.captured_tables import (
    columns_in,
    is_pandas,
    is_table,
    numbers_in,
    texts_in,
    times_of,
)
from kalshilab.edge.lookahead.closure_walk import MUTABLE, Capture, DataReader, reachable
from kalshilab.edge.lookahead.settlement_facts import SETTLEMENT_FACTS
from kalshilab.lazy import renamed

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["ForbiddenCapture", "dated_tables", "forbidden_capture"]

MAX_UNDATED_MARKETS: Final = 1
"""Markets that captured data may name without times: a rule can be made for one market."""
MIN_NUMBERS: Final = 20
"""Length from which a sequence of numbers can hold one number per market or print."""
PRINT_TIMES: Final = 0.5
"""Fraction of whole numbers that equal times of prints, above which a sequence identifies prints."""
METADATA: Final = ("ticker", "event", "series", "category", "title")
"""Columns of the markets table that are known from a market's opening on."""
REMEDY: Final = (
    "add a column of times, or write a function of (tape, markets) if the markets table has the same facts"
)


class ForbiddenCapture(NamedTuple):
    """Captured data that a strategy must not use."""

    reason: str
    """Predicate of a sentence whose subject is the strategy's name."""
    tickers: frozenset[str]
    """Markets and events that the data names; empty if it names none of them."""


class _Identifiers(NamedTuple):
    """Values that identify markets and prints of a tape."""

    names: frozenset[str]
    """Tickers and events."""
    times: npt.NDArray[np.int64]
    """Distinct times of prints, in microseconds."""
    lengths: frozenset[int]
    """Number of prints, and numbers of markets."""
    tickers: frozenset[str]
    """Tickers of the tape alone."""
    metadata: pl.DataFrame | None
    """Columns `METADATA` of the markets table as text; None without such a table."""


def forbidden_capture(
    thing: object, tape: pl.DataFrame, markets: pl.DataFrame | None = None
) -> ForbiddenCapture | None:
    """Return the first captured value that a strategy must not use; None if all captured values are allowed.

    Args:
        thing: a function, or an object with a method `run`.
        tape: the prints, in memory.
        markets: the markets table.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> winners = set(markets.filter(pl.col("result") == "no")["ticker"])
    >>> forbidden_capture(lambda tape: kl.signals.rlm(tape).filter(pl.col("ticker").is_in(winners)), tape).reason
    'captures winners, which names 152 markets without a time and may contain later data; add a column of times, ...'
    >>> forbidden_capture(lambda tape: kl.signals.rlm(tape), tape)
    """
    known = _identifiers(tape, markets)
    for capture in reachable(thing):
        found = _check(capture, known)
        if found is not None:
            return found
    return None


def dated_tables(thing: object) -> tuple[str, ...]:
    """Return the names of captured tables with times, which audits truncate together with the tape.

    Args:
        thing: a function, or an object with a method `run`.

    >>> from datetime import datetime
    >>> calendar = pl.DataFrame({"release": [datetime(2025, 6, 2, 12, 30)]})
    >>> dated_tables(lambda tape: calendar)
    ('calendar',)
    """
    captures = reachable(thing)
    return tuple(dict.fromkeys(c.name for c in captures if is_table(c.value) and times_of(c.value)))


def _identifiers(tape: pl.DataFrame, markets: pl.DataFrame | None) -> _Identifiers:
    """Return the values that identify markets and prints of a tape."""
    tickers = frozenset(tape["ticker"].cast(pl.String).unique())
    names, lengths, metadata = set(tickers), {tape.height, len(tickers)}, None
    if markets is not None:
        names |= set(markets["ticker"].cast(pl.String)) | set(markets["event"].drop_nulls())
        lengths.add(markets.height)
        metadata = markets.select(pl.col(c).cast(pl.String) for c in METADATA if c in markets.columns)
    times = tape["ts"].dt.epoch("us").unique().to_numpy()
    return _Identifiers(frozenset(names), times, frozenset(lengths), tickers, metadata)


def _check(capture: Capture, known: _Identifiers) -> ForbiddenCapture | None:
    """Return the objection to a captured value; None if it is allowed."""
    name, value = capture
    if isinstance(value, DataReader):
        return ForbiddenCapture(
            f"reads data while it runs ({value}), and the age of that data is unknown; read it beforehand, into a "
            "table with a column of times",
            frozenset(),
        )
    columns = columns_in(value)
    named = frozenset(texts_in(value)) & known.names
    facts = [c for c in SETTLEMENT_FACTS if c in columns]
    if facts and named:
        return ForbiddenCapture(
            f"captures {name} with the settlement facts {', '.join(facts)}, which are unknown while a market trades",
            named,
        )
    if (
        len(named) > MAX_UNDATED_MARKETS
        and not times_of(value)
        and not _repeats_metadata(value, named, known)
    ):
        return ForbiddenCapture(
            f"captures {name}, which names {len(named):,} markets without a time and may contain later data; {REMEDY}",
            named,
        )
    return _check_numbers(name, value, known)


def _check_numbers(name: str, value: object, known: _Identifiers) -> ForbiddenCapture | None:
    """Return the objection to captured numbers; None if they are allowed."""
    numbers = numbers_in(value)
    if numbers is None or len(numbers) < MIN_NUMBERS:
        return None
    steps = np.diff(numbers.astype(np.float64))
    # A monotonic sequence is a scale, such as prices from 1 to 99 or the limits of buckets.
    if len(numbers) in known.lengths and not ((steps >= 0).all() or (steps <= 0).all()):
        return ForbiddenCapture(
            f"captures {name}, which has one number per market or print without a time", frozenset()
        )
    if numbers.dtype.kind in "iu" and np.isin(numbers, known.times).mean() > PRINT_TIMES:
        return ForbiddenCapture(f"captures {name}, which identifies prints by their time", frozenset())
    return None


def _repeats_metadata(value: object, named: frozenset[str], known: _Identifiers) -> bool:
    """Return whether data only repeats the metadata of every market on the tape.

    A selection of markets carries information, and so does the order of a list.
    """
    if known.tickers <= named and (
        isinstance(value, set | frozenset)
        or (isinstance(value, list | tuple) and list(value) == sorted(value))
    ):
        return True
    if known.metadata is None:
        return False
    events = known.metadata.filter(pl.col("ticker").is_in(list(known.tickers)))["event"]
    if not (known.tickers <= named or set(events.drop_nulls()) <= named):
        return False
    if isinstance(value, Mapping):
        stated = {
            (row[key], fact)
            for row in known.metadata.iter_rows(named=True)
            for key in ("ticker", "event")
            for fact in row.values()
        }
        return all(not isinstance(v, MUTABLE) and (k, v) in stated for k, v in value.items())
    table = pl.from_pandas(value) if is_pandas(value) and hasattr(value, "columns") else value
    if not isinstance(table, pl.DataFrame) or not set(table.columns) <= set(known.metadata.columns):
        return False
    texts = table.select(pl.all().cast(pl.String))
    return texts.join(known.metadata, on=texts.columns, how="anti", nulls_equal=True).is_empty()
