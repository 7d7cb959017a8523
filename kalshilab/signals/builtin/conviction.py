"""Size against direction: dollar direction, conviction ratio, buy-back; each as of its print, and all buy NO.

**Dollar direction**: takers buy YES by count but not by money.  It fires when there are at least `min_trades`
prints and the YES share of prints less the YES share of the dollars that takers paid is strictly above `min_gap`.

**Conviction ratio**: NO takers buy more at a time.  It fires when there are at least `min_trades` prints, with takers
of both outcomes among them, and the mean size of the NO takers is at least `min_ratio` times that of the YES takers.

**Buy-back**: early takers buy YES, later and larger ones NO.  The published system halved a market's prints by their
final number, which is unknown before the end.  As of a print, the halves are those of the prints so far.  They are
compared whenever their number has doubled: at print 2 x `half`, 4 x `half`, 8 x `half` and so on.  It fires there if
the YES share of the first half is strictly above `first_ratio`, that of the second half strictly below
`second_ratio`, and the mean size of the second half strictly larger.

The published system claims +12.05, +11.75 and +10.65 cents for the three, each over whole lives of markets.  None of
them has an audited value; on fair markets the system's method for the last one shows +15.0.
"""

from __future__ import annotations

from typing import ClassVar

import polars as pl

from kalshilab.signals.engine.compiled_signal import SHARE, CompiledSignal, flag_in, number_in, whole_in
from kalshilab.signals.engine.kernel import BUY_NO, Array, Record, compiled
from kalshilab.signals.engine.model import Dtypes, Fire, Frame
from kalshilab.signals.engine.rearming import rearming_step, state_fields

__all__ = [
    "BuyBack", "BuyBackFire", "ConvictionFire", "ConvictionRatio", "DollarDirection", "DollarDirectionFire",
    "buy_back", "buy_back_step", "conviction_ratio", "conviction_ratio_step", "dollar_direction",
    "dollar_direction_step",
]  # fmt: skip

DOLLAR_STATE = {"yes": "i4", "money": "i8", "yes_money": "i8"}


@compiled
def _money_lags_prints(
    s: Record, ts: int, price: int, size: int, taker_yes: bool, min_gap: float, min_trades: int
) -> bool:
    paid = (price if taker_yes else 10_000 - price) * size
    s.yes += taker_yes
    s.money += paid
    s.yes_money += paid * taker_yes
    if s.n < min_trades or s.money == 0:
        return False
    return s.yes / s.n - s.yes_money / s.money > min_gap  # type: ignore[no-any-return]


dollar_direction_step = rearming_step(_money_lags_prints, DOLLAR_STATE, BUY_NO, "dollar_direction")


class DollarDirectionFire(Fire, frozen=True):
    """A fire of dollar direction: the YES share of prints, and of the dollars that takers paid."""

    yes_ratio: float
    dollar_ratio: float


class DollarDirection(CompiledSignal):
    """Prints lean to YES more than dollars do; the module's documentation states the rule.

    Args:
        min_gap: the excess of the YES share of prints over that of dollars must be above this, -1 to 1.
        min_trades: the minimum number of prints.
        rearm: whether a market starts anew after a fire.

    >>> signal = DollarDirection(min_gap=0.2, min_trades=2)
    >>> signal.update("A-B-1", 1, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2, 5000, 900, "no").dollar_ratio
    0.1

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "dollar_direction"
    step = staticmethod(dollar_direction_step)
    reads: ClassVar[tuple[str, ...]] = ("price", "size", "taker")
    columns: ClassVar[Dtypes] = {"yes_ratio": pl.Float64, "dollar_ratio": pl.Float64}
    fire = DollarDirectionFire

    def __init__(self, min_gap: float = 0.20, min_trades: int = 10, rearm: bool = False) -> None:
        gap = number_in(self.name, "min_gap", min_gap, -1, 1, "a difference of shares from -1 to 1")
        count = whole_in(self.name, "min_trades", min_trades)
        given = {"min_gap": min_gap, "min_trades": count, "rearm": flag_in(self.name, "rearm", rearm)}
        super().__init__((given["rearm"], gap, count), given, state_fields(DOLLAR_STATE))

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        return {"yes_ratio": seen["yes"] / seen["n"], "dollar_ratio": seen["yes_money"] / seen["money"]}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Return the money paid so far, in all and for YES, or `None` without a print since the reset."""
        s = self.live(ticker)
        return None if s is None else (int(s["money"]), int(s["yes_money"]))


CONVICTION_STATE = {"yes": "i4", "yes_size": "i8", "no_size": "i8"}


@compiled
def _no_takers_are_larger(
    s: Record, ts: int, price: int, size: int, taker_yes: bool, min_ratio: float, min_trades: int
) -> bool:
    s.yes += taker_yes
    s.yes_size += size * taker_yes
    s.no_size += size * (not taker_yes)
    no = s.n - s.yes
    if s.n < min_trades or s.yes == 0 or no == 0:
        return False
    return (s.no_size / no) / (s.yes_size / s.yes) >= min_ratio  # type: ignore[no-any-return]


conviction_ratio_step = rearming_step(_no_takers_are_larger, CONVICTION_STATE, BUY_NO, "conviction_ratio")


class ConvictionFire(Fire, frozen=True):
    """A fire of the conviction ratio: the mean size of NO takers' prints over that of YES takers'."""

    ratio: float


class ConvictionRatio(CompiledSignal):
    """NO takers buy more at a time; the module's documentation states the rule.

    Args:
        min_ratio: the minimum ratio of mean NO size to mean YES size.
        min_trades: the minimum number of prints.
        rearm: whether a market starts anew after a fire.

    >>> signal = ConvictionRatio(min_ratio=2, min_trades=2)
    >>> signal.update("A-B-1", 1, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2, 5000, 300, "no").ratio
    3.0

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "conviction_ratio"
    step = staticmethod(conviction_ratio_step)
    reads: ClassVar[tuple[str, ...]] = ("size", "taker")
    columns: ClassVar[Dtypes] = {"ratio": pl.Float64}
    fire = ConvictionFire

    def __init__(self, min_ratio: float = 2.0, min_trades: int = 10, rearm: bool = False) -> None:
        ratio = number_in(self.name, "min_ratio", min_ratio, 0, 1e6, "a number >= 0")
        count = whole_in(self.name, "min_trades", min_trades)
        given = {"min_ratio": min_ratio, "min_trades": count, "rearm": flag_in(self.name, "rearm", rearm)}
        super().__init__((given["rearm"], ratio, count), given, state_fields(CONVICTION_STATE))

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        yes, no = seen["yes"], seen["n"] - seen["yes"]
        return {"ratio": (seen["no_size"] / no) / (seen["yes_size"] / yes)}

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Return the size bought by YES and by NO takers, in 1/100 contract, or `None` without a print."""
        s = self.live(ticker)
        return None if s is None else (int(s["yes_size"]), int(s["no_size"]))


BUY_BACK_STATE = {
    "due": "i4", "yes": "i4", "size": "i8", "first_yes": "i4", "first_size": "i8", "second_yes": "i4",
    "second_size": "i8",
}  # fmt: skip
"""The next print to compare at, and sums over all prints and over the two halves as of the last doubling."""


@compiled
def _halves_turned(
    s: Record,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    half: int,
    first_ratio: float,
    second_ratio: float,
) -> bool:
    if s.n == 1:
        s.due = half
    s.yes += taker_yes
    s.size += size
    if s.n < s.due:
        return False
    length = s.n // 2
    s.due = 2 * s.n
    s.second_yes = s.yes - s.first_yes
    s.second_size = s.size - s.first_size
    if (
        s.n > half
        and s.first_yes / length > first_ratio
        and s.second_yes / length < second_ratio
        and s.second_size > s.first_size
    ):
        return True
    s.first_yes = s.yes
    s.first_size = s.size
    return False


buy_back_step = rearming_step(_halves_turned, BUY_BACK_STATE, BUY_NO, "buy_back")


class BuyBackFire(Fire, frozen=True):
    """A fire of buy-back: the YES shares of the halves, and the mean size of the second over that of the first."""

    first_ratio: float
    second_ratio: float
    size_ratio: float


class BuyBack(CompiledSignal):
    """Takers turned from YES to NO and grew larger; the module's documentation states the rule.

    Args:
        half: prints in the shortest half to compare.
        first_ratio: the YES share of the first half must be above this, 0 to 1.
        second_ratio: the YES share of the second half must be below this, 0 to 1.
        rearm: whether a market starts anew after a fire.

    >>> signal = BuyBack(half=1)
    >>> signal.update("A-B-1", 1, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2, 5000, 300, "no").size_ratio
    3.0

    Raises:
        SignalError: a parameter is out of range.
    """

    name = "buy_back"
    step = staticmethod(buy_back_step)
    reads: ClassVar[tuple[str, ...]] = ("size", "taker")
    columns: ClassVar[Dtypes] = dict.fromkeys(("first_ratio", "second_ratio", "size_ratio"), pl.Float64)
    fire = BuyBackFire

    def __init__(
        self, half: int = 10, first_ratio: float = 0.6, second_ratio: float = 0.4, rearm: bool = False
    ) -> None:
        rule = (
            flag_in(self.name, "rearm", rearm),
            whole_in(self.name, "half", half),
            number_in(self.name, "first_ratio", first_ratio, 0, 1, SHARE),
            number_in(self.name, "second_ratio", second_ratio, 0, 1, SHARE),
        )
        given = {"half": rule[1], "first_ratio": first_ratio, "second_ratio": second_ratio, "rearm": rearm}
        super().__init__(rule, given, state_fields(BUY_BACK_STATE))

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        length = seen["n"] // 2
        return {
            "first_ratio": seen["first_yes"] / length,
            "second_ratio": seen["second_yes"] / length,
            "size_ratio": seen["second_size"] / seen["first_size"],
        }

    def state(self, ticker: str) -> tuple[int, int] | None:
        """Return the prints so far and the number at which the halves are compared next, or `None` without a print."""
        s = self.live(ticker)
        return None if s is None else (int(s["n"]), int(s["due"]))


def dollar_direction(
    tape: Frame, *, min_gap: float = 0.20, min_trades: int = 10, rearm: bool = False
) -> Frame:
    """Return all fires of dollar direction over a tape: `DollarDirection(…).run(tape)`.

    Parameters and errors are those of `DollarDirection` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.dollar_direction(kl.sample()[0]).columns[-2:]
    ['yes_ratio', 'dollar_ratio']
    """
    return DollarDirection(min_gap, min_trades, rearm).run(tape)


def conviction_ratio(
    tape: Frame, *, min_ratio: float = 2.0, min_trades: int = 10, rearm: bool = False
) -> Frame:
    """Return all fires of the conviction ratio over a tape: `ConvictionRatio(…).run(tape)`.

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
    """Return all fires of buy-back over a tape: `BuyBack(…).run(tape)`.

    Parameters and errors are those of `BuyBack` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.buy_back(kl.sample()[0], half=5).columns[-1]
    'size_ratio'
    """
    return BuyBack(half, first_ratio, second_ratio, rearm).run(tape)
