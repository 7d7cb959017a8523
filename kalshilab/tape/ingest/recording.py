"""Recordings on disk: prints in order of arrival, one JSON object a line, and their conversion to segments.

A recording is only appended to, and each flush is synced, so a killed recorder leaves complete lines except the last
one.  Between prints there are *breaks*, at which the feed may have missed prints.  The prints between two breaks are a
**run**.  A run covers the time from one second after its first print to one second before its last one, because feeds
deliver the markets of one second in no strict order.  A download fills the time between runs.  Covered times are
exchange times and derive from the prints alone; the machine's clock is not used.

A recording ends with the UTC day of exchange time.  The next one continues the run where the covered time ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal, NamedTuple

import msgspec
import polars as pl

from kalshilab.errors import LakeError
from kalshilab.fs import lock, sync, sync_folder
from kalshilab.market.model import Trade
from kalshilab.tape.ingest.segments import Segment, commit_segments, segments
from kalshilab.tape.normalise import to_tape
from kalshilab.tape.schema import DAY_US, SECOND_US, TIME

if TYPE_CHECKING:
    from kalshilab.tape.lake.lake import Lake

__all__ = ["BREAK", "CommitCounts", "Item", "Recording", "commit_recordings"]

MARGIN_US: Final = SECOND_US
"""Time at both ends of a run that it does not cover."""
CHUNK: Final = 500_000
"""Maximum number of prints in memory while a recording is converted."""
SUFFIX: Final = ".jsonl"
BREAK: Final = "break"
"""A mark between prints where the feed may have missed some."""
Item = Trade | Literal["break"]


class _RecordingLine(msgspec.Struct, omit_defaults=True, gc=False):
    """A line of a recording: its start, a break or a print."""

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
_decode: Final = msgspec.json.Decoder(_RecordingLine).decode


class Recording:
    """Writer of recordings: one file for each UTC day of exchange time.

    Args:
        folder: the folder of the recordings.
        whole: the feed delivers every market; otherwise runs cover nothing.
        number: the number of the first file, which distinguishes recorders, such as the starting time.
    """

    def __init__(self, folder: Path, *, whole: bool, number: int) -> None:
        self._folder, self._whole, self._number = folder, whole, number
        self._file: FileIO | None = None
        self._size = 0
        self._day = 0
        self._run_begin: int | None = None
        self._run_end = 0

    def write(self, items: Iterable[Item]) -> bool:
        """Append items and sync; return whether a recording was finished because its day has ended.

        Raises:
            OSError: the disk is full or failed; the recording consists of complete lines up to an earlier item.
        """
        finished = False
        lines: list[bytes] = []
        for item in items:
            if isinstance(item, str):
                self._run_begin = None
                lines.append(_encode(_RecordingLine(kind="break")))
                continue
            day = item.ts // DAY_US
            if self._file is None:
                self._open(day, None)
            elif day > self._day:
                self._append(lines)
                lines = []
                self.close()
                self._open(
                    day, None if self._run_begin is None else max(self._run_begin, self._run_end - MARGIN_US)
                )
                finished = True
            if self._run_begin is None:
                self._run_begin, self._run_end = item.ts + MARGIN_US, item.ts
            self._run_end = max(self._run_end, item.ts)
            lines.append(
                _encode(
                    _RecordingLine(
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
        # `commit_recordings` skips locked recordings: their recorder is still writing.
        lock(self._file)
        self._day = day
        self._append([_encode(_RecordingLine(kind="start", whole=self._whole, since=since))])
        sync_folder(self._folder)

    def _append(self, lines: Sequence[bytes]) -> None:
        if not lines or self._file is None:
            return
        data = b"\n".join(lines) + b"\n"
        try:
            left = memoryview(data)
            while left:
                left = left[self._file.write(left) :]
            sync(self._file)
        except OSError:
            # The disk is full, usually.  Truncate, or a torn line would remain in the middle of the recording.
            self._file.truncate(self._size)
            self._file.seek(self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Finish the recording, if one is open."""
        if self._file is not None:
            self._file.close()
            self._file = None


class CommitCounts(msgspec.Struct, frozen=True):
    """Result of committing recordings: new prints, prints that the lake had, and torn last lines."""

    added: int = 0
    duplicates: int = 0
    torn: int = 0


def commit_recordings(lake: Lake) -> CommitCounts:
    """Convert every finished recording to segments, and commit those.

    After an interruption at any point it can be repeated: segments get the same names again.

    Raises:
        LakeError: a line other than the last one cannot be read, or the lake cannot be written.
    """
    torn = 0
    for path in sorted((lake.path / "incoming").glob(f"*{SUFFIX}")):
        with path.open("rb") as file:
            if not lock(file, wait=False):
                continue
            reader = _RecordingReader(path, file)
            for n, chunk in enumerate(reader.chunks()):
                tag = f"{path.stem}-{n}"
                lake.stage(Segment("record", *chunk.covered, tag).name, _tape(chunk.prints))
            torn += reader.torn
            path.unlink()
    done = commit_segments(lake, segments(lake, "record"))
    return CommitCounts(torn=torn) if done is None else CommitCounts(done.added, done.duplicates, torn)


class _Chunk(NamedTuple):
    """Prints of one run; only a run's last chunk has the interval that the run covers, others have (0, 0)."""

    prints: list[_RecordingLine]
    covered: tuple[int, int]


class _RecordingReader:
    """Reader of a recording."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path, self._file = path, file
        self.torn = 0

    def _lines(self) -> Iterator[_RecordingLine]:
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

    def chunks(self) -> Iterator[_Chunk]:
        """Yield the prints, run by run."""
        prints: list[_RecordingLine] = []
        whole, begin, end = False, None, 0
        for line in self._lines():
            if line.kind == "start":
                whole, begin = line.whole, line.since
            elif line.kind == "break":
                if prints:
                    yield _last_chunk(prints, begin, end, whole)
                prints, begin, end = [], None, 0
            else:
                begin = line.ts + MARGIN_US if begin is None else begin
                end = max(end, line.ts)
                if len(prints) == CHUNK:
                    yield _Chunk(prints, (0, 0))
                    prints = []
                prints.append(line)
        if prints:
            yield _last_chunk(prints, begin, end, whole)


def _last_chunk(prints: list[_RecordingLine], begin: int | None, end: int, whole: bool) -> _Chunk:
    if begin is None or not whole or end - MARGIN_US <= begin:
        return _Chunk(prints, (0, 0))
    return _Chunk(prints, (begin, end - MARGIN_US))


def _tape(prints: list[_RecordingLine]) -> pl.DataFrame:
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
    # After a reconnection the feed may repeat prints, and deliver them out of order.
    repeated = pl.col("trade_id").is_not_null() & ~pl.col("trade_id").is_first_distinct()
    return to_tape(frame.filter(~repeated).sort("ts", maintain_order=True))
