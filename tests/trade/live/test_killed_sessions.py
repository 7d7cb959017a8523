"""A session killed with `kill -9` at any moment, and resumed: one run, whose record is the exchange's."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faulty_session import falling
from record_comparison import compare_orders

from kalshilab.config.settings import Settings
from kalshilab.errors import SessionError, UsageError
from kalshilab.exchange import Exchange, Venue, serve
from kalshilab.trade.live.lease import holder_of_run
from kalshilab.trade.orders.journal import Journal
from kalshilab.trade.session.report import Report
from kalshilab.trade.session.session import PaperSession
from kalshilab.trade.status import read_status

SECOND = 1_000_000
START = 1_790_000_000 * SECOND
LIFE = """
import asyncio, json, sys
from collections.abc import Callable
from pathlib import Path
from kalshilab.config.settings import Settings
from kalshilab.trade.session.session import PaperSession

facts = json.loads(sys.argv[1])


async def main():
    settings = Settings(env={}, env_file=None, **facts["settings"])
    if Path(facts["run"], "journal.sqlite").is_file():
        session = PaperSession.resume(facts["run"], settings)
    else:
        session = PaperSession(settings, run_dir=Path(facts["run"]))
    async with session:
        (await session.run()).check()


asyncio.run(main())
"""


def settings_of(venue: Venue, folder: Path) -> dict[str, object]:
    return {
        "venue": "demo", "rest_url": venue.rest, "ws_url": venue.ws, "key_id": venue.key_id,
        "private_key_path": str(venue.private_key_path), "out": str(folder), "categories": ["sports"], "min_trades": 4,
        "min_drop": 1, "contracts": 5, "close_min_minutes": 0, "attempts_per_minute": 1e6, "sync_interval_s": 2,
        "discovery_interval_s": 1, "stop_file": str(folder / "stop"),
    }  # fmt: skip


async def live(facts: dict[str, object]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", LIFE, json.dumps(facts), stderr=subprocess.PIPE
    )


class Gate:
    """A pace that plays the exchange only while the gate is open, so that a slow machine misses nothing.

    Attributes:
        events: number of events so far.
    """

    def __init__(self) -> None:
        self.events = 0
        self._open = asyncio.Event()

    async def step(self, ts: int) -> None:
        """Wait until the gate is open; the exchange calls this before each event."""
        await self._open.wait()
        await asyncio.sleep(0.005)
        self.events += 1

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._open.clear()


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def is_ready(run: Path, pid: int) -> bool:
    """Return whether the life in a process is ready to trade."""
    status, holder = read_status(run / "status.json"), holder_of_run(run)
    return holder is not None and holder.pid == pid and status is not None and status.state == "READY"


async def kill_and_resume(seed: int, folder: Path, *, kills: int, markets: int) -> list[str]:
    """Kill a session repeatedly while its markets trade and settle; return what its last life leaves different.

    Args:
        seed: the seed of the tape and of the moments.
        folder: receives the run.
        kills: number of killed lives.
        markets: number of markets.
    """
    draw = random.Random(seed)
    tape, table = falling(seed, over_s=60.0, markets=markets, start_us=START)
    exchange = Exchange(tape, table, seed=seed)
    gate = Gate()
    each = tape.height // (kills + 1)
    async with serve(exchange, pace=gate, key_kind="ed25519") as venue:
        run = folder / f"run-{seed}"
        facts: dict[str, object] = {"settings": settings_of(venue, folder), "run": str(run)}
        for _ in range(kills):
            child = await live(facts)
            # A third of the lives are killed while they start, the others after some events, or after an order.
            moment = draw.choice(["start", "events", "order"])
            if moment == "start":
                await asyncio.sleep(draw.uniform(0.5, 2.0))
            else:
                await until(lambda pid=child.pid: is_ready(run, pid))
                orders, events = len(exchange.desk.log), gate.events + draw.randrange(1, each)
                gate.open()
                await until(
                    lambda n=orders, m=events, kind=moment: (
                        gate.events >= m or (kind == "order" and len(exchange.desk.log) > n)
                    )
                )
            child.send_signal(signal.SIGKILL)
            await child.wait()
            # Some time passes at the exchange before the next life.
            events = gate.events + draw.randrange(0, each // 2)
            gate.open()
            await until(lambda m=events: gate.events >= m or venue.finished.is_set())
            gate.close()
        child = await live(facts)
        if draw.random() < 0.5:
            await until(lambda: is_ready(run, child.pid))
        gate.open()
        await venue.finished.wait()
        (folder / "stop").write_text("over")
        _, errors = await child.communicate()
        (folder / "stop").unlink()
        problems = [] if child.returncode == 0 else [errors.decode()]
        return problems + compare_report(run, exchange)


def compare_report(run: Path, exchange: Exchange) -> list[str]:
    """Return what the report of a run has in a way other than the exchange's account."""
    report, account = Report.load(run), exchange.account
    if not exchange.desk.log:
        # No life came as far as its first order; the account may not have been read.
        return compare_orders(run / "journal.sqlite", report, exchange)
    facts = {
        "fills": (report.counts["fills"], len(account.fills)),
        "orders": (report.orders.height, len(exchange.desk.log)),
        "settlements": (report.counts["settlements"], len(account.settlements)),
        "cash": (report.counts["cash_cents"], account.cash // 10_000),
        "pnl": (report.counts["pnl_cents"], round((account.cash - 10_000 * SECOND) / 10_000)),
        "differences": (report.counts["account_differences"], 0),
        "resting": (report.counts["left_resting"], 0),
    }
    return compare_orders(run / "journal.sqlite", report, exchange) + [
        f"{name}: {ours}, at the exchange {theirs}"
        for name, (ours, theirs) in facts.items()
        if ours != theirs
    ]


@pytest.mark.timeout(300)
async def test_a_killed_session_is_resumed_as_one_run(tmp_path: Path) -> None:
    assert await kill_and_resume(1, tmp_path, kills=2, markets=12) == []
    with Journal.open(tmp_path / "run-1" / "journal.sqlite") as journal:
        lives = [note["what"] for note in journal.values("note") if note["what"] in ("start", "resume")]
        # A life that is killed while it starts leaves no note.
        assert lives[0] == "start" and set(lives[1:]) == {"resume"} and journal.values("intent")


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_a_hundred_kills_leave_one_complete_record(tmp_path: Path) -> None:
    found = {}
    for seed in range(20):
        found[seed] = await kill_and_resume(seed, tmp_path, kills=5, markets=40)
    assert not {seed: problems for seed, problems in found.items() if problems}


def test_what_cannot_be_resumed_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such run"):
        PaperSession.resume("20200101T000000Z", settings.replace(out=str(tmp_path)))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.sqlite").touch()
    with pytest.raises(SessionError, match="embedded cannot be resumed"):
        PaperSession.resume(tmp_path / "run", settings)
