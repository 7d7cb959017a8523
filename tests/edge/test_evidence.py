"""What a verdict rests on: the same from a frame, a lake and the path of one."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge import evidence
from kalshilab.errors import EdgeError
from kalshilab.tape.lake import Lake

TAPE, MARKETS = kl.synth.martingale(n_markets=60, seed=4)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    made = Lake.create(tmp_path / "lake")
    made.append(TAPE, MARKETS)
    return made


def test_a_lake_brings_its_own_markets(lake: Lake) -> None:
    for given in (lake, str(lake.path), lake.path):
        tape, markets = evidence.tables(given, None)
        assert tape.rows == TAPE.height and markets.height == MARKETS.height
    with pytest.raises(EdgeError, match="give markets="):
        evidence.tables(TAPE, None)
    frame, markets = evidence.tables(TAPE.to_pandas(), MARKETS.to_pandas())
    assert frame["price"].to_list() == TAPE["price"].to_list() and markets.height == MARKETS.height


def test_a_small_lake_is_read_once_and_a_large_one_is_not(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert evidence.in_memory(lake).height == TAPE.height and evidence.in_memory(TAPE) is TAPE
    monkeypatch.setattr(evidence, "EXCERPT", TAPE.height - 1)
    assert evidence.in_memory(lake) is lake
    assert evidence.excerpt(lake, MARKETS)[0].height == TAPE.height - 1
    assert evidence.excerpt(TAPE, MARKETS)[0] is TAPE


def test_the_horizon_is_the_expected_close_s() -> None:
    at: datetime = TAPE["ts"][0]
    markets = MARKETS.with_columns(expected_close_ts=pl.lit(at + timedelta(days=3)).cast(MARKETS.schema["close_ts"]))  # fmt: skip
    entries = TAPE.select("ts", "ticker").head(5)
    assert evidence.with_horizon(entries, markets)["horizon"][0] == pytest.approx(3.0)
    unknown = markets.with_columns(expected_close_ts=pl.lit(None, markets.schema["close_ts"]))
    assert "horizon" not in evidence.with_horizon(entries, unknown).columns
