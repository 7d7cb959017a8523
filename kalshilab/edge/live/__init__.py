"""Live monitoring: sequential states of paper trades, and the gap between live and replay."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
