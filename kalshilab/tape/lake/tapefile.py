"""A single Parquet file with the columns of a tape, read like a lake."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import polars as pl

from kalshilab.errors import LakeError, TapeError
from kalshilab.tape.lake import parquet
from kalshilab.tape.lake.row_groups import DayFile
from kalshilab.tape.lake.source import StoredTape, batches
from kalshilab.tape.schema import TAPE_SCHEMA, TIME

__all__ = ["TapeFile"]

MOST_CODES: Final = 1 << 27
"""Market codes above this are not dense."""


class TapeFile(StoredTape):
    """A tape in one Parquet file of any size; `files` holds that file, without control totals.

    The file must not change while it is read; a change is detected by its size and modification time. The file's own
    market codes are used. They and the order of time are checked when `listing` or `tickers` is first accessed, which
    reads three columns once.

    >>> import tempfile
    >>> import kalshilab as kl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     kl.sample()[0].write_parquet(Path(folder, "tape.parquet"))
    ...     source = TapeFile(Path(folder, "tape.parquet"))
    ...     print(source.rows == kl.sample()[0].height, source.tickers[0] == kl.sample()[0]["ticker"][0])
    True True

    Raises:
        TapeError: the file is not Parquet, or lacks columns of a tape.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path).absolute()
        try:
            schema = pl.read_parquet_schema(self._path)
            lazy = pl.scan_parquet(self._path, hive_partitioning=False)
            rows = lazy.select(pl.len()).collect().item()
            ends = lazy.select(pl.col("ts").first(), pl.col("ts").last().alias("last"))
            first, last = (None, None)
            wrong = [
                f"{n} is {schema.get(n, 'missing')}" for n, t in TAPE_SCHEMA.items() if schema.get(n) != t
            ]
            if not wrong and rows:
                first, last = ends.select(pl.all().dt.epoch("us")).collect().row(0)
        except parquet.UNREADABLE as error:
            raise TapeError(
                f"{path} is neither a lake nor a Parquet file that can be read ({parquet.short(error)}); "
                "kalshilab import makes a lake of CSV and JSON files"
            ) from None
        if wrong:
            raise TapeError(
                f"{path} is a Parquet file but not a tape: {', '.join(wrong)}; kalshilab import makes a lake of it, "
                "or kalshilab.to_tape a tape"
            )
        stat = self._path.stat()
        self._changed = stat.st_mtime_ns
        self._files = (
            (DayFile("", self._path, rows, stat.st_size, "", 0, first or 0, last or 0, None),) if rows else ()
        )
        self._listing: pl.DataFrame | None = None

    def __repr__(self) -> str:
        return f"TapeFile({str(self._path)!r}: {self.rows:,} prints)"

    @property
    def path(self) -> Path:
        """The file, absolute."""
        return self._path

    @property
    def files(self) -> tuple[DayFile, ...]:
        """The file; empty if it has no rows."""
        return self._files

    @property
    def rows(self) -> int:
        """Number of prints."""
        return sum(file.rows for file in self._files)

    @property
    def tickers(self) -> pl.Series:
        """Tickers by market code; null for a code without prints."""
        return self.listing["ticker"]

    @property
    def listing(self) -> pl.DataFrame:
        """One row per market, by code: `market`, `ticker`, `prints`, `first_ts`, `last_ts`.

        Raises:
            TapeError: times go back, a code stands for two tickers, or codes are not dense.
            LakeError: the file has changed.
        """
        if self._listing is None:
            self._listing = self._read()
        return self._listing

    def _read(self) -> pl.DataFrame:
        counts, before = [], None
        for batch in batches(self, ["ts", "market", "ticker"]):
            frame = batch.frame
            if any(frame[name].null_count() for name in frame.columns):
                raise TapeError(f"{self._path} has nulls in ts, market or ticker")
            back = (frame["ts"].diff().dt.total_microseconds() < 0).any()
            if back or (before is not None and frame["ts"][0] < before):
                raise TapeError(
                    f"{self._path}: goes back in time; sort by ts or use kalshilab.to_tape", column="ts"
                )
            before = frame["ts"][-1]
            counts.append(
                frame.group_by("market", "ticker").agg(
                    pl.len().alias("prints"),
                    pl.col("ts").first().alias("first_ts"),
                    pl.col("ts").last().alias("last_ts"),
                )
            )
        empty = pl.DataFrame(schema=_COLUMNS)
        table = (
            pl.concat([c.select(pl.col(n).cast(t) for n, t in _COLUMNS.items()) for c in counts] or [empty])
            .group_by("market", "ticker")
            .agg(pl.col("prints").sum(), pl.col("first_ts").min(), pl.col("last_ts").max())
            .sort("market")
        )
        if table["market"].n_unique() != table.height or table["ticker"].n_unique() != table.height:
            raise TapeError(f"{self._path}: does not stand for one ticker each", column="market")
        top = int(table["market"][-1]) + 1 if table.height else 0
        if top > MOST_CODES:
            raise TapeError(
                f"{self._path}: are not dense codes; kalshilab.to_tape gives such", column="market"
            )
        codes = pl.DataFrame({"market": pl.int_range(top, dtype=pl.UInt32, eager=True)})
        joined = codes.join(table, on="market", how="left", maintain_order="left")
        return joined.with_columns(pl.col("prints").fill_null(0)).select(*_COLUMNS)

    def check_file(self, file: DayFile) -> None:
        """Check that the file is the one that was opened.

        Raises:
            LakeError: the file is missing or has changed.
        """
        try:
            stat = file.path.stat()
        except FileNotFoundError:
            raise LakeError(
                self._path, file.path, "is missing", run="the same with a file that is there"
            ) from None
        if (stat.st_size, stat.st_mtime_ns) != (file.bytes, self._changed):
            raise LakeError(self._path, file.path, "was changed while it was read", run="the same again")

    check_origin = check_file

    def lazy(self) -> pl.LazyFrame:
        """Return the tape as a lazy frame, after `check_file`.

        Raises:
            LakeError: the file is missing or has changed.
        """
        for file in self._files:
            self.check_file(file)
        return pl.scan_parquet(self._path, hive_partitioning=False).select(TAPE_SCHEMA.names())


_COLUMNS: Final[dict[str, Any]] = {
    "market": pl.UInt32,
    "ticker": pl.String,
    "prints": pl.UInt64,
    "first_ts": TIME,
    "last_ts": TIME,
}
