"""Who puts down how much: dollar direction, conviction ratio, buy-back; each as of its print, all say NO.

**Dollar direction**: by count takers buy YES, by money they do not.  Fires when there are at least `min_trades`
prints and the YES share of prints less the YES share of the dollars takers paid is strictly above `min_gap`.

**Conviction ratio**: those who buy NO buy more of it.  Fires when there are at least `min_trades` prints, takers
of both outcomes among them, and the mean size of the NO takers' is at least `min_ratio` times that of the YES takers'.

**Buy-back**: early takers buy YES, later and larger ones NO.  The published system halved a market's prints by their
final number, which is not known before the end.  As of the print, the halves are those of the prints so far,
looked at when their number has doubled: at print 2 x `half`, 4 x `half`, 8 x `half` and so on.  Fires there if the YES
share of the first half is strictly above `first_ratio`, that of the second strictly below `second_ratio`, and
the mean size of the second strictly larger.

The published system claims +12.05, +11.75 and +10.65 cents for the three, each over whole lives of markets.  Audited
there is no value of any; on fair markets its method for the last shows +15.0.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl

from kalshilab.signals.engine.compiled_signal import CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.engine.kernel import BUY_NO, NOTHING, Array, compiled
from kalshilab.signals.engine.model import Fire, Frame

__all__ = [
    "BuyBack", "BuyBackFire", "ConvictionFire", "ConvictionRatio", "DollarDirection", "DollarDirectionFire",
    "buy_back", "buy_back_step", "conviction_ratio", "conviction_ratio_step", "dollar_direction",
    "dollar_direction_step",
]  # fmt: skip

DOLLAR_FIELDS = np.dtype(
    [("n", "i4"), ("yes", "i4"), ("money", "i8"), ("yes_money", "i8"), ("fired", "u1")], align=True
)


@compiled
def dollar_direction_step(
    s: Any, ts: int, price: int, size: int, taker_yes: bool, min_gap: float, min_trades: int, rearm: bool
) -> int:
    """One print; see the module for the rule."""
    if s.fired:
        if not rearm:
            return NOTHING
        s.n = 0
        s.yes = 0
        s.money = 0
        s.yes_money = 0
        s.fired = 0
    paid = (price if taker_yes else 10_000 - price) * size
    s.n += 1
    s.yes += taker_yes
    s.money += paid
    s.yes_money += paid * taker_yes
    if s.n < min_trades or s.money == 0 or s.yes / s.n - s.yes_money / s.money <= min_gap:
        return NOTHING
    s.fired = 1
    return BUY_NO


class DollarDirectionFire(Fire, frozen=True):
    """The YES share of prints, and of the dollars takers paid."""

    yes_ratio: float
    dollar_ratio: float


class DollarDirection(CompiledSignal):
    """Prints lean to YES more than dollars do; see the module for the rule.

    Args:
        min_gap: by how much the share of prints must exceed that of dollars.
        min_trades: prints at least.
        rearm: whether a market starts anew after a fire.

    >>> signal = DollarDirection(min_gap=0.2, min_trades=2)
    >>> signal.update("A-B-1", 1, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2, 5000, 900, "no").dollar_ratio
    0.1

    Raises:
        SignalError: a parameter out of range.
    """

    name = "dollar_direction"
    step = staticmethod(dollar_direction_step)
    reads: ClassVar[tuple[str, ...]] = ("price", "size", "taker")
    columns: ClassVar[dict[str, Any]] = {"yes_ratio": pl.Float64, "dollar_ratio": pl.Float64}
    fire = DollarDirectionFire

    def __init__(self, min_gap: float = 0.20, min_trades: int = 10, rearm: bool = False) -> None:
        rule = (
            number_in(self.name, "min_gap", min_gap, -1, 1, "a difference of shares, -1 to 1"),
            whole_in(self.name, "min_trades", min_trades),
            flag_in(self.name, "rearm", rearm),
        )
        super().__init__(rule, {"min_gap": min_gap, "min_trades": rule[1], "rearm": rearm}, DOLLAR_FIELDS)

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {"yes_ratio": seen["yes"] / seen["n"], "dollar_ratio": seen["yes_money"] / seen["money"]}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Dollars paid so far and for YES, in money units, or None if no print was seen since the reset."""
        s = self.live(ticker)
        return None if s is None else (int(s["money"]), int(s["yes_money"]))


CONVICTION_FIELDS = np.dtype(
    [("n", "i4"), ("yes", "i4"), ("yes_size", "i8"), ("no_size", "i8"), ("fired", "u1")], align=True
)


@compiled
def _conviction(yes: int, no: int, yes_size: int, no_size: int) -> float:
    return (no_size / no) / (yes_size / yes)


@compiled
def conviction_ratio_step(
    s: Any, ts: int, price: int, size: int, taker_yes: bool, min_ratio: float, min_trades: int, rearm: bool
) -> int:
    """One print; see the module for the rule."""
    if s.fired:
        if not rearm:
            return NOTHING
        s.n = 0
        s.yes = 0
        s.yes_size = 0
        s.no_size = 0
        s.fired = 0
    s.n += 1
    s.yes += taker_yes
    s.yes_size += size * taker_yes
    s.no_size += size * (not taker_yes)
    no = s.n - s.yes
    if s.n < min_trades or s.yes == 0 or no == 0:
        return NOTHING
    if _conviction(s.yes, no, s.yes_size, s.no_size) < min_ratio:
        return NOTHING
    s.fired = 1
    return BUY_NO


class ConvictionFire(Fire, frozen=True):
    """The mean size of NO takers' prints over that of YES takers'."""

    ratio: float


class ConvictionRatio(CompiledSignal):
    """NO takers buy more at a time; see the module for the rule.

    Args:
        min_ratio: mean NO size over mean YES size, at least.
        min_trades: prints at least.
        rearm: whether a market starts anew after a fire.

    >>> signal = ConvictionRatio(min_ratio=2, min_trades=2)
    >>> signal.update("A-B-1", 1, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2, 5000, 300, "no").ratio
    3.0

    Raises:
        SignalError: a parameter out of range.
    """

    name = "conviction_ratio"
    step = staticmethod(conviction_ratio_step)
    reads: ClassVar[tuple[str, ...]] = ("size", "taker")
    columns: ClassVar[dict[str, Any]] = {"ratio": pl.Float64}
    fire = ConvictionFire

    def __init__(self, min_ratio: float = 2.0, min_trades: int = 10, rearm: bool = False) -> None:
        rule = (
            number_in(self.name, "min_ratio", min_ratio, 0, 1e6, "a number from 0"),
            whole_in(self.name, "min_trades", min_trades),
            flag_in(self.name, "rearm", rearm),
        )
        super().__init__(
            rule, {"min_ratio": min_ratio, "min_trades": rule[1], "rearm": rearm}, CONVICTION_FIELDS
        )

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        yes, no = seen["yes"], seen["n"] - seen["yes"]
        return {"ratio": (seen["no_size"] / no) / (seen["yes_size"] / yes)}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Contracts bought by YES and by NO takers, in size units; None if no print was seen since the reset."""
        s = self.live(ticker)
        return None if s is None else (int(s["yes_size"]), int(s["no_size"]))


BUY_BACK_FIELDS = np.dtype(
    [
        ("n", "i4"), ("due", "i4"), ("yes", "i4"), ("size", "i8"), ("first_yes", "i4"), ("first_size", "i8"),
        ("second_yes", "i4"), ("second_size", "i8"), ("fired", "u1"),
    ],
    align=True,
)  # fmt: skip
"""Prints and what they were in all; the same of the first half and of the second as of the last doubling."""


@compiled
def buy_back_step(
    s: Any,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    half: int,
    first_ratio: float,
    second_ratio: float,
    rearm: bool,
) -> int:
    """One print; see the module for the rule."""
    if s.fired:
        if not rearm:
            return NOTHING
        s.n = 0
        s.yes = 0
        s.size = 0
        s.fired = 0
    if s.n == 0:
        s.due = half
    s.n += 1
    s.yes += taker_yes
    s.size += size
    if s.n < s.due:
        return NOTHING
    length = s.n // 2
    second_yes = s.yes - s.first_yes
    second_size = s.size - s.first_size
    doubled = s.n > half
    fires = (
        doubled
        and s.first_yes / length > first_ratio
        and second_yes / length < second_ratio
        and second_size > s.first_size
    )
    s.due = 2 * s.n
    if fires:
        s.second_yes = second_yes
        s.second_size = second_size
        s.fired = 1
        return BUY_NO
    s.first_yes = s.yes
    s.first_size = s.size
    return NOTHING


class BuyBackFire(Fire, frozen=True):
    """The YES shares of the two halves, and the mean size of the second over that of the first."""

    first_ratio: float
    second_ratio: float
    size_ratio: float


class BuyBack(CompiledSignal):
    """Takers turned from YES to NO, and grew; see the module for the rule.

    Args:
        half: prints in the shortest half looked at.
        first_ratio: the YES share of the first half must be above.
        second_ratio: the YES share of the second half must be below.
        rearm: whether a market starts anew after a fire.

    >>> signal = BuyBack(half=1)
    >>> signal.update("A-B-1", 1, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2, 5000, 300, "no").size_ratio
    3.0

    Raises:
        SignalError: a parameter out of range.
    """

    name = "buy_back"
    step = staticmethod(buy_back_step)
    reads: ClassVar[tuple[str, ...]] = ("size", "taker")
    columns: ClassVar[dict[str, Any]] = {
        "first_ratio": pl.Float64,
        "second_ratio": pl.Float64,
        "size_ratio": pl.Float64,
    }
    fire = BuyBackFire

    def __init__(
        self, half: int = 10, first_ratio: float = 0.6, second_ratio: float = 0.4, rearm: bool = False
    ) -> None:
        rule = (
            whole_in(self.name, "half", half),
            number_in(self.name, "first_ratio", first_ratio, 0, 1, "a share from 0 to 1"),
            number_in(self.name, "second_ratio", second_ratio, 0, 1, "a share from 0 to 1"),
            flag_in(self.name, "rearm", rearm),
        )
        given = {"half": rule[0], "first_ratio": first_ratio, "second_ratio": second_ratio, "rearm": rearm}
        super().__init__(rule, given, BUY_BACK_FIELDS)

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        length = seen["n"] // 2
        return {
            "first_ratio": seen["first_yes"] / length,
            "second_ratio": seen["second_yes"] / length,
            "size_ratio": seen["second_size"] / seen["first_size"],
        }

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Prints so far, and the number at which the halves are looked at next; None if none was seen."""
        s = self.live(ticker)
        return None if s is None else (int(s["n"]), int(s["due"]))


def dollar_direction(
    tape: Frame, *, min_gap: float = 0.20, min_trades: int = 10, rearm: bool = False
) -> Frame:
    """All fires of dollar direction over a tape; `DollarDirection(…).run(tape)`.

    Parameters and errors are those of `DollarDirection` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.dollar_direction(kl.sample()[0]).columns[-2:]
    ['yes_ratio', 'dollar_ratio']
    """
    return DollarDirection(min_gap, min_trades, rearm).run(tape)


def conviction_ratio(
    tape: Frame, *, min_ratio: float = 2.0, min_trades: int = 10, rearm: bool = False
) -> Frame:
    """All fires of the conviction ratio over a tape; `ConvictionRatio(…).run(tape)`.

    Parameters and errors are those of `ConvictionRatio` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.conviction_ratio(kl.sample()[0]).columns[-1]
    'ratio'
    """
    return ConvictionRatio(min_ratio, min_trades, rearm).run(tape)


def buy_back(
    tape: Frame,
    *,
    half: int = 10,
    first_ratio: float = 0.6,
    second_ratio: float = 0.4,
    rearm: bool = False,
) -> Frame:
    """All fires of buy-back over a tape; `BuyBack(…).run(tape)`.

    Parameters and errors are those of `BuyBack` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.buy_back(kl.sample()[0], half=5).columns[-1]
    'size_ratio'
    """
    return BuyBack(half, first_ratio, second_ratio, rearm).run(tape)
