"""A signal of one's own: a step in a dozen lines, compiled, and usable wherever the built-in signals are.

    import kalshilab as kl

    @kl.signal(state={"first": int, "yes": int}, buy="no")
    def faded(s, ts, price, size, taker_yes, min_trades=20, min_drop=500):
        if s.n == 1:
            s.first = price
        s.yes += taker_yes
        return s.n >= min_trades and s.yes > 0.7 * s.n and s.first - price >= min_drop

    faded().run(tape)                                   # research
    faded(min_trades=10).update(ticker, ts, price, size, taker)      # live
    kl.signals.grid(tape, faded, min_trades=[10, 20, 40])

**The step** gets the market's state and one print: `ts` in microseconds, `price` the YES price in 1/10,000
dollar, `size` in 1/100 contract, `taker_yes` whether the taker bought YES.  Then come the parameters, numbers
or truth values, with their defaults.  It says whether the signal fires as of this print, True or False at each
of its ends.  Only columns that its text mentions are read from the tape.

**The state** is what the step may remember of a market: the declared fields, all zero at first, and `s.n`, the
prints so far, this one included, which is counted for it.  What stands in the fields when it fires becomes the
fire's own columns; fields whose names begin with an underscore do not, and may be called as a fire's other
columns are (`_price`).

**After a fire** a market fires no more; with `rearm=True` it starts anew from zeros at its next print; with
`rearm="every"` its state goes on and it fires whenever the step says so.  `rearm` is a parameter of every
custom signal.

The step is compiled by numba: arithmetic, comparisons, `math`, numpy's scalar functions, and other compiled functions.
A division by zero is infinite or not a number there, no error: ask for `s.n > 1` before you divide by `s.n - 1`.
It sees one print at a time, so it cannot look ahead.
"""

from __future__ import annotations

import dis
import inspect
import keyword
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar

import cloudpickle
import msgspec
import numpy as np
import polars as pl
from numba import types
from numba.core.errors import NumbaError, UnsupportedBytecodeError

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import CompiledSignal, plain
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Array, compiled
from kalshilab.signals.engine.model import Fire

__all__ = ["CustomSignal", "Declaration", "signal"]

PRINT = ("ts", "price", "size", "taker_yes")
_KINDS = {int: "i8", float: "f8", bool: "u1"}
_PLAIN = {"i": int, "u": int, "f": float, "b": bool}
_TAKEN = Fire.__struct_fields__
"""What a fire's columns are called before the signal's own."""
_REARM = {False: 0, True: 1, "every": 2}


class Declaration(msgspec.Struct, frozen=True):
    """What `signal` was given, enough to make the signal again elsewhere."""

    step: Callable[..., Any]
    state: dict[str, Any]
    buy: str | None


def signal(
    state: Mapping[str, Any] | None = None, *, buy: str | None = "yes"
) -> Callable[[Callable[..., Any]], type[CustomSignal]]:
    """Make a signal class of a step; see the module for what a step is.

    Args:
        state: fields and their types: int, float, bool, or a numpy type such as "i4".
        buy: the outcome a fire says to buy, "yes" or "no"; None: the step itself returns
            `kl.signals.BUY_YES`, `BUY_NO` or `NOTHING`.

    >>> import kalshilab as kl
    >>> @signal(state={"low": int}, buy="yes")
    ... def rebound(s, ts, price, size, taker_yes, cents=10):
    ...     if s.n == 1 or price < s.low:
    ...         s.low = price
    ...     return price >= s.low + cents * 100
    >>> fires = rebound(cents=20).run(kl.sample()[0])
    >>> fires.columns
    ['row', 'ts', 'ticker', 'side', 'price', 'n_trades', 'low']

    Raises:
        SignalError: the step's arguments are not as they should be; a field is of no type that a record holds, or is
            called as a fire's other columns are; `buy` says a side and the step another.
    """
    given: Any = state
    if callable(given):
        named = getattr(given, "__name__", "step")
        raise SignalError(
            named, "state", "the step itself", "@kl.signal(state={...}), or @kl.signal() without"
        )
    if not isinstance(given, Mapping | None):
        raise SignalError("signal", "state", given, "fields and their types, {name: type}")

    def make(step: Callable[..., Any]) -> type[CustomSignal]:
        return _class_of(Declaration(step, dict(state or {}), buy))

    return make


class CustomSignal(CompiledSignal):
    """Base of what `signal` makes: a `CompiledSignal` whose parameters are those of its step, and `rearm`.

    Raises:
        SignalError: an unknown parameter, one of another kind than its default, or a step that does not compile or
            does not say whether it fires.
    """

    declaration: ClassVar[Declaration]
    defaults: ClassVar[dict[str, Any]]
    dtype: ClassVar[np.dtype[Any]]
    inner: ClassVar[Any]
    """The user's own step, compiled."""

    def __init__(self, *, rearm: Any = False, **parameters: Any) -> None:
        for name in parameters:
            if name not in self.defaults:
                raise SignalError(
                    self.name, name, parameters[name], f"one of {', '.join([*self.defaults, 'rearm'])}"
                )
        rearm = plain(rearm)
        if not isinstance(rearm, bool) and rearm != "every":
            raise SignalError(self.name, "rearm", rearm, 'False, True or "every"')
        given = {
            name: _like(self.name, name, parameters.get(name, d), d) for name, d in self.defaults.items()
        }
        try:
            super().__init__((_REARM[rearm], *given.values()), {**given, "rearm": rearm}, self.dtype)
        except KeyError as error:
            # What numba says of a record without that field.
            declared = ", ".join(["n", *self.declaration.state])
            raise SignalError(
                self.name, "step", f"s.{error.args[0]}", f"a field of the state: {declared}"
            ) from None
        except (NumbaError, UnsupportedBytecodeError) as error:
            self._answers()
            raise SignalError(self.name, "step", self.declaration.step.__name__, _why(error)) from None
        self._answers()

    def _answers(self) -> None:
        """That the step, if it compiled, says whether it fires at each of its ends: a text or 0.5 would be a fire,
        and no `return` would be none, for ever.
        """
        for signature in self.inner.nopython_signatures:
            given = signature.return_type
            if not isinstance(given, types.Boolean | types.Integer):
                allowed = "True or False" if self.declaration.buy else "kl.signals.BUY_YES, BUY_NO or NOTHING"
                raise SignalError(self.name, "return", given, f"{allowed}, at each of the step's ends")

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {name: np.ascontiguousarray(seen[name]) for name in self.columns}

    def state(self, ticker: str) -> dict[str, Any] | None:
        """The market's live fields, or None if no print of it was seen since its reset."""
        s = self.live(ticker)
        return None if s is None else {name: s[name].item() for name in ("n", *self.declaration.state)}

    def __reduce__(self) -> tuple[Any, ...]:
        # By value, so that a step defined in a notebook reaches a worker process.
        return _again, (cloudpickle.dumps(self.declaration), self.parameters)


def _again(declaration: bytes, parameters: dict[str, Any]) -> CustomSignal:
    return _class_from(declaration)(**parameters)


@lru_cache(maxsize=64)
def _class_from(declaration: bytes) -> type[CustomSignal]:
    """The class of a declaration, compiled once in a process, however many units of work bring it."""
    return _class_of(cloudpickle.loads(declaration))


def _class_of(declaration: Declaration) -> type[CustomSignal]:
    step, name = declaration.step, declaration.step.__name__
    arguments = list(inspect.signature(step).parameters.values())
    if [a.name for a in arguments[1:5]] != list(PRINT):
        shown = f"({', '.join(a.name for a in arguments)})"
        raise SignalError(name, "step", shown, f"(s, {', '.join(PRINT)}, then parameters with defaults)")
    for a in arguments[5:]:
        if a.default is inspect.Parameter.empty or not isinstance(a.default, bool | int | float):
            given = "no default" if a.default is inspect.Parameter.empty else a.default
            raise SignalError(
                name, a.name, given, "a parameter with a number or a truth value as its default"
            )
        if a.name == "rearm":
            raise SignalError(
                name, "rearm", a.default, "another name: every custom signal has this parameter"
            )
    if declaration.buy not in ("yes", "no", None):
        raise SignalError(name, "buy", declaration.buy, "yes, no or None")
    if declaration.buy is not None and {"BUY_YES", "BUY_NO"} & set(step.__code__.co_names):
        raise SignalError(
            name, "buy", declaration.buy, "None, where the step itself says which outcome to buy"
        )
    fields: list[tuple[str, Any]] = [("n", "i8"), ("fired__", "u1")]
    for field, kind in declaration.state.items():
        try:
            dtype = np.dtype(_KINDS.get(kind, kind))
        except TypeError:
            dtype = np.dtype("O")
        if field in _TAKEN or keyword.iskeyword(field):
            raise SignalError(name, "state", field, f"a name other than Python's own and {', '.join(_TAKEN)}")
        if dtype.kind not in _PLAIN or dtype.shape or field in ("n", "fired__") or not field.isidentifier():
            raise SignalError(
                name, "state", f"{field}: {kind!r}", "fields of int, float, bool or a numpy number"
            )
        fields.append((field, dtype))
    inner = compiled(step)
    shown_fields = [(f, np.dtype(d)) for f, d in fields[2:] if not f.startswith("_")]
    body: dict[str, Any] = {
        "__doc__": step.__doc__ or f"The custom signal {name}.",
        "__module__": step.__module__,
        "name": name,
        "declaration": declaration,
        "defaults": {a.name: a.default for a in arguments[5:]},
        "dtype": np.dtype(fields, align=True),
        "inner": inner,
        "step": staticmethod(_compiled_step(declaration, inner)),
        "reads": _reads(step),
        "columns": {f: pl.Series(np.zeros(0, d)).dtype for f, d in shown_fields},
        "fire": msgspec.defstruct(
            f"{name}_fire", [(f, _PLAIN[d.kind]) for f, d in shown_fields], bases=(Fire,), frozen=True
        ),
    }
    return type(name, (CustomSignal,), body)


def _reads(step: Callable[..., Any]) -> tuple[str, ...]:
    """The columns that the step's text mentions."""
    used: set[Any] = set()
    for instruction in dis.get_instructions(step):
        value = instruction.argval
        used.update(value if isinstance(value, tuple) else [value])
    return tuple(name.removesuffix("_yes") for name in PRINT if name in used)


def _compiled_step(declaration: Declaration, inner: Any) -> Any:
    """The user's step behind the face of ours: it counts prints, and does as `rearm` says after a fire."""
    name = declaration.step.__name__
    itself = declaration.buy is None
    side = BUY_YES if declaration.buy == "yes" else BUY_NO
    clear = _cleared(tuple(declaration.state))

    def step(s: Any, ts: int, price: int, size: int, taker_yes: bool, rearm: int, *parameters: Any) -> int:
        if s.fired__:
            if rearm == 0:
                return NOTHING
            if rearm == 1:
                clear(s)
                s.n = 0
                s.fired__ = 0
        s.n += 1
        answer = inner(s, ts, price, size, taker_yes, *parameters)
        if answer:
            s.fired__ = 1
            if not itself:
                return side
            if answer != BUY_YES and answer != BUY_NO:
                raise SignalError(name, "return", "another number", "kl.signals.BUY_YES, BUY_NO or NOTHING")
            return int(answer)
        return NOTHING

    return compiled(step)


def _cleared(fields: tuple[str, ...]) -> Any:
    """A compiled function that sets fields of a record to zero."""
    lines = "".join(f"    s.{field} = 0\n" for field in fields) or "    pass\n"
    scope: dict[str, Any] = {}
    # Fields of a record can be named in compiled code only, not looped over; names were checked before.
    exec(f"def clear(s):\n{lines}", scope)
    return compiled(scope["clear"])


def _like(signal_name: str, name: str, value: Any, default: Any) -> Any:
    """A parameter's value in the kind of its default."""
    value = plain(value)
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        if isinstance(default, float):
            return float(value)
        if abs(value) < 2**63 and value == math.floor(value):
            return int(value)
    kind = type(default).__name__
    raise SignalError(
        signal_name, name, value, {"bool": "True or False", "int": "a whole number"}.get(kind, "a number")
    )


def _why(error: Exception) -> str:
    """The telling lines of a compiler's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line for line in lines if not line.startswith(("During", "Failed in", "<source", "For more", "File "))
    ]
    return "a step that numba can compile: " + " ".join(telling[:3])[:300]
