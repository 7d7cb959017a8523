"""Fault names and fault schedules: validation, seeds, and the old keywords."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kalshilab.errors import ExchangeError
from kalshilab.exchange.faults.faults import Faults
from kalshilab.exchange.faults.schedule import FAULTS, Fault, fault_names, random_schedule


def test_names_are_parsed_and_an_unknown_one_is_refused() -> None:
    assert fault_names("disconnect,half_open") == ("disconnect", "half_open")
    with pytest.raises(ExchangeError, match=r"unknown fault 'disconect'; choose from disconnect, "):
        fault_names("disconect")
    with pytest.raises(ExchangeError, match="unknown fault 'x'"):
        Faults(["x"])
    with pytest.raises(ExchangeError, match="unknown fault 'x'"):
        Faults.named("half_open,x")
    assert Faults.named("half_open, storm_429").names == ("half_open", "storm_429")
    assert len(Faults.named("random", 3).names) > 10
    with pytest.raises(ExchangeError, match="unknown fault 'x'"):
        random_schedule(1, 2, names=["x"])
    assert all(text.endswith(".") for text in FAULTS.values())


def test_a_schedule_refuses_arguments_out_of_range() -> None:
    with pytest.raises(ExchangeError, match=r"names must hold at least one fault, got \(\)"):
        random_schedule(1, 2, names=[])
    with pytest.raises(ExchangeError, match="n must be >= 0, got -1"):
        random_schedule(1, -1)
    with pytest.raises(ExchangeError, match="over_us must be > 0, got 0"):
        random_schedule(1, 2, over_us=0)


@given(st.integers(), st.integers(0, 50))
def test_a_schedule_depends_on_its_seed_alone(seed: int, n: int) -> None:
    one, two = random_schedule(seed, n), random_schedule(seed, n)
    assert one == two == tuple(sorted(one))
    assert all(0 <= f.at_us < 3_600_000_000 and f.name in FAULTS for f in one)


def test_the_old_names_of_times_still_work_and_warn() -> None:
    with pytest.warns(DeprecationWarning, match="'over' is now 'over_us'"):
        assert random_schedule(7, 3, over=1_000) == random_schedule(7, 3, over_us=1_000)
    with pytest.warns(DeprecationWarning, match="is now '(at|length)_us'"):
        fault = Fault(at=5, name="disconnect", length=6)
    assert fault == Fault(5, "disconnect", 6)
    with pytest.warns(DeprecationWarning, match=r"Fault\.at is now Fault\.at_us"):
        assert fault.at == fault.at_us
    with pytest.warns(DeprecationWarning, match=r"Fault\.length is now Fault\.length_us"):
        assert fault.length == fault.length_us
    with pytest.warns(DeprecationWarning, match="is now '(every|length)_us'"):
        Faults(["disconnect"], every=1, length=2)
    with pytest.warns(DeprecationWarning, match="'every' is now 'every_us'"):
        Faults.named("random", every=1)
