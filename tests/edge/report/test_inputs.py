"""Inputs of `validate`: the same from a frame, a lake and the path of a lake."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.report import inputs
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.tape import FrameTape

TAPE, MARKETS = kl.synth.martingale(n_markets=60, seed=4)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake.create(tmp_path / "lake")
    made.append(TAPE, MARKETS)
    return made


def test_a_lake_supplies_its_stored_markets(lake: Lake) -> None:
    for given in (lake, str(lake.path), lake.path):
        tape, markets = inputs.tables(given, None)
        assert tape.rows == TAPE.height and markets.height == MARKETS.height
    with pytest.raises(EdgeError, match="pass markets="):
        inputs.tables(TAPE, None)
    frame, markets = inputs.tables(TAPE.to_pandas(), MARKETS.to_pandas())
    assert frame.frame["price"].to_list() == TAPE["price"].to_list() and markets.height == MARKETS.height


def test_a_small_lake_is_loaded_into_memory_and_a_large_one_is_not(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = FrameTape.of(TAPE)
    assert inputs.loaded_tape(lake).in_memory and inputs.loaded_tape(frame) is frame
    monkeypatch.setattr(inputs, "EXCERPT", TAPE.height - 1)
    assert inputs.loaded_tape(lake) is lake
    assert lake.excerpt(TAPE.height - 1).rows == TAPE.height - 1
    assert frame.excerpt(1) is frame


def test_the_horizon_is_the_time_to_the_expected_close() -> None:
    at: datetime = TAPE["ts"][0]
    markets = MARKETS.with_columns(expected_close_ts=pl.lit(at + timedelta(days=3)).cast(MARKETS.schema["close_ts"]))  # fmt: skip
    entries = TAPE.select("ts", "ticker").head(5)
    assert inputs.with_horizon(entries, markets)["horizon"][0] == pytest.approx(3.0)
    unknown = markets.with_columns(expected_close_ts=pl.lit(None, markets.schema["close_ts"]))
    assert "horizon" not in inputs.with_horizon(entries, unknown).columns


WIDE = TAPE.with_columns(
    pl.col("market", "price", "size").cast(pl.Int64), pl.col("ts").cast(pl.Datetime("ns", "UTC"))
)


@pytest.mark.parametrize(
    "same",
    [
        WIDE,
        WIDE.to_pandas(),
        TAPE.with_columns(pl.col("ts").dt.convert_time_zone("America/New_York")),
        TAPE.with_columns(pl.col("ts").dt.replace_time_zone(None)),
    ],
)
def test_equivalent_tapes_are_converted_to_the_same_dtypes(same: Any) -> None:
    own, _ = inputs.tables(same, MARKETS)
    assert own.frame.drop("trade_id").equals(TAPE.drop("trade_id"))


def test_a_filtered_tape_keeps_its_codes_and_an_empty_one_is_rejected() -> None:
    part = TAPE.filter(pl.col("market") % 3 == 2)
    assert inputs.tables(part, MARKETS)[0].frame["market"].equals(part["market"])
    with pytest.raises(EdgeError, match="tape must have prints, got an empty one; was it filtered"):
        kl.validate(kl.signals.Rlm(), TAPE.filter(pl.col("ticker") == "NONE"), MARKETS)
