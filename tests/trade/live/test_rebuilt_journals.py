"""A killed session whose journal was damaged: rebuilt with the exchange's account, and resumed as one run."""

from __future__ import annotations

import random
import signal
import sqlite3
from pathlib import Path

import pytest
from faulty_session import falling
from trade.live.test_killed_sessions import START, Gate, compare_report, is_ready, live, settings_of, until

from kalshilab.config.settings import Settings
from kalshilab.exchange import Exchange, serve
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.run_doctor import examine_run, read_exchange, use_rebuilt

LOSABLE = ("fill", "order", "outcome", "intent", "settlement", "fire", "decision")


def lose_rows(path: Path, seed: int, rows: int) -> list[int]:
    """Delete rows that describe trades, and return their numbers."""
    with Journal.open(path) as journal:
        numbers = [entry.seq for entry in journal if entry.kind in LOSABLE]
    lost = sorted(random.Random(seed).sample(numbers, min(rows, len(numbers))))
    other = sqlite3.connect(path)
    other.execute("DROP TRIGGER no_delete")
    other.executemany("DELETE FROM entries WHERE seq = ?", [(row,) for row in lost])
    other.commit()
    other.close()
    return lost


@pytest.mark.timeout(180)
async def test_a_rebuilt_journal_is_resumed_with_the_account_of_the_exchange(tmp_path: Path) -> None:
    tape, table = falling(5, over_s=60.0, markets=12, start_us=START)
    exchange = Exchange(tape, table, seed=5)
    gate = Gate()
    async with serve(exchange, pace=gate, key_kind="ed25519") as venue:
        run = tmp_path / "run-5"
        given = settings_of(venue, tmp_path)
        facts: dict[str, object] = {"settings": given, "run": str(run)}
        child = await live(facts)
        await until(lambda: is_ready(run, child.pid))
        gate.open()
        await until(lambda: exchange.account.fills and len(exchange.desk.log) >= 4)
        # While the exchange stands still, nothing happens between the kill and the reading.
        gate.close()
        child.send_signal(signal.SIGKILL)
        await child.wait()
        lost = lose_rows(run / "journal.sqlite", 5, 12)
        settings = Settings(env={}, env_file=None, **given)  # type: ignore[arg-type]
        found = examine_run(run, await read_exchange(settings))
        assert found.lost == lost and found.added and found.differences == {}
        use_rebuilt(run)
        child = await live(facts)
        gate.open()
        await venue.finished.wait()
        (tmp_path / "stop").write_text("over")
        _, errors = await child.communicate()
        assert child.returncode == 0, errors.decode()
        assert compare_report(run, exchange) == []
