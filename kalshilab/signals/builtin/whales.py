"""Whales: single prints whose taker put down a lot of money at little leverage.

What a taker pays is the price of the outcome he bought times the contracts; his leverage is what a dollar of
stake can win, (a dollar − price) / price.  A print fires when the first is at least `min_value` dollars and
the second below `max_leverage` (2.0 is a price above 33⅓ cents).  `WhaleFade` takes YES buyers and says NO;
`WhaleFollow` takes buyers of either outcome and says the same.

By default each such print fires, as a live desk would see them; with `rearm=False` the first of a market.

With `top=N` only the largest get through: a queue holds the N largest whales, across all markets, of the last
`window` seconds, and a print that would fire does so if it finds room in the queue or is larger than the
smallest there, whose place it takes.  One who was let through stays in until he is pushed out or too old.

For the fade the published system claims +5.79 cents, entered at the mean price of all whales of a market, later ones
included.  Audited there is no value; following them lost by its own figures (-2.1 to -5.1).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError, UnitError
from kalshilab.signals.engine.compiled_signal import CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Array, compiled
from kalshilab.signals.engine.model import Fire, Frame
from kalshilab.units import dollars

__all__ = ["WhaleFade", "WhaleFire", "WhaleFollow", "WhaleQueue", "whale_fade", "whale_follow", "whale_step"]

FIELDS = np.dtype([("n", "i4"), ("whales", "i4"), ("value", "i8")], align=True)
"""Prints, whales among them, and what the taker of the last print paid, in money units."""


@compiled
def whale_step(
    s: Any,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    min_value: int,
    max_leverage: float,
    fade: bool,
    rearm: bool,
) -> int:
    """One print; fires when what its taker paid is large and his leverage small."""
    paid = price if taker_yes else 10_000 - price
    value = paid * size
    s.n += 1
    s.value = value
    # Leverage is (a dollar − price) / price, kept free of division by zero.
    if value < min_value or 10_000 - paid >= max_leverage * paid or (fade and not taker_yes):
        return NOTHING
    s.whales += 1
    if s.whales > 1 and not rearm:
        return NOTHING
    return BUY_YES if taker_yes and not fade else BUY_NO


@compiled
def _queue(times: Any, values: Any, window: int, keep: Any, held_ts: Any, held_value: Any, held: int) -> int:
    """Offer whales to a queue one after the other; fills `keep`, gives how many the queue now holds."""
    room = len(held_ts)
    for i in range(len(times)):
        left = 0
        smallest = -1
        for k in range(held):
            if held_ts[k] > times[i] - window:
                held_ts[left] = held_ts[k]
                held_value[left] = held_value[k]
                # Of equals the earlier goes first.
                if smallest < 0 or held_value[left] < held_value[smallest]:
                    smallest = left
                left += 1
        held = left
        at = held
        if held == room:
            if values[i] <= held_value[smallest]:
                continue
            # Out with the smallest, keeping the order of arrival.
            for k in range(smallest, held - 1):
                held_ts[k] = held_ts[k + 1]
                held_value[k] = held_value[k + 1]
            at = held - 1
        else:
            held += 1
        held_ts[at] = times[i]
        held_value[at] = values[i]
        keep[i] = True
    return held


class WhaleQueue:
    """The `top` largest whales of the last `window` seconds; see the module."""

    def __init__(self, top: int, window: float) -> None:
        self._window = round(window * 1e6)
        self._ts, self._value = np.zeros(top, np.int64), np.zeros(top, np.int64)
        self._held = 0

    def keep(self, ts: Array, seen: Array) -> Array:
        """Which of these whales get through, in the order of the tape."""
        kept = np.zeros(len(ts), np.bool_)
        values = np.ascontiguousarray(seen["value"])
        self._held = _queue(
            ts.astype(np.int64), values, self._window, kept, self._ts, self._value, self._held
        )
        return kept


class WhaleFire(Fire, frozen=True):
    """A whale's print: what he paid in money units, and which of the market's whales he is (from 1)."""

    value: int
    whales: int


class _Whales(CompiledSignal):
    """What both signals share.

    Args:
        min_value: dollars the taker paid, at least.
        max_leverage: his leverage must be below.
        rearm: whether every whale of a market fires, or its first only.
        top: how many whales the queue holds; None: no queue.
        window: seconds for which a whale counts in the queue.
    """

    step = staticmethod(whale_step)
    reads: ClassVar[tuple[str, ...]] = ("price", "size", "taker")
    columns: ClassVar[dict[str, Any]] = {"value": pl.Int64, "whales": pl.UInt32}
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
            raise SignalError(self.name, "min_value", min_value, "dollars from 0")
        leverage = number_in(self.name, "max_leverage", max_leverage, 0, 1e6, "a number from 0")
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

    def sieve(self) -> WhaleQueue | None:
        return None if self._top is None else WhaleQueue(self._top, self._window)

    def state(self, ticker: str) -> int | None:
        """How many whales the market has seen, or None if no print of it was seen since its reset."""
        s = self.live(ticker)
        return None if s is None else int(s["whales"])


class WhaleFade(_Whales):
    """Bet against large YES buyers; see the module for the rule.

    Args:
        min_value: dollars the taker paid, at least.
        max_leverage: his leverage must be below.
        rearm: whether every whale of a market fires, or its first only.
        top: how many whales the queue holds; None: no queue.
        window: seconds for which a whale counts in the queue.

    >>> fade = WhaleFade(min_value=100, max_leverage=2.0)
    >>> fade.update("A-B-1", 1, 5000, 20_000, "yes")
    WhaleFire(row=0, ts=1, ticker='A-B-1', side='no', price=5000, n_trades=1, value=100000000, whales=1)

    Raises:
        SignalError: a parameter out of range.
    """

    name = "whale_fade"
    fade = True


class WhaleFollow(_Whales):
    """Bet with large buyers of either outcome; see the module for the rule, `WhaleFade` for the parameters.

    >>> WhaleFollow(min_value=100).update("A-B-1", 1, 5000, 20_000, "no").side
    'no'

    Raises:
        SignalError: a parameter out of range.
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
    """All fires against large YES buyers over a tape; `WhaleFade(…).run(tape)`.

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
    """All fires with large buyers over a tape; `WhaleFollow(…).run(tape)`.

    Parameters (`min_value` in dollars, `window` in seconds) and errors are those of `WhaleFade` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.whale_follow(kl.sample()[0], min_value=50).columns[-2:]
    ['value', 'whales']
    """
    return WhaleFollow(min_value, max_leverage, rearm, top, window).run(tape)
