"""The lake: daily Parquet files, their manifest, transactions, reading and repair."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
