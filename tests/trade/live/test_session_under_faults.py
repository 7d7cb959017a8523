"""Whole sessions under faults: at the end, the record is the exchange's account, and nothing is left behind.

Each seed gives a tape, an exchange and a schedule of faults between it and a session.  The short form runs a few seeds
for some seconds, with faults after which each order has arrived or is known not to have.  The soak runs a thousand, with
faults of up to 40 seconds, after which an outcome may stay unknown for as long as a signature is valid; it takes about
half an hour on two cores, and needs them to itself, because the time limits are those of the wall clock.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from fault_schedule import KINDS, Fault, random_faults
from faulty_session import Ended, falling, run_schedules
from record_comparison import compare_orders, compare_payouts

from kalshilab.exchange import Exchange
from kalshilab.trade.session.report import Report
from kalshilab.trade.status import empty_snapshot

QUIET_S = 7.0
SHORT_S = 11.0
SHORT_SEEDS = range(8)
LONG_S = 45.0
PROCESSES = 2
AT_ONCE = 20
"""Sessions that one process runs at once; each waits for most of its time."""


def check(ended: Sequence[Ended]) -> None:
    """Check that no session has a problem; else show each with its seed and its faults in the order of time."""
    failed = [session for session in ended if session.problems]
    text = "\n\n".join(session.describe() for session in failed)
    assert not failed, f"{len(failed)} of {len(ended)} sessions failed\n\n{text}"


async def test_without_faults_the_record_is_the_exchanges_and_no_other(tmp_path: Path) -> None:
    (ended,) = await run_schedules({1: []}, tmp_path, over_s=QUIET_S, at_once=1)
    check([ended])
    assert ended.orders > 5 and "seed 1" in ended.describe()
    other = Exchange(*falling(1, over_s=QUIET_S, markets=20, start_us=0), seed=1)
    journal, report = tmp_path / "run-1" / "journal.sqlite", Report.load(tmp_path / "run-1")
    shot = empty_snapshot(
        run_id="", venue="", strategy="", state="", stopped="", finished=True, started=0, elapsed=0
    )
    differences = compare_orders(journal, report, other) + compare_payouts(journal, report, shot, other)
    for name in ("did not arrive", "order in the report", "fill", "settlement", "cash"):
        assert any(name in difference for difference in differences), name


async def test_the_record_is_the_exchanges_under_faults(tmp_path: Path) -> None:
    schedules = {
        seed: random_faults(seed, over_s=SHORT_S, longest_s=3.0, orders_arrive=True) for seed in SHORT_SEEDS
    }
    ended = await run_schedules(
        schedules, tmp_path, over_s=SHORT_S, at_once=len(schedules), lose_refusals=False
    )
    check(ended)
    # A busy machine sends fewer orders before the markets close.
    assert sum(session.orders for session in ended) > 5
    assert len(set().union(*(session.kinds for session in ended))) > len(KINDS) / 3


# The soak


def long_faults(seed: int) -> list[Fault]:
    """Return a schedule of some long faults, or, for every second seed, of many short ones."""
    if seed % 2:
        return random_faults(seed, over_s=LONG_S, longest_s=5.0, count=(30, 60))
    return random_faults(seed, over_s=LONG_S, longest_s=40.0)


def run_to_the_end(seeds: Sequence[int], folder: Path) -> list[Ended]:
    """Run sessions that are stopped when all faults have healed."""
    schedules = {seed: long_faults(seed) for seed in seeds}
    return asyncio.run(run_schedules(schedules, folder, over_s=LONG_S, at_once=AT_ONCE))


def run_and_stop(seeds: Sequence[int], folder: Path) -> list[Ended]:
    """Run sessions that are stopped during the faults."""
    schedules = {seed: long_faults(seed) for seed in seeds}
    stops = {seed: random.Random(seed).uniform(0.0, LONG_S) for seed in seeds}
    return asyncio.run(run_schedules(schedules, folder, over_s=LONG_S, at_once=AT_ONCE, stops=stops))


def in_processes(
    run: Callable[[Sequence[int], Path], list[Ended]], seeds: Sequence[int], folder: Path
) -> list[Ended]:
    """Run a part of the seeds in each process, and return how the sessions ended."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(run, seeds[n::PROCESSES], folder) for n in range(PROCESSES)]
        return [session for part in parts for session in part.result()]


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_record_is_the_exchanges_under_a_thousand_schedules(tmp_path: Path) -> None:
    ended = in_processes(run_to_the_end, range(1_000), tmp_path)
    check(ended)
    assert len(ended) == 1_000 and sum(session.orders for session in ended) > 10_000
    assert set().union(*(session.kinds for session in ended)) == set(KINDS)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_stop_during_faults_ends_in_time_and_states_each_difference(tmp_path: Path) -> None:
    ended = in_processes(run_and_stop, range(1_000, 1_200), tmp_path)
    check(ended)
    assert sum(session.orders for session in ended) > 1_000
