"""Every row is in one piece, and files are cut at borders of row groups only."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshilab.errors import LakeError
from kalshilab.tape.pieces import Piece, plan, read_piece


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), max_size=8), st.integers(1, 30))
def test_a_plan_has_every_row_once_and_cuts_at_multiples(lengths: list[int], rows: int) -> None:
    files = [SimpleNamespace(name=i, rows=n) for i, n in enumerate(lengths)]
    planned = list(plan(files, rows))
    assert all(0 < sum(p.rows for p in pieces) <= rows for pieces in planned)
    seen = [(p.file.name, p.offset + k) for pieces in planned for p in pieces for k in range(p.rows)]
    assert seen == [(f.name, k) for f in files for k in range(f.rows)]
    assert all(p.offset % rows == 0 for pieces in planned for p in pieces)


def test_a_piece_is_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"a": range(100), "b": range(100, 200)}).write_parquet(path, row_group_size=7)
    assert read_piece(tmp_path, Piece(SimpleNamespace(path=path), 30, 5), ["b"])["b"].to_list() == [
        130, 131, 132, 133, 134,
    ]  # fmt: skip


@pytest.mark.parametrize("column", ["b", "a"])
def test_a_file_that_cannot_be_decoded_is_named(tmp_path: Path, column: str) -> None:
    path = tmp_path / "x.parquet"
    pl.DataFrame({"a": [1, 2, 3]}).write_parquet(path)
    if column == "a":
        path.write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    with pytest.raises(LakeError, match=r"x\.parquet: cannot be read"):
        read_piece(tmp_path, Piece(SimpleNamespace(path=path), 0, 3), [column])
