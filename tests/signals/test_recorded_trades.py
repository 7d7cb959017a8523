"""Recorded trades through importer, lake, scan and every signal."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from kalshilab import signals
from kalshilab.tape import Lake, to_tape
from kalshilab.tape.ingest.archives import import_archive

pytestmark = pytest.mark.soak

# Made when a test asks, because every worker imports this module, and making a signal compiles its step.
SIGNALS: list[tuple[type[Any], dict[str, Any]]] = [
    (signals.Rlm, {}),
    (signals.Rlm, {"rearm": True}),
    (signals.Rlm, {"rearm": "stronger"}),
    (signals.Rlm, {"flow": "contracts", "side": "yes"}),
    (signals.PriceBand, {}),
    (signals.WhaleFade, {}),
    (signals.WhaleFollow, {"top": 3}),
    (signals.LowLeverageVariance, {}),
    (signals.Steam, {}),
    (signals.Burst, {}),
    (signals.DollarDirection, {}),
    (signals.ConvictionRatio, {}),
    (signals.BuyBack, {}),
]


@pytest.fixture(scope="module")
def recorded(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, pl.DataFrame]:
    """Return the last year of the recorded trades as a lake, and as a tape by `to_tape`."""
    folder = tmp_path_factory.mktemp("recorded")
    frame = pl.read_parquet(shared / "data" / "trades_macro.parquet")
    time = frame["created_time"]
    if time.dtype == pl.String:
        time = time.str.to_datetime(time_zone="UTC")
    frame = frame.filter(time >= datetime(2025, 1, 1, tzinfo=UTC))
    frame.write_parquet(folder / "trades.parquet")
    lake = Lake.create(folder / "lake")
    done = import_archive(lake, folder / "trades.parquet")
    assert done.added == frame.height > 1000
    return lake, to_tape(frame)


def test_the_imported_lake_equals_the_tape(recorded: tuple[Lake, pl.DataFrame]) -> None:
    lake, tape = recorded
    columns = ["ts", "ticker", "price", "size", "taker", "trade_id"]
    assert lake.lazy().select(columns).collect().equals(tape.select(columns))
    assert not [f for f in lake.doctor() if f.severity == "error"]


@pytest.mark.parametrize(("kind", "parameters"), SIGNALS)
def test_scan_and_shards_produce_the_fires_of_run(
    recorded: tuple[Lake, pl.DataFrame], kind: type[Any], parameters: dict[str, Any]
) -> None:
    (lake, _), signal = recorded, kind(**parameters)
    whole = signal.run(lake.lazy().collect())
    assert whole.height > 0
    assert signals.scan(lake, signal).equals(whole)
    assert signals.scan(lake, signal, shards=3).equals(whole)
