"""A session in a notebook: the live dashboard, and the figures of a finished run."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
