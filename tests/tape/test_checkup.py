"""A lake that was damaged says so, to whoever reads it; the doctor finds it, and a repair makes it whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from time import sleep
from typing import Any

import polars as pl
import pytest

from kalshilab import signals
from kalshilab.errors import LakeError
from kalshilab.tape import Lake, durable, sample

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
    """As many rows, of the same schema, with a price that is another: only the control totals know."""
    path = lake.files[2].path
    frame = pl.read_parquet(path, hive_partitioning=False).with_columns(pl.col("price") + 1)
    note = durable.note_of(path)
    durable.write_frame(frame, path, note=note, row_group=1 << 18)
    os.truncate(path, max(path.stat().st_size, lake.files[2].bytes))
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


def markets_cut(lake: Lake) -> Path:
    (path,) = lake.path.glob("markets-*.parquet")
    os.truncate(path, path.stat().st_size // 2)
    return path


DAMAGE = [
    cut, flipped, gone, day_gone, another_days, fewer_rows, changed_schema, other_rows,
    edited_rows, edited_totals, edited_days, garbled, markets_cut,
]  # fmt: skip


def scanned(path: Path) -> Any:
    return signals.scan(Lake.open(path), signals.Rlm(min_trades=1, min_drop=0, yes_threshold=0.0))


def read(path: Path) -> Any:
    return Lake.open(path).read()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_never_fewer_rows(lake: Lake, damage: Callable[[Lake], Path]) -> None:
    path = damage(lake)
    for reader in (read, scanned):
        if reader is read and damage is markets_cut:
            # The tape itself is whole, and tickers stand in it.
            assert read(lake.path).height == TAPE.height
            continue
        with pytest.raises(LakeError) as caught:
            reader(lake.path)
        assert "kalshilab doctor" in str(caught.value)
        assert path.name in str(caught.value) or "manifest" in str(caught.value)


@pytest.mark.parametrize("damage", DAMAGE)
def test_found_repaired_and_filled_again(lake: Lake, damage: Callable[[Lake], Path]) -> None:
    damage(lake)
    from kalshilab.tape import doctor, repair

    assert [f for f in doctor(lake.path) if f.severity == "error"]
    assert repair(lake.path), "it says what it did"
    whole = Lake.open(lake.path)
    assert not [f for f in whole.doctor() if f.severity == "error"]
    assert whole.read().height == whole.rows
    if whole.rows < TAPE.height:
        ((since, until),) = [(g.since, g.until) for g in whole.gaps()]
        assert until - since == DAY, "the day that was lost is not claimed any more"
    whole.append(TAPE, MARKETS)
    assert whole.read().drop("market", "ticker").equals(TAPE.drop("market", "ticker"))
    assert signals.scan(whole, signals.Rlm()).equals(signals.rlm(TAPE))


def test_a_reader_of_an_old_generation_is_told(lake: Lake) -> None:
    old = Lake.open(lake.path)
    later = TAPE.with_columns(pl.col("ts") + pl.duration(hours=1), pl.lit(None, pl.String).alias("trade_id"))
    lake.append(later)
    with pytest.raises(LakeError):
        old.lazy()
    assert Lake.open(lake.path).read().height == 2 * TAPE.height


# Killed


def parts() -> list[pl.DataFrame]:
    """The sample in pieces that each touch two days."""
    return [TAPE.slice(k, 1500) for k in range(0, TAPE.height, 1500)]


def state(path: Path) -> tuple[int, list[str]]:
    lake = Lake.open(path)
    assert not [f for f in lake.doctor() if f.severity == "error"]
    frame = lake.read()
    assert frame.height == lake.rows
    return lake.rows, frame["trade_id"].to_list()


@pytest.mark.parametrize("call", ["publish", "sync_folder", "write_frame", "write_bytes"])
def test_an_error_at_any_step_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    first, second = parts()[:2]
    real = getattr(durable, call)
    for k in range(40):
        path = tmp_path / f"lake-{k}"
        lake = Lake.create(path)
        lake.append(first, MARKETS)
        before = state(path)
        left = [k]

        def failing(*arguments: Any, left: list[int] = left, **more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")
            return real(*arguments, **more)

        with monkeypatch.context() as patched:
            patched.setattr(durable, call, failing)
            try:
                lake.append(second)
            except (OSError, LakeError):
                failed = True
            else:
                failed = False
        after = state(path)
        assert after == before or after[0] == before[0] + second.height
        assert Lake.open(path).append(second).added in (0, second.height)
        assert state(path)[0] == before[0] + second.height
        if not failed:
            assert k > 0, f"{call} is never called"
            return
    raise AssertionError("it never got to the end")


def test_killed_while_it_appends(tmp_path: Path) -> None:
    """A process that appends piece after piece is killed at eight moments: each piece is there or it is not."""
    path, code = tmp_path / "lake", (
        "import sys\n"
        "from kalshilab.tape import Lake, sample\n"
        "tape = sample()[0]\n"
        "lake = Lake.create(sys.argv[1])\n"
        "print('go', flush=True)\n"
        "for k in range(0, tape.height, 300):\n"
        "    lake.append(tape.slice(k, 300))\n"
    )  # fmt: skip
    chance = Random(5)
    seen = []
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            sleep(chance.uniform(0.05, 0.5))
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        rows, ids = state(path)
        assert rows % 300 == 0 or rows == TAPE.height
        assert ids == TAPE["trade_id"].head(rows).to_list()
        seen.append(rows)
    assert seen == sorted(seen) and seen[-1] > 0
    Lake.open(path).append(TAPE)
    assert state(path)[0] == TAPE.height
