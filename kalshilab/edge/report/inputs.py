"""What a verdict rests on: a tape or a lake, and the markets beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import polars as pl

from kalshilab.errors import EdgeError
from kalshilab.signals.engine.model import as_tape
from kalshilab.tape.lake.lake import Lake, scan_tape
from kalshilab.tape.lake.source import Source
from kalshilab.tape.normalise import to_markets
from kalshilab.tape.schema import TAPE_SCHEMA, check_markets, check_tape

__all__ = ["excerpt", "in_memory", "tables", "with_horizon"]

EXCERPT: Final = 1_000_000
"""Prints of a lake on which the audits are run; one that has no more of them is judged in memory."""


def tables(tape: Any, markets: Any) -> tuple[Any, pl.DataFrame]:
    """A source or a polars frame, and the markets beside it.

    Raises:
        EdgeError: no markets, or no prints.
        TapeError, LakeError: they are not what they should be.
    """
    if isinstance(tape, str | Path):
        tape = scan_tape(tape)
    if markets is None:
        markets = getattr(tape, "markets", None)
        if markets is None:
            raise EdgeError("a tape without its markets: give markets=, kl.to_markets(...)")
    if not isinstance(markets, pl.DataFrame):
        markets = to_markets(markets)
    if not isinstance(tape, Source):
        frame = as_tape(tape, ("ts", "price", "size", "taker"))
        # Whole numbers of another width, and times of another unit or zone, are the same numbers and instants: what a
        # signal runs on is judged.
        same = {name: TAPE_SCHEMA[name] for name in ("ts", "market", "price", "size")}
        tape = check_tape(
            frame.with_columns(
                *(pl.col(name).cast(dtype) for name, dtype in same.items()),
                pl.lit(None, pl.String).alias("trade_id"),
            ).select(TAPE_SCHEMA.names())
        )
    if not (tape.rows if isinstance(tape, Source) else tape.height):
        raise EdgeError(
            "the tape has no prints: was it filtered by a ticker or a time that it does not have?"
        )
    return tape, check_markets(markets)


def in_memory(tape: Any) -> Any:
    """A lake that fits into memory many times over as a frame, every byte of it compared with its hash; else the tape.

    A validation goes over a tape two dozen times, and a lake of many short days is slow to open.
    """
    return tape.read() if isinstance(tape, Lake) and tape.rows <= EXCERPT else tape


def with_horizon(entries: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
    """The entries with `horizon`: days from the fire to the close that was expected, for the baseline; none of it where
    the markets do not say."""
    if markets["expected_close_ts"].null_count() == markets.height:
        return entries
    days = (pl.col("expected_close_ts") - pl.col("ts")).dt.total_microseconds() / 8.64e10
    closes = markets.select("ticker", "expected_close_ts")
    joined = entries.join(closes, on="ticker", how="left", maintain_order="left")
    return joined.with_columns(days.alias("horizon")).drop("expected_close_ts")


def excerpt(tape: Any, markets: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What the audits are run on: the tape, or of a lake the days that hold its first million prints."""
    if isinstance(tape, Source):
        tape = tape.lazy().head(EXCERPT).collect()  # type: ignore[attr-defined]
    return tape, markets
