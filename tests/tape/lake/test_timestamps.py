"""Timestamps of single rows equal the tape's, however they are read, or an error names the file."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kalshilab as kl
from kalshilab.errors import LakeError
from kalshilab.tape import Lake
from kalshilab.tape.lake import parquet, timestamps
from kalshilab.tape.lake.manifest import load
from kalshilab.tape.lake.row_groups import FileSlice, plan, read_slice
from kalshilab.tape.lake.timestamps import TIME_BYTES, TimestampAudit, TimestampReader, timestamps_lie_at

GROUP = 500
TAPE = kl.sample()[0].head(4_000)
TIMES = TAPE["ts"].dt.epoch("us").to_numpy()


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Return a lake of the sample with many row groups a day."""
    for module in ("timestamps", "row_groups", "transaction"):
        monkeypatch.setattr(f"kalshilab.tape.lake.{module}.ROW_GROUP", GROUP)
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE)
    assert sum(len(file.times_at) for file in lake.files) >= len(TAPE) // GROUP
    return lake


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.sets(st.integers(0, len(TAPE) - 1)), cut=st.integers(1, 4), known=st.booleans())
def test_timestamps_of_any_rows_equal_the_tape(lake: Lake, rows: set[int], cut: int, known: bool) -> None:
    files = lake.files
    if not known:
        files = tuple(msgspec.structs.replace(file, times_at=()) for file in files)
    reader, at, first = TimestampReader(lake.path), np.array(sorted(rows), np.int64), 0
    for parts in plan(files, cut * GROUP):
        end = first + sum(part.rows for part in parts)
        own = at[(at >= first) & (at < end)]
        assert np.array_equal(reader.of(parts, own - first), TIMES[own])
        first = end
    assert first == len(TAPE)


def whole(lake: Lake, number: int = 0) -> list[FileSlice]:
    return [FileSlice(lake.files[number], 0, lake.files[number].rows)]


def test_a_flipped_bit_is_detected(lake: Lake) -> None:
    file = lake.files[0]
    data = bytearray(file.path.read_bytes())
    data[file.times_at[1] + 8 * 3] ^= 1
    file.path.write_bytes(data)
    reader = TimestampReader(lake.path)
    assert reader.of(whole(lake), np.array([3]))[0] == TIMES[3], "another row group"
    with pytest.raises(LakeError, match="has other times than were written") as caught:
        reader.of(whole(lake), np.array([GROUP + 400]))
    assert caught.value.file == file.path
    assert "kalshilab doctor" in str(caught.value)


def test_a_truncated_or_missing_file_raises(lake: Lake) -> None:
    file, reader = lake.files[0], TimestampReader(lake.path)
    data = file.path.read_bytes()
    file.path.write_bytes(data[: file.times_at[1] + 80])
    with pytest.raises(LakeError, match="ends before its times do"):
        reader.of(whole(lake), np.array([GROUP + 1]))
    file.path.unlink()
    with pytest.raises(LakeError, match="cannot be read"):
        reader.of(whole(lake), np.array([0]))


class Slow(io.FileIO):
    """A file that returns short reads, as some network file systems do."""

    def readinto(self, buffer: Any) -> int | None:
        return super().readinto(memoryview(buffer).cast("B")[:1000])


class Remote:
    """The path of such a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, mode: str, buffering: int = -1) -> Any:
        return io.BufferedReader(Slow(self.path)) if buffering else Slow(self.path)


def test_short_reads_are_repeated(lake: Lake) -> None:
    file = lake.files[0]
    remote: Any = SimpleNamespace(
        path=Remote(file.path), rows=file.rows, totals=file.totals, times_at=file.times_at
    )
    assert (
        TimestampReader(lake.path).of([FileSlice(remote, 0, remote.rows)], np.array([GROUP + 7]))[0]
        == TIMES[GROUP + 7]
    )


def test_without_checksums_offsets_are_not_used(lake: Lake) -> None:
    file = lake.files[0]
    bare = msgspec.structs.replace(file, totals=None, times_at=tuple(at + 1 for at in file.times_at))
    assert TimestampReader(lake.path).of([FileSlice(bare, 0, bare.rows)], np.array([7]))[0] == TIMES[7]


def test_decoded_timestamps_are_read_in_one_call(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of other programs may be much larger: read in portions, each would be decoded several times."""
    file = lake.files[0]
    requested: list[FileSlice] = []

    def read(root: Path, part: FileSlice, columns: list[str]) -> pl.DataFrame:
        requested.append(part)
        return read_slice(root, part, columns)

    monkeypatch.setattr(timestamps, "read_slice", read)
    at = np.array([GROUP + 3, GROUP + 9, 3 * GROUP])
    for totals in (file.totals, None):
        bare = msgspec.structs.replace(file, totals=totals, times_at=())
        assert np.array_equal(TimestampReader(lake.path).of([FileSlice(bare, 0, bare.rows)], at), TIMES[at])
        assert [(part.offset, part.rows) for part in requested] == [(GROUP, 3 * GROUP)]
        requested.clear()


def test_nulls_are_detected_in_a_lake_without_timestamp_checksums(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE)
    manifest, begin = load(lake.path), lake.files[0].times_at[0]
    days = tuple(
        msgspec.structs.replace(day, times_at=(), totals=msgspec.structs.replace(day.totals, ts=()))
        for day in manifest.days
    )
    (lake.path / "manifest.json").write_bytes(msgspec.structs.replace(manifest, days=days).encoded())
    data = bytearray(lake.files[0].path.read_bytes())
    # The last byte before the values is the definition level: no nulls.
    data[begin - 1] ^= 1
    lake.files[0].path.write_bytes(data)
    with pytest.raises(LakeError, match="has nulls in ts"):
        kl.signals.scan(lake.path, kl.signals.Rlm(min_trades=3, min_drop=1))
    with pytest.raises(LakeError, match="has nulls in ts"):
        kl.signals.scan(lake.path, kl.signals.Burst())


def test_offsets_are_verified_before_they_are_recorded(lake: Lake, tmp_path: Path) -> None:
    file = lake.files[0]
    assert parquet.plain_at(file.path, "ts", TIME_BYTES) == file.times_at
    own = TIMES[: file.rows]
    assert timestamps_lie_at(file.path, file.times_at, own)
    assert not timestamps_lie_at(file.path, file.times_at[:-1], own)
    assert not timestamps_lie_at(file.path, [at + 8 for at in file.times_at], own)
    other = tmp_path / "packed.parquet"
    TAPE.write_parquet(other, row_group_size=GROUP)
    assert not timestamps_lie_at(other, parquet.plain_at(other, "ts", TIME_BYTES), TIMES)


def test_a_lake_without_offsets_gives_the_same_fires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "plain_at", lambda *a: (4,))
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE)
    assert not lake.files[0].times_at
    assert not lake.doctor()
    fires = kl.signals.scan(lake, kl.signals.Rlm(min_trades=5))
    assert fires.height
    assert fires.equals(kl.signals.rlm(TAPE, min_trades=5))


def test_the_doctor_detects_wrong_offsets(lake: Lake) -> None:
    manifest = load(lake.path)
    first = manifest.days[0]
    wrong = msgspec.structs.replace(first, times_at=tuple(at + 8 for at in first.times_at))
    data = msgspec.structs.replace(manifest, days=(wrong, *manifest.days[1:])).encoded()
    for name in ("manifest.json", f"manifest-{manifest.generation}.json"):
        (lake.path / name).write_bytes(data)
    assert "does not have its times at the offsets" in str(Lake.open(lake.path).doctor())


def test_rows_added_in_portions_are_compared(lake: Lake) -> None:
    file = lake.files[0]
    audit = TimestampAudit(lake.path, file, 0)
    for at in range(0, file.rows, 77):
        audit.add(TAPE["ts"].slice(at, min(77, file.rows - at)))
    with pytest.raises(LakeError, match="other times"):
        TimestampAudit(lake.path, file, 0).add(TAPE["ts"].slice(1, GROUP))
    with pytest.raises(LakeError, match="nulls in ts"):
        TimestampAudit(lake.path, file, 0).add(TAPE["ts"].head(1).extend_constant(None, 1))


def test_timestamps_at_known_offsets_are_not_decoded(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("kalshilab.tape.lake.timestamps.read_slice", decoded)
    assert TimestampReader(lake.path).of(whole(lake), np.array([7]))[0] == TIMES[7]
