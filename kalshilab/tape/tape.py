"""One type for trade data: `Tape`, and its implementation over a frame in memory.

A tape is a sequence of public trades ("prints") in exchange-time order. Three things implement it:

============================================== ==================================================================
implementation                                 data
============================================== ==================================================================
`FrameTape`                                    a polars frame in memory
`kalshilab.tape.lake.lake.Lake`                a folder of daily Parquet files of any size
`kalshilab.tape.lake.tapefile.TapeFile`        one Parquet file of any size
============================================== ==================================================================

Public functions accept anything in `TapeLike` and call `kalshilab.tape.lake.opening.tape_of` once. That call checks the
data; code behind it takes a `Tape` and never asks again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import polars as pl

from kalshilab.tape.frame_checks import FrameLike, checked_columns, checked_frame
from kalshilab.tape.schema import TIME

__all__ = ["COLUMNS", "FrameLike", "FrameTape", "Tape", "TapeBatch", "TapeLike", "frame_in_memory"]

COLUMNS: Final = ("ts", "price", "size", "taker")
"""Columns of a print, beside its market."""
_DIGESTED: Final = ("ts", "price", "size", "market")


class TapeBatch(NamedTuple):
    """Consecutive prints of a tape."""

    first_row: int
    """Row of the first print in the whole tape."""
    frame: pl.DataFrame
    """The columns asked for."""


@runtime_checkable
class Tape(Protocol):
    """Trades in exchange-time order, in memory or on disk."""

    @property
    def rows(self) -> int:
        """Number of prints."""
        ...

    @property
    def in_memory(self) -> bool:
        """True for a frame; a function of frames can be called only on such a tape."""
        ...

    @property
    def tickers(self) -> pl.Series:
        """Tickers by market code; null for a code without prints."""
        ...

    @property
    def markets(self) -> pl.DataFrame | None:
        """The markets table stored beside the prints, or None without one."""
        ...

    def batches(self, columns: Sequence[str]) -> Iterator[TapeBatch]:
        """Iterate over the prints in order, with the columns given (`market` identifies the market)."""
        ...

    def lazy(self) -> pl.LazyFrame:
        """Return the prints as a lazy frame, in order."""
        ...

    def excerpt(self, rows: int) -> FrameTape:
        """Return a tape in memory: the first `rows` prints of stored data, or the whole of a frame."""
        ...

    def prefix(self, until: datetime) -> FrameTape:
        """Return the prints up to `until`, inclusive, in memory."""
        ...

    def with_future(self, end: int, future: pl.DataFrame) -> FrameTape:
        """Return the first `end` prints followed by other ones, in memory.

        Args:
            end: number of prints kept.
            future: prints with this tape's columns that replace the rest.
        """
        ...

    def first_prints(self) -> pl.DataFrame:
        """Return the time of each market's first print: `ticker, ts`."""
        ...

    def ends(self) -> tuple[datetime, datetime] | None:
        """Return the times of the first and the last print, or None for an empty tape."""
        ...

    def unverified(self) -> Sequence[tuple[int, int, str]] | None:
        """Return the stretches that may lack prints, or None if the tape does not know.

        Each is `(since, until, reason)`: microseconds, `until` exclusive.
        """
        ...

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Feed a hash with the identity of the data."""
        ...


TapeLike: TypeAlias = "Tape | FrameLike | str | Path"
"""Trades as public functions accept them: a `Tape`, a frame of any kind, or the path of a lake or of a Parquet file."""


class FrameTape:
    """A tape in memory.

    The constructor trusts its frame; `FrameTape.of` checks one.

    >>> import kalshilab as kl
    >>> tape = FrameTape.of(kl.sample()[0])
    >>> tape.rows == kl.sample()[0].height, tape.first_prints().columns
    (True, ['ticker', 'ts'])

    Args:
        frame: prints in exchange-time order within each market, with `ticker` and its code `market`.
    """

    in_memory = True
    markets: pl.DataFrame | None = None

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame

    @classmethod
    def of(cls, data: FrameLike, columns: Sequence[str] = COLUMNS) -> FrameTape:
        """Check a frame and return it as a tape with the columns a reader needs.

        Only these columns of a lazy frame are computed. Codes are assigned where the frame lacks them, or has the codes of
        a much larger lake.

        Args:
            data: a polars or pandas frame.
            columns: columns that must be there, beside `ts`, `ticker` and `price`.

        Raises:
            TapeError: a column is missing, of another type or has nulls; a price or size is out of range; a market's
                times go back; a code stands for two tickers.
        """
        return cls(checked_columns(data, columns))

    @classmethod
    def whole(cls, data: FrameLike, columns: Sequence[str] = COLUMNS) -> FrameTape:
        """Check a frame like `of` and keep all its columns, for a strategy that is given the frame itself.

        Raises:
            TapeError: as for `of`.
        """
        return cls(checked_frame(data, columns))

    def __repr__(self) -> str:
        return f"FrameTape({self.rows:,} prints)"

    @property
    def rows(self) -> int:
        """Number of prints."""
        return self.frame.height

    @cached_property
    def tickers(self) -> pl.Series:
        """Tickers by market code; null for a code without prints."""
        names = self.frame.select("market", pl.col("ticker").cast(pl.String)).unique("market").sort("market")
        codes = names["market"].cast(pl.Int64).to_numpy()
        if not len(codes) or int(codes[-1]) + 1 == len(codes):
            return names["ticker"]
        by_code = np.full(int(codes[-1]) + 1, None, dtype=object)
        by_code[codes] = names["ticker"].to_numpy()
        return pl.Series("ticker", by_code, dtype=pl.String)

    def batches(self, columns: Sequence[str]) -> Iterator[TapeBatch]:
        """Yield the whole frame as one batch."""
        yield TapeBatch(0, self.frame.select(columns))

    def lazy(self) -> pl.LazyFrame:
        """Return the prints as a lazy frame."""
        return self.frame.lazy()

    def excerpt(self, rows: int) -> FrameTape:
        """Return the tape itself, which is in memory already."""
        return self

    def head(self, rows: int) -> FrameTape:
        """Return the first `rows` prints."""
        return FrameTape(self.frame.head(rows))

    def prefix(self, until: datetime) -> FrameTape:
        """Return the prints up to `until`, inclusive."""
        return FrameTape(self.frame.filter(pl.col("ts") <= until))

    def with_future(self, end: int, future: pl.DataFrame) -> FrameTape:
        """Return the first `end` prints followed by `future`."""
        return FrameTape(pl.concat([self.frame.head(end), future]))

    def first_prints(self) -> pl.DataFrame:
        """Return the time of each market's first print: `ticker, ts`."""
        first = self.frame.group_by("ticker").agg(pl.col("ts").first())
        return first.with_columns(pl.col("ticker").cast(pl.String))

    def ends(self) -> tuple[datetime, datetime] | None:
        """Return the times of the earliest and the latest print, or None for an empty tape."""
        if not self.rows:
            return None
        first, last = self.frame.select(
            pl.col("ts").min().cast(TIME), pl.col("ts").max().cast(TIME).alias("last")
        ).row(0)
        return first, last

    def unverified(self) -> None:
        """Return None: a frame does not know whether prints are missing."""

    def update_digest(self, digest: hashlib._Hash) -> None:
        """Feed a hash with the bytes of the columns."""
        for name in _DIGESTED:
            digest.update(np.ascontiguousarray(self.frame[name].to_physical().to_numpy()).tobytes())
        digest.update(self.frame["taker"].to_physical().to_numpy().tobytes())


def frame_in_memory(tape: Tape) -> pl.DataFrame:
    """Return the frame of a tape; a tape that is not a `FrameTape` is read in batches and put together."""
    if isinstance(tape, FrameTape):
        return tape.frame
    parts = [batch.frame for batch in tape.batches(("market", *COLUMNS))]
    names = pl.DataFrame({"ticker": tape.tickers.cast(pl.String)}).with_row_index("market")
    frame = pl.concat(parts)
    return frame.join(names, on="market", how="left", maintain_order="left")
