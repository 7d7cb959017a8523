"""A signal and a policy as somebody might bring them to a session."""

from __future__ import annotations

from typing import Any

import kalshilab as kl


@kl.signal(state={"run": int}, buy=None)
def three_in_a_row(
    s: Any, ts: int, price: int, size: int, taker_yes: bool, length: int = 3, cheap: int = 4000
) -> int:
    """Buys what takers have bought `length` times in a row, unless it is cheap."""
    s.run = s.run + 1 if (s.run >= 0) == taker_yes else 0
    if not taker_yes:
        s.run = -abs(s.run) - 1
    if s.run >= length and price >= cheap:
        return kl.signals.BUY_YES
    if s.run <= -length and price <= 10_000 - cheap:
        return kl.signals.BUY_NO
    return 0


def contrary(seen: Any) -> str:
    """A policy: sells after a rise of four cents, buys after such a fall."""
    if seen.n_trades < 5 or abs(seen.price - seen.first_price) < 400:
        return "hold"
    return "sell" if seen.price > seen.first_price else "buy"


not_a_signal = 7
