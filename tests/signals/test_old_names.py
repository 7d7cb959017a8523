"""Class and method names used before version 0.2 still work, with a `DeprecationWarning`."""

from __future__ import annotations

import importlib

import pytest

from kalshilab.signals import Rlm, WhaleFade


@pytest.mark.parametrize(
    ("old", "new", "module"),
    [
        ("Cells", "PassGroup", "sharding"),
        ("Columns", "PrintArrays", "state_pass"),
        ("Found", "TimedFires", "sharding"),
        ("OneCell", "SingleCellPass", "state_pass"),
        ("Pass", "StatePass", "state_pass"),
        ("Sieve", "CrossMarketFilter", "compiled_signal"),
    ],
)
def test_an_old_class_name_works_and_warns(old: str, new: str, module: str) -> None:
    for path in ("kalshilab.signals.engine", f"kalshilab.signals.engine.{module}"):
        home = importlib.import_module(path)
        with pytest.warns(DeprecationWarning, match=f"is now {new} of"):
            assert getattr(home, old) is getattr(home, new)


def test_the_former_name_of_fire_filter_works_and_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"sieve\(\) is now fire_filter\(\)"):
        assert Rlm().sieve() is None
    fade = WhaleFade(max_leverage=5.0)
    with pytest.warns(DeprecationWarning, match=r"sieve\(\) is now fire_filter\(\)"):
        assert type(fade.sieve()) is type(fade.fire_filter())
