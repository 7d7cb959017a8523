"""The lake: round trips for any split of a tape, other Parquet readers, and the single writer."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import prints, tape_of

from kalshilab.clock import to_datetime
from kalshilab.errors import ConfigError, LakeError, TapeError
from kalshilab.tape import Lake, sample, scan_tape
from kalshilab.tape.lake.source import batches
from kalshilab.tape.schema import MARKETS_SCHEMA, with_codes

TAPE, MARKETS = sample()
PLAIN = ["ts", "ticker", "price", "size", "taker", "trade_id"]
DAY = 86_400_000_000


def plain(frame: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Return the columns that do not depend on the assignment of codes, with plain text columns."""
    return frame.lazy().select(pl.col(c).cast(pl.String) if c in ("ticker", "taker") else pl.col(c) for c in PLAIN).collect()  # fmt: skip


def with_ids(tape: pl.DataFrame) -> pl.DataFrame:
    return tape.with_columns(pl.format("id-{}", pl.int_range(pl.len())).alias("trade_id"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake.create(tmp_path / "lake")
    made.append(TAPE, MARKETS)
    return made


def test_a_tape_and_its_markets_round_trip(lake: Lake) -> None:
    again = Lake.open(lake.path)
    for one in (lake, again, scan_tape(lake.path)):
        assert isinstance(one, Lake)
        assert one.rows == TAPE.height == sum(f.rows for f in one.files)
        assert plain(one.lazy()).equals(plain(TAPE))
        assert plain(one.read()).equals(plain(TAPE))
        assert one.markets.sort("ticker").equals(MARKETS.sort("ticker"))
    assert [f.first_row for f in again.files] == [sum(f.rows for f in again.files[:k]) for k in range(len(again.files))]  # fmt: skip
    assert not [f for f in again.doctor() if f.severity == "error"]


def test_codes_are_dense_and_index_the_listing(lake: Lake) -> None:
    read = lake.read()
    assert (
        lake.tickers.cast(pl.String).gather(read["market"]).to_list()
        == read["ticker"].cast(pl.String).to_list()
    )
    assert lake.listing["market"].to_list() == list(range(len(lake.tickers)))


def test_a_read_interval_includes_its_start_and_excludes_its_end(lake: Lake) -> None:
    ts = TAPE["ts"].dt.epoch("us")
    low, high = int(ts[1000]), int(ts[9000])
    expected = TAPE.filter((ts >= low) & (ts < high))
    assert plain(lake.read(low, high)).equals(plain(expected))
    assert plain(lake.read(until=low)).equals(plain(TAPE.filter(ts < low)))
    assert not lake.read(high, low).height
    for zone in (UTC, None):
        since, until = (to_datetime(us).replace(tzinfo=zone) for us in (low, high))
        assert lake.read(since, until).equals(lake.read(low, high))
    with pytest.raises(TapeError, match=r"since must be microseconds or a datetime, got '2026-01-05'"):
        lake.read("2026-01-05")  # type: ignore[arg-type]


def test_appending_a_tape_twice_adds_nothing(lake: Lake) -> None:
    done = lake.append(TAPE)
    assert (done.added, done.duplicates) == (0, TAPE.height)
    assert plain(lake.lazy()).equals(plain(TAPE))


@settings(max_examples=25, deadline=None)
@given(
    prints(60, gaps=(0, 1, 30_000_000, DAY // 3)),
    st.lists(st.integers(0, 60), max_size=4),
    st.booleans(),
    st.randoms(),
)
def test_pieces_of_whole_instants_give_the_lake_of_the_whole_in_any_order(
    rows: Any, cuts: list[int], staged: bool, chance: Any
) -> None:
    """Some pieces are added twice; the pieces arrive in any order."""
    whole = with_ids(tape_of(rows))
    # Prints of one instant stay together: across pieces, their order is the order of arrival.
    instants = whole["ts"].unique(maintain_order=True)
    edges = sorted({0, len(instants), *(min(c, len(instants)) for c in cuts)})
    pieces = [whole.filter(pl.col("ts").is_in(instants[a:b].implode())) for a, b in pairwise(edges)]  # fmt: skip
    pieces += [p for p in pieces if chance.random() < 0.5]
    chance.shuffle(pieces)
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.create(Path(folder, "lake"))
        added = 0
        for number, piece in enumerate(pieces):
            piece = with_codes(piece.drop("market")).select(whole.columns)
            if staged:
                lake.stage(f"piece-{number:03d}", piece)
            else:
                added += lake.append(piece).added
        if staged:
            added += lake.commit().added
        assert added == whole.height == lake.rows
        assert plain(lake.read()).equals(plain(whole)) and plain(lake.lazy()).equals(plain(whole))
        listing = lake.listing
        assert listing["prints"].sum() == whole.height
        counted = whole.group_by(pl.col("ticker").cast(pl.String)).agg(
            pl.len(), pl.col("ts").min().alias("a"), pl.col("ts").max().alias("b")
        )
        for row in counted.iter_rows(named=True):
            entry = listing.filter(pl.col("ticker").cast(pl.String) == row["ticker"]).row(0, named=True)
            assert (entry["prints"], entry["first_ts"], entry["last_ts"]) == (row["len"], row["a"], row["b"])
        assert not [f for f in lake.doctor() if f.severity == "error"]


@settings(max_examples=25)
@given(
    prints(60, gaps=(0, 1, DAY // 3)),
    st.lists(st.integers(0, 60), max_size=5),
    st.lists(st.integers(0, 9), min_size=6, max_size=6),
    st.booleans(),
)
def test_overlapping_pieces_give_the_lake_of_the_whole(
    rows: Any, cuts: list[int], back: list[int], staged: bool
) -> None:
    """Each piece begins a few rows before the end of the previous one, possibly within an instant, like fetched pages.

    After each piece, the codes are those of the whole tape.
    """
    whole = with_ids(tape_of(rows))
    edges = sorted({0, whole.height, *(min(c, whole.height) for c in cuts)})
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake.create(Path(folder, "lake"))
        new_markets = 0
        for number, (low, high) in enumerate(pairwise(edges)):
            piece = whole.slice(max(0, low - back[number]), high - max(0, low - back[number]))
            if staged:
                lake.stage(f"{number:03d}", with_codes(piece.drop("market")).select(whole.columns))
                continue
            done = lake.append(with_codes(piece.drop("market")).select(whole.columns))
            assert (done.rows, done.added) == (piece.height, high - low)
            assert done.duplicates == piece.height - done.added
            new_markets += done.new_markets
            assert lake.read().equals(whole.head(high))
        if staged:
            new_markets = lake.commit().new_markets
        assert new_markets == len(lake.tickers)
        assert Lake.open(lake.path).read().equals(whole)
        assert not [f for f in lake.doctor() if f.severity == "error"]


def test_prints_with_an_id_are_added_once_and_prints_without_one_each_time(tmp_path: Path) -> None:
    tape = tape_of([(1, "A-B-1", 5000, 100, "yes")] * 6)
    ids = ["a", None, "b", "a", None, ""]
    tape = tape.with_columns(pl.Series("trade_id", ids))
    lake = Lake.create(tmp_path)
    done = lake.append(tape)
    assert (done.rows, done.added, done.duplicates) == (6, 5, 1)
    assert lake.read()["trade_id"].to_list() == ["a", None, "b", None, ""]
    assert (lake.append(tape).added, lake.rows) == (2, 7)
    lake.stage("one", tape)
    lake.stage("two", tape)
    assert (lake.commit().added, lake.rows) == (4, 11)
    assert not [f for f in lake.doctor() if f.severity == "error"]


def test_one_id_on_two_days_is_two_prints(tmp_path: Path) -> None:
    """Ids are compared within a day only."""
    tape = tape_of([(0, "A-B-1", 5000, 100, "yes"), (DAY, "A-B-1", 5000, 100, "yes")])
    lake = Lake.create(tmp_path)
    both = tape.with_columns(pl.lit("same").alias("trade_id"))
    assert lake.append(both.head(1)).added == lake.append(both.tail(1)).added == 1


def test_empty_tapes_and_markets_do_not_change_the_lake(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    for done in (lake.append(TAPE.clear()), lake.append(TAPE.clear(), MARKETS.clear()), lake.commit()):
        assert (done.rows, done.added, done.days, done.new_markets) == (0, 0, 0, 0)
    assert lake.generation == 0 and not lake.files and not lake.gaps() and not lake.covered
    assert lake.lazy().collect().equals(TAPE.clear()) and lake.read().equals(TAPE.clear())
    lake.stage("empty", TAPE.clear())
    assert lake.commit().rows == 0 and not lake.staged()
    assert not Lake.open(lake.path).doctor()


def test_a_refused_tape_does_not_change_the_lake(lake: Lake) -> None:
    generation = lake.generation
    for wrong in (
        TAPE.reverse(),
        TAPE.drop("size"),
        TAPE.with_columns(pl.lit(None, pl.String).alias("ticker")),
    ):
        for put in (lake.append, lambda tape: lake.stage("wrong", tape)):
            with pytest.raises(TapeError):
                put(wrong)
    with pytest.raises(TapeError):
        lake.append(TAPE, MARKETS.drop("event"))
    with pytest.raises(LakeError, match="no segment of this name"):
        lake.commit(["none"])
    assert lake.generation == Lake.open(lake.path).generation == generation
    assert not lake.staged() and not lake.doctor()


def test_prints_without_an_id_are_all_kept(tmp_path: Path) -> None:
    tape = tape_of([(1, "A-B-1", 5000, 100, "yes")] * 3)
    lake = Lake.create(tmp_path)
    lake.append(tape)
    assert lake.append(tape).added == 3
    assert lake.rows == 6


def test_codes_never_change(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    lake.append(tape_of([(1, "B", 5000, 100, "yes"), (1, "A", 5000, 100, "no")]))
    first = lake.tickers.cast(pl.String).to_list()
    lake.append(tape_of([(5, "C", 100, 100, "yes"), (1, "A", 5000, 100, "no"), (1, "0", 5, 100, "no")]))
    assert first == ["B", "A"]
    assert lake.tickers.cast(pl.String).to_list() == ["B", "A", "C", "0"]


def test_markets_can_be_added_and_updated_after_the_prints(lake: Lake) -> None:
    other = Lake.create(lake.path.parent / "other")
    other.append(TAPE)
    assert other.unknown == len(other.tickers)
    assert other.markets.schema == MARKETS_SCHEMA and not other.markets.height
    other.put_markets(MARKETS)
    assert not other.unknown
    assert other.markets.sort("ticker").equals(MARKETS.sort("ticker"))
    changed = MARKETS.head(1).with_columns(pl.lit("another title").alias("title"))
    generation = other.generation
    other.put_markets(changed)
    assert other.markets.filter(pl.col("ticker") == changed["ticker"][0])["title"].to_list() == [
        "another title"
    ]
    assert other.generation > generation
    other.put_markets(changed.clear())
    assert other.generation == generation + 1, "an empty table does not change the lake"


def test_covered_intervals_are_merged_and_the_time_between_them_is_a_gap(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    early = tape_of([(0, "A", 5000, 100, "yes")])
    late = early.with_columns(pl.col("ts") + pl.duration(days=3))
    t = int(early["ts"].dt.epoch("us")[0]) // DAY * DAY
    lake.append(early, covered=[(t, t + DAY // 2)])
    lake.append(late, covered=[(t + DAY // 2, t + DAY), (t + 3 * DAY, t + 4 * DAY)])
    assert lake.covered == ((t, t + DAY), (t + 3 * DAY, t + 4 * DAY))
    gaps = lake.gaps()
    assert [(g.since, g.until) for g in gaps] == [(t + DAY, t + 3 * DAY)]
    lake.commit([], covered=[(t + DAY, t + 3 * DAY)])
    assert lake.covered == ((t, t + 4 * DAY),)
    assert not lake.gaps()


def test_staged_segments_are_added_when_they_are_committed(lake: Lake) -> None:
    other = lake.path.parent / "other"
    made = Lake.create(other)
    made.stage("b", TAPE.tail(100))
    made.stage("a", TAPE.head(100))
    made.stage("empty", TAPE.clear())
    made.stage("b", TAPE.slice(100, 50))
    assert Lake.open(other).staged() == ["a", "b", "empty"]
    assert not made.rows
    assert made.commit(["a"]).added == 100
    assert made.staged() == ["b", "empty"]
    made.unstage(["empty"])
    assert made.commit().added == 50
    assert plain(made.lazy()).equals(plain(TAPE.head(150)))
    with pytest.raises(ConfigError):
        made.stage("../evil", TAPE)


def test_polars_pyarrow_and_pandas_read_the_same_prints(lake: Lake) -> None:
    import pyarrow.dataset as ds

    files = str(lake.path / "trades/**/*.parquet")
    assert plain(pl.scan_parquet(files)).equals(plain(TAPE))
    assert pl.scan_parquet(files).select(TAPE.columns).collect().equals(lake.read())
    table: Any = ds.dataset(lake.path / "trades", format="parquet", partitioning="hive").to_table()
    assert table.num_rows == TAPE.height
    frame: Any = pl.from_arrow(table.select(["ts", "price", "size", "trade_id"]))
    expected = TAPE.select("ts", "price", "size", "trade_id").sort("ts", "trade_id")
    assert frame.sort("ts", "trade_id").equals(expected)
    pandas = pytest.importorskip("pandas")
    read = pandas.read_parquet(lake.path / "trades")
    assert read["trade_id"].tolist() == TAPE["trade_id"].to_list()
    assert (read["price"].to_numpy() == TAPE["price"].to_numpy()).all()
    assert read["taker"].tolist() == TAPE["taker"].to_list()


def test_duckdb_reads_the_same_prints(lake: Lake) -> None:
    duckdb = pytest.importorskip("duckdb")
    query = f"select count(*), sum(price), sum(size) from '{lake.path}/trades/**/*.parquet'"
    assert duckdb.sql(query).fetchall()[0] == (TAPE.height, TAPE["price"].cast(int).sum(), TAPE["size"].sum())
    rows = duckdb.sql(
        f"select epoch_us(ts), ticker, taker from '{lake.path}/trades/**/*.parquet' order by ts, trade_id"
    )
    expected = TAPE.sort("ts", "trade_id").select(
        pl.col("ts").dt.epoch("us"), "ticker", pl.col("taker").cast(str)
    )
    assert rows.fetchall() == expected.rows()


def test_a_second_process_is_refused_until_the_writing_one_ends(lake: Lake) -> None:
    """The error names the process that holds the lock."""
    code = (
        "import sys; from kalshilab.tape import Lake\n"
        "with Lake.open(sys.argv[1]).writing():\n"
        "    print('mine', flush=True); sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lake.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "mine\n"
        with pytest.raises(LakeError, match=str(other.pid)):
            lake.append(TAPE)
        assert plain(lake.lazy()).equals(plain(TAPE)), "reading needs no lock"
        other.stdin.write("\n")
        other.stdin.flush()
        other.wait(120)
    assert lake.append(TAPE).added == 0


def test_a_second_lake_object_is_refused_while_the_first_writes(lake: Lake) -> None:
    other = Lake.open(lake.path)
    with lake.writing():
        for refused in (
            lambda: other.append(TAPE),
            lambda: other.commit(),
            lambda: other.put_markets(MARKETS),
            other.repair,
        ):
            with pytest.raises(LakeError, match="is writing to this lake; only one process at a time may"):
                refused()
        lake.append(TAPE.head(5))
        other.stage("beside", TAPE.head(5))
    other.append(TAPE, covered=[(0, 1)])
    lake.append(TAPE, covered=[(1, 2)])
    assert lake.covered == ((0, 2),), "each change starts from the lake on disk"


def test_appends_from_several_threads_are_serialised(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path)
    pieces = [TAPE.slice(k, 400) for k in range(0, 3200, 400)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lake.append, pieces))
    assert sum(d.added for d in done) == lake.rows == 3200
    assert lake.generation == 8
    assert sorted(lake.read()["trade_id"]) == sorted(TAPE["trade_id"].head(3200))


def test_a_merged_segment_that_cannot_be_removed_is_not_merged_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape = TAPE.head(500).with_columns(pl.lit(None, pl.String).alias("trade_id"))
    lake = Lake.create(tmp_path)
    lake.stage("locked", tape)
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.name == "locked.parquet":
            raise PermissionError(13, "Permission denied")
        unlink(path, missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", refused)
        assert lake.commit().added == 500
        for change in (lambda: lake.append(TAPE.tail(10)), lambda: lake.put_markets(MARKETS), lake.commit):
            change()
            assert not lake.staged() and (lake.incoming / "locked.parquet").exists()
        assert [f.severity for f in lake.doctor() if f.file == lake.incoming / "locked.parquet"] == ["note"]
        assert lake.rows == 510
    lake.append(TAPE.tail(20))
    assert not list(lake.incoming.glob("*.parquet")) and lake.rows == 520
    lake.stage("locked", tape)
    assert lake.commit().added == 500, "staged again, it is another segment"


def test_a_path_that_is_not_a_lake_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"kalshilab (download|import)"):
        Lake.open(tmp_path)
    with pytest.raises(TapeError, match="does not exist"):
        scan_tape(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(TapeError):
        scan_tape(tmp_path / "text")
    with pytest.raises(LakeError, match="cannot be created as a folder"):
        Lake.create(tmp_path / "text")


@pytest.mark.parametrize("when", ["while its rows are read", "while its times are read"])
def test_a_lake_changed_during_a_scan_is_reported_as_changed_and_not_as_damaged(
    tmp_path: Path, when: str
) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE.head(500))
    reader = Lake.open(lake.path)
    reading = batches(reader, ["market", "price", "taker"], rows=100)
    batch = next(reading)
    lake.append(TAPE.slice(500))
    assert not reader.files[0].path.exists()
    with pytest.raises(LakeError, match="the same again: the lake has changed since it was opened"):
        if when == "while its rows are read":
            list(reading)
        else:
            batch.times(np.array([3])).result()
