"""The manifest is sealed, versioned and read whole or not at all; files are checked against it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import LakeError
from kalshilab.tape import Lake, sample
from kalshilab.tape.lake.manifest import (
    DayEntry,
    Manifest,
    MergedSegment,
    TableEntry,
    check_file,
    load,
    read_day,
    read_listing,
)
from kalshilab.tape.lake.parquet import short
from kalshilab.tape.lake.row_groups import Checksums
from kalshilab.tape.tape import Tape

TAPE, MARKETS = sample()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE, MARKETS)
    return lake


numbers = st.integers(0, 2**62)
days = st.builds(
    DayEntry, st.dates().map(str), st.text(max_size=9), numbers, numbers, st.text(max_size=9), numbers, numbers,
    st.builds(Checksums, numbers, numbers, numbers, numbers, st.lists(numbers, max_size=2).map(tuple)),
    st.lists(numbers, max_size=2).map(tuple),
)  # fmt: skip
manifests = st.builds(
    Manifest,
    numbers,
    st.builds(TableEntry, st.text(max_size=9), numbers, numbers, st.text(max_size=9)),
    st.lists(days, max_size=3, unique_by=lambda d: d.day).map(
        lambda d: tuple(sorted(d, key=lambda x: x.day))
    ),
    st.lists(st.tuples(numbers, numbers), max_size=3).map(tuple),
    st.lists(st.builds(MergedSegment, st.text(max_size=9), st.text(max_size=9)), max_size=2).map(tuple),
)


@given(manifests)
def test_a_manifest_survives_a_round_trip(manifest: Manifest) -> None:
    read = msgspec.json.decode(manifest.encoded(), type=Manifest)
    assert read.fault() is None
    assert read.seal
    assert msgspec.structs.replace(read, seal="") == manifest
    assert read.encoded() == manifest.encoded()
    assert manifest.rows == sum(d.rows for d in manifest.days)


@given(manifests, st.data())
def test_an_edited_value_breaks_the_seal(manifest: Manifest, data: Any) -> None:
    plain = json.loads(manifest.encoded())
    name = data.draw(st.sampled_from(["generation", "covered", "merged", "seal", "markets"]))
    plain[name] = {
        "generation": manifest.generation + 1,
        "covered": [*plain["covered"], [1, 2]],
        "merged": [*plain["merged"], {"name": "a", "sha256": "b"}],
        "seal": plain["seal"][::-1] + "0",
        "markets": {**plain["markets"], "rows": manifest.markets.rows + 1},
    }[name]
    edited = msgspec.json.decode(json.dumps(plain), type=Manifest)
    assert "seal" in (edited.fault() or "")


def test_every_value_of_a_day_is_under_the_seal(lake: Lake) -> None:
    path = lake.path / "manifest.json"
    text = path.read_text()
    for name in ("day", "file", "rows", "bytes", "sha256", "first_ts", "last_ts"):
        plain = json.loads(text)
        value = plain["days"][1][name]
        plain["days"][1][name] = value + 1 if isinstance(value, int) else value[:-1]
        path.write_text(json.dumps(plain))
        with pytest.raises(LakeError, match="seal") as caught:
            Lake.open(lake.path)
        assert caught.value.file == path
    # White space is not sealed.
    path.write_text(json.dumps(json.loads(text), indent=7))
    assert Lake.open(lake.path).rows == TAPE.height


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot be read"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[]", "cannot be read"),
        (b'{"version": 1}', "cannot be read"),
        (b'{"version": 99, "what": "is new"}', "version 99"),
        (b'{"version": 1, "generation": 0, "markets": {"file": "a", "rows": 0, "bytes": 0, "sha256": ""}, "more": 1}', "more"),
    ],
)  # fmt: skip
def test_an_invalid_manifest_raises_and_is_kept(lake: Lake, data: bytes, words: str) -> None:
    (lake.path / "manifest.json").write_bytes(data)
    with pytest.raises(LakeError, match=words) as caught:
        Lake.open(lake.path)
    assert caught.value.file == lake.path / "manifest.json"
    with pytest.raises(LakeError, match=words):
        Lake.create(lake.path)
    assert (lake.path / "manifest.json").read_bytes() == data, "it was not overwritten"


def test_a_lake_with_other_columns_raises(lake: Lake) -> None:
    manifest = load(lake.path)
    other = msgspec.structs.replace(manifest, schema={**manifest.schema, "price": "Int64"})
    (lake.path / "manifest.json").write_bytes(other.encoded())
    with pytest.raises(LakeError, match="price Int64"):
        Lake.open(lake.path)


def test_days_must_be_in_order_and_unique(lake: Lake) -> None:
    manifest = load(lake.path)
    for wrong in (manifest.days[::-1], (*manifest.days, manifest.days[-1])):
        other = msgspec.structs.replace(manifest, days=tuple(wrong))
        assert "order" in (msgspec.json.decode(other.encoded(), type=Manifest).fault() or "")


def test_a_missing_manifest_and_a_folder_without_a_lake_are_distinguished(lake: Lake, tmp_path: Path) -> None:
    (lake.path / "manifest.json").unlink()
    with pytest.raises(LakeError, match=r"manifest\.json: is missing") as caught:
        Lake.open(lake.path)
    assert "kalshilab doctor" in str(caught.value)
    with pytest.raises(LakeError, match="is missing"):
        Lake.create(lake.path)
    (tmp_path / "new").mkdir()
    with pytest.raises(LakeError, match="is not a lake"):
        load(tmp_path / "new")
    (tmp_path / "new" / "manifest.json").mkdir()
    with pytest.raises(LakeError, match="cannot be read"):
        load(tmp_path / "new")


def test_an_older_lake_without_timestamp_checksums_can_be_read_and_changed(lake: Lake) -> None:
    manifest = load(lake.path)
    days = tuple(
        msgspec.structs.replace(d, totals=msgspec.structs.replace(d.totals, ts=()), times_at=())
        for d in manifest.days
    )
    before = msgspec.structs.replace(manifest, days=days).encoded()
    assert b'"ts"' not in before.replace(b'"ts": "', b"")
    assert b"times_at" not in before
    for name in ("manifest.json", f"manifest-{manifest.generation}.json"):
        (lake.path / name).write_bytes(before)
    old = Lake.open(lake.path)
    assert not old.doctor()
    assert old.append(TAPE).added == 0


def test_checksums_match_the_columns(lake: Lake) -> None:
    read = lake.read()
    whole = [sum(getattr(f.totals, name) for f in lake.files) for name in ("market", "price", "size", "yes")]
    assert whole == [
        *(int(read[name].cast(pl.Int64).sum()) for name in ("market", "price", "size")),
        int((read["taker"] == "yes").sum()),
    ]
    for file in lake.files:
        day = read.slice(file.first_row, file.rows)
        assert file.totals == Checksums.of(day)
        instants = day["ts"].dt.epoch("us")
        assert (file.first_ts, file.last_ts) == (instants.min(), instants.max())
        assert file.path.parent.name == f"day={file.day}" and day["ts"].dt.date().cast(str).unique().to_list() == [file.day]  # fmt: skip
    assert isinstance(lake, Tape)


def test_a_folder_in_place_of_a_file_and_a_file_in_place_of_a_folder_raise_a_lake_error(lake: Lake) -> None:
    file = lake.files[1]
    content = file.path.read_bytes()
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(LakeError):
        check_file(lake.path, file, lake.generation)
    file.path.rmdir()
    file.path.parent.rmdir()
    file.path.parent.write_bytes(content)
    with pytest.raises(LakeError, match="cannot be read"):
        check_file(lake.path, file, lake.generation)


def test_a_disk_error_is_a_lake_error(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path) -> str:
        raise OSError(5, "Input/output error")

    file, manifest = lake.files[0], load(lake.path)
    monkeypatch.setattr("kalshilab.tape.lake.parquet.digest", broken)
    for call in (
        lambda: read_day(lake.path, file, lake.generation),
        lambda: read_listing(lake.path, manifest.markets),
    ):
        with pytest.raises(LakeError, match="Input/output error"):
            call()


def test_a_lake_can_be_moved(lake: Lake, tmp_path: Path) -> None:
    lake.path.rename(tmp_path / "moved")
    moved = Lake.open(tmp_path / "moved")
    assert moved.lazy().collect().height == TAPE.height
    assert not moved.doctor()
    with pytest.raises(LakeError):
        lake.lazy()


def test_short_returns_the_first_line_of_an_error() -> None:
    assert short(ValueError("what\nand where")) == "what"
    assert short(ValueError()) == "ValueError"
