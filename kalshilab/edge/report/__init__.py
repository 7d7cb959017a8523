"""The report card: inputs, criteria, verdict, waterfall, equity and published claims."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
