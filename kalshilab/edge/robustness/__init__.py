"""Robustness: price-matched baseline, perturbed parameters and latency, walk-forward."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
