"""Custom signals: the rule of a built-in gives the same fires, and mistakes raise errors that explain themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tapes import Print, prints, tape_of

import kalshilab as kl
from kalshilab.errors import SignalError


@kl.signal(state={"first": "i2", "yes": int}, buy="no")
def faded(s, ts, price, size, taker_yes, threshold=0.7, min_trades=25, min_drop=500):  # type: ignore[no-untyped-def]
    """Reverse line movement once more."""
    if s.n == 1:
        s.first = price
    s.yes += taker_yes
    return s.n >= min_trades and s.yes / s.n > threshold and s.first - price >= min_drop


@settings(max_examples=100)
@given(rows=prints(), threshold=st.sampled_from([0.4, 2 / 3, 0.7]), n=st.integers(1, 6), rearm=st.booleans())
def test_a_custom_rule_fires_like_the_built_in(
    rows: list[Print], threshold: float, n: int, rearm: bool
) -> None:
    tape = tape_of(rows)
    own = faded(threshold=threshold, min_trades=n, min_drop=200, rearm=rearm).run(tape)
    built_in = kl.signals.rlm(tape, yes_threshold=threshold, min_trades=n, min_drop=2, rearm=rearm)
    common = ["row", "ts", "ticker", "side", "price", "n_trades"]
    assert own.select(common).equals(built_in.select(common))
    assert own["first"].to_list() == built_in["first_price"].to_list()


def test_doc_columns_and_repr_come_from_the_step() -> None:
    assert faded.__doc__ == "Reverse line movement once more."
    assert faded.reads == ("price", "taker"), "the step mentions neither time nor size"
    assert faded.defaults == {"threshold": 0.7, "min_trades": 25, "min_drop": 500}
    signal = faded(min_trades=2)
    assert repr(signal) == "faded(threshold=0.7, min_trades=2, min_drop=500, rearm=False)"
    signal.update("A-B-1", 1, 5000, 100, "yes")
    assert signal.state("A-B-1") == {"n": 1, "first": 5000, "yes": 1}
    fire = signal.update("A-B-1", 2, 4000, 100, "yes")
    assert (type(fire).__name__, fire.side, fire.first, fire.yes) == ("faded_fire", "no", 5000, 2)


def test_rearm_every_keeps_the_state() -> None:
    @kl.signal(state={"total": "f8", "_hidden": bool})
    def heavy(s: Any, ts: int, price: int, size: int, taker_yes: bool, contracts: float = 10.0) -> bool:
        s.total += size / 100
        s._hidden = not s._hidden
        return s.total >= contracts

    tape = tape_of([(1, "A-B-1", 5000, 600, "yes")] * 5)
    assert heavy().run(tape)["total"].to_list() == [12.0]
    assert heavy(rearm=True).run(tape)["total"].to_list() == [12.0, 12.0]
    every = heavy(rearm="every", contracts=12).run(tape)
    assert every["total"].to_list() == [12.0, 18.0, 24.0, 30.0]
    assert every["n_trades"].to_list() == [2, 3, 4, 5]
    assert "_hidden" not in every.columns


def test_a_pandas_tape_returns_a_pandas_frame() -> None:
    tape = kl.sample()[0]
    fires = faded(min_trades=10, min_drop=100).run(tape.to_pandas())
    assert type(fires).__module__.startswith("pandas")
    assert len(fires) == faded(min_trades=10, min_drop=100).run(tape).height > 0


def plain(s: Any, ts: int, price: int, size: int, taker_yes: bool, n: int = 3) -> bool:
    return bool(s.n >= n)


def test_an_invalid_declaration_raises() -> None:
    with pytest.raises(SignalError, match="plain: buy must be one of 'yes', 'no', None, got 'maybe'"):
        kl.signal(buy="maybe")(plain)
    for state in ({"n": int}, {"names": str}, {"list": "O"}, {"a b": int}):
        with pytest.raises(SignalError, match="fields of int, float, bool"):
            kl.signal(state=state)(plain)
    with pytest.raises(SignalError, match="then parameters with defaults"):
        kl.signal()(lambda s, price: True)

    def needs(s: Any, ts: int, price: int, size: int, taker_yes: bool, n: int) -> bool:
        return True

    with pytest.raises(SignalError, match="as its default"):
        kl.signal()(needs)

    def again(s: Any, ts: int, price: int, size: int, taker_yes: bool, rearm: int = 3) -> bool:
        return True

    with pytest.raises(SignalError, match="another name"):
        kl.signal()(again)
    for not_a_mapping in (plain, ["first"]):
        with pytest.raises(SignalError, match="state must be a mapping"):
            kl.signal(not_a_mapping)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["row", "ts", "ticker", "side", "price", "n_trades", "class"])
def test_a_field_cannot_have_the_name_of_a_standard_column(field: str) -> None:
    with pytest.raises(SignalError, match=rf"state must be a name other than .*, got '{field}'"):
        kl.signal(state={field: int})(plain)
    kl.signal(state={f"_{field}": int})(plain)


def test_the_side_is_chosen_by_buy_or_by_the_step() -> None:
    def sold(s: Any, ts: int, price: int, size: int, taker_yes: bool) -> int:
        return kl.signals.BUY_NO if price > 5000 else kl.signals.NOTHING

    with pytest.raises(
        SignalError, match="buy must be set to None if the step itself returns the outcome to buy, got 'yes'"
    ):
        kl.signal()(sold)
    made = kl.signal(buy=None)(sold)
    assert made().run(tape_of([(1, "A-B-1", 6000, 1, "yes")]))["side"].to_list() == ["no"]


def test_invalid_parameters_raise() -> None:
    made = kl.signal()(plain)
    huge = ({"n": float("inf")}, {"n": 10**30})
    for wrong in ({"m": 3}, {"n": 2.5}, {"n": True}, {"n": "3"}, {"rearm": 2}, {"rearm": "stronger"}, *huge):
        with pytest.raises(SignalError):
            made(**wrong)
    assert made(n=3.0).parameters["n"] == 3


def test_a_step_that_does_not_compile_raises_before_the_tape_is_read() -> None:
    @kl.signal()
    def wrong(s: Any, ts: int, price: int, size: int, taker_yes: bool) -> bool:
        return s.nothing_of_the_kind > 0

    with pytest.raises(SignalError, match=r"a field of the state: n, got 's.nothing_of_the_kind'"):
        wrong()

    @kl.signal()
    def worse(s: Any, ts: int, price: int, size: int, taker_yes: bool) -> bool:
        return price > "five"  # type: ignore[operator]

    with pytest.raises(SignalError, match="a step that numba can compile"):
        worse()


COUNTED = 0


def test_a_step_must_return_whether_it_fires() -> None:
    def nothing(s, ts, price, size, taker_yes):  # type: ignore[no-untyped-def]
        s.n >= 3  # noqa: B015

    def sometimes(s, ts, price, size, taker_yes):  # type: ignore[no-untyped-def]
        if s.n < 3:
            return None
        return True

    def share(s, ts, price, size, taker_yes):  # type: ignore[no-untyped-def]
        return price / 10_000

    def word(s, ts, price, size, taker_yes):  # type: ignore[no-untyped-def]
        return "yes"

    for step in (nothing, sometimes, share, word):
        for buy, allowed in (("yes", "True or False"), (None, "BUY_YES, BUY_NO or NOTHING")):
            with pytest.raises(SignalError, match=rf"{step.__name__}: return must be .*{allowed}"):
                kl.signal(buy=buy)(step)()

    def counting(s, ts, price, size, taker_yes):  # type: ignore[no-untyped-def]
        global COUNTED
        COUNTED += 1
        return COUNTED > 3

    with pytest.raises(SignalError, match="a step that numba can compile"):
        kl.signal()(counting)()


def test_an_invalid_side_raises_alike_in_research_and_live() -> None:
    @kl.signal(buy=None)
    def signed(s: Any, ts: int, price: int, size: int, taker_yes: bool) -> int:
        return 1 if price > 5000 else -1

    tape = tape_of([(1, "A-B-1", 4000, 1, "no")])
    for take in (signed().run, signed().feed, lambda _: signed().update("A-B-1", 1, 4000, 1, "no")):
        with pytest.raises(SignalError, match="BUY_YES, BUY_NO or NOTHING"):
            take(tape)
    fire = signed().update("A-B-1", 1, 6000, 1, "no")
    assert fire is not None and fire.side == "yes"


def test_buy_none_leaves_the_side_to_the_step() -> None:
    @kl.signal(buy=None)
    def lean(s: Any, ts: int, price: int, size: int, taker_yes: bool) -> int:
        if price == 5000:
            return kl.signals.NOTHING
        return kl.signals.BUY_YES if price > 5000 else kl.signals.BUY_NO

    tape = tape_of([(1, "A-B-1", 5000, 1, "yes"), (1, "A-B-2", 6000, 1, "no"), (1, "A-B-1", 4000, 1, "no")])
    assert lean().run(tape).select("row", "side").rows() == [(1, "yes"), (2, "no")]
    assert np.array_equal(lean().feed(tape)["row"], [1, 2])
