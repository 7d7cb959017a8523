"""Strategies: pure functions from a fire to a price and a size.

A strategy has a signal (the same object that research runs over a tape).  It turns a fire and the current book into a
`Quote`, or into the reason for not quoting.  It sends no orders and keeps no state.

================ ========================================= =====================================================
`strategy=`      buys                                      size
================ ========================================= =====================================================
`hold`           nothing                                   0
`rlm_no`         NO, on `signals.Rlm`                      `contracts`, times a factor of `size_tiers` by the drop
`whale_fade`     what the whale sold, `signals.WhaleFade`  `contracts`
`whale_follower` the same, at the whale's own price        5 contracts
`yes_80_90`      YES, on `signals.PriceBand`               `yes8090_contracts`, more in tier A
`paper_test`     the cheaper outcome, and sells it again   5 contracts
`custom`         the signal's side, `signal="module:name"` `contracts`
`rl_model`       the policy's side, `policy="module:name"` `contracts`
================ ========================================= =====================================================

A strategy need not be profitable: see the report card of its signal (`kl.validate`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, Generic, Protocol, TypeVar, runtime_checkable

import msgspec

from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError, KalshilabError, SignalError
from kalshilab.market.book import Book
from kalshilab.signals import (
    BUY_NO,
    BUY_YES,
    NOTHING,
    Fire,
    PriceBand,
    PriceBandFire,
    Rlm,
    RlmFire,
    RlModel,
    Signal,
    WhaleFade,
    WhaleFire,
    signal,
)
from kalshilab.signals.policy import load_object
from kalshilab.trade.strategies.pricing import limit_price, order_at, spread_of
from kalshilab.units import PRICE, TickGrid, cents, contracts

__all__ = [
    "Bought", "Exiting", "Hold", "PaperTest", "PolicyStrategy", "Quote", "RlmNo", "Strategy", "WhaleFader",
    "WhaleFollower", "Yes8090", "make_strategy", "paper_rhythm",
]  # fmt: skip

FIVE: Final = contracts(5)
"""The order size of `whale_follower` and `paper_test`, in size units."""
WHALES: Final = 10
"""The whales of a window that `whale_follower` considers where `whale_top` is None."""

F = TypeVar("F", bound=Fire)


class Quote(msgspec.Struct, frozen=True):
    """An order to send: `side` "bid" or "ask", YES `price` in price units on the market's grid, `size` in size units."""

    side: str
    price: int
    size: int


class Strategy(Protocol):
    """The interface that a session uses; `why` is the reason for which the strategy places no orders, or ""."""

    name: str
    signal: Signal | None
    why: str

    def quote(self, fire: Any, book: Book, grid: TickGrid) -> Quote | str:
        """Return the order for a fire on the current book, or a short reason for not sending one."""
        ...

    def reentry(self, fire: Any, entry: Any | None) -> str | None:
        """Return None if a fire may add to the position that `entry` opened, else the reason against it."""
        ...


@runtime_checkable
class Exiting(Protocol):
    """A strategy that leaves its positions before their settlement."""

    def exit(self, fire: Any, held: int, book: Book, grid: TickGrid) -> Quote | str:
        """Return the order that closes a position, or a short reason for not sending one.

        It is asked instead of `reentry` and `quote` while the strategy has a position and no open order in the market.

        Args:
            fire: the fire.
            held: the position of the strategy in size units, + YES, − NO.
            book: the current book.
            grid: the valid prices of the market.
        """
        ...


class Hold:
    """A strategy without orders: the session watches and records."""

    name = "hold"
    signal: Signal | None = None
    why = ""

    def quote(self, fire: Fire, book: Book, grid: TickGrid) -> Quote | str:
        return "hold"

    def reentry(self, fire: Fire, entry: Fire | None) -> str | None:
        return "hold"


class Bought(Generic[F]):
    """A strategy that buys the side of each fire with a limit inside the spread, and holds it to settlement.

    Args:
        settings: spreads, sizes and re-entry.
        signal: the signal.

    Raises:
        ConfigError: the spreads are not in ascending order.
    """

    name = "custom"
    why = ""

    def __init__(self, settings: Settings, signal: Signal) -> None:
        self.signal: Signal | None = signal
        self._tight, self._normal = cents(settings.tight_spread_cents), cents(settings.normal_spread_cents)
        self._max_spread, self._high = cents(settings.max_spread_cents), cents(settings.high_drop_cents)
        if not self._tight <= self._normal <= self._max_spread:
            raise ConfigError(
                "max_spread_cents",
                settings.max_spread_cents,
                "at least normal_spread_cents, which must be at least tight_spread_cents",
            )
        self._base = contracts(settings.contracts)
        self._allow_reentry = settings.allow_reentry

    def size(self, fire: F) -> int:
        """Return the order size in size units."""
        return self._base

    def eager(self, fire: F) -> bool:
        """Return whether the price may be nearer to the ask."""
        return False

    def strength(self, fire: F) -> tuple[float, ...]:
        """Return the strength components: a fire is stronger if any of them is larger; empty means never."""
        return ()

    def quote(self, fire: F, book: Book, grid: TickGrid) -> Quote | str:
        spread = spread_of(book, fire.side)
        if spread is None:
            return "one-sided book"
        bid, ask = spread
        if ask - bid > self._max_spread:
            return "spread"
        price = limit_price(bid, ask, eager=self.eager(fire), tight=self._tight, normal=self._normal)
        return Quote(*order_at(fire.side, price, grid), self.size(fire))

    def reentry(self, fire: F, entry: F | None) -> str | None:
        strength = self.strength(fire)
        if not self._allow_reentry or not strength:
            return "held"
        if entry is None:
            # After a restart the entry's strength may be unknown, so no fire can be shown to be stronger.
            return "entry unknown"
        stronger = any(now > then for now, then in zip(strength, self.strength(entry), strict=True))
        return None if stronger else "not stronger"


class RlmNo(Bought[RlmFire]):
    """Reverse line movement: most takers buy YES, yet YES has fallen; buy NO.

    A larger drop gives a more eager price and, by `size_tiers`, a larger size.  These tiers were made for a claimed edge
    (+17.38 cents; +0.43 audited, after the fee and before the spread) that grows with the drop on fair markets too: see
    `kalshilab.edge.report.claims`.
    """

    name = "rlm_no"

    def __init__(self, settings: Settings) -> None:
        signal = Rlm(
            yes_threshold=settings.yes_threshold,
            min_trades=settings.min_trades,
            min_drop=settings.min_drop,
            rearm=settings.allow_reentry,
        )
        super().__init__(settings, signal)
        self._tiers = tuple((cents(drop), factor) for drop, factor in settings.size_tiers)

    def size(self, fire: RlmFire) -> int:
        """Return the size for the fire's drop, in whole contracts if the base is at least one contract."""
        factor = max((d, f) for d, f in self._tiers if d <= max(fire.drop, 0))[1]
        size = int(self._base * factor)
        return size - size % 100 if self._base >= 100 else size

    def eager(self, fire: RlmFire) -> bool:
        return fire.drop >= self._high

    def strength(self, fire: RlmFire) -> tuple[float, ...]:
        return fire.yes_ratio, fire.drop


class WhaleFader(Bought[WhaleFire]):
    """Whale fade: after a large, low-leverage print, buy the opposite side (+5.79 cents claimed; not audited)."""

    name = "whale_fade"

    def __init__(self, settings: Settings) -> None:
        signal = WhaleFade(
            min_value=settings.whale_min_value,
            max_leverage=settings.whale_max_leverage,
            top=settings.whale_top,
            window=settings.whale_window_s,
        )
        super().__init__(settings, signal)

    def strength(self, fire: WhaleFire) -> tuple[float, ...]:
        return (fire.value,)


class WhaleFollower(Bought[WhaleFire]):
    """Whale orders of the published system: five contracts of NO at the price that a large buyer of YES has left.

    The name is the one under which the published system selects it; the system trades against the whale all the same.
    The limit is the whale's own price, 100 cents less its YES price, so the order rests where the whale has bought.  A
    market in which something is held or ordered is left alone.
    """

    name = "whale_follower"

    def __init__(self, settings: Settings) -> None:
        signal = WhaleFade(
            min_value=settings.whale_min_value,
            max_leverage=settings.whale_max_leverage,
            top=WHALES if settings.whale_top is None else settings.whale_top,
            window=settings.whale_window_s,
        )
        super().__init__(settings, signal)

    def quote(self, fire: WhaleFire, book: Book, grid: TickGrid) -> Quote | str:
        return Quote(*order_at(fire.side, PRICE - fire.price, grid), FIVE)


class Yes8090(Bought[PriceBandFire]):
    """Price band: buy YES between 80 and 90 cents, more in the inner band (+5.1 cents claimed; -6.2 audited)."""

    name = "yes_80_90"

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings, PriceBand(side="yes", low=settings.yes8090_low, high=settings.yes8090_high)
        )
        self._sizes = {
            "A": contracts(settings.yes8090_tier_a_contracts),
            "B": contracts(settings.yes8090_contracts),
        }

    def size(self, fire: PriceBandFire) -> int:
        """Return the size for the fire's tier."""
        return self._sizes[fire.tier]


@signal(buy=None, state={"_fired": int})
def paper_rhythm(
    s: Any,
    ts: int,
    price: int,
    size: int,
    taker_yes: bool,
    every_us: int = 30_000_000,
    low: int = 2_000,
    high: int = 8_000,
) -> int:
    """Fire for the cheaper outcome at most every 30 seconds while YES is between 20 and 80 cents, both inclusive."""
    if price < low or price > high or (s._fired and ts - s._fired < every_us):
        return NOTHING
    s._fired = ts
    return BUY_YES if price < 5_000 else BUY_NO


class PaperTest:
    """Orders for a test of the whole path: buy five contracts of the cheaper outcome, sell them again, and so on.

    Each order is at the middle of the book, rounded towards its side, so that it usually rests.  The strategy has no
    edge: it is there to see orders, fills, sales and settlements.
    """

    name = "paper_test"
    why = ""

    def __init__(self, settings: Settings) -> None:
        self.signal: Signal | None = paper_rhythm(rearm="every")

    def quote(self, fire: Fire, book: Book, grid: TickGrid) -> Quote | str:
        return _at_middle("bid" if fire.side == "yes" else "ask", FIVE, book, grid)

    def exit(self, fire: Fire, held: int, book: Book, grid: TickGrid) -> Quote | str:
        return _at_middle("ask" if held > 0 else "bid", min(abs(held), FIVE), book, grid)

    def reentry(self, fire: Fire, entry: Fire | None) -> str | None:
        return "held"


def _at_middle(side: str, size: int, book: Book, grid: TickGrid) -> Quote | str:
    bid, ask = book.best_yes_bid, book.yes_ask
    if bid is None or ask is None:
        return "one-sided book"
    middle = (bid + ask) // 2
    return Quote(side, grid.floor(middle) if side == "bid" else grid.ceil(middle), size)


class PolicyStrategy(Bought[Fire]):
    """A strategy whose policy decides at each print; without a policy it places no orders."""

    name = "rl_model"

    def __init__(self, settings: Settings) -> None:
        with _user_code("rl_model", "policy", settings.policy):
            signal = RlModel(settings.policy)
        super().__init__(settings, signal)
        self.why = signal.why


@contextmanager
def _user_code(strategy: str, setting: str, text: str | None) -> Iterator[None]:
    """Convert any error of user code that is imported and constructed here to a SignalError."""
    try:
        yield
    except KalshilabError:
        raise
    except Exception as error:
        rule = f"an object that can be imported and constructed without an error ({type(error).__name__}: {error})"
        raise SignalError(strategy, setting, text, rule) from error


def _custom(settings: Settings) -> Bought[Fire]:
    if settings.signal is None:
        raise ConfigError("signal", None, '"module:name" of a signal, for strategy=custom')
    with _user_code("custom", "signal", settings.signal):
        signal = load_object("custom", "signal", settings.signal)
        if isinstance(signal, type):
            signal = signal()
    missing = [name for name in ("update", "run", "reset", "state") if not callable(getattr(signal, name, None))]  # fmt: skip
    if missing:
        raise SignalError(
            "custom", "signal", settings.signal, f"a signal, such as @kalshilab.signal makes; {missing[0]} is missing"
        )  # fmt: skip
    return Bought(settings, signal)


def make_strategy(settings: Settings) -> Strategy:
    """Return the strategy that `settings.strategy` names.

    Raises:
        ConfigError, SignalError: one of its settings, its signal or its policy is unusable.
    """
    factories: dict[str, Callable[[Settings], Strategy]] = {
        "hold": lambda s: Hold(),
        "rlm_no": RlmNo,
        "whale_fade": WhaleFader,
        "whale_follower": WhaleFollower,
        "yes_80_90": Yes8090,
        "paper_test": PaperTest,
        "custom": _custom,
        "rl_model": PolicyStrategy,
    }
    return factories[settings.strategy](settings)
