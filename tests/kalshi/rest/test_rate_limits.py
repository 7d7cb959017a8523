"""Token buckets: never more than the capacity at once, never more than the rate over time, and no waiter starves."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.clock import SimClock
from kalshilab.kalshi.rest.rate_limits import COSTS, TIERS, AccountLimits, TokenBucket


@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(1, 60)), min_size=1, max_size=60),
)
def test_no_more_than_capacity_and_rate_allow(rate: int, capacity: int, calls: list[tuple[int, int]]) -> None:
    clock = SimClock(1_000)
    bucket = TokenBucket(rate, capacity, clock)
    taken: list[tuple[int, int]] = []
    for wait, cost in calls:
        clock.advance(clock.now() + wait)
        before = bucket.tokens
        assert 0 <= before <= capacity
        got = bucket.try_acquire(cost)
        assert got == (before + 1e-6 >= cost)
        if got:
            taken.append((clock.now(), cost))
    # Over every window: no more than was there plus what flowed in.
    for i, (start, _) in enumerate(taken):
        total = 0
        for at, cost in taken[i:]:
            total += cost
            assert total <= capacity + (at - start) / 1e6 * rate + 1e-3


def test_ten_refills_of_a_tenth_make_one() -> None:
    clock = SimClock()
    bucket = TokenBucket(1, 1, clock)
    assert bucket.try_acquire()
    for n in range(1, 11):
        assert not bucket.try_acquire()
        clock.advance(n * 100_000)
    assert bucket.try_acquire()


async def test_a_waiter_sleeps_just_long_enough() -> None:
    clock = SimClock()
    bucket = TokenBucket(rate=100, capacity=100, clock=clock)
    await bucket.acquire(100)
    task = asyncio.create_task(bucket.acquire(10))
    await asyncio.sleep(0)
    clock.advance(99_999)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(100_001)
    await asyncio.wait_for(task, 1)


async def test_all_waiters_are_served_in_the_end() -> None:
    clock = SimClock()
    bucket = TokenBucket(rate=100, capacity=100, clock=clock)
    tasks = [asyncio.create_task(bucket.acquire(10)) for _ in range(40)]
    for step in range(1, 400):
        await asyncio.sleep(0)
        clock.advance(step * 10_000)
    await asyncio.sleep(0)
    assert all(t.done() for t in tasks)


async def test_more_than_the_bucket_holds_is_refused_at_once() -> None:
    bucket = TokenBucket(1, 5, SimClock())
    with pytest.raises(ValueError, match="bucket of 5"):
        await bucket.acquire(6)


@pytest.mark.parametrize(("rate", "capacity"), [(0, 1), (1, 0), (-1, 1), (1, -1)])
def test_a_bucket_that_never_fills_is_refused(rate: float, capacity: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        TokenBucket(rate, capacity, SimClock())


class SetBack:
    """A wall clock that an NTP daemon sets back an hour, while its monotonic time goes on."""

    def __init__(self) -> None:
        self.wall, self.mono = 10_000_000_000, 0.0

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    async def sleep(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += round(seconds * 1e6)
        await asyncio.sleep(0)


async def test_a_clock_set_back_does_not_stop_the_refill() -> None:
    clock = SetBack()
    bucket = TokenBucket(rate=100, capacity=100, clock=clock)
    await bucket.acquire(100)
    clock.wall -= 3_600_000_000
    clock.mono += 0.5
    await clock.sleep(0.5)
    assert bucket.try_acquire(10)


def test_the_tiers_are_the_exchanges() -> None:
    assert list(TIERS) == ["basic", "advanced", "expert", "premier", "paragon", "prime", "prestige"]
    basic = TIERS["basic"]
    assert (basic.read_rate, basic.read_capacity, basic.write_rate, basic.write_capacity) == (
        200,
        600,
        100,
        100,
    )
    assert TIERS["prestige"].write_capacity == 28_800
    assert dict(COSTS) == {"default": 10, "cancel": 2, "get_order": 2}
    with pytest.raises(TypeError):
        TIERS["basic"] = basic  # type: ignore[index]
    assert all(t.read_capacity >= COSTS["default"] <= t.write_capacity for t in TIERS.values())


def test_an_account_has_two_buckets_that_do_not_touch() -> None:
    limits = AccountLimits(SimClock())
    assert sum(limits.write.try_acquire(COSTS["default"]) for _ in range(20)) == 10
    assert limits.read.tokens == 600
    assert AccountLimits(SimClock(), "premier").write.capacity == 3600
