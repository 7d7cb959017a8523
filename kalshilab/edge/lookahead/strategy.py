"""The strategy that a validation examines: one type for signals and for functions of frames.

A **signal** (`kalshilab.signals`, `@kalshilab.signal`) processes one print at a time and cannot see later prints. A
**function** `tape -> fires` or `(tape, markets) -> fires` receives whole frames and can use later prints, which
`kalshilab.edge.lookahead.audit` detects. It returns a frame with the columns of a signal's `run`: `row, ts, ticker, side,
price`. The rows may be in any order, and other columns are ignored.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

import msgspec
import polars as pl
from polars._typing import PolarsDataType

from kalshilab.edge.canonical_json import canonical
from kalshilab.edge.lookahead.fresh_copy import clone
from kalshilab.errors import EdgeError
from kalshilab.lazy import renamed
from kalshilab.signals.engine.compiled_signal import CompiledSignal
from kalshilab.tape.frame_checks import polars_frame
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.tape.tape import Tape, frame_in_memory

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

__all__ = ["FIRES", "AuditedStrategy", "identity_of", "strategy_of"]

BUILTIN_CODE: Final = {
    f"kalshilab.signals.{name}": code
    for name, code in {
        "builtin.bursts.Burst": "a1cc8b5b197b9eb408a3ebe9295a9c8853f68af8666ad6e5f48cc65e6454d8e7",
        "builtin.bursts.Steam": "8bad9a2a55315d2b535035554e001563938e6d873a9a62023ca9bce930d404a6",
        "builtin.conviction.BuyBack": "c2461eb7a31cb5c1c190626f744f93dee7dbb7346cee0b6cfaa56601534a8b60",
        "builtin.conviction.ConvictionRatio": "99d6bfd34dc43457e79487d10c0590d07b766b3f40be67cff88bac134d3f0165",
        "builtin.conviction.DollarDirection": "90e9fbd8f8df483ade17dae2f823c41b7488bde1d39db28bd1a92fa4136d331d",
        "builtin.leverage.LowLeverageVariance": "aef1694738aa94d947c37b211e62778ebfcbcfefac15ce954733ce1130393516",
        "builtin.price_band.PriceBand": "8a59ec17bf5c656b64d7d6ca6a7906fe048d5668a0a98fe82cf37ccca89d6818",
        "builtin.rlm.Rlm": "06d4dbd931c9589594a3c85d7e4cc1e92d8fe3d685bf0087343232e83e310744",
        "builtin.whales.WhaleFade": "f8ed69888595189adcf537b16320d79d1bd0808480af746f66d2b472c947a46c",
        "builtin.whales.WhaleFollow": "f3cf7985635c2d6e2994ecd794ef8197d3e0fd7072daef57887b0f55e2d6c43a",
        "policy.RlModel": "a9f004f5e8134ee0d3f79285ac7a8eb131c1209fac79dd4588a35a08ca5a3406",
    }.items()
}
"""SHA-256 of the built-in signals' source in version 0.1, by class. Replace an entry when a signal's rule changes."""
FIRES: Final[dict[str, PolarsDataType]] = {
    "row": pl.UInt64,
    "ts": TIME,
    "ticker": pl.String,
    "side": TAKER,
    "price": pl.Int16,
}
"""Columns of fires from which entries are made; `price` is the YES price in 1/10,000 dollar."""

Run = Callable[[Tape, pl.DataFrame | None], object]


class AuditedStrategy(msgspec.Struct, frozen=True):
    """A signal or a function of frames, in the form that audits and validations use."""

    name: str
    """Name of the signal or the function."""
    parameters: dict[str, object]
    """Parameters that can be stored as JSON, by name."""
    code: str
    """SHA-256 of the source text; the same name with another source is another strategy."""
    run: Run
    """`(tape, markets) -> fires`, a frame of any kind."""
    signal: CompiledSignal | None = None
    """The signal; None for a function."""
    function: Callable[..., object] | None = None
    """The function; None for a signal."""
    capture_root: object = None
    """Object from which captured data is searched: the function or object as given, or a signal's step."""

    @property
    def label(self) -> str:
        """Name and parameters, written as a call."""
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.parameters.items())})"

    @property
    def identity(self) -> str:
        """Name, parameters and code as one line of text; see `identity_of`."""
        return identity_of(self.name, self.parameters, self.code)

    def clone(self, until: datetime | None = None) -> AuditedStrategy:
        """Return a copy with its state reset and its captured tables truncated.

        Args:
            until: last instant, inclusive, of which captured tables keep rows; None: tables stay whole.
        """
        if self.signal is not None or self.capture_root is None:
            return self
        return strategy_of(clone(self.capture_root, until))

    def fires(self, tape: Tape, markets: pl.DataFrame | None = None) -> pl.DataFrame:
        """Return the fires of the strategy over a tape, by row, with the dtypes of `FIRES`.

        Args:
            tape: the prints.
            markets: the markets table, for functions that take it.

        Raises:
            EdgeError: the strategy is a function of frames and the tape is not in memory, or it returned something other
                than fires.
        """
        if self.function is not None and not tape.in_memory:
            raise EdgeError(
                f"{self.name} is a function of frames and cannot read a lake; pass lake.read(since, until), or write "
                "it as a @kalshilab.signal"
            )
        return self._typed(self.run(tape, markets))

    def _typed(self, returned: object) -> pl.DataFrame:
        """Return fires with the dtypes of `FIRES`, by row."""
        frame = polars_frame(returned)
        if frame is None:
            raise EdgeError(f"{self.name} must return a frame of fires, got {type(returned).__name__}")
        for column in FIRES:
            if column not in frame.columns:
                raise EdgeError(
                    f"{self.name} returned fires with no column {column!r}; fires have row, ts, ticker, side and price"
                )
        try:
            typed = frame.with_columns(
                pl.col("side").cast(pl.String).cast(TAKER),
                *(pl.col(name).cast(dtype) for name, dtype in FIRES.items() if name != "side"),
            )
        except pl.exceptions.PolarsError as error:
            raise EdgeError(f"{self.name} returned fires with invalid values: {error}") from None
        for name in FIRES:
            if typed[name].null_count():
                raise EdgeError(f"{self.name} returned fires with nulls in column {name!r}")
        return pl.DataFrame(typed).sort("row", maintain_order=True)


def strategy_of(thing: object) -> AuditedStrategy:
    """Return the strategy of a signal or a function; a strategy is returned unchanged.

    >>> from kalshilab.signals import Rlm
    >>> strategy_of(Rlm(min_trades=15)).name
    'rlm'

    Args:
        thing: a signal, a function of a tape (and of markets), or an object with such a method `run`.

    Raises:
        EdgeError: `thing` is something else, for example the class of a signal.
    """
    if isinstance(thing, AuditedStrategy):
        return thing
    if isinstance(thing, CompiledSignal):
        return AuditedStrategy(
            thing.name,
            _storable(thing.parameters),
            _signal_hash(thing),
            lambda tape, _: thing.fires(tape),
            thing,
            capture_root=_declared_step(thing),
        )
    run = getattr(thing, "run", None)
    if callable(run) and not isinstance(thing, type):
        return AuditedStrategy(
            str(getattr(thing, "name", type(thing).__name__)),
            _storable(getattr(thing, "parameters", {})),
            _source_hash(type(thing)),
            _on_frames(run),
            function=getattr(type(thing), "run", run),
            capture_root=thing,
        )
    if callable(thing) and not isinstance(thing, type):
        name = getattr(getattr(thing, "func", thing), "__name__", type(thing).__name__)
        return AuditedStrategy(
            name, {}, _source_hash(thing), _on_frames(thing), function=thing, capture_root=thing
        )
    shown = repr(thing) if isinstance(thing, type) else type(thing).__name__
    raise EdgeError(
        f"signal must be a signal or a function of a tape, got {shown}; create the signal first, as in kl.signals.Rlm()"
    )


def identity_of(name: str, parameters: Mapping[str, object], code: str) -> str:
    """Return the name, parameters and code that decide the first fire of a market, as one line of text.

    `rearm` is not part of it: it decides only whether later fires of a market follow.  5 and 5.0 are one value.

    >>> identity_of("rlm", {"min_trades": 15, "min_drop": 5.0, "rearm": True}, "06d4dbd931c9589594a3")
    'rlm(min_drop=5, min_trades=15) [06d4dbd931c9]'
    """
    plain = {
        k: int(v) if isinstance(v, float) and v.is_integer() else v
        for k, v in sorted(parameters.items())
        if k != "rearm"
    }
    shown = ", ".join(f"{k}={v!r}" for k, v in plain.items())
    return f"{name}({shown}) [{code[:12]}]"


def _on_frames(function: Callable[..., object]) -> Run:
    """Return a function of a tape and markets that calls `function` with frames, with the markets if it takes them."""
    if _required_arguments(function) > 1:
        return lambda tape, markets: function(frame_in_memory(tape), markets)
    return lambda tape, _: function(frame_in_memory(tape))


def _required_arguments(function: Callable[..., object]) -> int:
    """Return the number of positional arguments without a default."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _declared_step(signal: CompiledSignal) -> object:
    """Return the step function of a `@kalshilab.signal`; None for a built-in signal."""
    return getattr(getattr(signal, "declaration", None), "step", None)


def _signal_hash(signal: CompiledSignal) -> str:
    step = _declared_step(signal)
    return _source_hash(type(signal) if step is None else step)


def _source_hash(thing: object) -> str:
    """Return the SHA-256 of a source text, or of the bytecode where the text is not available.

    A built-in signal has a fixed hash: its text may change in words, and registered hypotheses must keep theirs.
    """
    fixed = BUILTIN_CODE.get(f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}")
    if fixed is not None:
        return fixed
    try:
        text = inspect.getsource(thing)  # type: ignore[arg-type]
    except (OSError, TypeError):
        code = getattr(thing, "__code__", None)
        text = repr(thing) if code is None else code.co_code.hex() + repr(code.co_consts)
    return hashlib.sha256(text.encode()).hexdigest()


def _storable(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that can be part of a hypothesis' specification."""
    return {name: value for name, value in parameters.items() if _is_canonical(value)}


def _is_canonical(value: object) -> bool:
    try:
        canonical(value)
    except (TypeError, ValueError, EdgeError):
        return False
    return True
