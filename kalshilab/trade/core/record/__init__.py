"""The record of a run: its journal folded back to the state that it describes, and its equity curve."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
