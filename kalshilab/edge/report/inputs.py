"""Load and check the inputs of `validate`: the tape, and the markets beside it."""

from __future__ import annotations

from typing import Final

import msgspec
import polars as pl

from kalshilab.edge.lookahead.audit import EXCERPT
from kalshilab.edge.report.confirmation import DataIdentity, data_of, sketch_of
from kalshilab.edge.report.data_quality import History, first_prints, history_of
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.normalise import to_markets
from kalshilab.tape.schema import TAPE_SCHEMA, check_markets, check_tape
from kalshilab.tape.tape import FrameTape, Tape, TapeLike

__all__ = ["Inputs", "load", "loaded_tape", "tables", "with_horizon"]

_INTEGERS: Final = ("ts", "market", "price", "size")


class Inputs(msgspec.Struct, frozen=True, eq=False):
    """The data of a validation, checked once."""

    tape: Tape
    markets: pl.DataFrame
    """The markets table (`kalshilab.tape.MARKETS_SCHEMA`)."""
    history: History
    """Span and gaps of the tape as it was given, and how its markets are grouped into events."""
    data: DataIdentity
    """Hash, rows, markets and span of the data, as the registry records them."""
    sketch: tuple[int, ...]
    """Hashes of prints by which overlapping data are recognised."""
    begun: pl.DataFrame
    """The first print of each event: `event, ts`."""


def load(tape: TapeLike, markets: object, *, keep_stored: bool = False) -> Inputs:
    """Open the tape and the markets of a validation.

    Args:
        tape: trades of any kind.
        markets: the markets table, in any layout that `kl.to_markets` reads; None: the one stored in the lake.
        keep_stored: keep a small lake on disk, so that a function, which needs a frame, is rejected for any lake.

    Raises:
        EdgeError: `markets` is missing, or the tape has no prints.
        TapeError, LakeError: the tape, the markets or the lake is malformed.
    """
    opened, table = tables(tape, markets)
    # Summarise before loading, since a lake knows its gaps and a frame does not.
    history, data = history_of(opened, table), data_of(opened, table)
    read = opened if keep_stored else loaded_tape(opened)
    return Inputs(read, table, history, data, sketch_of(read), first_prints(read, table))


def tables(tape: TapeLike, markets: object) -> tuple[Tape, pl.DataFrame]:
    """Return the opened tape and the checked markets table.

    Args:
        tape: trades of any kind.
        markets: the markets table, in any layout that `kl.to_markets` reads; None: the one stored in the lake.

    Raises:
        EdgeError: `markets` is missing, or the tape has no prints.
        TapeError, LakeError: the tape, the markets or the lake is malformed.
    """
    opened = tape_of(tape)
    if markets is None:
        markets = opened.markets
        if markets is None:
            raise EdgeError(
                "markets must be given beside a tape that stores none; pass markets=kl.to_markets(...)"
            )
    table = markets if isinstance(markets, pl.DataFrame) else to_markets(markets)
    if isinstance(opened, FrameTape):
        opened = _exact(opened)
    if not opened.rows:
        raise EdgeError(
            "tape must have prints, got an empty one; was it filtered by a ticker or a time that it does not have?"
        )
    return opened, check_markets(table)


def _exact(tape: FrameTape) -> FrameTape:
    """Return a tape with the dtypes of `TAPE_SCHEMA`, so that a hash of it identifies the data.

    Integers of another width, and times in another unit or zone, have the same values; equal values get equal hashes.
    """
    frame = tape.frame.with_columns(*(pl.col(name).cast(TAPE_SCHEMA[name]) for name in _INTEGERS))
    return FrameTape(
        check_tape(frame.with_columns(pl.lit(None, pl.String).alias("trade_id")).select(TAPE_SCHEMA.names()))
    )


def loaded_tape(tape: Tape) -> Tape:
    """Return a small lake as a tape in memory, with every byte verified against its hash; any other tape unchanged.

    A validation reads the tape two dozen times, and a lake of many short days is slow to open.
    """
    return FrameTape(tape.read()) if isinstance(tape, Lake) and tape.rows <= EXCERPT else tape


def with_horizon(entries: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
    """Add `horizon`, the days from the fire to the expected close, which the price baseline uses.

    The column is left out where no market has an expected close.
    """
    if markets["expected_close_ts"].null_count() == markets.height:
        return entries
    days = (pl.col("expected_close_ts") - pl.col("ts")).dt.total_microseconds() / 8.64e10
    closes = markets.select("ticker", "expected_close_ts")
    joined = entries.join(closes, on="ticker", how="left", maintain_order="left")
    return joined.with_columns(days.alias("horizon")).drop("expected_close_ts")
