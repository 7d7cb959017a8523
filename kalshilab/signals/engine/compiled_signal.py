"""The drivers every compiled signal shares: a run over a tape, chunks of one, and live prints.

A signal states its rule once, as a compiled step over a market's state; what is here reads frames, hands the
step its rows, and makes fires of what comes out.  All drivers call the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from operator import index
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError, TapeError, UnitError
from kalshilab.signals.engine.kernel import BUY_YES, Array, bounds, fresh_state, one_of
from kalshilab.signals.engine.model import Fire, Frame, like
from kalshilab.signals.engine.sharding import Shard, frame_of, scan_shard
from kalshilab.signals.engine.state_pass import CellPass, Columns, Fires, OneCell, Pass, columns_of
from kalshilab.tape.frame_checks import checked_columns
from kalshilab.tape.lake.opening import tape_of
from kalshilab.tape.lake.source import StoredTape
from kalshilab.tape.schema import TAKER, TIME
from kalshilab.tape.tape import FrameLike, Tape, frame_in_memory
from kalshilab.units import cents

__all__ = ["CompiledSignal", "Sieve", "cents_in", "flag_in", "number_in", "plain", "seconds_in", "side_in", "whole_in"]  # fmt: skip

Kind = TypeVar("Kind")
FrameT = TypeVar("FrameT", bound=FrameLike)
_SIDES = pl.Series(["yes", "no"], dtype=TAKER)
_WORDS = ("", "yes", "no")
"""Outcome to buy, by a step's answer."""
_ARRAYS = ("markets", "ts", "prices", "sizes", "takers")
_TYPES = ("uint32", "int64", "int16", "uint32", "uint8")
"""What `batch` takes, in its order."""


class Sieve(Protocol):
    """Lets some fires through, by what it remembers of those before, across markets."""

    def keep(self, ts: Array, seen: Array) -> Array:
        """Which of these fires stay, in the order of the tape; `ts` in microseconds."""
        ...


class CompiledSignal:
    """Base of the signals with a compiled step.

    A signal sets the class variables and says how its own columns follow from the state at its fires.  Its
    state has a field `n`, the prints counted for a fire.
    """

    name: ClassVar[str]
    step: ClassVar[Any]
    reads: ClassVar[tuple[str, ...]]
    """What its step reads of a print, of `kernel.COLUMNS`."""
    columns: ClassVar[dict[str, Any]]
    """The signal's own columns and their dtypes, as `own` gives them."""
    fire: ClassVar[type[Fire]]

    def __init__(self, rule: tuple[Any, ...], parameters: dict[str, Any], fields: np.dtype[Any]) -> None:
        self.rule, self.fields = rule, fields
        self.parameters = {name: plain(value) for name, value in parameters.items()}
        self._codes: dict[str, int] = {}
        self._names: list[str] = []
        self._count = 0
        self._pass = self.begin()
        self._sieve = self.sieve()

    # What a signal says of itself

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        """The signal's own columns, from the states at its fires and the YES prices of the firing prints."""
        return {}

    def sieve(self) -> Sieve | None:
        """What thins out its fires across markets, fresh; None for most signals."""
        return None

    def begin(self, *, low: int = 0, high: int | None = None, markets: int = 0) -> Pass:
        """A fresh pass over a tape, or over the markets with codes in [`low`, `high`)."""
        return Pass(self.step, self.reads, self.fields, self.rule, low=low, high=high, markets=markets)

    @classmethod
    def begin_cells(
        cls, signals: Sequence[Any], *, low: int = 0, high: int | None = None, markets: int = 0
    ) -> list[CellPass]:
        """Fresh passes for the cells of a grid, `signals` of this class; a class whose cells can share work does."""
        return [OneCell(i, s.begin(low=low, high=high, markets=markets)) for i, s in enumerate(signals)]

    # Over tapes

    def run(self, tape: Frame) -> Frame:
        """All fires over a tape, from fresh state, as a frame of the tape's kind, in the order of the tape.

        `tape` is a polars or pandas frame, a lazy frame, or a `Lake`, which is read piece by piece and gives a
        polars frame.  Columns: `row` (position in the tape), `ts`, `ticker`, `side` (outcome to buy), `price`
        (YES price of the firing print), `n_trades` (prints counted for it), and the signal's own.  Live state
        is not touched.

        Raises:
            TapeError: not a tape; `kalshilab.to_tape` makes one.
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
        return self.framed(frame, fires, fires.row, self.sieve())

    def feed(self, tape: FrameT) -> FrameT:
        """Take the next prints as a frame, going on from the live state, and give their fires as a frame.

        Tapes fed one after the other give what the whole gives, and `update` can go on where `feed` ended.
        `row` counts all prints the signal has seen; market codes of the tape do not matter, tickers do.

        Raises:
            TapeError: not a tape.
        """
        frame = checked_columns(tape, self.reads)
        columns = columns_of(frame, self.reads)
        here = frame.select("market", pl.col("ticker").cast(pl.String)).unique("market")
        codes = np.zeros(int(columns.market.max()) + 1 if len(columns.market) else 0, np.uint32)
        codes[here["market"].to_numpy()] = self.codes(here["ticker"].to_list())
        first = self._count
        fires = self._pass.push(columns._replace(market=codes[columns.market]), first)
        self._count = first + frame.height
        return like(self.framed(frame, fires, fires.row - first, self._sieve), tape)

    def framed(self, frame: pl.DataFrame, fires: Fires, at: Array, sieve: Sieve | None) -> pl.DataFrame:
        """Fires as a frame; `at` are their positions in `frame`, which gives time and ticker."""
        picked = frame.select("ts", pl.col("ticker").cast(pl.String))
        picked = picked.gather(at) if len(at) else picked.head(0)
        return self.as_frame(fires, picked["ts"], picked["ticker"], sieve)

    def as_frame(
        self, fires: Fires, ts: pl.Series, tickers: pl.Series, sieve: Sieve | None = None
    ) -> pl.DataFrame:
        """Fires as a frame, with their times and tickers; those that `sieve` holds back are left out."""
        own = self.own(fires.seen, fires.price)
        found = pl.DataFrame(
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
        if sieve is None or not found.height:
            return found
        if not found["ts"].is_sorted():
            raise TapeError(
                "goes back in time, and this signal looks across markets; sort by ts or use kalshilab.to_tape",
                column="ts",
            )
        return found.filter(pl.Series(sieve.keep(found["ts"].dt.epoch("us").to_numpy(), fires.seen)))

    # Live

    def codes(self, tickers: Sequence[str]) -> Array:
        """The live codes of tickers (UInt32), given out in the order in which they are first asked for."""
        return np.array([self._code(ticker) for ticker in tickers], np.uint32)

    def _code(self, ticker: str) -> int:
        code = self._codes.get(ticker)
        if code is None:
            code = self._codes[ticker] = len(self._names)
            self._names.append(ticker)
        return code

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Take one live print (our units, `ts` in microseconds); a fire if it made one.

        Raises:
            SignalError: `taker` is neither "yes" nor "no" (a print without direction must not be counted), or a
                number is not whole, or `price` outside 0 to 10,000.
        """
        if taker != "yes" and taker != "no":
            raise SignalError(self.name, "taker", taker, "yes or no")
        if type(price) is not int or type(size) is not int or type(ts) is not int:
            ts, price, size = wholes(self.name, ts=ts, price=price, size=size)
        if not 0 <= price <= 10_000 or size < 0:
            raise out_of_range(self.name, price, size)
        market = self._codes.get(ticker)
        if market is None:
            market = self._code(ticker)
        own = self._pass
        if market >= own.room:
            own.reserve(market + 1)
        row = self._count
        self._count = row + 1
        side = self._one(own.state_at, market, ts, price, size, taker == "yes", own.rule_at)
        return self._made(row, ts, ticker, side, price, own.state[market : market + 1]) if side else None

    @cached_property
    def _one(self) -> Any:
        # Compiled when the first live print comes: research does not wait for it.
        return one_of(self.step, self.fields, self._pass.rule.dtype)

    def batch(self, markets: Array, ts: Array, prices: Array, sizes: Array, takers: Array) -> list[Fire]:
        """Take a batch of live prints as arrays of one length; the fires they made.

        Args:
            markets: codes from `codes`, UInt32; all five are contiguous arrays of the dtypes named here.
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
            SignalError: a code that `codes` has not given out, or an array of another length or dtype, a
                price outside 0 to 10,000; none of the batch is taken.
        """
        first = self._count
        if not len(markets) == len(ts) == len(prices) == len(sizes) == len(takers):
            lengths = tuple(map(len, (markets, ts, prices, sizes, takers)))
            raise SignalError(self.name, "batch", lengths, "five arrays of one length")
        columns = Columns(markets, ts, prices, sizes, takers)
        try:
            top, odd = bounds()(markets, prices)
            if len(markets) and top >= len(self._names):
                raise SignalError(self.name, "markets", top, "codes given by codes()")
            if odd:
                raise out_of_range(self.name, odd, 0)
            lots = list(self._pass.pushing(columns, first))
        except (TypeError, AttributeError):
            # What the compiled loop does not take is looked for now, not at every batch.
            raise _mistyped(self.name, columns) from None
        self._count = first + len(markets)
        made = []
        for fires in lots:
            for i, row in enumerate(fires.row.tolist()):
                ticker = self._names[fires.market[i]]
                at, price = int(ts[row - first]), int(fires.price[i])
                fire = self._made(row, at, ticker, int(fires.side[i]), price, fires.seen[i : i + 1])
                if fire is not None:
                    made.append(fire)
        return made

    def _made(self, row: int, ts: int, ticker: str, side: int, price: int, seen: Array) -> Fire | None:
        if self._sieve is not None and not self._sieve.keep(np.array([ts]), seen)[0]:
            return None
        own = self.own(seen, np.array([price], np.int16))
        values = [own[name][0] for name in self.columns]
        plain = [v.item() if isinstance(v, np.generic) else v for v in values]
        return type(self).fire(row, ts, ticker, _WORDS[side], price, int(seen["n"][0]), *plain)

    def reset(self, ticker: str | None = None) -> None:
        """Forget what was seen of one market, or of all."""
        if ticker is None:
            self._codes, self._names, self._count = {}, [], 0
            self._pass, self._sieve = self.begin(), self.sieve()
        elif (market := self._codes.get(ticker)) is not None and market < len(self._pass.state):
            self._pass.state[market] = fresh_state(1, self.fields)[0]

    def live(self, ticker: str) -> np.void | None:
        """The market's live state as a record, or None if nothing of it was seen since its reset."""
        market = self._codes.get(ticker)
        if market is None or market >= len(self._pass.state) or not self._pass.state[market]["n"]:
            return None
        row: np.void = self._pass.state[market]
        return row

    # Itself

    def __reduce__(self) -> tuple[Any, ...]:
        # Parameters make the signal: what it has seen live stays where it is.
        return _made_with, (type(self), self.parameters)

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        return f"{type(self).__name__}({given})"

    def with_parameters(self, **changed: Any) -> Self:
        """The same signal with some parameters changed, fresh."""
        return _made_with(type(self), {**self.parameters, **changed})


def _made_with(kind: type[Kind], parameters: dict[str, Any]) -> Kind:
    return kind(**parameters)


def wholes(signal: str, **numbers: Any) -> list[int]:
    """Numbers of a live print as Python's own, where they are whole.

    Raises:
        SignalError: one is none.
    """
    found = []
    for name, number in numbers.items():
        try:
            found.append(index(number))
        except TypeError:
            words = {
                "ts": "microseconds, a whole number",
                "price": "the YES price in 1/10,000 dollar, a whole number",
            }
            raise SignalError(
                signal, name, number, words.get(name, "1/100 contracts, a whole number")
            ) from None
    return found


def out_of_range(signal: str, price: int, size: int) -> SignalError:
    """What is wrong with a live print's price or size."""
    if size < 0:
        return SignalError(signal, "size", size, "1/100 contracts from 0")
    return SignalError(signal, "price", price, "the YES price in 1/10,000 dollar, 0 to 10,000")


def _mistyped(signal: str, columns: Columns) -> SignalError:
    """Which of a batch's arrays the compiled loop does not take."""
    for name, array, dtype in zip(_ARRAYS, columns, _TYPES, strict=True):
        if getattr(array, "dtype", None) != dtype or not array.flags.c_contiguous:
            shown = getattr(array, "dtype", type(array).__name__)
            return SignalError(signal, name, str(shown), f"a contiguous array of {dtype}")
    return SignalError(signal, "batch", "five arrays", "arrays of one dimension")


def plain(value: Any) -> Any:
    """A numpy number or truth value, as a loop over an array gives them, as Python's own; others as they are."""
    return value.item() if isinstance(value, np.generic) else value


def number_in(signal: str, name: str, value: Any, low: float, high: float, words: str) -> float:
    """A parameter as a number in [low, high].

    Raises:
        SignalError: it is none.
    """
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SignalError(signal, name, value, words)
    return float(value)


def whole_in(signal: str, name: str, value: Any, low: int = 1) -> int:
    """A parameter as a whole number from `low`.

    Raises:
        SignalError: it is none.
    """
    number = number_in(signal, name, value, low, 2**31 - 1, f"a whole number from {low}")
    if number != int(number):
        raise SignalError(signal, name, value, f"a whole number from {low}")
    return int(number)


def cents_in(signal: str, name: str, value: Any) -> int:
    """A parameter in cents as price units, 0 to a dollar.

    Raises:
        SignalError: out of range, or finer than a hundredth of a cent.
    """
    try:
        price = cents(plain(value))
    except UnitError:
        price = -1
    if not 0 <= price <= 10_000:
        raise SignalError(signal, name, value, "cents from 0 to 100, in hundredths")
    return price


def seconds_in(signal: str, name: str, value: Any) -> int:
    """A parameter in seconds as microseconds, above zero.

    Raises:
        SignalError: it is none.
    """
    return max(round(number_in(signal, name, value, 1e-6, 1e9, "seconds above 0") * 1e6), 1)


def side_in(signal: str, name: str, value: Any) -> str:
    """A parameter that is an outcome, "yes" or "no".

    Raises:
        SignalError: it is neither.
    """
    if value not in ("yes", "no"):
        raise SignalError(signal, name, value, "yes or no")
    return str(value)


def flag_in(signal: str, name: str, value: Any) -> bool:
    """A parameter that is True or False.

    Raises:
        SignalError: it is neither.
    """
    value = plain(value)
    if not isinstance(value, bool):
        raise SignalError(signal, name, value, "True or False")
    return value
