"""Look-ahead: audits, the data a strategy captures, and the forbidden whole-life method for comparison."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
