"""A recording on disk: prints as they came, a JSON object a line, and what it becomes in a lake.

A recording is appended to and never changed, and each flush is synced, so what a killed recorder leaves is
whole but for its last line.  Between prints stand *breaks*, where the feed may have missed some.  Prints
between two breaks are a **run**, and a run claims its time: from a second after its first print to a second
before its last one, because feeds deliver the markets of one second in no strict order.  A download fills
what lies between the claims.  Claims are in exchange time and come from the prints alone; no machine's clock
has a part in them.

The exchange's day is a recording's length.  The next one goes on where the claim of the one before ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple

import msgspec
import polars as pl

from kalshilab.errors import LakeError
from kalshilab.market.model import Trade
from kalshilab.tape.ingest.segments import Segment, commit_segments, segments
from kalshilab.tape.normalise import to_tape
from kalshilab.tape.schema import TIME

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["BREAK", "Harvest", "Item", "Recording", "harvest"]

DAY: Final = 86_400_000_000
MARGIN: Final = 1_000_000
PIECE: Final = 500_000
"""Prints in memory at once while a recording becomes segments."""
SUFFIX: Final = ".jsonl"
BREAK: Final = "break"
"""Stands between prints where the feed may have missed some."""
Item = Trade | Literal["break"]


class _Line(msgspec.Struct, omit_defaults=True, gc=False):
    """A line: the start of the recording, a break, or a print."""

    kind: Literal["start", "break", "print"] = "print"
    ts: int = 0
    ticker: str = ""
    price: int = 0
    size: int = 0
    taker: str = ""
    trade_id: str = ""
    whole: bool = False
    since: int | None = None


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(_Line).decode


class Recording:
    """Writes prints to recordings in `folder`, a new one for each UTC day of exchange time.

    Args:
        whole: the feed brings every market; only then a run claims anything.
        number: distinguishes this recorder's files, such as its starting time.
    """

    def __init__(self, folder: Path, *, whole: bool, number: int) -> None:
        self._folder, self._whole, self._number = folder, whole, number
        self._file: FileIO | None = None
        self._size = 0
        self._day = 0
        self._begin: int | None = None
        self._top = 0

    def write(self, items: Iterable[Item]) -> bool:
        """Append and sync; whether a recording was finished, because its day is over.

        Raises:
            OSError: the disk is full or gone; the recording is whole up to some earlier line.
        """
        finished = False
        lines: list[bytes] = []
        for item in items:
            if isinstance(item, str):
                self._begin = None
                lines.append(_encode(_Line(kind="break")))
                continue
            day = item.ts // DAY
            if self._file is None:
                self._open(day, None)
            elif day > self._day:
                self._append(lines)
                lines = []
                self.close()
                self._open(day, None if self._begin is None else max(self._begin, self._top - MARGIN))
                finished = True
            if self._begin is None:
                self._begin, self._top = item.ts + MARGIN, item.ts
            self._top = max(self._top, item.ts)
            lines.append(
                _encode(
                    _Line(
                        ts=item.ts,
                        ticker=item.ticker,
                        price=item.price,
                        size=item.size,
                        taker=item.taker,
                        trade_id=item.trade_id,
                    )
                )
            )
        self._append(lines)
        return finished

    def _open(self, day: int, since: int | None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                path = self._folder / f"recording-{self._number}{SUFFIX}"
                self._file, self._size = path.open("xb", buffering=0), 0
                break
            except FileExistsError:
                self._number += 1
        self._number += 1
        # Whoever turns recordings into segments leaves the locked ones to their recorder.
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._day = day
        self._append([_encode(_Line(kind="start", whole=self._whole, since=since))])
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _append(self, lines: Sequence[bytes]) -> None:
        if not lines or self._file is None:
            return
        data = b"\n".join(lines) + b"\n"
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError:
            # A full disk, most of all: what is half written would be a torn line amid the recording.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Finish the recording, if one is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


class Harvest(msgspec.Struct, frozen=True):
    """What recordings became: new prints in the lake, prints it had, lines torn off by a kill."""

    added: int = 0
    duplicates: int = 0
    torn: int = 0


def harvest(lake: Lake) -> Harvest:
    """Turn every recording that nobody writes to into segments, and commit those.

    May be interrupted anywhere and done again: segments get the names they had.

    Raises:
        LakeError: a line amid a recording cannot be read, or the lake cannot be written.
    """
    torn = 0
    for path in sorted((lake.path / "incoming").glob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            reading = _Reading(path, file)
            for n, piece in enumerate(reading.pieces()):
                tag = f"{path.stem}-{n}"
                lake.stage(Segment("record", *piece.span, tag).name, _tape(piece.prints))
            torn += reading.torn
            path.unlink()
    done = commit_segments(lake, segments(lake, "record"))
    return Harvest(torn=torn) if done is None else Harvest(done.added, done.duplicates, torn)


class _Piece(NamedTuple):
    """Prints of one run; only a run's last piece has the span it claims."""

    prints: list[_Line]
    span: tuple[int, int]


class _Reading:
    """A recording read back."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.torn = 0

    def _lines(self) -> Iterator[_Line]:
        for n, line in enumerate(self._file):
            try:
                if not line.endswith(b"\n"):
                    raise msgspec.DecodeError("no end of line")
                yield _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if self._file.read(1):
                    raise LakeError(
                        self._path.parent.parent, self._path, f"line {n + 1} cannot be read: {error}"
                    ) from None
                self.torn += 1
                return

    def pieces(self) -> Iterator[_Piece]:
        """The prints, run by run."""
        prints: list[_Line] = []
        whole, begin, top = False, None, 0
        for line in self._lines():
            if line.kind == "start":
                whole, begin = line.whole, line.since
            elif line.kind == "break":
                if prints:
                    yield _claim(prints, begin, top, whole)
                prints, begin, top = [], None, 0
            else:
                begin = line.ts + MARGIN if begin is None else begin
                top = max(top, line.ts)
                if len(prints) == PIECE:
                    yield _Piece(prints, (0, 0))
                    prints = []
                prints.append(line)
        if prints:
            yield _claim(prints, begin, top, whole)


def _claim(prints: list[_Line], begin: int | None, top: int, whole: bool) -> _Piece:
    if begin is None or not whole or top - MARGIN <= begin:
        return _Piece(prints, (0, 0))
    return _Piece(prints, (begin, top - MARGIN))


def _tape(prints: list[_Line]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "ts": pl.Series([p.ts for p in prints], dtype=pl.Int64).cast(pl.Datetime("us")),
            "ticker": pl.Series([p.ticker for p in prints], dtype=pl.String),
            "price": pl.Series([p.price for p in prints], dtype=pl.Int16),
            "size": pl.Series([p.size for p in prints], dtype=pl.UInt32),
            "taker": pl.Series([p.taker for p in prints], dtype=pl.String),
            "trade_id": pl.Series([p.trade_id or None for p in prints], dtype=pl.String),
        }
    ).with_columns(pl.col("ts").dt.replace_time_zone("UTC").cast(TIME))
    # After a reconnection the feed may bring prints again, and out of their order.
    again = pl.col("trade_id").is_not_null() & ~pl.col("trade_id").is_first_distinct()
    return to_tape(frame.filter(~again).sort("ts", maintain_order=True))
