"""Report cards in a notebook: figures, tables and HTML."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
