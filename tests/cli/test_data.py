"""The data commands as people run them: archives into a lake, a lake looked over, mistakes said in a sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.__main__ import main
from kalshilab.cli.data import instant_of
from kalshilab.errors import UsageError
from kalshilab.kalshi.auth import generate_key


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The sample in the layout of a public archive."""
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


def test_import_scan_doctor(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    fires = kl.signals.scan(lake, kl.signals.Rlm())
    assert fires.equals(kl.signals.rlm(tape))
    source = kl.scan_tape(lake)
    assert source.markets.sort("ticker").equals(
        markets.filter(pl.col("ticker").is_in(tape["ticker"])).sort("ticker")
    )


def test_doctor_finds_and_repairs(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    # A lake that cannot be opened is looked over and repaired all the same.
    (lake / "manifest.json").write_text("{}")
    assert main(["doctor", str(lake)]) == 1
    assert "--repair" in capsys.readouterr().out
    assert main(["doctor", str(lake), "--repair"]) == 0
    assert "put back from" in capsys.readouterr().out
    assert kl.scan_tape(lake).rows > 0


def test_mistakes_are_a_sentence_and_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["import", str(tmp_path / "none.csv")], "no such file or folder"),
        (["doctor", str(tmp_path / "none")], "none"),
        (["doctor", "--repair"], "name a lake"),
        (["download", "--since", "yesterday", "--out", str(tmp_path / "l")], "not an instant"),
        (["download", "--since", "2999-01-01", "--out", str(tmp_path / "l")], "since"),
        (["download", "--since", "2026-01-01", "--until", "2026-01-02", "--url", "https://example.com/trade-api/v2",
          "--out", str(tmp_path / "l")], "example.com"),
    ):  # fmt: skip
        assert main(arguments) in (1, 2), arguments
        error = capsys.readouterr().err
        assert words in error
        assert len(error.strip().splitlines()) == 1
        assert not any(tmp_path.iterdir()), "nothing is left behind"
    table = tmp_path / "markets.json"
    table.write_text('{"markets": []}')
    assert main(["import", str(table), "--markets", str(table), "--out", str(tmp_path / "l")]) == 2
    assert "Parquet or CSV" in capsys.readouterr().err


def test_instants() -> None:
    assert instant_of("2026-01-05T12:00+01:00", 0) == instant_of("2026-01-05T11:00", 0)
    with pytest.raises(UsageError, match="write 2026-01-31"):
        instant_of("05.01.2026", 0)


def test_download_and_record_of_the_exchange_in_a_box(tmp_path: Path) -> None:
    """The commands themselves, against `kalshilab exchange` in another process."""
    command = [sys.executable, "-m", "kalshilab"]
    with subprocess.Popen(
        [*command, "exchange", "--speed", "max", "--warm-up", "100000"], stdout=subprocess.PIPE, text=True
    ) as exchange:
        try:
            assert exchange.stdout is not None
            talk_to(exchange.stdout.readline(), command, tmp_path)
        finally:
            exchange.terminate()
            exchange.wait(20)


def talk_to(line: str, command: list[str], tmp_path: Path) -> None:
    """Download from, and listen to, the exchange whose first line this is."""
    facts: dict[str, Any] = json.loads(line)
    lake = tmp_path / "lake"
    tape, _ = kl.sample()
    first, until = tape["ts"][0].isoformat(), (tape["ts"][-1] + timedelta(days=1)).isoformat()
    done = subprocess.run(
        [*command, "download", "--since", first, "--until", until, "--out", str(lake),
         "--url", facts["rest"], "--window", "86400", "--json"],
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["added"], said["rows"]) == (tape.height, tape.height)
    got = kl.scan_tape(lake).lazy().collect()
    columns = ["ts", "ticker", "price", "size", "taker"]
    assert got.select(columns).equals(tape.select(columns))
    environment = os.environ | {
        "KALSHI_API_KEY_ID": facts["key_id"], "KALSHI_PRIVATE_KEY_PATH": facts["private_key_path"],
    }  # fmt: skip
    heard = subprocess.run(
        [*command, "record", "--out", str(tmp_path / "heard"), "--ws-url", facts["ws"], "--minutes", "0.02", "--json"],
        capture_output=True, text=True, timeout=60, check=False, env=environment,
    )  # fmt: skip
    assert heard.returncode == 0, heard.stderr
    assert json.loads(heard.stdout.splitlines()[-1])["prints"] == 0, "the tape has been played already"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(30, "Read-only file system", "lake/.lock"), "lake/.lock: Read-only file system"),
        (
            OSError("Error writing bytes to file. No space left on device"),
            "Error writing bytes to file. No space",
        ),
    ],
)
def test_a_disk_that_does_not_take_it_is_a_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    said: str,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("kalshilab.tape.ingest.archives.import_archive", fails)
    assert main(["import", str(tmp_path), "--out", str(tmp_path / "lake")]) == 1
    assert capsys.readouterr().err.startswith(f"kalshilab import: {said}")


def test_a_feed_that_does_not_open_hears_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key.pem").write_bytes(generate_key("ed25519")[0])
    monkeypatch.setenv("KALSHI_API_KEY_ID", "k")
    monkeypatch.setenv("KALSHI_PRIVATE_KEY_PATH", str(tmp_path / "key.pem"))
    record = ["record", "--out", str(tmp_path / "lake"), "--ws-url", "ws://127.0.0.1:1/ws", "--minutes"]
    assert main([*record, "0.002"]) == 1
    assert "stopped before the feed was open" in capsys.readouterr().err
    assert main([*record, "nan"]) == 2
    assert (
        main(["download", "--since", "2026-01-01", "--window", "nan", "--out", str(tmp_path / "lake")]) == 2
    )
