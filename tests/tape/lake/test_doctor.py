"""Readers refuse a damaged lake, the doctor reports the damage, and a repair removes it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kalshilab import signals
from kalshilab.errors import LakeError
from kalshilab.tape import Lake, doctor, repair, sample
from kalshilab.tape.lake import parquet

TAPE, MARKETS = sample()
DAY_US = 86_400_000_000
T0 = int(TAPE["ts"].dt.epoch("us").min()) // DAY_US * DAY_US  # type: ignore[arg-type]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE, MARKETS, covered=[(T0, T0 + 6 * DAY_US)])
    return lake


def truncated(lake: Lake) -> Path:
    path = lake.files[2].path
    os.truncate(path, path.stat().st_size - 1000)
    return path


def flipped(lake: Lake) -> Path:
    """Flip one bit of a price."""
    import pyarrow.parquet as pq

    path = lake.files[2].path
    group = pq.ParquetFile(path).metadata.row_group(0)
    (price,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "price"]
    raw = bytearray(path.read_bytes())
    raw[price.data_page_offset + price.total_compressed_size // 2] ^= 0x10
    path.write_bytes(raw)
    return path


def missing(lake: Lake) -> Path:
    path = lake.files[2].path
    path.unlink()
    return path


def day_missing(lake: Lake) -> Path:
    path = lake.files[2].path
    shutil.rmtree(path.parent)
    return path


def another_day(lake: Lake) -> Path:
    path = lake.files[2].path
    shutil.copy(lake.files[1].path, path)
    return path


def fewer_rows(lake: Lake) -> Path:
    path = lake.files[2].path
    pl.read_parquet(path, hive_partitioning=False).head(10).write_parquet(path)
    return path


def changed_schema(lake: Lake) -> Path:
    path = lake.files[2].path
    frame = pl.read_parquet(path, hive_partitioning=False)
    frame.with_columns(pl.col("price").cast(pl.Int64)).write_parquet(path)
    return path


def other_rows(lake: Lake) -> Path:
    """Change one price, but not the rows, the size or the footer: only checksums and the hash detect it."""
    path, size = lake.files[2].path, lake.files[2].bytes
    frame, note = pl.read_parquet(path, hive_partitioning=False), parquet.note_of(path)
    for row in range(frame.height - 1):
        old, new = frame["price"][row], frame["price"][row + 1]
        if old == new:
            continue
        price = frame["price"].clone().scatter(row, new)
        parquet.write_frame(frame.with_columns(price), path, note=note, row_group=1 << 18)
        if path.stat().st_size == size:
            lake.check_file(lake.files[2])
            return path
    raise AssertionError("no price could be changed without changing the size")


def scrambled(lake: Lake) -> Path:
    """Move the last bytes of the file to its middle: the size is right, the footer is not."""
    path = lake.files[2].path
    raw = path.read_bytes()
    path.write_bytes(raw[:1000] + raw[-500:] + raw[1000:-500])
    return path


def emptied(lake: Lake) -> Path:
    path = lake.files[2].path
    path.write_bytes(b"")
    return path


def zeroed(lake: Lake) -> Path:
    """Replace all bytes by zeros, as a crash leaves a file that was not synced."""
    path = lake.files[2].path
    path.write_bytes(bytes(lake.files[2].bytes))
    return path


def of_another_lake(lake: Lake) -> Path:
    """Take the same day, of the same generation, from a lake with fewer prints."""
    path = lake.files[2].path
    other = Lake.create(lake.path.parent / "another")
    other.append(TAPE.filter(pl.int_range(pl.len()) % 3 != 0))
    shutil.copy(other.files[2].path, path)
    return path


def edited(lake: Lake, change: Callable[[dict[str, Any]], None]) -> Path:
    path = lake.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return path


def edited_rows(lake: Lake) -> Path:
    return edited(lake, lambda m: m["days"][2].update(rows=m["days"][2]["rows"] - 1))


def edited_checksums(lake: Lake) -> Path:
    return edited(lake, lambda m: m["days"][2]["totals"].update(price=1))


def edited_days(lake: Lake) -> Path:
    return edited(lake, lambda m: m["days"].pop(2))


def garbled(lake: Lake) -> Path:
    path = lake.path / "manifest.json"
    path.write_text(path.read_text()[:200])
    return path


def edited_seal(lake: Lake) -> Path:
    return edited(lake, lambda m: m.update(seal=""))


def manifest_missing(lake: Lake) -> Path:
    path = lake.path / "manifest.json"
    path.unlink()
    return path


def markets_missing(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    path.unlink()
    return path


def markets_flipped(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    return path


def markets_truncated(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    os.truncate(path, path.stat().st_size // 2)
    return path


DAMAGE = [
    truncated, flipped, missing, day_missing, another_day, fewer_rows, changed_schema, other_rows,
    scrambled, emptied, zeroed, of_another_lake,
    edited_rows, edited_checksums, edited_days, edited_seal, garbled, manifest_missing, markets_truncated,
    markets_missing, markets_flipped,
]  # fmt: skip


def scan(path: Path) -> pl.DataFrame:
    return signals.scan(Lake.open(path), signals.Rlm(min_trades=1, min_drop=0, yes_threshold=0.0))


def collect(path: Path) -> pl.DataFrame:
    return Lake.open(path).lazy().collect()


def read(path: Path) -> pl.DataFrame:
    return Lake.open(path).read()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_never_costs_rows_silently(lake: Lake, damage: Callable[[Lake], Path]) -> None:
    path = damage(lake)
    for reader in (read, scan, collect):
        if reader is not scan and path.name.startswith("markets"):
            # The tape itself is intact, and it contains the tickers.
            assert reader(lake.path).height == TAPE.height
            continue
        if reader is collect and damage in (flipped, other_rows):
            # The footer does not show it: polars raises or returns all rows.
            with suppress(pl.exceptions.ComputeError):
                assert reader(lake.path).height == TAPE.height
            continue
        with pytest.raises(LakeError) as caught:
            reader(lake.path)
        assert "kalshilab doctor" in str(caught.value)
        assert path.name in str(caught.value) or "manifest" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_repaired_and_filled_again(lake: Lake, damage: Callable[[Lake], Path]) -> None:
    path = damage(lake)
    assert next(f.file for f in doctor(lake.path) if f.severity == "error") == path
    assert any(path.name in text for text in repair(lake.path)), "it reports its actions"
    assert not repair(lake.path), "a second repair has nothing to do"
    repaired = Lake.open(lake.path)
    assert not [f for f in repaired.doctor() if f.severity == "error"]
    assert repaired.read().height == repaired.rows
    if repaired.rows < TAPE.height:
        ((since, until),) = [(g.since, g.until) for g in repaired.gaps()]
        assert until - since == DAY_US, "the removed day is no longer covered"
        assert not any(low < until and high > since for low, high in repaired.covered)
        assert repaired.rows == TAPE.height - lake.files[2].rows
    repaired.append(TAPE, MARKETS)
    assert repaired.read().drop("market", "ticker").equals(TAPE.drop("market", "ticker"))
    assert signals.scan(repaired, signals.Rlm()).equals(signals.rlm(TAPE))


def test_codes_survive_the_loss_of_several_days_and_of_the_markets_file(lake: Lake) -> None:
    """The prints contain the codes, so the markets file can be rebuilt."""
    tickers = lake.tickers
    truncated(lake)
    lake.files[4].path.unlink()
    markets_missing(lake)
    assert len(repair(lake.path)) >= 3
    repaired = Lake.open(lake.path)
    assert not [f for f in repaired.doctor() if f.severity == "error"]
    assert [len(list((lake.path / "damaged").iterdir())), len(repaired.files)] == [1, len(lake.files) - 2]
    codes = repaired.read().select("market", "ticker").unique().sort("market")
    assert codes["ticker"].to_list() == tickers.gather(codes["market"]).to_list(), "no code has changed"
    repaired.append(TAPE, MARKETS)
    assert repaired.read().drop("market").equals(TAPE.drop("market"))
    assert repaired.markets.sort("ticker").equals(MARKETS.sort("ticker"))


def test_a_lake_that_cannot_be_repaired_raises(lake: Lake) -> None:
    (lake.path / f"manifest-{lake.generation}.json").write_text("{}")
    garbled(lake)
    with pytest.raises(LakeError, match=r"no readable copy.*kalshilab import"):
        repair(lake.path)
    with pytest.raises(LakeError, match="is not a lake"):
        repair(lake.path / "none")
    with pytest.raises(LakeError, match="is not a lake"):
        doctor(lake.path / "none")


def test_a_bad_copy_of_the_manifest_is_reported_and_rewritten(lake: Lake) -> None:
    copy = lake.path / f"manifest-{lake.generation}.json"
    (lake.path / "manifest-old.json").write_text("a foreign file")
    for spoil in (copy.unlink, lambda: copy.write_text("{}")):
        spoil()
        assert [(f.severity, f.file) for f in lake.doctor(deep=False)] == [("warning", copy)]
        assert any(copy.name in text for text in lake.repair())
        assert not lake.doctor()
    assert manifest_missing(lake).name in lake.repair()[0]
    assert Lake.open(lake.path).rows == TAPE.height


def test_foreign_files_among_the_days_are_reported_and_kept(lake: Lake) -> None:
    """Readers of trades/**/*.parquet would read them too."""
    foreign = lake.files[0].path.with_name("mine.parquet")
    shutil.copy(lake.files[0].path, foreign)
    left = lake.files[0].path.with_name("part-99.parquet")
    shutil.copy(lake.files[0].path, left)
    assert lake.read().height == TAPE.height
    assert [(f.severity, f.file) for f in lake.doctor()] == [("warning", foreign), ("note", left)]
    assert lake.repair() and foreign.exists() and not left.exists()


def torn(raw: bytes) -> bytes:
    return raw[:-9]


def corrupted(raw: bytes) -> bytes:
    return raw[:2000] + bytes(b ^ 0xFF for b in raw[2000:2008]) + raw[2008:]


def misdated(raw: bytes) -> bytes:
    """Change the day in the segment's note."""
    day = TAPE["ts"].dt.date().first()
    assert isinstance(day, date)
    own, other = (f'"day":"{d}"'.encode() for d in (day, day + timedelta(days=1)))
    assert raw.count(own) == 1
    return raw.replace(own, other)


@pytest.mark.parametrize("spoil", [torn, corrupted, misdated])
def test_a_damaged_segment_is_never_merged(lake: Lake, spoil: Callable[[bytes], bytes]) -> None:
    later = TAPE.with_columns(pl.format("{}-b", "trade_id").alias("trade_id"))
    lake.stage("good", later.tail(3))
    lake.stage("bad", later.head(2000))
    bad, generation = lake.incoming / "bad.parquet", lake.generation
    bad.write_bytes(spoil(bad.read_bytes()))
    with pytest.raises(LakeError, match=r"bad\.parquet.*kalshilab doctor"):
        lake.commit()
    assert read(lake.path).height == TAPE.height and Lake.open(lake.path).generation == generation
    assert [f.file for f in lake.doctor() if f.severity == "error"] == [bad]
    assert any("bad.parquet" in text for text in lake.repair())
    assert lake.staged() == ["good"] and [p.name for p in (lake.path / "damaged").iterdir()] == [
        "bad.parquet"
    ]
    assert lake.commit().added == 3
    assert not lake.doctor() and lake.read().height == TAPE.height + 3


def test_a_flipped_bit_of_a_segment_never_changes_prints(tmp_path: Path) -> None:
    """At any position, a commit adds the prints that were staged, or it raises and adds nothing."""
    prints = TAPE.gather_every(TAPE.height // 100)
    assert prints["ts"].dt.date().n_unique() > 3
    lake = Lake.create(tmp_path / "original")
    lake.stage("segment", prints)
    raw, refused = (lake.incoming / "segment.parquet").read_bytes(), 0
    for at in range(0, len(raw), len(raw) // 150):
        copy = Lake.open(shutil.copytree(lake.path, tmp_path / f"lake-{at}"))
        flipped = raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]
        (copy.incoming / "segment.parquet").write_bytes(flipped)
        try:
            copy.commit()
        except LakeError:
            refused += 1
            assert not copy.rows and not Lake.open(copy.path).rows
        else:
            assert copy.read().drop("market").equals(prints.drop("market"))
    assert refused > 100


def test_reading_an_old_generation_raises(lake: Lake) -> None:
    old = Lake.open(lake.path)
    later = TAPE.with_columns(pl.col("ts") + pl.duration(hours=1), pl.lit(None, pl.String).alias("trade_id"))
    lake.append(later)
    with pytest.raises(LakeError):
        old.lazy()
    assert Lake.open(lake.path).read().height == 2 * TAPE.height
