"""Backtests: the trader's core over history, against the exchange's core in the same process."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
