"""Strategies: from a fire to a price and a size, purely.

A strategy owns a signal (the same object research runs over a tape) and turns a fire, together with the book
as it stands, into a `Quote` or into the reason why there is none.  It sends nothing and remembers nothing.

=============== ======================================= =====================================================
`strategy=`     buys                                    size
=============== ======================================= =====================================================
`hold`          nothing                                 none
`rlm_no`        NO, on `signals.Rlm`                    `contracts`, times a factor of `size_tiers` by the drop
`whale_fade`    what the whale sold, `signals.WhaleFade` `contracts`
`yes_80_90`     YES, on `signals.PriceBand`             `yes8090_contracts`, more in tier A
`custom`        as the signal says, `signal="module:name"` `contracts`
`rl_model`      as the policy says, `policy="module:name"` `contracts`
=============== ======================================= =====================================================

Whether any of these earns anything is another question: the report card of its signal says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import msgspec

from kalshilab.config.settings import Settings
from kalshilab.errors import ConfigError, KalshilabError, SignalError
from kalshilab.market.book import Book
from kalshilab.signals import Fire, PriceBand, Rlm, RlModel, Signal, WhaleFade
from kalshilab.signals.policy import load_object
from kalshilab.trade.strategies.pricing import limit_price, order_at, spread_of
from kalshilab.units import TickGrid, cents, contracts

__all__ = ["Bought", "Hold", "PolicyStrategy", "Quote", "RlmNo", "Strategy", "WhaleFader", "Yes8090", "make_strategy"]  # fmt: skip


class Quote(msgspec.Struct, frozen=True):
    """An order worth sending: `side` "bid" or "ask", YES `price` on the market's grid, `size`."""

    side: str
    price: int
    size: int


class Strategy(Protocol):
    """What a session needs of a strategy; `why` says why it does nothing, or is empty."""

    name: str
    signal: Signal | None
    why: str

    def quote(self, fire: Any, book: Book, grid: TickGrid) -> Quote | str:
        """The order for this fire on this book, or why none (a short phrase)."""
        ...

    def reentry(self, fire: Any, entry: Any | None) -> str | None:
        """For a market already held, entered on `entry`: None if this fire may add to it, else why not."""
        ...


class Hold:
    """Trades nothing: the session watches and records."""

    name = "hold"
    signal: Signal | None = None
    why = ""

    def quote(self, fire: Fire, book: Book, grid: TickGrid) -> Quote | str:
        return "hold"

    def reentry(self, fire: Fire, entry: Fire | None) -> str | None:
        return "hold"


class Bought:
    """Buys the outcome that a signal's fires name, with a limit inside the spread, and holds it to settlement.

    Args:
        signal: what fires.

    Raises:
        ConfigError: the spreads are not in order.
    """

    name = "custom"
    why = ""

    def __init__(self, settings: Settings, signal: Signal) -> None:
        self.signal: Signal | None = signal
        self._tight, self._normal = cents(settings.tight_spread_cents), cents(settings.normal_spread_cents)
        self._widest, self._high = cents(settings.max_spread_cents), cents(settings.high_drop_cents)
        if not self._tight <= self._normal <= self._widest:
            raise ConfigError(
                "max_spread_cents",
                settings.max_spread_cents,
                "at least normal_spread_cents, which must be at least tight_spread_cents",
            )
        self._base = contracts(settings.contracts)
        self._allow_reentry = settings.allow_reentry

    def size(self, fire: Any) -> int:
        """Order size in size units."""
        return self._base

    def eager(self, fire: Any) -> bool:
        """Whether the price may be nearer to the ask."""
        return False

    def strength(self, fire: Any) -> tuple[float, ...]:
        """Numbers of which one must be larger for a fire to be stronger than another; none: it never is."""
        return ()

    def quote(self, fire: Any, book: Book, grid: TickGrid) -> Quote | str:
        spread = spread_of(book, fire.side)
        if spread is None:
            return "one-sided book"
        bid, ask = spread
        if ask - bid > self._widest:
            return "spread"
        price = limit_price(bid, ask, eager=self.eager(fire), tight=self._tight, normal=self._normal)
        return Quote(*order_at(fire.side, price, grid), self.size(fire))

    def reentry(self, fire: Any, entry: Any | None) -> str | None:
        strength = self.strength(fire)
        if not self._allow_reentry or not strength:
            return "held"
        if entry is None:
            # After a restart the strength of the entry may be unknown; then nothing shows this one is stronger.
            return "entry unknown"
        stronger = any(now > then for now, then in zip(strength, self.strength(entry), strict=True))
        return None if stronger else "not stronger"


class RlmNo(Bought):
    """Reverse line movement: most prints buy YES, yet YES has fallen; buy NO.

    The larger the drop, the more eager the price and the larger the size, by `size_tiers`.  Those tiers were made
    for a claimed edge (+17.38 cents; +0.43 audited, after the fee and before the spread) that grows with the drop
    on fair markets too: see `kalshilab.edge.report.claims`.
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

    def size(self, fire: Any) -> int:
        """For the fire's drop; whole contracts once the base is at least one."""
        factor = max((d, f) for d, f in self._tiers if d <= max(fire.drop, 0))[1]
        size = int(self._base * factor)
        return size - size % 100 if self._base >= 100 else size

    def eager(self, fire: Any) -> bool:
        return bool(fire.drop >= self._high)

    def strength(self, fire: Any) -> tuple[float, ...]:
        return fire.yes_ratio, fire.drop


class WhaleFader(Bought):
    """A large, low-leverage print: buy the other side of it (+5.79 cents claimed, audited there is no value)."""

    name = "whale_fade"

    def __init__(self, settings: Settings) -> None:
        signal = WhaleFade(
            min_value=settings.whale_min_value,
            max_leverage=settings.whale_max_leverage,
            top=settings.whale_top,
            window=settings.whale_window_s,
        )
        super().__init__(settings, signal)

    def strength(self, fire: Any) -> tuple[float, ...]:
        return (fire.value,)


class Yes8090(Bought):
    """YES has come between 80 and 90 cents: buy it, more of it in the inner band (+5.1 cents claimed, -6.2 audited)."""

    name = "yes_80_90"

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            settings, PriceBand(side="yes", low=settings.yes8090_low, high=settings.yes8090_high)
        )
        self._sizes = {
            "A": contracts(settings.yes8090_tier_a_contracts),
            "B": contracts(settings.yes8090_contracts),
        }

    def size(self, fire: Any) -> int:
        """For the fire's tier."""
        return self._sizes[fire.tier]


class PolicyStrategy(Bought):
    """A policy decides at each print; without one it holds, and `why` says so."""

    name = "rl_model"

    def __init__(self, settings: Settings) -> None:
        with _of_somebody("rl_model", "policy", settings.policy):
            signal = RlModel(settings.policy)
        super().__init__(settings, signal)
        self.why = signal.why


@contextmanager
def _of_somebody(strategy: str, setting: str, text: str | None) -> Iterator[None]:
    """Code that is not ours is imported and made here: whatever it raises is a refusal in a sentence."""
    try:
        yield
    except KalshilabError:
        raise
    except Exception as error:
        why = f"something that imports, and is made, without an error ({type(error).__name__}: {error})"
        raise SignalError(strategy, setting, text, why) from error


def _custom(settings: Settings) -> Bought:
    if settings.signal is None:
        raise ConfigError("signal", None, '"module:name" of a signal, for strategy=custom')
    with _of_somebody("custom", "signal", settings.signal):
        found = load_object("custom", "signal", settings.signal)
        if isinstance(found, type):
            found = found()
    missing = [name for name in ("update", "run", "reset", "state") if not callable(getattr(found, name, None))]  # fmt: skip
    if missing:
        raise SignalError(
            "custom", "signal", settings.signal, f"a signal, such as @kalshilab.signal makes; it has no {missing[0]}"
        )  # fmt: skip
    return Bought(settings, found)


def make_strategy(settings: Settings) -> Strategy:
    """The strategy that `settings.strategy` names.

    Raises:
        ConfigError, SignalError: a setting of it, its signal or its policy cannot be used.
    """
    made: dict[str, Any] = {
        "hold": lambda s: Hold(),
        "rlm_no": RlmNo,
        "whale_fade": WhaleFader,
        "yes_80_90": Yes8090,
        "custom": _custom,
        "rl_model": PolicyStrategy,
    }
    strategy: Strategy = made[settings.strategy](settings)
    return strategy
