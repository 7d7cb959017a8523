"""The two drivers every compiled signal shares: a run over a tape, and one live print at a time.

A signal states its rule once, as a compiled step over a row of state; what is here reads frames, hands the
step its rows, and makes fires of what comes out.  Both drivers call the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError, UnitError
from kalshilab.signals.kernel import fresh_state, grown, loop_of
from kalshilab.signals.signal import Fire, Frame, as_tape, like
from kalshilab.tape.schema import TAKER
from kalshilab.units import cents

__all__ = ["Base", "CompiledSignal", "cents_in", "flag_in", "number_in", "whole_in"]

Base = tuple[int, int, str, str, int, int]
"""The fields every fire has: row, ts, ticker, side, price, n_trades."""
BUFFER = 65_536
"""Fires a compiled loop may find before it hands them over."""


class CompiledSignal:
    """Base of the signals with a compiled step.  A signal sets the class variables, `_rule`, and says how a
    fire's own columns follow from the state at that moment."""

    name: ClassVar[str]
    width: ClassVar[int]
    dtype: ClassVar[type] = np.int32
    step: ClassVar[Callable[..., bool]]

    def __init__(self, rule: tuple[Any, ...], parameters: dict[str, Any]) -> None:
        self._rule = rule
        self.parameters = parameters
        self._codes: dict[str, int] = {}
        self._state = fresh_state(0, self.width, self.dtype)
        self._seen = 0

    # What a signal says of itself

    def own_columns(self, seen: Any, prices: Any) -> dict[str, pl.Series]:
        """The signal's own columns from the state rows at its fires and the YES prices of the firing prints."""
        raise TypeError(f"{type(self).__name__} does not say what its fires hold")

    def sides(self, seen: Any) -> list[str]:
        """The outcome each fire says to buy."""
        raise TypeError(f"{type(self).__name__} does not say what to buy")

    def make_fire(self, base: Base, seen: Any) -> Fire:
        """A live fire from its common fields and its own columns."""
        raise TypeError(f"{type(self).__name__} does not say what its fires are")

    # The drivers

    def run(self, tape: Frame) -> Frame:
        """All fires over a tape, from fresh state, as a frame of the tape's kind, in the order of the tape.

        Columns: `row` (position in the tape), `ts`, `ticker`, `side` (outcome to buy), `price` (YES price of
        the firing print), `n_trades` (prints counted for it), and the signal's own.  Live state is not touched.

        Raises:
            TapeError: not a tape; `kalshilab.to_tape` makes one.
        """
        frame = as_tape(tape)
        markets = frame["market"].cast(pl.UInt32).to_numpy()
        prices = frame["price"].cast(pl.Int16).to_numpy()
        sizes = (
            frame["size"].cast(pl.UInt32).to_numpy() if "size" in frame.columns else np.zeros(0, np.uint32)
        )
        takers = frame["taker"].to_physical().cast(pl.UInt8).to_numpy()
        state = fresh_state(int(markets.max()) + 1 if len(markets) else 0, self.width, self.dtype)
        rows: list[Any] = []
        seen: list[Any] = []
        loop, start = loop_of(type(self).step), 0
        while start < len(markets):
            row_buffer = np.empty(BUFFER, np.int64)
            seen_buffer: Any = np.empty((BUFFER, self.width), self.dtype)
            start, count = loop(
                state, markets, prices, sizes, takers, start, row_buffer, seen_buffer, self._rule
            )
            rows.append(row_buffer[:count])
            seen.append(seen_buffer[:count])
        at = np.concatenate(rows) if rows else np.empty(0, np.int64)
        kept = np.concatenate(seen) if seen else np.empty((0, self.width), self.dtype)
        return like(self._frame(frame, at, kept, prices[at]), tape)  # type: ignore[no-any-return]

    def _frame(self, frame: pl.DataFrame, rows: Any, seen: Any, prices: Any) -> pl.DataFrame:
        named = frame.select("ts", pl.col("ticker").cast(pl.String))
        picked = named.gather(rows) if len(rows) else named.head(0)
        return pl.DataFrame(
            {
                "row": pl.Series(rows, dtype=pl.UInt64),
                "ts": picked["ts"],
                "ticker": picked["ticker"],
                "side": pl.Series(self.sides(seen), dtype=TAKER),
                "price": pl.Series(prices, dtype=pl.Int16),
                "n_trades": pl.Series(seen[:, 0], dtype=pl.UInt32),
                **self.own_columns(seen, prices),
            }
        )

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> Fire | None:
        """Take one live print (our units, `ts` in microseconds); a fire if it made one.

        Raises:
            SignalError: `taker` is neither "yes" nor "no": a print without direction must not be counted.
        """
        if taker != "yes" and taker != "no":
            raise SignalError(self.name, "taker", taker, "yes or no")
        market = self._codes.get(ticker)
        if market is None:
            market = self._codes[ticker] = len(self._codes)
            self._state = grown(self._state, market + 1)
        row = self._seen
        self._seen = row + 1
        if not type(self).step(self._state, market, price, size, taker == "yes", *self._rule):
            return None
        seen = self._state[market : market + 1]
        base: Base = (row, ts, ticker, self.sides(seen)[0], price, int(seen[0, 0]))
        return self.make_fire(base, seen)

    def reset(self, ticker: str | None = None) -> None:
        """Forget what was seen of one market, or of all."""
        if ticker is None:
            self._codes, self._seen = {}, 0
            self._state = fresh_state(0, self.width, self.dtype)
        elif ticker in self._codes:
            self._state[self._codes[ticker]] = 0

    def live_row(self, ticker: str) -> list[Any] | None:
        """The market's row of live state, or None if nothing of it was seen since its reset."""
        market = self._codes.get(ticker)
        if market is None or not self._state[market, 0]:
            return None
        row: list[Any] = self._state[market].tolist()
        return row

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.parameters.items())
        return f"{type(self).__name__}({given})"


def number_in(signal: str, name: str, value: Any, low: float, high: float, words: str) -> float:
    """A parameter as a number in [low, high].

    Raises:
        SignalError: it is none.
    """
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
        price = cents(value)
    except UnitError:
        price = -1
    if not 0 <= price <= 10_000:
        raise SignalError(signal, name, value, "cents from 0 to 100, in hundredths")
    return price


def flag_in(signal: str, name: str, value: Any) -> bool:
    """A parameter that is True or False.

    Raises:
        SignalError: it is neither.
    """
    if not isinstance(value, bool):
        raise SignalError(signal, name, value, "True or False")
    return value
