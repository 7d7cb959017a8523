"""Archives in every layout give the original tape, in portions; errors name the file."""

from __future__ import annotations

import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import prints, tape_of

from kalshilab.errors import TapeError
from kalshilab.tape import DroppedRows, Lake, sample, to_tape
from kalshilab.tape.ingest import archives
from kalshilab.tape.ingest.archives import archive_files, import_archive, read_archive
from kalshilab.tape.ingest.segments import Segment, commit_segments

TAPE, MARKETS = sample()
SMALL = TAPE.head(2000)


def archived(tape: pl.DataFrame) -> pl.DataFrame:
    """Return trades with the columns of the public archives: cents, contracts, times as text."""
    return tape.select(
        pl.col("ticker").cast(pl.String),
        (pl.col("price") / 100).alias("yes_price"),
        (100 - pl.col("price") / 100).alias("no_price"),
        (pl.col("size") / 100).alias("count"),
        pl.col("taker").cast(pl.String).alias("taker_side"),
        pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").alias("created_time"),
        "trade_id",
    )


def objects(tape: pl.DataFrame) -> list[dict[str, Any]]:
    return archived(tape).to_dicts()


def as_parquet(path: Path) -> Path:
    archived(SMALL).write_parquet(path / "trades.parquet")
    return path / "trades.parquet"


def as_csv(path: Path) -> Path:
    archived(SMALL).write_csv(path / "trades.csv")
    return path / "trades.csv"


def as_quoted_csv(path: Path) -> Path:
    archived(SMALL).write_csv(path / "trades.csv", quote_style="always")
    return path / "trades.csv"


def as_csv_gz(path: Path) -> Path:
    file = path / "trades.csv.gz"
    file.write_bytes(gzip.compress(archived(SMALL).write_csv().encode()))
    return file


def as_daily_lists(path: Path) -> Path:
    for day, part in sorted(SMALL.with_columns(pl.col("ts").dt.date().alias("d")).group_by("d")):
        (path / f"{day[0]}.json").write_text(json.dumps(objects(part)))
    return path


def as_daily_pages(path: Path) -> Path:
    for k in range(4):
        page = {"trades": objects(SMALL.slice(500 * k, 500)), "cursor": ""}
        (path / f"page-{k}.json").write_text(json.dumps(page))
    (path / "README.md").write_text("not trades")
    return path


def as_lines(path: Path) -> Path:
    (path / "trades.jsonl").write_text("\n".join(json.dumps(o) for o in objects(SMALL)))
    return path / "trades.jsonl"


def as_gzipped_lines_of_pages(path: Path) -> Path:
    pages = [{"trades": objects(SMALL.slice(500 * k, 500))} for k in range(4)]
    file = path / "trades.jsonl.gz"
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, pages)).encode()))
    return file


LAYOUTS = [
    as_parquet, as_csv, as_quoted_csv, as_csv_gz, as_daily_lists, as_daily_pages, as_lines, as_gzipped_lines_of_pages,
]  # fmt: skip


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select(
        "ts", pl.col("ticker").cast(pl.String), "price", "size", pl.col("taker").cast(pl.String), "trade_id"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_tape(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    tapes = list(read_archive(layout(tmp_path), price_unit="cents"))
    assert plain(pl.concat([plain(tape) for tape in tapes])).equals(plain(SMALL))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_import_adds_nothing(tmp_path: Path, layout: Callable[[Path], Path]) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    paths = layout(folder)
    done = import_archive(tmp_path / "lake", paths, MARKETS, price_unit="cents")
    again = import_archive(tmp_path / "lake", [paths], price_unit="cents")
    assert (done.added, again.added, again.duplicates) == (2000, 0, 2000)
    lake = Lake.open(tmp_path / "lake")
    assert plain(lake.read()).equals(plain(SMALL))
    assert not lake.staged()


@settings(max_examples=20, deadline=None)
@given(prints(40), st.integers(0, 40))
def test_overlapping_archives_without_ids_are_imported_once(
    tmp_path_factory: pytest.TempPathFactory, rows: Any, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    # Equal prints of one instant are distinct prints.
    tape = tape_of([r for row in rows for r in (row, (0, *row[1:]))])
    whole, part = folder / "whole.parquet", folder / "part.parquet"
    archived(tape).drop("trade_id").write_parquet(whole)
    archived(tape.head(cut)).drop("trade_id").write_parquet(part)
    columns = ["ts", "ticker", "price", "size", "taker"]
    for number, order in enumerate(([part, whole, part], [whole, part, whole])):
        lake = Lake.create(folder / f"lake-{number}")
        added = [import_archive(lake, path, price_unit="cents").added for path in order]
        assert sum(added) == tape.height == lake.rows
        assert lake.read().select(columns).sort(columns).equals(tape.select(columns).sort(columns))
    with_ids = tape.with_columns(pl.format("t{}", pl.int_range(pl.len())).alias("trade_id"))
    lake = Lake.create(folder / "lake")
    lake.append(with_ids)
    assert import_archive(lake, whole, price_unit="cents").added == 0, "the lake has them with ids"
    # Conversely, prints without ids take the ids of a download, which is committed in two segments.
    lake = Lake.create(folder / "other")
    import_archive(lake, part, price_unit="cents")
    added = 0
    for number, part_with_ids in enumerate((with_ids.gather_every(2), with_ids)):
        download = Segment("download", 0, number + 1)
        lake.stage(download.name, part_with_ids)
        done = commit_segments(lake, [download])
        assert done is not None and done.rows == part_with_ids.height
        added += done.added
    assert added == tape.height - min(cut, tape.height) and lake.rows == tape.height
    columns.append("trade_id")
    assert lake.read().select(columns).sort(columns).equals(with_ids.select(columns).sort(columns))
    assert import_archive(lake, whole, price_unit="cents").added == 0 and not lake.doctor()


def test_prices_that_do_not_add_up_to_a_dollar_are_refused(tmp_path: Path) -> None:
    frame = archived(SMALL).with_columns(no_price=pl.col("no_price").cast(pl.Int64))
    rounded = frame.with_columns(no_price=pl.col("no_price") + 1)
    assert to_tape(rounded, price_unit="cents").height == SMALL.height
    frame = frame.with_columns(
        no_price=pl.when(pl.int_range(pl.len()) == 7).then(3).otherwise(pl.col("no_price"))
    )
    frame.write_csv(tmp_path / "trades.csv")
    with pytest.raises(TapeError, match="must add up to 1 dollar with yes_price") as caught:
        list(read_archive(tmp_path, price_unit="cents"))
    assert (caught.value.column, caught.value.row) == ("no_price", 7)


@settings(max_examples=20, deadline=None)
@given(prints(40))
def test_small_portions_give_the_same_tape(tmp_path_factory: pytest.TempPathFactory, rows: Any) -> None:
    folder = tmp_path_factory.mktemp("archive")
    frame = archived(tape_of(rows)).drop("trade_id")
    frame.write_parquet(folder / "trades.parquet", row_group_size=7)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(archives, "ROWS", 5)
        tapes = list(read_archive(folder, price_unit="cents"))
    assert all(tape.height <= 5 for tape in tapes)
    whole = to_tape(frame, price_unit="cents")
    joined = pl.concat([plain(tape) for tape in tapes]) if tapes else plain(whole)
    assert joined.equals(plain(whole))


def test_prices_in_dollars_are_converted(tmp_path: Path) -> None:
    frame = archived(SMALL).with_columns(pl.col("yes_price") / 100, pl.col("no_price") / 100)
    frame.write_csv(tmp_path / "trades.csv")
    (tape,) = read_archive(tmp_path, price_unit="dollars")
    assert plain(tape).equals(plain(SMALL))


def test_trades_without_a_taker_are_counted_in_one_warning(tmp_path: Path) -> None:
    frame = archived(SMALL).with_columns(
        pl.when(pl.int_range(pl.len()) % 10 == 0).then(None).otherwise(pl.col("taker_side")).alias("taker_side")
    )  # fmt: skip
    frame.write_parquet(tmp_path / "trades.parquet", row_group_size=100)
    with pytest.warns(DroppedRows, match="trades.parquet") as caught:
        (tape,) = read_archive(tmp_path, price_unit="cents")
    assert tape.height == 1800
    assert len(caught) == 1


BAD: list[tuple[str, bytes, str]] = [
    ("trades.csv", b"a,b,c\n1,2,3\n", "line 1: must have known column names"),
    ("trades.csv", b"ticker,yes_price\nA,1\n", "trades.csv"),
    ("trades.csv.gz", gzip.compress(b"ticker,yes_price,count,taker_side,created_time\n" * 50, mtime=0)[:-9], "trades.csv.gz"),
    ("trades.json", b'[{"ticker": "A", ', "must be JSON, complete"),
    ("trades.json", b'{"a": 1}', "trades.json"),
    ("trades.jsonl", b'{"ticker": "A"}\n{"ticker"', "line 2"),
    ("trades.parquet", b"PAR1 no", "trades.parquet"),
    ("trades.zip", b"PK", "unpack it"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "words"), BAD)
def test_an_error_names_the_unreadable_file(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / "archive").mkdir()
    as_csv(tmp_path / "archive")
    (tmp_path / "archive" / name).write_bytes(data)
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(TapeError, match=words) as caught, warnings.catch_warnings():
        import_archive(lake, tmp_path / "archive", price_unit="cents")
    assert name in str(caught.value)
    assert not lake.rows and not lake.staged(), "nothing was imported"


def test_an_error_gives_the_row_in_the_file(tmp_path: Path) -> None:
    rows = objects(SMALL.head(30))
    rows[17]["count"] = -1
    (tmp_path / "day.json").write_text(json.dumps(rows))
    with pytest.raises(TapeError, match=r"day\.json") as caught:
        list(read_archive(tmp_path, price_unit="cents"))
    assert caught.value.row == 17


def test_files_are_listed_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b/2.csv", "a/3.csv", "a/1.csv", ".hidden/x.csv", "_tmp.csv", "LICENSE"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ticker\n")
    assert [str(p.relative_to(tmp_path)) for p in archive_files(tmp_path)] == ["a/1.csv", "a/3.csv", "b/2.csv"]  # fmt: skip
    with pytest.raises(TapeError, match="paths must exist, got"):
        archive_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TapeError, match="must contain files of trades"):
        archive_files(tmp_path / "empty")


def test_segments_of_a_killed_import_are_discarded(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.stage("import-000000", SMALL.head(10))
    lake.stage("download-1", SMALL.tail(10))
    assert import_archive(lake, as_csv(tmp_path), price_unit="cents").added == 2000
    assert lake.staged() == ["download-1"], "segments of other commands stay"


def test_a_failed_import_leaves_no_lake_behind(tmp_path: Path) -> None:
    good, bad = as_csv(tmp_path), tmp_path / "z.csv"
    bad.write_text("ticker,yes_price\nA-B-1,43\n")
    before = sorted(tmp_path.rglob("*"))
    for order in ([bad], [good, bad]):
        with pytest.raises(TapeError, match=r"z\.csv"):
            import_archive(tmp_path / "data" / "lake", order, price_unit="cents")
        assert sorted(tmp_path.rglob("*")) == before
    existing = tmp_path / "existing"
    existing.mkdir()
    (existing / "notes.txt").write_text("mine")
    with pytest.raises(TapeError, match=r"z\.csv"):
        import_archive(existing, bad)
    assert [p.name for p in existing.iterdir()] == ["notes.txt"], "other files stay"
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(TapeError, match=r"z\.csv"):
        import_archive(lake.path, bad)
    assert Lake.open(lake.path).generation == 0, "an existing lake stays"
