"""Every row is in one piece, and files are cut at borders of row groups only."""

from __future__ import annotations

import resource
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kalshilab as kl
import kalshilab.tape.lake.row_groups as pieces_module
from kalshilab.errors import LakeError
from kalshilab.tape.lake.row_groups import Piece, plan, read_piece, read_pieces

TAPE = kl.sample()[0].head(1000)
COLUMNS = ["market", "price", "taker"]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30))
def test_a_plan_has_every_row_once_and_cuts_at_multiples(lengths: list[int], rows: int) -> None:
    files = [SimpleNamespace(name=i, rows=n) for i, n in enumerate(lengths)]
    planned = list(plan(files, rows))
    assert all(0 < sum(p.rows for p in pieces) <= rows for pieces in planned)
    seen = [(p.file.name, p.offset + k) for pieces in planned for p in pieces for k in range(p.rows)]
    assert seen == [(f.name, k) for f in files for k in range(f.rows)]
    assert all(p.offset % rows == 0 for pieces in planned for p in pieces)


@pytest.fixture
def files(tmp_path: Path) -> list[Any]:
    """Files of 1 to 40 rows of the sample."""
    made: list[Any] = []
    first = 0
    for rows in (40, 1, 7, 30, 2, 2):
        path = tmp_path / f"{len(made)}.parquet"
        TAPE.slice(first, rows).write_parquet(path, row_group_size=7)
        made.append(SimpleNamespace(path=path, rows=rows, first=first))
        first += rows
    return made


def rows_of(piece: Piece) -> pl.DataFrame:
    return TAPE.slice(piece.file.first + piece.offset, piece.rows)


@pytest.mark.parametrize("rows", [1, 3, 10, 40, 1000])
def test_pieces_are_their_rows(tmp_path: Path, files: list[Any], rows: int) -> None:
    for pieces in plan(files, rows):
        expected = pl.concat([rows_of(piece) for piece in pieces]).select(COLUMNS)
        assert read_pieces(tmp_path, pieces, COLUMNS).equals(expected)
        for piece in pieces:
            assert read_piece(tmp_path, piece, COLUMNS).equals(rows_of(piece).select(COLUMNS))


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "more", "fewer", "retyped", "without"])
def test_a_file_that_is_not_what_it_was_is_named(tmp_path: Path, files: list[Any], damage: str) -> None:
    """Also among others that are read with it in one call."""
    path = files[2].path
    rows = pl.read_parquet(path)
    if damage == "gone":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        changed = {
            "more": pl.concat([rows, rows.head(1)]),
            "fewer": rows.head(6),
            "retyped": rows.with_columns(pl.col("price").cast(pl.Int32)),
            "without": rows.drop("price"),
        }
        changed[damage].write_parquet(path)
    said = {
        "more": "gave 8 rows where 7 of its 7",
        "fewer": "gave 6 rows",
        "retyped": "has another schema: price Int32",
    }
    for rows_a_batch in (7, 1000):
        with pytest.raises(LakeError, match=said.get(damage, "cannot be read")) as caught:
            for pieces in plan(files, rows_a_batch):
                read_pieces(tmp_path, pieces, COLUMNS)
        assert caught.value.file == path


def test_many_files_need_few_handles(tmp_path: Path) -> None:
    """Thousands of small days are read in one call, and a process may have 256 files open on some systems."""
    made = []
    for number in range(400):
        path = tmp_path / f"{number}.parquet"
        TAPE.slice(number, 1).write_parquet(path)
        made.append(SimpleNamespace(path=path, rows=1, first=number))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        (pieces,) = plan(made, 1000)
        assert read_pieces(tmp_path, pieces, COLUMNS).equals(TAPE.head(400).select(COLUMNS))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whole_files_are_read_in_one_call(
    tmp_path: Path, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_by_one(*given: Any) -> None:
        raise AssertionError("read one by one")

    monkeypatch.setattr(pieces_module, "read_piece", one_by_one)
    (whole,) = plan(files, 1000)
    assert read_pieces(tmp_path, whole, COLUMNS).height == 82
