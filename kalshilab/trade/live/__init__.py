"""The live session: the trader's core, driven by sockets, REST and the clock."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
