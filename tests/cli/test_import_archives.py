"""`kalshilab import`, and `kalshilab doctor` over the lake that it fills."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.__main__ import main


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Write the sample in the layout of a public archive and return its path."""
    tape, _ = kl.sample()
    path = tmp_path / "trades.csv"
    tape.select(
        "ticker",
        (pl.col("price") / 100).alias("yes_price"),
        (100 - pl.col("price") / 100).alias("no_price"),
        (pl.col("size") / 100).alias("count"),
        pl.col("taker").cast(pl.String).alias("taker_side"),
        pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").alias("created_time"),
        "trade_id",
    ).write_csv(path)
    return path


def test_an_imported_archive_scans_like_the_tape_it_came_from(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake, (tape, markets) = tmp_path / "lake", kl.sample()
    table = tmp_path / "markets.parquet"
    markets.write_parquet(table)
    assert main(["import", str(archive), "--out", str(lake), "--markets", str(table)]) == 0
    assert f"{tape.height:,} prints read, {tape.height:,} new" in capsys.readouterr().out
    assert main(["import", str(archive), "--out", str(lake)]) == 0
    assert " 0 new" in capsys.readouterr().out
    assert main(["doctor", str(lake)]) == 0
    out = capsys.readouterr().out
    assert f"{tape.height:,} prints of {tape['ticker'].n_unique():,} markets" in out
    assert "no damage" in out
    fires = kl.signals.scan(lake, kl.signals.Rlm())
    assert fires.equals(kl.signals.rlm(tape))
    source = kl.scan_tape(lake)
    assert source.markets.sort("ticker").equals(
        markets.filter(pl.col("ticker").is_in(tape["ticker"])).sort("ticker")
    )


def test_doctor_finds_damage_and_repairs_it(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = tmp_path / "lake"
    assert main(["import", str(archive), "--out", str(lake)]) == 0
    victim = kl.scan_tape(lake).files[0].path
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    victim.write_bytes(raw)
    capsys.readouterr()
    assert main(["doctor", str(lake)]) == 1
    out = capsys.readouterr().out
    assert victim.name in out
    assert "--repair" in out
    assert main(["doctor", str(lake), "--repair"]) == 0
    assert main(["doctor", str(lake)]) == 0
    # A lake that cannot be opened can still be checked and repaired.
    (lake / "manifest.json").write_text("{}")
    assert main(["doctor", str(lake)]) == 1
    assert "--repair" in capsys.readouterr().out
    assert main(["doctor", str(lake), "--repair"]) == 0
    assert "manifest" in capsys.readouterr().out
    assert kl.scan_tape(lake).rows > 0


def test_an_invalid_request_is_one_sentence_and_leaves_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, words in (
        (["import", str(tmp_path / "none.csv")], "no such file or folder"),
        (["doctor", str(tmp_path / "none")], "none"),
        (["doctor", "--repair"], "--repair needs a lake"),
        (["download", "--since", "yesterday", "--out", str(tmp_path / "l")], "not an instant"),
        (["download", "--since", "2999-01-01", "--out", str(tmp_path / "l")], "since"),
        (["download", "--since", "2026-01-01", "--until", "2026-01-02", "--url", "https://example.com/trade-api/v2",
          "--out", str(tmp_path / "l")], "example.com"),
    ):  # fmt: skip
        assert main(arguments) in (1, 2), arguments
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1
        assert not any(tmp_path.iterdir()), "no file is left behind"


def test_a_table_of_markets_must_be_parquet_or_csv(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "markets.json"
    table.write_text('{"markets": []}')
    assert main(["import", str(table), "--markets", str(table), "--out", str(tmp_path / "l")]) == 2
    assert f"--markets must be a Parquet or CSV file, got {table}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (OSError(30, "Read-only file system", "lake/.lock"), "lake/.lock: Read-only file system"),
        (
            OSError("Error writing bytes to file. No space left on device"),
            "Error writing bytes to file. No space",
        ),
    ],
)
def test_a_full_or_read_only_disk_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    printed: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kalshilab.tape.ingest.archives.import_archive", fails)
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "lake")]) == 1
    assert capsys.readouterr().err.startswith(f"kalshilab import: {printed}")
