"""What is judged, whatever it was given as: a signal, or a function from a tape to fires.

A **signal** (`kalshilab.signals`, `@kalshilab.signal`) is a step over one print at a time and cannot see later ones.
A **function** `tape -> fires` or `(tape, markets) -> fires` gets whole frames and can: which is what
`kalshilab.edge.lookahead.audit` is for.  Its fires are a frame with the columns of a signal's `run`: `row, ts, ticker, side,
price`, in any order; others are left alone.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
import polars as pl

from kalshilab.edge.canonical_json import canonical
from kalshilab.edge.lookahead.fresh_copy import anew
from kalshilab.errors import EdgeError
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.tape.frame_checks import polars_frame
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.tape.tape import Tape, frame_in_memory

__all__ = ["FIRES", "Strategy", "strategy_of"]

FIRES: dict[str, Any] = {"row": pl.UInt64, "ts": TIME, "ticker": pl.String, "side": TAKER, "price": pl.Int16}
"""The columns of fires that entries are made of."""


class Strategy(msgspec.Struct, frozen=True):
    """Something that fires."""

    name: str
    parameters: dict[str, Any]
    code: str
    """SHA-256 of its source text: the same name with another text is another strategy."""
    run: Callable[[Tape, pl.DataFrame | None], object]
    """`(tape, markets) -> fires`, a frame of any kind."""
    signal: Any = None
    """The signal itself, where it is one."""
    function: Any = None
    """The function, where it is one."""
    held_by: Any = None
    """Where it may hold what it was not given: the function or object as it was handed over, a signal's step."""

    @property
    def label(self) -> str:
        """Name and parameters, as one types them."""
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    def anew(self, until: datetime | None = None) -> Strategy:
        """The strategy as if it had never run, with nothing in its own tables that is later than `until`."""
        if self.signal is not None or self.held_by is None:
            return self
        return strategy_of(anew(self.held_by, until))

    def fires(self, tape: Tape, markets: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return its fires over a tape, by row.

        Raises:
            EdgeError: it is a function of frames and the tape is not in memory, or it did not return fires.
        """
        if self.function is not None and not tape.in_memory:
            raise EdgeError(
                f"{self.name} is a function of frames and cannot read a lake; pass lake.read(since, until), or write "
                "it as a @kalshilab.signal"
            )
        return self._typed(self.run(tape, markets))

    def _typed(self, found: object) -> pl.DataFrame:
        """Return fires with the dtypes of `FIRES`, by row."""
        frame = polars_frame(found)
        if frame is None:
            raise EdgeError(f"{self.name} returned {type(found).__name__}, not a frame of fires")
        for column in FIRES:
            if column not in frame.columns:
                raise EdgeError(
                    f"{self.name}: its fires have no column {column!r}; fires have row, ts, ticker, side and price"
                )
        try:
            typed = frame.with_columns(
                pl.col("side").cast(pl.String).cast(TAKER),
                *(pl.col(name).cast(dtype) for name, dtype in FIRES.items() if name != "side"),
            )
        except pl.exceptions.PolarsError as error:
            raise EdgeError(f"{self.name}: its fires are not as they should be: {error}") from None
        if any(typed[name].null_count() for name in FIRES):
            raise EdgeError(f"{self.name}: its fires have nulls")
        return pl.DataFrame(typed).sort("row", maintain_order=True)


def strategy_of(thing: Any) -> Strategy:
    """A strategy of a signal or a function; a strategy is itself.

    >>> from kalshilab.signals import Rlm
    >>> strategy_of(Rlm(min_trades=15)).name
    'rlm'

    Raises:
        EdgeError: neither.
    """
    if isinstance(thing, Strategy):
        return thing
    if isinstance(thing, CompiledSignal):
        parameters = {k: v for k, v in thing.parameters.items() if _plain(v)}
        step = getattr(getattr(thing, "declaration", None), "step", None)
        return Strategy(
            thing.name, parameters, _code(thing), lambda tape, _: thing.fires(tape), thing, held_by=step
        )
    if callable(getattr(thing, "run", None)) and not isinstance(thing, type):
        parameters = {k: v for k, v in getattr(thing, "parameters", {}).items() if _plain(v)}
        name = str(getattr(thing, "name", type(thing).__name__))
        return Strategy(
            name,
            parameters,
            _text(type(thing)),
            _on_frames(thing.run),
            function=type(thing).run,
            held_by=thing,
        )
    if callable(thing) and not isinstance(thing, type):
        name = getattr(getattr(thing, "func", thing), "__name__", type(thing).__name__)
        return Strategy(name, {}, _text(thing), _on_frames(thing), function=thing, held_by=thing)
    shown = repr(thing) if isinstance(thing, type) else type(thing).__name__
    raise EdgeError(
        f"{shown} is neither a signal nor a function of a tape; make the signal first, as kl.signals.Rlm()"
    )


def _on_frames(function: Callable[..., object]) -> Callable[[Tape, pl.DataFrame | None], object]:
    """Return a function of a tape and markets that calls `function` with frames, with the markets if it takes them."""
    if _takes(function) > 1:
        return lambda tape, markets: function(frame_in_memory(tape), markets)
    return lambda tape, _: function(frame_in_memory(tape))


def _takes(function: Callable[..., Any]) -> int:
    """How many positional arguments a function takes."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(function).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in found)


def _code(signal: CompiledSignal) -> str:
    declared = getattr(signal, "declaration", None)
    return _text(type(signal) if declared is None else declared.step)


def _text(thing: Any) -> str:
    """The hash of a source text; of what was typed where no text is kept, its bytecode."""
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        text = repr(thing) if code is None else code.co_code.hex() + repr(code.co_consts)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> bool:
    """Whether a parameter can stand in a specification."""
    try:
        canonical(value)
    except (TypeError, ValueError, EdgeError):
        return False
    return True
