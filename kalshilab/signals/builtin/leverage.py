"""Low leverage variance (S013), as of each print.

A taker's leverage is (a dollar − price) / price of the outcome that the taker bought.  The signal buys NO at the
first print as of which there are at least `min_trades` prints (and at least two), the share of NO takers is strictly
above `min_no_ratio`, and the sample standard deviation of all takers' leverage is below `max_std`.

The published system took the deviation over a market's whole life, which removes losers by construction: when NO
loses, its price falls and leverage explodes.  It claims +11.29 cents.  There is no audited value, and on fair markets
the same method shows +9.0.  The deviation as of the print has no such bias.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec
import numpy as np
import polars as pl

from kalshilab.signals.engine.compiled_signal import SHARE, CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.engine.kernel import BUY_NO, Array, Record, compiled
from kalshilab.signals.engine.model import Dtypes, Fire, Frame
from kalshilab.signals.engine.rearming import rearming_step, state_fields

__all__ = [
    "LeverageState",
    "LowLeverageVariance",
    "LowLeverageVarianceFire",
    "low_leverage_variance",
    "low_leverage_variance_step",
]

STATE = {"no": "i4", "mean": "f8", "squares": "f8"}
"""NO takers, the mean of leverage, and the sum of squared deviations from it."""


@compiled
def _leverage_is_steady(
    s: Record,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    max_std: float,
    min_no_ratio: float,
    min_trades: int,
) -> bool:
    # A print at a price of zero has infinite leverage; it counts at the smallest price there is.
    paid = max(price if taker_yes else 10_000 - price, 1)
    leverage = (10_000 - paid) / paid
    n = s.n
    s.no += not taker_yes
    # Welford's recurrence: accurate where summing squares would cancel.
    delta = leverage - s.mean
    mean = s.mean + delta / n
    squares = s.squares + delta * (leverage - mean)
    s.mean = mean
    s.squares = squares
    if n < min_trades or n < 2 or s.no / n <= min_no_ratio:
        return False
    return np.sqrt(squares / (n - 1)) < max_std  # type: ignore[no-any-return]


low_leverage_variance_step = rearming_step(_leverage_is_steady, STATE, BUY_NO, "low_leverage_variance")


class LowLeverageVarianceFire(Fire, frozen=True):
    """A fire of low leverage variance: the sample standard deviation of leverage, and the share of NO takers."""

    std: float
    no_ratio: float


class LeverageState(msgspec.Struct, frozen=True):
    """Live numbers of a market; `std` is 0 before the second print."""

    n_trades: int
    no_trades: int
    mean: float
    std: float


class LowLeverageVariance(CompiledSignal):
    """Takers' leverage varies little and NO prevails; the module's documentation states the rule.

    Args:
        max_std: the standard deviation of leverage must be below this.
        min_no_ratio: the share of NO takers must be above this, 0 to 1.
        min_trades: the minimum number of prints.
        rearm: whether a market starts anew after a fire.

    >>> signal = LowLeverageVariance(min_trades=2)
    >>> signal.update("A-B-1", 1, 5000, 100, "no")
    >>> signal.update("A-B-1", 2, 5000, 100, "no").std
    0.0

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "low_leverage_variance"
    step = staticmethod(low_leverage_variance_step)
    reads: ClassVar[tuple[str, ...]] = ("price", "taker")
    columns: ClassVar[Dtypes] = {"std": pl.Float64, "no_ratio": pl.Float64}
    fire = LowLeverageVarianceFire

    def __init__(
        self, max_std: float = 0.7, min_no_ratio: float = 0.5, min_trades: int = 5, rearm: bool = False
    ) -> None:
        rule = (
            flag_in(self.name, "rearm", rearm),
            number_in(self.name, "max_std", max_std, 0, 1e6, "a number >= 0"),
            number_in(self.name, "min_no_ratio", min_no_ratio, 0, 1, SHARE),
            whole_in(self.name, "min_trades", min_trades),
        )
        given = {"max_std": max_std, "min_no_ratio": min_no_ratio, "min_trades": rule[3], "rearm": rearm}
        super().__init__(rule, given, state_fields(STATE))

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        n = seen["n"]
        return {"std": np.sqrt(seen["squares"] / np.maximum(n - 1, 1)), "no_ratio": seen["no"] / n}

    def state(self, ticker: str) -> LeverageState | None:
        """Return the market's live numbers, or `None` without a print since its reset."""
        s = self.live(ticker)
        if s is None:
            return None
        n = int(s["n"])
        return LeverageState(n, int(s["no"]), float(s["mean"]), float(np.sqrt(s["squares"] / max(n - 1, 1))))


def low_leverage_variance(
    tape: Frame, *, max_std: float = 0.7, min_no_ratio: float = 0.5, min_trades: int = 5, rearm: bool = False
) -> Frame:
    """Return all fires of low leverage variance over a tape: `LowLeverageVariance(…).run(tape)`.

    Parameters and errors are those of `LowLeverageVariance` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.low_leverage_variance(kl.sample()[0]).columns[-2:]
    ['std', 'no_ratio']
    """
    return LowLeverageVariance(max_std, min_no_ratio, min_trades, rearm).run(tape)
