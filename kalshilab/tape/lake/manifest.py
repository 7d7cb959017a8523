"""The manifest: the one file that says what is in a lake.

A lake is a folder::

    lake/
      manifest.json                                     the truth: what is not in it is not in the lake
      manifest-<generation>.json                        its copy, for `repair` should it be damaged
      markets-<generation>.parquet                      a row a market: code, ticker, prints, metadata
      trades/day=YYYY-MM-DD/part-<generation>.parquet   the prints of a UTC day, in the order of time
      incoming/<name>.parquet                           staged segments, not yet in the lake

Files are never changed.  What changes a lake (`kalshilab.tape.lake.transaction`) writes new files under the names of a new generation,
brings them to the disk, and then replaces manifest.json in one step; the old files go last.  Killed at any
moment, it leaves the lake of before or the lake of after, and files that no manifest names, which the next
change removes.

The manifest is sealed with a hash of itself: a line that is lost or edited is found out, not believed.  It has
the size, the hash and the control totals of each file, and where in it times lie; `check_file` compares what is cheap to compare, readers
the totals of the columns they read, and `kalshilab doctor` everything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import polars as pl

from kalshilab.errors import LakeError
from kalshilab.tape.lake import fs
from kalshilab.tape.lake.row_groups import ROW_GROUP
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, TIME

__all__ = [
    "COPY",
    "LISTING_SCHEMA",
    "DayEntry",
    "DayFile",
    "Manifest",
    "Merged",
    "TableEntry",
    "Totals",
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

_LISTING: Final[dict[str, Any]] = {
    "market": pl.UInt32,
    "ticker": pl.String,
    "prints": pl.UInt64,
    "first_ts": TIME,
    "last_ts": TIME,
    **{name: dtype for name, dtype in MARKETS_SCHEMA.items() if name != "ticker"},
}
LISTING_SCHEMA: Final = pl.Schema(_LISTING)
"""Columns of the markets file: row n is the market with code n; metadata are null where they are not known."""

_TAPE_TEXT: Final = {name: str(dtype) for name, dtype in TAPE_SCHEMA.items()}


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Control totals of a file: the sums of three columns, the number of YES takers, and what the times of each
    row group add up to (microseconds, modulo 2^64); these may be missing in lakes of before.
    """

    market: int
    price: int
    size: int
    yes: int
    ts: tuple[int, ...] = ()

    @classmethod
    def of(cls, frame: pl.DataFrame) -> Totals:
        """Of the prints of a frame.

        >>> import kalshilab as kl
        >>> Totals.of(kl.sample()[0].head(2)).yes <= 2
        True
        """
        market, price, size = (
            int(frame[name].to_numpy().sum(dtype=np.int64)) for name in ("market", "price", "size")
        )
        times = frame["ts"].dt.epoch("us").to_numpy()
        groups = range(0, len(times), ROW_GROUP)
        return cls(
            market,
            price,
            size,
            int((frame["taker"] == "yes").sum()),
            tuple(int(times[at : at + ROW_GROUP].sum(dtype=np.int64)) for at in groups),
        )


class DayFile(msgspec.Struct, frozen=True):
    """A day's file as readers see it.

    `rows` and `bytes` it has, `first_row` is its first row's position in the whole tape, `first_ts` and
    `last_ts` are its first and last instants (µs, inclusive).  `totals` are None in a file that no lake wrote.
    `times_at` says where in the file the times of each row group begin, eight bytes each; it may be empty.
    """

    day: str
    path: Path
    rows: int
    bytes: int
    sha256: str
    first_row: int
    first_ts: int
    last_ts: int
    totals: Totals | None
    times_at: tuple[int, ...] = ()


class DayEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A day's file as the manifest has it; `file` is relative to the lake."""

    day: str
    file: str
    rows: int
    bytes: int
    sha256: str
    first_ts: int
    last_ts: int
    totals: Totals
    times_at: tuple[int, ...] = ()


class TableEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The markets file; `file` is relative to the lake."""

    file: str
    rows: int
    bytes: int
    sha256: str


class Merged(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A staged segment whose prints are in this generation: whoever still finds it must not merge it again."""

    name: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a lake.  `covered` are stretches [since, until) in microseconds, merged and in order."""

    generation: int
    markets: TableEntry
    days: tuple[DayEntry, ...] = ()
    covered: tuple[tuple[int, int], ...] = ()
    merged: tuple[Merged, ...] = ()
    schema: dict[str, str] = msgspec.field(default_factory=_TAPE_TEXT.copy)
    version: int = VERSION
    seal: str = ""

    @property
    def rows(self) -> int:
        """Prints in the lake."""
        return sum(day.rows for day in self.days)

    def files(self, root: Path) -> tuple[DayFile, ...]:
        """The day files, in order."""
        found, first = [], 0
        for d in self.days:
            path = root / d.file
            found.append(
                DayFile(
                    d.day, path, d.rows, d.bytes, d.sha256, first, d.first_ts, d.last_ts, d.totals, d.times_at
                )
            )
            first += d.rows
        return tuple(found)

    def encoded(self) -> bytes:
        """As JSON, with its seal."""
        sealed = msgspec.structs.replace(self, seal=self._hash())
        return msgspec.json.format(msgspec.json.encode(sealed), indent=1) + b"\n"

    def _hash(self) -> str:
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, seal=""))).hexdigest()

    def fault(self) -> str | None:
        """What is wrong with it in itself; None if nothing is."""
        if self.seal != self._hash():
            return "does not fit its seal: it was edited or damaged"
        if self.schema != _TAPE_TEXT:
            other = sorted(set(self.schema.items()) ^ set(_TAPE_TEXT.items()))
            return f"has another schema: {', '.join(f'{name} {dtype}' for name, dtype in other)}"
        days = [d.day for d in self.days]
        return None if days == sorted(set(days)) else "does not have its days in order"


class _Version(msgspec.Struct):
    version: int


def load(root: Path, name: str = NAME) -> Manifest:
    """A lake's manifest.

    Raises:
        LakeError: there is none; it cannot be read, is of another version, or does not fit its seal.
    """
    path = root / name
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if name == NAME and not any(_written(root)):
            raise LakeError(
                root,
                None,
                "is not a lake: it has no manifest.json",
                run=f"kalshilab download --out {root} (or kalshilab import), which makes one",
            ) from None
        raise LakeError(root, path, "is missing") from None
    except OSError as error:
        raise LakeError(root, path, f"cannot be read ({error.strerror})") from None
    try:
        version = msgspec.json.decode(data, type=_Version).version
        if version != VERSION:
            raise LakeError(
                root,
                path,
                f"is of version {version}, and this kalshilab reads version {VERSION}",
                run="the kalshilab that wrote it",
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LakeError(root, path, f"cannot be read ({error})") from None
    if fault := manifest.fault():
        raise LakeError(root, path, fault)
    return manifest


def _written(root: Path) -> Iterator[Path]:
    """Signs that a lake was here: its days, and what is left of a generation after the first."""
    yield from root.glob("trades/day=*")
    for path in root.glob("ma*-*.*"):
        match = COPY.fullmatch(path.name) or TABLE.fullmatch(path.name)
        if match and int(match[1]) > 0:
            yield path


def check_origin(root: Path, file: DayFile, generation: int) -> None:
    """Compare a day's file with the manifest as far as costs next to nothing: it is there, has its size, and names
    itself in its footer.

    Raises:
        LakeError: it is not the file that was written.
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
                run="the same again: the lake was changed meanwhile",
            ) from None
        raise LakeError(root, file.path, "is missing") from None
    except OSError as error:
        raise LakeError(root, file.path, f"cannot be read ({fs.short(error)})") from None
    if size != file.bytes:
        raise LakeError(root, file.path, f"has {size:,} bytes where {file.bytes:,} were written")
    try:
        note = fs.note_of(file.path)
    except fs.UNREADABLE as error:
        raise LakeError(root, file.path, f"cannot be read ({fs.short(error)})") from None
    own = file.path.relative_to(root).as_posix()
    if note != own:
        raise LakeError(root, file.path, f"is another file: it was written as {note or 'no part of a lake'}")


def check_file(root: Path, file: DayFile, generation: int) -> None:
    """Compare what can be compared of a day's file without its columns: as `check_origin`, and schema and rows.

    Raises:
        LakeError: it is not the file that was written.
    """
    check_origin(root, file, generation)
    try:
        schema = pl.read_parquet_schema(file.path)
        rows = pl.scan_parquet(file.path, hive_partitioning=False).select(pl.len()).collect().item()
    except fs.UNREADABLE as error:
        raise LakeError(root, file.path, f"cannot be read ({fs.short(error)})") from None
    if dict(schema) != dict(TAPE_SCHEMA):
        other = [f"{n} {t}" for n, t in schema.items() if TAPE_SCHEMA.get(n) != t]
        lost = [n for n in TAPE_SCHEMA if n not in schema]
        what = ", ".join([*other, *(f"no {n}" for n in lost)])
        raise LakeError(root, file.path, f"has another schema: {what}")
    if rows != file.rows:
        raise LakeError(root, file.path, f"has {rows:,} rows where {file.rows:,} were written")


def read_day(root: Path, file: DayFile, generation: int) -> pl.DataFrame:
    """A day's prints, after every byte of its file was compared with the hash.

    Raises:
        LakeError: it is not the file that was written.
    """
    check_file(root, file, generation)
    try:
        if fs.digest(file.path) != file.sha256:
            raise LakeError(root, file.path, "does not have the hash it was written with")
        return pl.read_parquet(file.path, hive_partitioning=False).rechunk()
    except fs.UNREADABLE as error:
        raise LakeError(root, file.path, f"cannot be read ({fs.short(error)})") from None


def read_listing(root: Path, entry: TableEntry) -> pl.DataFrame:
    """The markets file, after it was compared with its hash.

    Raises:
        LakeError: it is not the file that was written.
    """
    path = root / entry.file
    try:
        if (size := path.stat().st_size) != entry.bytes:
            raise LakeError(root, path, f"has {size:,} bytes where {entry.bytes:,} were written")
        if fs.digest(path) != entry.sha256:
            raise LakeError(root, path, "does not have the hash it was written with")
        listing = pl.read_parquet(path).rechunk()
    except FileNotFoundError:
        raise LakeError(root, path, "is missing") from None
    except fs.UNREADABLE as error:
        raise LakeError(root, path, f"cannot be read ({fs.short(error)})") from None
    if listing.schema != LISTING_SCHEMA or listing.height != entry.rows:
        raise LakeError(root, path, "does not have the columns and rows it was written with")
    return listing


def claim(root: Path, lock: fs.Lock) -> None:
    """Take the lock of a lake.

    Raises:
        LakeError: somebody else has it.
    """
    if not lock.acquire():
        raise LakeError(
            root,
            None,
            f"process {lock.holder()} is writing to this lake, and one at a time may",
            run="the same again when it has ended",
        )
