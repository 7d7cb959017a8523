"""Whales: single prints whose taker put down a lot of money at little leverage.

What a taker pays is the price of the outcome he bought times the contracts; his leverage is what a dollar of
stake can win, (a dollar − price) / price.  A print fires when the first is at least `min_value` dollars and
the second below `max_leverage` (2.0 is a price above 33⅓ cents).  `WhaleFade` takes YES buyers and says NO;
`WhaleFollow` takes buyers of either outcome and says the same.

By default each such print fires, as a live desk would see them; with `rearm=False` the first of a market.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError, UnitError
from kalshilab.signals.driver import Base, CompiledSignal, flag_in, number_in
from kalshilab.signals.kernel import WHALE_WIDTH, whale_step
from kalshilab.signals.signal import Fire, Frame
from kalshilab.units import dollars

__all__ = ["WhaleFade", "WhaleFire", "WhaleFollow", "whale_fade", "whale_follow"]


class WhaleFire(Fire, frozen=True):
    """A whale's print: what he paid in money units, and which of the market's whales he is (from 1)."""

    value: int
    whales: int


class _Whales(CompiledSignal):
    """What both signals share."""

    width = WHALE_WIDTH
    dtype = np.int64
    step = staticmethod(whale_step)
    yes_only: ClassVar[bool]

    def __init__(self, min_value: float = 100, max_leverage: float = 2.0, rearm: bool = True) -> None:
        try:
            value = dollars(min_value)
        except UnitError:
            value = -1
        if not 0 <= value <= 10**18:
            raise SignalError(self.name, "min_value", min_value, "dollars from 0")
        leverage = number_in(self.name, "max_leverage", max_leverage, 0, 1e6, "a number from 0")
        given = {"min_value": min_value, "max_leverage": max_leverage, "rearm": rearm}
        super().__init__((value, leverage, self.yes_only, flag_in(self.name, "rearm", rearm)), given)

    def own_columns(self, seen: Any, prices: Any) -> dict[str, pl.Series]:
        return {
            "value": pl.Series(seen[:, 2], dtype=pl.Int64),
            "whales": pl.Series(seen[:, 1], dtype=pl.UInt32),
        }

    def make_fire(self, base: Base, seen: Any) -> WhaleFire:
        return WhaleFire(*base, int(seen[0, 2]), int(seen[0, 1]))

    def state(self, ticker: str) -> Any | None:
        """How many whales the market has seen, or None if no print of it was seen since its reset."""
        row = self.live_row(ticker)
        return None if row is None else row[1]


class WhaleFade(_Whales):
    """Bet against large YES buyers; see the module for the rule.

    >>> fade = WhaleFade(min_value=100, max_leverage=2.0)
    >>> fade.update("A-B-1", 1, 5000, 20_000, "yes")
    WhaleFire(row=0, ts=1, ticker='A-B-1', side='no', price=5000, n_trades=1, value=100000000, whales=1)

    Raises:
        SignalError: a parameter out of range.
    """

    name: ClassVar[str] = "whale_fade"
    yes_only = True

    def sides(self, seen: Any) -> list[str]:
        return ["no"] * len(seen)


class WhaleFollow(_Whales):
    """Bet with large buyers of either outcome; see the module for the rule.

    >>> WhaleFollow(min_value=100).update("A-B-1", 1, 5000, 20_000, "no").side
    'no'

    Raises:
        SignalError: a parameter out of range.
    """

    name: ClassVar[str] = "whale_follow"
    yes_only = False

    def sides(self, seen: Any) -> list[str]:
        return ["yes" if yes else "no" for yes in seen[:, 3]]


def whale_fade(
    tape: Frame, *, min_value: float = 100, max_leverage: float = 2.0, rearm: bool = True
) -> Frame:
    """All fires against large YES buyers over a tape; `WhaleFade(…).run(tape)`.

    >>> import kalshilab as kl
    >>> set(kl.signals.whale_fade(kl.sample()[0], min_value=50)["side"])
    {'no'}
    """
    return WhaleFade(min_value, max_leverage, rearm).run(tape)


def whale_follow(
    tape: Frame, *, min_value: float = 100, max_leverage: float = 2.0, rearm: bool = True
) -> Frame:
    """All fires with large buyers over a tape; `WhaleFollow(…).run(tape)`.

    >>> import kalshilab as kl
    >>> kl.signals.whale_follow(kl.sample()[0], min_value=50).columns[-2:]
    ['value', 'whales']
    """
    return WhaleFollow(min_value, max_leverage, rearm).run(tape)
