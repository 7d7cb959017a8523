"""Data-quality summary: gaps, days without prints, and events."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import polars as pl

import kalshilab as kl
from kalshilab.edge.report.data_quality import history_of
from kalshilab.tape import Lake
from kalshilab.tape.tape import FrameTape

TAPE, MARKETS = kl.sample()
WITHOUT = TAPE.filter(~pl.col("ts").dt.date().is_in([date(2025, 6, 3), date(2025, 6, 4)]))
DAY = 86_400_000_000
FIRST = 20_240 * DAY
"""2025-06-01, the sample's first day."""


def test_days_without_prints_are_counted_for_frames_and_files(tmp_path: Path) -> None:
    WITHOUT.write_parquet(tmp_path / "tape.parquet")
    for tape in (FrameTape(WITHOUT), kl.scan_tape(tmp_path / "tape.parquet")):
        found = history_of(tape, MARKETS)
        assert found.span == "2 of 6 days without prints"
        assert found.detail.startswith("2 days without prints, the first 2025-06-03")
    assert history_of(FrameTape(TAPE), MARKETS).detail == ""
    assert history_of(FrameTape(TAPE.head(0)), MARKETS).span == "no prints"


def test_a_lake_reports_its_gaps(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.append(WITHOUT, MARKETS)
    found = history_of(lake, MARKETS)
    assert found.span == "1 gap (2.0 days) in 6 days"
    assert (
        "from 2025-06-03T00:00:00.000000Z to 2025-06-05T00:00:00.000000Z" in found.detail
        and "doctor" in found.detail
    )
    # Covered days are not gaps although they have no prints; an uncovered hour between them is a gap.
    lake.append(
        TAPE.head(0), covered=[(FIRST, FIRST + 3 * DAY), (FIRST + 3 * DAY + DAY // 24, FIRST + 6 * DAY)]
    )
    assert history_of(lake, MARKETS).span == "1 gap (1.0 hours) in 6 days"
    lake.append(TAPE.head(0), covered=[(FIRST, FIRST + 6 * DAY)])
    assert history_of(lake, MARKETS) == history_of(lake, MARKETS.head(0))
    assert (
        history_of(lake, MARKETS).span == "no known gaps in 6 days" and not history_of(lake, MARKETS).detail
    )


def test_a_separate_event_for_every_market_gives_a_warning() -> None:
    words = "every market has a separate event"
    again = MARKETS.with_columns(event="ticker")
    ladder = kl.synth.martingale(n_markets=40, seed=1, kind="ladder")[1]
    numbered = ladder.with_columns(event=pl.format("E{}", pl.int_range(pl.len())))
    for markets in (again, ladder.with_columns(event="ticker"), numbered):
        assert words in history_of(FrameTape(TAPE), markets).detail
    for markets in (MARKETS, ladder, again.head(5), kl.synth.martingale(n_markets=40, seed=1)[1]):
        assert not history_of(FrameTape(TAPE), markets).detail


def test_line_2_reports_days_without_prints_and_passes() -> None:
    tape, markets = kl.synth.martingale(n_markets=100, seed=1)
    day = tape["ts"].dt.date()[tape.height // 2]
    tape = tape.filter(pl.col("ts").dt.date() != day)
    card = kl.validate(kl.signals.Rlm(), tape, markets.with_columns(event="ticker"), audits=False)
    line = card.criterion(2)
    assert re.search(r"; [1-9]\d* of \d+ days without prints$", line.value)
    assert "without prints, the first" in line.detail and "pass event=" in line.detail
    assert line.passed is True and "gaps" not in card.summary()
