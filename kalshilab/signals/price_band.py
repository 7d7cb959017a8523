"""Price band: buy an outcome when its price comes into a band.

It fires at the first print at which the outcome's price is between `low` and `high` cents, both inclusive;
with re-arming, each time it comes back in after a print outside.  Fires whose price is within the inner band
are of tier "A", the others of tier "B" (the reference system bet more on the former).

"YES between 80 and 90 cents" was claimed to earn +5.1 cents and lost 6.2 when it was measured again.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import polars as pl

from kalshilab.errors import SignalError
from kalshilab.signals.driver import Base, CompiledSignal, cents_in, flag_in
from kalshilab.signals.kernel import BAND_WIDTH, band_step
from kalshilab.signals.signal import Fire, Frame
from kalshilab.units import PRICE

__all__ = ["PriceBand", "PriceBandFire", "price_band"]

TIER = pl.Enum(["A", "B"])


class PriceBandFire(Fire, frozen=True):
    """A price came into the band; `tier` "A" within the inner band."""

    tier: str


class PriceBand(CompiledSignal):
    """The signal with its parameters; see the module for the rule.

    Args:
        side: the outcome whose price is looked at, and bought.
        low, high: the band in cents, inclusive.
        inner: the inner band in cents, inclusive.
        rearm: whether coming back in fires again.

    >>> band = PriceBand(side="yes", low=80, high=90)
    >>> band.update("A-B-1", 1, 7900, 100, "yes")
    >>> band.update("A-B-1", 2, 8500, 100, "yes").tier
    'A'

    Raises:
        SignalError: a parameter out of range, or a band upside down.
    """

    name: ClassVar[str] = "price_band"
    width = BAND_WIDTH
    step = staticmethod(band_step)

    def __init__(
        self,
        side: str = "yes",
        low: float = 80,
        high: float = 90,
        inner: tuple[float, float] = (83, 87),
        rearm: bool = False,
    ) -> None:
        if side not in ("yes", "no"):
            raise SignalError(self.name, "side", side, "yes or no")
        bounds = cents_in(self.name, "low", low), cents_in(self.name, "high", high)
        if bounds[0] > bounds[1]:
            raise SignalError(self.name, "high", high, f"at least low={low!r}")
        self._side = side
        self._inner = cents_in(self.name, "inner", inner[0]), cents_in(self.name, "inner", inner[1])
        # The kernel sees YES prices: a band of NO prices is its mirror image.
        yes = bounds if side == "yes" else (PRICE - bounds[1], PRICE - bounds[0])
        given = {"side": side, "low": low, "high": high, "inner": tuple(inner), "rearm": rearm}
        super().__init__((*yes, flag_in(self.name, "rearm", rearm)), given)

    def sides(self, seen: Any) -> list[str]:
        return [self._side] * len(seen)

    def _tiers(self, prices: Any) -> Any:
        own = prices.astype(np.int32) if self._side == "yes" else PRICE - prices.astype(np.int32)
        return np.where((own >= self._inner[0]) & (own <= self._inner[1]), "A", "B")

    def own_columns(self, seen: Any, prices: Any) -> dict[str, pl.Series]:
        return {"tier": pl.Series(self._tiers(prices), dtype=pl.String).cast(TIER)}

    def make_fire(self, base: Base, seen: Any) -> PriceBandFire:
        return PriceBandFire(*base, str(self._tiers(seen[:, 3])[0]))

    def state(self, ticker: str) -> Any | None:
        """The market's last YES price in price units, or None if no print was seen since its reset."""
        row = self.live_row(ticker)
        return None if row is None else row[3]


def price_band(
    tape: Frame,
    *,
    side: str = "yes",
    low: float = 80,
    high: float = 90,
    inner: tuple[float, float] = (83, 87),
    rearm: bool = False,
) -> Frame:
    """All fires of a price band over a tape; `PriceBand(…).run(tape)`.

    >>> import kalshilab as kl
    >>> kl.signals.price_band(kl.sample()[0], side="yes", low=80, high=90).columns[-1]
    'tier'
    """
    return PriceBand(side, low, high, inner, rearm).run(tape)
