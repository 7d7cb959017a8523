"""A signal at many settings of its parameters, in one reading of the tape.

The tape is read once for all cells; cells that can share their counting do (for `rlm`, those that fire once a
market), the others run side by side on two threads.
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
from kalshilab.signals.engine.model import Frame, like
from kalshilab.signals.scan import scan_cells

__all__ = ["cells_of", "grid"]


def cells_of(
    kind: Callable[..., CompiledSignal], parameters: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[CompiledSignal]]:
    """The settings of a grid's cells, varied parameters only, and their signals.

    A parameter is varied if it is given as a list, a range, an array or a series; the last one varies fastest.

    Raises:
        SignalError: a value out of range.
        UsageError: a list of nothing, or `kind` is not what makes signals.
    """
    if not callable(kind) or (inspect.isfunction(kind) and "tape" in inspect.signature(kind).parameters):
        named = getattr(kind, "__name__", repr(kind))
        raise UsageError(
            f"grid: {named} is not a signal's class; grid takes Rlm, PriceBand, ... or a custom signal"
        )
    varied = {k: [plain(value) for value in v] for k, v in parameters.items() if _several(v)}
    for name, values in varied.items():
        if not values:
            raise UsageError(f"grid: {name} has no values")
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
    """The fires of a signal at every combination of some parameters' values.

    Args:
        tape: a tape of any frame kind, a `Lake`, or the path of one.
        kind: a signal's class, or a custom signal.
        executor, shards: as for `scan`.
        parameters: of the signal; those given as lists, ranges, arrays or series are varied.

    Returns:
        The fires as a frame of the tape's kind (polars for a lake), in the order of the cells and then of the
        tape: a column for each varied parameter, then those of the signal's `run`.  A parameter that is named
        like one of these (`side`) has `_set` behind its name.

    >>> import kalshilab as kl
    >>> tape, _ = kl.sample()
    >>> found = grid(tape, kl.signals.Rlm, yes_threshold=[0.6, 0.7], min_trades=[15, 25])
    >>> found.columns[:3]
    ['yes_threshold', 'min_trades', 'row']
    >>> one = found.filter(pl.col("yes_threshold") == 0.7, pl.col("min_trades") == 25).drop("yes_threshold", "min_trades")
    >>> one.equals(kl.signals.rlm(tape, yes_threshold=0.7, min_trades=25))
    True

    Raises:
        SignalError: a parameter out of range, before anything is read.
        TapeError, LakeError: as for `scan`.
        UsageError: a list of nothing, or `kind` is not what makes signals.
    """
    settings, signals = cells_of(kind, parameters)
    found = scan_cells(tape, signals, executor, shards)
    labelled = [
        frame.select(
            *(
                pl.lit(_shown(value)).alias(name if name not in frame.columns else f"{name}_set")
                for name, value in setting.items()
            ),
            pl.all(),
        )
        for setting, frame in zip(settings, found, strict=True)
    ]
    whole = pl.concat(labelled, how="vertical_relaxed")
    return like(whole, tape)


def _several(value: Any) -> bool:
    """Whether a parameter's value is a list of values: of pandas' series too, without importing pandas for it."""
    pandas = type(value).__module__.partition(".")[0] == "pandas" and type(value).__name__ == "Series"
    return pandas or isinstance(value, list | range | np.ndarray | pl.Series)


def _shown(value: Any) -> Any:
    """A parameter's value as a column can hold it: an object, such as a policy, by its name."""
    if value is None or isinstance(value, bool | int | float | str | tuple | list):
        return value
    return getattr(value, "__name__", None) or type(value).__name__
