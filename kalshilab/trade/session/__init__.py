"""The paper session: its run, run folder, snapshot and report."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
