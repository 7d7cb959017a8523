"""The compiled step and its drivers: over frames, sources, shards and single prints."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
