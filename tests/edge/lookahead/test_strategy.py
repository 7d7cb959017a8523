"""Tests of strategies: signals and functions are accepted, invalid fires are refused."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.lookahead.strategy import BUILTIN_CODE, FIRES, AuditedStrategy, strategy_of
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.tape import FrameTape

TAPE, MARKETS = kl.sample()
IN_MEMORY = FrameTape.of(TAPE)


def test_a_signal_keeps_its_name_parameters_and_code() -> None:
    one = strategy_of(kl.signals.Rlm(min_trades=15))
    assert one.name == "rlm" and one.parameters["min_trades"] == 15 and "min_trades=15" in one.label
    assert one.fires(IN_MEMORY).select(*FIRES).equals(kl.signals.rlm(TAPE, min_trades=15).select(*FIRES))
    assert strategy_of(one) is one
    assert strategy_of(kl.signals.Rlm()).code == one.code != strategy_of(kl.signals.Burst()).code


def test_the_code_of_a_custom_signal_is_the_hash_of_its_step() -> None:
    @kl.signal(buy="yes")
    def tenth(s, ts, price, size, taker_yes, n=10):  # type: ignore[no-untyped-def]
        return s.n >= n

    @kl.signal(buy="yes")
    def eleventh(s, ts, price, size, taker_yes, n=10):  # type: ignore[no-untyped-def]
        return s.n >= n + 1

    assert strategy_of(tenth()).code == strategy_of(tenth(n=4)).code != strategy_of(eleventh()).code


def test_a_function_receives_the_markets_if_it_has_a_second_argument() -> None:
    seen: list[Any] = []

    def both(tape: pl.DataFrame, markets: pl.DataFrame) -> Any:
        seen.append(markets)
        return kl.signals.rlm(tape).to_pandas()

    assert (
        strategy_of(both).fires(IN_MEMORY, MARKETS).height == kl.signals.rlm(TAPE).height
        and seen[0] is MARKETS
    )
    lazy = strategy_of(lambda tape: kl.signals.rlm(tape.lazy()))
    assert lazy.fires(IN_MEMORY).height == kl.signals.rlm(TAPE).height


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "must return a frame of fires, got NoneType"),
        (pl.DataFrame({"row": [1]}), "no column 'ts'"),
        (kl.signals.rlm(TAPE).with_columns(side=pl.lit("maybe")), "fires with invalid values"),
        (kl.signals.rlm(TAPE).with_columns(price=pl.lit(None)), "nulls in column 'price'"),
    ],
)
def test_invalid_fires_are_refused(returned: object, message: str) -> None:
    with pytest.raises(EdgeError, match=message):
        strategy_of(lambda tape: returned).fires(IN_MEMORY)


@pytest.mark.parametrize(
    ("thing", "shown"),
    [(kl.signals.Rlm, "<class 'kalshilab.signals.builtin.rlm.Rlm'>"), (3, "int"), ("rlm", "str")],
)
def test_other_objects_are_not_strategies(thing: object, shown: str) -> None:
    with pytest.raises(EdgeError, match=f"must be a signal or a function of a tape, got {shown};"):
        strategy_of(thing)


def test_a_function_is_a_strategy() -> None:
    assert isinstance(strategy_of(print), AuditedStrategy)


def test_a_function_of_frames_cannot_read_stored_data(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    with pytest.raises(EdgeError, match=r"cannot read a lake; pass lake\.read"):
        strategy_of(lambda tape: tape).fires(lake)


@pytest.mark.parametrize(
    ("module", "old"),
    [
        ("captured_data", "brought"),
        ("captured_tables", "KNOWN"),
        ("closure_walk", "reached"),
        ("fair_tape", "Stage"),
        ("fresh_copy", "anew"),
        ("settlement_facts", "named_facts"),
        ("strategy", "Strategy"),
    ],
)
def test_names_of_version_0_1_still_work_and_warn(module: str, old: str) -> None:
    home = importlib.import_module(f"kalshilab.edge.lookahead.{module}")
    with pytest.warns(DeprecationWarning, match=f"{module}.{old} is now"):
        assert getattr(home, old) is not None


def test_every_built_in_signal_has_a_fixed_code_hash() -> None:
    """Registered hypotheses keep their hash when the words of a built-in signal change."""
    public = [getattr(kl.signals, name) for name in kl.signals.__all__]
    built_in = {
        f"{c.__module__}.{c.__qualname__}"
        for c in public
        if isinstance(c, type) and hasattr(c, "run") and isinstance(getattr(c, "name", None), str)
    }
    assert built_in == BUILTIN_CODE.keys()
    assert strategy_of(kl.signals.Rlm()).code.startswith("06d4dbd9")


def test_a_subclass_of_a_built_in_signal_has_a_code_hash_of_its_text() -> None:
    class Own(kl.signals.Rlm):
        """A rule that differs in its text."""

    assert strategy_of(Own()).code != strategy_of(kl.signals.Rlm()).code
