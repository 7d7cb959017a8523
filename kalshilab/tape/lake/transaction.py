"""One change of a lake: the lake of before, or the lake of after, and nothing between.

New files are written under temporary names and brought to the disk, then get their names, which no manifest
names yet; then the manifest's copy is written, and the manifest itself replaced in one step.  Old files go last.
Between the last two steps the folder holds a day twice for those who read it without the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import polars as pl

from kalshilab.tape.lake import fs
from kalshilab.tape.lake.manifest import COPY, NAME, TABLE, DayEntry, Manifest, TableEntry, Totals
from kalshilab.tape.lake.row_groups import ROW_GROUP
from kalshilab.tape.lake.timestamps import TIME_BYTES, lie_at

__all__ = ["Swap", "leftovers", "remove"]


class Swap:
    """One change of a lake: new files under a new generation, then the manifest in one step.

    Files are added with `day` and `table`; nothing of them can be seen until `commit`.
    """

    def __init__(self, root: Path, old: Manifest | None) -> None:
        self.root, self.generation = root, 0 if old is None else old.generation + 1
        self._waiting: list[tuple[Path, Path]] = []
        if old is not None:
            # A change that was killed had this generation too.
            remove(leftovers(root, old))

    def day(self, day: str, frame: pl.DataFrame) -> DayEntry:
        """Write a day's prints."""
        file = f"trades/day={day}/part-{self.generation}.parquet"
        (self.root / "trades" / f"day={day}").mkdir(parents=True, exist_ok=True)
        path = self._write(file, frame)
        times = frame["ts"].dt.epoch("us")
        first, last = times.gather([0, -1])
        size, digest, totals = path.stat().st_size, fs.digest(path), Totals.of(frame)
        begins = fs.plain_at(path, "ts", TIME_BYTES)
        # A library that lays files out in another way costs speed, and nothing else.
        begins = begins if lie_at(path, begins, times.to_numpy()) else ()
        return DayEntry(day, file, frame.height, size, digest, first, last, totals, begins)

    def table(self, listing: pl.DataFrame) -> TableEntry:
        """Write the markets file."""
        file = f"markets-{self.generation}.parquet"
        path = self._write(file, listing)
        return TableEntry(file, listing.height, path.stat().st_size, fs.digest(path))

    def _write(self, file: str, frame: pl.DataFrame) -> Path:
        path = self.root / file
        temporary = path.with_name(path.name + fs.TEMPORARY)
        self._waiting.append((temporary, path))
        fs.write_frame(frame, temporary, note=file, row_group=ROW_GROUP)
        return temporary

    def commit(self, manifest: Manifest) -> Manifest:
        """Make this manifest, with the files that were added, the lake; then remove the files of the old one.

        Returns:
            the manifest with its seal.
        """
        for temporary, path in self._waiting:
            fs.publish(temporary, path)
        for folder in dict.fromkeys(path.parent for _, path in self._waiting):
            fs.sync_folder(folder)
        if (self.root / "trades").is_dir():
            fs.sync_folder(self.root / "trades")
        data = manifest.encoded()
        for name in (f"manifest-{self.generation}.json", NAME):
            temporary = self.root / (name + fs.TEMPORARY)
            fs.write_bytes(temporary, data)
            fs.publish(temporary, self.root / name)
            # The copy is on the disk before the manifest is replaced; each in its turn.
            fs.sync_folder(self.root)
        sealed = msgspec.json.decode(data, type=Manifest)
        remove(leftovers(self.root, sealed))
        return sealed


def leftovers(root: Path, manifest: Manifest) -> list[Path]:
    """Files of other generations and temporary files, outside incoming/: a killed change left them."""
    named = {root / d.file for d in manifest.days} | {root / manifest.markets.file, root / NAME}
    named.add(root / f"manifest-{manifest.generation}.json")
    found = [*root.glob("trades/day=*/part-*"), *root.glob("markets-*"), *root.glob("manifest*")]
    return sorted(p for p in found if p not in named and _ours(p))


def _ours(path: Path) -> bool:
    """Whether a lake gives such names: what others put there is theirs."""
    name = path.name.removesuffix(fs.TEMPORARY)
    if path.parent.name.startswith("day="):
        return re.fullmatch(r"part-\d+\.parquet", name) is not None
    return bool(COPY.fullmatch(name) or TABLE.fullmatch(name)) or (name == NAME and name != path.name)


def remove(files: Sequence[Path]) -> None:
    """Remove files nobody needs, and the day folders they leave empty."""
    for path in files:
        # What cannot be removed now is no part of the lake anyway: the doctor names it, and the next change
        # tries again.
        with suppress(OSError):
            path.unlink()
            if path.parent.name.startswith("day=") and not any(path.parent.iterdir()):
                path.parent.rmdir()
