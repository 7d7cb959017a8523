"""Price band: buy an outcome when its price enters a band.

The signal fires at the first print at which the outcome's price is between `low` and `high` cents, both inclusive;
with re-arming, each time the price enters again after a print outside.  Fires whose price is within the inner band
are of tier "A", the others of tier "B" (the published system bet more on the former).

For "YES between 80 and 90 cents" (YES_80_90) the system claims +5.1 cents (2,110 markets).  Its own later measurement
was -6.2 (1,382 markets), before fee and spread.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.engine.compiled_signal import CompiledSignal, cents_in, flag_in, side_in
from kalshilab.signals.engine.kernel import BUY_NO, BUY_YES, NOTHING, Array, Record, compiled
from kalshilab.signals.engine.model import Dtypes, Fire, Frame
from kalshilab.units import PRICE

__all__ = ["PriceBand", "PriceBandFire", "price_band", "price_band_step"]

TIER = pl.Enum(["A", "B"])
FIELDS = np.dtype([("n", "i4"), ("last", "i2"), ("inside", "u1"), ("fired", "u1")], align=True)


@compiled
def price_band_step(
    s: Record,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    low: int,
    high: int,
    buy_yes: bool,
    rearm: bool,
) -> int:
    """Process one print; fire when the YES price enters [low, high], or starts inside."""
    was_inside = s.inside
    s.n += 1
    s.last = price
    s.inside = (price >= low) & (price <= high)
    if not s.inside or was_inside or (s.fired and not rearm):
        return NOTHING
    s.fired = 1
    return BUY_YES if buy_yes else BUY_NO


class PriceBandFire(Fire, frozen=True):
    """A fire of a price band; its `tier` is "A" within the inner band, else "B"."""

    tier: str


class PriceBand(CompiledSignal):
    """Buy an outcome when its price enters a band; the module's documentation states the rule.

    Args:
        side: the outcome whose price is compared, and which is bought.
        low: the lower end of the band, cents, inclusive.
        high: the upper end of the band, cents, inclusive.
        inner: the inner band, cents, inclusive.
        rearm: whether entering the band again fires again.

    >>> band = PriceBand(side="yes", low=80, high=90)
    >>> band.update("A-B-1", 1, 7900, 100, "yes")
    >>> band.update("A-B-1", 2, 8500, 100, "yes").tier
    'A'

    Raises:
        SignalError: a parameter is out of range, or a lower end is above its upper end.
    """

    name = "price_band"
    step = staticmethod(price_band_step)
    reads: ClassVar[tuple[str, ...]] = ("price",)
    columns: ClassVar[Dtypes] = {"tier": TIER}
    fire = PriceBandFire

    def __init__(
        self,
        side: str = "yes",
        low: float = 80,
        high: float = 90,
        inner: tuple[float, float] = (83, 87),
        rearm: bool = False,
    ) -> None:
        self._side = side_in(self.name, "side", side)
        bounds = cents_in(self.name, "low", low), cents_in(self.name, "high", high)
        if bounds[0] > bounds[1]:
            raise SignalError(self.name, "high", high, f">= low={low!r}")
        pair = tuple(inner) if isinstance(inner, tuple | list) else ()
        if len(pair) != 2:
            raise SignalError(self.name, "inner", inner, "two prices in cents, the lower one first")
        self._inner = cents_in(self.name, "inner", pair[0]), cents_in(self.name, "inner", pair[1])
        if self._inner[0] > self._inner[1]:
            raise SignalError(self.name, "inner", inner, "two prices in cents, the lower one first")
        # The step sees YES prices: a band of NO prices is its mirror image.
        yes = bounds if side == "yes" else (PRICE - bounds[1], PRICE - bounds[0])
        given = {"side": side, "low": low, "high": high, "inner": pair, "rearm": rearm}
        super().__init__((*yes, side == "yes", flag_in(self.name, "rearm", rearm)), given, FIELDS)

    def own(self, seen: Array, prices: Array) -> dict[str, Array]:
        price = prices.astype(np.int32) if self._side == "yes" else PRICE - prices.astype(np.int32)
        return {"tier": np.where((price >= self._inner[0]) & (price <= self._inner[1]), "A", "B")}

    def state(self, ticker: str) -> int | None:
        """Return the market's last YES price in 1/10,000 dollar, or `None` without a print since its reset."""
        s = self.live(ticker)
        return None if s is None else int(s["last"])


def price_band(
    tape: Frame,
    *,
    side: str = "yes",
    low: float = 80,
    high: float = 90,
    inner: tuple[float, float] = (83, 87),
    rearm: bool = False,
) -> Frame:
    """Return all fires of a price band over a tape: `PriceBand(…).run(tape)`.

    Parameters (prices in cents) and errors are those of `PriceBand` and its `run`.

    >>> import kalshilab as kl
    >>> kl.signals.price_band(kl.sample()[0], side="yes", low=80, high=90).columns[-1]
    'tier'
    """
    return PriceBand(side, low, high, inner, rearm).run(tape)
