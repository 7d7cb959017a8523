"""Data-quality summary of a tape: its span, its gaps, and the grouping of its markets into events.

A lake knows which stretches are not covered by a download or a recording (`kalshilab.tape.lake.doctor.gaps`). A frame
or a file knows only its prints: a day without prints may be quiet or missing, and is reported as a day without prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
import polars as pl

from kalshilab.clock import isoformat
from kalshilab.edge.schema import DAY
from kalshilab.tape.tape import Tape

__all__ = ["History", "first_prints", "history_of", "last_known"]

FEW_MARKETS: Final = 5
"""Number of markets up to which one event per market is not reported."""
HOUR: Final = DAY // 24
"""Microseconds of an hour."""


class History(msgspec.Struct, frozen=True):
    """Data-quality summary of a tape and its markets, for line 2 of a report card."""

    span: str
    """Days from the first print to the last, with the gaps or days without prints, as a phrase."""
    detail: str
    """Warnings as sentences; empty without a warning."""


def history_of(tape: Tape, markets: pl.DataFrame) -> History:
    """Return the data-quality summary of a tape and its markets. Days are UTC days.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> history_of(kl.tape.FrameTape.of(tape), markets).span
    '0 of 6 days without prints'
    """
    gaps = tape.unverified()
    span, warning = _quiet_days(tape) if gaps is None else _gaps(tape, gaps)
    return History(span, "; ".join(filter(None, (warning, _event_warning(markets)))))


def _gaps(tape: Tape, gaps: Sequence[tuple[int, int, str]]) -> tuple[str, str]:
    """Return the span and the warning for a tape that knows its gaps."""
    ends = tape.ends()
    days = 0 if ends is None else (ends[1].date() - ends[0].date()).days + 1
    if not gaps:
        return f"no known gaps in {_days(days)}", ""
    since, until, reason = max(gaps, key=lambda gap: gap[1] - gap[0])
    missing = sum(until - since for since, until, _ in gaps)
    counted = f"{len(gaps):,} gap{'s' if len(gaps) != 1 else ''}"
    span = f"{counted} ({_length(missing)}) in {_days(days)}"
    return span, (
        f"the lake may lack prints in {counted}, the longest from {isoformat(since)} to {isoformat(until)} ({reason}); "
        "run `kalshilab doctor` to list them"
    )


def _quiet_days(tape: Tape) -> tuple[str, str]:
    """Return the span and the warning for a tape that knows only its prints."""
    dates = tape.lazy().select(pl.col("ts").dt.date().unique().sort()).collect()["ts"]
    if dates.is_empty():
        return "no prints", ""
    every = pl.date_range(dates[0], dates[-1], eager=True)
    quiet = every.filter(~every.is_in(dates.implode()))
    span = f"{len(quiet):,} of {_days(len(every))} without prints"
    if quiet.is_empty():
        return span, ""
    return (
        span,
        f"{_days(len(quiet))} without prints, the first {quiet[0]}; the days were quiet or are missing from the tape",
    )


def _event_warning(markets: pl.DataFrame) -> str:
    """Return a warning if every market has a separate event and the events look derived from the tickers.

    They look so if each event is the ticker itself, or if several tickers have the prefix of one event.
    """
    known = markets.select("ticker", "event").drop_nulls()
    if known.height <= FEW_MARKETS or known["event"].n_unique() < known.height:
        return ""
    prefixes = known["ticker"].str.replace("-[^-]*$", "")
    if (known["event"] != known["ticker"]).any() and prefixes.n_unique() == known.height:
        return ""
    return (
        "every market has a separate event; if several are legs of one event, pass event= to kl.to_markets, because "
        "the effective sample is then smaller than it looks"
    )


def _days(count: int) -> str:
    """Return a number of days with its unit."""
    return f"{count:,} day{'s' if count != 1 else ''}"


def _length(length_us: int) -> str:
    """Return a duration in days, or in hours if it is below one day."""
    if length_us >= DAY:
        return f"{length_us / DAY:,.1f} days"
    return f"{length_us / HOUR:,.1f} hours"


def last_known(tape: Tape, markets: pl.DataFrame) -> datetime:
    """Return the time up to which outcomes are known, inclusive: the last print or settlement."""
    last: datetime = tape.lazy().select(pl.col("ts").max()).collect().item()
    settled = markets["settled_ts"].max()
    return max(last, settled) if isinstance(settled, datetime) else last


def first_prints(tape: Tape, markets: pl.DataFrame) -> pl.DataFrame:
    """Return the time of each event's first print: `event, ts`."""
    known = tape.first_prints().join(markets.select("ticker", "event"), on="ticker", how="inner")
    return known.group_by("event").agg(pl.col("ts").min())
