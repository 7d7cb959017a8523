"""Signals: one compiled step over per-market state, two drivers.

Each signal is a class (`Rlm(…)`) and a function (`rlm(tape, …)`).  The function, or the class's `run`, takes a
whole tape; `update` takes one print at a time in a live session.  Both call the same step, so what research
finds is what would have fired.
"""

from __future__ import annotations

from kalshilab.signals.leverage import LowLeverageVariance, LowLeverageVarianceFire, low_leverage_variance
from kalshilab.signals.price_band import PriceBand, PriceBandFire, price_band
from kalshilab.signals.rlm import MarketState, Rlm, RlmFire, rlm
from kalshilab.signals.signal import Fire, Signal
from kalshilab.signals.whales import WhaleFade, WhaleFire, WhaleFollow, whale_fade, whale_follow

__all__ = [
    "Fire",
    "LowLeverageVariance",
    "LowLeverageVarianceFire",
    "MarketState",
    "PriceBand",
    "PriceBandFire",
    "Rlm",
    "RlmFire",
    "Signal",
    "WhaleFade",
    "WhaleFire",
    "WhaleFollow",
    "low_leverage_variance",
    "price_band",
    "rlm",
    "whale_fade",
    "whale_follow",
]
