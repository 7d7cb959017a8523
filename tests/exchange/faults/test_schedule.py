"""Names of faults, and schedules of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ExchangeError
from kalshilab.exchange.faults.faults import Faults
from kalshilab.exchange.faults.schedule import FAULTS, fault_names, random_schedule


def test_names_from_a_list_and_an_unknown_one() -> None:
    assert fault_names("disconnect,half_open") == ("disconnect", "half_open")
    with pytest.raises(ExchangeError, match=r"no fault is called 'disconect'; there are: disconnect, "):
        fault_names("disconect")
    with pytest.raises(ExchangeError, match="no fault is called 'x'"):
        Faults(["x"])
    with pytest.raises(ExchangeError, match="no fault is called 'x'"):
        Faults.named("half_open,x")
    assert Faults.named("half_open, storm_429").names == ("half_open", "storm_429")
    assert len(Faults.named("random", 3).names) > 10
    with pytest.raises(ExchangeError, match="no fault is called 'x'"):
        random_schedule(1, 2, names=["x"])
    with pytest.raises(ExchangeError, match="2 faults of 0 names"):
        random_schedule(1, 2, names=[])
    assert all(text.endswith(".") for text in FAULTS.values())


@given(st.integers(), st.integers(0, 50))
def test_a_schedule_is_the_seed_and_nothing_else(seed: int, n: int) -> None:
    one, two = random_schedule(seed, n), random_schedule(seed, n)
    assert one == two == tuple(sorted(one))
    assert all(0 <= f.at < 3_600_000_000 and f.name in FAULTS for f in one)
