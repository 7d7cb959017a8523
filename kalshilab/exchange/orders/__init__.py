"""Order handling: checks, placement, amendment and order groups."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
