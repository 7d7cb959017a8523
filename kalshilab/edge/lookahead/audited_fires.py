"""Run a strategy for an audit: as a clone, without settlement facts, with captured tables truncated."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from kalshilab.deprecation import renamed_keywords
from kalshilab.edge.lookahead.captured_data import dated_tables
from kalshilab.edge.lookahead.captured_tables import KNOWN_COLUMN
from kalshilab.edge.lookahead.settlement_facts import point_in_time, withheld_column
from kalshilab.edge.lookahead.strategy import AuditedStrategy
from kalshilab.errors import EdgeError, KalshilabError
from kalshilab.tape.tape import Tape

__all__ = ["fires_of", "truncation_note"]


@renamed_keywords(one="audited")
def fires_of(
    audited: AuditedStrategy, tape: Tape, markets: pl.DataFrame | None, until: datetime | None = None
) -> tuple[pl.DataFrame | None, str]:
    """Return a strategy's fires and an empty text; None and the reason if it asks for a withheld column.

    The strategy runs as a clone in the state before its first call.

    Args:
        audited: the strategy.
        tape: the prints.
        markets: the markets table; settlement facts are removed from it.
        until: last instant, inclusive, of which captured tables keep rows; None: tables stay whole.

    Raises:
        EdgeError: the strategy raised any other exception.
    """
    try:
        return audited.clone(until).fires(tape, point_in_time(markets)), ""
    except KalshilabError:
        raise
    except Exception as error:
        if message := withheld_column(error, markets):
            return None, f"{audited.name} asks for a column it must not have: {message}"
        note = "" if until is None else truncation_note(audited)
        raise EdgeError(f"{audited.name} raised {type(error).__name__}: {error}{note}") from error


def truncation_note(audited: AuditedStrategy) -> str:
    """Return an explanation of how captured tables are truncated, for a strategy that captures some."""
    names = () if audited.function is None else dated_tables(audited.capture_root)
    if not names:
        return ""
    return (
        f"; rows of {', '.join(names)} count as known from their latest time on; add a column {KNOWN_COLUMN} if they "
        "were known earlier"
    )
