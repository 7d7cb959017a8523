"""A signal at many settings of its parameters, in a single reading of the tape.

The tape is read once for all cells.  Cells that can share their state do (for `rlm`, those that fire once per market);
the others run in parallel on two threads.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from kalshilab.errors import UsageError
from kalshilab.signals.engine.compiled_signal import CompiledSignal, plain
from kalshilab.signals.engine.model import Frame, Parameters, like
from kalshilab.signals.scan import scan_cells

__all__ = ["cells_of", "grid"]


def cells_of(
    kind: Callable[..., CompiledSignal], parameters: Parameters
) -> tuple[list[Parameters], list[CompiledSignal]]:
    """Return the settings of a grid's cells (varied parameters only) and their signals.

    A parameter varies if it is given as a list, a range, an array or a series; the last one varies fastest.

    Raises:
        SignalError: a value is out of range.
        UsageError: a parameter has no values, or `kind` is not the class of a signal.
    """
    if not callable(kind) or (inspect.isfunction(kind) and "tape" in inspect.signature(kind).parameters):
        shown = getattr(kind, "__name__", repr(kind))
        raise UsageError(
            f"kind must be the class of a signal, such as Rlm, PriceBand or a custom signal, got {shown}"
        )
    varied = {k: [plain(value) for value in v] for k, v in parameters.items() if _several(v)}
    for name, values in varied.items():
        if not values:
            raise UsageError(f"{name} must have at least one value, got []; leave it out to use its default")
    fixed = {k: v for k, v in parameters.items() if k not in varied}
    settings = [dict(zip(varied, values, strict=True)) for values in product(*varied.values())]
    return settings, [kind(**fixed, **setting) for setting in settings]


def grid(
    tape: Frame,
    kind: Callable[..., CompiledSignal],
    executor: Executor | int | None = None,
    *,
    shards: int | None = None,
    **parameters: Any,
) -> Frame:
    """Return the fires of a signal at every combination of some parameters' values.

    Args:
        tape: a tape as a frame, a `Lake`, or the path of a lake.
        kind: the class of a signal, or a custom signal.
        executor: the processes that scan, as for `scan`.
        shards: the number of shards of the markets, as for `scan`.
        parameters: parameters of the signal; those given as lists, ranges, arrays or series vary.

    Returns:
        The fires as a frame of the tape's kind (polars for a lake), in the order of the cells and then of the tape.
        It has a column for each varied parameter, followed by those of the signal's `run`.  A parameter with the name
        of such a column (`side`) gets the suffix `_set`.

    >>> import kalshilab as kl
    >>> tape, _ = kl.sample()
    >>> found = grid(tape, kl.signals.Rlm, yes_threshold=[0.6, 0.7], min_trades=[15, 25])
    >>> found.columns[:3]
    ['yes_threshold', 'min_trades', 'row']
    >>> one = found.filter(pl.col("yes_threshold") == 0.7, pl.col("min_trades") == 25).drop("yes_threshold", "min_trades")
    >>> one.equals(kl.signals.rlm(tape, yes_threshold=0.7, min_trades=25))
    True

    Raises:
        SignalError: a parameter is out of range; raised before the tape is read.
        TapeError, LakeError: as for `scan`.
        UsageError: a parameter has no values, or `kind` is not the class of a signal.
    """
    settings, signals = cells_of(kind, parameters)
    frames = scan_cells(tape, signals, executor, shards)
    labelled = [
        frame.select(
            *(
                pl.lit(_shown(value)).alias(name if name not in frame.columns else f"{name}_set")
                for name, value in setting.items()
            ),
            pl.all(),
        )
        for setting, frame in zip(settings, frames, strict=True)
    ]
    whole = pl.concat(labelled, how="vertical_relaxed")
    return like(whole, tape)


def _several(value: object) -> bool:
    """Return whether a parameter's value is a list of values; pandas is not imported for the test."""
    pandas = type(value).__module__.partition(".")[0] == "pandas" and type(value).__name__ == "Series"
    return pandas or isinstance(value, list | range | np.ndarray | pl.Series)


def _shown(value: object) -> object:
    """Return a parameter's value as a column can hold it; an object, such as a policy, becomes its name."""
    if value is None or isinstance(value, bool | int | float | str | tuple | list):
        return value
    return getattr(value, "__name__", None) or type(value).__name__
