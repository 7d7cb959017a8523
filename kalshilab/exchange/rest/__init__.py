"""REST: routing, parameters, rate limits and the answers of each route."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
