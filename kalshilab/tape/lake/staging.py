"""Segments: prints on their way into a lake.

A **segment** is a tape somebody wants in the lake: a frame in memory, or a file in incoming/, which is there
whole or not at all.  Its note, sealed with a hash of itself, says where in it each day's prints are, and their
hash.  So a commit can take one day at a time, and merges the prints that were staged, each on its day, or none.

A segment that was merged is removed after the lake has changed; should the process be killed between, the
manifest names it as merged, and it is not merged again.  Each has a token of its own, so that the same prints
staged anew are another segment.
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

from kalshilab.errors import ConfigError, LakeError
from kalshilab.tape.lake import fs
from kalshilab.tape.lake.manifest import Manifest, Merged
from kalshilab.tape.schema import TAPE_SCHEMA, check_tape

__all__ = ["Incoming", "abandoned", "discard", "path_of", "staged", "write_segment"]

ROW_GROUP: Final = 1 << 15
"""Rows of a row group of a segment: small, because a day may be a small part of a segment."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


class Slice(msgspec.Struct, frozen=True):
    """Where in a segment a day's prints are, and their `fingerprint`, "" in one that is no file."""

    day: str
    offset: int
    rows: int
    sha256: str = ""


class SegmentNote(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a segment's footer says: `token` makes it unlike any other, `rows` counts duplicates too."""

    token: str
    rows: int
    days: tuple[Slice, ...]
    seal: str = ""

    def sealed(self) -> SegmentNote:
        """The same with the seal that fits it: a hash of all else."""
        bare = msgspec.structs.replace(self, seal="")
        return msgspec.structs.replace(bare, seal=hashlib.sha256(msgspec.json.encode(bare)).hexdigest())


def fingerprint(prints: pl.DataFrame) -> str:
    """The SHA-256, in hexadecimal, of what prints say, however a file holds them; of all but their market codes,
    which the lake gives.

    >>> import kalshilab as kl
    >>> tape = kl.sample()[0]
    >>> fingerprint(tape.head(9)) == fingerprint(tape.head(9).drop("market")) != fingerprint(tape[1:10])
    True
    """
    found = hashlib.sha256()
    for name, dtype in TAPE_SCHEMA.items():
        if name == "market":
            continue
        column = prints[name]
        if dtype == pl.String:
            # Lengths keep "ab", "c" apart from "a", "bc"; null has one that no text has.
            lengths = column.str.len_bytes().fill_null(2**32 - 1)
            found.update(lengths.to_numpy().tobytes())
            found.update(column.str.join("", ignore_nulls=True).item().encode())
        else:
            found.update(column.to_physical().to_numpy().tobytes())
    return found.hexdigest()


class Incoming(NamedTuple):
    """A segment, to be read day by day; `path` and `sha256` are those of its file."""

    note: SegmentNote
    lazy: pl.LazyFrame
    path: Path | None = None
    sha256: str = ""

    @classmethod
    def of(cls, tape: pl.DataFrame) -> Incoming:
        """A tape in memory.

        Raises:
            TapeError: not a tape.
        """
        rows = check_tape(tape).height
        tape = tape.select(TAPE_SCHEMA.names()).with_columns(pl.col("ticker").cast(pl.String))
        known = tape["trade_id"].is_null()
        if not known.all():
            keep = known | tape["trade_id"].is_first_distinct()
            if not keep.all():
                tape = tape.filter(keep)
        counted = tape.group_by(pl.col("ts").dt.date().alias("day"), maintain_order=True).len()
        ends = counted["len"].cum_sum()
        days = tuple(
            Slice(day.isoformat(), end - length, length)
            for (day, length), end in zip(counted.iter_rows(), ends, strict=True)
        )
        return cls(SegmentNote(os.urandom(12).hex(), rows, days), tape.lazy())

    @classmethod
    def open(cls, root: Path, name: str) -> Incoming:
        """A staged segment.

        Raises:
            LakeError: there is none of this name, or it is damaged.
        """
        path = path_of(root, name)
        try:
            note = msgspec.json.decode(fs.note_of(path), type=SegmentNote)
            if note != note.sealed():
                raise LakeError(root, path, "has a note that does not fit its seal: it was edited or damaged")
            lazy = pl.scan_parquet(path, hive_partitioning=False)
            if lazy.collect_schema() != TAPE_SCHEMA:
                raise LakeError(root, path, "has another schema than it was staged with")
            return cls(note, lazy, path, fs.digest(path))
        except FileNotFoundError:
            raise LakeError(root, path, "is missing: no segment of this name is staged") from None
        except fs.UNREADABLE as error:
            raise LakeError(root, path, f"cannot be read ({fs.short(error)})") from None
        except msgspec.DecodeError:
            raise LakeError(root, path, "was not staged by kalshilab") from None

    def verify(self, root: Path) -> None:
        """Read all of it.

        Raises:
            LakeError: it is not what was staged.
        """
        for part in self.note.days:
            self.read(root, part)

    def read(self, root: Path, part: Slice) -> pl.DataFrame:
        """The prints of a day.

        Raises:
            LakeError: they cannot be read, or are not those that were staged.
        """
        frame = self.collect(root, self.lazy.slice(part.offset, part.rows))
        if self.path is not None and fingerprint(frame) != part.sha256:
            raise LakeError(root, self.path, f"does not have the prints of {part.day} that were staged")
        return frame

    def tickers(self, root: Path) -> pl.DataFrame:
        """Its tickers and the time of their first print, in the order of these.

        Raises:
            LakeError: they cannot be read.
        """
        first = self.lazy.select("ticker", "ts").group_by("ticker", maintain_order=True).first()
        return self.collect(root, first)

    def collect(self, root: Path, lazy: pl.LazyFrame) -> pl.DataFrame:
        """Some of it.

        Raises:
            LakeError: it cannot be read.
        """
        try:
            return lazy.collect()
        except fs.UNREADABLE as error:
            raise LakeError(root, self.path, f"cannot be read ({fs.short(error)})") from None


def path_of(root: Path, name: str) -> Path:
    """The file of a staged segment.

    Raises:
        ConfigError: not a name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "name",
            name,
            "letters, digits, '-', '_' and '.', at most 200, a letter or digit first",
            "argument",
        )
    return root / "incoming" / f"{name}.parquet"


def write_segment(root: Path, name: str, tape: pl.DataFrame) -> None:
    """Put a tape into incoming/ under a name, whole or not at all; it replaces a segment of that name.

    Raises:
        TapeError: not a tape.
        ConfigError: not a name.
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
        fs.write_frame(frame, temporary, note=msgspec.json.encode(note).decode(), row_group=ROW_GROUP)
        with _gate(root):
            fs.publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fs.sync_folder(path.parent)


def _gate(root: Path) -> AbstractContextManager[None]:
    """Held while a segment gets its name or is removed, so that none is removed that has just come."""
    folder = root / "incoming"
    folder.mkdir(exist_ok=True)
    return fs.held(folder / ".lock")


def staged(root: Path, manifest: Manifest) -> list[str]:
    """Names of the staged segments that are not in the lake yet, in order."""
    merged = {m.name: m.sha256 for m in manifest.merged}
    found = (p for p in sorted((root / "incoming").glob("*.parquet")) if _NAME.fullmatch(p.stem))
    return [p.stem for p in found if p.stem not in merged or fs.digest(p) != merged[p.stem]]


def discard(root: Path, segments: Iterable[Merged]) -> tuple[Merged, ...]:
    """Remove segments that were merged; not one that was staged anew under the name.

    Returns:
        those that could not be removed: the manifest must go on naming them, or they would be merged again.
    """
    segments, left = list(segments), []
    if not segments:
        return ()
    with _gate(root):
        for segment in segments:
            path = path_of(root, segment.name)
            try:
                if path.exists() and fs.digest(path) == segment.sha256:
                    path.unlink()
            except OSError:
                left.append(segment)
    return tuple(left)


def abandoned(root: Path) -> list[Path]:
    """Temporary files in incoming/ of processes that are no more."""
    found = []
    for path in (root / "incoming").glob(f".*{fs.TEMPORARY}"):
        owner = path.name.removesuffix(fs.TEMPORARY).rpartition(".")[2]
        if owner.isdigit() and not _alive(int(owner)):
            found.append(path)
    return sorted(found)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
