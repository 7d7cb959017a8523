"""What can be judged: signals and functions, and fires that are none."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.lookahead.strategy import FIRES, Strategy, strategy_of
from kalshilab.errors import EdgeError
from kalshilab.tape.tape import FrameTape

TAPE, MARKETS = kl.sample()
IN_MEMORY = FrameTape.of(TAPE)


def test_a_signal_keeps_its_name_parameters_and_code() -> None:
    one = strategy_of(kl.signals.Rlm(min_trades=15))
    assert one.name == "rlm" and one.parameters["min_trades"] == 15 and "min_trades=15" in one.label
    assert one.fires(IN_MEMORY).select(*FIRES).equals(kl.signals.rlm(TAPE, min_trades=15).select(*FIRES))
    assert strategy_of(one) is one
    assert strategy_of(kl.signals.Rlm()).code == one.code != strategy_of(kl.signals.Burst()).code


def test_a_custom_step_is_told_by_its_text() -> None:
    @kl.signal(buy="yes")
    def tenth(s, ts, price, size, taker_yes, n=10):  # type: ignore[no-untyped-def]
        return s.n >= n

    @kl.signal(buy="yes")
    def eleventh(s, ts, price, size, taker_yes, n=10):  # type: ignore[no-untyped-def]
        return s.n >= n + 1

    assert strategy_of(tenth()).code == strategy_of(tenth(n=4)).code != strategy_of(eleventh()).code


def test_functions_of_one_and_of_two_arguments() -> None:
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
    ("returned", "said"),
    [
        (None, "not a frame"),
        (pl.DataFrame({"row": [1]}), "no column 'ts'"),
        (kl.signals.rlm(TAPE).with_columns(side=pl.lit("maybe")), "not as they should be"),
        (kl.signals.rlm(TAPE).with_columns(price=pl.lit(None)), "nulls"),
    ],
)
def test_fires_that_are_none_are_refused(returned: Any, said: str) -> None:
    with pytest.raises(EdgeError, match=said):
        strategy_of(lambda tape: returned).fires(IN_MEMORY)


def test_what_is_no_strategy_is_refused() -> None:
    for thing in (kl.signals.Rlm, 3, "rlm"):
        with pytest.raises(EdgeError, match="neither a signal nor a function"):
            strategy_of(thing)
    assert isinstance(strategy_of(print), Strategy)
