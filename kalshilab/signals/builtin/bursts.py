"""Many prints in a short time: steam, and one-sided bursts; each as of its print.

**Steam** follows: at least `min_trades` takers of one outcome within `window` seconds, and that outcome's price
up by more than `min_move` over them.  Looked at are the last `min_trades` prints by takers of the firing
print's outcome, itself included: the first of them is at most `window` older (inclusive).

**Burst** counts in windows of the clock (for one second: the prints of one second of exchange time).  It fires
at the first print of a window at which there are at least `min_trades` prints in the window so far and the
share of takers of `side` among them is strictly above `min_ratio`; it buys that side.

The published system took both over whole windows, later prints included.  For steam it claims +6.1 points above a win
rate of one half, which is no edge over a price; for bursts +4.6 cents, which it rejected itself.  Audited there is
no value of either.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import (
    CompiledSignal,
    cents_in,
    flag_in,
    number_in,
    seconds_in,
    side_in,
    whole_in,
)
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Array, compiled
from kalshilab.signals.engine.model import Fire, Frame

__all__ = ["Burst", "BurstFire", "Steam", "SteamFire", "burst", "burst_step", "steam", "steam_step"]

MOST = 64
"""Prints that steam can be asked to remember of each side."""


def _steam_fields(length: int) -> np.dtype[Any]:
    """The last times and prices of each side's takers as rings, and how many there have been."""
    return np.dtype(
        [
            ("n", "i4"), ("fired", "u1"), ("move", "i2"), ("seen_yes", "i4"), ("seen_no", "i4"),
            ("yes_ts", "i8", (length,)), ("no_ts", "i8", (length,)),
            ("yes_price", "i2", (length,)), ("no_price", "i2", (length,)),
        ],
        align=True,
    )  # fmt: skip


@compiled
def _steam_side(
    ts: int, price: int, seen: int, times: Any, prices: Any, length: int, window: int, min_move: int
) -> int:
    """Put a print on its side's ring; the rise of the price over the ring if it is steam, else -1."""
    at = seen % length
    # The place of the new print is that of the oldest; the next oldest begins the run that ends here.
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
def steam_step(
    s: Any,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    length: int,
    window: int,
    min_move: int,
    rearm: bool,
) -> int:
    """One print; see the module for the rule."""
    if s.fired:
        if not rearm:
            return NOTHING
        s.fired = 0
        s.n = 0
        s.seen_yes = 0
        s.seen_no = 0
    s.n += 1
    if taker_yes:
        rise = _steam_side(ts, price, s.seen_yes, s.yes_ts, s.yes_price, length, window, min_move)
        s.seen_yes += 1
    else:
        rise = _steam_side(ts, 10_000 - price, s.seen_no, s.no_ts, s.no_price, length, window, min_move)
        s.seen_no += 1
    if rise < 0:
        return NOTHING
    s.move = rise
    s.fired = 1
    return BUY_YES if taker_yes else BUY_NO


class SteamFire(Fire, frozen=True):
    """Steam: how far the price of the outcome to buy has risen, in price units."""

    move: int


class Steam(CompiledSignal):
    """Follow a run of takers that moves the price; see the module for the rule.

    Args:
        min_trades: takers of one outcome, 2 to 64.
        window: seconds from the first of them to the last, at most.
        min_move: cents the outcome must have risen more than.
        rearm: whether a market starts anew after a fire.

    >>> signal = Steam(min_trades=2, window=60, min_move=5)
    >>> signal.update("A-B-1", 1_000_000, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2_000_000, 5600, 100, "yes").move
    600

    Raises:
        SignalError: a parameter out of range.
    """

    name = "steam"
    step = staticmethod(steam_step)
    reads: ClassVar[tuple[str, ...]] = ("ts", "price", "taker")
    columns: ClassVar[dict[str, Any]] = {"move": pl.Int16}
    fire = SteamFire

    def __init__(
        self, min_trades: int = 5, window: float = 60, min_move: float = 5, rearm: bool = False
    ) -> None:
        length = whole_in(self.name, "min_trades", min_trades, 2)
        if length > MOST:
            raise SignalError(self.name, "min_trades", min_trades, f"2 to {MOST}")
        rule = (
            length,
            seconds_in(self.name, "window", window),
            cents_in(self.name, "min_move", min_move),
            flag_in(self.name, "rearm", rearm),
        )
        given = {"min_trades": length, "window": window, "min_move": min_move, "rearm": rearm}
        super().__init__(rule, given, _steam_fields(length))

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {"move": np.ascontiguousarray(seen["move"])}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """YES and NO takers so far, or None if no print of the market was seen since its reset."""
        s = self.live(ticker)
        return None if s is None else (int(s["seen_yes"]), int(s["seen_no"]))


BURST_FIELDS = np.dtype([("n", "i4"), ("own", "i4"), ("at", "i8"), ("fired_at", "i8")], align=True)
"""Prints of the current window and those of our side among them; windows are numbered from 1 (0: none yet)."""


@compiled
def burst_step(
    s: Any,
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
    """One print; see the module for the rule."""
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
    """A one-sided burst: the share of takers of the side to buy in the window so far."""

    ratio: float


class Burst(CompiledSignal):
    """Follow the side that prevails in a burst; see the module for the rule.

    Args:
        min_trades: prints in the window so far, at least.
        window: seconds of a window of the clock.
        min_ratio: the share of takers of `side` must be above, 0 to 1.
        side: whose share is looked at, and what is bought.
        rearm: whether further windows of the market fire too; at most one fire a window.

    >>> signal = Burst(min_trades=2)
    >>> signal.update("A-B-1", 1_000_000, 5000, 100, "no")
    >>> signal.update("A-B-1", 1_900_000, 4900, 100, "no").ratio
    1.0

    Raises:
        SignalError: a parameter out of range.
    """

    name = "burst"
    step = staticmethod(burst_step)
    reads: ClassVar[tuple[str, ...]] = ("ts", "taker")
    columns: ClassVar[dict[str, Any]] = {"ratio": pl.Float64}
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
            number_in(self.name, "min_ratio", min_ratio, 0, 1, "a share from 0 to 1"),
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
        """Prints of the current window, and those of `side` among them; None if no print of the market was seen."""
        s = self.live(ticker)
        return None if s is None else (int(s["n"]), int(s["own"]))


def steam(
    tape: Frame, *, min_trades: int = 5, window: float = 60, min_move: float = 5, rearm: bool = False
) -> Frame:
    """All fires of steam over a tape; `Steam(…).run(tape)`.

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
    """All fires of one-sided bursts over a tape; `Burst(…).run(tape)`.

    Parameters (`window` in seconds) and errors are those of `Burst` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.burst(kl.sample()[0], window=60).columns[-1]
    'ratio'
    """
    return Burst(min_trades, window, min_ratio, side, rearm).run(tape)
