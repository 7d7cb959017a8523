"""Order flow: recorded tapes, recorded books, synthetic markets, a mirrored feed."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
