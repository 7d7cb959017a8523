"""Archives of trades, in the layouts people share them in, piece by piece into tapes and into a lake.

=========================================== ==================================================================
`.parquet`                                  read by row groups, known columns only
`.csv`, `.csv.gz`                           read in blocks; numbers may be quoted or not
`.json`, `.json.gz`                         a list of trades, {"trades": [...]}, or one object a line
`.jsonl`, `.ndjson`, with or without `.gz`  one object, or one {"trades": [...]}, a line
=========================================== ==================================================================

The columns are those of `kalshilab.tape.normalise`, whose rules hold for every row.  A folder is walked in the
order of names; in it files that begin with a dot or an underscore and texts (`.md`, `.txt`) are passed over,
and any other file that cannot be read is an error: nothing is left out because of its name.

`import_archive` stages everything first and commits it in one change: an import that fails or is killed leaves
the lake as it was.  Run it again and it begins anew.
"""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import msgspec
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.tape.lake.fs import short
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.lake.merge import Appended
from kalshilab.tape.normalise import DroppedRows, Report, to_tape
from kalshilab.tape.schema import TAPE_SCHEMA, check_markets

__all__ = ["archive_files", "import_archive", "read_archive"]

ROWS: Final = 1 << 19
"""Rows read at a time."""

Unit = Literal["cents", "dollars"] | None
Paths = str | Path | Iterable[str | Path]

BLOCK: Final = 1 << 26
"""Bytes of a CSV file read at a time."""
LINES: Final = 250_000
"""Trades of a JSON file decoded at a time."""
_ENDINGS: Final = (".parquet", ".csv", ".csv.gz", ".json", ".json.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")  # fmt: skip
_NUMBERS: Final = ("price", "yes_price", "no_price", "count", "size", "market")
_TIMES: Final = ("ts", "created_time", "ts_ms", "time", "timestamp")
_TEXTS: Final = (
    "ticker",
    "market_ticker",
    "taker",
    "taker_outcome_side",
    "taker_side",
    "trade_id",
    "id",
    # Decimals as the exchange writes them: exact as texts, and their names say the unit.
    "yes_price_dollars",
    "count_fp",
)
KNOWN: Final = frozenset((*_NUMBERS, *_TIMES, *_TEXTS))
"""Columns that may matter; others are not read."""


def archive_files(paths: Paths) -> list[Path]:
    """The files of an archive: those given, and those of the folders given, in the order of names.

    Raises:
        TapeError: a path that does not exist, a folder without any, a file of a kind that cannot be read.
    """
    found: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if not path.exists():
            raise TapeError(f"{path} does not exist")
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files = [p for p in inside if not path.is_dir() or not _passed_over(p, path)]
        if not files:
            raise TapeError(f"{path} has no files of trades in it")
        for file in files:
            if not file.name.lower().endswith(_ENDINGS):
                raise TapeError(
                    f"{file} is of no kind that can be read ({', '.join(_ENDINGS)}); unpack it, or give files one by one"
                )
        found += files
    return found


def _passed_over(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return hidden or file.suffix.lower() in (".md", ".txt") or file.name in ("LICENSE", "README")


def read_archive(paths: Paths, *, price_unit: Unit = None) -> Iterator[pl.DataFrame]:
    """The trades of an archive, as tapes of at most about a million rows.

    Each tape is in order in itself and has codes of its own; how they follow each other is up to the archive.
    What is dropped (trades that name no taker, trade ids that come again within a piece) is said in a
    `DroppedRows` warning for each file.

    Args:
        paths: a file, a folder, or several.
        price_unit: as for `to_tape`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "2026-01-05.json").write_text('[{"ticker": "A-B-1", "yes_price": 43, "count": 2, '
    ...         '"taker_side": "yes", "created_time": "2026-01-05T12:00:00Z"}]')
    ...     [tape.select("price", "size").rows() for tape in read_archive(folder)]
    [[(4300, 200)]]

    Raises:
        TapeError: as for `archive_files` and `to_tape`; the sentence names the file, and `row` counts its trades.
    """
    return _tapes(archive_files(paths), price_unit)


def _tapes(files: Sequence[Path], unit: Unit) -> Iterator[pl.DataFrame]:
    for file in files:
        reports: list[Report] = []
        rows = 0
        for frame in _frames(file):
            try:
                with warnings.catch_warnings():
                    # Said once for the file, below.
                    warnings.simplefilter("ignore", DroppedRows)
                    tape, report = to_tape(frame, price_unit=unit, report=True)
            except TapeError as error:
                raise TapeError(
                    f"{error.reason} (in {file})",
                    column=error.column,
                    row=None if error.row is None else rows + error.row,
                    value=error.value,
                ) from None
            rows += frame.height
            reports.append(report)
            if tape.height:
                yield tape
        total = [sum(getattr(r, name) for r in reports) for name in Report.__struct_fields__]
        if (whole := Report(*total)).kept < whole.rows:
            warnings.warn(f"{file}: {whole}", DroppedRows, stacklevel=3)


def _frames(file: Path) -> Iterator[pl.DataFrame]:
    """A file's trades, known columns only, in pieces."""
    name = file.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(file)
        elif name.endswith((".csv", ".csv.gz")):
            yield from _csv(file)
        else:
            yield from _json(file)
    except (OSError, EOFError, ValueError, pl.exceptions.PolarsError) as error:
        # pyarrow's errors are ValueErrors and OSErrors, and so are those of a torn gzip file.
        if isinstance(error, TapeError):
            raise
        raise TapeError(f"{file} cannot be read: {short(error)}") from None


def _parquet(file: Path) -> Iterator[pl.DataFrame]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as source:
        schema = source.schema_arrow
        names = [n for n in schema.names if n in KNOWN]
        if not source.metadata.num_rows:
            yield cast(pl.DataFrame, pl.from_arrow(schema.empty_table().select(names)))
        for batch in source.iter_batches(batch_size=ROWS, columns=names):
            yield cast(pl.DataFrame, pl.from_arrow(batch))


def _csv(file: Path) -> Iterator[pl.DataFrame]:
    import pyarrow as pa
    import pyarrow.csv as pc

    with _open(file) as lines:
        header = lines.readline().decode("utf-8-sig").strip()
    names = [n.strip().strip('"') for n in header.split(",")]
    known = [n for n in names if n in KNOWN]
    if not known:
        raise TapeError(f"{file} has no line of column names that are known: it begins with {header[:80]!r}")
    with pa.input_stream(file, compression="detect") as stream:
        blocks = pc.open_csv(
            stream,
            read_options=pc.ReadOptions(block_size=BLOCK, column_names=names, skip_rows=1),
            convert_options=pc.ConvertOptions(
                column_types=dict.fromkeys(known, pa.string()),
                include_columns=known,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        empty = True
        for block in blocks:
            frame = cast(pl.DataFrame, pl.from_arrow(block))
            for part in frame.iter_slices(ROWS):
                empty = empty and not part.height
                yield _typed(part)
        if empty:
            yield pl.DataFrame(schema=dict.fromkeys(known, pl.String))


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of texts that are all numbers, as numbers; a tape's own columns as a tape's."""
    columns = []
    for name in frame.columns:
        column = frame[name]
        if name in (*_NUMBERS, *_TIMES) and column.dtype == pl.String:
            for dtype in (pl.Int64, pl.Float64):
                number = column.str.strip_chars().cast(dtype, strict=False)
                if number.null_count() == column.null_count():
                    column = number
                    break
        columns.append(column)
    typed = pl.DataFrame(columns)
    if (
        set(TAPE_SCHEMA.names()) <= set(frame.columns)
        and typed.schema["price"] == typed.schema["size"] == pl.Int64
    ):
        typed = typed.with_columns(pl.col("price").cast(pl.Int16), pl.col("size").cast(pl.UInt32))
    return typed


class _Page(msgspec.Struct):
    """An object that may be a page of trades."""

    trades: list[msgspec.Raw] | None = None


def _json(file: Path) -> Iterator[pl.DataFrame]:
    with _open(file) as lines:
        first = next((line for line in lines if line.strip()), b"")
        lines.seek(0)
        if first.lstrip().startswith(b"[") or not _whole(first):
            yield from _decoded(_list(file, lines.read()))
            return
        number = 0
        while chunk := list(islice(lines, LINES)):
            trades: list[Any] = []
            for line in chunk:
                number += 1
                if line.strip():
                    try:
                        page = msgspec.json.decode(line, type=_Page)
                    except msgspec.DecodeError as error:
                        raise TapeError(f"{file}, line {number}: is not a JSON object ({error})") from None
                    trades += [line] if page.trades is None else page.trades
            yield from _decoded(trades)


def _whole(line: bytes) -> bool:
    """Whether a line is an object by itself."""
    try:
        msgspec.json.decode(line, type=_Page)
    except msgspec.DecodeError:
        return False
    return True


def _list(file: Path, data: bytes) -> list[msgspec.Raw]:
    try:
        if data.lstrip().startswith(b"["):
            return msgspec.json.decode(data, type=list[msgspec.Raw])
        trades = msgspec.json.decode(data, type=_Page).trades
    except msgspec.DecodeError as error:
        raise TapeError(f"{file} is not JSON, or cut short: {error}") from None
    if trades is None:
        raise TapeError(f"{file} is one JSON object without a list of trades")
    return trades


def _decoded(trades: Sequence[Any]) -> Iterator[pl.DataFrame]:
    for start in range(0, len(trades), LINES):
        text = b"[" + b",".join(bytes(t) for t in trades[start : start + LINES]) + b"]"
        rows = msgspec.json.decode(text, type=list[dict[str, Any]])
        names = [n for n in dict.fromkeys(k for row in rows for k in row) if n in KNOWN]
        frame = pl.DataFrame({n: pl.Series(n, [row.get(n) for row in rows], strict=True) for n in names})
        yield _typed(frame)


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file) if file.name.lower().endswith(".gz") else file.open("rb"))


def import_archive(
    lake: Lake | str | Path, paths: Paths, markets: pl.DataFrame | None = None, price_unit: Unit = None
) -> Appended:
    """Put an archive into a lake, in one change.

    Trades that are there already are dropped and counted, so an archive that overlaps with the lake, or comes a
    second time, does no harm: by their id, and where the archive or the lake has none, by time, market, price, size
    and taker, one for one.  (An archive without ids whose times are rounded is not known again.)  A download
    afterwards does the same, and gives the prints their ids.

    Args:
        lake: a lake, or its folder, which is made if need be, and is not left behind by an import that fails.
        paths, price_unit: as for `read_archive`.
        markets: metadata of the markets, from `to_markets`.

    >>> import tempfile
    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tape.write_csv(Path(folder, "trades.csv"))
    ...     done = import_archive(Path(folder, "lake"), Path(folder, "trades.csv"), markets)
    ...     print(done.added == tape.height, done.new_markets == tape["ticker"].n_unique())
    True True

    Raises:
        TapeError: as for `read_archive`; nothing is imported.
        LakeError: the lake is damaged, or somebody else writes to it.
    """
    files = archive_files(paths)
    if markets is not None:
        check_markets(markets)
    with nullcontext(lake) if isinstance(lake, Lake) else Lake.begun(lake) as own, own.writing():
        # Segments of an import that was killed: this one begins anew.
        own.unstage(name for name in own.staged() if name.startswith("import-"))
        names: list[str] = []
        try:
            for tape in _tapes(files, price_unit):
                names.append(f"import-{len(names):06d}")
                own.stage(names[-1], tape)
            return own.commit(names, markets=markets, match=True)
        except BaseException:
            own.unstage(names)
            raise
