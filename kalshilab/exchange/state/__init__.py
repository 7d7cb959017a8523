"""Exchange state: order books, accounts, fees, listings, trades and candlesticks."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
