"""A plan contains every row once, and files are cut at row-group boundaries only."""

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
from kalshilab.errors import LakeError
from kalshilab.tape.lake import row_groups
from kalshilab.tape.lake.row_groups import FileSlice, plan, read_slice, read_slices

TAPE = kl.sample()[0].head(1000)
COLUMNS = ["market", "price", "taker"]


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30))
def test_a_plan_has_every_row_once_and_cuts_at_multiples(lengths: list[int], rows: int) -> None:
    files: list[Any] = [SimpleNamespace(name=i, rows=n) for i, n in enumerate(lengths)]
    planned: list[list[Any]] = [list(batch) for batch in plan(files, rows)]
    assert all(0 < sum(p.rows for p in batch) <= rows for batch in planned)
    found = [(p.file.name, p.offset + k) for batch in planned for p in batch for k in range(p.rows)]
    assert found == [(f.name, k) for f in files for k in range(f.rows)]
    assert all(p.offset % rows == 0 for batch in planned for p in batch)


@pytest.fixture
def files(tmp_path: Path) -> list[Any]:
    """Write files of 1 to 40 rows of the sample."""
    written: list[Any] = []
    first = 0
    for rows in (40, 1, 7, 30, 2, 2):
        path = tmp_path / f"{len(written)}.parquet"
        TAPE.slice(first, rows).write_parquet(path, row_group_size=7)
        written.append(SimpleNamespace(path=path, rows=rows, first=first))
        first += rows
    return written


def rows_of(part: FileSlice) -> pl.DataFrame:
    file: Any = part.file
    return TAPE.slice(file.first + part.offset, part.rows)


@pytest.mark.parametrize("rows", [1, 3, 10, 40, 1000])
def test_slices_contain_their_rows(tmp_path: Path, files: list[Any], rows: int) -> None:
    for batch in plan(files, rows):
        expected = pl.concat([rows_of(part) for part in batch]).select(COLUMNS)
        assert read_slices(tmp_path, batch, COLUMNS).equals(expected)
        for part in batch:
            assert read_slice(tmp_path, part, COLUMNS).equals(rows_of(part).select(COLUMNS))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "more", "fewer", "retyped", "without"])
def test_an_error_names_the_changed_file(tmp_path: Path, files: list[Any], damage: str) -> None:
    """It does so also when several files are read in one call."""
    path = files[2].path
    rows = pl.read_parquet(path)
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        changed = {
            "more": pl.concat([rows, rows.head(1)]),
            "fewer": rows.head(6),
            "retyped": rows.with_columns(pl.col("price").cast(pl.Int32)),
            "without": rows.drop("price"),
        }
        changed[damage].write_parquet(path)
    reasons = {
        "more": "gave 8 rows where 7 of its 7",
        "fewer": "gave 6 rows",
        "retyped": "has another schema: price Int32",
    }
    for rows_a_batch in (7, 1000):
        with pytest.raises(LakeError, match=reasons.get(damage, "cannot be read")) as caught:
            for batch in plan(files, rows_a_batch):
                read_slices(tmp_path, batch, COLUMNS)
        assert caught.value.file == path


def test_many_files_need_few_handles(tmp_path: Path) -> None:
    """Thousands of small days are read in one call; some systems allow a process only 256 open files."""
    files: list[Any] = []
    for number in range(400):
        path = tmp_path / f"{number}.parquet"
        TAPE.slice(number, 1).write_parquet(path)
        files.append(SimpleNamespace(path=path, rows=1, first=number))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, hard), hard))
    try:
        (batch,) = plan(files, 1000)
        assert read_slices(tmp_path, batch, COLUMNS).equals(TAPE.head(400).select(COLUMNS))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whole_files_are_read_in_one_call(
    tmp_path: Path, files: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_by_one(*arguments: Any) -> None:
        raise AssertionError("read one by one")

    monkeypatch.setattr(row_groups, "read_slice", one_by_one)
    (whole,) = plan(files, 1000)
    assert read_slices(tmp_path, whole, COLUMNS).height == 82
