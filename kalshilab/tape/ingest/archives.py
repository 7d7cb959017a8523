"""Read archives of trades in the layouts in which they are published, and import them into a lake.

=========================================== ==================================================================
`.parquet`                                  read by row groups, known columns only
`.csv`, `.csv.gz`                           read in blocks; numbers may be quoted or not
`.json`, `.json.gz`                         a list of trades, {"trades": [...]}, or one object a line
`.jsonl`, `.ndjson`, with or without `.gz`  one object, or one {"trades": [...]}, a line
=========================================== ==================================================================

The columns are those of `kalshilab.tape.normalise`, whose rules apply to every row.  Folders are walked in the order of
names.  Files whose name begins with a dot or an underscore, and texts (`.md`, `.txt`), are skipped; any other file that
cannot be read is an error.

`import_archive` stages everything first and commits it in one transaction, so an import that fails or is killed leaves
the lake unchanged.  A repeated import starts from the beginning.
"""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Final, Literal, cast

import msgspec
import polars as pl

from kalshilab.errors import TapeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.lake.merge import Appended
from kalshilab.tape.lake.parquet import short
from kalshilab.tape.normalise import TRADE_COLUMNS, DroppedRows, NormalisationReport, to_tape
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
_TEXTS: Final = frozenset(
    # The exchange's decimals stay texts, which are exact; their names give the unit.
    (
        *TRADE_COLUMNS["ticker"],
        *TRADE_COLUMNS["taker"],
        *TRADE_COLUMNS["trade_id"],
        "yes_price_dollars",
        "count_fp",
    )
)
KNOWN: Final = frozenset(chain(*TRADE_COLUMNS.values(), ("no_price", "market")))
"""Columns that are read; others are ignored."""


def archive_files(paths: Paths) -> list[Path]:
    """List the files of an archive.

    Args:
        paths: a file, a folder, or several; the files of a folder are listed in the order of names.

    Raises:
        TapeError: a path does not exist, a folder is empty, or a file is of an unknown kind.
    """
    archive: list[Path] = []
    for path in [paths] if isinstance(paths, str | Path) else paths:
        path = Path(path)
        if not path.exists():
            raise TapeError(f"paths must exist, got {path}")
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        files = [p for p in inside if not path.is_dir() or not _is_skipped(p, path)]
        if not files:
            raise TapeError(f"paths must contain files of trades, got {path}")
        for file in files:
            if not file.name.lower().endswith(_ENDINGS):
                raise TapeError(
                    f"files must end in {', '.join(_ENDINGS)}, got {file}; unpack it, or list the files to import"
                )
        archive += files
    return archive


def _is_skipped(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
    return hidden or file.suffix.lower() in (".md", ".txt") or file.name in ("LICENSE", "README")


def read_archive(paths: Paths, *, price_unit: Unit = None) -> Iterator[pl.DataFrame]:
    """Read the trades of an archive as tapes of at most about a million rows.

    Each tape is sorted and has independent market codes; the order of the tapes is that of the archive.  Dropped trades
    (of an unknown taker side, or with a trade id repeated within a tape) are counted in a `DroppedRows` warning for
    each file.

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
        TapeError: as for `archive_files` and `to_tape`; the message names the file, and `row` counts its trades.
    """
    return _tapes(archive_files(paths), price_unit)


def _tapes(files: Sequence[Path], unit: Unit) -> Iterator[pl.DataFrame]:
    for file in files:
        reports: list[NormalisationReport] = []
        rows = 0
        for frame in _frames(file):
            try:
                with warnings.catch_warnings():
                    # Warned once for the file, below.
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
        total = [sum(getattr(r, name) for r in reports) for name in NormalisationReport.__struct_fields__]
        if (whole := NormalisationReport(*total)).kept < whole.rows:
            warnings.warn(f"{file}: {whole}", DroppedRows, stacklevel=3)


def _frames(file: Path) -> Iterator[pl.DataFrame]:
    """Yield the known columns of a file's trades, in portions."""
    name = file.name.lower()
    try:
        if name.endswith(".parquet"):
            yield from _parquet(file)
        elif name.endswith((".csv", ".csv.gz")):
            yield from _csv(file)
        else:
            yield from _json(file)
    except (OSError, EOFError, ValueError, pl.exceptions.PolarsError) as error:
        # pyarrow and a truncated gzip file raise ValueError or OSError.
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
        raise TapeError(f"{file}, line 1: must have known column names, got {header[:80]!r}")
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
    """Convert text columns of numbers to numbers; give a tape's columns their dtypes."""
    columns = []
    for name in frame.columns:
        column = frame[name]
        if name not in _TEXTS and column.dtype == pl.String:
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
    """A JSON object that may be a page of trades."""

    trades: list[msgspec.Raw] | None = None


def _json(file: Path) -> Iterator[pl.DataFrame]:
    with _open(file) as lines:
        first = next((line for line in lines if line.strip()), b"")
        lines.seek(0)
        if first.lstrip().startswith(b"[") or not _is_object(first):
            yield from _decoded(_list(file, lines.read()))
            return
        number = 0
        while chunk := list(islice(lines, LINES)):
            trades: list[msgspec.Raw | bytes] = []
            for line in chunk:
                number += 1
                if line.strip():
                    try:
                        page = msgspec.json.decode(line, type=_Page)
                    except msgspec.DecodeError as error:
                        raise TapeError(f"{file}, line {number}: must be a JSON object ({error})") from None
                    trades += [line] if page.trades is None else page.trades
            yield from _decoded(trades)


def _is_object(line: bytes) -> bool:
    """Return whether a line is a complete JSON object."""
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
        raise TapeError(f"{file} must be JSON, complete and well-formed: {error}") from None
    if trades is None:
        raise TapeError(f"{file} must have a list of trades, got a JSON object without one")
    return trades


def _decoded(trades: Sequence[msgspec.Raw | bytes]) -> Iterator[pl.DataFrame]:
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
    """Import an archive into a lake, in one transaction.

    Trades that the lake has are dropped and counted, so an archive may overlap with the lake or be imported twice.
    They are recognised by trade id.  If the archive or the lake lacks ids, they are matched by time, market, price,
    size and taker, one for one.  (That fails for an archive without ids and with rounded times.)  A later download
    matches prints in the same way and adds the ids.

    Args:
        lake: a lake, or its folder; a folder created for an import that fails is removed.
        paths: as for `read_archive`.
        markets: metadata of the markets, from `to_markets`.
        price_unit: as for `read_archive`.

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
        LakeError: the lake is damaged, or another process writes to it.
    """
    files = archive_files(paths)
    if markets is not None:
        check_markets(markets)
    with nullcontext(lake) if isinstance(lake, Lake) else Lake.begun(lake) as target, target.writing():
        # Discard the segments of a killed import.
        target.unstage(name for name in target.staged() if name.startswith("import-"))
        names: list[str] = []
        try:
            for tape in _tapes(files, price_unit):
                names.append(f"import-{len(names):06d}")
                target.stage(names[-1], tape)
            return target.commit(names, markets=markets, match=True)
        except BaseException:
            target.unstage(names)
            raise
