"""Reverse line movement, as of each print.

Most prints of a market buy YES, and yet YES has fallen: the signal says NO.  It fires at the first print at
which all of these hold, each *as of that print, inclusive*:

* at least `min_trades` prints since the anchor;
* the share of them whose taker bought YES is strictly above `yes_threshold`;
* the anchor's YES price less this print's is at least `min_drop`.

The anchor is the first print seen, since tracking began or since the signal re-armed.

The name and the rule are those of a published trading system whose whole-life version of this signal (last
price, mean price, final counts) claims +17.38 cents; that figure comes from looking ahead and appears on fair
markets too.  Here nothing later than the print is ever read.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np
import polars as pl

from kalshilab.signals.driver import Base, CompiledSignal, cents_in, flag_in, number_in, whole_in
from kalshilab.signals.kernel import FIRST, LAST, RLM_WIDTH, YES, N, rlm_step
from kalshilab.signals.signal import Fire, Frame

__all__ = ["MarketState", "Rlm", "RlmFire", "rlm"]


class RlmFire(Fire, frozen=True):
    """A fire of reverse line movement: the share of YES takers, and the fall from the anchor in price units."""

    yes_ratio: float
    drop: int
    first_price: int


class MarketState(msgspec.Struct, frozen=True):
    """A market's live numbers since its anchor; prices in price units."""

    n_trades: int
    yes_trades: int
    first_price: int
    last_price: int


class Rlm(CompiledSignal):
    """The signal with its parameters; see the module for the rule.

    Args:
        yes_threshold: share of YES takers that must be exceeded, 0 to 1.
        min_trades: prints since the anchor, at least.
        min_drop: fall of the YES price since the anchor, cents, at least.
        rearm: whether a market starts anew after a fire, with its next print as anchor; else it fires once.

    >>> signal = Rlm(yes_threshold=0.5, min_trades=2, min_drop=3)
    >>> signal.update("A-B-1", 1_000, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2_000, 4700, 100, "yes")
    RlmFire(row=1, ts=2000, ticker='A-B-1', side='no', price=4700, n_trades=2, yes_ratio=1.0, drop=300, first_price=5000)

    Raises:
        SignalError: a parameter out of range, before any data is read.
    """

    name: ClassVar[str] = "rlm"
    width = RLM_WIDTH
    step = staticmethod(rlm_step)

    def __init__(
        self,
        yes_threshold: float = 0.70,
        min_trades: int = 25,
        min_drop: float = 5,
        rearm: bool = False,
    ) -> None:
        rule = (
            number_in(self.name, "yes_threshold", yes_threshold, 0, 1, "a share from 0 to 1"),
            whole_in(self.name, "min_trades", min_trades),
            cents_in(self.name, "min_drop", min_drop),
            flag_in(self.name, "rearm", rearm),
        )
        given = {"yes_threshold": yes_threshold, "min_trades": rule[1], "min_drop": min_drop, "rearm": rearm}
        super().__init__(rule, given)

    def sides(self, seen: Any) -> list[str]:
        return ["no"] * len(seen)

    def own_columns(self, seen: Any, prices: Any) -> dict[str, pl.Series]:
        n, yes, first, last = (seen[:, k] for k in (N, YES, FIRST, LAST))
        return {
            "yes_ratio": pl.Series(yes / np.maximum(n, 1), dtype=pl.Float64),
            "drop": pl.Series(first - last, dtype=pl.Int16),
            "first_price": pl.Series(first, dtype=pl.Int16),
        }

    def make_fire(self, base: Base, seen: Any) -> RlmFire:
        n, yes, first, last, _ = seen[0].tolist()
        return RlmFire(*base, yes / n, first - last, first)

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> RlmFire | None:
        """Take one live print; a fire if it made one.  `size` does not matter to this signal.

        Raises:
            SignalError: `taker` is neither "yes" nor "no".
        """
        return super().update(ticker, ts, price, size, taker)  # type: ignore[return-value]

    def state(self, ticker: str) -> MarketState | None:
        """The market's live numbers, or None if no print of it was seen since its reset."""
        row = self.live_row(ticker)
        return None if row is None else MarketState(row[N], row[YES], row[FIRST], row[LAST])


def rlm(
    tape: Frame,
    *,
    yes_threshold: float = 0.70,
    min_trades: int = 25,
    min_drop: float = 5,
    rearm: bool = False,
) -> Frame:
    """All fires of reverse line movement over a tape; `Rlm(…).run(tape)`.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> fires = rlm(tape, min_trades=25, min_drop=5)
    >>> fires.columns
    ['row', 'ts', 'ticker', 'side', 'price', 'n_trades', 'yes_ratio', 'drop', 'first_price']
    """
    return Rlm(yes_threshold, min_trades, min_drop, rearm).run(tape)
