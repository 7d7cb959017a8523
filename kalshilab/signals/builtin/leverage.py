"""Low leverage variance (S013), as of each print.

A taker's leverage is (a dollar − price) / price of the outcome he bought.  The signal says NO at the first
print at which, counting it, there are at least `min_trades` prints (two at least), the share of NO takers is
strictly above `min_no_ratio`, and the sample standard deviation of their leverage is below `max_std`.

The published system took the deviation over a market's whole life, which removes losers by itself: when NO
loses, its price falls and leverage explodes.  It claims +11.29 cents; audited there is no value, and on fair markets
the same method shows +9.0.  As of the print there is nothing of that in it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np
import polars as pl

from kalshilab.signals.engine.compiled_signal import CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.engine.kernel import BUY_NO, NOTHING, Array, compiled
from kalshilab.signals.engine.model import Fire, Frame

__all__ = [
    "LeverageState",
    "LowLeverageVariance",
    "LowLeverageVarianceFire",
    "low_leverage_variance",
    "low_leverage_variance_step",
]

FIELDS = np.dtype([("n", "i4"), ("no", "i4"), ("mean", "f8"), ("squares", "f8"), ("fired", "u1")], align=True)
"""Prints, NO takers, mean of leverage and sum of squares about it, whether it has fired."""


@compiled
def low_leverage_variance_step(
    s: Any,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    max_std: float,
    min_no_ratio: float,
    min_trades: int,
    rearm: bool,
) -> int:
    """One print; fires when takers' leverage has varied little and most of them bought NO."""
    if s.fired:
        if not rearm:
            return NOTHING
        s.n = 0
        s.no = 0
        s.mean = 0.0
        s.squares = 0.0
        s.fired = 0
    # A print at nothing has no finite leverage; counted at the smallest price there is.
    paid = max(price if taker_yes else 10_000 - price, 1)
    leverage = (10_000 - paid) / paid
    n = s.n + 1
    no = s.no + (not taker_yes)
    # Welford's recurrence: exact enough where summing squares would cancel.
    delta = leverage - s.mean
    mean = s.mean + delta / n
    squares = s.squares + delta * (leverage - mean)
    s.n = n
    s.no = no
    s.mean = mean
    s.squares = squares
    if n < min_trades or n < 2 or no / n <= min_no_ratio:
        return NOTHING
    if np.sqrt(squares / (n - 1)) < max_std:
        s.fired = 1
        return BUY_NO
    return NOTHING


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

    name = "low_leverage_variance"
    step = staticmethod(low_leverage_variance_step)
    reads: ClassVar[tuple[str, ...]] = ("price", "taker")
    columns: ClassVar[dict[str, Any]] = {"std": pl.Float64, "no_ratio": pl.Float64}
    fire = LowLeverageVarianceFire

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
        super().__init__(rule, given, FIELDS)

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        n = seen["n"]
        return {"std": np.sqrt(seen["squares"] / np.maximum(n - 1, 1)), "no_ratio": seen["no"] / n}

    def state(self, ticker: str) -> LeverageState | None:
        """The market's live numbers, or None if no print of it was seen since its reset."""
        s = self.live(ticker)
        if s is None:
            return None
        n = int(s["n"])
        return LeverageState(n, int(s["no"]), float(s["mean"]), float(np.sqrt(s["squares"] / max(n - 1, 1))))


def low_leverage_variance(
    tape: Frame, *, max_std: float = 0.7, min_no_ratio: float = 0.5, min_trades: int = 5, rearm: bool = False
) -> Frame:
    """All fires of low leverage variance over a tape; `LowLeverageVariance(…).run(tape)`.

    Parameters and errors are those of `LowLeverageVariance` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.low_leverage_variance(kl.sample()[0]).columns[-2:]
    ['std', 'no_ratio']
    """
    return LowLeverageVariance(max_std, min_no_ratio, min_trades, rearm).run(tape)
