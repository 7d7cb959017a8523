"""The manifest: the file that lists the content of a lake.

A lake is a folder::

    lake/
      manifest.json                                     the reference: files it does not list are not in the lake
      manifest-<generation>.json                        its copy, for `repair` if it is damaged
      markets-<generation>.parquet                      one row a market: code, ticker, prints, metadata
      trades/day=YYYY-MM-DD/part-<generation>.parquet   the prints of a UTC day, ordered by time
      incoming/<name>.parquet                           staged segments, not yet in the lake

Files are never modified.  A transaction (`kalshilab.tape.lake.transaction`) writes new files under the names of a new
generation, syncs them, and replaces manifest.json in one step; the old files are removed last.  Killed at any moment,
it leaves the old lake or the new one, and files that no manifest lists.  The next change removes those.

The manifest is sealed with a hash of itself, so that an edited or truncated one is detected.  For each file it holds
the size, the hash, the checksums and the byte offsets of the timestamps.  `check_file` compares the cheap ones, readers
the checksums of the columns they read, and `kalshilab doctor` all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from kalshilab import fs
from kalshilab.errors import LakeError
from kalshilab.tape.lake import parquet
from kalshilab.tape.lake.row_groups import Checksums, DayFile
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, TIME

__all__ = [
    "COPY",
    "LISTING_SCHEMA",
    "DayEntry",
    "DayFile",
    "Manifest",
    "MergedSegment",
    "TableEntry",
    "check_file",
    "check_origin",
    "claim",
    "load",
    "read_day",
    "read_listing",
]  # fmt: skip

VERSION: Final = 1
NAME: Final = "manifest.json"
COPY: Final = re.compile(r"manifest-(\d+)\.json")
TABLE: Final = re.compile(r"markets-(\d+)\.parquet")

_LISTING: Final[dict[str, pl.DataType | type[pl.DataType]]] = {
    "market": pl.UInt32,
    "ticker": pl.String,
    "prints": pl.UInt64,
    "first_ts": TIME,
    "last_ts": TIME,
    **{name: dtype for name, dtype in MARKETS_SCHEMA.items() if name != "ticker"},
}
LISTING_SCHEMA: Final = pl.Schema(_LISTING)
"""Columns of the markets file: row n is the market with code n; unknown metadata are null."""

_TAPE_TEXT: Final = {name: str(dtype) for name, dtype in TAPE_SCHEMA.items()}


class DayEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The manifest's entry for a day's file: the fields of `DayFile`, with `file` relative to the lake."""

    day: str
    file: str
    rows: int
    bytes: int
    sha256: str
    first_ts: int
    last_ts: int
    totals: Checksums
    times_at: tuple[int, ...] = ()


class TableEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest's entry for the markets file; `file` is relative to the lake."""

    file: str
    rows: int
    bytes: int
    sha256: str


class MergedSegment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A staged segment whose prints are in this generation; if its file still exists, it must not be merged again."""

    name: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a lake.

    Attributes:
        generation: the number of changes so far.
        markets: the markets file.
        days: the days' files, in order.
        covered: intervals [since, until), microseconds, disjoint and in order, of which the lake has every print.
        merged: segments that this generation merged.
        schema: the columns of the days' files.
        version: of the format.
        seal: the hash of all other fields.
    """

    generation: int
    markets: TableEntry
    days: tuple[DayEntry, ...] = ()
    covered: tuple[tuple[int, int], ...] = ()
    merged: tuple[MergedSegment, ...] = ()
    schema: dict[str, str] = msgspec.field(default_factory=_TAPE_TEXT.copy)
    version: int = VERSION
    seal: str = ""

    @property
    def rows(self) -> int:
        """Prints in the lake."""
        return sum(day.rows for day in self.days)

    def files(self, root: Path) -> tuple[DayFile, ...]:
        """Return the days' files, in order."""
        files, first = [], 0
        for d in self.days:
            path = root / d.file
            files.append(
                DayFile(
                    d.day, path, d.rows, d.bytes, d.sha256, first, d.first_ts, d.last_ts, d.totals, d.times_at
                )
            )
            first += d.rows
        return tuple(files)

    def encoded(self) -> bytes:
        """Return the manifest as JSON, sealed."""
        sealed = msgspec.structs.replace(self, seal=self._hash())
        return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"

    def _hash(self) -> str:
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, seal=""))).hexdigest()

    def fault(self) -> str | None:
        """Return the first inconsistency of the manifest itself as a phrase; None if it is consistent."""
        if self.seal != self._hash():
            return "does not match its seal: it was edited or damaged"
        if self.schema != _TAPE_TEXT:
            other = sorted(set(self.schema.items()) ^ set(_TAPE_TEXT.items()))
            return f"has another schema: {', '.join(f'{name} {dtype}' for name, dtype in other)}"
        days = [d.day for d in self.days]
        return None if days == sorted(set(days)) else "does not have its days in order"


class _VersionField(msgspec.Struct):
    version: int


def load(root: Path, name: str = NAME) -> Manifest:
    """Read a lake's manifest.

    Args:
        root: the lake.
        name: the file: the manifest, or its copy.

    Raises:
        LakeError: the manifest is missing, cannot be read, is of another version, or does not match its seal.
    """
    path = root / name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if name == NAME and not any(_traces(root)):
            raise LakeError(
                root,
                None,
                "is not a lake: it has no manifest.json",
                run=f"kalshilab download --out {root} (or kalshilab import), which creates one",
            ) from None
        raise LakeError(root, path, "is missing") from None
    except OSError as error:
        raise LakeError(root, path, f"cannot be read ({error.strerror})") from None
    try:
        version = msgspec.json.decode(data, type=_VersionField).version
        if version != VERSION:
            raise LakeError(
                root,
                path,
                f"is of version {version}; this kalshilab reads version {VERSION}",
                run="the kalshilab that wrote it",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LakeError(root, path, f"cannot be read ({error})") from None
    if fault := manifest.fault():
        raise LakeError(root, path, fault)
    return manifest


def _traces(root: Path) -> Iterator[Path]:
    """Yield files that prove that a lake was here: days, and files of any generation after the first."""
    yield from root.glob("trades/day=*")
    for path in root.glob("ma*-*.*"):
        match = COPY.fullmatch(path.name) or TABLE.fullmatch(path.name)
        if match and int(match[1]) > 0:
            yield path


def check_origin(root: Path, file: DayFile, generation: int) -> None:
    """Compare the existence, the size and the footer's note of a day's file with the manifest, which is cheap.

    Args:
        root: the lake.
        file: the day's file.
        generation: the generation whose manifest lists the file.

    Raises:
        LakeError: the file is not the one that was written.
    """
    try:
        size = file.path.stat().st_size
    except FileNotFoundError:
        now = generation
        with suppress(LakeError):
            now = load(root).generation
        if now != generation:
            raise LakeError(
                root,
                file.path,
                f"is of generation {generation} of the lake, which is at {now} now",
                run="the same again: the lake has changed since it was opened",
            ) from None
        raise LakeError(root, file.path, "is missing") from None
    except OSError as error:
        raise LakeError(root, file.path, f"cannot be read ({parquet.short(error)})") from None
    if size != file.bytes:
        raise LakeError(root, file.path, f"has {size:,} bytes where {file.bytes:,} were written")
    try:
        note = parquet.note_of(file.path)
    except parquet.UNREADABLE as error:
        raise LakeError(root, file.path, f"cannot be read ({parquet.short(error)})") from None
    own = file.path.relative_to(root).as_posix()
    if note != own:
        raise LakeError(
            root, file.path, f"is another file: it was written as {note or 'a file outside a lake'}"
        )


def check_file(root: Path, file: DayFile, generation: int) -> None:
    """Compare a day's file with the manifest without reading its columns: as `check_origin`, plus schema and rows.

    Args:
        root: the lake.
        file: the day's file.
        generation: the generation whose manifest lists the file.

    Raises:
        LakeError: the file is not the one that was written.
    """
    check_origin(root, file, generation)
    try:
        schema = pl.read_parquet_schema(file.path)
        rows = pl.scan_parquet(file.path, hive_partitioning=False).select(pl.len()).collect().item()
    except parquet.UNREADABLE as error:
        raise LakeError(root, file.path, f"cannot be read ({parquet.short(error)})") from None
    if dict(schema) != dict(TAPE_SCHEMA):
        other = [f"{n} {t}" for n, t in schema.items() if TAPE_SCHEMA.get(n) != t]
        missing = [f"no {n}" for n in TAPE_SCHEMA if n not in schema]
        raise LakeError(root, file.path, f"has another schema: {', '.join([*other, *missing])}")
    if rows != file.rows:
        raise LakeError(root, file.path, f"has {rows:,} rows where {file.rows:,} were written")


def read_day(root: Path, file: DayFile, generation: int) -> pl.DataFrame:
    """Read a day's prints, after comparing every byte of the file with its hash.

    Args:
        root: the lake.
        file: the day's file.
        generation: the generation whose manifest lists the file.

    Raises:
        LakeError: the file is not the one that was written.
    """
    check_file(root, file, generation)
    try:
        if parquet.digest(file.path) != file.sha256:
            raise LakeError(root, file.path, "does not have the hash it was written with")
        return pl.read_parquet(file.path, hive_partitioning=False).rechunk()
    except parquet.UNREADABLE as error:
        raise LakeError(root, file.path, f"cannot be read ({parquet.short(error)})") from None


def read_listing(root: Path, entry: TableEntry) -> pl.DataFrame:
    """Read the markets file, after comparing it with its hash.

    Raises:
        LakeError: the file is not the one that was written.
    """
    path = root / entry.file
    try:
        if (size := path.stat().st_size) != entry.bytes:
            raise LakeError(root, path, f"has {size:,} bytes where {entry.bytes:,} were written")
        if parquet.digest(path) != entry.sha256:
            raise LakeError(root, path, "does not have the hash it was written with")
        listing = pl.read_parquet(path).rechunk()
    except FileNotFoundError:
        raise LakeError(root, path, "is missing") from None
    except parquet.UNREADABLE as error:
        raise LakeError(root, path, f"cannot be read ({parquet.short(error)})") from None
    if listing.schema != LISTING_SCHEMA or listing.height != entry.rows:
        raise LakeError(root, path, "does not have the columns and rows it was written with")
    return listing


def claim(root: Path, lock: fs.FileLock) -> None:
    """Acquire the lock of a lake.

    Raises:
        LakeError: another process holds it.
    """
    if not lock.acquire():
        raise LakeError(
            root,
            None,
            f"process {lock.holder()} is writing to this lake; only one process at a time may",
            run="the same again when it has ended",
        )
