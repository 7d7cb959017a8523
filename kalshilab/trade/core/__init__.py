"""The trader: everything that a session decides, as one synchronous fold over events."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
