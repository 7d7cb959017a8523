"""Atomic lake transaction: readers see the old or the new generation, never a mix.

New files are written under temporary names, synced and renamed to names that no manifest refers to yet.  Then the copy
of the manifest is written, and the manifest itself is replaced in one step.  Old files are removed last.  Between the
last two steps the folder holds the changed days twice for readers that ignore the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import polars as pl

from kalshilab import fs
from kalshilab.tape.lake import parquet
from kalshilab.tape.lake.manifest import COPY, NAME, TABLE, DayEntry, Manifest, TableEntry
from kalshilab.tape.lake.row_groups import ROW_GROUP, Checksums
from kalshilab.tape.lake.timestamps import TIME_BYTES, timestamps_lie_at

__all__ = ["Transaction", "leftovers", "remove"]


class Transaction:
    """One change of a lake: new files of the next generation, then the manifest in one step.

    Add files with `day` and `table`; readers cannot see them before `commit`.

    Args:
        root: the lake.
        old: the manifest before the change; None for a new lake.
    """

    def __init__(self, root: Path, old: Manifest | None) -> None:
        self.root, self.generation = root, 0 if old is None else old.generation + 1
        self._pending: list[tuple[Path, Path]] = []
        if old is not None:
            # A killed transaction may have left files of this generation.
            remove(leftovers(root, old))

    def day(self, day: str, frame: pl.DataFrame) -> DayEntry:
        """Write the prints of a day and return the manifest's entry for them."""
        file = f"trades/day={day}/part-{self.generation}.parquet"
        (self.root / "trades" / f"day={day}").mkdir(parents=True, exist_ok=True)
        path = self._write(file, frame)
        times = frame["ts"].dt.epoch("us")
        first, last = times.gather([0, -1])
        size, digest, totals = path.stat().st_size, parquet.digest(path), Checksums.of(frame)
        offsets = parquet.plain_at(path, "ts", TIME_BYTES)
        # If another version of the Parquet library arranges pages differently, only speed is lost.
        offsets = offsets if timestamps_lie_at(path, offsets, times.to_numpy()) else ()
        return DayEntry(day, file, frame.height, size, digest, first, last, totals, offsets)

    def table(self, listing: pl.DataFrame) -> TableEntry:
        """Write the markets file and return the manifest's entry for it."""
        file = f"markets-{self.generation}.parquet"
        path = self._write(file, listing)
        return TableEntry(file, listing.height, path.stat().st_size, parquet.digest(path))

    def _write(self, file: str, frame: pl.DataFrame) -> Path:
        path = self.root / file
        temporary = path.with_name(path.name + fs.TEMPORARY)
        self._pending.append((temporary, path))
        parquet.write_frame(frame, temporary, note=file, row_group=ROW_GROUP)
        return temporary

    def commit(self, manifest: Manifest) -> Manifest:
        """Publish the added files and a manifest, then remove the files of the old generation.

        Returns:
            the manifest with its seal.
        """
        for temporary, path in self._pending:
            fs.publish(temporary, path)
        for folder in dict.fromkeys(path.parent for _, path in self._pending):
            fs.sync_folder(folder)
        if (self.root / "trades").is_dir():
            fs.sync_folder(self.root / "trades")
        data = manifest.encoded()
        # The copy must be durable before the manifest is replaced.
        for name in (f"manifest-{self.generation}.json", NAME):
            fs.write_durably(self.root / name, data)
        sealed = msgspec.json.decode(data, type=Manifest)
        remove(leftovers(self.root, sealed))
        return sealed


def leftovers(root: Path, manifest: Manifest) -> list[Path]:
    """List files of other generations and temporary files outside incoming/, which killed transactions left."""
    current = {root / d.file for d in manifest.days} | {root / manifest.markets.file, root / NAME}
    current.add(root / f"manifest-{manifest.generation}.json")
    found = [*root.glob("trades/day=*/part-*"), *root.glob("markets-*"), *root.glob("manifest*")]
    return sorted(p for p in found if p not in current and _has_lake_name(p))


def _has_lake_name(path: Path) -> bool:
    """Return whether a lake gives such names; files of other programs are left alone."""
    name = path.name.removesuffix(fs.TEMPORARY)
    if path.parent.name.startswith("day="):
        return re.fullmatch(r"part-\d+\.parquet", name) is not None
    return bool(COPY.fullmatch(name) or TABLE.fullmatch(name)) or (name == NAME and name != path.name)


def remove(files: Sequence[Path]) -> None:
    """Remove obsolete files, and the day folders that are empty then."""
    for path in files:
        # A file that cannot be removed now does no harm: the doctor reports it, and the next transaction retries.
        with suppress(OSError):
            path.unlink()
            if path.parent.name.startswith("day=") and not any(path.parent.iterdir()):
                path.parent.rmdir()
