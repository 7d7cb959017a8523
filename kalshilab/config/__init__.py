"""Settings: keywords, environment, `.env`, and the file reader behind them."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
