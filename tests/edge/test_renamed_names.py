"""Old keywords and names of statistics, sizing, pre-registration and live monitoring: accepted, with a warning."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from kalshilab.edge.live.monitor import Cusum, monitor
from kalshilab.edge.live.replay_gap import ReplayGap, replay_gap
from kalshilab.edge.prereg.lockbox import LockboxLook
from kalshilab.edge.schema import arrays_of
from kalshilab.edge.sizing.capacity import book_capacity, tape_capacity
from kalshilab.edge.sizing.kelly import bounded_edge, drawdowns, shrunken, stake
from kalshilab.edge.stats.inference import bootstrap, infer, wild
from kalshilab.edge.stats.martingale import invert, null_means
from kalshilab.edge.stats.multiplicity import romano_wolf
from kalshilab.edge.stats.resampling import blocks_of, draw
from kalshilab.edge.stats.sequential import day_batches
from kalshilab.edge.stats.simulated_entries import entries
from kalshilab.tape import synth

SIGNAL, _ = entries(40, seed=1)
PNL = SIGNAL["pnl"].to_numpy()
VALUES = np.random.default_rng(0).normal(size=(60, 2))
TAPE = synth.martingale(5, seed=1)[0]


def shown(result: object) -> str:
    """Return a text that is equal for equal results."""
    if isinstance(result, pl.DataFrame):
        return str(result.to_dicts())
    frame = getattr(result, "frame", None)
    return f"{result!r} {frame.to_dicts() if isinstance(frame, pl.DataFrame) else ''}"


@pytest.mark.parametrize(
    ("old", "call"),
    [
        ("b", lambda **k: infer(SIGNAL, **k or {"resamples": 19})),
        ("b", lambda **k: bootstrap(PNL, range(len(PNL)), **k or {"resamples": 19})),
        ("b", lambda **k: wild(PNL, range(len(PNL)), **k or {"resamples": 19})),
        ("b", lambda **k: null_means(SIGNAL, **k or {"resamples": 19})),
        ("b", lambda **k: invert(arrays_of(SIGNAL), **k or {"resamples": 19})),
        ("b", lambda **k: romano_wolf(VALUES, **k or {"resamples": 19}).p),
        ("b", lambda **k: [n for n, _ in blocks_of(width=3, seed=0, **k or {"resamples": 19})]),
        ("of", lambda **k: draw(task=len_of, blocks=blocks_of(19, 3, 0), **k or {"sample": 19})),
        ("horizon", lambda **k: day_batches(SIGNAL, **k or {"horizon_days": 19})),
        ("spread", lambda **k: entries(9, kind="ladder", **k or {"spread_cents": 19})[0]),
        ("hold", lambda **k: entries(9, **k or {"hold_days": 19})[0]),
        ("flb", lambda **k: entries(9, favourite=0.99, **k or {"flb_cents": 19})[0]),
        ("se", lambda **k: shrunken(3.0, **k or {"se_cents": 19})),
        ("prior_sd", lambda **k: shrunken(3.0, 1.0, **k or {"prior_sd_cents": 19})),
        ("prior_sd", lambda **k: bounded_edge(3.0, 1.0, **k or {"prior_sd_cents": 19})),
        ("prior_sd", lambda **k: stake(3.0, 1.0, 0.5, **k or {"prior_sd_cents": 19})),
        ("lower", lambda **k: drawdowns(SIGNAL, 0.01, resamples=9, **k or {"lower_cents": 19})),
        ("block", lambda **k: drawdowns(SIGNAL, 0.01, resamples=9, **k or {"block_days": 19})),
        ("hurdle", lambda **k: book_capacity([0.5], [9], 0.9, **k or {"hurdle_cents": 19})),
        ("window", lambda **k: tape_capacity(SIGNAL, TAPE, **k or {"window_s": 19})),
        ("latency", lambda **k: tape_capacity(SIGNAL, TAPE, **k or {"latency_s": 19})),
        ("tolerance", lambda **k: replay_gap(SIGNAL, SIGNAL, **k or {"tolerance_s": 19})),
        ("window", lambda **k: monitor(SIGNAL, 3.0, **k or {"window_days": 19})),
        ("horizon", lambda **k: monitor(SIGNAL, 3.0, **k or {"horizon_days": 19})),
        ("reference", lambda **k: Cusum().update(0.1, **k or {"reference_cents": 19})),
    ],
)
def test_an_old_keyword_warns_and_has_the_same_effect(old: str, call: Callable[..., object]) -> None:
    with pytest.warns(DeprecationWarning, match=f"the keyword '{old}' is now '"):
        warned = call(**{old: 19})
    assert shown(warned) == shown(call())


def len_of(sample: int, resamples: int, rng: np.random.Generator) -> int:
    return sample * resamples


def test_series_horizons_are_accepted_under_their_old_keyword() -> None:
    with pytest.warns(DeprecationWarning, match="the keyword 'slow' is now 'series_horizon_days'"):
        old = monitor(SIGNAL, 3.0, horizon_days=5, slow={"KXSPORTS": 9})
    assert shown(old) == shown(monitor(SIGNAL, 3.0, horizon_days=5, series_horizon_days={"KXSPORTS": 9}))


@pytest.mark.parametrize(
    ("result", "old", "new"),
    [
        (infer(SIGNAL, resamples=19), "b", "resamples"),
        (romano_wolf(VALUES, resamples=19), "b", "resamples"),
        (tape_capacity(SIGNAL, TAPE, window_s=60.0), "window", "window_s"),
    ],
)
def test_an_old_field_warns_and_has_the_same_value(result: object, old: str, new: str) -> None:
    with pytest.warns(DeprecationWarning, match=f"{old} is now .*{new}"):
        value = getattr(result, old)
    assert value == getattr(result, new)


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("live", "Gap", ReplayGap),
        ("live.replay_gap", "Gap", ReplayGap),
        ("live.monitor", "Gap", ReplayGap),
        ("prereg", "Look", LockboxLook),
        ("prereg.lockbox", "Look", LockboxLook),
    ],
)
def test_an_old_class_name_warns_and_is_the_same_class(module: str, old: str, new: type) -> None:
    home = importlib.import_module(f"kalshilab.edge.{module}")
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new.__name__} of"):
        assert getattr(home, old) is new
