"""`kalshilab doctor RUN`: plain sentences about a journal, and a rebuilt one if it is damaged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import polars as pl
import pytest
from made_tapes import leaning

from kalshilab.__main__ import main
from kalshilab.cli.session.run_check import spans
from kalshilab.clock import SimClock
from kalshilab.exchange import Exchange, serve
from kalshilab.signals import Fire
from kalshilab.trade.core.orders import run_prefix
from kalshilab.trade.events import Fired, Intent
from kalshilab.trade.live.lease import RunLock
from kalshilab.trade.orders.journal import Journal

FIRE = Fired.of(Fire(0, 9, "A-B-1", "no", 4000, 3))


def intent(n: int) -> Intent:
    return Intent(
        client_order_id=f"{run_prefix('run-7')}{n}", ts=9, ticker="A-B-1", side="ask", price=4000, size=500, fire=FIRE
    )  # fmt: skip


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Return the folder of a run that was killed with two orders in flight."""
    with Journal.create(tmp_path / "run-7" / "journal.sqlite", SimClock(5), SimClock(6)) as journal:
        journal.note("start", run="run-7")
        journal.note("account", cash=5_000_000, positions=[["A-B-2", 100, 300_000]])
        for n in (1, 2):
            journal.write("intent", intent(n), intent(n).client_order_id)
        journal.write("fire", FIRE)
    return tmp_path / "run-7"


def damage(folder: Path) -> None:
    path = folder / "journal.sqlite"
    path.write_bytes(
        path.read_bytes().replace(
            b'"n_trades":3,"own":{},"strategy":""}', b'"n_trades":4,"own":{},"strategy":""}'
        )
    )


def test_orders_without_a_known_outcome_are_listed(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(killed)]) == 0
    out = capsys.readouterr().out
    assert "5 intact entries, state STARTUP, killed" in out
    assert "no damage: every row is as it was written" in out
    assert "without a known outcome: 2 orders; kalshilab live --resume looks them up" in out
    assert f"A-B-1: buy 5 NO at 60 cents ({intent(1).client_order_id})" in out
    assert "cash $5.00, 1 open position\n" in out
    assert not (killed / "journal.rebuilt.sqlite").exists()


def test_a_damaged_journal_is_rebuilt_beside_it(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(killed)
    assert main(["doctor", str(killed)]) == 1
    out = capsys.readouterr().out
    assert "error: " in out and "row 3 cannot be read (its checksum differs)" in out
    assert "lost: 3 rows (3 to 5)" in out
    assert "of the kind fire: 5" in out and "of the kind intent: 3 to 4" in out
    assert "the exchange was not asked; with --venue demo" in out
    assert "--repair" in out and (killed / "journal.rebuilt.sqlite").is_file()


def test_a_repair_puts_the_rebuilt_journal_in_place(killed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(killed)
    assert main(["doctor", str(killed), "--repair"]) == 0
    assert "the damaged one is kept as journal.damaged.sqlite" in capsys.readouterr().out
    assert main(["doctor", str(killed)]) == 0
    assert "3 intact entries" in capsys.readouterr().out
    assert (killed / "journal.damaged.sqlite").is_file() and (killed / "journal.damaged.head").is_file()
    assert not (killed / "journal.rebuilt.sqlite").exists()


def test_the_journal_of_a_running_session_is_not_repaired(
    killed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(killed)
    with RunLock(killed):
        assert main(["doctor", str(killed), "--repair"]) == 2
    assert "another session writes to this run" in capsys.readouterr().err
    assert not (killed / "journal.damaged.sqlite").exists()


async def test_the_exchange_confirms_what_is_lost(
    killed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(killed)
    exchange = Exchange(*leaning(3))
    async with serve(exchange, speed=1.0) as venue:
        monkeypatch.setenv("KALSHILAB_REST_URL", venue.rest)
        monkeypatch.setenv("KALSHILAB_WS_URL", venue.ws)
        monkeypatch.setenv("KALSHI_API_KEY_ID", venue.key_id)
        monkeypatch.setenv("KALSHI_PRIVATE_KEY_PATH", str(venue.private_key_path))
        assert await asyncio.to_thread(main, ["doctor", str(killed), "--venue", "demo"]) == 1
    out = capsys.readouterr().out
    assert "added, as the exchange confirms: nothing" in out
    assert "A-B-2: the rebuilt record has 1, the exchange 0" in out
    assert f"cash: the rebuilt record has 5, the exchange {exchange.account.cash / 1e6:g}" in out


def test_numbers_are_shown_as_spans() -> None:
    assert list(spans([])) == [] and list(spans(pl.Series([1, 2, 4]).to_list())) == ["1 to 2", "4"]


def test_the_latest_run_is_found(
    killed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KALSHILAB_OUT", str(killed.parent))
    assert main(["doctor", "latest"]) == main(["doctor", "run-7"]) == 0
    assert capsys.readouterr().out.count("run-7: 5 intact entries") == 2
