"""Clocks: instants are integers in UTC; a simulated clock moves only by `advance` and never goes back."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.clock import Clock, SimClock, WallClock, from_datetime, isoformat, to_datetime

INSTANTS = st.integers(-(10**15), 4 * 10**15)


@given(INSTANTS)
def test_an_instant_round_trips_through_its_datetime(us: int) -> None:
    moment = to_datetime(us)
    assert moment.tzinfo is UTC and from_datetime(moment) == us


@given(INSTANTS, st.integers(-14 * 60, 14 * 60))
def test_the_time_zone_does_not_change_the_instant(us: int, minutes: int) -> None:
    elsewhere = to_datetime(us).astimezone(timezone(timedelta(minutes=minutes)))
    assert from_datetime(elsewhere) == us


@given(INSTANTS)
def test_an_instant_round_trips_through_its_text(us: int) -> None:
    text = isoformat(us)
    assert text.endswith("Z") and from_datetime(datetime.fromisoformat(text)) == us


def test_a_naive_datetime_is_rejected() -> None:
    with pytest.raises(ValueError, match="must have a time zone"):
        from_datetime(datetime(2026, 11, 23))  # noqa: DTZ001


def test_both_clocks_satisfy_the_clock_protocol() -> None:
    assert isinstance(WallClock(), Clock) and isinstance(SimClock(), Clock)
    assert repr(WallClock()) == "WallClock()"
    assert repr(SimClock(1_795_329_000_900_000)) == "SimClock(2026-11-22T06:30:00.900000Z)"


async def test_the_wall_clock_follows_the_machine_clock() -> None:
    clock = WallClock()
    before, mark = clock.now(), clock.monotonic()
    await clock.sleep(0.01)
    assert clock.monotonic() - mark >= 0.009
    assert abs(clock.now() - from_datetime(datetime.now(UTC))) < 5_000_000
    assert clock.now() >= before


@given(st.lists(INSTANTS, max_size=20))
def test_a_simulated_clock_never_goes_back(moves: list[int]) -> None:
    clock = SimClock(0)
    high = 0
    for to in moves:
        clock.advance(to)
        high = max(high, to)
        assert clock.now() == high and clock.monotonic() == high / 1e6


async def test_sleepers_wake_in_the_order_of_their_due_times() -> None:
    clock = SimClock(1_000_000)
    woken: list[str] = []

    async def sleeper(name: str, seconds: float) -> None:
        await clock.sleep(seconds)
        woken.append(name)

    tasks = [
        asyncio.create_task(sleeper(n, s)) for n, s in (("late", 3), ("early", 1), ("middle", 2), ("twin", 1))
    ]
    await asyncio.sleep(0)
    clock.advance(1_999_999)
    await asyncio.sleep(0)
    assert woken == []
    clock.advance(2_000_000)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert woken == ["early", "twin"]
    clock.advance(60_000_000)
    await asyncio.gather(*tasks)
    assert woken == ["early", "twin", "middle", "late"]


async def test_a_cancelled_sleeper_does_not_stop_the_clock_from_waking_others() -> None:
    clock = SimClock()
    task = asyncio.create_task(clock.sleep(1))
    other = asyncio.create_task(clock.sleep(1))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    clock.advance(1_000_000)
    await asyncio.wait_for(other, 60)


@pytest.mark.parametrize("seconds", [0, -1, 0.0])
async def test_sleeping_for_zero_or_less_returns_at_once(seconds: float) -> None:
    await asyncio.wait_for(SimClock().sleep(seconds), 60)
