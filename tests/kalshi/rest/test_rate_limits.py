"""Rate limits: a bucket never exceeds its capacity or its rate, and every waiter is served."""

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
def test_a_bucket_never_exceeds_capacity_and_rate(
    rate: int, capacity: int, calls: list[tuple[int, int]]
) -> None:
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
    # Over every window: at most the capacity plus the refill.
    for i, (start, _) in enumerate(taken):
        total = 0
        for at, cost in taken[i:]:
            total += cost
            assert total <= capacity + (at - start) / 1e6 * rate + 1e-3


def test_ten_refills_of_a_tenth_make_one_token() -> None:
    clock = SimClock()
    bucket = TokenBucket(1, 1, clock)
    assert bucket.try_acquire()
    for n in range(1, 11):
        assert not bucket.try_acquire()
        clock.advance(n * 100_000)
    assert bucket.try_acquire()


async def test_a_waiter_sleeps_until_its_tokens_are_available() -> None:
    clock = SimClock()
    bucket = TokenBucket(rate=100, capacity=100, clock=clock)
    await bucket.acquire(100)
    task = asyncio.create_task(bucket.acquire(10))
    await asyncio.sleep(0)
    clock.advance(99_999)
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(100_001)
    await asyncio.wait_for(task, 60)


async def test_all_waiters_are_served() -> None:
    clock = SimClock()
    bucket = TokenBucket(rate=100, capacity=100, clock=clock)
    tasks = [asyncio.create_task(bucket.acquire(10)) for _ in range(40)]
    for step in range(1, 400):
        await asyncio.sleep(0)
        clock.advance(step * 10_000)
    await asyncio.sleep(0)
    assert all(t.done() for t in tasks)


async def test_a_cost_above_the_capacity_is_rejected_at_once() -> None:
    bucket = TokenBucket(1, 5, SimClock())
    with pytest.raises(ValueError, match="cost must be at most the capacity 5, got 6"):
        await bucket.acquire(6)


@pytest.mark.parametrize(("rate", "capacity"), [(0, 1), (1, 0), (-1, 1), (1, -1)])
def test_a_rate_or_capacity_of_zero_or_less_is_rejected(rate: float, capacity: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        TokenBucket(rate, capacity, SimClock())


class SetBack:
    """A clock whose wall time is set back by an hour while its monotonic time continues."""

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


async def test_setting_the_clock_back_does_not_stop_the_refill() -> None:
    clock = SetBack()
    bucket = TokenBucket(rate=100, capacity=100, clock=clock)
    await bucket.acquire(100)
    clock.wall -= 3_600_000_000
    clock.mono += 0.5
    await clock.sleep(0.5)
    assert bucket.try_acquire(10)


def test_tiers_and_costs_match_the_exchange() -> None:
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


def test_reads_and_writes_have_independent_buckets() -> None:
    limits = AccountLimits(SimClock())
    assert sum(limits.write.try_acquire(COSTS["default"]) for _ in range(20)) == 10
    assert limits.read.tokens == 600
    assert AccountLimits(SimClock(), "premier").write.capacity == 3600
