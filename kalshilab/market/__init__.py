"""The pure domain of the exchange: values, books, fees, lifecycle.  No input or output."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
