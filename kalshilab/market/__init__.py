"""Domain of the exchange: values, order books, fees, positions and lifecycle.  Pure: no input or output."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
