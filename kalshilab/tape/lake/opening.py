"""Open trades of any kind as a `Tape`: the one place where the kind is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kalshilab.errors import TapeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.lake.source import StoredTape
from kalshilab.tape.lake.tapefile import TapeFile
from kalshilab.tape.tape import COLUMNS, FrameTape, Tape, TapeLike

__all__ = ["scan_tape", "tape_of"]


def tape_of(data: TapeLike, columns: Sequence[str] = COLUMNS) -> Tape:
    """Return trades as a tape.

    A `Tape` is returned as it is, a path is opened with `scan_tape`, and a frame is checked.

    Args:
        data: a tape, a polars or pandas frame, or the path of a lake or a Parquet file.
        columns: columns that a frame must have, beside `ts`, `ticker` and `price`.

    >>> import kalshilab as kl
    >>> tape = tape_of(kl.sample()[0])
    >>> tape, tape_of(tape) is tape
    (FrameTape(15,475 prints), True)

    Raises:
        TapeError: the data are not a tape, or the path does not lead to one.
        LakeError: the lake cannot be read.
    """
    if isinstance(data, FrameTape | StoredTape):
        return data
    if isinstance(data, str | Path):
        return scan_tape(data)
    if isinstance(data, Tape):
        return data
    return FrameTape.of(data, columns)


def scan_tape(path: str | Path) -> Lake | TapeFile:
    """Open a tape of any size without loading it: a lake's folder, or one Parquet file with the columns of a tape.

    >>> import tempfile
    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = Lake.create(folder).append(tape, markets)
    ...     source = scan_tape(folder)
    ...     print(source.rows == tape.height, kl.signals.scan(source, kl.signals.Rlm()).equals(kl.signals.rlm(tape)))
    True True

    Raises:
        LakeError: the lake cannot be read.
        TapeError: the path does not exist, or is neither a lake nor a tape file.
    """
    found = Path(path).absolute()
    if found.is_dir():
        return Lake.open(found)
    if not found.exists():
        raise TapeError(
            f"{path} does not exist; make a lake with kalshilab download --out {path} or kalshilab import"
        )
    return TapeFile(found)
