"""A policy observes only the past; its answers become fires, live and over a tape alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from made_tapes import Past, Print, as_rows, by_market, live, prints, tape_of

import kalshilab as kl
from kalshilab.errors import SignalError
from kalshilab.signals import Observation, RlModel
from kalshilab.tape import Lake


class Counting:
    """A policy that sells at every third print of a market that rose, and buys if it fell."""

    def __init__(self) -> None:
        self.resets: list[str | None] = []
        self.seen: list[Observation] = []

    def act(self, seen: Observation) -> str:
        self.seen.append(seen)
        if seen.n_trades % 3 or not seen.change:
            return "hold"
        return "sell" if seen.change > 0 else "buy"

    def reset(self, ticker: str | None) -> None:
        self.resets.append(ticker)


@settings(max_examples=60)
@given(prints())
def test_live_run_and_reference_agree(rows: list[Print]) -> None:
    tape = tape_of(rows)
    signal = RlModel(Counting())
    fires = signal.run(tape)
    expected = []
    for row, past in by_market(tape):
        change = past[-1][1] - past[0][1]
        if len(past) % 3 == 0 and change:
            expected.append((row, "no" if change > 0 else "yes"))
    assert [(r[0], r[3]) for r in as_rows(fires)] == expected
    assert live(signal, tape) == as_rows(fires)


@settings(max_examples=60)
@given(prints())
def test_an_observation_holds_only_the_past(rows: list[Print]) -> None:
    policy = Counting()
    signal, tape = RlModel(policy), tape_of(rows)
    live(signal, tape)
    pasts: list[Past] = [list(past) for _, past in by_market(tape)]
    for seen, past in zip(policy.seen, pasts, strict=True):
        prices = [p[1] for p in past]
        assert (seen.ts, seen.price, seen.size, seen.taker) == past[-1]
        assert (seen.n_trades, seen.first_price, seen.low, seen.high) == (
            len(past),
            prices[0],
            min(prices),
            max(prices),
        )
        assert seen.yes_ratio == sum(p[3] == "yes" for p in past) / len(past)
        assert (seen.change, seen.volume) == (prices[-1] - prices[0], sum(p[2] for p in past))
        assert seen.since_last == (past[-1][0] - past[-2][0] if len(past) > 1 else 0)


def test_scan_and_grid_accept_a_policy(tmp_path: Path) -> None:
    tape, markets = kl.sample()
    lake = Lake.create(tmp_path / "lake")
    lake.append(tape, markets)
    policy = Counting()
    whole = RlModel(policy).run(tape)
    assert whole.height > 100
    assert kl.signals.scan(lake, RlModel(policy)).equals(whole)
    assert kl.signals.scan(str(lake.path), RlModel(policy), shards=3).equals(whole)
    assert RlModel(policy).run(lake).equals(whole)
    assert kl.signals.rl_model(tape, policy=policy).equals(whole)
    assert kl.signals.scan(tape.lazy(), RlModel(policy)).collect().equals(whole)

    def never(seen: Observation) -> str:
        return "hold"

    fires = kl.signals.grid(tape.to_pandas(), RlModel, policy=[policy, never])
    assert len(fires) == whole.height


def test_update_rejects_an_invalid_print() -> None:
    with pytest.raises(SignalError, match="whole number"):
        RlModel(Counting()).update("A-B-1", 1, 0.43, 100, "yes")  # type: ignore[arg-type]
    with pytest.raises(SignalError, match="0 to 10,000"):
        RlModel(Counting()).update("A-B-1", 1, 10_001, 100, "yes")


def test_without_a_policy_it_holds_and_warns_with_the_reason() -> None:
    signal = RlModel()
    assert "no policy is set" in signal.why
    with pytest.warns(UserWarning, match="no policy is set"):
        assert signal.run(kl.sample()[0]).height == 0
    assert signal.update("A-B-1", 1, 5000, 100, "yes") is None
    assert signal.state("A-B-1") == (1, 1.0)
    assert RlModel(Counting()).why == ""


def test_a_policy_is_imported_by_name() -> None:
    import sys
    import types

    module = types.ModuleType("a_policy_of_mine")
    module.Counting, module.made, module.number = Counting, Counting(), 3  # type: ignore[attr-defined]
    sys.modules["a_policy_of_mine"] = module
    try:
        tape = kl.sample()[0].head(2_000)
        by_class, by_object = RlModel("a_policy_of_mine:Counting"), RlModel("a_policy_of_mine:made")
        assert by_class.run(tape).equals(by_object.run(tape))
        assert repr(by_class) == "RlModel(policy='a_policy_of_mine:Counting')"
        for wrong in (
            "a_policy_of_mine",
            "no_such_module_here:x",
            "a_policy_of_mine:nothing",
            "a_policy_of_mine:number",
        ):
            with pytest.raises(SignalError, match="policy"):
                RlModel(wrong)
    finally:
        del sys.modules["a_policy_of_mine"]


def test_an_answer_that_is_not_an_action_raises() -> None:
    answers: list[Any] = ["HOLD", None, 1]
    for answer in answers:
        with pytest.raises(SignalError, match="hold, buy or sell"):
            RlModel(lambda seen, answer=answer: answer).update("A-B-1", 1, 5000, 100, "yes")
    with pytest.raises(SignalError, match="taker"):
        RlModel().update("A-B-1", 1, 5000, 100, "unknown")


def test_reset_calls_the_reset_of_the_policy() -> None:
    policy = Counting()
    signal = RlModel(policy)
    signal.update("A-B-1", 1, 5000, 100, "yes")
    signal.reset("A-B-1")
    signal.reset()
    assert policy.resets == ["A-B-1", None]
    assert signal.state("A-B-1") is None
