"""Ways to fill a lake: downloads, live recording and archive imports."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
