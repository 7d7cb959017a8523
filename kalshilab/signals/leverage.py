"""Low leverage variance (S013), as of each print.

A taker's leverage is (a dollar − price) / price of the outcome he bought.  The signal says NO at the first
print at which, counting it, there are at least `min_trades` prints (two at least), the share of NO takers is
strictly above `min_no_ratio`, and the sample standard deviation of their leverage is below `max_std`.

The reference system took the deviation over a market's whole life, which removes losers by itself: when NO
loses, its price falls and leverage explodes.  As of the print there is nothing of that in it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np
import polars as pl

from kalshilab.signals.driver import Base, CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.kernel import VARIANCE_WIDTH, variance_step
from kalshilab.signals.signal import Fire, Frame

__all__ = ["LeverageState", "LowLeverageVariance", "LowLeverageVarianceFire", "low_leverage_variance"]


class LowLeverageVarianceFire(Fire, frozen=True):
    """Leverage has varied little and NO prevails: its sample standard deviation, and the share of NO takers."""

    std: float
    no_ratio: float


class LeverageState(msgspec.Struct, frozen=True):
    """A market's live numbers; `std` is 0 before the second print."""

    n_trades: int
    no_trades: int
    mean: float
    std: float


class LowLeverageVariance(CompiledSignal):
    """The signal with its parameters; see the module for the rule.

    Args:
        max_std: the standard deviation of leverage must be below.
        min_no_ratio: the share of NO takers must be above.
        min_trades: prints at least.
        rearm: whether a market starts anew after a fire.

    >>> signal = LowLeverageVariance(min_trades=2)
    >>> signal.update("A-B-1", 1, 5000, 100, "no")
    >>> signal.update("A-B-1", 2, 5000, 100, "no").std
    0.0

    Raises:
        SignalError: a parameter out of range.
    """

    name: ClassVar[str] = "low_leverage_variance"
    width = VARIANCE_WIDTH
    dtype = np.float64
    step = staticmethod(variance_step)

    def __init__(
        self, max_std: float = 0.7, min_no_ratio: float = 0.5, min_trades: int = 5, rearm: bool = False
    ) -> None:
        rule = (
            number_in(self.name, "max_std", max_std, 0, 1e6, "a number from 0"),
            number_in(self.name, "min_no_ratio", min_no_ratio, 0, 1, "a share from 0 to 1"),
            whole_in(self.name, "min_trades", min_trades),
            flag_in(self.name, "rearm", rearm),
        )
        given = {"max_std": max_std, "min_no_ratio": min_no_ratio, "min_trades": rule[2], "rearm": rearm}
        super().__init__(rule, given)

    def sides(self, seen: Any) -> list[str]:
        return ["no"] * len(seen)

    def own_columns(self, seen: Any, prices: Any) -> dict[str, pl.Series]:
        n = seen[:, 0]
        return {
            "std": pl.Series(np.sqrt(seen[:, 3] / np.maximum(n - 1, 1)), dtype=pl.Float64),
            "no_ratio": pl.Series(seen[:, 1] / np.maximum(n, 1), dtype=pl.Float64),
        }

    def make_fire(self, base: Base, seen: Any) -> LowLeverageVarianceFire:
        own = self.own_columns(seen, seen[:, 5])
        return LowLeverageVarianceFire(*base, own["std"][0], own["no_ratio"][0])

    def state(self, ticker: str) -> LeverageState | None:
        """The market's live numbers, or None if no print of it was seen since its reset."""
        row = self.live_row(ticker)
        if row is None:
            return None
        n = int(row[0])
        return LeverageState(n, int(row[1]), row[2], float(np.sqrt(row[3] / max(n - 1, 1))))


def low_leverage_variance(
    tape: Frame, *, max_std: float = 0.7, min_no_ratio: float = 0.5, min_trades: int = 5, rearm: bool = False
) -> Frame:
    """All fires of low leverage variance over a tape; `LowLeverageVariance(…).run(tape)`.

    >>> import kalshilab as kl
    >>> kl.signals.low_leverage_variance(kl.sample()[0]).columns[-2:]
    ['std', 'no_ratio']
    """
    return LowLeverageVariance(max_std, min_no_ratio, min_trades, rearm).run(tape)
