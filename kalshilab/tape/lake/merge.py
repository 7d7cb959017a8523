"""Merge segments into the days of a lake.

Days are merged one at a time: the prints already there, then the segments' prints in the given order, without those
whose trade id is known, sorted by time.  So prints of one instant keep this order: the lake's first, then segment by
segment.  A day is compared with its hash before anything is merged into it, so that damage is never written back.

Prints without a trade id cannot be distinguished and are all kept: a tape without ids that is appended twice is in the
lake twice.  Imports, downloads and recordings use `match` instead.  Of prints equal in time, market, price, size and
taker, they add only as many as the lake lacks, so importing an archive a second time adds nothing.  If the lake's print
lacks an id and the new one has it, the lake's print takes that id.  Each id stands for one print of the lake, whether
the archive without ids or the download with them came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from kalshilab.tape.intervals import merge
from kalshilab.tape.lake.manifest import LISTING_SCHEMA, Manifest, MergedSegment, read_day
from kalshilab.tape.lake.staging import Incoming, abandoned, discard
from kalshilab.tape.lake.transaction import Transaction, remove
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, check_markets

__all__ = ["Appended", "count", "merge_into", "recount"]

CONTENT: Final = ["ts", "ticker", "price", "size", "taker"]
"""Columns by which prints without a trade id are matched."""


class Appended(msgspec.Struct, frozen=True):
    """Result of adding prints to a lake.

    Attributes:
        rows: prints given.
        added: prints that are new in the lake.
        duplicates: prints that the lake had already, by trade id or, where prints are matched, by content.
        days: days whose file changed.
        new_markets: markets that received a code.
    """

    rows: int
    added: int
    duplicates: int
    days: int
    new_markets: int


def merge_into(
    root: Path,
    manifest: Manifest,
    listing: pl.DataFrame,
    segments: Sequence[Incoming],
    markets: pl.DataFrame | None = None,
    covered: Iterable[tuple[int, int]] = (),
    match: bool = False,
) -> tuple[Manifest, pl.DataFrame, Appended]:
    """Merge segments into a lake, in one transaction.

    Args:
        root: the lake.
        manifest: its manifest.
        listing: the table of its markets file.
        segments: in the order in which prints of one instant are merged.
        markets: metadata of known or new markets; it replaces the lake's.
        covered: intervals [since, until), microseconds, of which the lake has every print after this merge.
        match: match prints without an id, new ones and the lake's, by content.

    Returns:
        the new manifest, the new table and the result.  If nothing changes, nothing is written.

    Raises:
        LakeError: a day or a segment is damaged; the lake is unchanged.
        TapeError: `markets` is not a markets table.
    """
    if markets is not None:
        markets = check_markets(markets).select(MARKETS_SCHEMA.names())
    # Killed processes may have left files behind.
    unremovable = discard(root, manifest.merged)
    remove(abandoned(root))
    table = _with_codes(root, listing, segments, markets)
    codes = table.select("ticker", "market")
    transaction = Transaction(root, manifest)
    files = {f.day: f for f in manifest.files(root)}
    entries = {d.day: d for d in manifest.days}
    changed: list[str] = []
    counts: list[pl.DataFrame] = []
    for day in sorted({part.day for segment in segments for part in segment.note.days}):
        parts = []
        for segment in segments:
            parts += [segment.read(root, part) for part in segment.note.days if part.day == day]
        old = read_day(root, files[day], manifest.generation) if day in files else None
        new = _new_prints(old, parts, match)
        ids_added = False
        if match and old is not None and old["trade_id"].null_count():
            old, new, ids_added = _with_ids(old, new)
        if not new.height and not ids_added:
            continue
        new = (
            new.drop("market")
            .join(codes, on="ticker", how="left", maintain_order="left")
            .select(TAPE_SCHEMA.names())
        )
        counts.append(count(new))
        whole = new if old is None else pl.concat([old, new])
        entries[day] = transaction.day(day, whole.sort("ts", maintain_order=True))
        changed.append(day)
    table = _counted(table, counts)
    if markets is not None:
        table = _described(table, markets)
    intervals = tuple(merge([*manifest.covered, *covered]))
    merged = [MergedSegment(s.path.stem, s.sha256) for s in segments if s.path is not None]
    rows = sum(s.note.rows for s in segments)
    added = sum(int(c["prints"].sum()) for c in counts)
    done = Appended(rows, added, rows - added, len(changed), table.height - listing.height)
    if changed or intervals != manifest.covered or not table.equals(listing):
        manifest = transaction.commit(
            Manifest(
                transaction.generation,
                manifest.markets if table.equals(listing) else transaction.table(table),
                tuple(entries[day] for day in sorted(entries)),
                intervals,
                (*unremovable, *merged),
            )
        )
    discard(root, merged)
    return manifest, table, done


def _new_prints(old: pl.DataFrame | None, parts: Sequence[pl.DataFrame], match: bool) -> pl.DataFrame:
    """Return the prints of the parts that the lake does not have, in the parts' order."""
    new = parts[0] if len(parts) == 1 else pl.concat(parts)
    if match and old is not None:
        new = _unmatched(old, new)
    ids = new["trade_id"]
    if ids.null_count() == new.height:
        return new
    keep = pl.lit(True)
    if len(parts) > 1:
        keep &= pl.col("trade_id").is_first_distinct()
    if old is not None:
        keep &= ~pl.col("trade_id").is_in(old["trade_id"].drop_nulls().implode())
    return new.filter(pl.col("trade_id").is_null() | keep)


def _unmatched(old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Drop the new prints without an id that equal an old one in content, one for one."""
    there = old.group_by(CONTENT).agg(pl.len().cast(pl.Int64).alias("_there"))
    nth = pl.int_range(pl.len()).over(*CONTENT, pl.col("trade_id").is_null()).alias("_nth")
    joined = new.with_columns(nth).join(there, on=CONTENT, how="left", maintain_order="left")
    known = pl.col("trade_id").is_null() & (pl.col("_nth") < pl.col("_there").fill_null(0))
    return joined.filter(~known).drop("_nth", "_there")


def _with_ids(old: pl.DataFrame, new: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, bool]:
    """Give old prints without an id the id of a new print equal in content, one for one.

    Returns:
        the old prints; the new ones without those whose id was used; whether any was used.
    """
    nth = pl.int_range(pl.len()).over(*CONTENT).alias("_nth")
    old = old.with_row_index("_row")
    bare = old.filter(pl.col("trade_id").is_null()).select(*CONTENT, "_row", nth)
    given = new.filter(pl.col("trade_id").is_not_null()).select(
        *CONTENT, pl.col("trade_id").alias("_id"), nth
    )
    pairs = bare.join(given, on=[*CONTENT, "_nth"]).select("_row", "_id")
    if pairs.height:
        new = new.join(pairs, left_on="trade_id", right_on="_id", how="anti", maintain_order="left")
        ids = pl.coalesce("trade_id", "_id").alias("trade_id")
        old = old.join(pairs, on="_row", how="left", maintain_order="left").with_columns(ids)
    return old.select(TAPE_SCHEMA.names()), new, pairs.height > 0


def _with_codes(
    root: Path, listing: pl.DataFrame, segments: Sequence[Incoming], markets: pl.DataFrame | None
) -> pl.DataFrame:
    """Add a row for each new ticker: in the order of first prints, then the tickers without prints."""
    known = listing["ticker"]
    firsts = [segment.tickers(root) for segment in segments]
    new = pl.concat([f for f in firsts if f.height] or [pl.DataFrame(schema={"ticker": pl.String})])
    if new.height:
        new = new.sort("ts", maintain_order=True).select("ticker")
    if markets is not None:
        new = pl.concat([new, markets.select("ticker")])
    new = new.unique(maintain_order=True).join(
        known.to_frame(), on="ticker", how="anti", maintain_order="left"
    )
    if not new.height:
        return listing
    rows = new.with_row_index("market", offset=listing.height).with_columns(
        pl.col("market").cast(pl.UInt32), pl.lit(0, pl.UInt64).alias("prints")
    )
    return pl.concat([listing, rows], how="diagonal").select(LISTING_SCHEMA.names())


def _counted(table: pl.DataFrame, counts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Add new prints to the table's counts."""
    if not counts:
        return table
    new = (
        pl.concat(counts)
        .group_by("market")
        .agg(pl.col("prints").sum().cast(pl.UInt64).alias("_n"), pl.col("first").min(), pl.col("last").max())
    )
    return (
        table.join(new, on="market", how="left", maintain_order="left")
        .with_columns(
            pl.col("prints") + pl.col("_n").fill_null(0),
            pl.min_horizontal("first_ts", "first").alias("first_ts"),
            pl.max_horizontal("last_ts", "last").alias("last_ts"),
        )
        .select(LISTING_SCHEMA.names())
    )


def _described(table: pl.DataFrame, markets: pl.DataFrame) -> pl.DataFrame:
    """Put metadata into the table."""
    names = [n for n in MARKETS_SCHEMA.names() if n != "ticker"]
    new = markets.select("ticker", pl.struct(names).alias("_new"))
    joined = table.join(new, on="ticker", how="left", maintain_order="left")
    is_new = pl.col("_new").is_not_null()
    return joined.with_columns(
        pl.when(is_new).then(pl.col("_new").struct.field(n)).otherwise(pl.col(n)).alias(n) for n in names
    ).select(LISTING_SCHEMA.names())


def recount(table: pl.DataFrame, counts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return the table with its prints counted again.

    Args:
        table: the markets file's table.
        counts: `count` of each day.
    """
    uncounted = table.with_columns(
        pl.lit(0, pl.UInt64).alias("prints"),
        *(pl.lit(None, LISTING_SCHEMA[name]).alias(name) for name in ("first_ts", "last_ts")),
    )
    return _counted(uncounted, counts)


def count(day: pl.DataFrame) -> pl.DataFrame:
    """Count a day's prints by market."""
    return day.group_by("market").agg(
        pl.len().alias("prints"), pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last")
    )
