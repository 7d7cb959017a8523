"""What a history says of itself before anything is judged on it: how far it reaches, what may be missing in it, and
whether its markets come with events that cluster anything.

A lake knows which stretches nobody has vouched for (`kalshilab.tape.lake.doctor.gaps`).  A frame or a file knows only
its prints: a day without any may be a quiet day, and is called no more than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import polars as pl

from kalshilab.clock import isoformat
from kalshilab.edge.schema import DAY
from kalshilab.tape.tape import Tape

__all__ = ["History", "first_prints", "history_of", "last_known"]

FEW: Final = 5
"""Markets up to which it is no wonder that each has an event of its own."""


class History(msgspec.Struct, frozen=True):
    """What line 2 of a report card reports of a tape and its markets."""

    span: str
    """Days from the first print to the last, and gaps or days without prints, in a few words."""
    detail: str
    """What to know of them, in sentences; empty where there is nothing."""


def history_of(tape: Tape, markets: pl.DataFrame) -> History:
    """What a tape or a lake and its markets say of themselves.  Days are UTC days.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> history_of(kl.tape.FrameTape.of(tape), markets).span
    '0 of 6 days without prints'
    """
    gaps = tape.unverified()
    span, said = _quiet_days(tape) if gaps is None else _gaps(tape, gaps)
    return History(span, "; ".join(filter(None, (said, _events(markets)))))


def _gaps(tape: Tape, gaps: Sequence[tuple[int, int, str]]) -> tuple[str, str]:
    ends = tape.ends()
    days = 0 if ends is None else (ends[1].date() - ends[0].date()).days + 1
    if not gaps:
        return f"no gaps known in {_days(days)}", ""
    since, until, reason = max(gaps, key=lambda gap: gap[1] - gap[0])
    missing = sum(until - since for since, until, _ in gaps)
    counted = f"{len(gaps):,} gap{'s' if len(gaps) != 1 else ''}"
    span = f"{counted} ({_length(missing)}) in {_days(days)}"
    return span, (
        f"the lake may lack prints in {counted}, the longest from {isoformat(since)} to {isoformat(until)} ({reason}); "
        "kalshilab doctor names them"
    )


def _quiet_days(tape: Tape) -> tuple[str, str]:
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
        f"{_days(len(quiet))} without prints, the first {quiet[0]}: quiet ones, or missing in the tape",
    )


def _events(markets: pl.DataFrame) -> str:
    """A sentence where each market is an event of its own although that may not be so: where the event is only the
    ticker again, or several tickers begin as those of one event do.
    """
    known = markets.select("ticker", "event").drop_nulls()
    if known.height <= FEW or known["event"].n_unique() < known.height:
        return ""
    begins = known["ticker"].str.replace("-[^-]*$", "")
    if (known["event"] != known["ticker"]).any() and begins.n_unique() == known.height:
        return ""
    return (
        "every market is an event of its own; if several are legs of one event, give event= to kl.to_markets: "
        "the sample is smaller than it looks"
    )


def _days(count: int) -> str:
    return f"{count:,} day{'s' if count != 1 else ''}"


def _length(microseconds: int) -> str:
    if microseconds >= DAY:
        return f"{microseconds / DAY:,.1f} days"
    return f"{microseconds / 3_600_000_000:,.1f} hours"


def last_known(tape: Tape, markets: pl.DataFrame) -> datetime:
    """Until when outcomes are known: the last print or settlement."""
    last: Any = tape.lazy().select(pl.col("ts").max()).collect().item()
    settled: Any = markets["settled_ts"].max()
    return last if settled is None else max(last, settled)  # type: ignore[no-any-return]


def first_prints(tape: Tape, markets: pl.DataFrame) -> pl.DataFrame:
    """When each event was first traded: `event, ts`."""
    known = tape.first_prints().join(markets.select("ticker", "event"), on="ticker", how="inner")
    return known.group_by("event").agg(pl.col("ts").min())
