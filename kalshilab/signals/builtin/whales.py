"""Whales: single prints whose taker paid a large amount at low leverage.

A taker pays the price of the outcome bought times the contracts.  The leverage of the print is the possible win per
dollar paid, (a dollar − price) / price.  A print fires if the payment is at least `min_value` dollars and the
leverage is below `max_leverage` (2.0 is a price above 33⅓ cents).  `WhaleFade` looks at YES buyers and buys NO; `WhaleFollow`
looks at buyers of either outcome and buys the same outcome.

By default every such print fires, as a live desk would see them; with `rearm=False` only the first one of a market.

With `top=N` only the largest pass: a queue holds the N largest whales, across all markets, of the last `window`
seconds.  A print that would fire does so if the queue has room, or if it is larger than the smallest whale in the
queue, which it replaces.  A whale stays in the queue until it is replaced or too old.

For the fade the published system claims +5.79 cents, entered at the mean price of all whales of a market, later ones
included.  There is no audited value.  Following whales lost by the system's own figures (-2.1 to -5.1).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import SignalError, UnitError
from kalshilab.signals.engine.compiled_signal import CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Array, Record, compiled
from kalshilab.signals.engine.model import Dtypes, Fire, Frame
from kalshilab.units import dollars

__all__ = ["WhaleFade", "WhaleFire", "WhaleFollow", "WhaleQueue", "whale_fade", "whale_follow", "whale_step"]

FIELDS = np.dtype([("n", "i4"), ("whales", "i4"), ("value", "i8")], align=True)
"""Prints, whales among them, and the payment of the last print's taker in 1/1,000,000 dollar."""


@compiled
def whale_step(
    s: Record,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    min_value: int,
    max_leverage: float,
    fade: bool,
    rearm: bool,
) -> int:
    """Process one print; fire when its taker's payment is large and the leverage low."""
    paid = price if taker_yes else 10_000 - price
    value = paid * size
    s.n += 1
    s.value = value
    # Leverage is (a dollar − price) / price; multiplied out, so that no division by zero occurs.
    if value < min_value or 10_000 - paid >= max_leverage * paid or (fade and not taker_yes):
        return NOTHING
    s.whales += 1
    if s.whales > 1 and not rearm:
        return NOTHING
    return BUY_YES if taker_yes and not fade else BUY_NO


@compiled
def _enqueue(
    times: npt.NDArray[np.int64],
    values: npt.NDArray[np.int64],
    window: int,
    keep: npt.NDArray[np.bool_],
    queue_ts: npt.NDArray[np.int64],
    queue_value: npt.NDArray[np.int64],
    length: int,
) -> int:
    """Offer whales to a queue one after the other; fill the mask `keep` and return the queue's new length."""
    room = len(queue_ts)
    for i in range(len(times)):
        recent = 0
        smallest = -1
        for k in range(length):
            if queue_ts[k] > times[i] - window:
                queue_ts[recent] = queue_ts[k]
                queue_value[recent] = queue_value[k]
                # Among equals the earliest is replaced.
                if smallest < 0 or queue_value[recent] < queue_value[smallest]:
                    smallest = recent
                recent += 1
        length = recent
        at = length
        if length == room:
            if values[i] <= queue_value[smallest]:
                continue
            # Remove the smallest and keep the order of arrival.
            for k in range(smallest, length - 1):
                queue_ts[k] = queue_ts[k + 1]
                queue_value[k] = queue_value[k + 1]
            at = length - 1
        else:
            length += 1
        queue_ts[at] = times[i]
        queue_value[at] = values[i]
        keep[i] = True
    return length


class WhaleQueue:
    """A queue of the `top` largest whales of the last `window` seconds; the module's documentation states the rule."""

    def __init__(self, top: int, window: float) -> None:
        self._window_us = round(window * 1e6)
        self._ts, self._value = np.zeros(top, np.int64), np.zeros(top, np.int64)
        self._length = 0

    def keep(self, ts: Array, seen: Array) -> Array:
        """Return a mask of the whales that enter the queue; they come in the order of the tape."""
        kept = np.zeros(len(ts), np.bool_)
        values = np.ascontiguousarray(seen["value"])
        self._length = _enqueue(
            ts.astype(np.int64), values, self._window_us, kept, self._ts, self._value, self._length
        )
        return kept


class WhaleFire(Fire, frozen=True):
    """A whale's print: the payment in 1/1,000,000 dollar, and the number of the market's whales so far."""

    value: int
    whales: int


class _Whales(CompiledSignal):
    """Base of both signals; `WhaleFade` documents the parameters."""

    step = staticmethod(whale_step)
    reads: ClassVar[tuple[str, ...]] = ("price", "size", "taker")
    columns: ClassVar[Dtypes] = {"value": pl.Int64, "whales": pl.UInt32}
    fire = WhaleFire
    fade: ClassVar[bool]

    def __init__(
        self,
        min_value: float = 100,
        max_leverage: float = 2.0,
        rearm: bool = True,
        top: int | None = None,
        window: float = 300,
    ) -> None:
        try:
            value = dollars(min_value)
        except UnitError:
            value = -1
        if not 0 <= value <= 10**18:
            raise SignalError(self.name, "min_value", min_value, "dollars >= 0")
        leverage = number_in(self.name, "max_leverage", max_leverage, 0, 1e6, "a number >= 0")
        if top is not None:
            top = whole_in(self.name, "top", top)
        number_in(self.name, "window", window, 1e-6, 1e9, "seconds above 0")
        given = {
            "min_value": min_value,
            "max_leverage": max_leverage,
            "rearm": rearm,
            "top": top,
            "window": window,
        }
        self._top, self._window = top, window
        super().__init__((value, leverage, self.fade, flag_in(self.name, "rearm", rearm)), given, FIELDS)

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {"value": seen["value"], "whales": seen["whales"]}

    def fire_filter(self) -> WhaleQueue | None:
        return None if self._top is None else WhaleQueue(self._top, self._window)

    def state(self, ticker: str) -> int | None:
        """Return the number of the market's whales so far, or `None` without a print since its reset."""
        s = self.live(ticker)
        return None if s is None else int(s["whales"])


class WhaleFade(_Whales):
    """Bet against large YES buyers; the module's documentation states the rule.

    Args:
        min_value: the minimum payment of the taker, dollars.
        max_leverage: the leverage must be below this.
        rearm: whether every whale of a market fires, or only its first.
        top: the length of the queue of whales; None: no queue.
        window: seconds for which a whale stays in the queue.

    >>> fade = WhaleFade(min_value=100, max_leverage=2.0)
    >>> fade.update("A-B-1", 1, 5000, 20_000, "yes")
    WhaleFire(row=0, ts=1, ticker='A-B-1', side='no', price=5000, n_trades=1, value=100000000, whales=1)

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "whale_fade"
    fade = True


class WhaleFollow(_Whales):
    """Bet with large buyers of either outcome; `WhaleFade` documents the parameters.

    >>> WhaleFollow(min_value=100).update("A-B-1", 1, 5000, 20_000, "no").side
    'no'

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "whale_follow"
    fade = False


def whale_fade(
    tape: Frame,
    *,
    min_value: float = 100,
    max_leverage: float = 2.0,
    rearm: bool = True,
    top: int | None = None,
    window: float = 300,
) -> Frame:
    """Return all fires against large YES buyers over a tape: `WhaleFade(…).run(tape)`.

    Parameters (`min_value` in dollars, `window` in seconds) and errors are those of `WhaleFade` and its `run`.

    >>> import kalshilab as kl
    >>> set(kl.signals.whale_fade(kl.sample()[0], min_value=50)["side"])
    {'no'}
    """
    return WhaleFade(min_value, max_leverage, rearm, top, window).run(tape)


def whale_follow(
    tape: Frame,
    *,
    min_value: float = 100,
    max_leverage: float = 2.0,
    rearm: bool = True,
    top: int | None = None,
    window: float = 300,
) -> Frame:
    """Return all fires with large buyers over a tape: `WhaleFollow(…).run(tape)`.

    Parameters (`min_value` in dollars, `window` in seconds) and errors are those of `WhaleFade` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.whale_follow(kl.sample()[0], min_value=50).columns[-2:]
    ['value', 'whales']
    """
    return WhaleFollow(min_value, max_leverage, rearm, top, window).run(tape)
