"""Reading ahead: every row once and in order; data that differ from the control totals raise an error."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

import kalshilab as kl
from kalshilab.errors import LakeError
from kalshilab.tape.lake.checksums import total_of
from kalshilab.tape.lake.row_groups import Checksums
from kalshilab.tape.lake.source import batches

COLUMNS = ["market", "price", "size", "taker"]


def totals(tape: pl.DataFrame) -> Any:
    physical = tape.with_columns(pl.col("taker").to_physical())
    sums = {name: total_of(name, physical[name].to_numpy()) for name in COLUMNS}
    return SimpleNamespace(
        **{name: sums[name] for name in COLUMNS[:3]}, yes=sums["taker"], ts=Checksums.of(tape).ts
    )


class Days:
    """A source that consists of the sample, split into files."""

    def __init__(self, folder: Path, lengths: list[int]) -> None:
        tape = kl.sample()[0].head(sum(lengths))
        self.path, self.tape, self.checked = folder, tape, 0
        self.files: list[Any] = []
        first = 0
        for number, rows in enumerate(lengths):
            part = tape.slice(first, rows)
            path = folder / f"{number:03}.parquet"
            part.write_parquet(path, row_group_size=7)
            self.files.append(
                SimpleNamespace(path=path, rows=rows, first_row=first, totals=totals(part), times_at=())
            )
            first += rows
        self.rows = first
        self.tickers = tape["ticker"].unique(maintain_order=True)
        self.listing = pl.DataFrame()

    def check_origin(self, file: Any) -> None:
        self.checked += 1


def test_control_totals_are_sums_of_the_columns(tmp_path: Path) -> None:
    tape = kl.sample()[0]
    t = totals(tape)
    assert t.market == tape["market"].cast(pl.Int64).sum()
    assert (t.price, t.size) == (tape["price"].cast(pl.Int64).sum(), tape["size"].cast(pl.Int64).sum())
    assert t.yes == (tape["taker"] == "yes").sum()
    assert total_of("market", np.full(3, 2**32 - 1, np.uint32)) == 3 * (2**32 - 1)


@pytest.mark.parametrize("rows", [1, 10, 64, 10_000])
@pytest.mark.parametrize("lengths", [[], [1], [100], [30, 1, 1, 64, 200], [5] * 20])
def test_batches_contain_every_row_once_in_order(tmp_path: Path, lengths: list[int], rows: int) -> None:
    source = Days(tmp_path, lengths)
    got = list(batches(source, COLUMNS, rows=rows))
    assert pl.concat([source.tape.head(0).select(COLUMNS), *(b.frame for b in got)]).equals(
        source.tape.select(COLUMNS)
    )
    assert [b.first_row for b in got] == [sum(x.frame.height for x in got[:k]) for k in range(len(got))]
    assert source.checked == len(lengths)


def test_times_are_returned_for_the_requested_rows(tmp_path: Path) -> None:
    source = Days(tmp_path, [50, 3, 80])
    expected = source.tape["ts"].dt.epoch("us").to_numpy()
    requests = []
    for batch in batches(source, COLUMNS, rows=60):
        at = np.unique(np.array([0, batch.frame.height // 2, batch.frame.height - 1]))
        requests.append((batch.first_row + at, batch.times(at)))
    assert all((future.result() == expected[rows]).all() for rows, future in requests)


def test_columns_added_while_reading_are_in_later_batches(tmp_path: Path) -> None:
    names = ["market", "price"]
    widths = []
    for batch in batches(Days(tmp_path, [100]), names, rows=10):
        widths.append(batch.frame.width)
        if len(names) == 2:
            names.append("ts")
    assert widths[0] == 2
    assert widths[-1] == 3


def test_a_reader_closed_early_leaves_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    reading = batches(Days(tmp_path, [100]), COLUMNS, rows=10)
    next(iter(reading))
    reading.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("column", COLUMNS)
def test_a_file_with_another_total_is_named(tmp_path: Path, column: str) -> None:
    source = Days(tmp_path, [50, 50])
    victim = source.files[1].path
    changed = pl.read_parquet(victim)
    if column == "taker":
        other = (
            pl.when(pl.col("taker") == "yes")
            .then(pl.lit("no"))
            .otherwise(pl.lit("yes"))
            .cast(changed.schema["taker"])
        )
        changed = changed.with_columns(
            pl.when(pl.int_range(pl.len()) == 3).then(other).otherwise(pl.col("taker")).alias("taker")
        )
    else:
        dtype = changed.schema[column]
        changed = changed.with_columns(
            (pl.col(column) + (pl.int_range(pl.len()) == 3).cast(dtype)).cast(dtype)
        )
    changed.write_parquet(victim)
    with pytest.raises(LakeError, match=f"{victim.name}: column {column} adds up to") as caught:
        list(batches(source, COLUMNS))
    assert caught.value.file == victim
    assert "kalshilab doctor" in str(caught.value)
    others = [c for c in COLUMNS if c != column]
    assert sum(b.frame.height for b in batches(source, others)) == 100, (
        "only columns that are read are compared"
    )


@pytest.mark.parametrize("group", [7, 50, 1 << 18])
def test_times_that_differ_from_those_written_are_detected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: int
) -> None:
    for module in ("timestamps", "row_groups"):
        monkeypatch.setattr(f"kalshilab.tape.lake.{module}.ROW_GROUP", group)
    source = Days(tmp_path, [50, 50])
    assert len(source.files[0].totals.ts) == -(-50 // group)
    assert sum(b.frame.height for b in batches(source, [*COLUMNS, "ts"], rows=20)) == 100, (
        "unchanged files are accepted"
    )
    victim = source.files[1].path
    later = pl.when(pl.int_range(pl.len()) == 3).then(pl.duration(microseconds=1)).otherwise(pl.duration())
    pl.read_parquet(victim).with_columns(pl.col("ts") + later).write_parquet(victim)
    with pytest.raises(LakeError, match=f"{victim.name}: has other times than were written"):
        list(batches(source, [*COLUMNS, "ts"], rows=20))
    requests = [batch.times(np.array([3])) for batch in batches(source, COLUMNS, rows=50)]
    with pytest.raises(LakeError, match=f"{victim.name}: has other times"):
        requests[1].result()
    source.files[1].totals.ts = ()
    assert sum(b.frame.height for b in batches(source, ["ts"])) == 100, "an older lake has no such totals"


def test_an_unreadable_or_shortened_file_is_named(tmp_path: Path) -> None:
    source = Days(tmp_path, [50, 50, 50])
    source.files[1].path.unlink()
    with pytest.raises(LakeError, match=r"001\.parquet: cannot be read"):
        list(batches(source, COLUMNS))
    source = Days(tmp_path, [50, 50, 50])
    raw = source.files[2].path.read_bytes()
    source.files[2].path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(LakeError, match=r"002\.parquet: cannot be read"):
        list(batches(source, COLUMNS))
    source = Days(tmp_path, [50, 50])
    source.tape.head(40).write_parquet(source.files[0].path)
    with pytest.raises(LakeError, match=r"000\.parquet: gave 40 rows where 50"):
        list(batches(source, COLUMNS))
