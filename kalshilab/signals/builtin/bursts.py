"""Many prints in a short time: steam, and one-sided bursts; each as of its print.

**Steam** follows a run of takers: at least `min_trades` takers of one outcome within `window` seconds, and that
outcome's price up by more than `min_move` over them.  The run consists of the last `min_trades` prints by takers of
the firing print's outcome, including the firing print; the first of them is at most `window` older (inclusive).

**Burst** counts in clock windows (with one second: the prints of one second of exchange time).  It fires at the first
print of a window as of which the window has at least `min_trades` prints and the share of takers of `side` among
them is strictly above `min_ratio`; it buys that side.

The published system evaluated both over whole windows, later prints included.  For steam it claims +6.1 points above a
win rate of one half, which is not an edge over a price.  For bursts it claims +4.6 cents, which it rejected itself.
Neither has an audited value.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import (
    SHARE,
    CompiledSignal,
    cents_in,
    flag_in,
    number_in,
    seconds_in,
    side_in,
    whole_in,
)
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Array, Record, compiled
from kalshilab.signals.engine.model import Dtypes, Fire, Frame
from kalshilab.signals.engine.rearming import rearming_step, state_fields

__all__ = ["Burst", "BurstFire", "Steam", "SteamFire", "burst", "burst_step", "steam", "steam_step"]

MOST = 64
"""Maximum `min_trades` of steam: prints to remember for each side."""
STEAM_STATE = {"move": "i2", "seen_yes": "i4", "seen_no": "i4"}
"""Rise of the price, and the number of takers of each side.  Their last times and prices are in rings, which need not
be cleared when a market starts anew."""


@compiled
def _ring_rise(
    ts: int,
    price: int,
    seen: int,
    times: npt.NDArray[np.int64],
    prices: npt.NDArray[np.int16],
    length: int,
    window: int,
    min_move: int,
) -> int:
    """Add a print to its side's rings and return the rise of the price over them if it is steam, else -1."""
    at = seen % length
    # The new print replaces the oldest one; the run that ends here begins at the next oldest.
    times[at] = ts
    prices[at] = price
    if seen + 1 < length:
        return -1
    begin = (seen + 1) % length
    rise = int(price - prices[begin])
    if ts - times[begin] > window or rise <= min_move:
        return -1
    return rise


@compiled
def _run_moves_price(
    s: Record,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    length: int,
    window: int,
    min_move: int,
) -> int:
    if taker_yes:
        rise = _ring_rise(ts, price, s.seen_yes, s.yes_ts, s.yes_price, length, window, min_move)
        s.seen_yes += 1
    else:
        rise = _ring_rise(ts, 10_000 - price, s.seen_no, s.no_ts, s.no_price, length, window, min_move)
        s.seen_no += 1
    if rise < 0:
        return NOTHING
    s.move = rise
    return BUY_YES if taker_yes else BUY_NO


steam_step = rearming_step(_run_moves_price, STEAM_STATE, None, "steam")


class SteamFire(Fire, frozen=True):
    """A fire of steam: the rise of the price of the outcome to buy, in 1/10,000 dollar."""

    move: int


class Steam(CompiledSignal):
    """Follow a run of takers that moves the price; the module's documentation states the rule.

    Args:
        min_trades: takers of one outcome, 2 to 64.
        window: maximum seconds from the first of them to the last.
        min_move: the outcome must have risen by more than this, cents.
        rearm: whether a market starts anew after a fire.

    >>> signal = Steam(min_trades=2, window=60, min_move=5)
    >>> signal.update("A-B-1", 1_000_000, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2_000_000, 5600, 100, "yes").move
    600

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "steam"
    step = staticmethod(steam_step)
    reads: ClassVar[tuple[str, ...]] = ("ts", "price", "taker")
    columns: ClassVar[Dtypes] = {"move": pl.Int16}
    fire = SteamFire

    def __init__(
        self, min_trades: int = 5, window: float = 60, min_move: float = 5, rearm: bool = False
    ) -> None:
        length = whole_in(self.name, "min_trades", min_trades, 2)
        if length > MOST:
            raise SignalError(self.name, "min_trades", min_trades, f"a whole number from 2 to {MOST}")
        rule = (
            flag_in(self.name, "rearm", rearm),
            length,
            seconds_in(self.name, "window", window),
            cents_in(self.name, "min_move", min_move),
        )
        given = {"min_trades": length, "window": window, "min_move": min_move, "rearm": rearm}
        rings = {
            f"{side}_{name}": np.dtype((kind, (length,)))
            for name, kind in (("ts", "i8"), ("price", "i2"))
            for side in ("yes", "no")
        }
        super().__init__(rule, given, state_fields({**STEAM_STATE, **rings}))

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {"move": np.ascontiguousarray(seen["move"])}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Return the numbers of YES and NO takers so far, or `None` without a print since the reset."""
        s = self.live(ticker)
        return None if s is None else (int(s["seen_yes"]), int(s["seen_no"]))


BURST_FIELDS = np.dtype([("n", "i4"), ("own", "i4"), ("at", "i8"), ("fired_at", "i8")], align=True)
"""Prints of the current window, those of the signal's side among them, the window, and the last window that fired.

Windows are numbered from 1; 0 means that there has been no window yet."""


@compiled
def burst_step(
    s: Record,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    buy_yes: bool,
    min_trades: int,
    window: int,
    min_ratio: float,
    rearm: bool,
) -> int:
    """Process one print; the module's documentation states the rule."""
    if s.fired_at and not rearm:
        return NOTHING
    at = ts // window + 1
    if at != s.at:
        s.at = at
        s.n = 0
        s.own = 0
    s.n += 1
    s.own += taker_yes == buy_yes
    if s.n < min_trades or s.own / s.n <= min_ratio or s.fired_at == at:
        return NOTHING
    s.fired_at = at
    return BUY_YES if buy_yes else BUY_NO


class BurstFire(Fire, frozen=True):
    """A fire of a one-sided burst: the share of takers of the side to buy in the window so far."""

    ratio: float


class Burst(CompiledSignal):
    """Follow the side that prevails in a burst; the module's documentation states the rule.

    Args:
        min_trades: the minimum number of prints in the window so far.
        window: the length of a clock window, seconds.
        min_ratio: the share of takers of `side` must be above this, 0 to 1.
        side: the outcome whose takers are counted, and which is bought.
        rearm: whether further windows of the market fire too, at most once each.

    >>> signal = Burst(min_trades=2)
    >>> signal.update("A-B-1", 1_000_000, 5000, 100, "no")
    >>> signal.update("A-B-1", 1_900_000, 4900, 100, "no").ratio
    1.0

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "burst"
    step = staticmethod(burst_step)
    reads: ClassVar[tuple[str, ...]] = ("ts", "taker")
    columns: ClassVar[Dtypes] = {"ratio": pl.Float64}
    fire = BurstFire

    def __init__(
        self,
        min_trades: int = 3,
        window: float = 1,
        min_ratio: float = 0.6,
        side: str = "no",
        rearm: bool = False,
    ) -> None:
        rule = (
            side_in(self.name, "side", side) == "yes",
            whole_in(self.name, "min_trades", min_trades),
            seconds_in(self.name, "window", window),
            number_in(self.name, "min_ratio", min_ratio, 0, 1, SHARE),
            flag_in(self.name, "rearm", rearm),
        )
        given = {
            "min_trades": rule[1],
            "window": window,
            "min_ratio": min_ratio,
            "side": side,
            "rearm": rearm,
        }
        super().__init__(rule, given, BURST_FIELDS)

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {"ratio": seen["own"] / seen["n"]}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Return the prints of the current window and those of `side` among them, or `None` without a print."""
        s = self.live(ticker)
        return None if s is None else (int(s["n"]), int(s["own"]))


def steam(
    tape: Frame, *, min_trades: int = 5, window: float = 60, min_move: float = 5, rearm: bool = False
) -> Frame:
    """Return all fires of steam over a tape: `Steam(…).run(tape)`.

    Parameters (`window` in seconds, `min_move` in cents) and errors are those of `Steam` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.steam(kl.sample()[0], min_trades=3, window=3600).columns[-1]
    'move'
    """
    return Steam(min_trades, window, min_move, rearm).run(tape)


def burst(
    tape: Frame,
    *,
    min_trades: int = 3,
    window: float = 1,
    min_ratio: float = 0.6,
    side: str = "no",
    rearm: bool = False,
) -> Frame:
    """Return all fires of one-sided bursts over a tape: `Burst(…).run(tape)`.

    Parameters (`window` in seconds) and errors are those of `Burst` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.burst(kl.sample()[0], window=60).columns[-1]
    'ratio'
    """
    return Burst(min_trades, window, min_ratio, side, rearm).run(tape)
