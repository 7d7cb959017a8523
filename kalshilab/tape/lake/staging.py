"""Segments: prints staged for a lake.

A **segment** is a tape to be merged into the lake: a frame in memory, or a file in incoming/, which is complete or
absent.  Its note, sealed with a hash of itself, lists the days of its prints, with their position and hash.  So a
commit reads one day at a time, and merges exactly the prints that were staged for that day.

A merged segment is removed after the lake has changed.  If the process is killed in between, the manifest names the
segment as merged, and it is not merged again.  Each segment has a random token, so the same prints staged again are
another segment.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import polars as pl

from kalshilab import fs
from kalshilab.errors import ConfigError, LakeError
from kalshilab.fs import locked
from kalshilab.tape.lake import parquet
from kalshilab.tape.lake.manifest import Manifest, MergedSegment
from kalshilab.tape.schema import TAPE_SCHEMA, check_tape

__all__ = ["Incoming", "abandoned", "discard", "path_of", "staged", "write_segment"]

ROW_GROUP: Final = 1 << 15
"""Rows of a row group of a segment; small, because a day may be a small part of a segment."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class DaySlice(msgspec.Struct, frozen=True):
    """Position of a day's prints in a segment, and their `fingerprint` ("" in a segment in memory)."""

    day: str
    offset: int
    rows: int
    sha256: str = ""


class SegmentNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The note in a segment's footer.

    Attributes:
        token: random, so that no two segments are alike.
        rows: prints staged, duplicates included.
        days: the position of each day's prints.
        seal: the hash of all other fields.
    """

    token: str
    rows: int
    days: tuple[DaySlice, ...]
    seal: str = ""

    def sealed(self) -> SegmentNote:
        """Return the note with its seal."""
        bare = msgspec.structs.replace(self, seal="")
        return msgspec.structs.replace(bare, seal=hashlib.sha256(msgspec.json.encode(bare)).hexdigest())


def fingerprint(prints: pl.DataFrame) -> str:
    """Return the SHA-256 of prints, in hexadecimal; it does not depend on the encoding of the file.

    Market codes are left out, because the lake assigns them.

    >>> import kalshilab as kl
    >>> tape = kl.sample()[0]
    >>> fingerprint(tape.head(9)) == fingerprint(tape.head(9).drop("market")) != fingerprint(tape[1:10])
    True
    """
    sha256 = hashlib.sha256()
    for name, dtype in TAPE_SCHEMA.items():
        if name == "market":
            continue
        column = prints[name]
        if dtype == pl.String:
            # Lengths distinguish "ab", "c" from "a", "bc"; null has a length that no text has.
            lengths = column.str.len_bytes().fill_null(2**32 - 1)
            sha256.update(lengths.to_numpy().tobytes())
            sha256.update(column.str.join("", ignore_nulls=True).item().encode())
        else:
            sha256.update(column.to_physical().to_numpy().tobytes())
    return sha256.hexdigest()


class Incoming(NamedTuple):
    """A segment, read day by day; `path` and `sha256` are those of its file, None and "" in memory."""

    note: SegmentNote
    lazy: pl.LazyFrame
    path: Path | None = None
    sha256: str = ""

    @classmethod
    def of(cls, tape: pl.DataFrame) -> Incoming:
        """Make a segment of a tape in memory; a trade id that occurs twice is kept once.

        Raises:
            TapeError: the frame is not a tape.
        """
        rows = check_tape(tape).height
        tape = tape.select(TAPE_SCHEMA.names()).with_columns(pl.col("ticker").cast(pl.String))
        without_id = tape["trade_id"].is_null()
        if not without_id.all():
            keep = without_id | tape["trade_id"].is_first_distinct()
            if not keep.all():
                tape = tape.filter(keep)
        counted = tape.group_by(pl.col("ts").dt.date().alias("day"), maintain_order=True).len()
        ends = counted["len"].cum_sum()
        days = tuple(
            DaySlice(day.isoformat(), end - length, length)
            for (day, length), end in zip(counted.iter_rows(), ends, strict=True)
        )
        return cls(SegmentNote(os.urandom(12).hex(), rows, days), tape.lazy())

    @classmethod
    def open(cls, root: Path, name: str) -> Incoming:
        """Open a staged segment.

        Raises:
            LakeError: no segment of this name is staged, or it is damaged.
        """
        path = path_of(root, name)
        try:
            note = msgspec.json.decode(parquet.note_of(path), type=SegmentNote)
            if note != note.sealed():
                raise LakeError(
                    root, path, "has a note that does not match its seal: it was edited or damaged"
                )
            lazy = pl.scan_parquet(path, hive_partitioning=False)
            if lazy.collect_schema() != TAPE_SCHEMA:
                raise LakeError(root, path, "has another schema than it was staged with")
            return cls(note, lazy, path, parquet.digest(path))
        except FileNotFoundError:
            raise LakeError(root, path, "is missing: no segment of this name is staged") from None
        except parquet.UNREADABLE as error:
            raise LakeError(root, path, f"cannot be read ({parquet.short(error)})") from None
        except msgspec.DecodeError:
            raise LakeError(root, path, "was not staged by kalshilab") from None

    def verify(self, root: Path) -> None:
        """Read the whole segment and compare it with its note.

        Raises:
            LakeError: the segment is not the one that was staged.
        """
        for part in self.note.days:
            self.read(root, part)

    def read(self, root: Path, part: DaySlice) -> pl.DataFrame:
        """Read the prints of a day.

        Raises:
            LakeError: the prints cannot be read, or are not those that were staged.
        """
        frame = self.collect(root, self.lazy.slice(part.offset, part.rows))
        if self.path is not None and fingerprint(frame) != part.sha256:
            raise LakeError(root, self.path, f"does not have the prints of {part.day} that were staged")
        return frame

    def tickers(self, root: Path) -> pl.DataFrame:
        """Read the tickers, each with the time of its first print and in that order.

        Raises:
            LakeError: the segment cannot be read.
        """
        first = self.lazy.select("ticker", "ts").group_by("ticker", maintain_order=True).first()
        return self.collect(root, first)

    def collect(self, root: Path, lazy: pl.LazyFrame) -> pl.DataFrame:
        """Collect a query over the segment.

        Raises:
            LakeError: the segment cannot be read.
        """
        try:
            return lazy.collect()
        except parquet.UNREADABLE as error:
            raise LakeError(root, self.path, f"cannot be read ({parquet.short(error)})") from None


def path_of(root: Path, name: str) -> Path:
    """Return the file of a staged segment.

    Raises:
        ConfigError: the name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "name",
            name,
            "1 to 200 letters, digits, '-', '_' and '.', beginning with a letter or digit",
            "argument",
        )
    return root / "incoming" / f"{name}.parquet"


def write_segment(root: Path, name: str, tape: pl.DataFrame) -> None:
    """Write a tape to incoming/ atomically; a segment of that name is replaced.

    Raises:
        TapeError: the frame is not a tape.
        ConfigError: the name is not allowed.
    """
    path, segment = path_of(root, name), Incoming.of(tape)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{name}.{os.getpid()}{fs.TEMPORARY}")
    try:
        frame, note = segment.lazy.collect(), segment.note
        days = tuple(
            msgspec.structs.replace(part, sha256=fingerprint(frame.slice(part.offset, part.rows)))
            for part in note.days
        )
        note = msgspec.structs.replace(note, days=days).sealed()
        parquet.write_frame(frame, temporary, note=msgspec.json.encode(note).decode(), row_group=ROW_GROUP)
        with _incoming_lock(root):
            fs.publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fs.sync_folder(path.parent)


def _incoming_lock(root: Path) -> AbstractContextManager[None]:
    """Lock incoming/ while a segment is published or removed, so that a new segment is never removed."""
    folder = root / "incoming"
    folder.mkdir(exist_ok=True)
    return locked(folder / ".lock")


def staged(root: Path, manifest: Manifest) -> list[str]:
    """List the names of the segments that are not merged yet, in order."""
    merged = {m.name: m.sha256 for m in manifest.merged}
    found = (p for p in sorted((root / "incoming").glob("*.parquet")) if _NAME.fullmatch(p.stem))
    return [p.stem for p in found if p.stem not in merged or parquet.digest(p) != merged[p.stem]]


def discard(root: Path, segments: Iterable[MergedSegment]) -> tuple[MergedSegment, ...]:
    """Remove merged segments, but not a new segment that was staged under the same name.

    Returns:
        the segments that could not be removed.  The manifest must keep naming them, or they would be merged again.
    """
    segments, remaining = list(segments), []
    if not segments:
        return ()
    with _incoming_lock(root):
        for segment in segments:
            path = path_of(root, segment.name)
            try:
                if path.exists() and parquet.digest(path) == segment.sha256:
                    path.unlink()
            except OSError:
                remaining.append(segment)
    return tuple(remaining)


def abandoned(root: Path) -> list[Path]:
    """List temporary files in incoming/ whose process has ended."""
    paths = []
    for path in (root / "incoming").glob(f".*{fs.TEMPORARY}"):
        owner = path.name.removesuffix(fs.TEMPORARY).rpartition(".")[2]
        if owner.isdigit() and not _is_alive(int(owner)):
            paths.append(path)
    return sorted(paths)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
