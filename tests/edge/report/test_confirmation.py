"""Line 12: overlapping data are recognised, and a lockbox set after its inside was seen confirms nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import kalshilab as kl
from kalshilab.edge.prereg.hypothesis import hypothesis_of
from kalshilab.edge.prereg.lockbox import Lockbox
from kalshilab.edge.prereg.registry import Registry, Trial
from kalshilab.edge.report.confirmation import (
    confirmed_by_lockbox,
    confirmed_by_registration,
    data_of,
    sketch_of,
)
from kalshilab.edge.stats import simulated_entries
from kalshilab.edge.stats.inference import infer
from kalshilab.errors import EdgeError
from kalshilab.tape.lake.lake import Lake
from kalshilab.tape.tape import FrameTape

TAPE, MARKETS = kl.synth.martingale(n_markets=1_500, seed=3)
FIRST, SECOND = kl.signals.Rlm(min_trades=8), kl.signals.Rlm(min_trades=12)
SIGNAL, _ = simulated_entries.entries(2_000, edge=8.0, seed=1)


def named(signal: Any, name: str) -> Any:
    return hypothesis_of(signal, id=name, family="f", mechanism="m", author="us")


def tried(registry: Registry, prereg: str, tape: pl.DataFrame) -> None:
    trials = [Trial({}, 0.5, 0.0, None)]
    registry.evaluated_all(
        prereg, trials, data_of(FrameTape.of(tape), MARKETS)["hash"], sketch=sketch_of(FrameTape.of(tape))
    )


def test_sketches_of_overlapping_tapes_share_hashes() -> None:
    half, other = TAPE.head(TAPE.height // 2), kl.synth.martingale(n_markets=1_500, seed=4)[0]
    sketch = sketch_of(FrameTape.of(TAPE))
    assert sketch == sketch_of(FrameTape.of(TAPE.to_pandas())) and len(sketch) == 32
    assert 5 < len(set(sketch) & set(sketch_of(FrameTape.of(half)))) < 27
    assert not set(sketch) & set(sketch_of(FrameTape.of(other)))
    assert sketch_of(FrameTape(TAPE.head(0))) == () and len(sketch_of(FrameTape(TAPE.head(1)))) == 1


def test_a_lake_has_the_same_sketch_as_its_frame(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake")
    lake.append(TAPE, MARKETS)
    assert sketch_of(lake) == sketch_of(FrameTape(lake.read())) == sketch_of(FrameTape(TAPE))


def test_a_longer_or_shorter_tape_does_not_pass_for_a_new_sample(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "r.jsonl")
    tried(registry, registry.register(named(FIRST, "A")), TAPE)
    late = registry.register(named(SECOND, "B"))
    found = infer(SIGNAL, resamples=499)
    fresh = kl.synth.martingale(n_markets=1_500, seed=4)[0]
    for tape, passed in (
        (TAPE.head(TAPE.height - 500), False),
        (TAPE.tail(TAPE.height - 500), False),
        (fresh, True),
    ):
        again = Registry(tmp_path / "r.jsonl")
        hash_ = data_of(FrameTape(tape), MARKETS)["hash"]
        line = confirmed_by_registration(
            again, late, "f", hash_, sketch_of(FrameTape(tape)), found, 1, in_process=False
        )
        assert line.passed is passed, line
        assert passed or "or on part of them" in line.detail


def test_a_lockbox_set_after_its_inside_was_seen_confirms_nothing() -> None:
    for before in (True, False):
        registry = Registry()
        prereg = registry.register(named(FIRST, "A"))
        box = Lockbox(registry, "f")
        if before:
            tried(registry, prereg, TAPE)
        box.split(SIGNAL)
        if not before:
            tried(registry, prereg, TAPE)
        hash_ = data_of(FrameTape(TAPE), MARKETS)["hash"]
        line, boundary = confirmed_by_lockbox(
            box, registry, SIGNAL, prereg, hash_, sketch_of(FrameTape(TAPE)), seed=0
        )
        assert line.passed is not before and (boundary is None) is before
        assert len(box.looks()) == (not before), "a lockbox that cannot confirm spends no look"
        assert not before or "before its lockbox was set" in line.detail


def test_validations_after_the_lockbox_is_set_do_not_see_the_inside() -> None:
    registry = Registry()
    tape, markets = kl.synth.martingale(n_markets=4_000, seed=1)
    rule = kl.signals.Rlm(yes_threshold=0.65, min_trades=8, min_drop=2)
    registry.register(named(rule, "A"))
    whole = kl.validate(rule, tape, markets, registry=registry_of(rule), resamples=199)
    shut = kl.validate(rule, tape, markets, registry=registry, lockbox=True, resamples=199)
    after = kl.validate(rule, tape, markets, registry=registry, resamples=199)
    begins = Lockbox(registry, "f").split(whole.entries)[1]
    for card in (shut, after):
        assert card.entries["ts"].max() < begins < whole.entries["ts"].max()  # type: ignore[operator]
        assert card.frames["pool"]["ts"].max() < begins  # type: ignore[operator]
        assert card.frames["equity"]["ts"].max() < begins  # type: ignore[operator]
    assert after.numbers["net"] == shut.numbers["net"]
    assert 0.5 < shut.entries.height / whole.entries.height < 0.75


def registry_of(signal: Any) -> Registry:
    registry = Registry()
    registry.register(named(signal, "A"))
    return registry


def test_a_lockbox_needs_entries() -> None:
    registry = Registry()
    prereg = registry.register(named(FIRST, "A"))
    with pytest.raises(EdgeError, match="must not be empty to set the boundary of a lockbox"):
        confirmed_by_lockbox(Lockbox(registry, "f"), registry, SIGNAL.head(0), prereg, "d", (), seed=0)
