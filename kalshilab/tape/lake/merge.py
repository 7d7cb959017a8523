"""Merging segments into the days of a lake.

One day at a time: the prints that are there, then the segments' in the order they were given, without those
whose trade id was there before, sorted by time.  So prints of one instant keep this order: those already in the
lake first, then segment by segment, each in its own order.  A day that is merged into is first compared with
its hash, so that damage is never written down as good.

Prints without a trade id cannot be told apart and are all kept: who appends a tape without ids twice has it twice.
Imports, downloads and recordings are told to `match` them instead: of prints alike in time, market, price, size and
taker they take as many as the lake does not have yet, so the same archive a second time adds nothing.  And where the
lake's print is the one without an id, the one that comes gives it its own: each id stands for one print of the lake,
in whatever order an archive without ids and a download with them came.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import polars as pl

from kalshilab.tape.lake.intervals import merge
from kalshilab.tape.lake.manifest import LISTING_SCHEMA, Manifest, Merged, read_day
from kalshilab.tape.lake.staging import Incoming, abandoned, discard
from kalshilab.tape.lake.transaction import Swap, remove
from kalshilab.tape.schema import MARKETS_SCHEMA, TAPE_SCHEMA, check_markets

__all__ = ["Appended", "count", "merge_into", "recount"]

SAYS: Final = ["ts", "ticker", "price", "size", "taker"]
"""All a print says but its id."""


class Appended(msgspec.Struct, frozen=True):
    """What was done: of `rows` prints `added` are new in the lake and `duplicates` had come before, by their
    trade id or, where prints without ids are matched, by all they say; the files of `days` days changed;
    `new_markets` got a code.
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
    """Merge segments into a lake, in one change.

    Args:
        listing: the markets file's table.
        markets: metadata of some markets, known or new, which replaces what is there.
        covered: stretches [since, until) that the lake has completely with these segments.
        match: prints without an id, those that come and those that are there, are matched by all they say.

    Returns:
        The manifest and the table after it, and what was done.  Nothing is written where nothing changes.

    Raises:
        LakeError: a day or a segment is damaged; the lake is as it was.
        TapeError: `markets` is not a table of markets.
    """
    if markets is not None:
        markets = check_markets(markets).select(MARKETS_SCHEMA.names())
    # Processes that were killed left these.
    stuck = discard(root, manifest.merged)
    remove(abandoned(root))
    table = _with_codes(root, listing, segments, markets)
    codes = table.select("ticker", "market")
    swap = Swap(root, manifest)
    files = {f.day: f for f in manifest.files(root)}
    entries = {d.day: d for d in manifest.days}
    changed: list[str] = []
    counts: list[pl.DataFrame] = []
    for day in sorted({part.day for segment in segments for part in segment.note.days}):
        parts = []
        for segment in segments:
            parts += [segment.read(root, part) for part in segment.note.days if part.day == day]
        old = read_day(root, files[day], manifest.generation) if day in files else None
        fresh = _fresh(old, parts, match)
        named = False
        if match and old is not None and old["trade_id"].null_count():
            old, fresh, named = _named(old, fresh)
        if not fresh.height and not named:
            continue
        fresh = (
            fresh.drop("market")
            .join(codes, on="ticker", how="left", maintain_order="left")
            .select(TAPE_SCHEMA.names())
        )
        counts.append(count(fresh))
        whole = fresh if old is None else pl.concat([old, fresh])
        entries[day] = swap.day(day, whole.sort("ts", maintain_order=True))
        changed.append(day)
    table = _counted(table, counts)
    if markets is not None:
        table = _described(table, markets)
    spans = tuple(merge([*manifest.covered, *covered]))
    merged = [Merged(s.path.stem, s.sha256) for s in segments if s.path is not None]
    rows = sum(s.note.rows for s in segments)
    added = sum(int(c["prints"].sum()) for c in counts)
    done = Appended(rows, added, rows - added, len(changed), table.height - listing.height)
    if changed or spans != manifest.covered or not table.equals(listing):
        manifest = swap.commit(
            Manifest(
                swap.generation,
                manifest.markets if table.equals(listing) else swap.table(table),
                tuple(entries[day] for day in sorted(entries)),
                spans,
                (*stuck, *merged),
            )
        )
    discard(root, merged)
    return manifest, table, done


def _fresh(old: pl.DataFrame | None, parts: Sequence[pl.DataFrame], match: bool) -> pl.DataFrame:
    """The prints of the parts that are not there yet, in the parts' order."""
    fresh = parts[0] if len(parts) == 1 else pl.concat(parts)
    if match and old is not None:
        fresh = _unmatched(old, fresh)
    ids = fresh["trade_id"]
    if ids.null_count() == fresh.height:
        return fresh
    keep = pl.lit(True)
    if len(parts) > 1:
        keep &= pl.col("trade_id").is_first_distinct()
    if old is not None:
        keep &= ~pl.col("trade_id").is_in(old["trade_id"].drop_nulls().implode())
    return fresh.filter(pl.col("trade_id").is_null() | keep)


def _unmatched(old: pl.DataFrame, fresh: pl.DataFrame) -> pl.DataFrame:
    """The prints without those that have no id and find their like among the old, one for one."""
    there = old.group_by(SAYS).agg(pl.len().cast(pl.Int64).alias("_there"))
    nth = pl.int_range(pl.len()).over(*SAYS, pl.col("trade_id").is_null()).alias("_nth")
    joined = fresh.with_columns(nth).join(there, on=SAYS, how="left", maintain_order="left")
    known = pl.col("trade_id").is_null() & (pl.col("_nth") < pl.col("_there").fill_null(0))
    return joined.filter(~known).drop("_nth", "_there")


def _named(old: pl.DataFrame, fresh: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, bool]:
    """The old prints, those without an id with that of a new one alike, one for one; the new ones without these; and
    whether there were any.
    """
    nth = pl.int_range(pl.len()).over(*SAYS).alias("_nth")
    old = old.with_row_index("_row")
    bare = old.filter(pl.col("trade_id").is_null()).select(*SAYS, "_row", nth)
    given = fresh.filter(pl.col("trade_id").is_not_null()).select(*SAYS, pl.col("trade_id").alias("_id"), nth)
    pairs = bare.join(given, on=[*SAYS, "_nth"]).select("_row", "_id")
    if pairs.height:
        fresh = fresh.join(pairs, left_on="trade_id", right_on="_id", how="anti", maintain_order="left")
        ids = pl.coalesce("trade_id", "_id").alias("trade_id")
        old = old.join(pairs, on="_row", how="left", maintain_order="left").with_columns(ids)
    return old.select(TAPE_SCHEMA.names()), fresh, pairs.height > 0


def _with_codes(
    root: Path, listing: pl.DataFrame, segments: Sequence[Incoming], markets: pl.DataFrame | None
) -> pl.DataFrame:
    """The table with a row for each new ticker: in the order of their first prints, then those without any."""
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
    """The table with new prints counted."""
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
    """The table with metadata put in."""
    names = [n for n in MARKETS_SCHEMA.names() if n != "ticker"]
    new = markets.select("ticker", pl.struct(names).alias("_new"))
    joined = table.join(new, on="ticker", how="left", maintain_order="left")
    is_new = pl.col("_new").is_not_null()
    return joined.with_columns(
        pl.when(is_new).then(pl.col("_new").struct.field(n)).otherwise(pl.col(n)).alias(n) for n in names
    ).select(LISTING_SCHEMA.names())


def recount(table: pl.DataFrame, counts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The table with prints counted anew: those of `counts`, from `count` of each day."""
    clean = table.with_columns(
        pl.lit(0, pl.UInt64).alias("prints"),
        *(pl.lit(None, LISTING_SCHEMA[name]).alias(name) for name in ("first_ts", "last_ts")),
    )
    return _counted(clean, counts)


def count(day: pl.DataFrame) -> pl.DataFrame:
    """A day's prints by market."""
    return day.group_by("market").agg(
        pl.len().alias("prints"), pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last")
    )
