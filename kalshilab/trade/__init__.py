"""The live session: from public trades to paper orders, journalled, with one known outcome for each intent."""

from kalshilab.lazy import exports

__getattr__, __dir__, __all__ = exports(__name__, __file__)
