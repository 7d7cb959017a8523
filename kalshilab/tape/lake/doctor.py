"""Check a lake for damage and gaps, and repair it.

`doctor` changes nothing and works on lakes that cannot be opened.  `repair` removes damaged days from the lake, so that
the rest can be read and trusted.  It also removes those days from `covered`, so that the next download fetches them
again.  Damaged files are moved to `damaged/`, never deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from itertools import count as count_from
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from kalshilab import fs
from kalshilab.clock import isoformat
from kalshilab.errors import LakeError, TapeError
from kalshilab.tape.intervals import merge, uncovered
from kalshilab.tape.lake.manifest import (
    COPY,
    LISTING_SCHEMA,
    Manifest,
    check_file,
    claim,
    load,
    read_day,
    read_listing,
)
from kalshilab.tape.lake.merge import count, recount
from kalshilab.tape.lake.row_groups import Checksums, DayFile
from kalshilab.tape.lake.staging import Incoming, abandoned, discard, staged
from kalshilab.tape.lake.timestamps import timestamps_lie_at
from kalshilab.tape.lake.transaction import Transaction, leftovers, remove
from kalshilab.tape.schema import DAY_US, check_tape

__all__ = ["Finding", "RecordingGap", "doctor", "gaps", "repair"]


class Finding(msgspec.Struct, frozen=True):
    """An observation about a lake.

    Attributes:
        severity: an "error" stops or misleads readers, a "warning" may mean missing prints, a "note" is harmless.
        file: the file concerned; None if the finding does not concern a single file.
        text: a phrase with the file as its subject.
    """

    severity: Literal["error", "warning", "note"]
    file: Path | None
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {f'{self.file}: ' if self.file else ''}{self.text}"


class RecordingGap(msgspec.Struct, frozen=True):
    """An interval [since, until), microseconds, in which the lake may lack prints."""

    since: int
    until: int
    reason: str


def gaps(manifest: Manifest) -> list[RecordingGap]:
    """Return the gaps of a lake, in order.

    A gap lies between two covered intervals, or consists of days without a file between the first day and the last
    that are not covered.  A covered day without prints is not a gap.
    """
    covered = manifest.covered
    holes = uncovered(covered[0][0], covered[-1][1], covered) if covered else []
    found = [RecordingGap(low, high, "between two covered intervals") for low, high in holes]
    starts = [_start_us(d.day) for d in manifest.days]
    for before, after in pairwise(starts):
        if before + DAY_US < after:
            missing = uncovered(before + DAY_US, after, [*covered, *holes])
            found += [
                RecordingGap(low, high, "days without a file that are not covered") for low, high in missing
            ]
    return sorted(found, key=lambda gap: gap.since)


def _start_us(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)) // timedelta(microseconds=1)


def doctor(path: str | Path, deep: bool = True) -> list[Finding]:
    """Check a lake and list the findings, errors first.  Changes nothing.

    Args:
        path: the lake.
        deep: read every file: check hashes, the order of prints, market codes, repeated trade ids and checksums;
            otherwise check sizes and footers only.

    >>> import tempfile
    >>> import kalshilab as kl
    >>> from kalshilab.tape import Lake
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lake = Lake.create(folder)
    ...     done = lake.append(kl.sample()[0])
    ...     lake.files[0].path.unlink()
    ...     print([(f.severity, f.text) for f in doctor(folder) if f.file][0])
    ('error', 'is missing')

    Raises:
        LakeError: the folder is not a lake.
    """
    root = Path(path).absolute()
    try:
        manifest = load(root)
    except LakeError as error:
        if error.file is None:
            raise
        return [Finding("error", root / "manifest.json", error.reason)]
    found: list[Finding] = []
    listing = None
    try:
        listing = read_listing(root, manifest.markets)
        found += [Finding("error", root / manifest.markets.file, t) for t in _table_faults(listing, manifest)]
    except LakeError as error:
        found.append(Finding("error", root / manifest.markets.file, error.reason))
    frames: list[pl.DataFrame] = []
    for file in manifest.files(root):
        texts, counted = _examine(root, file, manifest.generation, listing, deep)
        found += [Finding("error", file.path, text) for text in texts]
        frames += counted
    if deep and listing is not None and not found and not listing.equals(recount(listing, frames)):
        text = "counts other prints, or other first and last times, than the days have"
        found.append(Finding("error", root / manifest.markets.file, text))
    found += _incoming(root, manifest, deep)
    found += [
        Finding(
            "note",
            p,
            "does not belong to the lake: a change is in progress or was killed (the next one removes it)",
        )
        for p in leftovers(root, manifest)
    ]
    if not _is_copied(root, manifest):
        found.append(Finding("warning", _copy(root, manifest), "is not a copy of manifest.json"))
    found += [Finding("warning", path, text) for path, text in _foreign_files(root, manifest)]
    found += [
        Finding("warning", None, f"gap from {isoformat(gap.since)} to {isoformat(gap.until)}: {gap.reason}")
        for gap in gaps(manifest)
    ]
    rank = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: rank[finding.severity])


def _copy(root: Path, manifest: Manifest) -> Path:
    return root / f"manifest-{manifest.generation}.json"


def _is_copied(root: Path, manifest: Manifest) -> bool:
    """Return whether the manifest has a readable copy."""
    try:
        return load(root, _copy(root, manifest).name) == manifest
    except LakeError:
        return False


def _foreign_files(root: Path, manifest: Manifest) -> Iterator[tuple[Path, str]]:
    """Yield files among the days' files that this lake did not write."""
    own = {*leftovers(root, manifest), *(file.path for file in manifest.files(root))}
    for path in sorted((root / "trades").rglob("*.parquet")):
        if path not in own:
            yield path, "is not part of this lake, but readers of trades/**/*.parquet read it; move it away"


def _table_faults(listing: pl.DataFrame, manifest: Manifest) -> Iterator[str]:
    if not listing["market"].equals(pl.int_range(listing.height, dtype=pl.UInt32, eager=True)):
        yield "does not have its codes in order"
    if listing["ticker"].null_count() or listing["ticker"].n_unique() != listing.height:
        yield "has a repeated or missing ticker"
    if (counted := int(listing["prints"].sum())) != manifest.rows:
        yield f"counts {counted:,} prints, and the days have {manifest.rows:,}"


def _examine(
    root: Path, file: DayFile, generation: int, listing: pl.DataFrame | None, deep: bool
) -> tuple[list[str], list[pl.DataFrame]]:
    """Check a day; return its faults and, if it was read and has none of them, its prints counted by market."""
    try:
        if not deep:
            check_file(root, file, generation)
            return [], []
        frame = read_day(root, file, generation)
    except LakeError as error:
        return [error.reason], []
    texts = list(_day_faults(file, frame, listing))
    return texts, [] if texts else [count(frame)]


def _day_faults(file: DayFile, frame: pl.DataFrame, listing: pl.DataFrame | None) -> Iterator[str]:
    try:
        check_tape(frame)
    except TapeError as error:
        yield str(error)
        return
    first, last = frame["ts"].dt.epoch("us").gather([0, -1])
    if (first, last) != (file.first_ts, file.last_ts):
        yield "does not begin and end at the times in the manifest"
    if first // DAY_US * DAY_US != _start_us(file.day) or last // DAY_US != first // DAY_US:
        yield "has prints of another day"
    totals = Checksums.of(frame)
    if file.totals is not None and not file.totals.ts:
        totals = msgspec.structs.replace(totals, ts=())
    if totals != file.totals:
        yield "has columns that do not match their checksums"
    if file.times_at and not timestamps_lie_at(
        file.path, file.times_at, frame["ts"].dt.epoch("us").to_numpy()
    ):
        yield "does not have its times at the offsets in the manifest"
    ids = frame["trade_id"].drop_nulls()
    if twice := len(ids) - ids.n_unique():
        yield f"has {twice:,} prints with a repeated trade id"
    if listing is not None:
        pairs = frame.select("market", "ticker").unique()
        if pairs.join(listing, on=["market", "ticker"], how="anti").height:
            yield "has market codes that differ from the markets file"


def _incoming(root: Path, manifest: Manifest, deep: bool) -> Iterator[Finding]:
    waiting = staged(root, manifest)
    for name in waiting:
        try:
            segment = Incoming.open(root, name)
            if deep:
                segment.verify(root)
            rows = sum(part.rows for part in segment.note.days)
            yield Finding("note", segment.path, f"waits to be committed, with {rows:,} prints")
        except LakeError as error:
            yield Finding("error", root / "incoming" / f"{name}.parquet", error.reason)
    for path in sorted((root / "incoming").glob("*")):
        if path.stem in waiting and path.suffix == ".parquet":
            continue
        if path in abandoned(root):
            yield Finding("note", path, "was left by a killed process (the next change removes it)")
        elif path.suffix == ".parquet":
            yield Finding("note", path, "is in the lake already (the next change removes it)")
        elif path.suffix == ".jsonl":
            yield Finding(
                "note",
                path,
                "is a recording that is not committed; run: kalshilab record or kalshilab download",
            )


def repair(path: str | Path) -> list[str]:
    """Repair a lake by removing what is damaged; return one sentence for each action.

    A manifest that cannot be read is replaced by its copy.  A day whose file is damaged or missing is removed from the
    manifest and from `covered`, and its file is moved to `damaged/`.  A damaged markets file is rebuilt from the
    prints, without metadata, which a download fetches again.  Codes without prints get the ticker "lost-<code>",
    because codes are never reused.  Files that killed processes left are removed.

    >>> import tempfile
    >>> import kalshilab as kl
    >>> from kalshilab.tape import Lake
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lake = Lake.create(folder)
    ...     done = lake.append(kl.sample()[0])
    ...     lake.files[0].path.unlink()
    ...     print(repair(folder)[0].split(":")[0], Lake.open(folder).rows < lake.rows)
    trades/day=2025-06-01/part-1.parquet is missing True

    Raises:
        LakeError: the folder is not a lake, neither its manifest nor the copy can be read, or another process writes
            to it.
    """
    root = Path(path).absolute()
    if not root.is_dir():
        load(root)
    lock = fs.FileLock(root / ".lock")
    claim(root, lock)
    try:
        return repair_held(root)
    finally:
        lock.release()


def repair_held(root: Path) -> list[str]:
    """Repair a lake whose lock the caller holds; see `repair`."""
    done: list[str] = []
    manifest = _manifest(root, done.append)
    unremovable = discard(root, manifest.merged)
    listing = None
    try:
        listing = read_listing(root, manifest.markets)
    except LakeError as error:
        done.append(f"{manifest.markets.file} {error.reason}: rebuilt from the prints, without metadata")
    bad: list[tuple[DayFile, str]] = []
    counts: list[pl.DataFrame] = []
    pairs: list[pl.DataFrame] = []
    for file in manifest.files(root):
        texts, counted = _examine(root, file, manifest.generation, listing, True)
        counts += counted
        if texts:
            bad.append((file, "; ".join(texts)))
        elif listing is None:
            pairs.append(pl.read_parquet(file.path, columns=["market", "ticker"]).unique())
    table = recount(_table(manifest, pairs) if listing is None else listing, counts)
    for file, text in bad:
        moved = _quarantine(root, file.path, f"{file.day}.{file.path.name}")
        done.append(
            f"{file.path.relative_to(root)} {text}: {file.rows:,} prints of {file.day} removed"
            f"{f', file moved to {moved}' if moved else ''}; kalshilab download fetches them again"
        )
    for name in staged(root, manifest):
        try:
            Incoming.open(root, name).verify(root)
        except LakeError as error:
            moved = _quarantine(root, root / "incoming" / f"{name}.parquet", f"{name}.parquet")
            done.append(f"incoming/{name}.parquet {error.reason}: moved to {moved}")
    obsolete = [*leftovers(root, manifest), *abandoned(root)]
    # Before the transaction: a killed repair may have left files under the names that this one writes.
    remove(obsolete)
    done += [f"{p.relative_to(root)} did not belong to the lake: removed" for p in obsolete if not p.exists()]
    if bad or listing is None or not table.equals(listing):
        if listing is not None and not bad:
            done.append(f"{manifest.markets.file} did not count the prints that the days have: recounted")
        removed = [(_start_us(f.day), _start_us(f.day) + DAY_US) for f, _ in bad]
        days = {f.day for f, _ in bad}
        transaction = Transaction(root, manifest)
        transaction.commit(
            Manifest(
                transaction.generation,
                transaction.table(table),
                tuple(d for d in manifest.days if d.day not in days),
                tuple(merge(s for low, high in manifest.covered for s in uncovered(low, high, removed))),
                unremovable,
            )
        )
    elif not _is_copied(root, manifest):
        copy = _copy(root, manifest)
        fs.write_durably(copy, manifest.encoded())
        done.append(f"{copy.name} was not a copy of manifest.json: rewritten")
    return done


def _manifest(root: Path, report: Callable[[str], None]) -> Manifest:
    """Load the manifest; restore it from its copy if it cannot be read."""
    try:
        return load(root)
    except LakeError as error:
        if error.file is None:
            raise
        copies = [(int(match[1]), p) for p in root.iterdir() if (match := COPY.fullmatch(p.name))]
        for _, copy in sorted(copies, reverse=True):
            with suppress(LakeError):
                manifest = load(root, copy.name)
                fs.write_durably(root / "manifest.json", copy.read_bytes())
                report(f"manifest.json {error.reason}: put back from {copy.name}")
                return manifest
        raise LakeError(
            root,
            error.file,
            f"{error.reason}, and it has no readable copy",
            run=f"kalshilab import {root / 'trades'} --out NEW_LAKE, which keeps the prints",
        ) from None


def _table(manifest: Manifest, pairs: list[pl.DataFrame]) -> pl.DataFrame:
    """Rebuild the markets table from the codes and tickers of the prints."""
    known = (
        pl.concat(pairs).unique()
        if pairs
        else pl.DataFrame(schema={"market": pl.UInt32, "ticker": pl.String})
    )
    rows = max(manifest.markets.rows, int(known["market"].max() or -1) + 1)  # type: ignore[arg-type]
    codes = pl.DataFrame({"market": pl.int_range(rows, dtype=pl.UInt32, eager=True)})
    joined = codes.join(known, on="market", how="left", maintain_order="left").with_columns(
        pl.coalesce("ticker", pl.format("lost-{}", "market")).alias("ticker")
    )
    return pl.concat([pl.DataFrame(schema=LISTING_SCHEMA), joined], how="diagonal").with_columns(
        pl.col("prints").fill_null(0)
    )


def _quarantine(root: Path, path: Path, name: str) -> Path | None:
    """Move a file to damaged/, if it exists; return its new path relative to the lake."""
    if not path.exists():
        return None
    folder = root / "damaged"
    folder.mkdir(exist_ok=True)
    new = next(p for n in count_from(0) if not (p := folder / (f"{n}-{name}" if n else name)).exists())
    path.rename(new)
    fs.sync_folder(folder)
    return new.relative_to(root)
