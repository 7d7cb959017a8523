"""The lake's doctor: what is wrong with it, what is missing from it, and how to make it whole again.

`doctor` changes nothing and works on lakes that cannot be opened.  `repair` takes out what is damaged, so that
what is left can be trusted and read, and takes the days it took out from `covered`, so that the next download
fetches them again; what it takes out is moved to `damaged/`, never deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date, timedelta
from itertools import count as count_from
from itertools import pairwise
from pathlib import Path
from typing import Final, Literal

import msgspec
import polars as pl

from kalshilab.clock import isoformat
from kalshilab.errors import LakeError, TapeError
from kalshilab.tape.lake import fs
from kalshilab.tape.lake.intervals import merge, uncovered
from kalshilab.tape.lake.manifest import (
    COPY,
    LISTING_SCHEMA,
    DayFile,
    Manifest,
    Totals,
    check_file,
    claim,
    load,
    read_day,
    read_listing,
)
from kalshilab.tape.lake.merge import count, recount
from kalshilab.tape.lake.staging import Incoming, abandoned, discard, staged
from kalshilab.tape.lake.timestamps import lie_at
from kalshilab.tape.lake.transaction import Swap, leftovers, remove
from kalshilab.tape.schema import check_tape

__all__ = ["Finding", "Gap", "doctor", "gaps", "repair"]

DAY: Final = 86_400_000_000
"""Microseconds of a day."""


class Finding(msgspec.Struct, frozen=True):
    """Something about a lake: an "error" stops readers or would mislead them, a "warning" may mean missing
    prints, a "note" does no harm.  `file` is None where no one file is meant.
    """

    severity: Literal["error", "warning", "note"]
    file: Path | None
    text: str

    def __str__(self) -> str:
        return f"{self.severity}: {f'{self.file}: ' if self.file else ''}{self.text}"


class Gap(msgspec.Struct, frozen=True):
    """A stretch [since, until), microseconds, of which nobody said that the lake has it all."""

    since: int
    until: int
    reason: str


def gaps(manifest: Manifest) -> list[Gap]:
    """Holes between covered stretches, and days without a file between the first day and the last that are
    not covered (a covered day without prints is not a gap); in order.
    """
    covered = manifest.covered
    holes = uncovered(covered[0][0], covered[-1][1], covered) if covered else []
    found = [Gap(low, high, "between two stretches that are covered") for low, high in holes]
    starts = [_start(d.day) for d in manifest.days]
    for before, after in pairwise(starts):
        if before + DAY < after:
            bare = uncovered(before + DAY, after, [*covered, *holes])
            found += [Gap(low, high, "no day there has a file, and none is covered") for low, high in bare]
    return sorted(found, key=lambda gap: gap.since)


def _start(day: str) -> int:
    return (date.fromisoformat(day) - date(1970, 1, 1)) // timedelta(microseconds=1)


def doctor(path: str | Path, deep: bool = True) -> list[Finding]:
    """Everything that is wrong with a lake, or worth knowing; errors first.  Changes nothing.

    Args:
        deep: read all of it: the hash of each file, the order of its prints, their codes, trade ids that come
            twice, control totals; else sizes and footers only.

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
        LakeError: there is no lake.
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
            "note", p, "belongs to no generation: a change is being made, or was killed (the next removes it)"
        )
        for p in leftovers(root, manifest)
    ]
    if not _copied(root, manifest):
        found.append(Finding("warning", _copy(root, manifest), "is not a copy of manifest.json"))
    found += [Finding("warning", path, text) for path, text in _strangers(root, manifest)]
    found += [
        Finding("warning", None, f"gap from {isoformat(gap.since)} to {isoformat(gap.until)}: {gap.reason}")
        for gap in gaps(manifest)
    ]
    rank = {"error": 0, "warning": 1, "note": 2}
    return sorted(found, key=lambda finding: rank[finding.severity])


def _copy(root: Path, manifest: Manifest) -> Path:
    return root / f"manifest-{manifest.generation}.json"


def _copied(root: Path, manifest: Manifest) -> bool:
    """Whether the manifest has a copy, should it be damaged."""
    try:
        return load(root, _copy(root, manifest).name) == manifest
    except LakeError:
        return False


def _strangers(root: Path, manifest: Manifest) -> Iterator[tuple[Path, str]]:
    """Files among the days' that no change of this lake wrote."""
    ours = {*leftovers(root, manifest), *(file.path for file in manifest.files(root))}
    for path in sorted((root / "trades").rglob("*.parquet")):
        if path not in ours:
            yield path, "is not of this lake, but who reads trades/**/*.parquet reads it too; move it away"


def _table_faults(listing: pl.DataFrame, manifest: Manifest) -> Iterator[str]:
    if not listing["market"].equals(pl.int_range(listing.height, dtype=pl.UInt32, eager=True)):
        yield "does not have its codes in order"
    if listing["ticker"].null_count() or listing["ticker"].n_unique() != listing.height:
        yield "has a ticker twice, or none"
    if (counted := int(listing["prints"].sum())) != manifest.rows:
        yield f"counts {counted:,} prints, and the days have {manifest.rows:,}"


def _examine(
    root: Path, file: DayFile, generation: int, listing: pl.DataFrame | None, deep: bool
) -> tuple[list[str], list[pl.DataFrame]]:
    """What is wrong with a day, and, if nothing is and it was read, its prints counted by market."""
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
        yield "does not begin and end when the manifest says"
    if first // DAY * DAY != _start(file.day) or last // DAY != first // DAY:
        yield "has prints of another day"
    totals = Totals.of(frame)
    if file.totals is not None and not file.totals.ts:
        totals = msgspec.structs.replace(totals, ts=())
    if totals != file.totals:
        yield "has columns that do not add up to the control totals"
    if file.times_at and not lie_at(file.path, file.times_at, frame["ts"].dt.epoch("us").to_numpy()):
        yield "has a manifest that says its times lie where they do not"
    ids = frame["trade_id"].drop_nulls()
    if twice := len(ids) - ids.n_unique():
        yield f"has {twice:,} prints whose trade id came before"
    if listing is not None:
        pairs = frame.select("market", "ticker").unique()
        if pairs.join(listing, on=["market", "ticker"], how="anti").height:
            yield "has market codes that are not those of the markets file"


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
            yield Finding("note", path, "was left by a process that was killed (the next change removes it)")
        elif path.suffix == ".parquet":
            yield Finding("note", path, "is in the lake already (the next change removes it)")
        elif path.suffix == ".jsonl":
            yield Finding(
                "note", path, "is an unfinished recording; run: kalshilab record or kalshilab download"
            )


def repair(path: str | Path) -> list[str]:
    """Make a lake whole without what is damaged; one sentence for each thing that was done.

    A manifest that cannot be read is replaced by its copy.  Days whose file is damaged or missing go out of the
    manifest, their files to `damaged/`, and their time out of `covered`.  A markets file that is damaged is made
    anew from the prints, without metadata (download gets them); codes that no print names get a ticker of our
    own making, "lost-<code>", because codes are never reused.  What killed processes left is removed.

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
        LakeError: there is no lake, neither its manifest nor the copy can be read, or somebody else writes to it.
    """
    root = Path(path).absolute()
    if not root.is_dir():
        load(root)
    lock = fs.Lock(root / ".lock")
    claim(root, lock)
    try:
        return repair_held(root)
    finally:
        lock.release()


def repair_held(root: Path) -> list[str]:
    """As `repair`, for who holds the lake's lock."""
    done: list[str] = []
    manifest = _manifest(root, done.append)
    stuck = discard(root, manifest.merged)
    listing = None
    try:
        listing = read_listing(root, manifest.markets)
    except LakeError as error:
        done.append(f"{manifest.markets.file} {error.reason}: made anew from the prints, without metadata")
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
        moved = _put_away(root, file.path, f"{file.day}.{file.path.name}")
        done.append(
            f"{file.path.relative_to(root)} {text}: {file.rows:,} prints of {file.day} taken out"
            f"{f', file moved to {moved}' if moved else ''}; kalshilab download gets them again"
        )
    for name in staged(root, manifest):
        try:
            Incoming.open(root, name).verify(root)
        except LakeError as error:
            moved = _put_away(root, root / "incoming" / f"{name}.parquet", f"{name}.parquet")
            done.append(f"incoming/{name}.parquet {error.reason}: moved to {moved}")
    left = [*leftovers(root, manifest), *abandoned(root)]
    # Before the change: a repair that was killed left files under the names that this one writes.
    remove(left)
    done += [f"{p.relative_to(root)} belonged to no generation: removed" for p in left if not p.exists()]
    if bad or listing is None or not table.equals(listing):
        if listing is not None and not bad:
            done.append(f"{manifest.markets.file} did not count the prints that the days have: counted anew")
        out = [(_start(f.day), _start(f.day) + DAY) for f, _ in bad]
        days = {f.day for f, _ in bad}
        swap = Swap(root, manifest)
        swap.commit(
            Manifest(
                swap.generation,
                swap.table(table),
                tuple(d for d in manifest.days if d.day not in days),
                tuple(merge(s for low, high in manifest.covered for s in uncovered(low, high, out))),
                stuck,
            )
        )
    elif not _copied(root, manifest):
        copy = _copy(root, manifest)
        temporary = copy.with_name(copy.name + fs.TEMPORARY)
        fs.write_bytes(temporary, manifest.encoded())
        fs.publish(temporary, copy)
        fs.sync_folder(root)
        done.append(f"{copy.name} was not a copy of manifest.json: written anew")
    return done


def _manifest(root: Path, say: Callable[[str], None]) -> Manifest:
    """The manifest, put back from its copy if need be."""
    try:
        return load(root)
    except LakeError as error:
        if error.file is None:
            raise
        copies = [(int(match[1]), p) for p in root.iterdir() if (match := COPY.fullmatch(p.name))]
        for _, copy in sorted(copies, reverse=True):
            with suppress(LakeError):
                manifest = load(root, copy.name)
                temporary = root / f"manifest.json{fs.TEMPORARY}"
                fs.write_bytes(temporary, copy.read_bytes())
                fs.publish(temporary, root / "manifest.json")
                fs.sync_folder(root)
                say(f"manifest.json {error.reason}: put back from {copy.name}")
                return manifest
        raise LakeError(
            root,
            error.file,
            f"{error.reason}, and it has no copy that can be read",
            run=f"kalshilab import {root / 'trades'} --out NEW_LAKE, which saves the prints",
        ) from None


def _table(manifest: Manifest, pairs: list[pl.DataFrame]) -> pl.DataFrame:
    """A markets table from the codes and tickers of the prints."""
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


def _put_away(root: Path, path: Path, name: str) -> Path | None:
    """Move a file to damaged/, if it is there; where it went, relative to the lake."""
    if not path.exists():
        return None
    folder = root / "damaged"
    folder.mkdir(exist_ok=True)
    new = next(p for n in count_from(0) if not (p := folder / (f"{n}-{name}" if n else name)).exists())
    path.rename(new)
    fs.sync_folder(folder)
    return new.relative_to(root)
