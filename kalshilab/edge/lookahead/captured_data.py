"""What a strategy brings along besides the tape it is given: tables in a notebook's variables, lists, memories.

A function sees more than its arguments.  A table of features that was made of the whole tape, the tape itself under
another name, a set of tickers, a dictionary that an earlier call filled: none of it changes when the end of the tape
is cut off, so no audit that changes the tape would notice.  So what a function holds is looked at, and dealt with:

* a table with **times** is cut where the tape is cut (`kalshilab.edge.lookahead.fresh_copy`): a row counts from the latest of its times on, a date
  from the end of that day (UTC); a column `known_ts` is asked alone, where what is announced ahead, such as a
  calendar, was known sooner than its times say;
* one that names markets and has **no times** is refused (`brought`): nobody can say since when it was known.  So are
  tables of settlement facts, numbers kept by market, by print or by a print's time, and functions that read files.
  What the table of markets says of all of them anyway (event, series, category) is not;
* **memories** do not last (`kalshilab.edge.lookahead.fresh_copy`): each call of an audit starts with everything as it was before the first.

What stands in libraries is theirs.  What is hidden on purpose, behind a hash or in a process of its own, is not found:
this keeps a researcher from fooling himself, and no other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl

from kalshilab.edge.lookahead.captured_tables import (
    columns_in,
    is_pandas,
    is_table,
    numbers_in,
    texts_in,
    times_of,
)
from kalshilab.edge.lookahead.closure_walk import MUTABLE, Reader, reached
from kalshilab.edge.lookahead.settlement_facts import SETTLEMENT_FACTS

__all__ = ["Brought", "brought", "dated"]

FEW: Final = 1
"""Markets that may be named without a time: a rule may be for one market."""
LONG: Final = 20
"""Numbers from which on a row of them may be one number a market, or a print."""
METADATA: Final = ("ticker", "event", "series", "category", "title")
"""What a table of markets says of a market from its beginning on."""
REMEDY: Final = "give it a column of times, or be a function of (tape, markets) for what that table says"


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
    tickers: frozenset[str]
    metadata: pl.DataFrame | None
    """Of the markets on the tape, where there is a table of them."""


def brought(thing: Any, tape: pl.DataFrame, markets: pl.DataFrame | None = None) -> Brought | None:
    """The first thing that a function, or an object with a `run`, holds and must not; None if there is none.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> winners = set(markets.filter(pl.col("result") == "no")["ticker"])
    >>> brought(lambda tape: kl.signals.rlm(tape).filter(pl.col("ticker").is_in(winners)), tape).what
    'holds winners, which names 152 of the markets without a time: nobody can say since when that was known; give ...'
    >>> brought(lambda tape: kl.signals.rlm(tape), tape) is None
    True
    """
    names = set(tape["ticker"].cast(pl.String).unique())
    lengths = {tape.height, len(names)}
    tickers, metadata = frozenset(names), None
    if markets is not None:
        names |= set(markets["ticker"].cast(pl.String)) | set(markets["event"].drop_nulls())
        lengths.add(markets.height)
        metadata = markets.select(pl.col(c).cast(pl.String) for c in METADATA if c in markets.columns)
    times = tape["ts"].dt.epoch("us").unique().to_numpy()
    known = _Tape(frozenset(names), times, frozenset(lengths), tickers, metadata)
    for name, held in reached(thing):
        found = _refused(name, held, known)
        if found is not None:
            return found
    return None


def dated(thing: Any) -> tuple[str, ...]:
    """The names of the tables that a function or an object holds and that are cut where the tape is.

    >>> from datetime import datetime
    >>> calendar = pl.DataFrame({"release": [datetime(2025, 6, 2, 12, 30)]})
    >>> dated(lambda tape: calendar)
    ('calendar',)
    """
    return tuple(dict.fromkeys(name for name, held in reached(thing) if is_table(held) and times_of(held)))


def _refused(name: str, held: Any, known: _Tape) -> Brought | None:
    if isinstance(held, Reader):
        return Brought(
            f"reads data while it runs ({held}): nobody can say since when that was there; read it before, into a "
            "table with a column of times",
            frozenset(),
        )
    columns = columns_in(held)
    named = frozenset(texts_in(held)) & known.names
    facts = [c for c in SETTLEMENT_FACTS if c in columns]
    if facts and named:
        return Brought(
            f"holds {name} with {', '.join(facts)}, which nobody knows while a market trades", named
        )
    if len(named) > FEW and not times_of(held) and not _says_nothing_new(held, named, known):
        return Brought(
            f"holds {name}, which names {len(named):,} of the markets without a time: nobody can say since when that "
            f"was known; {REMEDY}",
            named,
        )
    values = numbers_in(held)
    if values is not None and len(values) >= LONG:
        steps = np.diff(values.astype(np.float64))
        # What only rises or falls is a scale, such as prices from 1 to 99 or limits of buckets.
        if len(values) in known.lengths and not ((steps >= 0).all() or (steps <= 0).all()):
            return Brought(
                f"holds {name}, a number for each market or print: nobody can say since when", frozenset()
            )
        if values.dtype.kind in "iu" and np.isin(values, known.times).mean() > 0.5:
            return Brought(f"holds {name}, which names prints by their time", frozenset())
    return None


def _says_nothing_new(held: Any, named: frozenset[str], known: _Tape) -> bool:
    """Whether it only repeats, of every market on the tape, what the table of markets says of it anyway.

    Of some markets alone it would be a choice among them, and so would be the order of a list.
    """
    if known.tickers <= named and (
        isinstance(held, set | frozenset) or (isinstance(held, list | tuple) and list(held) == sorted(held))
    ):
        return True
    if known.metadata is None:
        return False
    events = known.metadata.filter(pl.col("ticker").is_in(list(known.tickers)))["event"]
    if not (known.tickers <= named or set(events.drop_nulls()) <= named):
        return False
    if isinstance(held, Mapping):
        said = {
            (row[of], value)
            for row in known.metadata.iter_rows(named=True)
            for of in ("ticker", "event")
            for value in row.values()
        }
        return all(not isinstance(v, MUTABLE) and (k, v) in said for k, v in held.items())
    table = pl.from_pandas(held) if is_pandas(held) and hasattr(held, "columns") else held
    if not isinstance(table, pl.DataFrame) or not set(table.columns) <= set(known.metadata.columns):
        return False
    texts = table.select(pl.all().cast(pl.String))
    return texts.join(known.metadata, on=texts.columns, how="anti", nulls_equal=True).is_empty()
