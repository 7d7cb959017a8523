"""A lake that was damaged says so, to whoever reads it; the doctor finds it, and a repair makes it whole."""

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
from kalshilab.tape.lake import fs

TAPE, MARKETS = sample()
DAY = 86_400_000_000
T0 = int(TAPE["ts"].dt.epoch("us").min()) // DAY * DAY  # type: ignore[arg-type]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake.create(tmp_path / "lake")
    made.append(TAPE, MARKETS, covered=[(T0, T0 + 6 * DAY)])
    return made


def cut(lake: Lake) -> Path:
    path = lake.files[2].path
    os.truncate(path, path.stat().st_size - 1000)
    return path


def flipped(lake: Lake) -> Path:
    """One bit of a price."""
    import pyarrow.parquet as pq

    path = lake.files[2].path
    group = pq.ParquetFile(path).metadata.row_group(0)
    (price,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "price"]
    raw = bytearray(path.read_bytes())
    raw[price.data_page_offset + price.total_compressed_size // 2] ^= 0x10
    path.write_bytes(raw)
    return path


def gone(lake: Lake) -> Path:
    path = lake.files[2].path
    path.unlink()
    return path


def day_gone(lake: Lake) -> Path:
    path = lake.files[2].path
    shutil.rmtree(path.parent)
    return path


def another_days(lake: Lake) -> Path:
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
    """As many rows and bytes, the same footer, and one price that is another: the sums and the hash know."""
    path, size = lake.files[2].path, lake.files[2].bytes
    frame, note = pl.read_parquet(path, hive_partitioning=False), fs.note_of(path)
    for row in range(frame.height - 1):
        old, new = frame["price"][row], frame["price"][row + 1]
        if old == new:
            continue
        price = frame["price"].clone().scatter(row, new)
        fs.write_frame(frame.with_columns(price), path, note=note, row_group=1 << 18)
        if path.stat().st_size == size:
            lake.check_file(lake.files[2])
            return path
    raise AssertionError("no such file could be made")


def moved_minute(lake: Lake) -> Path:
    """The last bytes of the file moved to its middle: the size is right, the footer is not."""
    path = lake.files[2].path
    raw = path.read_bytes()
    path.write_bytes(raw[:1000] + raw[-500:] + raw[1000:-500])
    return path


def emptied(lake: Lake) -> Path:
    path = lake.files[2].path
    path.write_bytes(b"")
    return path


def zeroed(lake: Lake) -> Path:
    """As a disk leaves a file that was never brought to it: its size, and nothing in it."""
    path = lake.files[2].path
    path.write_bytes(bytes(lake.files[2].bytes))
    return path


def of_another_lake(lake: Lake) -> Path:
    """The same day, of the same generation, of a lake of fewer prints."""
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


def edited_totals(lake: Lake) -> Path:
    return edited(lake, lambda m: m["days"][2]["totals"].update(price=1))


def edited_days(lake: Lake) -> Path:
    return edited(lake, lambda m: m["days"].pop(2))


def garbled(lake: Lake) -> Path:
    path = lake.path / "manifest.json"
    path.write_text(path.read_text()[:200])
    return path


def edited_seal(lake: Lake) -> Path:
    return edited(lake, lambda m: m.update(seal=""))


def manifest_gone(lake: Lake) -> Path:
    path = lake.path / "manifest.json"
    path.unlink()
    return path


def markets_gone(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    path.unlink()
    return path


def markets_flipped(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    return path


def markets_cut(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    os.truncate(path, path.stat().st_size // 2)
    return path


DAMAGE = [
    cut, flipped, gone, day_gone, another_days, fewer_rows, changed_schema, other_rows,
    moved_minute, emptied, zeroed, of_another_lake,
    edited_rows, edited_totals, edited_days, edited_seal, garbled, manifest_gone, markets_cut, markets_gone, markets_flipped,
]  # fmt: skip


def scanned(path: Path) -> Any:
    return signals.scan(Lake.open(path), signals.Rlm(min_trades=1, min_drop=0, yes_threshold=0.0))


def lazily(path: Path) -> Any:
    return Lake.open(path).lazy().collect()


def read(path: Path) -> Any:
    return Lake.open(path).read()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_never_fewer_rows(lake: Lake, damage: Callable[[Lake], Path]) -> None:
    path = damage(lake)
    for reader in (read, scanned, lazily):
        if reader is not scanned and path.name.startswith("markets"):
            # The tape itself is whole, and tickers stand in it.
            assert reader(lake.path).height == TAPE.height
            continue
        if reader is lazily and damage in (flipped, other_rows):
            # What no footer shows: polars may find it, and gives all rows otherwise.
            with suppress(pl.exceptions.ComputeError):
                assert reader(lake.path).height == TAPE.height
            continue
        with pytest.raises(LakeError) as caught:
            reader(lake.path)
        assert "kalshilab doctor" in str(caught.value)
        assert path.name in str(caught.value) or "manifest" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_found_repaired_and_filled_again(lake: Lake, damage: Callable[[Lake], Path]) -> None:
    path = damage(lake)
    assert next(f.file for f in doctor(lake.path) if f.severity == "error") == path
    assert any(path.name in text for text in repair(lake.path)), "it says what it did"
    assert not repair(lake.path), "once is enough"
    whole = Lake.open(lake.path)
    assert not [f for f in whole.doctor() if f.severity == "error"]
    assert whole.read().height == whole.rows
    if whole.rows < TAPE.height:
        ((since, until),) = [(g.since, g.until) for g in whole.gaps()]
        assert until - since == DAY, "the day that was lost is not claimed any more"
        assert not any(low < until and high > since for low, high in whole.covered)
        assert whole.rows == TAPE.height - lake.files[2].rows
    whole.append(TAPE, MARKETS)
    assert whole.read().drop("market", "ticker").equals(TAPE.drop("market", "ticker"))
    assert signals.scan(whole, signals.Rlm()).equals(signals.rlm(TAPE))


def test_several_days_and_the_markets_at_once(lake: Lake) -> None:
    """Codes stand in the prints: they come through even where the markets file does not."""
    tickers = lake.tickers
    cut(lake)
    lake.files[4].path.unlink()
    markets_gone(lake)
    assert len(repair(lake.path)) >= 3
    whole = Lake.open(lake.path)
    assert not [f for f in whole.doctor() if f.severity == "error"]
    assert [len(list((lake.path / "damaged").iterdir())), len(whole.files)] == [1, len(lake.files) - 2]
    seen = whole.read().select("market", "ticker").unique().sort("market")
    assert seen["ticker"].to_list() == tickers.gather(seen["market"]).to_list(), "no code has changed"
    whole.append(TAPE, MARKETS)
    assert whole.read().drop("market").equals(TAPE.drop("market"))
    assert whole.markets.sort("ticker").equals(MARKETS.sort("ticker"))


def test_what_cannot_be_repaired_says_so(lake: Lake) -> None:
    (lake.path / f"manifest-{lake.generation}.json").write_text("{}")
    garbled(lake)
    with pytest.raises(LakeError, match=r"no copy that can be read.*kalshilab import"):
        repair(lake.path)
    with pytest.raises(LakeError, match="is not a lake"):
        repair(lake.path / "none")
    with pytest.raises(LakeError, match="is not a lake"):
        doctor(lake.path / "none")


def test_the_copy_of_the_manifest_is_looked_after(lake: Lake) -> None:
    copy = lake.path / f"manifest-{lake.generation}.json"
    (lake.path / "manifest-old.json").write_text("of somebody else")
    for spoil in (copy.unlink, lambda: copy.write_text("{}")):
        spoil()
        assert [(f.severity, f.file) for f in lake.doctor(deep=False)] == [("warning", copy)]
        assert any(copy.name in text for text in lake.repair())
        assert not lake.doctor()
    assert manifest_gone(lake).name in lake.repair()[0]
    assert Lake.open(lake.path).rows == TAPE.height


def test_files_of_others_among_the_days(lake: Lake) -> None:
    """Who reads trades/**/*.parquet would read them too."""
    stranger = lake.files[0].path.with_name("mine.parquet")
    shutil.copy(lake.files[0].path, stranger)
    left = lake.files[0].path.with_name("part-99.parquet")
    shutil.copy(lake.files[0].path, left)
    assert lake.read().height == TAPE.height
    assert [(f.severity, f.file) for f in lake.doctor()] == [("warning", stranger), ("note", left)]
    assert lake.repair() and stranger.exists() and not left.exists()


def torn(raw: bytes) -> bytes:
    return raw[:-9]


def bitten(raw: bytes) -> bytes:
    return raw[:2000] + bytes(b ^ 0xFF for b in raw[2000:2008]) + raw[2008:]


def misdated(raw: bytes) -> bytes:
    """Its note gives its prints another day."""
    day = TAPE["ts"].dt.date().first()
    assert isinstance(day, date)
    own, other = (f'"day":"{d}"'.encode() for d in (day, day + timedelta(days=1)))
    assert raw.count(own) == 1
    return raw.replace(own, other)


@pytest.mark.parametrize("spoil", [torn, bitten, misdated])
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


def test_a_bit_of_a_segment_that_flips(tmp_path: Path) -> None:
    """Wherever it is: the prints that were staged, or an error and none."""
    prints = TAPE.gather_every(TAPE.height // 100)
    assert prints["ts"].dt.date().n_unique() > 3
    lake = Lake.create(tmp_path / "begun")
    lake.stage("piece", prints)
    raw, refused = (lake.incoming / "piece.parquet").read_bytes(), 0
    for at in range(0, len(raw), len(raw) // 150):
        begun = Lake.open(shutil.copytree(lake.path, tmp_path / f"lake-{at}"))
        flipped = raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]
        (begun.incoming / "piece.parquet").write_bytes(flipped)
        try:
            begun.commit()
        except LakeError:
            refused += 1
            assert not begun.rows and not Lake.open(begun.path).rows
        else:
            assert begun.read().drop("market").equals(prints.drop("market"))
    assert refused > 100


def test_a_reader_of_an_old_generation_is_told(lake: Lake) -> None:
    old = Lake.open(lake.path)
    later = TAPE.with_columns(pl.col("ts") + pl.duration(hours=1), pl.lit(None, pl.String).alias("trade_id"))
    lake.append(later)
    with pytest.raises(LakeError):
        old.lazy()
    assert Lake.open(lake.path).read().height == 2 * TAPE.height
