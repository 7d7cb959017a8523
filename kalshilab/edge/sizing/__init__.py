"""Position sizing: Kelly stakes at a cost, allocation under caps, capacity."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
