"""Reverse line movement, as of each print.

Most prints of a market buy YES, but YES has fallen: the signal buys NO.  It fires at the first print at which all of
these conditions hold, each *as of that print, inclusive*:

* there are at least `min_trades` prints since the anchor;
* the share of YES takers in the flow is strictly above `yes_threshold`; the flow counts prints, or contracts with
  `flow="contracts"`;
* the anchor's YES price less this print's is at least `min_drop`;
* this print's YES price is between `min_price` and `max_price`, both inclusive.

The anchor is the first print since tracking began or since the signal re-armed.  After a fire:

===================== =======================================================================================
`rearm=False`         the market never fires again
`rearm=True`          it starts anew: its next print is the anchor, and earlier prints do not count
`rearm="stronger"`    it keeps its anchor, and fires again whenever the share or the drop is strictly above its
                      value at the last fire (and the other conditions hold)
===================== =======================================================================================

`side="yes"` is the mirror image: most prints buy NO, but YES has risen; the signal buys YES.

The name and the rule are those of a published trading system.  Its whole-life version of this signal (last price, mean
price, final counts) claims +17.38 cents, a figure that comes from looking ahead and appears on fair markets too.  In
the system's own report as of the firing print, +0.43 is left after the fee and before the spread, and -1.15 against
markets of like price (`kalshilab.edge.report.claims`).  This module never uses data later than the print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import msgspec
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.builtin.rlm_grid import RlmCells
from kalshilab.signals.builtin.rlm_step import fields_of, rlm_step_of
from kalshilab.signals.engine.compiled_signal import (
    SHARE,
    CompiledSignal,
    cents_in,
    number_in,
    plain,
    side_in,
    whole_in,
)
from kalshilab.signals.engine.kernel import Array
from kalshilab.signals.engine.model import Dtypes, Fire, Frame
from kalshilab.signals.engine.state_pass import CellPass, SingleCellPass

__all__ = ["MarketState", "Rearm", "Rlm", "RlmFire", "rlm"]

Rearm = bool | Literal["stronger"]


class RlmFire(Fire, frozen=True):
    """A fire of reverse line movement."""

    yes_ratio: float
    """Share of YES in the flow since the anchor."""
    drop: int
    """Fall of the YES price since the anchor in 1/10,000 dollar; negative for the mirror image."""
    first_price: int
    """YES price of the anchor in 1/10,000 dollar."""


class MarketState(msgspec.Struct, frozen=True):
    """Live numbers of a market since its anchor, with prices in 1/10,000 dollar.

    `yes_trades` is the part of the flow that bought YES, in prints (with `flow="contracts"` in 1/100 contract), and
    `yes_share` its share of the flow.
    """

    n_trades: int
    yes_trades: int
    first_price: int
    last_price: int
    yes_share: float


class Rlm(CompiledSignal):
    """Buy the outcome whose price rises against most takers; the module's documentation states the rule.

    Args:
        yes_threshold: the share of YES takers (of NO takers for `side="yes"`) must be above this, 0 to 1.
        min_trades: the minimum number of prints since the anchor.
        min_drop: the minimum fall of the YES price since the anchor (rise for `side="yes"`), cents.
        rearm: behaviour of a market after a fire: never fire again, start anew, or fire again when "stronger".
        flow: the unit in which the share is counted, "trades" or "contracts".
        min_price: the minimum YES price of the firing print, cents, inclusive.
        max_price: the maximum YES price of the firing print, cents, inclusive.
        side: the outcome to buy.

    >>> signal = Rlm(yes_threshold=0.5, min_trades=2, min_drop=3)
    >>> signal.update("A-B-1", 1_000, 5000, 100, "yes")
    >>> signal.update("A-B-1", 2_000, 4700, 100, "yes")
    RlmFire(row=1, ts=2000, ticker='A-B-1', side='no', price=4700, n_trades=2, yes_ratio=1.0, drop=300, first_price=5000)

    Raises:
        SignalError: a parameter is out of range; raised before any data is read.
    """

    name = "rlm"
    reads: ClassVar[tuple[str, ...]] = ("price", "taker")
    columns: ClassVar[Dtypes] = {"yes_ratio": pl.Float64, "drop": pl.Int16, "first_price": pl.Int16}
    fire = RlmFire

    def __init__(
        self,
        yes_threshold: float = 0.70,
        min_trades: int = 25,
        min_drop: float = 5,
        rearm: Rearm = False,
        flow: str = "trades",
        min_price: float = 0,
        max_price: float = 100,
        side: str = "no",
    ) -> None:
        rearm = plain(rearm)
        if not isinstance(rearm, bool) and rearm != "stronger":
            raise SignalError(self.name, "rearm", rearm, "False, True or 'stronger'")
        if flow not in ("trades", "contracts"):
            raise SignalError(self.name, "flow", flow, "'trades' or 'contracts'")
        low, high = cents_in(self.name, "min_price", min_price), cents_in(self.name, "max_price", max_price)
        if low > high:
            raise SignalError(self.name, "max_price", max_price, f">= min_price={min_price!r}")
        self.buy_yes = side_in(self.name, "side", side) == "yes"
        by_contracts = flow == "contracts"
        if by_contracts:
            # The class variable holds the common case; this instance needs one more column.
            self.reads = ("price", "size", "taker")  # type: ignore[misc]
        stronger = rearm == "stronger"
        self.step = rlm_step_of(by_contracts, stronger)  # type: ignore[method-assign,misc]
        self.by_contracts, self.once = by_contracts, not rearm
        rule = (
            self.buy_yes,
            number_in(self.name, "yes_threshold", yes_threshold, 0, 1, SHARE),
            whole_in(self.name, "min_trades", min_trades),
            cents_in(self.name, "min_drop", min_drop),
            low,
            high,
            bool(rearm),
        )
        given = {
            "yes_threshold": yes_threshold, "min_trades": rule[2], "min_drop": min_drop, "rearm": rearm,
            "flow": flow, "min_price": min_price, "max_price": max_price, "side": side,
        }  # fmt: skip
        super().__init__(rule, given, fields_of(by_contracts, stronger))

    @classmethod
    def begin_cells(
        cls, signals: Sequence[Self], *, low: int = 0, high: int | None = None, markets: int = 0
    ) -> list[CellPass]:
        """Return fresh passes for the cells of a grid; cells that fire once per market share their state.

        Until they fire, such cells count the same prints.
        """
        groups: dict[object, list[int]] = {}
        for cell, signal in enumerate(signals):
            key = (signal.by_contracts, signal.buy_yes) if signal.once else cell
            groups.setdefault(key, []).append(cell)
        passes: list[CellPass] = []
        for group in groups.values():
            for at in range(0, len(group), RlmCells.MOST):
                cells = group[at : at + RlmCells.MOST]
                members = [signals[c] for c in cells]
                if len(cells) > 1:
                    rules, by_contracts = [s.rule for s in members], members[0].by_contracts
                    passes.append(RlmCells(cells, rules, by_contracts, low=low, high=high, markets=markets))
                else:
                    alone = members[0].begin(low=low, high=high, markets=markets)
                    passes.append(SingleCellPass(cells[0], alone))
        return passes

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        against, flow = seen["against"], seen["flow" if self.by_contracts else "n"]
        return {
            "yes_ratio": (flow - against if self.buy_yes else against) / flow,
            "drop": seen["first"] - seen["last"],
            "first_price": seen["first"],
        }

    if TYPE_CHECKING:
        # The method of the base class, typed; one more call would cost a fifth of a live print's time.
        def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> RlmFire | None: ...

    def state(self, ticker: str) -> MarketState | None:
        """Return the market's live numbers, or `None` without a print since its reset."""
        s = self.live(ticker)
        if s is None:
            return None
        flow, against = int(s["flow" if self.by_contracts else "n"]), int(s["against"])
        yes = flow - against if self.buy_yes else against
        return MarketState(int(s["n"]), yes, int(s["first"]), int(s["last"]), yes / flow)


def rlm(
    tape: Frame,
    *,
    yes_threshold: float = 0.70,
    min_trades: int = 25,
    min_drop: float = 5,
    rearm: Rearm = False,
    flow: str = "trades",
    min_price: float = 0,
    max_price: float = 100,
    side: str = "no",
) -> Frame:
    """Return all fires of reverse line movement over a tape: `Rlm(…).run(tape)`.

    Parameters (`min_drop`, `min_price` and `max_price` in cents) and errors are those of `Rlm` and its `run`.

    >>> import kalshilab as kl
    >>> tape, markets = kl.sample()
    >>> fires = rlm(tape, min_trades=25, min_drop=5)
    >>> fires.columns
    ['row', 'ts', 'ticker', 'side', 'price', 'n_trades', 'yes_ratio', 'drop', 'first_price']
    """
    return Rlm(yes_threshold, min_trades, min_drop, rearm, flow, min_price, max_price, side).run(tape)
