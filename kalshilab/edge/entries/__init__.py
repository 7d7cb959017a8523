"""From fires to entries: what could be bought, when, at what price, and what it earned."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
