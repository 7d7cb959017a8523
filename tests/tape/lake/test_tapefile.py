"""A single Parquet file with the interface of a lake."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from made_tapes import prints, tape_of

from kalshilab import signals
from kalshilab.errors import LakeError, TapeError
from kalshilab.tape import Lake, sample, scan_tape
from kalshilab.tape.lake.source import batches
from kalshilab.tape.lake.tapefile import TapeFile
from kalshilab.tape.tape import Tape

TAPE, _ = sample()


def written(tape: pl.DataFrame, folder: Path) -> Path:
    tape.write_parquet(folder / "tape.parquet", row_group_size=1000)
    return folder / "tape.parquet"


@settings(max_examples=40)
@given(prints(60))
def test_a_file_and_a_lake_give_the_same_results(rows: Any) -> None:
    tape = tape_of(rows)
    with tempfile.TemporaryDirectory() as folder:
        source = TapeFile(written(tape, Path(folder)))
        lake = Lake.create(Path(folder, "lake"))
        lake.append(tape)
        assert isinstance(source, Tape)
        assert source.lazy().collect().equals(tape)
        assert source.rows == lake.rows == tape.height
        columns = ["market", "ticker", "prints", "first_ts", "last_ts"]
        assert source.listing.select(columns).equals(lake.listing.select(columns))
        assert source.tickers.equals(lake.tickers)
        signal = signals.Rlm(min_trades=1, min_drop=0, yes_threshold=0.0)
        assert signals.scan(source, signal).equals(signals.scan(lake, signal))
        assert signals.scan(source, signal, shards=3).equals(signal.run(tape))


def test_a_path_is_accepted_in_place_of_a_tape(tmp_path: Path) -> None:
    path = written(TAPE, tmp_path)
    assert isinstance(scan_tape(str(path)), TapeFile)
    assert signals.scan(path, signals.Rlm()).equals(signals.rlm(TAPE))
    assert f"{TAPE.height:,}" in repr(scan_tape(path))


def test_additional_columns_are_ignored(tmp_path: Path) -> None:
    path = written(TAPE.with_columns(pl.lit(1).alias("additional")), tmp_path)
    assert TapeFile(path).lazy().collect().equals(TAPE)


def test_codes_missing_from_an_excerpt_have_no_ticker_and_no_prints(tmp_path: Path) -> None:
    excerpt = TAPE.filter(pl.col("market") >= 3)
    source = TapeFile(written(excerpt, tmp_path))
    assert source.tickers.head(3).to_list() == [None] * 3
    assert source.listing["prints"].head(3).to_list() == [0] * 3
    assert source.listing["prints"].sum() == excerpt.height
    assert signals.scan(source, signals.Rlm(), shards=2).equals(signals.rlm(excerpt))


def test_an_empty_tape_has_no_files_tickers_or_fires(tmp_path: Path) -> None:
    source = TapeFile(written(TAPE.clear(), tmp_path))
    assert (source.rows, source.files, len(source.tickers)) == (0, (), 0)
    assert source.lazy().collect().equals(TAPE.clear())
    assert not signals.scan(source, signals.Rlm()).height


def test_a_changed_or_missing_file_is_detected(tmp_path: Path) -> None:
    path = written(TAPE, tmp_path)
    source = TapeFile(path)
    os.utime(path, ns=(1, 1))
    for read in (source.lazy, lambda: source.listing):
        with pytest.raises(LakeError, match="was changed"):
            read()
    path.unlink()
    with pytest.raises(LakeError, match="is missing"):
        source.lazy()


def test_a_file_that_changes_while_it_is_read_is_detected(tmp_path: Path) -> None:
    source = TapeFile(written(TAPE, tmp_path))
    with pytest.raises(LakeError, match="was changed while it was read"):
        for batch in batches(source, ["price"], rows=1000):
            if batch.first_row == 0:
                os.utime(source.path, ns=(1, 1))


def test_a_file_that_changes_before_workers_open_it_is_detected(tmp_path: Path) -> None:
    source = TapeFile(written(TAPE, tmp_path))
    assert source.listing.height
    with ThreadPoolExecutor(2) as pool:
        assert signals.scan(source, signals.Rlm(), pool).equals(signals.rlm(TAPE))
        TAPE.head(2000).write_parquet(source.path)
        with pytest.raises(LakeError, match="was changed while it was read"):
            signals.scan(source, signals.Rlm(), pool)


BAD = [
    (TAPE.reverse(), "back in time"),
    (TAPE.with_columns(pl.lit(0, pl.UInt32).alias("market")), "one ticker"),
    (TAPE.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).alias("market")), "one ticker"),
    (TAPE.with_columns(pl.col("market") + 3_000_000_000), "dense codes"),
    (TAPE.with_columns(pl.lit(None, pl.String).alias("ticker")), "nulls"),
]


@pytest.mark.parametrize(("tape", "words"), BAD)
def test_rows_that_are_not_a_tape_are_refused_with_the_reason(
    tmp_path: Path, tape: pl.DataFrame, words: str
) -> None:
    source = TapeFile(written(tape, tmp_path))
    with pytest.raises(TapeError, match=words):
        signals.scan(source, signals.Rlm())


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (TAPE.drop("taker", "size"), "size is missing, taker is missing"),
        (TAPE.with_columns(pl.col("price").cast(pl.Int64)), "price is Int64"),
        (TAPE.with_columns(pl.col("ts").dt.replace_time_zone(None)), "ts is Datetime"),
    ],
)
def test_columns_that_are_not_those_of_a_tape_are_refused_by_name(
    tmp_path: Path, frame: pl.DataFrame, words: str
) -> None:
    with pytest.raises(TapeError, match=words) as caught:
        TapeFile(written(frame, tmp_path))
    assert "kalshilab import" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"ts,ticker\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_not_parquet_is_refused_with_the_remedy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(TapeError, match="kalshilab import"):
        scan_tape(tmp_path / "file")


def test_a_damaged_page_raises_and_does_not_shorten_the_tape(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = written(TAPE, tmp_path)
    group = pq.ParquetFile(path).metadata.row_group(1)
    (price,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "price"]
    raw = bytearray(path.read_bytes())
    for k in range(8):
        raw[price.data_page_offset + k] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(LakeError, match=r"tape\.parquet"):
        signals.scan(TapeFile(path), signals.Rlm())
