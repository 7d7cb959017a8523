"""Inference: resampling, clustered tests, power, multiplicity, sequential tests, simulated entries."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
