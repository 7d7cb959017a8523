"""Drivers that every compiled signal shares: a run over a tape, over chunks of one, and over live prints.

A signal states its rule once, as a compiled step over a market's state.  This module reads frames, passes their rows
to the step and makes fires of its answers.  All drivers call the same step.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, SupportsIndex, TypeVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError, TapeError, UnitError
from kalshilab.lazy import renamed
from kalshilab.signals.engine.kernel import BUY_YES, Array, Fields, Rule, Step, bounds, fresh_state, one_of
from kalshilab.signals.engine.model import Dtypes, Fire, Frame, Parameters, like
from kalshilab.signals.engine.sharding import Shard, frame_of, scan_shard
from kalshilab.signals.engine.state_pass import (
    CellPass,
    CrossMarketFilter,
    Fires,
    PrintArrays,
    SingleCellPass,
    StatePass,
    columns_of,
)
from kalshilab.tape.frame_checks import checked_columns
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.lake.source import StoredTape
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.tape.tape import FrameLike, Tape, frame_in_memory
from kalshilab.units import cents

__all__ = ["CompiledSignal", "cents_in", "flag_in", "number_in", "plain", "seconds_in", "side_in", "whole_in"]  # fmt: skip

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__)

Kind = TypeVar("Kind")
FrameT = TypeVar("FrameT", bound=FrameLike)
_SIDES = pl.Series(["yes", "no"], dtype=TAKER)
_WORDS = ("", "yes", "no")
"""Outcome to buy, by the answer of a step."""
_ARRAYS = ("markets", "ts", "prices", "sizes", "takers")
_TYPES = ("uint32", "int64", "int16", "uint32", "uint8")
"""Names and dtypes of the arrays that `batch` takes, in its order."""


class CompiledSignal:
    """Base of the signals with a compiled step.

    A signal sets the class variables, and `own` derives its additional columns from the states at its fires.  Its
    state has a field `n`, the number of prints counted for a fire.

    Args:
        rule: the parameters as the step takes them.
        parameters: the parameters as people type them.
        fields: the fields of the state.
    """

    name: ClassVar[str]
    step: ClassVar[Step]
    reads: ClassVar[tuple[str, ...]]
    """Columns that the step reads, a subset of `kernel.COLUMNS`."""
    columns: ClassVar[Dtypes]
    """The signal's additional columns and their dtypes, as `own` returns them."""
    fire: ClassVar[type[Fire]]

    def __init__(self, rule: Rule, parameters: Parameters, fields: Fields) -> None:
        self.rule, self.fields = rule, fields
        self.parameters = {name: plain(value) for name, value in parameters.items()}
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._count = 0
        self._pass = self.begin()
        self._filter = self.fire_filter()

    # Definition of a signal

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        """Return the signal's additional columns.

        Args:
            seen: the states of the markets at the fires.
            prices: YES prices of the firing prints.
        """
        return {}

    def fire_filter(self) -> CrossMarketFilter | None:
        """Return a fresh filter of its fires across markets; `None` for most signals."""
        return None

    def sieve(self) -> CrossMarketFilter | None:
        """Return the filter of `fire_filter`, whose former name this is; warns."""
        warnings.warn("sieve() is now fire_filter()", DeprecationWarning, stacklevel=2)
        return self.fire_filter()

    def begin(self, *, low: int = 0, high: int | None = None, markets: int = 0) -> StatePass:
        """Return a fresh pass over a tape, or over the markets with codes in [`low`, `high`)."""
        return StatePass(self.step, self.reads, self.fields, self.rule, low=low, high=high, markets=markets)

    @classmethod
    def begin_cells(
        cls, signals: Sequence[Self], *, low: int = 0, high: int | None = None, markets: int = 0
    ) -> list[CellPass]:
        """Return fresh passes for the cells of a grid, `signals` of this class.

        A class whose cells can share work overrides it.
        """
        return [
            SingleCellPass(i, s.begin(low=low, high=high, markets=markets)) for i, s in enumerate(signals)
        ]

    # Over tapes

    def run(self, tape: Frame) -> Frame:
        """Return all fires over a tape, from fresh state, in the order of the tape.

        The fires come as a frame of the tape's kind, with the columns `row` (position in the tape), `ts`, `ticker`,
        `side` (outcome to buy), `price` (YES price of the firing print), `n_trades` (prints counted for it) and
        those of the signal.  Live state is not touched.

        Args:
            tape: a polars or pandas frame, a lazy frame, or a tape of any size (a `Lake`, a `TapeFile` or the path of
                one), which is read piece by piece and returns a polars frame.

        Raises:
            TapeError: `tape` is not a tape; `kalshilab.to_tape` makes one.
            LakeError: the lake is damaged.
        """
        return like(self.fires(tape_of(tape, self.reads)), tape)

    def fires(self, tape: Tape) -> pl.DataFrame:
        """Return all fires over an opened tape, as `run` does, as a polars frame."""
        if isinstance(tape, StoredTape):
            whole = Shard(0, len(tape.tickers))
            return frame_of(tape, self, scan_shard(tape, [self], whole))
        frame = frame_in_memory(tape)
        fires = self.begin().push(columns_of(frame, self.reads))
        return self.framed(frame, fires, fires.row, self.fire_filter())

    def feed(self, tape: FrameT) -> FrameT:
        """Process the next prints from the live state and return their fires as a frame.

        Tapes fed one after the other produce the fires of the whole tape, and `update` can continue after `feed`.
        `row` counts all prints that the signal has processed.  Markets are identified by ticker, not by code.

        Raises:
            TapeError: `tape` is not a tape.
        """
        frame = checked_columns(tape, self.reads)
        columns = columns_of(frame, self.reads)
        markets = frame.select("market", pl.col("ticker").cast(pl.String)).unique("market")
        codes = np.zeros(int(columns.market.max()) + 1 if len(columns.market) else 0, np.uint32)
        codes[markets["market"].to_numpy()] = self.codes(markets["ticker"].to_list())
        first = self._count
        fires = self._pass.push(columns._replace(market=codes[columns.market]), first)
        self._count = first + frame.height
        return like(self.framed(frame, fires, fires.row - first, self._filter), tape)

    def framed(
        self, frame: pl.DataFrame, fires: Fires, at: Array, fire_filter: CrossMarketFilter | None
    ) -> pl.DataFrame:
        """Return fires as a frame; `at` are their positions in `frame`, the source of times and tickers."""
        picked = frame.select("ts", pl.col("ticker").cast(pl.String))
        picked = picked.gather(at) if len(at) else picked.head(0)
        return self.as_frame(fires, picked["ts"], picked["ticker"], fire_filter)

    def as_frame(
        self,
        fires: Fires,
        ts: pl.Series,
        tickers: pl.Series,
        fire_filter: CrossMarketFilter | None = None,
    ) -> pl.DataFrame:
        """Return fires as a frame with their times and tickers, without those that `fire_filter` rejects."""
        own = self.own(fires.seen, fires.price)
        frame = pl.DataFrame(
            {
                "row": pl.Series(fires.row, dtype=pl.UInt64),
                "ts": ts.cast(TIME),
                "ticker": tickers,
                "side": _SIDES.gather(fires.side - BUY_YES),
                "price": pl.Series(fires.price, dtype=pl.Int16),
                "n_trades": pl.Series(fires.seen["n"], dtype=pl.UInt32),
                **{name: pl.Series(own[name]).cast(dtype) for name, dtype in self.columns.items()},
            }
        )
        if fire_filter is None or not frame.height:
            return frame
        if not frame["ts"].is_sorted():
            raise TapeError(
                "goes back in time, and this signal looks across markets; sort by ts or use kalshilab.to_tape",
                column="ts",
            )
        return frame.filter(pl.Series(fire_filter.keep(frame["ts"].dt.epoch("us").to_numpy(), fires.seen)))

    # Live

    def codes(self, tickers: Sequence[str]) -> Array:
        """Return the live codes of tickers (UInt32), assigned in the order of first use."""
        return np.array([self._code(ticker) for ticker in tickers], np.uint32)

    def _code(self, ticker: str) -> int:
        code = self._codes.get(ticker)
        if code is None:
            code = self._codes[ticker] = len(self._names)
            self._names.append(ticker)
        return code

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Process one live print and return its fire, or `None`.

        Args:
            ticker: the market.
            ts: exchange time in microseconds.
            price: YES price in 1/10,000 dollar.
            size: size in 1/100 contract.
            taker: the outcome that the taker bought, "yes" or "no".

        Raises:
            SignalError: `taker` is neither "yes" nor "no" (a print without direction must not be counted), a number
                is not whole, or `price` is outside 0 to 10,000.
        """
        if taker != "yes" and taker != "no":
            raise SignalError(self.name, "taker", taker, SIDE)
        if type(price) is not int or type(size) is not int or type(ts) is not int:
            ts, price, size = wholes(self.name, ts=ts, price=price, size=size)
        if not 0 <= price <= 10_000 or size < 0:
            raise out_of_range(self.name, price, size)
        market = self._codes.get(ticker)
        if market is None:
            market = self._code(ticker)
        live = self._pass
        if market >= live.room:
            live.reserve(market + 1)
        row = self._count
        self._count = row + 1
        side = self._one(live.state_at, market, ts, price, size, taker == "yes", live.rule_at)
        return self._fire_of(row, ts, ticker, side, price, live.state[market : market + 1]) if side else None

    @cached_property
    def _one(self) -> Callable[..., int]:
        # Compiled at the first live print, so that research does not wait for it.
        return one_of(self.step, self.fields, self._pass.rule.dtype)

    def batch(self, markets: Array, ts: Array, prices: Array, sizes: Array, takers: Array) -> list[Fire]:
        """Process a batch of live prints and return their fires.

        All five arguments are contiguous arrays of one length.

        Args:
            markets: codes from `codes`, UInt32.
            ts: exchange times in microseconds, Int64.
            prices: YES prices, Int16.
            sizes: UInt32.
            takers: 0 for a YES taker, 1 for a NO taker, UInt8.

        >>> from kalshilab.signals import Rlm
        >>> signal = Rlm(min_trades=2, min_drop=3)
        >>> codes = signal.codes(["A-B-1", "A-B-1"])
        >>> prices = np.array([5000, 4700], np.int16)
        >>> fires = signal.batch(codes, np.array([1, 2]), prices, np.array([100, 100], np.uint32), np.zeros(2, np.uint8))
        >>> fires[0].drop
        300

        Raises:
            SignalError: a code that `codes` has not assigned, an array of another length or dtype, or a price
                outside 0 to 10,000; the batch is rejected as a whole.
        """
        first = self._count
        if not len(markets) == len(ts) == len(prices) == len(sizes) == len(takers):
            lengths = tuple(map(len, (markets, ts, prices, sizes, takers)))
            raise SignalError(self.name, "batch", lengths, "five arrays of one length")
        columns = PrintArrays(markets, ts, prices, sizes, takers)
        try:
            largest, invalid_price = bounds()(markets, prices)
            if len(markets) and largest >= len(self._names):
                raise SignalError(self.name, "markets", largest, "codes assigned by codes()")
            if invalid_price:
                raise out_of_range(self.name, invalid_price, 0)
            parts = list(self._pass.pushing(columns, first))
        except (TypeError, AttributeError):
            # Dtypes are checked only after the compiled loop has refused an array, not for each batch.
            raise _mistyped(self.name, columns) from None
        self._count = first + len(markets)
        accepted = []
        for fires in parts:
            for i, row in enumerate(fires.row.tolist()):
                ticker = self._names[fires.market[i]]
                at, price = int(ts[row - first]), int(fires.price[i])
                fire = self._fire_of(row, at, ticker, int(fires.side[i]), price, fires.seen[i : i + 1])
                if fire is not None:
                    accepted.append(fire)
        return accepted

    def _fire_of(self, row: int, ts: int, ticker: str, side: int, price: int, seen: Array) -> Fire | None:
        if self._filter is not None and not self._filter.keep(np.array([ts]), seen)[0]:
            return None
        own = self.own(seen, np.array([price], np.int16))
        values = [own[name][0] for name in self.columns]
        own_fields = [plain(value) for value in values]
        return type(self).fire(row, ts, ticker, _WORDS[side], price, int(seen["n"][0]), *own_fields)

    def reset(self, ticker: str | None = None) -> None:
        """Clear the live state of one market, or of all."""
        if ticker is None:
            self._codes, self._names, self._count = {}, [], 0
            self._pass, self._filter = self.begin(), self.fire_filter()
        elif (market := self._codes.get(ticker)) is not None and market < len(self._pass.state):
            self._pass.state[market] = fresh_state(1, self.fields)[0]

    def live(self, ticker: str) -> np.void | None:
        """Return the market's live state as a record, or `None` without a print since its reset."""
        market = self._codes.get(ticker)
        if market is None or market >= len(self._pass.state) or not self._pass.state[market]["n"]:
            return None
        row: np.void = self._pass.state[market]
        return row

    # Copies

    def __reduce__(self) -> tuple[object, ...]:
        # A signal is pickled as its parameters, without its live state.
        return _made_with, (type(self), self.parameters)

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        return f"{type(self).__name__}({given})"

    def with_parameters(self, **changed: Any) -> Self:
        """Return a fresh copy of the signal with some parameters changed."""
        return _made_with(type(self), {**self.parameters, **changed})


def _made_with(kind: type[Kind], parameters: Parameters) -> Kind:
    return kind(**parameters)


SIDE: Final = "'yes' or 'no'"
SHARE: Final = "a share from 0 to 1"
_PRINT_NUMBERS: Final = {
    "ts": "a whole number of microseconds",
    "price": "a YES price in 1/10,000 dollar, a whole number from 0 to 10,000",
    "size": "a size in 1/100 contract, a whole number from 0",
}


def wholes(signal: str, **numbers: SupportsIndex) -> list[int]:
    """Return the numbers of a live print as Python integers.

    Raises:
        SignalError: a number is not whole.
    """
    integers = []
    for name, number in numbers.items():
        try:
            integers.append(index(number))
        except TypeError:
            raise SignalError(signal, name, number, _PRINT_NUMBERS[name]) from None
    return integers


def out_of_range(signal: str, price: int, size: int) -> SignalError:
    """Return the error for a live print whose price or size is out of range."""
    name, value = ("size", size) if size < 0 else ("price", price)
    return SignalError(signal, name, value, _PRINT_NUMBERS[name])


def _mistyped(signal: str, columns: PrintArrays) -> SignalError:
    """Return the error for the first array of a batch that the compiled loop does not take."""
    for name, array, dtype in zip(_ARRAYS, columns, _TYPES, strict=True):
        if getattr(array, "dtype", None) != dtype or not array.flags.c_contiguous:
            shown = getattr(array, "dtype", type(array).__name__)
            return SignalError(signal, name, str(shown), f"a contiguous array of {dtype}")
    return SignalError(signal, "batch", "five arrays", "arrays of one dimension")


def plain(value: object) -> Any:
    """Convert a numpy scalar to the Python number or truth value; return other values unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def number_in(signal: str, name: str, value: object, low: float, high: float, rule: str) -> float:
    """Return a parameter as a number in [low, high].

    Raises:
        SignalError: it is not a number or out of range; `rule` describes the range after "must be".
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SignalError(signal, name, value, rule)
    return float(value)


def whole_in(signal: str, name: str, value: object, low: int = 1) -> int:
    """Return a parameter as a whole number from `low`.

    Raises:
        SignalError: it is not a whole number, or below `low`.
    """
    number = number_in(signal, name, value, low, 2**31 - 1, f"a whole number >= {low}")
    if number != int(number):
        raise SignalError(signal, name, value, f"a whole number >= {low}")
    return int(number)


def cents_in(signal: str, name: str, value: object) -> int:
    """Convert a parameter in cents, 0 to 100, to price units.

    Raises:
        SignalError: it is out of range, or finer than a hundredth of a cent.
    """
    try:
        price = cents(plain(value))
    except UnitError:
        price = -1
    if not 0 <= price <= 10_000:
        raise SignalError(signal, name, value, "cents from 0 to 100, in steps of 0.01")
    return price


def seconds_in(signal: str, name: str, value: object) -> int:
    """Convert a parameter in seconds to microseconds.

    Raises:
        SignalError: it is not a number of seconds above 0.
    """
    return max(round(number_in(signal, name, value, 1e-6, 1e9, "seconds above 0") * 1e6), 1)


def side_in(signal: str, name: str, value: object) -> str:
    """Return a parameter that is an outcome, "yes" or "no".

    Raises:
        SignalError: it is neither.
    """
    if value not in ("yes", "no"):
        raise SignalError(signal, name, value, SIDE)
    return str(value)


def flag_in(signal: str, name: str, value: object) -> bool:
    """Return a parameter that is True or False.

    Raises:
        SignalError: it is neither.
    """
    value = plain(value)
    if not isinstance(value, bool):
        raise SignalError(signal, name, value, "True or False")
    return value
