"""The served exchange: HTTP, WebSocket and pacing on one loopback port."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
