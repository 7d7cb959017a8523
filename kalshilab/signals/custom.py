"""Custom signals: a step in a dozen lines, compiled, and usable wherever the built-in signals are.

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

**The step** takes the market's state and one print: `ts` in microseconds, `price` the YES price in 1/10,000
dollar, `size` in 1/100 contract, `taker_yes` whether the taker bought YES.  The parameters follow, numbers or truth
values with defaults.  At each of its ends the step returns True or False: whether the signal fires as of this print.
Only columns that its text mentions are read from the tape.

**The state** is the step's memory of a market: the declared fields, all zero at first, and `s.n`, the number of prints
so far, this one included, which is counted automatically.  The values of the fields at a fire become additional
columns of the fire.  Fields whose names begin with an underscore do not, and may be named like a fire's standard
columns (`_price`).

**After a fire** a market never fires again.  With `rearm=True` it starts anew from zeros at its next print; with
`rearm="every"` its state is kept and it fires whenever the step returns True.  `rearm` is a parameter of every
custom signal.

The step is compiled by numba: arithmetic, comparisons, `math`, numpy's scalar functions, and other compiled functions.
A division by zero returns infinity or NaN there instead of raising an error: test `s.n > 1` before you divide by
`s.n - 1`.  The step gets one print at a time, so it cannot look ahead.
"""

from __future__ import annotations

import dis
import inspect
import keyword
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final, TypeAlias

import cloudpickle
import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl
from numba import types
from numba.core.errors import NumbaError, UnsupportedBytecodeError

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import CompiledSignal, plain
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, Array, Fields, compiled
from kalshilab.signals.engine.model import Fire, Parameters
from kalshilab.signals.engine.rearming import RESERVED, rearming_step, state_fields

__all__ = ["CustomSignal", "Declaration", "signal"]

Parameter: TypeAlias = bool | int | float
PRINT: Final = ("ts", "price", "size", "taker_yes")
_KINDS: Final[dict[object, str]] = {int: "i8", float: "f8", bool: "u1"}
_PLAIN: Final = {"i": int, "u": int, "f": float, "b": bool}
_STANDARD: Final = Fire.__struct_fields__
"""Standard columns of a fire, before the signal's own."""
_REARM: Final = {False: 0, True: 1, "every": 2}
_SIDES: Final = {"yes": BUY_YES, "no": BUY_NO, None: None}
_RULES: Final = {bool: "True or False", int: "a whole number", float: "a number"}


class Declaration(msgspec.Struct, frozen=True):
    """The arguments of `signal`, from which another process makes the signal again."""

    step: Callable[..., int]
    state: dict[str, npt.DTypeLike]
    buy: str | None


def signal(
    state: Mapping[str, npt.DTypeLike] | None = None, *, buy: str | None = "yes"
) -> Callable[[Callable[..., int]], type[CustomSignal]]:
    """Make a signal class from a step; the module's documentation describes steps.

    Args:
        state: fields and their types: int, float, bool, or a numpy type such as "i4".
        buy: the outcome that a fire buys, "yes" or "no"; None: the step itself returns
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
        SignalError: the step's arguments are not those of a step, a field has a type that a record cannot hold or the
            name of a standard column, or both `buy` and the step choose the side.
    """
    given: object = state
    if callable(given):
        name = getattr(given, "__name__", "step")
        raise SignalError(
            name, "state", "the step itself", "a mapping, as in @kl.signal(state={...}) or @kl.signal()"
        )
    if not isinstance(given, Mapping | None):
        raise SignalError("signal", "state", given, "a mapping of field names to types, {name: type}")

    def make(step: Callable[..., int]) -> type[CustomSignal]:
        return _class_of(Declaration(step, dict(state or {}), buy))

    return make


class CustomSignal(CompiledSignal):
    """Base of the classes that `signal` makes: a `CompiledSignal` with the parameters of its step, and `rearm`.

    Raises:
        SignalError: an unknown parameter, one of another kind than its default, a step that does not compile, or one
            that does not return whether it fires.
    """

    declaration: ClassVar[Declaration]
    defaults: ClassVar[dict[str, Parameter]]
    dtype: ClassVar[Fields]
    inner: ClassVar[Any]
    """The compiled step as the user wrote it, without counting and re-arming."""

    def __init__(self, *, rearm: object = False, **parameters: object) -> None:
        for name in parameters:
            if name not in self.defaults:
                known = ", ".join([*self.defaults, "rearm"])
                raise SignalError(self.name, name, parameters[name], f"one of the parameters {known}")
        rearm = plain(rearm)
        if not isinstance(rearm, bool) and rearm != "every":
            raise SignalError(self.name, "rearm", rearm, "False, True or 'every'")
        given = {
            name: _like_default(self.name, name, parameters.get(name, default), default)
            for name, default in self.defaults.items()
        }
        try:
            super().__init__((_REARM[rearm], *given.values()), {**given, "rearm": rearm}, self.dtype)
        except KeyError as error:
            # Numba raises it for a field that the record does not have.
            declared = ", ".join(["n", *self.declaration.state])
            raise SignalError(
                self.name, "step", f"s.{error.args[0]}", f"a field of the state: {declared}"
            ) from None
        except (NumbaError, UnsupportedBytecodeError) as error:
            self._check_returns()
            raise SignalError(self.name, "step", self.declaration.step.__name__, _reason(error)) from None
        self._check_returns()

    def _check_returns(self) -> None:
        """Check that a compiled step returns whether it fires at each of its ends.

        Otherwise a string or 0.5 would count as a fire, and a step without `return` would never fire.
        """
        for signature in self.inner.nopython_signatures:
            returned = signature.return_type
            if not isinstance(returned, types.Boolean | types.Integer):
                allowed = "True or False" if self.declaration.buy else "kl.signals.BUY_YES, BUY_NO or NOTHING"
                raise SignalError(self.name, "return", returned, f"{allowed}, at each of the step's ends")

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {name: np.ascontiguousarray(seen[name]) for name in self.columns}

    def state(self, ticker: str) -> dict[str, int | float | bool] | None:
        """Return the market's live fields, or `None` without a print since its reset."""
        s = self.live(ticker)
        return None if s is None else {name: s[name].item() for name in ("n", *self.declaration.state)}

    def __reduce__(self) -> tuple[object, ...]:
        # By value, so that a step defined in a notebook reaches a worker process.
        return _rebuilt, (cloudpickle.dumps(self.declaration), self.parameters)


def _rebuilt(declaration: bytes, parameters: Parameters) -> CustomSignal:
    return _class_from(declaration)(**parameters)


@lru_cache(maxsize=64)
def _class_from(declaration: bytes) -> type[CustomSignal]:
    """Return the class of a pickled declaration; it is compiled once per process."""
    return _class_of(cloudpickle.loads(declaration))


def _class_of(declaration: Declaration) -> type[CustomSignal]:
    step, name = declaration.step, declaration.step.__name__
    defaults = _defaults_of(step, name)
    if declaration.buy not in _SIDES:
        raise SignalError(name, "buy", declaration.buy, "one of 'yes', 'no', None")
    if declaration.buy is not None and {"BUY_YES", "BUY_NO"} & set(step.__code__.co_names):
        raise SignalError(
            name, "buy", declaration.buy, "set to None if the step itself returns the outcome to buy"
        )
    state = {field: _dtype_of(name, field, kind) for field, kind in declaration.state.items()}
    columns = {field: dtype for field, dtype in state.items() if not field.startswith("_")}
    inner = compiled(step)
    body: dict[str, object] = {
        "__doc__": step.__doc__ or f"The custom signal {name}.",
        "__module__": step.__module__,
        "name": name,
        "declaration": declaration,
        "defaults": defaults,
        "dtype": state_fields(state, n="i8"),
        "inner": inner,
        "step": staticmethod(rearming_step(inner, state, _SIDES[declaration.buy], name)),
        "reads": _reads(step),
        "columns": {field: pl.Series(np.zeros(0, dtype)).dtype for field, dtype in columns.items()},
        "fire": msgspec.defstruct(
            f"{name}_fire", [(f, _PLAIN[d.kind]) for f, d in columns.items()], bases=(Fire,), frozen=True
        ),
    }
    return type(name, (CustomSignal,), body)


def _defaults_of(step: Callable[..., int], name: str) -> dict[str, Parameter]:
    """Return a step's parameters and their defaults, after a check of its arguments."""
    arguments = list(inspect.signature(step).parameters.values())
    if [a.name for a in arguments[1:5]] != list(PRINT):
        shown = f"({', '.join(a.name for a in arguments)})"
        rule = f"a function of (s, {', '.join(PRINT)}), then parameters with defaults"
        raise SignalError(name, "step", shown, rule)
    for a in arguments[5:]:
        if not isinstance(a.default, bool | int | float):
            given = "no default" if a.default is inspect.Parameter.empty else a.default
            raise SignalError(
                name, a.name, given, "a parameter with a number or a truth value as its default"
            )
        if a.name == "rearm":
            raise SignalError(
                name, "rearm", a.default, "given another name: every custom signal has this parameter"
            )
    return {a.name: a.default for a in arguments[5:]}


def _dtype_of(name: str, field: str, kind: npt.DTypeLike) -> np.dtype[np.generic]:
    """Return the dtype of a declared field, after a check of its name and type."""
    try:
        dtype = np.dtype(_KINDS.get(kind, kind))
    except TypeError:
        dtype = np.dtype("O")
    if field in _STANDARD or keyword.iskeyword(field):
        raise SignalError(
            name, "state", field, f"a name other than Python's keywords and {', '.join(_STANDARD)}"
        )
    if dtype.kind not in _PLAIN or dtype.shape or field in RESERVED or not field.isidentifier():
        raise SignalError(name, "state", f"{field}: {kind!r}", "fields of int, float, bool or a numpy number")
    return dtype


def _reads(step: Callable[..., int]) -> tuple[str, ...]:
    """Return the columns that the step's text mentions."""
    used: set[object] = set()
    for instruction in dis.get_instructions(step):
        value = instruction.argval
        used.update(value if isinstance(value, tuple) else [value])
    return tuple(name.removesuffix("_yes") for name in PRINT if name in used)


def _like_default(signal_name: str, name: str, value: object, default: Parameter) -> Parameter:
    """Convert a parameter's value to the kind of its default."""
    value = plain(value)
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
    elif isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        if isinstance(default, float):
            return float(value)
        if abs(value) < 2**63 and value == math.floor(value):
            return int(value)
    raise SignalError(signal_name, name, value, _RULES.get(type(default), "a number"))


def _reason(error: Exception) -> str:
    """Return the informative lines of a compiler's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [
        line for line in lines if not line.startswith(("During", "Failed in", "<source", "For more", "File "))
    ]
    return "a step that numba can compile: " + " ".join(informative[:3])[:300]
