"""Whole sessions under faults: at the end, the record is the exchange's account, and nothing is left behind.

Each seed gives a tape, an exchange and a schedule of faults between it and a session.  The short form runs a few seeds
for some seconds, with faults after which each order has arrived or is known not to have.  The soak runs a thousand, with
faults of up to 40 seconds, after which an outcome may stay unknown for as long as a signature is valid.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from fault_schedule import KINDS, random_faults
from faulty_session import Ended, compare, falling, run_schedules

from kalshilab.exchange import Exchange

SHORT_S = 8.0
SHORT_SEEDS = range(6)
LONG_S = 45.0
LONG_SEEDS = range(1_000)
PROCESSES = 2
AT_ONCE = 40
"""Sessions that one process runs at once; each waits for most of its time."""


def check(ended: list[Ended]) -> None:
    """Check that no session has a problem; else show each with its seed and its faults in the order of time."""
    failed = [session for session in ended if session.problems]
    text = "\n\n".join(session.describe() for session in failed)
    assert not failed, f"{len(failed)} of {len(ended)} sessions failed\n\n{text}"


async def test_without_faults_the_record_is_the_exchanges_and_no_other(tmp_path: Path) -> None:
    (ended,) = await run_schedules({1: []}, tmp_path, over_s=SHORT_S, at_once=1)
    check([ended])
    assert ended.orders > 5
    other = Exchange(*falling(1, over_s=SHORT_S, markets=20, start_us=0), seed=1)
    problems = compare(tmp_path / "run-1" / "journal.sqlite", other)
    for name in ("did not arrive", "fill", "settlement"):
        assert any(name in problem for problem in problems), name
    assert "seed 1" in ended.describe()


async def test_the_record_is_the_exchanges_under_faults(tmp_path: Path) -> None:
    schedules = {
        seed: random_faults(seed, over_s=SHORT_S, longest_s=3.0, orders_arrive=True) for seed in SHORT_SEEDS
    }
    ended = await run_schedules(schedules, tmp_path, over_s=SHORT_S, at_once=len(schedules))
    check(ended)
    assert sum(session.orders for session in ended) > 20
    assert len(set().union(*(session.kinds for session in ended))) > len(KINDS) / 3


def run_seeds(seeds: list[int], folder: Path) -> list[Ended]:
    """Run sessions under long schedules in an event loop; for a process of the soak."""
    schedules = {seed: random_faults(seed, over_s=LONG_S, longest_s=40.0) for seed in seeds}
    return asyncio.run(run_schedules(schedules, folder, over_s=LONG_S, at_once=AT_ONCE))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_record_is_the_exchanges_under_a_thousand_schedules(tmp_path: Path) -> None:
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(run_seeds, list(LONG_SEEDS)[n::PROCESSES], tmp_path) for n in range(PROCESSES)]
        ended = [session for part in parts for session in part.result()]
    check(ended)
    assert len(ended) == len(LONG_SEEDS) and sum(session.orders for session in ended) > 10 * len(ended)
    assert set().union(*(session.kinds for session in ended)) == set(KINDS)
