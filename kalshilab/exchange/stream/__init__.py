"""WebSocket channels: subscriptions, messages and their January 2026 form."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
