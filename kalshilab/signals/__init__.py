"""Signals: one compiled step over per-market state, two drivers.

`signals.rlm(tape, …)` runs the step over a whole tape; `signals.Rlm(…).update(…)` takes one print at a time in
a live session.  Both call the same step, so what research finds is what would have fired.
"""

from __future__ import annotations

from kalshilab.signals.rlm import MarketState, Rlm, rlm
from kalshilab.signals.signal import Fire, Signal

__all__ = ["Fire", "MarketState", "Rlm", "Signal", "rlm"]
