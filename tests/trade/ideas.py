"""Signals and policies as users write them, valid and invalid."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np

import kalshilab as kl


@kl.signal(state={"run": int}, buy=None)
def three_in_a_row(
    s: Any, ts: int, price: int, size: int, taker_yes: bool, length: int = 3, cheap: int = 4000
) -> int:
    """Buy the outcome that takers have bought `length` times in a row, unless it is cheap."""
    s.run = max(s.run, 0) + 1 if taker_yes else min(s.run, 0) - 1
    if s.run >= length and price >= cheap:
        return kl.signals.BUY_YES
    if s.run <= -length and price <= 10_000 - cheap:
        return kl.signals.BUY_NO
    return 0


def contrary(seen: Any) -> str:
    """Sell after a rise of four cents, and buy after a fall of four cents (a policy)."""
    if seen.n_trades < 5 or abs(seen.price - seen.first_price) < 400:
        return "hold"
    return "sell" if seen.price > seen.first_price else "buy"


not_a_signal = 7


@kl.signal(state={"up": "?", "mean": float, "_last": int}, buy="yes")
def rising(s: Any, ts: int, price: int, size: int, taker_yes: bool) -> bool:
    """Fire at the fifth print, with a boolean and a float column."""
    s.up = price > s._last
    s.mean += (price - s.mean) / s.n
    s._last = price
    return s.n >= 5


class ByHand:
    """A signal in plain Python: only the protocol, with numpy numbers."""

    name = "by_hand"
    parameters: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def run(self, tape: Any) -> Any:
        raise NotImplementedError

    def update(self, ticker: str, ts: int, price: int, size: int, taker: str) -> ByHandFire | None:
        n = self._seen[ticker] = self._seen.get(ticker, 0) + 1
        if n != 10:
            return None
        return ByHandFire(
            np.int64(7), ts, ticker, "yes", np.int16(price), n, np.float32(0.5), np.int64(3), [1, 2]
        )

    def reset(self, ticker: str | None = None) -> None:
        self._seen.clear() if ticker is None else self._seen.pop(ticker, None)

    def state(self, ticker: str) -> int | None:
        return self._seen.get(ticker)


class ByHandFire(kl.signals.Fire, frozen=True):
    """A fire with additional fields of several types."""

    share: Any
    count: Any
    listed: Any


class Sideless(ByHand):
    """A signal whose fires name an unknown outcome."""

    def update(self, *given: Any) -> Any:
        fire = super().update(*given)
        return fire and msgspec.structs.replace(fire, side="YES")


class Demanding:
    """A signal that cannot be constructed without an argument."""

    def __init__(self, needed: int) -> None: ...


def breaks(seen: Any) -> str:
    """Raise an error at the eighth print (a policy with a bug)."""
    return "hold" if seen.n_trades < 8 else str(1 // 0)


def mumbles(seen: Any) -> str:
    """Return an unknown action at the eighth print (a policy)."""
    return "hold" if seen.n_trades < 8 else "perhaps"
