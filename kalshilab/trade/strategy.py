"""Strategies: from a fire to a price and a size, purely.

A strategy owns a signal (the same object research runs over a tape) and turns a fire, together with the book
as it stands, into a `Quote` or into the reason why there is none.  It sends nothing and remembers nothing but
the strength of the entries it was told of.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from kalshilab.config import Settings
from kalshilab.errors import ConfigError
from kalshilab.market.book import Book
from kalshilab.signals import Rlm, RlmFire
from kalshilab.units import PRICE, TickGrid, cents, contracts

__all__ = ["Entry", "Hold", "Quote", "RlmNo", "Strategy", "make_strategy", "no_limit_price"]


class Quote(msgspec.Struct, frozen=True):
    """An order worth sending: `side` "bid" or "ask", YES `price` on the market's grid, `size`."""

    side: str
    price: int
    size: int


class Entry(msgspec.Struct, frozen=True):
    """How strong the signal was when the position was opened."""

    yes_ratio: float
    drop: int


class Strategy(Protocol):
    """What a session needs of a strategy."""

    name: str
    signal: Rlm | None

    def quote(self, fire: RlmFire, book: Book, grid: TickGrid) -> Quote | str:
        """The order for this fire on this book, or why none (a short phrase)."""
        ...

    def reentry(self, fire: RlmFire, entry: Entry | None) -> str | None:
        """For a market already held: None if this fire may add to it, else why not."""
        ...


class Hold:
    """Trades nothing: the session watches and records."""

    name = "hold"
    signal: Rlm | None = None

    def quote(self, fire: RlmFire, book: Book, grid: TickGrid) -> Quote | str:
        return "hold"

    def reentry(self, fire: RlmFire, entry: Entry | None) -> str | None:
        return "hold"


class RlmNo:
    """Reverse line movement: most prints buy YES, yet YES has fallen; buy NO and hold to settlement.

    The order is a NO limit inside the spread, more eager the larger the drop; its size grows with the drop
    by `size_tiers`.  Whether this earns anything is another question: the report card of the signal says so.
    """

    name = "rlm_no"

    def __init__(self, settings: Settings) -> None:
        self.signal: Rlm | None = Rlm(
            yes_threshold=settings.yes_threshold,
            min_trades=settings.min_trades,
            min_drop=settings.min_drop,
            rearm=settings.allow_reentry,
        )
        self._tight, self._normal = cents(settings.tight_spread), cents(settings.normal_spread)
        self._widest, self._high = cents(settings.max_spread), cents(settings.high_drop)
        if not self._tight <= self._normal <= self._widest:
            raise ConfigError(
                "max_spread", settings.max_spread, "tight_spread <= normal_spread <= max_spread"
            )
        self._base = contracts(settings.contracts)
        self._tiers = tuple((cents(drop), factor) for drop, factor in settings.size_tiers)
        self._allow_reentry = settings.allow_reentry

    def size(self, drop: int) -> int:
        """Order size in size units for a drop in price units: whole contracts once the base is at least one."""
        factor = max((d, f) for d, f in self._tiers if d <= max(drop, 0))[1]
        size = int(self._base * factor)
        return size - size % 100 if self._base >= 100 else size

    def quote(self, fire: RlmFire, book: Book, grid: TickGrid) -> Quote | str:
        bid, ask = book.best_no_bid, book.no_ask
        if bid is None or ask is None:
            return "one-sided book"
        if ask - bid > self._widest:
            return "spread"
        price = no_limit_price(
            bid, ask, eager=fire.drop >= self._high, tight=self._tight, normal=self._normal
        )
        # The NO price is rounded down, so the YES price, on whose grid the order lives, is rounded up.
        return Quote("ask", grid.ceil(PRICE - price), self.size(fire.drop))

    def reentry(self, fire: RlmFire, entry: Entry | None) -> str | None:
        if not self._allow_reentry:
            return "held"
        if entry is None:
            # After a restart the strength of the entry may be unknown; then nothing shows this one is stronger.
            return "entry unknown"
        if fire.yes_ratio > entry.yes_ratio or fire.drop > entry.drop:
            return None
        return "not stronger"


def no_limit_price(bid: int, ask: int, *, eager: bool, tight: int, normal: int) -> int:
    """The NO limit price for a NO `bid` and `ask`, in price units, before it is put on the grid.

    ============================ ================ ==============
    spread                       drop below high  drop high
    ============================ ================ ==============
    up to `tight`                ask − 1 cent     ask
    up to `normal`               middle           ask − 1 cent
    above                        bid + 75 %       bid + 85 %
    ============================ ================ ==============

    Never below the bid, which matters where the spread is under a cent.

    >>> no_limit_price(4000, 4200, eager=False, tight=200, normal=400)
    4100
    >>> no_limit_price(4000, 4800, eager=True, tight=200, normal=400)
    4600
    """
    spread = ask - bid
    if spread <= tight:
        price = ask if eager else ask - 100
    elif spread <= normal:
        price = ask - 100 if eager else (ask + bid) // 2
    else:
        # In whole cents of the spread, as the rule is stated; finer grids keep the finer bid.
        share = 85 if eager else 75
        price = bid + (spread * share // 100) // 100 * 100
    return max(price, bid)


def make_strategy(settings: Settings) -> Strategy:
    """The strategy that `settings.strategy` names."""
    return Hold() if settings.strategy == "hold" else RlmNo(settings)
