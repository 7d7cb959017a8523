"""Strategies: signals turned into sized, priced and risk-checked orders."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
