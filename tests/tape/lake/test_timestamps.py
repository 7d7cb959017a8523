"""Times of single rows are those of the tape, wherever they are read from, or the file is named."""

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
from kalshilab.tape.lake import fs, timestamps
from kalshilab.tape.lake.manifest import load
from kalshilab.tape.lake.row_groups import Piece, plan, read_piece
from kalshilab.tape.lake.timestamps import TIME_BYTES, TimesAt, TimesAudit, lie_at

GROUP = 500
TAPE = kl.sample()[0].head(4_000)
TIMES = TAPE["ts"].dt.epoch("us").to_numpy()


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """The sample with many row groups a day."""
    for module in ("timestamps", "manifest", "transaction"):
        monkeypatch.setattr(f"kalshilab.tape.lake.{module}.ROW_GROUP", GROUP)
    made = Lake.create(tmp_path / "lake")
    made.append(TAPE)
    assert sum(len(file.times_at) for file in made.files) >= len(TAPE) // GROUP
    return made


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.sets(st.integers(0, len(TAPE) - 1)), cut=st.integers(1, 4), known=st.booleans())
def test_they_are_those_of_the_tape(lake: Lake, rows: set[int], cut: int, known: bool) -> None:
    files = lake.files
    if not known:
        files = tuple(msgspec.structs.replace(file, times_at=()) for file in files)
    read, at, first = TimesAt(lake.path), np.array(sorted(rows), np.int64), 0
    for pieces in plan(files, cut * GROUP):
        end = first + sum(piece.rows for piece in pieces)
        own = at[(at >= first) & (at < end)]
        assert np.array_equal(read.of(pieces, own - first), TIMES[own])
        first = end
    assert first == len(TAPE)


def whole(lake: Lake, number: int = 0) -> list[Piece]:
    return [Piece(lake.files[number], 0, lake.files[number].rows)]


def test_a_bit_that_flipped_is_found(lake: Lake) -> None:
    file = lake.files[0]
    data = bytearray(file.path.read_bytes())
    data[file.times_at[1] + 8 * 3] ^= 1
    file.path.write_bytes(data)
    read = TimesAt(lake.path)
    assert read.of(whole(lake), np.array([3]))[0] == TIMES[3], "another row group"
    with pytest.raises(LakeError, match="has other times than were written") as caught:
        read.of(whole(lake), np.array([GROUP + 400]))
    assert caught.value.file == file.path
    assert "kalshilab doctor" in str(caught.value)


def test_a_file_that_is_cut_or_gone(lake: Lake) -> None:
    file, read = lake.files[0], TimesAt(lake.path)
    data = file.path.read_bytes()
    file.path.write_bytes(data[: file.times_at[1] + 80])
    with pytest.raises(LakeError, match="ends before its times do"):
        read.of(whole(lake), np.array([GROUP + 1]))
    file.path.unlink()
    with pytest.raises(LakeError, match="cannot be read"):
        read.of(whole(lake), np.array([0]))


class Slow(io.FileIO):
    """Gives fewer bytes at a time than it is asked for, as some network file systems do."""

    def readinto(self, room: Any) -> int | None:
        return super().readinto(memoryview(room).cast("B")[:1000])


class Remote:
    """The path of a file that is such."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, mode: str, buffering: int = -1) -> Any:
        return io.BufferedReader(Slow(self.path)) if buffering else Slow(self.path)


def test_a_file_system_that_gives_less_than_it_was_asked_for(lake: Lake) -> None:
    file = lake.files[0]
    far = SimpleNamespace(path=Remote(file.path), rows=file.rows, totals=file.totals, times_at=file.times_at)
    assert TimesAt(lake.path).of([Piece(far, 0, far.rows)], np.array([GROUP + 7]))[0] == TIMES[GROUP + 7]


def test_without_totals_nothing_is_taken_on_trust(lake: Lake) -> None:
    """Places that no totals vouch for are not read from."""
    file = lake.files[0]
    bare = msgspec.structs.replace(file, totals=None, times_at=tuple(at + 1 for at in file.times_at))
    assert TimesAt(lake.path).of([Piece(bare, 0, bare.rows)], np.array([7]))[0] == TIMES[7]


def test_what_is_decoded_is_read_at_once(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of others may be much larger than ours: portion by portion each would be decoded again and again."""
    file = lake.files[0]
    asked: list[Piece] = []

    def read(root: Path, piece: Piece, columns: list[str]) -> pl.DataFrame:
        asked.append(piece)
        return read_piece(root, piece, columns)

    monkeypatch.setattr(timestamps, "read_piece", read)
    at = np.array([GROUP + 3, GROUP + 9, 3 * GROUP])
    for totals in (file.totals, None):
        bare = msgspec.structs.replace(file, totals=totals, times_at=())
        assert np.array_equal(TimesAt(lake.path).of([Piece(bare, 0, bare.rows)], at), TIMES[at])
        assert [(piece.offset, piece.rows) for piece in asked] == [(GROUP, 3 * GROUP)]
        asked.clear()


def test_nulls_are_found_in_a_lake_of_before(tmp_path: Path) -> None:
    """No totals vouch for its times, but a hole is none."""
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE)
    manifest, begin = load(lake.path), lake.files[0].times_at[0]
    days = tuple(
        msgspec.structs.replace(day, times_at=(), totals=msgspec.structs.replace(day.totals, ts=()))
        for day in manifest.days
    )
    (lake.path / "manifest.json").write_bytes(msgspec.structs.replace(manifest, days=days).encoded())
    data = bytearray(lake.files[0].path.read_bytes())
    # The last byte before the values says that all of them are there.
    data[begin - 1] ^= 1
    lake.files[0].path.write_bytes(data)
    with pytest.raises(LakeError, match="has nulls in ts"):
        kl.signals.scan(lake.path, kl.signals.Rlm(min_trades=3, min_drop=1))
    with pytest.raises(LakeError, match="has nulls in ts"):
        kl.signals.scan(lake.path, kl.signals.Burst())


def test_where_they_lie_is_tried_before_it_is_written_down(lake: Lake, tmp_path: Path) -> None:
    file = lake.files[0]
    assert fs.plain_at(file.path, "ts", TIME_BYTES) == file.times_at
    own = TIMES[: file.rows]
    assert lie_at(file.path, file.times_at, own)
    assert not lie_at(file.path, file.times_at[:-1], own)
    assert not lie_at(file.path, [at + 8 for at in file.times_at], own)
    other = tmp_path / "packed.parquet"
    TAPE.write_parquet(other, row_group_size=GROUP)
    assert not lie_at(other, fs.plain_at(other, "ts", TIME_BYTES), TIMES)


def test_a_layout_that_is_not_ours_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fs, "plain_at", lambda *a: (4,))
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE)
    assert not lake.files[0].times_at
    assert not lake.doctor()
    fires = kl.signals.scan(lake, kl.signals.Rlm(min_trades=5))
    assert fires.height
    assert fires.equals(kl.signals.rlm(TAPE, min_trades=5))


def test_a_manifest_that_says_another_place_is_found_by_the_doctor(lake: Lake) -> None:
    manifest = load(lake.path)
    first = manifest.days[0]
    wrong = msgspec.structs.replace(first, times_at=tuple(at + 8 for at in first.times_at))
    data = msgspec.structs.replace(manifest, days=(wrong, *manifest.days[1:])).encoded()
    for name in ("manifest.json", f"manifest-{manifest.generation}.json"):
        (lake.path / name).write_bytes(data)
    assert "times lie where they do not" in str(Lake.open(lake.path).doctor())


def test_rows_added_piece_by_piece_are_compared(lake: Lake) -> None:
    file = lake.files[0]
    audit = TimesAudit(lake.path, file, 0)
    for at in range(0, file.rows, 77):
        audit.add(TAPE["ts"].slice(at, min(77, file.rows - at)))
    with pytest.raises(LakeError, match="other times"):
        TimesAudit(lake.path, file, 0).add(TAPE["ts"].slice(1, GROUP))
    with pytest.raises(LakeError, match="nulls in ts"):
        TimesAudit(lake.path, file, 0).add(TAPE["ts"].head(1).extend_constant(None, 1))


def test_what_lies_in_known_places_is_not_decoded(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*given: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("kalshilab.tape.lake.timestamps.read_piece", decoded)
    assert TimesAt(lake.path).of(whole(lake), np.array([7]))[0] == TIMES[7]
